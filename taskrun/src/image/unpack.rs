//! Unpacking an image: a microVM of its own reads the layers and writes the root file system, an EROFS image, to a file.
//!
//! Layers are hostile archives, so they are only ever parsed in a guest. What the guest says of its work is checked as far
//! as the host can: it must name the layers' diff IDs, which it has verified, and a size that is allowed. The host itself
//! hashes layers that it has not hashed before, so that even a guest that was taken over can write no more than the file
//! of the very image that took it over.
//!
//! Nothing of it outlives this process: the VMM ends with its control socket, and the unfinished file is the store's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use images::LayerBlob;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::message::{AgentMessage, Failure, HostMessage, UnpackReport};
use protocol::port;
use protocol::spec::{Compression, Layer, UnpackLimits, UnpackSpec};
use vmm::control::{self, VmmEvent};
use vmm::end::EndReason;

use crate::config::UnpackConfig;
use crate::errors::harmless;
use crate::microvm::{
    AgentConnection, ControlError, Disk, Extent, Host, Job, LaunchError, Launched, Machine, NotSeeded, Plan, Start,
};
use crate::template::Templates;
use crate::voice::Voice;

/// The names of the block devices, in the order that the protocol knows.
const LAYERS: &str = "layers";
const OUTPUT: &str = "output";

/// How long the agent may say nothing. It reports several times a second while it works.
const SILENCE: Duration = Duration::from_secs(300);

/// How many warnings are shown.
const MAX_WARNINGS: u32 = 8;

/// Metadata may make a file system this much larger than the content that is allowed.
const METADATA: u64 = 8 << 30;

// The device's layout is the VMM's, its meaning the protocol's.
const _: () = assert!(vmm::config::EXTENT_ALIGNMENT == protocol::LAYER_ALIGNMENT);

