//! The ledger: what every task was allocated, for how long, and so what it cost.
//!
//! One SQLite file, `ledger.sqlite3` in taskrun's home ([`home`]), that many processes write at once: write-ahead log,
//! each change one transaction. A row is written when a task is admitted, before its work, and completed at its end; both
//! are on disk before the call returns. What happens in between ([`Ledger::reach`]) is an event of its own, in the file
//! before the call returns and on the disk soon after. A task whose supervisor died is completed by the next command
//! ([`Ledger::settle`]) from its [`heartbeat`].
//!
//! Invariants, which the schema checks too: a task is in the ledger once and stays there; what it was allocated doesn't
//! change; its end is entered once and is final; what is billed follows from its size, its events and the rules that
//! were in force at its admission alone ([`billing`]), and no change of the wall clock changes it ([`clock`]).
//!
//! # The file, for other readers
//! - Table `task`: `id` (32 hexadecimal digits), `name`, `image`, `digest`, `labels` (a JSON object), `cpu_units` (1024 are
//!   a vCPU), `memory_mib`, `storage_mib`, `status`, `started_at` and `stopped_at` (milliseconds since 1970 UTC),
//!   `exit_code`, `stop_code`, `reason`, `settled`, `elapsed_ns`, `billed_seconds`, `cpu_enforcement`; what was used: `cpu_ns`,
//!   `peak_memory_bytes`, `bytes_in`, `bytes_out`; and, computed, `cpu_unit_seconds`, `memory_mib_seconds`,
//!   `storage_mib_seconds` and the exact quotients `vcpu_seconds` and `gb_seconds`.
//! - Table `event`: `task`, `kind` (a status or a time stamp, see [`status`]), `wall_ms`, `boottime_ns`, `boot_id`.

pub mod billing;
mod changes;
pub mod clock;
mod error;
pub mod heartbeat;
pub mod home;
mod lookup;
pub mod process;
mod record;
mod rows;
mod schema;
mod settle;
pub mod status;
mod sweep;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::Connection;

use self::billing::Rules;
use self::changes::{Admitted, Closing};
use self::clock::Moment;
pub use self::error::LedgerError;
pub use self::heartbeat::Heartbeat;
pub use self::home::HomeError;
pub use self::lookup::Filter;
pub use self::process::Process;
pub use self::record::{Admission, End, NewTask, Outcome, Record, Stamps, Used};
pub use self::status::{DesiredStatus, Event, Stamp, Status, StopCode};
pub use self::verify::Disagreement;
use crate::config::Config;

/// The name of the ledger in taskrun's home.
pub const FILE_NAME: &str = "ledger.sqlite3";

/// The name of the folder in taskrun's home that has a folder for each task, with its heartbeat.
pub const TASKS_FOLDER: &str = "tasks";

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    rules: Rules,
}

impl Ledger {
    /// Opens the ledger in the directory `home`, and makes both when they don't exist. How the time of tasks is counted
    /// that are admitted with it is in the configuration there.
    ///
    /// # Errors
    /// [`LedgerError`], when the directory can't be made, the configuration is wrong, or the file is not a ledger of this
    /// version or an older one.
    pub fn open(home: &Path) -> Result<Self, LedgerError> {
        let rules = Config::load(home)?.billing.rules();
        home::create(home).map_err(|source| LedgerError::Directory { path: home.into(), source })?;
        schema::open(home).map(|connection| Self { connection, path: home.join(FILE_NAME), rules })
    }

