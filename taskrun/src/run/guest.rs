//! The part of a task's life during which a VMM exists: from the choice of a template to the end of its process.

use std::io;
use std::sync::{Arc, Mutex};

use protocol::message::HostMessage;
use protocol::spec::WindowSize;

use super::outcome::Outcome;
use super::plan::{Channels, TaskPlan};
use super::request::RunRequest;
use super::signals::Signals;
use super::stdio::Streams;
use super::stop::StopPolicy;
use super::supervise::{self, Task};
use super::{RunError, note, window_size};
use crate::errors;
use crate::microvm::{AgentConnection, Host, Job, Start, launch};
use crate::task::control::Control;
use crate::task::log::Stream;
use crate::task::log::writer::{Log, LogStream};
use crate::template::Templates;
use crate::terminal::RawMode;
use crate::timings::{Phase, Timings};

/// What a microVM needs of this process and its host.
pub(super) struct Place<'a> {
    pub(super) host: &'a Host,
    pub(super) templates: &'a Templates,
    pub(super) signals: &'a Signals,
    /// Where other processes ask for the task's end.
    pub(super) control: &'a mut Control,
    /// Where the task's outputs go instead of this process's own.
    pub(super) log: Option<Arc<Mutex<Log>>>,
    /// Runs when the command does.
    pub(super) started: Box<dyn FnOnce() + 'a>,
}

/// What came of it.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// Bytes of output that were written.
    pub(super) bytes_out: u64,
}

/// Starts the microVM and sees the task through to its end.
pub(super) fn run(
    request: &RunRequest,
    plan: TaskPlan,
    mut message: HostMessage,
    stop: StopPolicy,
    place: Place<'_>,
    timings: &mut Timings,
) -> Result<Ended, RunError> {
    let Place { host, templates, signals, control: socket, log, started } = place;
    let template = templates.choose(host, &plan.machine, &mut |text| note(request, text));
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
    let Channels { control, stdin, stdout, stderr } = Channels::of(request, launched.channels)?;
    let mut streams = Streams::new()?;
    let outputs = [("standard output", Stream::Stdout, Some(stdout)), ("standard error", Stream::Stderr, stderr)];
    for (name, stream, channel) in outputs {
        match (channel, &log, stream) {
            (None, ..) => {}
            (Some(channel), Some(log), stream) => streams.add_log(name, channel, LogStream::new(log, stream))?,
            (Some(channel), None, Stream::Stdout) => streams.add_output(name, channel, io::stdout())?,
            (Some(channel), None, Stream::Stderr) => streams.add_output(name, channel, io::stderr())?,
        }
    }
    let written = streams.counter();
    // The terminal is the caller's own until the command runs, so that Ctrl-C ends a task that is still starting.
    let mut raw = None;
    let raw_mode = &mut raw;
    let on_start = Box::new(move |streams: &Streams| {
        started();
        let Some(stdin) = stdin else { return Ok(()) };
        if request.terminal {
            *raw_mode = RawMode::enter(io::stdin()).inspect_err(|error| errors::say(&errors::chain(error))).ok();
        }
        streams.add_input(stdin, io::stdin())
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
    };
    let outcome = supervise::supervise(task, timings)?;
    drop(raw);
    Ok(Ended { outcome, bytes_out: written.bytes() })
}
