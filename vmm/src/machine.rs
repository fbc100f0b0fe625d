//! A microVM from its description to its end: what the main thread does.
//!
//! ```text
//! description ─▶ memory ─▶ VM ─▶ devices ─▶ kernel ─▶ vCPUs ─▶ Running ─▶ threads ─▶ wait ─▶ Ended
//! ```
//!
//! Threads: main (here), one per vCPU, one for all devices. vCPU threads run hostile code from their first `KVM_RUN` on.
//! At the end vCPUs are stopped and devices finish what the guest has handed over, its last output above all. When the
//! runtime is gone nobody wants that any more, and the process ends at once, threads and all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::{self, BootError, CpuError};
use crate::cmdline::{CommandLine, CommandLineError};
use crate::config::{BlockConfig, ConfigError, FdIndex, VmConfig};
use crate::control::{self, ControlError, VmmEvent};
use crate::deprivileged;
use crate::devices::exit::{self, ExitPorts};
use crate::devices::i8042::{self, I8042};
use crate::devices::serial::{self, SerialPort};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::blk::{Block, Extent, LayoutError};
use crate::devices::virtio::pmem::Pmem;
use crate::devices::virtio::slot::Slot;
use crate::devices::virtio::thread::DeviceThread;
use crate::devices::virtio::vsock::{Channel, Vsock};
use crate::end::EndReason;
use crate::ending::Ending;
use crate::memory::{self, Files, MemoryError};
use crate::vcpu::{RunningVcpu, Shared, Vcpu, VcpuError};
use crate::vm::{Vm, VmError};

