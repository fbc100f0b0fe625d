//! What depends on the architecture of host and guest: where things are, how a kernel is started, how a vCPU begins.
//!
//! The rest of the VMM uses the names that this module re-exports; another architecture brings modules with the same
//! functions.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    BootError, CpuError, Processors, StateError, VcpuState, VmSetupError, VmState, host_identity, is_emulated, layout,
    load, set_up_vm,
};
