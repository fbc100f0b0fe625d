//! The state of vCPUs and of KVM's own devices, to be saved and restored (Linux `Documentation/virt/kvm/api.rst`; the
//! sections are named by their ioctls).
//!
//! A state comes from a file and is taken as KVM takes it: KVM checks what it is given, and what it refuses is an error
//! here. Nothing in it is an address or a length that this process uses.
//!
//! # Layout
//! - [`vcpu`]: a vCPU; [`msrs`]: its model-specific registers; [`xsave`]: its FPU.
//! - [`vm`]: interrupt controllers, clock.

mod msrs;
mod vcpu;
mod vm;
mod xsave;

pub use vcpu::VcpuState;
pub use vm::VmState;

/// Why a state can't be had or set.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// KVM does not tell.
    #[error("KVM can't tell the state of the {0}")]
    Get(&'static str, #[source] kvm_ioctls::Error),
    /// KVM refuses.
    #[error("KVM can't set the state of the {0}")]
    Set(&'static str, #[source] kvm_ioctls::Error),
    /// KVM takes another value only.
    #[error("KVM can't set a vCPU's model-specific register {index:#x} to {value:#x}")]
    Msr {
        /// The register.
        index: u32,
        /// The value that it had.
        value: u64,
    },
    /// There are more entries than KVM takes.
    #[error("The state of a vCPU has too many {0}")]
    TooMany(&'static str),
    /// The FPU has parts that this host's doesn't.
    #[error("The state of a vCPU's FPU has {saved} bytes, and this host has room for {room}")]
    Fpu {
        /// The bytes that were saved.
        saved: usize,
        /// The bytes that KVM takes.
        room: usize,
    },
    /// The clocks run differently.
    #[error("The saved guest's time stamp counter runs at {saved} kHz, and this host's at {here} kHz")]
    TscRate {
        /// When it was saved.
        saved: u32,
        /// Now.
        here: u32,
    },
}
