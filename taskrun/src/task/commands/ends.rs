//! Ending tasks, and waiting for their end: `wait`, `stop`, `kill`, `rm`.

use std::io::Write;
use std::thread;
use std::time::Duration;

use super::{CommandError, Tasks};
use crate::cli::task_args::{KillArgs, RmArgs, StopArgs, WaitArgs};
use crate::errors;
use crate::ledger::{DesiredStatus, LedgerError, Record, TASKS_FOLDER};
use crate::task::control::{Connection, Request};

/// SIGKILL.
const KILL: i32 = 9;

/// How long a supervisor that was killed is at most on its way out before it is looked at again.
const DYING: Duration = Duration::from_millis(20);

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
        asked.push(record);
        Ok(())
    });
    for record in asked {
        let name = called(&record);
        match tasks.wait_for_end(record) {
            Ok(_) => writeln!(out, "{name}")?,
            Err(error) => {
                errors::say(&errors::chain(&error));
                exit_code = 1;
            }
        }
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
            return Err(CommandError::NotRunning(called(&record)));
        }
        Ok(writeln!(out, "{}", called(&record))?)
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
            return Err(CommandError::Running(called(&record)));
        }
        tasks.remove(&record)?;
        Ok(writeln!(out, "{}", called(&record))?)
    }))
}

/// What a user calls it.
fn called(record: &Record) -> String {
    record.name.as_ref().unwrap_or(&record.id).clone()
}

impl Tasks {
    /// Asks the supervisor of a task. `false` when there is none any more.
    fn ask(&mut self, record: &Record, request: &Request) -> Result<bool, CommandError> {
        if record.end.is_some() {
            return Ok(false);
        }
        if matches!(request, Request::Stop { .. } | Request::Signal(KILL)) {
            match self.ledger.desire(&record.id, DesiredStatus::Stopped) {
                // It ended meanwhile.
                Err(LedgerError::NotOpen { .. }) => return Ok(false),
                result => result?,
            }
        }
        let failed = |source| CommandError::Supervisor { task: record.id.clone(), source };
        match Connection::open(self.folder(record).path()).map_err(failed)? {
            Some(mut connection) => connection.ask(request).map_err(failed),
            None => Ok(false),
        }
    }

    /// Waits until a task has its end in the ledger. Gives it.
    fn wait_for_end(&mut self, mut record: Record) -> Result<Record, CommandError> {
        while record.end.is_none() {
            let failed = |source| CommandError::Supervisor { task: record.id.clone(), source };
            if let Some(connection) = Connection::open(self.folder(&record).path()).map_err(failed)? {
                connection.wait_for_end(None).map_err(failed)?;
            }
            // A supervisor that was killed has entered nothing, and its connections end before the process does.
            self.ledger.settle(&self.home.join(TASKS_FOLDER))?;
            // Also when it was removed at its end.
            record = self.ledger.get(&record.id)?;
            if record.end.is_none() {
                thread::sleep(DYING);
            }
        }
        Ok(record)
    }

    /// Removes a task that has ended.
    pub(super) fn remove(&mut self, record: &Record) -> Result<(), CommandError> {
        // The ledger last: a task whose removal was cut short can be removed again.
        self.folder(record).remove().map_err(|source| CommandError::Remove { task: record.id.clone(), source })?;
        Ok(self.ledger.remove(&record.id)?)
    }
}
