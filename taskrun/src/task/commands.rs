//! The commands that look after tasks: `ps`, `inspect`, `logs`, `wait`, `stop`, `kill`, `rm`.
//!
//! Each first settles what tasks of supervisors that died are owed an end, so that none prints a dead task as running.
//! Several tasks may be named; one that fails doesn't keep the others from being done.

mod ends;
mod logs;
mod ps;

use std::io;
use std::path::PathBuf;

pub use self::ends::{kill, rm, stop, wait};
pub use self::logs::logs;
pub use self::ps::{inspect, ps};
use super::filter::FilterError;
use super::folder::TaskFolder;
use super::format::FormatError;
use crate::cpu;
use crate::errors;
use crate::ledger::{self, HomeError, Ledger, LedgerError, Record, TASKS_FOLDER};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no place for tasks.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The template of `--format`.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A task that has no log.
    #[error("The task {0} has no log: it ran in the foreground, and its output went to its caller")]
    NoLog(String),
    /// The log can't be read.
    #[error("The log of the task {task} can't be read")]
    Log {
        /// The task.
        task: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The supervisor can't be asked.
    #[error("The supervisor of the task {task} can't be reached")]
    Supervisor {
        /// The task.
        task: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The task doesn't run.
    #[error("The task {0} isn't running")]
    NotRunning(String),
    /// The task runs.
    #[error("The task {0} is running: stop it first, or remove it with --force")]
    Running(String),
    /// The task's files can't be removed.
    #[error("The files of the task {task} can't be removed")]
    Remove {
        /// The task.
        task: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer can't be printed.
    #[error("The answer can't be written")]
    Print(#[from] io::Error),
}

/// The tasks of a user.
#[derive(Debug)]
pub struct Tasks {
    home: PathBuf,
    ledger: Ledger,
}

impl Tasks {
    /// Opens the ledger, and ends in it what has ended.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn open() -> Result<Self, CommandError> {
        let home = ledger::home::resolve()?;
        let mut ledger = Ledger::open(&home)?;
        ledger.settle(&home.join(TASKS_FOLDER))?;
        ledger.sweep(&home.join(TASKS_FOLDER))?;
        cpu::cgroup::sweep(&home);
        Ok(Self { home, ledger })
    }

    fn folder(&self, record: &Record) -> TaskFolder {
        TaskFolder::of(&self.home, &record.id)
    }

    /// Does something to each of these tasks. Gives the exit code: 1 when one failed, and was told why.
    fn each(&mut self, names: &[String], mut act: impl FnMut(&mut Self, Record) -> Result<(), CommandError>) -> u8 {
        let mut exit_code = 0;
        for name in names {
            let record = self.ledger.find(name).map_err(CommandError::from);
            if let Err(error) = record.and_then(|record| act(self, record)) {
                errors::say(&errors::chain(&error));
                exit_code = 1;
            }
        }
        exit_code
    }
}
