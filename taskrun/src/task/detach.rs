//! Tasks that run on in the background: `taskrun run --detach`.
//!
//! ```text
//!   taskrun run -d …  ──spawns──▶  the same program with the same arguments and TASKRUN_REPORT=FD: the supervisor
//!        │                              │ pulls, unpacks, starts the task; says what goes wrong on the same terminal
//!        │  ◀──── the task's id ────────┤ when the command runs
//!   prints it, exits 0                  │ leaves the terminal: a session of its own, messages to tasks/ID/supervisor
//! ```
//!
//! Until the command runs, the supervisor is a part of the caller's job: Ctrl-C reaches it, its end ends the caller with its
//! exit code, and when the caller is killed it ends too. From then on nothing connects them. It is a process of its own
//! from its first instruction, so that the ledger names one supervisor, and no thread is lost in a fork.

use std::env;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stderr, getppid, setsid};

use super::folder::TaskFolder;
use crate::inherited;

/// The variable that tells a supervisor where to report, as `DESCRIPTOR:PROCESS`, the process being its caller.
const VARIABLE: &str = "TASKRUN_REPORT";

/// Why a task can't be detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// The supervisor can't be started.
    #[error("The supervisor of a detached task can't be started")]
    Spawn(#[source] io::Error),
    /// The supervisor can't be waited for.
    #[error("The supervisor of a detached task can't be waited for")]
    Wait(#[source] io::Error),
    /// What the environment says can't be.
    #[error("{VARIABLE} is {0:?} in the environment, which taskrun sets for its own processes: unset it")]
    Variable(String),
    /// The caller is gone.
    #[error("The caller ended before the task was started")]
    Orphan,
    /// The terminal can't be left.
    #[error("The supervisor can't leave its caller")]
    Leave(#[source] io::Error),
}

/// What became of a detached task's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// It runs, under this id.
    Running(String),
    /// It failed, was said why, and ends with this exit code.
    Failed(u8),
}

/// Starts the supervisor of a detached task, this program with these arguments, and waits until its command runs.
///
/// # Errors
/// [`DetachError`].
pub fn start() -> Result<Started, DetachError> {
    let (report, write) = io::pipe().map_err(DetachError::Spawn)?;
    let inherit = fcntl(&write, FcntlArg::F_SETFD(FdFlag::empty()));
    inherit.map_err(|error| DetachError::Spawn(error.into()))?;
    let mut arguments = env::args_os();
    let supervisor = Command::new("/proc/self/exe")
        // In lists of processes it has the caller's name.
        .arg0(arguments.next().unwrap_or_else(|| "taskrun".into()))
        .args(arguments)
        .env(VARIABLE, format!("{}:{}", write.as_raw_fd(), std::process::id()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(DetachError::Spawn)?;
    drop(write);
    let mut id = String::new();
    BufReader::new(report).read_line(&mut id).map_err(DetachError::Wait)?;
    match id.strip_suffix('\n') {
        Some(id) => Ok(Started::Running(id.to_owned())),
        None => end(supervisor).map(Started::Failed),
    }
}

fn end(mut supervisor: Child) -> Result<u8, DetachError> {
    let status = supervisor.wait().map_err(DetachError::Wait)?;
    let signal = status.signal();
    let code = status.code().or(signal.map(|signal| signal.saturating_add(128)));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::errors::EXIT_TASKRUN_FAILED))
}

/// Whether this process was started to supervise a detached task.
#[must_use]
pub fn is_supervisor() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// A supervisor's way to say that the task runs.
#[derive(Debug)]
pub struct Report(File);

impl Report {
    /// The report that the environment asks for; `None` when this process supervises nothing in the background.
    ///
    /// # Errors
    /// [`DetachError`].
    pub fn from_environment() -> Result<Option<Self>, DetachError> {
        let Some(value) = env::var_os(VARIABLE) else { return Ok(None) };
        let parsed = value.to_str().and_then(|value| value.split_once(':'));
        let parsed = parsed.and_then(|(fd, caller)| Some((fd.parse::<RawFd>().ok()?, caller.parse::<i32>().ok()?)));
        let refused = || DetachError::Variable(value.to_string_lossy().into_owned());
        let (fd, caller) = parsed.ok_or_else(refused)?;
        // Its program was `exe` for the kernel. It is not worth failing for.
        let _ = set_name(c"taskrun");
        set_pdeathsig(Signal::SIGTERM).map_err(|error| DetachError::Leave(error.into()))?;
        if getppid().as_raw() != caller {
            return Err(DetachError::Orphan);
        }
        inherited::adopt(fd).map(|file| Some(Self(file))).ok_or_else(refused)
    }

    /// Tells the caller that the task runs, and leaves it.
    ///
    /// # Errors
    /// [`DetachError::Leave`].
    pub fn started(mut self, id: &str, folder: &TaskFolder) -> Result<(), DetachError> {
        let leave = |report: &mut File| {
            let messages = folder.open_messages()?;
            set_pdeathsig(None)?;
            setsid()?;
            report.write_all(format!("{id}\n").as_bytes())?;
            dup2_stderr(&messages)?;
            io::Result::Ok(())
        };
        leave(&mut self.0).map_err(DetachError::Leave)
    }
}
