//! A PC's interrupt controllers and timer, in KVM.

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
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
    /// There is no timer.
    #[error("KVM can't create the interval timer")]
    Pit(#[source] kvm_ioctls::Error),
}

/// Prepares `vm` for its vCPUs, which must not exist yet.
///
/// # Errors
/// When KVM lacks a part.
pub fn set_up_vm(vm: &VmFd) -> Result<(), VmSetupError> {
    let needed = [Cap::Irqchip, Cap::Pit2, Cap::SetTssAddr, Cap::ExtCpuid];
    if let Some(missing) = needed.into_iter().find(|cap| !vm.check_extension(*cap)) {
        return Err(VmSetupError::Lacks(missing));
    }
    vm.set_tss_address(layout::KVM_TSS).map_err(VmSetupError::Tss)?;
    vm.create_irq_chip().map_err(VmSetupError::IrqChip)?;
    // KVM answers port 0x61 too: kernels calibrate their clocks with the speaker's timer.
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
    vm.create_pit2(pit).map_err(VmSetupError::Pit)
}
