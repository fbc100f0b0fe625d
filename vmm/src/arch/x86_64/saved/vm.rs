//! What belongs to the VM: interrupt controllers, clock.

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::StateError;

const CHIPS: [(u32, &str); 3] = [
    (KVM_IRQCHIP_PIC_MASTER, "first interrupt controller"),
    (KVM_IRQCHIP_PIC_SLAVE, "second interrupt controller"),
    (KVM_IRQCHIP_IOAPIC, "IO-APIC"),
];

/// The state of a VM without its vCPUs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
pub struct VmState {
    /// In the order of [`CHIPS`].
    chips: [kvm_irqchip; 3],
    clock: kvm_clock_data,
}

impl VmState {
    /// The state of a VM whose vCPUs have stopped.
    ///
    /// # Errors
    /// When KVM can't tell.
    pub fn save(vm: &VmFd) -> Result<Self, StateError> {
        // KVM_GET_CLOCK: the guest's time stands still from here on, as far as it keeps KVM's.
        let clock = vm.get_clock().map_err(|error| StateError::Get("clock", error))?;
        let mut chips = [kvm_irqchip::default(); 3];
        for (chip, (id, name)) in chips.iter_mut().zip(CHIPS) {
            chip.chip_id = id;
            vm.get_irqchip(chip).map_err(|error| StateError::Get(name, error))?;
        }
        Ok(Self { chips, clock })
    }

    /// Sets the state of a VM whose vCPUs have theirs.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn restore(&self, vm: &VmFd) -> Result<(), StateError> {
        // KVM_SET_IRQCHIP: after the local APICs, since the IO-APIC passes what is pending in it on to them at once.
        for (chip, (id, name)) in self.chips.iter().zip(CHIPS) {
            let chip = kvm_irqchip { chip_id: id, ..*chip };
            vm.set_irqchip(&chip).map_err(|error| StateError::Set(name, error))?;
        }
        // KVM_SET_CLOCK: after the time stamp counters, whose writing makes KVM compute its clock anew. Without flags the
        // clock goes on where it stopped (with KVM_CLOCK_REALTIME it would jump over the time between).
        let clock = kvm_clock_data { clock: self.clock.clock, ..kvm_clock_data::default() };
        vm.set_clock(&clock).map_err(|error| StateError::Set("clock", error))
    }
}
