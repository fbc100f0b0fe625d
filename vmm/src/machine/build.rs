//! A machine from its description to the state before its first instruction.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::save::Save;
use super::{Machine, MachineError};
use crate::arch::{self, VcpuState};
use crate::cmdline::CommandLine;
use crate::config::{BlockConfig, Boot, FdIndex, SLOTS, Start, TemplateFiles, VmConfig};
use crate::deprivileged;
use crate::devices::clock::{self, ClockPorts};
use crate::devices::exit::{self, ExitPorts};
use crate::devices::i8042::{self, I8042};
use crate::devices::ready::{self, ReadyPort};
use crate::devices::seed::{self, SeedPorts};
use crate::devices::serial::{self, SerialPort};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::blk::{Block, Extent};
use crate::devices::virtio::pmem::Pmem;
use crate::devices::virtio::slot::Slot;
use crate::devices::virtio::vsock::{Channel, Vsock};
use crate::ending::Ending;
use crate::memory::{self, Files};
use crate::template::{self, TemplateError};
use crate::vcpu::{Shared, Vcpu};
use crate::vm::{Vm, VmError};

/// The slots of the devices that every guest has and that a template holds: vsock.
const FIXED_SLOTS: [u8; 1] = [0];

/// Builds the machine.
pub(super) fn build(
    config: &VmConfig,
    descriptors: Descriptors,
    seed_ports: SeedPorts,
) -> Result<Machine, MachineError> {
    match &config.start {
        Start::Boot(start) => boot(config, start, descriptors, seed_ports),
        Start::Restore(files) => restore(config, *files, descriptors, seed_ports),
    }
}

/// A machine whose kernel boots.
fn boot(
    config: &VmConfig,
    start: &Boot,
    mut descriptors: Descriptors,
    seed_ports: SeedPorts,
) -> Result<Machine, MachineError> {
    let memory = memory::map(descriptors.take(start.memory)?, config.memory_mib)?;
    let mut vm = Vm::new(descriptors.take(config.kvm)?, memory)?;
    let processors = arch::Processors::new(vm.kvm(), config.vcpus)?;
    let devices = devices(config, &mut vm, processors.address_bits(), &mut descriptors)?;
    let memory = vm.memory().clone();

    let ending = Arc::new(Ending::new()?);
    add_ports(&mut vm, &ending)?;
    if start.save.is_some() {
        vm.add_ports(ready::PORT, ready::LENGTH, ReadyPort::new(Arc::clone(&ending)))?;
    } else {
        vm.add_ports(seed::BASE, seed::LENGTH, seed_ports)?;
    }
    if let Some(console) = config.console {
        let line = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        vm.connect_line(&line, serial::GSI)?;
        let console = File::from(descriptors.take(console)?);
        vm.add_ports(serial::BASE, serial::LENGTH, SerialPort::new(line, console))?;
    }
    let slots = devices.into_iter().map(|device| Slot::new(device, memory.clone())).collect::<io::Result<Vec<_>>>()?;
    for (index, slot) in slots.iter().enumerate() {
        vm.add_slot(index, slot)?;
    }
    let windows = if start.save.is_some() { SLOTS } else { slots.len() };
    (slots.len()..windows).try_for_each(|index| vm.add_placeholder(index))?;

    let deprivileged = deprivileged::is_deprivileged();
    let command_line = CommandLine {
        console: config.console.is_some(),
        slots: windows,
        deprivileged,
        extra: &start.extra_command_line,
    };
    let mut kernel = File::from(descriptors.take(start.kernel)?);
    let mut initramfs = File::from(descriptors.take(start.initramfs)?);
    let entry = arch::load(&memory, config.vcpus, &mut kernel, &mut initramfs, &command_line.compose()?)?;

    let fds = (0..config.vcpus).map(|index| {
        let fd = vm.create_vcpu(index)?;
        processors.set_up(&fd, index, entry)?;
        Ok(fd)
    });
    let fds = fds.collect::<Result<Vec<_>, MachineError>>()?;
    let buses = Arc::new(mem::take(&mut vm.buses));
    let shared = Shared { memory, buses, ending: Arc::clone(&ending), deprivileged };
    let vcpus = (0..).zip(fds).map(|(index, fd)| Vcpu::new(fd, index, shared.clone())).collect();
    let save = start.save.map(|files| -> Result<Save, MachineError> {
        let (state, memory) = (descriptors.take(files.state)?.into(), descriptors.take(files.memory)?.into());
        Ok(Save { state, memory, slots: FIXED_SLOTS.into() })
    });
    Ok(Machine { ending, vm, slots, vcpus, save: save.transpose()? })
}

