//! A machine from its description to the state before its first instruction.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_ioctls::Cap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::save::Save;
use super::{Machine, MachineError};
use crate::arch::{self, VcpuState};
use crate::cmdline::CommandLine;
use crate::config::{BlockConfig, Boot, FdIndex, SLOTS, Start, TemplateFiles, VmConfig, image_window};
use crate::deprivileged;
use crate::devices::clock::{self, ClockPorts};
use crate::devices::exit::{self, ExitPorts};
use crate::devices::i8042::{self, I8042};
use crate::devices::ready::{self, ReadyPort};
use crate::devices::seed::{self, SeedPorts};
use crate::devices::serial::{self, SerialPort};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::blk::{Block, Extent};
use crate::devices::virtio::pmem::Pmem;
use crate::devices::virtio::slot::Slot;
use crate::devices::virtio::vsock::{Channel, Vsock};
use crate::ending::Ending;
use crate::memory::{self, Files};
use crate::pace::Pace;
use crate::template::{self, TemplateError};
use crate::vcpu::{Shared, Vcpu};
use crate::vm::{Vm, VmError};

/// The slots of the devices that every guest has, where it is a template or comes from one, which holds their state.
const VSOCK_SLOT: u8 = 0;
const IMAGE_SLOT: u8 = 6;
const BALLOON_SLOT: u8 = 7;
const FIXED_SLOTS: [u8; 3] = [VSOCK_SLOT, IMAGE_SLOT, BALLOON_SLOT];
const _: () = assert!(IMAGE_SLOT as usize == SLOTS - 2 && BALLOON_SLOT as usize == SLOTS - 1);

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
    // Where persistent memory can't be had, a template has none.
    let window = start.save.is_some() && vm.kvm().check_extension(Cap::ReadonlyMem);
    let window = window.then(|| image_window(config.memory_mib));
    let devices = devices(config, window, &mut vm, processors.address_bits(), &mut descriptors)?;
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
    let (windows, slots) = connect(&mut vm, devices, start.save.is_some())?;

    let deprivileged = deprivileged::is_deprivileged();
    let slots_told = if start.save.is_some() { SLOTS } else { windows.len() };
    let command_line = CommandLine {
        console: config.console.is_some(),
        slots: slots_told,
        deprivileged,
        extra: &start.extra_command_line,
    };
    let mut kernel = File::from(descriptors.take(start.kernel)?);
    let mut initramfs = File::from(descriptors.take(start.initramfs)?);
    let entry = arch::load(&memory, config.vcpus, slots_told, &mut kernel, &mut initramfs, &command_line.compose()?)?;

    let fds = (0..config.vcpus).map(|index| {
        let fd = vm.create_vcpu(index)?;
        processors.set_up(&fd, index, entry)?;
        Ok(fd)
    });
    let fds = fds.collect::<Result<Vec<_>, MachineError>>()?;
    let buses = Arc::new(mem::take(&mut vm.buses));
    let pace = config.cpu_units.map(|units| Arc::new(Pace::new(units)));
    let shared = Shared { memory, buses, ending: Arc::clone(&ending), deprivileged, pace: pace.clone() };
    let vcpus = (0..).zip(fds).map(|(index, fd)| Vcpu::new(fd, index, shared.clone())).collect();
    let save = start.save.map(|files| -> Result<Save, MachineError> {
        let (state, memory) = (descriptors.take(files.state)?.into(), descriptors.take(files.memory)?.into());
        Ok(Save { state, memory, slots: windows })
    });
    Ok(Machine { ending, vm, slots, vcpus, pace, save: save.transpose()? })
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
    let memory = template::memory::map(&memory, state.memory_size(), &state.extents, &config.written)?;
    let mut vm = Vm::new(descriptors.take(config.kvm)?, memory)?;
    if state.host != template::identity(vm.kvm())? {
        return Err(TemplateError::Host.into());
    }
    let address_bits = state.vcpus.first().map_or(0, VcpuState::address_bits);
    let window = state.devices.iter().any(|device| device.slot == IMAGE_SLOT);
    let window = window.then(|| image_window(config.memory_mib));
    let devices = devices(config, window, &mut vm, address_bits, &mut descriptors)?;
    let memory = vm.memory().clone();

    let ending = Arc::new(Ending::new()?);
    add_ports(&mut vm, &ending)?;
    vm.add_ports(seed::BASE, seed::LENGTH, seed_ports)?;
    let (windows, slots) = connect(&mut vm, devices, true)?;
    for saved in &state.devices {
        let is_it = |(window, _): &(&u8, &Slot)| **window == saved.slot && FIXED_SLOTS.contains(window);
        let (_, slot) = windows.iter().zip(&slots).find(is_it).ok_or(VmError::NoSlot(saved.slot.into()))?;
        slot.restore(&saved.transport)?;
    }

    let fds = (0..config.vcpus).map(|index| vm.create_vcpu(index)).collect::<Result<Vec<_>, _>>()?;
    for (fd, state) in fds.iter().zip(&state.vcpus) {
        state.restore(vm.fd(), fd).map_err(TemplateError::from)?;
    }
    state.vm.restore(vm.fd()).map_err(TemplateError::from)?;
    slots.iter().try_for_each(Slot::wake)?;
    let buses = Arc::new(mem::take(&mut vm.buses));
    let deprivileged = deprivileged::is_deprivileged();
    let pace = config.cpu_units.map(|units| Arc::new(Pace::new(units)));
    let shared = Shared { memory, buses, ending: Arc::clone(&ending), deprivileged, pace: pace.clone() };
    let vcpus = (0..).zip(fds).map(|(index, fd)| Vcpu::new(fd, index, shared.clone())).collect();
    Ok(Machine { ending, vm, slots, vcpus, pace, save: None })
}

