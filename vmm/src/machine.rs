//! A microVM from its description to its end: what the main thread does.
//!
//! ```text
//! description ─▶ memory ─▶ VM ─▶ devices ─▶ kernel ─▶ vCPUs ─▶ Running ─▶ threads ─▶ wait ─▶ Ended
//! ```
//!
//! Building is [`build`]'s part. Threads: main (here), one per vCPU, one for all devices. vCPU threads run hostile code from their first `KVM_RUN` on.
//! At the end vCPUs are stopped and devices finish what the guest has handed over, its last output above all. When the
//! runtime is gone nobody wants that any more, and the process ends at once, threads and all.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::build::Descriptors;
use self::save::Save;
use crate::arch::{BootError, CpuError};
use crate::cmdline::CommandLineError;
use crate::config::ConfigError;
use crate::control::{self, ControlError, Request, VmmEvent};
use crate::devices::seed::SeedPorts;
use crate::devices::virtio::blk::LayoutError;
use crate::devices::virtio::mmio::RestoreError;
use crate::devices::virtio::slot::Slot;
use crate::devices::virtio::thread::DeviceThread;
use crate::end::EndReason;
use crate::ending::Ending;
use crate::memory::MemoryError;
use crate::pace::Pace;
use crate::template::TemplateError;
use crate::vcpu::{RunningVcpu, Vcpu, VcpuError};
use crate::vm::{Vm, VmError};

mod build;
mod save;

pub use save::SaveError;

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
    /// A template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The machine can't be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A device can't be restored.
    #[error(transparent)]
    Device(#[from] RestoreError),
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
    let own = control.try_clone_to_owned()?;
    // A runtime that is gone need not be told.
    let seed_ports = SeedPorts::new(move || drop(control::send_event(own.as_fd(), &VmmEvent::Seeded)));
    let machine = build::build(&config, Descriptors::new(descriptors), seed_ports)?;
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
    /// The share of processors that the vCPUs hold themselves to.
    pace: Option<Arc<Pace>>,
    /// Where it is saved when it is ready, if it is to be.
    save: Option<Save>,
}

impl Machine {
    fn start(mut self) -> Result<RunningMachine, MachineError> {
        let ending = Arc::clone(&self.ending);
        let devices = DeviceThread::spawn(&self.slots, move |reason| ending.end(reason))?;
        let vcpus = mem::take(&mut self.vcpus).into_iter().map(Vcpu::start).collect::<Result<_, _>>()?;
        let Self { ending, vm, slots, pace, save, .. } = self;
        Ok(RunningMachine { ending, vm, slots, vcpus, devices, pace, save })
    }
}

/// A machine that runs.
#[derive(Debug)]
struct RunningMachine {
    ending: Arc<Ending>,
    vm: Vm,
    slots: Vec<Slot>,
    vcpus: Vec<RunningVcpu>,
    devices: DeviceThread,
    pace: Option<Arc<Pace>>,
    save: Option<Save>,
}

impl RunningMachine {
    /// Waits for the end of the guest, and until its devices have finished. `None` when the runtime is gone first.
    fn wait(self, control: BorrowedFd<'_>) -> Result<Option<EndReason>, MachineError> {
        let (ending, pace) = (Arc::clone(&self.ending), self.pace.clone());
        if !wait_for(ending.as_fd(), control, pace.as_deref())? {
            // The process is about to end, threads and all; nothing of the machine need be waited for.
            mem::forget(self);
            return Ok(None);
        }
        // Finishing can take as long as a slow reader of the guest's output wants, and the runtime can go meanwhile.
        let (finished, finishing) = io::pipe()?;
        let finish = move || {
            let reason = self.finish();
            drop(finishing);
            reason
        };
        let finish = thread::Builder::new().name("finish".into()).spawn(finish)?;
        if !wait_for(finished.as_fd(), control, None)? {
            return Ok(None);
        }
        // It has only to return. A panic in it ends the process.
        Ok(finish.join().ok().flatten())
    }

    /// Stops the vCPUs; saves the machine, or lets the devices finish what the guest has handed over. Returns the reason of
    /// the end.
    fn finish(self) -> Option<EndReason> {
        while self.vcpus.iter().any(|vcpu| !vcpu.has_stopped()) {
            self.vcpus.iter().for_each(RunningVcpu::kick);
            thread::sleep(KICK_AGAIN);
        }
        let vcpus: Option<Vec<Vcpu>> = self.vcpus.into_iter().map(RunningVcpu::stopped).collect();
        let reason = self.ending.reason().cloned();
        let (Some(EndReason::Ready), Some(save)) = (&reason, &self.save) else {
            drop(vcpus);
            self.devices.drain();
            return reason;
        };
        // Whatever the guest has handed over is handed over again in the restored one.
        drop(self.devices);
        let saved = vcpus.ok_or(SaveError::Gone.into());
        let saved = saved.and_then(|vcpus| save::save(&self.vm, &self.slots, vcpus, save));
        Some(saved.map_or_else(|error| EndReason::vmm_error(&error), |()| EndReason::Ready))
    }
}

/// Waits until `event` is readable or at its end, and does what the runtime wants meanwhile. `false` when the runtime is gone
/// first.
fn wait_for(event: BorrowedFd<'_>, control: BorrowedFd<'_>, pace: Option<&Pace>) -> Result<bool, MachineError> {
    loop {
        let mut fds = [PollFd::new(control, PollFlags::POLLIN), PollFd::new(event, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.map_err(io::Error::from)?,
        };
        let [runtime, event] = fds.map(|fd| fd.any().unwrap_or(false));
        if runtime {
            match control::receive_request(control) {
                Ok(Some(Request::Pace)) => pace.into_iter().for_each(Pace::begin),
                // What is no request is thrown away.
                Err(ControlError::Decode(_)) => {}
                Ok(None) | Err(_) => return Ok(false),
            }
        }
        if event {
            return Ok(true);
        }
    }
}
