//! `taskrun run`: a task from its image to its exit code.
//!
//! [`run`] is the recipe, in order; every step's way to fail leads past the ledger's row being completed and the VMM
//! being ended, since both are tied to values that do so when they are dropped or passed on.
//!
//! # Layout
//! - [`request`]: what to run. [`spec`]: what becomes of it for the agent; [`etc`]: files that the task finds in `/etc`.
//! - [`plan`]: the microVM for it.
//! - [`supervise`]: the loop over all that can happen; [`session`] is what the agent may say, [`stop`] what signals
//!   mean, [`stdio`] the command's streams, [`signals`] where signals come from, [`deadlines`] when it acts by itself.
//! - [`outcome`]: exit codes and sentences.

pub mod deadlines;
pub mod etc;
pub mod outcome;
pub mod plan;
pub mod request;
pub mod session;
pub mod signals;
pub mod spec;
pub mod stdio;
pub mod stop;
pub mod supervise;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::os::fd::AsFd;

use protocol::message::HostMessage;
use protocol::spec::WindowSize;

use self::outcome::Outcome;
use self::plan::{Channels, TaskPlan};
use self::request::RunRequest;
use self::signals::{SignalError, Signals};
use self::spec::SpecError;
use self::stdio::{StdioError, Streams};
use self::stop::StopPolicy;
use self::supervise::{SuperviseError, Task};
use crate::errors::{self, EXIT_TASKRUN_FAILED};
use crate::image::{Images, PrepareError, Prepared};
use crate::ledger::{self, HomeError, Ledger, LedgerError, NewTask, Process, StopCode, Used};
use crate::microvm::{AgentConnection, ControlError, Host, Job, LaunchError, Start, launch};
use crate::scratch::{self, ScratchError};
use crate::template::Templates;
use crate::terminal::{self, RawMode};
use crate::timings::{Phase, Timings, TimingsError, TimingsFile};

/// How many digits of a task's id make its hostname.
const HOSTNAME_DIGITS: usize = 12;

