//! Ending tasks, and waiting for their end: `wait`, `stop`, `kill`, `rm`.

use std::io::Write;

use super::{CommandError, Tasks};
use crate::cli::task_args::{KillArgs, RmArgs, StopArgs, WaitArgs};
use crate::ledger::{DesiredStatus, Record, TASKS_FOLDER};
use crate::task::control::{Connection, Request};

/// SIGKILL.
const KILL: i32 = 9;

/// `taskrun wait`: waits for the end of each task and prints its exit code. Gives the exit code.
///
/// # Errors
/// [`CommandError`].
pub fn wait(args: &WaitArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let mut tasks = Tasks::open()?;
    Ok(tasks.each(&args.tasks, |tasks, record| {
        let record = tasks.wait_for_end(record)?;
        let code = record.end.and_then(|end| end.exit_code);
        // A task whose supervisor was killed has no exit code; it was not a success.
        writeln!(out, "{}", code.unwrap_or(255))?;
        Ok(out.flush()?)
    }))
}

/// `taskrun stop`: asks each task to stop, waits for its end and prints its name. Gives the exit code.
///
/// # Errors
/// [`CommandError`].
pub fn stop(args: &StopArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let timeout = args.time.map(|seconds| u64::from(seconds).saturating_mul(1000));
    let mut tasks = Tasks::open()?;
    let mut asked = Vec::new();
    // All are asked before one is waited for.
    let mut exit_code = tasks.each(&args.tasks, |tasks, record| {
        tasks.ask(&record, &Request::Stop { timeout })?;
        asked.push(record.id);
        Ok(())
    });
    exit_code |= tasks.each(&asked, |tasks, record| tasks.wait_for_end(record).map(drop));
    for name in &args.tasks {
        writeln!(out, "{name}")?;
    }
    Ok(exit_code)
}

/// `taskrun kill`: sends a signal to each task's command and prints its name. Gives the exit code.
///
/// # Errors
/// [`CommandError`].
pub fn kill(args: &KillArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let mut tasks = Tasks::open()?;
    Ok(tasks.each(&args.tasks, |tasks, record| {
        if !tasks.ask(&record, &Request::Signal(args.signal))? {
            return Err(CommandError::NotRunning(record.name.unwrap_or(record.id)));
        }
        Ok(writeln!(out, "{}", record.name.unwrap_or(record.id))?)
    }))
}

/// `taskrun rm`: removes tasks that have ended. Their usage stays in the ledger. Gives the exit code.
///
/// # Errors
/// [`CommandError`].
pub fn rm(args: &RmArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let mut tasks = Tasks::open()?;
    Ok(tasks.each(&args.tasks, |tasks, mut record| {
        if record.end.is_none() && args.force {
            tasks.ask(&record, &Request::Signal(KILL))?;
            record = tasks.wait_for_end(record)?;
        }
        if record.end.is_none() {
            return Err(CommandError::Running(record.name.unwrap_or(record.id)));
        }
        tasks.remove(&record)?;
        Ok(writeln!(out, "{}", record.name.unwrap_or(record.id))?)
    }))
}

impl Tasks {
    /// Asks the supervisor of a task. `false` when there is none any more.
    fn ask(&mut self, record: &Record, request: &Request) -> Result<bool, CommandError> {
        if record.end.is_some() {
            return Ok(false);
        }
        if matches!(request, Request::Stop { .. } | Request::Signal(KILL)) {
            self.ledger.desire(&record.id, DesiredStatus::Stopped)?;
        }
        let failed = |source| CommandError::Supervisor { task: record.id.clone(), source };
        match Connection::open(self.folder(record).path()).map_err(failed)? {
            Some(mut connection) => connection.ask(request).map_err(failed),
            None => Ok(false),
        }
    }

    /// Waits until a task has its end in the ledger. Gives it.
    fn wait_for_end(&mut self, record: Record) -> Result<Record, CommandError> {
        let failed = |source| CommandError::Supervisor { task: record.id.clone(), source };
        if record.end.is_none()
            && let Some(connection) = Connection::open(self.folder(&record).path()).map_err(failed)?
        {
            connection.wait_for_end(None).map_err(failed)?;
        }
        // A supervisor that was killed has entered nothing.
        self.ledger.settle(&self.home.join(TASKS_FOLDER))?;
        Ok(self.ledger.find(&record.id)?)
    }

    /// Removes a task that has ended.
    pub(super) fn remove(&mut self, record: &Record) -> Result<(), CommandError> {
        self.ledger.remove(&record.id)?;
        self.folder(record).remove().map_err(|source| CommandError::Remove { task: record.id.clone(), source })
    }
}