/// A machine that goes on where another was saved. The order is that of `boot`, with the saved state in the kernel's place.
fn restore(
    config: &VmConfig,
    files: TemplateFiles,
    mut descriptors: Descriptors,
    seed_ports: SeedPorts,
) -> Result<Machine, MachineError> {
    let state = template::read(&descriptors.take(files.state)?.into())?;
    state.matches(config)?;
    let memory = File::from(descriptors.take(files.memory)?);
    let memory = template::memory::map(&memory, state.memory_size(), &state.extents)?;
    let mut vm = Vm::new(descriptors.take(config.kvm)?, memory)?;
    if state.host != template::identity(vm.kvm())? {
        return Err(TemplateError::Host.into());
    }
    let address_bits = state.vcpus.first().map_or(0, VcpuState::address_bits);
    let devices = devices(config, &mut vm, address_bits, &mut descriptors)?;
    let memory = vm.memory().clone();

    let ending = Arc::new(Ending::new()?);
    add_ports(&mut vm, &ending)?;
    vm.add_ports(seed::BASE, seed::LENGTH, seed_ports)?;
    let slots = devices.into_iter().map(|device| Slot::new(device, memory.clone())).collect::<io::Result<Vec<_>>>()?;
    for (index, slot) in slots.iter().enumerate() {
        vm.add_slot(index, slot)?;
    }
    (slots.len()..SLOTS).try_for_each(|index| vm.add_placeholder(index))?;
    for saved in &state.devices {
        let slot = FIXED_SLOTS.contains(&saved.slot).then(|| slots.get(usize::from(saved.slot))).flatten();
        slot.ok_or(VmError::NoSlot(saved.slot.into()))?.restore(&saved.transport)?;
    }

    let fds = (0..config.vcpus).map(|index| vm.create_vcpu(index)).collect::<Result<Vec<_>, _>>()?;
    for (fd, state) in fds.iter().zip(&state.vcpus) {
        state.restore(vm.fd(), fd).map_err(TemplateError::from)?;
    }
    state.vm.restore(vm.fd()).map_err(TemplateError::from)?;
    slots.iter().try_for_each(Slot::wake)?;
    let buses = Arc::new(mem::take(&mut vm.buses));
    let deprivileged = deprivileged::is_deprivileged();
    let shared = Shared { memory, buses, ending: Arc::clone(&ending), deprivileged };
    let vcpus = (0..).zip(fds).map(|(index, fd)| Vcpu::new(fd, index, shared.clone())).collect();
    Ok(Machine { ending, vm, slots, vcpus, save: None })
}

/// The ports that every machine has.
fn add_ports(vm: &mut Vm, ending: &Arc<Ending>) -> Result<(), MachineError> {
    vm.add_ports(exit::BASE, exit::LENGTH, ExitPorts::new(Arc::clone(ending)))?;
    vm.add_ports(i8042::PORT, i8042::LENGTH, I8042::new(Arc::clone(ending)))?;
    Ok(vm.add_ports(clock::BASE, clock::LENGTH, ClockPorts::default())?)
}

/// The virtio devices in the order of their slots: vsock, the block devices, then persistent memory, which goes behind the
/// memory.
fn devices(
    config: &VmConfig,
    vm: &mut Vm,
    address_bits: u8,
    descriptors: &mut Descriptors,
) -> Result<Vec<Box<dyn VirtioDevice>>, MachineError> {
    let channels = config
        .channels
        .iter()
        .map(|channel| Ok(Channel { port: channel.port, stream: descriptors.take(channel.stream)? }));
    let channels = channels.collect::<Result<Vec<_>, MachineError>>()?;
    let mut devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(Vsock::new(protocol::GUEST_CID.into(), channels))];
    let mut block_files = BTreeMap::new();
    for block in &config.blocks {
        let extents = extents(block, descriptors, &mut block_files)?;
        devices.push(Box::new(Block::new(&block.id, block.read_only, extents)?));
    }
    let mut files = Files::behind(vm.memory(), address_bits);
    for pmem in &config.pmems {
        let file = File::from(descriptors.take(pmem.file)?);
        let start = files.place(&pmem.id, file, pmem.length)?;
        devices.push(Box::new(Pmem::new(start, pmem.length)));
    }
    vm.add_files(files.finish()?)?;
    Ok(devices)
}

/// The extents of a block device; `files` are those that have been taken for this or an earlier one.
fn extents(
    block: &BlockConfig,
    descriptors: &mut Descriptors,
    files: &mut BTreeMap<FdIndex, Arc<File>>,
) -> Result<Vec<Extent>, MachineError> {
    let mut extents = Vec::with_capacity(block.extents.len());
    for extent in &block.extents {
        let file = match files.get(&extent.file) {
            Some(file) => Arc::clone(file),
            None => Arc::new(File::from(descriptors.take(extent.file)?)),
        };
        files.insert(extent.file, Arc::clone(&file));
        extents.push(Extent { file, offset: extent.offset, length: extent.length });
    }
    Ok(extents)
}

/// The descriptors that came with the description, each to be taken once.
#[derive(Debug)]
pub(super) struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    pub(super) fn new(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors.into_iter().map(Some).collect())
    }

    pub(super) fn take(&mut self, FdIndex(index): FdIndex) -> Result<OwnedFd, MachineError> {
        self.0.get_mut(index).and_then(Option::take).ok_or(MachineError::Descriptor(index))
    }
}
