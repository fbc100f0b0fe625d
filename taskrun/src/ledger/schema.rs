//! The ledger's file: opening it, and bringing it to the newest schema.
//!
//! `PRAGMA user_version` counts the migrations that a file has had. Processes that find an old file queue up at a lock
//! file beside it, because SQLite doesn't wait when two of them switch a new file to the write-ahead log at once.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{BUSY_TIMEOUT, FILE_NAME, LedgerError};

/// The name of the lock file in taskrun's home.
const LOCK_NAME: &str = "ledger.lock";

/// The migrations, in order; each leads from the schema of its place to the next.
const MIGRATIONS: [&str; 1] = [include_str!("schema-1.sql")];

/// A ledger of the newest schema.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
}

/// Opens the ledger in the directory `home`.
pub(super) fn open(home: &Path) -> Result<Opened, LedgerError> {
    let path = home.join(FILE_NAME);
    let error = |source| LedgerError::Open { path: path.clone(), source };
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let mut connection = Connection::open(&path).map_err(error)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(error)?;
    let mut found = version(&connection).map_err(error)?;
    if found < known {
        let lock = home.join(LOCK_NAME);
        let lock_error = |source| LedgerError::Lock { path: lock.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let file = file.map_err(lock_error)?;
        file.lock().map_err(lock_error)?;
        migrate(&mut connection).map_err(error)?;
        found = version(&connection).map_err(error)?;
    }
    if found > known {
        return Err(LedgerError::Newer { path, found, known });
    }
    // On disk before the call returns: a task that was admitted must not be forgotten.
    connection.pragma_update(None, "synchronous", "FULL").map_err(error)?;
    Ok(Opened { connection })
}

/// How many migrations the file has had.
fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Applies the migrations that the file has not had. Only one process at a time is here.
fn migrate(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = usize::try_from(version(&transaction)?).unwrap_or(0);
    for (done, migration) in (1_i64..).zip(MIGRATIONS).skip(found) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", done)?;
    }
    transaction.commit()
}
