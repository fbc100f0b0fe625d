//! A vCPU and its thread.

use std::io;
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::deprivileged::{self, Completion, CompletionError};
use crate::end::{EndReason, TripleFault};
use crate::ending::Ending;
use crate::exits::{self, Buses, Exit, ExitError};
use crate::memory::GuestMemory;
use crate::pace::{Meter, Pace};

/// Why a vCPU failed.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// Its thread can't be had.
    #[error("The thread of a vCPU can't be started")]
    Spawn(#[source] io::Error),
    /// It can't be run.
    #[error(transparent)]
    Exit(#[from] ExitError),
    /// An instruction can't be completed.
    #[error("An instruction that KVM can't execute can't be completed")]
    Complete(#[from] CompletionError),
    /// Its processor time can't be measured.
    #[error("The processor time of a vCPU can't be measured")]
    Pace(#[source] io::Error),
    /// Its registers can't be read.
    #[error("The registers of a vCPU can't be read")]
    Registers(#[source] kvm_ioctls::Error),
}

/// What all vCPUs of a VM share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Guest memory. Also keeps it mapped while a vCPU can run.
    pub memory: GuestMemory,
    /// The devices.
    pub buses: Arc<Buses>,
    /// The end of the guest: a vCPU that ends it says so here, and all stop when it has come.
    pub ending: Arc<Ending>,
    /// Whether the host's KVM is deprivileged.
    pub deprivileged: bool,
    /// The share of processors that they hold themselves to.
    pub pace: Option<Arc<Pace>>,
}

/// A vCPU that is ready to run.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    index: u8,
    shared: Shared,
}

/// A vCPU that runs.
#[derive(Debug)]
pub struct RunningVcpu(JoinHandle<Vcpu>);

impl Vcpu {
    /// The vCPU with this index.
    #[must_use]
    pub fn new(fd: VcpuFd, index: u8, shared: Shared) -> Self {
        Self { fd, index, shared }
    }

    /// Runs the vCPU in a thread of its own until the guest has ended.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(self) -> Result<RunningVcpu, VcpuError> {
        prepare_kick();
        let thread = thread::Builder::new().name(format!("vcpu{}", self.index));
        Ok(RunningVcpu(thread.spawn(|| self.run()).map_err(VcpuError::Spawn)?))
    }

    /// Finishes the instruction that the guest stopped in, so that its state is whole.
    ///
    /// # Errors
    /// When it can't be finished.
    pub fn finish_instruction(&mut self) -> Result<(), VcpuError> {
        Ok(exits::complete(&mut self.fd, &self.shared.buses)?)
    }

    /// KVM's vCPU.
    #[must_use]
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Gives itself back when the guest has ended.
    fn run(mut self) -> Self {
        let (ending, pace) = (Arc::clone(&self.shared.ending), self.shared.pace.clone());
        let meter = pace.as_deref().map(|pace| Meter::start(pace, SIGRTMIN())).transpose();
        match meter.map_err(VcpuError::Pace) {
            Ok(meter) => self.run_to_end(meter, &ending),
            Err(error) => ending.end(EndReason::vmm_error(&error)),
        }
        self
    }

    fn run_to_end(&mut self, mut meter: Option<Meter<'_>>, ending: &Ending) {
        while ending.reason().is_none() {
            match self.step(meter.as_mut()) {
                Ok(None) => {}
                Ok(Some(reason)) => ending.end(reason),
                Err(error) => ending.end(EndReason::vmm_error(&error)),
            }
        }
    }

    /// Runs until the next exit and says whether that was the guest's end. Waits then if the vCPU has had its share.
    fn step(&mut self, meter: Option<&mut Meter<'_>>) -> Result<Option<EndReason>, VcpuError> {
        let exit = exits::run(&mut self.fd, &self.shared.buses)?;
        if let Some(meter) = meter {
            meter.after_exit(exit == Exit::Interrupted, &self.shared.ending).map_err(VcpuError::Pace)?;
        }
        Ok(match exit {
            Exit::Again | Exit::Interrupted => None,
            Exit::TripleFault => Some(self.triple_fault()?),
            Exit::PowerOff => Some(EndReason::PowerOff),
            Exit::Reset => Some(EndReason::Reset),
            Exit::Crash => Some(EndReason::Crash { rip: self.rip()? }),
            Exit::EmulationFailure(bytes) => self.complete(bytes)?,
        })
    }

    /// Finishes an instruction for a KVM that should have it and lacks it; elsewhere the guest has ended.
    fn complete(&mut self, bytes: Vec<u8>) -> Result<Option<EndReason>, VcpuError> {
        let completion = if self.shared.deprivileged {
            deprivileged::complete(&mut self.fd, &self.shared.memory, &bytes)?
        } else {
            Completion::NotUnderstood
        };
        Ok(match completion {
            Completion::Completed => None,
            Completion::GuestCrash => Some(EndReason::Crash { rip: self.rip()? }),
            Completion::NotUnderstood => Some(EndReason::EmulationFailure { rip: self.rip()?, bytes }),
        })
    }

    /// The state in which a vCPU took a triple fault. KVM on AMD has reset the vCPU by now; elsewhere it is as it was.
    fn triple_fault(&self) -> Result<EndReason, VcpuError> {
        let system = self.fd.get_sregs().map_err(VcpuError::Registers)?;
        let fault =
            TripleFault { vcpu: self.index, rip: self.rip()?, cr0: system.cr0, cr2: system.cr2, cr3: system.cr3 };
        Ok(EndReason::TripleFault(fault))
    }

    fn rip(&self) -> Result<u64, VcpuError> {
        Ok(self.fd.get_regs().map_err(VcpuError::Registers)?.rip)
    }
}

impl RunningVcpu {
    /// Whether the vCPU's thread has ended.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.0.is_finished()
    }

    /// The vCPU, when its thread has ended; `None` when that panicked.
    #[must_use]
    pub fn stopped(self) -> Option<Vcpu> {
        self.0.join().ok()
    }

    /// Interrupts `KVM_RUN`, so that the vCPU sees that the guest has ended. A kick between the look and the `KVM_RUN` is
    /// lost: kick until [`Self::has_stopped`].
    pub fn kick(&self) {
        // Fails only for a thread that is gone, which is what the kick is for.
        let _ = self.0.kill(SIGRTMIN());
    }
}

/// Makes the signal of [`RunningVcpu::kick`] one that interrupts and does nothing else.
fn prepare_kick() {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        // Fails only for a signal that can't be caught; this one can.
        let _ = register_signal_handler(SIGRTMIN(), nothing);
    });
}
