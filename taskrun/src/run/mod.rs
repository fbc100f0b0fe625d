//! `taskrun run`: a task from its image to its exit code.
//!
//! [`life`] is a task's life, of which the part with a VMM is in [`guest`]. [`crate::Task`] is what programs start it by; [`run`] is
//! the one that `taskrun` itself is.
//!
//! # Layout
//! - [`request`]: what to run. [`spec`]: what becomes of it for the agent; [`etc`]: files that the task finds in `/etc`.
//! - [`preparing`]: getting its image. [`plan`]: the microVM for it.
//! - [`supervise`]: the loop over all that can happen; [`session`] is what the agent may say, [`stop`] what signals
//!   mean, [`stdio`] the command's streams, [`signals`] where signals come from, [`deadlines`] when it acts by itself.
//! - [`gauge`]: what a task has used. [`surroundings`]: what a task has of the process that runs it.
//! - [`outcome`]: exit codes and sentences.

pub mod deadlines;
pub mod etc;
mod gauge;
mod guest;
pub(crate) mod life;
pub mod outcome;
pub mod plan;
mod preparing;
pub mod request;
pub mod session;
pub mod signals;
pub mod spec;
pub mod stdio;
pub mod stop;
pub mod supervise;
pub mod surroundings;

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;

use protocol::spec::WindowSize;

use self::request::RunRequest;
use self::signals::SignalError;
use self::spec::SpecError;
use self::stdio::StdioError;
use self::supervise::SuperviseError;
use crate::embed::{Ended, Task, TaskError};
use crate::errors::{self, EXIT_TASKRUN_FAILED};
use crate::events::What;
use crate::events::lines::{Lines, LinesError};
use crate::footprint;
use crate::image::PrepareError;
use crate::ledger::heartbeat::HeartbeatError;
use crate::ledger::{HomeError, LedgerError, Status};
use crate::microvm::{ControlError, LaunchError};
use crate::scratch::ScratchError;
use crate::task::detach::DetachError;
use crate::terminal;
use crate::timings::{Timings, TimingsError, TimingsFile};
use crate::voice::Voice;

/// How many digits of a task's id make its hostname.
const HOSTNAME_DIGITS: usize = 12;

/// Why taskrun itself failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The image can't be used.
    #[error(transparent)]
    Image(Box<PrepareError>),
    /// There is no thread that gets the image, or it can't be waited for.
    #[error("The task's image can't be waited for")]
    Prepare(#[source] io::Error),
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
    /// The task can't be detached.
    #[error(transparent)]
    Detach(#[from] DetachError),
    /// There is no folder for the task.
    #[error("The task's folder in taskrun's home can't be used")]
    Folder(#[source] io::Error),
    /// The task's log can't be written.
    #[error("The task's log can't be written")]
    Log(#[source] io::Error),
    /// Nothing can tell that the task lives.
    #[error(transparent)]
    Heartbeat(#[from] HeartbeatError),
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
    /// The caller's streams can't be used.
    #[error("The standard streams of this process can't be used")]
    Ends(#[source] io::Error),
    /// Events can't be written.
    #[error(transparent)]
    Events(#[from] LinesError),
    /// The time stamps can't be written.
    #[error(transparent)]
    Timings(#[from] TimingsError),
}

impl From<PrepareError> for RunError {
    fn from(error: PrepareError) -> Self {
        Self::Image(Box::new(error))
    }
}

/// `taskrun run`: runs a task to its end as this process's own, tells the user what the exit code alone does not, and gives
/// the exit code.
#[must_use]
pub fn run(request: RunRequest, mut timings: Timings) -> u8 {
    let file = match request.timings.as_deref().map(TimingsFile::prepare).transpose() {
        Ok(file) => file,
        Err(error) => {
            errors::say(&errors::chain(&error));
            return EXIT_TASKRUN_FAILED;
        }
    };
    let exit_code = attached(request, &mut timings).unwrap_or_else(|error| {
        errors::say(&errors::chain(&error));
        EXIT_TASKRUN_FAILED
    });
    if let Some(Err(error)) = file.map(|file| file.write(&timings, exit_code)) {
        errors::say(&errors::chain(&error));
    }
    exit_code
}

fn attached(request: RunRequest, timings: &mut Timings) -> Result<u8, TaskError> {
    let lines = request.events.map(Lines::adopt).transpose().map_err(RunError::Events)?;
    let mut task = Task::of(request);
    if let Some(lines) = lines.clone() {
        task = task.on_event(move |event| lines.write(event));
    }
    task = task.on_event(|event| {
        if event.what == What::Status(Status::Running) {
            footprint::shrink();
        }
    });
    let ended = task.run_attached(timings);
    if let Ok(Ended { message: Some(message), .. }) = &ended {
        errors::say(message);
    }
    if let Some(lines) = lines {
        lines.finish();
    }
    ended.map(|ended| ended.exit_code)
}

/// Tells who watches what takes long.
fn note(request: &RunRequest, voice: &Voice, text: &str) {
    if !request.image.quiet && io::stderr().is_terminal() {
        voice.say(text);
    }
}

/// The size of the caller's terminal.
fn window_size() -> WindowSize {
    let (stdout, stdin, stderr) = (io::stdout(), io::stdin(), io::stderr());
    terminal::window_size([stdout.as_fd(), stdin.as_fd(), stderr.as_fd()]).unwrap_or(terminal::DEFAULT_SIZE)
}
