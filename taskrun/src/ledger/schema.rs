//! The ledger's file: opening it with the newest schema.

use std::path::Path;

use rusqlite::Connection;
use sqlite::OpenError;

use super::{BUSY_TIMEOUT, FILE_NAME, LedgerError};

/// The name of the lock file in taskrun's home.
const LOCK_NAME: &str = "ledger.lock";

/// The migrations, in order; each leads from the schema of its place to the next.
const MIGRATIONS: [&str; 1] = [include_str!("schema-1.sql")];

/// Opens the ledger in the directory `home`.
pub(super) fn open(home: &Path) -> Result<Connection, LedgerError> {
    let path = home.join(FILE_NAME);
    let lock = home.join(LOCK_NAME);
    let connection = sqlite::open(&path, &lock, &MIGRATIONS, BUSY_TIMEOUT).map_err(|error| match error {
        OpenError::Database(source) => LedgerError::Open { path: path.clone(), source },
        OpenError::Lock(source) => LedgerError::Lock { path: lock.clone(), source },
        OpenError::Newer { found, known } => LedgerError::Newer { path: path.clone(), found, known },
    })?;
    // On disk before the call returns: a task that was admitted must not be forgotten.
    let durable = connection.pragma_update(None, "synchronous", "FULL");
    durable.map_err(|source| LedgerError::Open { path, source })?;
    Ok(connection)
}
