//! The ledger: what every task was allocated, for how long, and so what it cost.
//!
//! One SQLite file, `ledger.sqlite3` in taskrun's home ([`home`]), that many processes write at once: write-ahead log,
//! each change one transaction that is on disk before the call returns. A row is written when a task is admitted,
//! before its work, and completed at its end; a task whose process died in between stays in the ledger as a row
//! without an end, never as nothing.
//!
//! Invariants, which the schema checks too: a task is in the ledger once; it is completed at most once; what is billed
//! follows from its size and times alone ([`billing`]).
//!
//! # The file, for other readers
//! Table `task`: `id` (32 hexadecimal digits), `image`, `digest`, `cpu_units` (1024 are a vCPU), `memory_mib`,
//! `started_at` and `stopped_at` (milliseconds since 1970 UTC), `exit_code`, `reason`, `billed_seconds`, and, computed,
//! `vcpu_seconds` and `gb_seconds`. They divide by 1024, so they are exact.

pub mod billing;
pub mod home;
mod record;
mod schema;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, named_params};

pub use self::home::HomeError;
pub use self::record::{End, NewTask, Outcome, Record};

/// The name of the ledger in taskrun's home.
pub const FILE_NAME: &str = "ledger.sqlite3";

/// How long a change waits for those of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the ledger can't be used. Paths are shown as they are.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The directory can't be made.
    #[error("The directory {path} can't be made; set TASKRUN_HOME to one that can", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file can't be opened.
    #[error("The ledger {path} can't be opened", path = .path.display())]
    Open {
        /// The ledger.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// The lock file beside the ledger can't be used.
    #[error("The ledger's lock {path} can't be taken", path = .path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file was written by a taskrun that knows more.
    #[error("The ledger {path} was written by a newer taskrun (schema {found}; this one knows {known})", path = .path.display())]
    Newer {
        /// The ledger.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
    /// A task can't be written down.
    #[error("The task {id} can't be entered in the ledger")]
    Admit {
        /// The task.
        id: String,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// A task can't be completed.
    #[error("The end of the task {id} can't be entered in the ledger")]
    Finish {
        /// The task.
        id: String,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// A task that is not open.
    #[error("The task {id} is not in the ledger, or has an end already")]
    NotOpen {
        /// The task.
        id: String,
    },
    /// Rows can't be read.
    #[error("The ledger can't be read")]
    List(#[source] rusqlite::Error),
}

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
}

impl Ledger {
    /// Opens the ledger in the directory `home`, and makes both when they don't exist.
    ///
    /// # Errors
    /// [`LedgerError`], when the directory can't be made or the file is not a ledger of this version or an older one.
    pub fn open(home: &Path) -> Result<Self, LedgerError> {
        home::create(home).map_err(|source| LedgerError::Directory { path: home.into(), source })?;
        schema::open(home).map(|connection| Self { connection })
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

    /// Enters a task as admitted now. Returns that time, from which on it is billed.
    ///
    /// # Errors
    /// [`LedgerError::Admit`], also when the task is in the ledger already.
    pub fn admit(&mut self, task: &NewTask) -> Result<Timestamp, LedgerError> {
        let now = record::now();
        self.admit_at(task, now).map_err(|source| LedgerError::Admit { id: task.id.clone(), source })?;
        Ok(now)
    }

    /// Enters the end of a task, now. Returns the completed row.
    ///
    /// # Errors
    /// [`LedgerError::NotOpen`] when the task was never admitted, or has an end already; that end stays.
    pub fn finish(&mut self, id: &str, outcome: &Outcome) -> Result<Record, LedgerError> {
        let finished = self.finish_at(id, outcome, record::now());
        finished
            .map_err(|source| LedgerError::Finish { id: id.into(), source })?
            .ok_or_else(|| LedgerError::NotOpen { id: id.into() })
    }

    /// All tasks, in the order in which they were admitted.
    ///
    /// # Errors
    /// [`LedgerError::List`].
    pub fn list(&self) -> Result<Vec<Record>, LedgerError> {
        let list = |connection: &Connection| {
            let mut statement = connection.prepare(LIST)?;
            statement.query_map([], record)?.collect::<Result<_, _>>()
        };
        list(&self.connection).map_err(LedgerError::List)
    }

    fn admit_at(&self, task: &NewTask, now: Timestamp) -> Result<(), rusqlite::Error> {
        let parameters = named_params! {
            ":id": task.id,
            ":image": task.image,
            ":digest": task.digest,
            ":cpu_units": task.cpu_units,
            ":memory_mib": task.memory_mib,
            ":started_at": now.as_millisecond(),
        };
        self.connection.execute(ADMIT, parameters).map(drop)
    }

    fn finish_at(&mut self, id: &str, outcome: &Outcome, now: Timestamp) -> Result<Option<Record>, rusqlite::Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some(open) = transaction.query_row(FIND_OPEN, [id], record).optional()? else { return Ok(None) };
        let (stopped_at, billed_seconds) = billing::settle(open.started_at, now);
        let parameters = named_params! {
            ":id": id,
            ":stopped_at": stopped_at.as_millisecond(),
            ":exit_code": outcome.exit_code,
            ":reason": outcome.reason,
            ":billed_seconds": i64::try_from(billed_seconds).unwrap_or(i64::MAX),
        };
        transaction.execute(FINISH, parameters)?;
        transaction.commit()?;
        let end = End { stopped_at, exit_code: outcome.exit_code, reason: outcome.reason.clone(), billed_seconds };
        Ok(Some(Record { end: Some(end), ..open }))
    }
}

const ADMIT: &str = "INSERT INTO task (id, image, digest, cpu_units, memory_mib, started_at)
    VALUES (:id, :image, :digest, :cpu_units, :memory_mib, :started_at)";

const FINISH: &str = "UPDATE task SET stopped_at = :stopped_at, exit_code = :exit_code, reason = :reason,
    billed_seconds = :billed_seconds WHERE id = :id";

const LIST: &str = "SELECT * FROM task ORDER BY started_at, rowid";

const FIND_OPEN: &str = "SELECT * FROM task WHERE id = ?1 AND stopped_at IS NULL";

/// Reads a row.
fn record(row: &Row<'_>) -> Result<Record, rusqlite::Error> {
    let end = row.get("stopped_at")?;
    let end = Option::map(end, |stopped_at: i64| {
        Ok::<_, rusqlite::Error>(End {
            stopped_at: record::timestamp(stopped_at),
            exit_code: row.get("exit_code")?,
            reason: row.get("reason")?,
            billed_seconds: u64::try_from(row.get::<_, i64>("billed_seconds")?).unwrap_or(0),
        })
    });
    Ok(Record {
        id: row.get("id")?,
        image: row.get("image")?,
        digest: row.get("digest")?,
        cpu_units: row.get("cpu_units")?,
        memory_mib: row.get("memory_mib")?,
        started_at: record::timestamp(row.get("started_at")?),
        end: end.transpose()?,
    })
}

#[cfg(test)]
mod tests;
