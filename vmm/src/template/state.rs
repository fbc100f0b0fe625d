//! What a state file says of a machine.

use serde::{Deserialize, Serialize};

use super::TemplateError;
use super::extents::{self, Extent};
use crate::arch::{VcpuState, VmState};
use crate::config::{MAX_VCPUS, SLOTS, VmConfig};
use crate::devices::virtio::mmio::TransportState;

/// A machine that has stopped, without its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// The host's identity ([`super::host_identity`]).
    pub host: String,
    /// The size of the memory, in MiB.
    pub memory_mib: u32,
    /// What the memory file holds.
    pub extents: Vec<Extent>,
    /// The SHA-256 of the extents' content, one behind the other.
    pub memory_digest: [u8; 32],
    /// KVM's own devices.
    pub vm: VmState,
    /// The vCPUs, by their index.
    pub vcpus: Vec<VcpuState>,
    /// The devices that the guest had, with the index of their slot.
    pub devices: Vec<SavedDevice>,
}

/// A device in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDevice {
    /// The index of the slot.
    pub slot: u8,
    /// The registers that the guest sees, and the queues.
    pub transport: TransportState,
}

impl MachineState {
    /// The size of the memory, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// Checks what doesn't depend on a host or a description.
    pub(super) fn check(&self) -> Result<(), TemplateError> {
        if !extents::are_right(&self.extents, self.memory_size()) {
            return Err(TemplateError::Damaged("it names memory that there isn't"));
        }
        if !(1..=usize::from(MAX_VCPUS)).contains(&self.vcpus.len()) {
            return Err(TemplateError::Damaged("it has no vCPUs, or too many"));
        }
        let rising = self.devices.windows(2).all(|pair| matches!(pair, [a, b] if a.slot < b.slot));
        let within = self.devices.iter().all(|device| usize::from(device.slot) < SLOTS);
        if rising && within { Ok(()) } else { Err(TemplateError::Damaged("it has devices in slots that there aren't")) }
    }

    /// Checks that this is the machine that is described.
    pub(crate) fn matches(&self, config: &VmConfig) -> Result<(), TemplateError> {
        let (saved, wanted) = (self.vcpus.len(), usize::from(config.vcpus));
        if saved != wanted {
            return Err(TemplateError::Vcpus { saved, wanted });
        }
        if self.memory_mib != config.memory_mib {
            return Err(TemplateError::MemorySize { saved: self.memory_mib, wanted: config.memory_mib });
        }
        Ok(())
    }
}
