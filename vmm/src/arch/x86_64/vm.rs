//! A PC's interrupt controllers, in KVM. A PC's interval timer is left out: guests have the timers of their local APICs and KVM's
//! clock, and a host's kernel waits for all CPUs four times when it takes the interval timer of a VM that has ended away.

use kvm_ioctls::{Cap, VmFd};

use super::layout;

/// Why KVM can't be a PC.
#[derive(Debug, thiserror::Error)]
pub enum VmSetupError {
    /// KVM lacks something.
    #[error("This host's KVM lacks {0:?}, without which a microVM can't be run")]
    Lacks(Cap),
    /// KVM's own pages can't be placed.
    #[error("KVM can't place its task state segment")]
    Tss(#[source] kvm_ioctls::Error),
    /// There is no interrupt controller.
    #[error("KVM can't create the interrupt controllers")]
    IrqChip(#[source] kvm_ioctls::Error),
}

/// Prepares `vm` for its vCPUs, which must not exist yet.
///
/// # Errors
/// When KVM lacks a part.
pub fn set_up_vm(vm: &VmFd) -> Result<(), VmSetupError> {
    let needed = [Cap::Irqchip, Cap::TscDeadlineTimer, Cap::SetTssAddr, Cap::ExtCpuid];
    if let Some(missing) = needed.into_iter().find(|cap| !vm.check_extension(*cap)) {
        return Err(VmSetupError::Lacks(missing));
    }
    vm.set_tss_address(layout::KVM_TSS).map_err(VmSetupError::Tss)?;
    vm.create_irq_chip().map_err(VmSetupError::IrqChip)
}