/// The ports that every machine has.
fn add_ports(vm: &mut Vm, ending: &Arc<Ending>) -> Result<(), MachineError> {
    vm.add_ports(exit::BASE, exit::LENGTH, ExitPorts::new(Arc::clone(ending)))?;
    vm.add_ports(i8042::PORT, i8042::LENGTH, I8042::new(Arc::clone(ending)))?;
    Ok(vm.add_ports(clock::BASE, clock::LENGTH, ClockPorts::default())?)
}

/// A machine's virtio devices.
struct Devices {
    /// Those in the first windows: vsock, the block devices, persistent memory.
    first: Vec<Box<dyn VirtioDevice>>,
    /// Those that a template has too, and where it has them: the image's persistent memory, and the balloon.
    fixed: Vec<(u8, Box<dyn VirtioDevice>)>,
}

/// The devices, with `window` bytes of persistent memory in the template's place. Persistent memory goes behind the memory; then
/// `vm` has all of its memory, and gets its interrupt controllers.
fn devices(
    config: &VmConfig,
    window: Option<u64>,
    vm: &mut Vm,
    address_bits: u8,
    descriptors: &mut Descriptors,
) -> Result<Devices, MachineError> {
    let channels = config
        .channels
        .iter()
        .map(|channel| Ok(Channel { port: channel.port, stream: descriptors.take(channel.stream)? }));
    let channels = channels.collect::<Result<Vec<_>, MachineError>>()?;
    let mut first: Vec<Box<dyn VirtioDevice>> = vec![Box::new(Vsock::new(protocol::GUEST_CID.into(), channels))];
    let mut block_files = BTreeMap::new();
    for block in &config.blocks {
        let extents = extents(block, descriptors, &mut block_files)?;
        first.push(Box::new(Block::new(&block.id, block.read_only, extents)?));
    }
    let mut files = Files::behind(vm.memory(), address_bits);
    let mut fixed: Vec<(u8, Box<dyn VirtioDevice>)> = Vec::new();
    let mut pmems = config.pmems.as_slice();
    if let Some(length) = window {
        let file = match pmems.split_first() {
            Some((pmem, others)) if pmem.length <= length => {
                pmems = others;
                Some((File::from(descriptors.take(pmem.file)?), pmem.length))
            }
            _ => None,
        };
        fixed.push((IMAGE_SLOT, Box::new(Pmem::new(files.place_window(length, file)?, length))));
    }
    for pmem in pmems {
        let file = File::from(descriptors.take(pmem.file)?);
        let start = files.place(&pmem.id, file, pmem.length)?;
        first.push(Box::new(Pmem::new(start, pmem.length)));
    }
    vm.add_files(files.finish()?)?;
    vm.add_interrupt_controllers()?;
    if !arch::is_emulated() {
        fixed.push((BALLOON_SLOT, Box::new(Balloon::default())));
    }
    Ok(Devices { first, fixed })
}

/// Puts the devices into their windows, and says which those are. In a machine that is a template, or comes from one, the other
/// windows are there and empty.
fn connect(vm: &mut Vm, devices: Devices, template: bool) -> Result<(Vec<u8>, Vec<Slot>), MachineError> {
    let memory = vm.memory().clone();
    let mut placed: Vec<(u8, Box<dyn VirtioDevice>)> = (0..).zip(devices.first).collect();
    for (window, device) in devices.fixed {
        let next = placed.iter().map(|(taken, _)| taken.saturating_add(1)).max().unwrap_or(0);
        placed.push((if template { window } else { next }, device));
    }
    let (windows, devices): (Vec<u8>, Vec<_>) = placed.into_iter().unzip();
    let slots = devices.into_iter().map(|device| Slot::new(device, memory.clone())).collect::<io::Result<Vec<_>>>()?;
    for (window, slot) in windows.iter().zip(&slots) {
        vm.add_slot(usize::from(*window), slot)?;
    }
    if template {
        let empty = (0..SLOTS).filter(|window| !windows.iter().any(|taken| usize::from(*taken) == *window));
        empty.into_iter().try_for_each(|window| vm.add_placeholder(window))?;
    }
    Ok((windows, slots))
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
