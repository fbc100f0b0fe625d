//! The part of a task's life during which a VMM exists: from the choice of a template to the end of its process.

use std::sync::{Arc, Mutex};

use protocol::message::{ExitStatus, HostMessage};
use protocol::spec::WindowSize;

use super::gauge::Gauge;
use super::outcome::Outcome;
use super::plan::{Channels, TaskPlan};
use super::request::RunRequest;
use super::signals::Signals;
use super::stdio::Streams;
use super::stop::StopPolicy;
use super::supervise::{self, Task};
use super::surroundings::Ends;
use super::{RunError, note, window_size};
use crate::cpu::Enforcement;
use crate::microvm::{AgentConnection, Host, Job, Start, launch};
use crate::task::control::Control;
use crate::task::log::Stream;
use crate::task::log::writer::{Log, LogStream};
use crate::template::Templates;
use crate::terminal::RawMode;
use crate::timings::{Phase, Timings};
use crate::voice::Voice;

/// What a microVM needs of this process and its host.
pub(super) struct Place<'a> {
    pub(super) host: &'a Host,
    pub(super) templates: &'a Templates,
    /// The signals of this process, where they are the task's.
    pub(super) signals: Option<&'a Signals>,
    /// Where other processes ask for the task's end.
    pub(super) control: &'a mut Control,
    /// The ends of the task's streams.
    pub(super) ends: Ends,
    /// Hears what the user should know.
    pub(super) voice: &'a Voice,
    /// Where the task's outputs go instead of to the ends.
    pub(super) log: Option<Arc<Mutex<Log>>>,
    /// Measures what the task uses.
    pub(super) gauge: &'a Gauge,
    /// Hears who holds the microVM to its share of processors.
    pub(super) enforced: Box<dyn FnOnce(Enforcement) + 'a>,
    /// Runs when the command does.
    pub(super) started: Box<dyn FnOnce() + 'a>,
}

/// Starts the microVM and sees the task through to its end.
pub(super) fn run(
    request: &RunRequest,
    plan: TaskPlan,
    mut message: HostMessage,
    stop: StopPolicy,
    place: Place<'_>,
    timings: &mut Timings,
) -> Result<Outcome, RunError> {
    let Place { host, templates, signals, control: socket, ends, voice, log, gauge, enforced, started } = place;
    let Ends { stdin: input, stdout: output, stderr: errors } = ends;
    let template = templates.choose(host, &plan.machine, &mut |text| note(request, voice, text));
    timings.reach(Phase::TemplateReady);
    if let HostMessage::Run(spec) = &mut message
        && spec.root.image.dax
    {
        spec.root.image.path = plan.machine.first_pmem(template.is_some());
    }
    let (start, job) = match &template {
        Some(template) => (Start::Restore(template.files()), Job::restored(message, plan.machine.slots())),
        None => (Start::Boot, Job::booting(message)),
    };
    let launched = launch::launch(host, &plan.machine, start)?;
    timings.reach(Phase::VmmStarted);
    let mut vmm = launched.vmm;
    enforced(vmm.enforcement());
    let Channels { control, stdin, stdout, stderr } = Channels::of(request, launched.channels)?;
    let mut streams = Streams::new(voice.clone())?;
    let outputs =
        [("standard output", Stream::Stdout, Some(stdout), output), ("standard error", Stream::Stderr, stderr, errors)];
    for (name, stream, channel, end) in outputs {
        match (channel, &log) {
            (None, _) => {}
            (Some(channel), Some(log)) => streams.add_log(name, channel, LogStream::new(log, stream))?,
            (Some(channel), None) => streams.add_output(name, channel, &end)?,
        }
    }
    gauge.begin(Arc::clone(vmm.meter()), streams.counter());
    // The terminal is the caller's own until the command runs, so that Ctrl-C ends a task that is still starting.
    let mut raw = None;
    let raw_mode = &mut raw;
    let (process, template) = (vmm.id(), template.as_ref());
    let on_start = Box::new(move |streams: &Streams| {
        started();
        if let (Some(stdin), Some(input)) = (stdin, input) {
            if request.terminal {
                *raw_mode = RawMode::enter(&input).inspect_err(|error| voice.say_error(error)).ok();
            }
            streams.add_input(stdin, &input)?;
        }
        template.inspect(|template| template.note_written(process));
        Ok(())
    });
    let task = Task {
        machine: &mut vmm,
        agent: AgentConnection::new(control)?,
        job,
        signals,
        control: Some(socket),
        streams,
        on_start,
        window: request.terminal.then_some(&window_size as &dyn Fn() -> WindowSize),
        stop,
        timeout: request.timeout,
        stop_timeout: request.stop_timeout,
        grace: supervise::GRACE,
        voice: voice.clone(),
    };
    let outcome = supervise::supervise(task, timings)?;
    drop(raw);
    if let Outcome::Exited(ExitStatus { peak_memory: Some(bytes), .. }) = &outcome {
        gauge.peak_memory(*bytes);
    }
    Ok(outcome)
}