/// How long a kick may take until it is repeated.
const KICK_AGAIN: Duration = Duration::from_millis(1);

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The description.
    #[error("The description of the microVM is wrong")]
    Config(#[from] ConfigError),
    /// A descriptor was used up; [`VmConfig::validate`] excludes it.
    #[error("Descriptor {0} of the description isn't there")]
    Descriptor(usize),
    /// The kernel's command line.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The VM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// A block device.
    #[error(transparent)]
    Block(#[from] LayoutError),
    /// Kernel and initramfs.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A vCPU's state.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// Event descriptors or threads.
    #[error("The VMM can't have the descriptors or threads that it needs")]
    Host(#[from] io::Error),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Receives a description over the control socket, runs the machine and reports its end. `None` when the runtime was gone
/// before that.
#[must_use]
pub fn serve(control: BorrowedFd<'_>) -> Option<EndReason> {
    let reason = match run(control) {
        Ok(Some(reason)) => reason,
        Ok(None) | Err(MachineError::Control(ControlError::Closed)) => return None,
        Err(error) => EndReason::vmm_error(&error),
    };
    control::send_event(control, &VmmEvent::Ended(reason.clone())).ok()?;
    Some(reason)
}

fn run(control: BorrowedFd<'_>) -> Result<Option<EndReason>, MachineError> {
    let (config, descriptors) = control::receive_config(control)?;
    config.validate(descriptors.len())?;
    let machine = build(&config, Descriptors::new(descriptors))?;
    // The place for the jail: everything is open, nothing of the guest has run, and there is only this thread.
    control::send_event(control, &VmmEvent::Running)?;
    let running = machine.start()?;
    running.wait(control)
}

/// A machine before its first instruction. All that a snapshot has to save hangs here: the vCPUs, and `slots` with the
/// devices' state; memory is the runtime's memfd.
#[derive(Debug)]
struct Machine {
    ending: Arc<Ending>,
    vm: Vm,
    slots: Vec<Slot>,
    vcpus: Vec<Vcpu>,
}

fn build(config: &VmConfig, mut descriptors: Descriptors) -> Result<Machine, MachineError> {
    let ending = Arc::new(Ending::new()?);
    let memory = memory::map(descriptors.take(config.memory)?, config.memory_mib)?;
    let mut vm = Vm::new(descriptors.take(config.kvm)?, memory.clone())?;
    let processors = arch::Processors::new(vm.kvm(), config.vcpus)?;
    let mut devices = devices(config, &mut descriptors)?;
    let mut files = Files::behind(&memory, processors.address_bits());
    for pmem in &config.pmems {
        let file = File::from(descriptors.take(pmem.file)?);
        let start = files.place(&pmem.id, file, pmem.length)?;
        devices.push(Box::new(Pmem::new(start, pmem.length)));
    }
    vm.add_files(files.finish()?)?;
    let memory = vm.memory().clone();

    vm.add_ports(exit::BASE, exit::LENGTH, ExitPorts::new(Arc::clone(&ending)))?;
    vm.add_ports(i8042::PORT, i8042::LENGTH, I8042::new(Arc::clone(&ending)))?;
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

    let deprivileged = deprivileged::is_deprivileged();
    let command_line = CommandLine {
        console: config.console.is_some(),
        slots: slots.len(),
        deprivileged,
        extra: &config.extra_command_line,
    };
    let mut kernel = File::from(descriptors.take(config.kernel)?);
    let mut initramfs = File::from(descriptors.take(config.initramfs)?);
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
    Ok(Machine { ending, vm, slots, vcpus })
}

/// The virtio devices in the order of their slots: vsock, then the block devices. Persistent memory goes behind them.
fn devices(config: &VmConfig, descriptors: &mut Descriptors) -> Result<Vec<Box<dyn VirtioDevice>>, MachineError> {
    let channels = config
        .channels
        .iter()
        .map(|channel| Ok(Channel { port: channel.port, stream: descriptors.take(channel.stream)? }));
    let channels = channels.collect::<Result<Vec<_>, MachineError>>()?;
    let mut devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(Vsock::new(protocol::GUEST_CID.into(), channels))];
    let mut files = BTreeMap::new();
    for block in &config.blocks {
        let extents = extents(block, descriptors, &mut files)?;
        devices.push(Box::new(Block::new(&block.id, block.read_only, extents)?));
    }
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

impl Machine {
    fn start(self) -> Result<RunningMachine, MachineError> {
        let ending = Arc::clone(&self.ending);
        let devices = DeviceThread::spawn(&self.slots, move |reason| ending.end(reason))?;
        let vcpus = self.vcpus.into_iter().map(Vcpu::start).collect::<Result<_, _>>()?;
        Ok(RunningMachine { ending: self.ending, vm: self.vm, vcpus, devices })
    }
}

/// A machine that runs.
#[derive(Debug)]
struct RunningMachine {
    ending: Arc<Ending>,
    vm: Vm,
    vcpus: Vec<RunningVcpu>,
    devices: DeviceThread,
}

impl RunningMachine {
    /// Waits for the end of the guest, and until its devices have finished. `None` when the runtime is gone first.
    fn wait(self, control: BorrowedFd<'_>) -> Result<Option<EndReason>, MachineError> {
        let ending = Arc::clone(&self.ending);
        if !wait_for(ending.as_fd(), control)? {
            // The process is about to end, threads and all; nothing of the machine need be waited for.
            mem::forget(self);
            return Ok(None);
        }
        // Finishing can take as long as a slow reader of the guest's output wants, and the runtime can go meanwhile.
        let (finished, finishing) = io::pipe()?;
        thread::Builder::new().name("finish".into()).spawn(move || {
            self.finish();
            drop(finishing);
        })?;
        if !wait_for(finished.as_fd(), control)? {
            return Ok(None);
        }
        Ok(ending.reason().cloned())
    }

    /// Stops the vCPUs and lets the devices finish what the guest has handed over.
    fn finish(self) {
        while self.vcpus.iter().any(|vcpu| !vcpu.has_stopped()) {
            self.vcpus.iter().for_each(RunningVcpu::kick);
            thread::sleep(KICK_AGAIN);
        }
        self.devices.drain();
        drop(self.vm);
    }
}

/// Waits until `event` is readable or at its end. `false` when the runtime is gone first.
fn wait_for(event: BorrowedFd<'_>, control: BorrowedFd<'_>) -> Result<bool, MachineError> {
    loop {
        let mut fds = [PollFd::new(control, PollFlags::POLLIN), PollFd::new(event, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.map_err(io::Error::from)?,
        };
        let [runtime, event] = fds.map(|fd| fd.any().unwrap_or(false));
        // Nothing is expected from the runtime after the description; what comes all the same is thrown away.
        if runtime && !matches!(read(control, &mut [0; 1]), Ok(1) | Err(Errno::EINTR)) {
            return Ok(false);
        }
        if event {
            return Ok(true);
        }
    }
}

/// The descriptors that came with the description, each to be taken once.
#[derive(Debug)]
struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    fn new(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors.into_iter().map(Some).collect())
    }

    fn take(&mut self, FdIndex(index): FdIndex) -> Result<OwnedFd, MachineError> {
        self.0.get_mut(index).and_then(Option::take).ok_or(MachineError::Descriptor(index))
    }
}
