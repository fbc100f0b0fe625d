//! The ledger's file: opening it with the newest schema.

use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use sqlite::OpenError;

use super::{FILE_NAME, LedgerError};

/// How long a change waits for those of other processes: for so many times so long.
const BUSY_TRIES: i32 = 30_000;
const BUSY_DELAY: Duration = Duration::from_millis(2);

/// How long opening waits.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// The name of the lock file in taskrun's home.
const LOCK_NAME: &str = "ledger.lock";

/// The migrations, in order; each leads from the schema of its place to the next.
pub(super) const MIGRATIONS: [&str; 2] = [include_str!("schema-1.sql"), include_str!("schema-2.sql")];

/// Opens the ledger in the directory `home`.
pub(super) fn open(home: &Path) -> Result<Connection, LedgerError> {
    let path = home.join(FILE_NAME);
    let lock = home.join(LOCK_NAME);
    let mut connection = sqlite::open(&path, &lock, &MIGRATIONS, BUSY_TIMEOUT).map_err(|error| match error {
        OpenError::Database(source) => LedgerError::Open { path: path.clone(), source },
        OpenError::Lock(source) => LedgerError::Lock { path: lock.clone(), source },
        OpenError::Newer { found, known } => LedgerError::Newer { path: path.clone(), found, known },
    })?;
    let waits = connection.busy_handler(Some(wait));
    waits.map_err(|source| LedgerError::Open { path: path.clone(), source })?;
    set_durable(&connection, true).map_err(|source| LedgerError::Open { path, source })?;
    Ok(connection)
}

/// Waits for another process's change. SQLite's own waiting sleeps longer and longer, so that among many that write, who
/// has waited longest comes last.
fn wait(tries: i32) -> bool {
    thread::sleep(BUSY_DELAY);
    tries < BUSY_TRIES
}

/// Whether a change is on disk before its call returns: a task that was admitted must not be forgotten.
pub(super) fn set_durable(connection: &Connection, durable: bool) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })
}
