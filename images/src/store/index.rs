//! The store's index: opening, reading and changing it.
//!
//! Changes are committed without waiting for the disk (`synchronous = NORMAL`): what a power failure takes back is a
//! name or a time, and the files that it named are still right. What removes files waits ([`Index::durable`]): a row
//! must not come back when its files don't.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use sqlite::OpenError;

use super::error::StoreError;

/// The name of the index in the store.
const FILE_NAME: &str = "index.db";

/// The name of the lock file in the store.
const LOCK_NAME: &str = "index.lock";

/// How long a change waits for those of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// The migrations, in order; each leads from the schema of its place to the next.
const MIGRATIONS: [&str; 1] = [include_str!("schema-1.sql")];

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Index {
    /// Opens the index of the store in `root`.
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        let path = root.join(FILE_NAME);
        let lock = root.join(LOCK_NAME);
        let connection = sqlite::open(&path, &lock, &MIGRATIONS, BUSY_TIMEOUT).map_err(|error| match error {
            OpenError::Database(source) => explain(&path, source),
            OpenError::Lock(source) => super::error::file(&lock, "locked")(source),
            OpenError::Newer { found, known } => StoreError::Newer { path: path.clone(), found, known },
        })?;
        connection.pragma_update(None, "foreign_keys", "ON").map_err(|source| explain(&path, source))?;
        Ok(Self { connection: Mutex::new(connection), path })
    }

    /// Reads.
    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        query(&self.connection()).map_err(|source| explain(&self.path, source))
    }

    /// Makes a change, all of it or nothing. It must not wait for a file's lock.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.decide(false, |transaction| change(transaction).map(Ok))
    }

    /// Makes a change that is on disk before the call returns, unless `change` decides against it.
    pub(super) fn durable<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.decide(true, change)
    }

    fn decide<T>(
        &self,
        durable: bool,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        // Held throughout: another thread's change must not be made as this one.
        let mut connection = self.connection();
        let run = || {
            connection.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = change(&transaction)?;
            if result.is_ok() { transaction.commit() } else { transaction.rollback() }?;
            Ok(result)
        };
        run().map_err(|source| explain(&self.path, source))?
    }

    /// A panic in the middle of a change rolled it back: the connection is as good as before.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time as the index has it.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time of the index.
pub(super) fn time(milliseconds: i64) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

/// Tells a broken index, a full disk and other problems apart.
fn explain(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged { path, source },
        Some(ErrorCode::DiskFull) => {
            let directory = path.parent().unwrap_or(&path).into();
            StoreError::Full { directory, needed: None, source: std::io::Error::other(source) }
        }
        _ => StoreError::Index { path, source },
    }
}
