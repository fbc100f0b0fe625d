//! The agent: PID 1 of a taskrun guest.
//!
//! It reaches the host over vsock, takes one task, unpacks the image, runs the command in a container of its own, passes
//! its streams and signals on, reports how it ended, and powers the guest off.
//!
//! Two rules shape it. Everything in the image is hostile, so nothing here panics, follows a path out of the root file
//! system or holds memory without bound. And a guest's kernel can be slow (a host whose KVM is deprivileged takes 0.3 ms
//! for a system call and 0.25 s for a fork), so there is one thread, one `clone` and few system calls.
//!
//! # Layout
//! - [`init`]: what PID 1 owes the machine: its file systems, its console, power off.
//! - [`vsock`], [`control`]: the connections to the host and the messages on one of them.
//! - [`unpack`]: from layers to a root file system.
//! - [`task`]: the story of a task, in order.
//! - [`container`]: the command's namespaces, mounts, devices, user and limits.
//! - [`stdio`]: its standard streams.
//! - [`supervise`]: the loop from its start to its end.
//! - [`failure`]: how errors become what the user reads.
//! - [`sys`]: the system calls that neither std nor nix has.

pub mod container;
pub mod control;
pub mod failure;
pub mod init;
pub mod stdio;
pub mod supervise;
pub mod sys;
pub mod task;
pub mod unpack;
pub mod vsock;