/// Why an image could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The layers are too long for any block device.
    #[error("The image's layers are larger than a block device can be")]
    Layers,
    /// The microVM can't be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The file for the result can't be used.
    #[error("The file for the unpacked image can't be used")]
    Output(#[source] io::Error),
    /// Waiting failed.
    #[error("The unpacking of the image can't be watched")]
    Wait(#[source] io::Error),
    /// The agent can't be talked to.
    #[error("The image can't be unpacked")]
    Control(#[from] ControlError),
    /// The VMM sent what isn't an event.
    #[error("The VMM that unpacks the image can't be understood")]
    Vmm(#[source] control::ControlError),
    /// The agent refused the image, or failed; its own sentence.
    #[error("{0}")]
    Failed(String),
    /// The guest ended before it was done.
    #[error("The image can't be unpacked: {0} (memory for unpacking is [unpack] memory in config.toml)")]
    GuestEnded(String),
    /// The guest isn't its own.
    #[error(transparent)]
    NotSeeded(#[from] NotSeeded),
    /// The agent said nothing for long.
    #[error("The image can't be unpacked: the guest has made no progress for {} s", SILENCE.as_secs())]
    Silent,
    /// The agent is from another taskrun, or was taken over.
    #[error("The agent that unpacks the image {0}: if taskrun was just updated, install all its files anew")]
    Protocol(&'static str),
}

/// A step of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The guest has booted, and its agent gets the layers.
    AgentReady,
    /// So many bytes of the layers are read.
    Read(u64),
    /// The agent is done.
    Reported,
}

/// The microVM for it.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct MachineRequest<'a> {
    /// Its size, and what it takes.
    pub config: &'a UnpackConfig,
    /// Whether the guest kernel's log goes to standard error.
    pub console: bool,
    /// Whether it boots, even where it could start from a template.
    pub cold: bool,
    /// Where it may start from.
    pub templates: &'a Templates,
    /// Is told what takes long.
    pub note: &'a dyn Fn(&str),
    /// Hears what the user should know.
    pub voice: &'a Voice,
}

/// Who is told of the work.
pub type OnStep<'a> = &'a mut dyn FnMut(Step);

/// Unpacks `layers` into `output`, an empty file. Gives what the agent reports, checked.
///
/// # Errors
/// [`UnpackError`]; `output` is worth nothing then.
pub fn unpack(
    host: &Host,
    layers: &[LayerBlob],
    output: File,
    machine: &MachineRequest<'_>,
    on_step: OnStep<'_>,
) -> Result<UnpackReport, UnpackError> {
    let config = machine.config;
    let spec = spec(layers, config)?;
    let length = spec.limits.image_bytes;
    output.set_len(length).map_err(UnpackError::Output)?;
    let extents =
        layers.iter().map(|layer| Extent { file: Arc::clone(&layer.file), offset: layer.offset, length: layer.length });
    let plan = Plan {
        vcpus: config.vcpus(),
        share: None,
        memory_mib: config.memory.mib(),
        console: machine.console,
        cold: machine.cold,
        disks: vec![
            Disk { id: LAYERS, read_only: true, extents: extents.collect() },
            Disk { id: OUTPUT, read_only: false, extents: vec![Extent { file: Arc::new(output), offset: 0, length }] },
        ],
        pmems: Vec::new(),
        ports: vec![port::CONTROL],
    };
    let template = machine.templates.choose(host, &plan, &mut |text| (machine.note)(text));
    let start = template.as_ref().map_or(Start::Boot, |template| Start::Restore(template.files()));
    let Launched { mut vmm, channels } = crate::microvm::launch::launch(host, &plan, start)?;
    let control = channels.into_iter().next().ok_or(UnpackError::Protocol("has no connection"))?;
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let watch = Watch {
        machine: &mut vmm,
        agent: AgentConnection::new(control)?,
        job: match template {
            Some(_) => Job::restored(HostMessage::Unpack(Box::new(spec)), plan.slots()),
            None => Job::booting(HostMessage::Unpack(Box::new(spec))),
        },
        greeted: false,
        on_step,
        voice: machine.voice,
        warnings: 0,
        result: None,
        end_reason: None,
        deadline: Instant::now().checked_add(SILENCE),
    };
    let report = watch.run()?;
    check(report, &diff_ids, length)
}

/// What the agent is to do.
fn spec(layers: &[LayerBlob], config: &UnpackConfig) -> Result<UnpackSpec, UnpackError> {
    let lengths = layers.iter().map(|layer| layer.length);
    let (starts, _) = vmm::config::extent_layout(lengths).ok_or(UnpackError::Layers)?;
    let layer = |(blob, offset): (&LayerBlob, u64)| Layer {
        offset,
        length: blob.length,
        compression: match blob.compression {
            images::Compression::None => Compression::None,
            images::Compression::Gzip => Compression::Gzip,
            images::Compression::Zstd => Compression::Zstd,
        },
        digest: blob.digest.map(|digest| digest.to_string()),
        diff_id: blob.diff_id.to_string(),
    };
    let bytes = config.max_bytes;
    let limits = UnpackLimits { entries: config.max_entries, bytes, image_bytes: bytes.saturating_add(METADATA) };
    Ok(UnpackSpec { layers: layers.iter().zip(starts).map(layer).collect(), limits })
}

/// Checks what the agent says it has done.
fn check(report: UnpackReport, diff_ids: &[String], limit: u64) -> Result<UnpackReport, UnpackError> {
    if report.diff_ids != diff_ids {
        return Err(UnpackError::Protocol("reports other layers than it was given"));
    }
    if report.image_size == 0 || report.image_size > limit || !report.image_size.is_multiple_of(4096) {
        return Err(UnpackError::Protocol("reports a size that can't be"));
    }
    Ok(report)
}

/// The watch over an unpacking guest.
struct Watch<'a, M> {
    machine: &'a mut M,
    agent: AgentConnection,
    job: Job,
    greeted: bool,
    on_step: OnStep<'a>,
    voice: &'a Voice,
    warnings: u32,
    result: Option<Result<UnpackReport, UnpackError>>,
    end_reason: Option<EndReason>,
    deadline: Option<Instant>,
}

impl<M: Machine> Watch<'_, M> {
    /// Watches until the machine is gone, which it is when this returns.
    fn run(mut self) -> Result<UnpackReport, UnpackError> {
        let watched = self.watch();
        self.machine.kill();
        let last = self.machine.wait();
        watched?;
        self.result.unwrap_or_else(|| {
            let reason = self.end_reason.unwrap_or(last);
            Err(UnpackError::GuestEnded(lower_first(&harmless(&reason.to_string()))))
        })
    }

    /// Until there is a result: the guest has synced its output then, and has nothing left to do but to power off.
    fn watch(&mut self) -> Result<(), UnpackError> {
        let mut machine_open = true;
        while self.result.is_none() && (machine_open || self.agent.is_open()) {
            let timeout = self.time_left().ok_or(UnpackError::Silent)?;
            let agent_events = match (self.agent.is_open(), self.agent.has_outgoing()) {
                (true, true) => PollFlags::POLLIN | PollFlags::POLLOUT,
                (true, false) => PollFlags::POLLIN,
                // Not waited for any more, and a closed socket is always ready.
                (false, _) => PollFlags::empty(),
            };
            let machine_events = if machine_open { PollFlags::POLLIN } else { PollFlags::empty() };
            let mut descriptors =
                [PollFd::new(self.agent.as_fd(), agent_events), PollFd::new(self.machine.events(), machine_events)];
            match poll(&mut descriptors, timeout) {
                Err(Errno::EINTR) => continue,
                result => result.map_err(|error| UnpackError::Wait(error.into()))?,
            };
            let [agent, machine] = descriptors.map(|descriptor| descriptor.any().unwrap_or(true));
            // All of it before the agent, which greets after the machine said that the guest has its randomness.
            if machine && machine_open {
                machine_open = self.read_machine()?;
            } else if agent && self.agent.is_open() {
                self.read_agent()?;
            }
        }
        Ok(())
    }

    fn time_left(&self) -> Option<PollTimeout> {
        let left = self.deadline?.checked_duration_since(Instant::now())?;
        Some(PollTimeout::try_from(left.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX))
    }

    fn read_agent(&mut self) -> Result<(), UnpackError> {
        self.agent.flush()?;
        for message in self.agent.receive()? {
            if self.result.is_none() {
                self.take(message)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, message: AgentMessage) -> Result<(), UnpackError> {
        self.deadline = Instant::now().checked_add(SILENCE);
        match message {
            AgentMessage::Hello { version, .. } => {
                if std::mem::replace(&mut self.greeted, true) {
                    return Err(UnpackError::Protocol("greets twice"));
                }
                if version != protocol::VERSION {
                    return Err(UnpackError::Protocol("is from another version of taskrun"));
                }
                for message in self.job.take()? {
                    self.agent.send_task(&message)?;
                }
                (self.on_step)(Step::AgentReady);
            }
            AgentMessage::Progress(progress) if self.greeted => (self.on_step)(Step::Read(progress.read)),
            AgentMessage::Warning(text) if self.warnings < MAX_WARNINGS => {
                self.warnings = self.warnings.saturating_add(1);
                self.voice.say(&harmless(&text));
            }
            AgentMessage::Warning(_) => {}
            AgentMessage::Unpacked(report) if self.greeted => {
                (self.on_step)(Step::Reported);
                self.result = Some(Ok(report));
            }
            AgentMessage::Failed(Failure { message, .. }) => {
                self.result = Some(Err(UnpackError::Failed(harmless(&message))));
            }
            _ => return Err(UnpackError::Protocol("sent a message that doesn't belong there")),
        }
        Ok(())
    }

    /// Gives whether there may be more.
    fn read_machine(&mut self) -> Result<bool, UnpackError> {
        match control::receive_event(self.machine.events()).map_err(UnpackError::Vmm)? {
            Some(VmmEvent::Running) => Ok(true),
            Some(VmmEvent::Seeded) => {
                self.job.seeded();
                Ok(true)
            }
            Some(VmmEvent::Ended(reason)) => {
                self.end_reason.get_or_insert(reason);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// A sentence as the rest of another one.
fn lower_first(sentence: &str) -> String {
    let mut chars = sentence.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests;
