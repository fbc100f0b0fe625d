//! Why the ledger can't be used.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

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
        source: io::Error,
    },
    /// The configuration, which says how time is counted.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file can't be opened.
    #[error("The ledger {path} can't be opened", path = .path.display())]
    Open {
        /// The ledger.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// Its directory can't be written.
    #[error("The directory {path} of the ledger can't be written; set TASKRUN_HOME to one that can", path = .path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// There is no room for it.
    #[error("The file system of the ledger {path} is full: make room, or set TASKRUN_HOME to another place", path = .path.display())]
    Full {
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
        source: io::Error,
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
    /// There is no clock to bill by.
    #[error("The time since the host's boot can't be read")]
    Clock(#[source] io::Error),
    /// A task can't be written down.
    #[error("The task {id} can't be entered in the ledger {path}, so it is not run", path = .path.display())]
    Admit {
        /// The task.
        id: String,
        /// The ledger.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// Another task has the name.
    #[error("The name {name} is taken by the task {id}: remove that with `taskrun rm {name}`, or choose another")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// What happened to a task can't be written down.
    #[error("What happened to the task {id} can't be entered in the ledger")]
    Change {
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
    /// Tasks whose supervisors died can't be completed.
    #[error("The tasks whose supervisors have died can't be settled in the ledger")]
    Settle(#[source] rusqlite::Error),
    /// A task that is not open.
    #[error("The task {id} is not in the ledger, or has an end already")]
    NotOpen {
        /// The task.
        id: String,
    },
    /// An end that was not entered as one.
    #[error("The task {id} can't be stopped in the ledger without its outcome")]
    OnlyFinish {
        /// The task.
        id: String,
    },
    /// A task that has not ended.
    #[error("The task {id} has not ended: stop it first")]
    StillOpen {
        /// The task.
        id: String,
    },
    /// No task is called so.
    #[error("There is no task {0}: `taskrun ps -a` lists all")]
    NotFound(String),
    /// Several tasks could be meant.
    #[error("{count} tasks have ids that start with {prefix}: write more of it")]
    Ambiguous {
        /// What was written.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// Rows can't be read.
    #[error("The ledger can't be read")]
    List(#[source] rusqlite::Error),
}
