//! x86-64: a PC without firmware, entered by the Linux 64-bit boot protocol.
//!
//! # Layout
//! - [`layout`]: addresses and interrupt lines.
//! - [`boot`]: kernel, initramfs and what the kernel reads about the machine.
//! - [`kernel`]: the kernel's file: is it one, and where does it go.
//! - [`mptable`]: processors and interrupt lines, for a kernel without ACPI.
//! - [`vm`], [`processor`]: the state of KVM's VM and vCPUs before the first instruction.
//! - [`cpuid`], [`registers`]: parts of the latter.

mod boot;
mod cpuid;
mod kernel;
pub mod layout;
mod mptable;
mod processor;
mod registers;
mod vm;

pub use boot::{BootError, load};
pub use processor::{CpuError, Processors};
pub use vm::{VmSetupError, set_up_vm};
