//! The agent: PID 1 of a taskrun guest.
//!
//! It reaches the host over vsock and takes one job. The job may be a task: it mounts the task's root, runs the command in a
//! container of its own, passes its streams and signals on and reports how it ended. Or it is an image, which it unpacks from
//! one block device to another. Then it powers the guest off.
//!
//! Two rules shape it. Everything in the image is hostile, so nothing here panics, follows a path out of the root file
//! system or holds memory without bound. And a guest's kernel can be slow (a host whose KVM is deprivileged takes 0.3 ms
//! for a system call and 0.25 s for a fork), so a task takes one thread, one `clone` and few system calls. Unpacking has
//! three threads, since its work is in user mode.
//!
//! # Layout
//! - [`init`]: what PID 1 owes the machine: its file systems, its console, power off.
//! - [`ports`], [`renewal`], [`slots`]: how a guest that was saved goes on as one of its own: its randomness, time and devices.
//! - [`vsock`], [`control`]: the connections to the host and the messages on one of them.
//! - [`unpack`]: from layers to an EROFS image.
//! - [`task`]: the story of a job, in order.
//! - [`root`]: the root file system of a task.
//! - [`container`]: the command's namespaces, mounts, devices, user and limits.
//! - [`companion`]: the process that becomes the command, made ahead.
//! - [`stdio`]: its standard streams.
//! - [`supervise`]: the loop from its start to its end.
//! - [`failure`]: how errors become what the user reads.
//! - [`sys`]: the system calls that neither std nor nix has.

pub mod companion;
pub mod container;
pub mod control;
pub mod failure;
pub mod init;
pub mod ports;
pub mod renewal;
pub mod root;
pub mod slots;
pub mod stdio;
pub mod supervise;
pub mod sys;
pub mod task;
pub mod unpack;
pub mod vsock;
