//! The story of a guest, in order: take its one job from the host, do it, report. The job is a task (mount its root, start its
//! command, see it through) or the unpacking of an image.
//!
//! The machine below is behind two traits ([`Guest`], [`Host`]), so that the whole story also runs as a test in a process
//! on a development machine.

use std::path::Path;

use nix::sys::utsname::uname;
use protocol::message::{
    AgentMessage, ExitStatus, Failure, HostMessage, OutOfMemory, Phase, UnpackProgress, UnpackReport,
};
use protocol::spec::{TaskSpec, UnpackSpec, WindowSize};

use crate::container::cgroup::Cgroup;
use crate::container::exec::Command;
use crate::container::oom::KernelLog;
use crate::container::skeleton::Skeleton;
use crate::container::{Container, Plan, StartError};
use crate::control::{Control, ControlError};
use crate::failure::{internal, report};
use crate::stdio::Prepared;
use crate::supervise::{SignalSet, SuperviseError, Supervisor};
use crate::vsock::Host;

/// The machine that the task runs on.
pub trait Guest {
    /// Makes the devices in these virtio windows usable, which came there after the kernel had looked.
    ///
    /// # Errors
    /// What is wrong with the guest, for the user.
    fn attach(&self, slots: &[u8]) -> Result<(), Failure>;

    /// Unpacks an image; calls `progress` now and then. What the user should know is in the summary.
    ///
    /// # Errors
    /// What is wrong with the image, for the user.
    fn unpack(&self, spec: &UnpackSpec, progress: &mut dyn FnMut(UnpackProgress)) -> Result<Unpacked, Failure>;

    /// Mounts the root file system of a task at [`Self::root`], in the container's process; returns what the user should know.
    ///
    /// # Errors
    /// What is wrong with the image or the guest, for the user.
    fn mount_root(&self, spec: &TaskSpec, skeleton: &Skeleton) -> Result<Vec<String>, Failure>;

    /// Where the task's root file system is mounted.
    fn root(&self) -> &Path;
}

/// What came of unpacking an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// For the host.
    pub report: UnpackReport,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Why there is nothing to report.
enum End {
    /// The task failed; the host is told.
    Failed(Failure),
    /// There is no host to tell.
    Alone(ControlError),
}

impl From<ControlError> for End {
    fn from(error: ControlError) -> Self {
        Self::Alone(error)
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What the host said before the command's start.
#[derive(Default)]
struct Early {
    signals: SignalSet,
    size: Option<WindowSize>,
}

impl Early {
    fn note(&mut self, message: &HostMessage) {
        match message {
            HostMessage::Signal(number) => self.signals.add(*number),
            HostMessage::Resize(size) => self.size = Some(*size),
            HostMessage::Attach(_) | HostMessage::Run(_) | HostMessage::Unpack(_) => {}
        }
    }
}

/// Greets, and takes no job.
///
/// # Errors
/// The host cannot be talked to.
pub fn refuse(control: Control, failure: Failure) -> Result<(), ControlError> {
    greet(&control)?;
    control.send(&AgentMessage::Failed(failure))?;
    control.finish();
    Ok(())
}

fn greet(control: &Control) -> Result<(), ControlError> {
    control.send(&AgentMessage::Hello { version: protocol::VERSION, kernel: kernel_release() })
}

/// Does one job from greeting to report; where it is a task, in this container.
///
/// # Errors
/// The host cannot be talked to. Everything else is told to the host.
pub fn serve(
    mut control: Control,
    host: &dyn Host,
    guest: &dyn Guest,
    container: Result<Container, StartError>,
) -> Result<(), ControlError> {
    greet(&control)?;
    let mut early = Early::default();
    let done = loop {
        match control.receive()? {
            HostMessage::Attach(slots) => match guest.attach(&slots) {
                Ok(()) => {}
                Err(failure) => break Err(End::Failed(failure)),
            },
            HostMessage::Run(spec) => {
                let run = |container| run(&mut control, host, guest, container, &spec, early);
                break container.map_err(|error| report(&error).into()).and_then(run).map(AgentMessage::Exited);
            }
            HostMessage::Unpack(spec) => {
                // Its process sleeps until the guest ends. To end it before would take time.
                std::mem::forget(container);
                break unpack(&control, guest, &spec).map(AgentMessage::Unpacked);
            }
            message => early.note(&message),
        }
    };
    let last = match done {
        Ok(message) => message,
        Err(End::Failed(failure)) => AgentMessage::Failed(failure),
        Err(End::Alone(error)) => return Err(error),
    };
    control.send(&last)?;
    control.finish();
    Ok(())
}

/// Unpacks an image. Signals mean nothing here: the host ends the guest.
fn unpack(control: &Control, guest: &dyn Guest, spec: &UnpackSpec) -> Result<UnpackReport, End> {
    // A host that cannot be told how far it is cannot be told the end either.
    let mut progress = |progress| drop(control.send(&AgentMessage::Progress(progress)));
    let Unpacked { report, warnings } = guest.unpack(spec, &mut progress)?;
    for warning in warnings {
        control.send(&AgentMessage::Warning(warning))?;
    }
    Ok(report)
}

fn run(
    control: &mut Control,
    host: &dyn Host,
    guest: &dyn Guest,
    mut container: Container,
    spec: &TaskSpec,
    mut early: Early,
) -> Result<ExitStatus, End> {
    let mounted = container.inside(|skeleton| guest.mount_root(spec, skeleton));
    let mut warnings = mounted.map_err(|error| report(&error))??;
    control.send(&AgentMessage::Phase(Phase::RootMounted))?;

    let command = Command::new(&spec.process.argv, &spec.process.env).map_err(|error| report(&error))?;
    container.cgroup().limit_memory().map_err(|error| report(&error))?;
    let mut streams = Prepared::connect(spec.stdio, host).map_err(|error| report(&error))?;
    warnings.extend(container.cgroup().warning.take());
    for warning in warnings {
        control.send(&AgentMessage::Warning(warning))?;
    }
    while let Some(message) = control.try_receive()? {
        early.note(&message);
    }
    if let Some(size) = early.size {
        streams.resize(size);
    }
    let log = KernelLog::from_now();
    control.send(&AgentMessage::Phase(Phase::Prepared))?;

    let plan = Plan {
        root: guest.root(),
        read_only: spec.root.read_only,
        hostname: &spec.hostname,
        user: &spec.process.user,
        cwd: &spec.process.cwd,
        streams: streams.streams(),
        command,
    };
    let started = container.start(plan).map_err(|error| report(&error))?;
    control.send(&AgentMessage::Started)?;
    let relays = streams.into_relays(started.terminal.as_ref()).map_err(|error| report(&error))?;
    let supervisor = Supervisor::new(control, &started.child, relays, started.terminal).map_err(supervise_error)?;
    supervisor.deliver(early.signals);
    let how = supervisor.run().map_err(supervise_error)?;
    Ok(ExitStatus {
        how,
        out_of_memory: out_of_memory(&started.cgroup, log),
        peak_memory: started.cgroup.peak_memory(),
    })
}

fn supervise_error(error: SuperviseError) -> End {
    match error {
        SuperviseError::Control(error) => End::Alone(error),
        error @ SuperviseError::System(_) => End::Failed(internal(&error)),
    }
}

fn out_of_memory(cgroup: &Cgroup, log: Option<KernelLog>) -> Option<OutOfMemory> {
    let kills = cgroup.out_of_memory_kills();
    (kills > 0).then(|| OutOfMemory { kills, process: log.and_then(KernelLog::last_victim) })
}

/// The kernel's release, as `uname -r` prints it.
fn kernel_release() -> String {
    uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
