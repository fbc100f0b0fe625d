//! x86-64: a PC without firmware, entered by the Linux 64-bit boot protocol.
//!
//! # Layout
//! - [`layout`]: addresses and interrupt lines.
//! - [`boot`]: kernel, initramfs and what the kernel reads about the machine.
//! - [`kernel`]: the kernel's file: is it one, and where does it go.
//! - [`mptable`]: processors and interrupt lines, for a kernel without ACPI.
//! - [`vm`], [`processor`]: the state of KVM's VM and vCPUs before the first instruction.
//! - [`cpuid`], [`registers`]: parts of the latter.
//! - [`saved`]: that state at any time, to be saved and restored; [`identity`]: what it needs to find on a host.

mod boot;
mod cpuid;
mod identity;
mod kernel;
pub mod layout;
mod mptable;
mod processor;
mod registers;
mod saved;
mod vm;

pub use boot::{BootError, load};
pub use identity::{host_identity, is_emulated};
pub use processor::{CpuError, Processors};
pub use saved::{StateError, VcpuState, VmState};
pub use vm::{VmSetupError, set_up_vm};