    /// Opens the ledger in the directory `home` if there is one, and makes nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(home: &Path) -> Result<Option<Self>, LedgerError> {
        let exists = fs::exists(home.join(FILE_NAME));
        let exists = exists.map_err(|source| LedgerError::Directory { path: home.into(), source })?;
        exists.then(|| Self::open(home)).transpose()
    }

    /// Enters a task as admitted now (PROVISIONING), before anything is done for it.
    ///
    /// # Errors
    /// [`LedgerError::NameTaken`], and [`LedgerError::Admit`], also when the task is in the ledger already.
    pub fn admit(&mut self, task: &NewTask) -> Result<Admission, LedgerError> {
        self.admit_at(task, now()?)
    }

    fn admit_at(&mut self, task: &NewTask, now: Moment) -> Result<Admission, LedgerError> {
        let admitted = changes::admit(&mut self.connection, task, self.rules, now);
        match admitted.map_err(|source| LedgerError::Admit { id: task.id.clone(), path: self.path.clone(), source })? {
            Admitted::Yes => Ok(Admission { created_at: now.wall }),
            Admitted::NameTaken(id) => Err(LedgerError::NameTaken { name: task.name.clone().unwrap_or_default(), id }),
        }
    }

    /// Says which image a task runs.
    ///
    /// # Errors
    /// [`LedgerError::NotOpen`] and [`LedgerError::Change`].
    pub fn image(&mut self, id: &str, digest: &str) -> Result<(), LedgerError> {
        self.quickly(id, |connection| changes::image(connection, id, digest))
    }

    /// Says who holds a task to its share of processors.
    ///
    /// # Errors
    /// [`LedgerError::NotOpen`] and [`LedgerError::Change`].
    pub fn enforcement(&mut self, id: &str, enforcement: &str) -> Result<(), LedgerError> {
        self.quickly(id, |connection| changes::enforcement(connection, id, enforcement))
    }

    /// Enters that a task reached a status, or another point in its life, now. Each counts once, and a task doesn't go
    /// back: what was reached already, or passed, changes nothing. STOPPED is entered by [`Self::finish`] alone. Gives the time.
    ///
    /// # Errors
    /// [`LedgerError::NotOpen`], [`LedgerError::OnlyFinish`] for STOPPED, and [`LedgerError::Change`].
    pub fn reach(&mut self, id: &str, event: impl Into<Event>) -> Result<Timestamp, LedgerError> {
        match event.into() {
            Event::Status(Status::Stopped) | Event::Stamp(Stamp::Settled) => {
                Err(LedgerError::OnlyFinish { id: id.into() })
            }
            event => {
                let now = now()?;
                self.reach_at(id, event, now).map(|()| now.wall)
            }
        }
    }

    fn reach_at(&mut self, id: &str, event: Event, now: Moment) -> Result<(), LedgerError> {
        self.quickly(id, |connection| changes::reach(connection, id, event, now))
    }

    /// Enters what is wanted of a task. The end of a task that was to stop is its user's doing, should it be settled.
    ///
    /// # Errors
    /// [`LedgerError::NotOpen`] and [`LedgerError::Change`].
    pub fn desire(&mut self, id: &str, desired: DesiredStatus) -> Result<(), LedgerError> {
        self.quickly(id, |connection| changes::desire(connection, id, desired))
    }

    /// Makes a change that needn't be on disk at once: it is lost only with the host, and what follows is lost with it.
    fn quickly(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Connection) -> rusqlite::Result<bool>,
    ) -> Result<(), LedgerError> {
        let changed = schema::set_durable(&self.connection, false).and_then(|()| change(&mut self.connection));
        let durable = schema::set_durable(&self.connection, true);
        let changed = changed.and_then(|changed| durable.map(|()| changed));
        match changed.map_err(|source| LedgerError::Change { id: id.into(), source })? {
            true => Ok(()),
            false => Err(LedgerError::NotOpen { id: id.into() }),
        }
    }

    /// Enters the end of a task, now. Returns the completed row.
    ///
    /// # Errors
    /// [`LedgerError::NotOpen`] when the task was never admitted, or has an end already; that end stays.
    pub fn finish(&mut self, id: &str, outcome: &Outcome) -> Result<Record, LedgerError> {
        self.finish_at(id, outcome, now()?)
    }

    fn finish_at(&mut self, id: &str, outcome: &Outcome, at: Moment) -> Result<Record, LedgerError> {
        let finish = |connection: &mut Connection| {
            let transaction = changes::begin(connection)?;
            let record = changes::close(&transaction, &Closing { id, outcome, at, settled_at: None })?;
            transaction.commit().map(|()| record)
        };
        finish(&mut self.connection)
            .map_err(|source| LedgerError::Finish { id: id.into(), source })?
            .ok_or_else(|| LedgerError::NotOpen { id: id.into() })
    }

    /// Enters the ends of all tasks whose supervisors have died, from what they left behind in `tasks_folder`. Each is
    /// returned by one call only, however many are made at once. See [`settle`].
    ///
    /// # Errors
    /// [`LedgerError::Settle`].
    pub fn settle(&mut self, tasks_folder: &Path) -> Result<Vec<Record>, LedgerError> {
        let now = now()?;
        settle::settle(&mut self.connection, tasks_folder, now).map_err(LedgerError::Settle)
    }

    /// Removes the folders in `tasks_folder` that belong to no task, as supervisors leave them that die before their tasks are
    /// entered. See [`sweep`].
    ///
    /// # Errors
    /// [`LedgerError::Settle`].
    pub fn sweep(&self, tasks_folder: &Path) -> Result<(), LedgerError> {
        sweep::sweep(&self.connection, tasks_folder).map_err(LedgerError::Settle)
    }

    /// Hides a task that has ended from lists and frees its name. Its row stays.
    ///
    /// # Errors
    /// [`LedgerError::StillOpen`], [`LedgerError::NotFound`] and [`LedgerError::Change`].
    pub fn remove(&mut self, id: &str) -> Result<(), LedgerError> {
        let removed = changes::remove(&self.connection, id);
        if removed.map_err(|source| LedgerError::Change { id: id.into(), source })? {
            return Ok(());
        }
        let known = lookup::exists(&self.connection, id).map_err(LedgerError::List)?;
        Err(if known { LedgerError::StillOpen { id: id.into() } } else { LedgerError::NotFound(id.into()) })
    }

    /// The task with this name or id, or with the only id that starts so. Those that were removed are not found.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`], [`LedgerError::Ambiguous`] and [`LedgerError::List`].
    pub fn find(&self, name_or_id: &str) -> Result<Record, LedgerError> {
        lookup::find(&self.connection, name_or_id)
    }

    /// The task with this id, also when it was removed.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] and [`LedgerError::List`].
    pub fn get(&self, id: &str) -> Result<Record, LedgerError> {
        let found =
            rows::records(&self.connection, "WHERE id = :id", &[(":id", &id)]).map_err(LedgerError::List)?.pop();
        found.ok_or_else(|| LedgerError::NotFound(id.into()))
    }

    /// Tasks, in the order in which they were admitted.
    ///
    /// # Errors
    /// [`LedgerError::List`].
    pub fn list(&self, filter: &Filter) -> Result<Vec<Record>, LedgerError> {
        lookup::list(&self.connection, filter).map_err(LedgerError::List)
    }

    /// How long tasks took from their admission to their command, in nanoseconds.
    ///
    /// # Errors
    /// [`LedgerError::List`].
    pub fn start_latencies(&self) -> Result<Vec<u64>, LedgerError> {
        lookup::start_latencies(&self.connection).map_err(LedgerError::List)
    }

    /// Recomputes every row from its events. Returns how many tasks there are, and what disagrees.
    ///
    /// # Errors
    /// [`LedgerError::List`].
    pub fn verify(&self) -> Result<(usize, Vec<Disagreement>), LedgerError> {
        verify::verify(&self.connection).map_err(LedgerError::List)
    }
}

fn now() -> Result<Moment, LedgerError> {
    Moment::now().map_err(LedgerError::Clock)
}

#[cfg(test)]
mod tests;
