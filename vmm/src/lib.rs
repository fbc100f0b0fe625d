//! The virtual machine monitor of taskrun: one microVM per process.
//!
//! The `taskrun-vmm` process opens nothing itself: KVM, guest memory, kernel, disks and sockets are descriptors that the
//! runtime hands to it with a [`config::VmConfig`]. Everything that the guest controls (addresses, lengths, queue
//! indices, packets) is hostile; nothing it does may panic, block or grow this process without bound.
//!
//! # Layout
//! - [`config`], [`control`], [`end`]: what the runtime says to a VMM and hears from it.
//! - [`machine`]: the main thread: a microVM from its description to its end.
//! - [`arch`]: what depends on the CPU's architecture: addresses, boot, the first state of a vCPU.
//! - [`vm`], [`memory`], [`cmdline`]: the parts that [`machine`] joins.
//! - [`template`]: a guest that was saved, and others that start where it stopped.
//! - [`vcpu`], [`exits`], [`pace`], [`ending`]: running vCPUs, how fast, and how a guest's end becomes known.
//! - [`bus`]: devices at addresses, each seeing only offsets.
//! - [`devices`]: serial, i8042, the ports by which guest and VMM tell each other something, and virtio over MMIO.
//! - [`random`]: the host's randomness.
//! - [`deprivileged`]: the remedies for hosts whose KVM has no hardware virtualisation below it; off elsewhere.

pub mod arch;
pub mod bus;
pub mod cmdline;
pub mod config;
pub mod control;
pub mod deprivileged;
pub mod devices;
pub mod end;
pub mod ending;
pub mod exits;
pub mod machine;
pub mod memory;
pub mod pace;
pub mod random;
pub mod template;
pub mod vcpu;
pub mod vm;