/// Why taskrun itself failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The image can't be used.
    #[error(transparent)]
    Image(Box<PrepareError>),
    /// There is no scratch disk.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The image and the request make no task.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The host or the installation can't run a task.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Signals can't be received.
    #[error(transparent)]
    Signals(#[from] SignalError),
    /// There is no place for the ledger.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The ledger can't be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is no randomness for a task's id.
    #[error("A task's id can't be made from /dev/urandom")]
    Id(#[source] io::Error),
    /// The host doesn't tell which process this is.
    #[error("This process can't be found in /proc")]
    Process(#[source] io::Error),
    /// The agent can't be talked to.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The streams can't be connected.
    #[error(transparent)]
    Stdio(#[from] StdioError),
    /// The task can't be watched.
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    /// The time stamps can't be written.
    #[error(transparent)]
    Timings(#[from] TimingsError),
}

impl From<PrepareError> for RunError {
    fn from(error: PrepareError) -> Self {
        Self::Image(Box::new(error))
    }
}

/// Runs a task to its end, tells the user what the exit code alone does not, and gives the exit code.
#[must_use]
pub fn run(request: &RunRequest, mut timings: Timings) -> u8 {
    let file = match request.timings.as_deref().map(TimingsFile::prepare).transpose() {
        Ok(file) => file,
        Err(error) => {
            errors::say(&errors::chain(&error));
            return EXIT_TASKRUN_FAILED;
        }
    };
    let exit_code = execute(request, &mut timings).unwrap_or_else(|error| {
        errors::say(&errors::chain(&error));
        EXIT_TASKRUN_FAILED
    });
    if let Some(Err(error)) = file.map(|file| file.write(&timings, exit_code)) {
        errors::say(&errors::chain(&error));
    }
    exit_code
}

/// The recipe.
fn execute(request: &RunRequest, timings: &mut Timings) -> Result<u8, RunError> {
    let home = ledger::home::resolve()?;
    let mut ledger = Ledger::open(&home)?;
    let host = Host::open(request.image.kernel.as_deref())?;
    let Prepared { image, rootfs } = Images::open()?.prepare(&request.image, timings)?;
    let id = task_id(File::open("/dev/urandom")).map_err(RunError::Id)?;
    let hostname = request.hostname.as_deref().or(id.get(..HOSTNAME_DIGITS)).unwrap_or(&id);
    let stop = StopPolicy::new(spec::stop_signal(&image)?);
    let scratch = request.disk.map(|size| scratch::create(&home, size)).transpose()?;
    let plan = plan::plan(request, &rootfs, scratch, host.kvm());
    let message = spec::task(&image, request, hostname, plan.root.clone(), request.terminal.then(window_size))?;

    // From here on a signal is read, not died of: the row would stay without its end.
    let signals = Signals::block()?;
    ledger.admit(&NewTask {
        id: id.clone(),
        name: None,
        image: image.reference.clone(),
        cpu_units: request.cpu.units(),
        memory_mib: request.memory.mib(),
        storage_mib: request.disk.map_or(0, |size| size.bytes() / (1 << 20)),
        labels: BTreeMap::new(),
        detached: false,
        supervisor: Process::own().map_err(RunError::Process)?,
    })?;
    ledger.image(&id, &image.digest.to_string())?;
    timings.reach(Phase::Admitted);

    let place = Place { host: &host, templates: &Templates::of(&home), signals: &signals };
    let result = in_microvm(request, plan, message, stop, &place, timings);
    let (exit_code, stop_code, reason) = match &result {
        Ok(outcome) => (outcome.exit_code(), outcome.stop_code(), outcome.reason(request.memory)),
        Err(error) => (EXIT_TASKRUN_FAILED, StopCode::TaskFailedToStart, errors::chain(error)),
    };
    let used = Used::default();
    let end = ledger::Outcome { exit_code: Some(exit_code.into()), stop_code, reason, used };
    // The command's result is known and stands, whatever becomes of its record.
    if let Err(error) = ledger.finish(&id, &end) {
        errors::say(&errors::chain(&error));
    }
    timings.reach(Phase::Finished);
    if let Some(sentence) = result?.sentence(request.memory) {
        errors::say(&sentence);
    }
    Ok(exit_code)
}

/// What a microVM needs of this process and its host.
struct Place<'a> {
    host: &'a Host,
    templates: &'a Templates,
    signals: &'a Signals,
}

/// The part of the recipe during which a VMM exists.
fn in_microvm(
    request: &RunRequest,
    plan: TaskPlan,
    message: HostMessage,
    stop: StopPolicy,
    place: &Place<'_>,
    timings: &mut Timings,
) -> Result<Outcome, RunError> {
    let template = place.templates.choose(place.host, &plan.machine, &mut |text| note(request, text));
    timings.reach(Phase::TemplateReady);
    let (start, job) = match &template {
        Some(template) => (Start::Restore(template.files()), Job::restored(message, plan.machine.slots())),
        None => (Start::Boot, Job::booting(message)),
    };
    let launched = launch::launch(place.host, &plan.machine, start)?;
    timings.reach(Phase::VmmStarted);
    let mut vmm = launched.vmm;
    let Channels { control, stdin, stdout, stderr } = Channels::of(request, launched.channels)?;
    let mut streams = Streams::new()?;
    streams.add_output("standard output", stdout, io::stdout())?;
    if let Some(stderr) = stderr {
        streams.add_output("standard error", stderr, io::stderr())?;
    }
    // The terminal is the caller's own until the command runs, so that Ctrl-C ends a task that is still starting.
    let mut raw = None;
    let raw_mode = &mut raw;
    let on_start = Box::new(move |streams: &Streams| {
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
        signals: place.signals,
        control: None,
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
    Ok(outcome)
}

/// Tells who watches what takes long.
fn note(request: &RunRequest, text: &str) {
    if !request.image.quiet && io::stderr().is_terminal() {
        errors::say(text);
    }
}

/// The size of the caller's terminal.
fn window_size() -> WindowSize {
    let (stdout, stdin, stderr) = (io::stdout(), io::stdin(), io::stderr());
    terminal::window_size([stdout.as_fd(), stdin.as_fd(), stderr.as_fd()]).unwrap_or(terminal::DEFAULT_SIZE)
}

/// A new task's id: 128 random bits as 32 hexadecimal digits.
fn task_id(random: io::Result<impl Read>) -> io::Result<String> {
    let mut bytes = [0; 16];
    random?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tasks_id_has_32_digits() {
        assert_eq!(task_id(Ok([0_u8; 16].as_slice())).unwrap(), "0".repeat(32));
        assert_eq!(task_id(Ok([0xab_u8; 20].as_slice())).unwrap(), "ab".repeat(16));
        assert!(task_id(Ok([0_u8; 15].as_slice())).is_err());
    }
}
