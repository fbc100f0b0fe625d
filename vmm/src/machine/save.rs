//! Saving a machine that has stopped ([`crate::template`]).

use std::fs::File;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::MachineError;
use crate::arch::{VcpuState, VmState};
use crate::devices::virtio::SuspendError;
use crate::devices::virtio::slot::Slot;
use crate::template::state::{MachineState, SavedDevice};
use crate::template::{self, TemplateError};
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// Where a machine is saved.
#[derive(Debug)]
pub(super) struct Save {
    /// The file for everything but the memory.
    pub state: File,
    /// The file for the memory.
    pub memory: File,
    /// The slots of the devices, by their place among the machine's.
    pub slots: Vec<u8>,
}

/// Why a machine can't be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A vCPU's thread is gone, or its memory isn't a file.
    #[error("A part of the machine that was to be saved is gone")]
    Gone,
    /// A device.
    #[error(transparent)]
    Device(#[from] SuspendError),
}

/// Saves a machine. Its vCPUs and its device thread have stopped.
pub(super) fn save(vm: &Vm, slots: &[Slot], mut vcpus: Vec<Vcpu>, to: &Save) -> Result<(), MachineError> {
    // All instructions first: they can write memory, and interrupt other vCPUs.
    vcpus.iter_mut().try_for_each(Vcpu::finish_instruction)?;
    // Then the devices, which give buffers back and interrupt.
    let device = |(&slot, device): (&u8, &Slot)| -> Result<SavedDevice, SuspendError> {
        Ok(SavedDevice { slot, transport: device.save()? })
    };
    let devices = to.slots.iter().zip(slots).map(device).collect::<Result<_, _>>().map_err(SaveError::Device)?;
    // Then KVM's own devices: their clock stands still before the vCPUs', so that no deadline passes unseen.
    let state = VmState::save(vm.fd()).map_err(TemplateError::from)?;
    let states = vcpus.iter().map(|vcpu| VcpuState::save(vm.kvm(), vm.fd(), vcpu.fd()));
    let states = states.collect::<Result<Vec<_>, _>>().map_err(TemplateError::from)?;
    // The memory last: nothing writes it any more.
    let memory = vm.memory();
    let size: u64 = memory.iter().map(GuestMemoryRegion::len).sum();
    let file = memory.iter().find_map(|region| region.file_offset()).ok_or(SaveError::Gone)?.file();
    let (extents, memory_digest) = template::memory::write(file, size, &to.memory)?;
    let state = MachineState {
        host: template::identity(vm.kvm())?,
        memory_mib: u32::try_from(size >> 20).unwrap_or(u32::MAX),
        extents,
        memory_digest,
        vm: state,
        vcpus: states,
        devices,
    };
    Ok(template::write(&to.state, &state)?)
}
