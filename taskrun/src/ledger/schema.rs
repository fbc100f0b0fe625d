//! The ledger's file: opening it with the newest schema.

use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, geteuid};
use rusqlite::Connection;
use sqlite::OpenError;

use super::{FILE_NAME, LedgerError};

/// How long a change waits for those of other processes: for so many times so long.
const BUSY_TRIES: i32 = 30_000;
const BUSY_DELAY: Duration = Duration::from_millis(2);

/// The bytes that SQLite needs for what it keeps beside the file (its shared memory), roughly.
const LEAST_ROOM: u64 = 128 << 10;

/// How much of the file may be kept in memory, as `PRAGMA cache_size` has it: 64 MiB. The events of tasks are looked up in any
/// order; with the 2 MiB that SQLite has by default each page of a long ledger is read again and again.
const CACHE: i64 = -65_536;

/// How long opening waits.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// The name of the lock file in taskrun's home.
const LOCK_NAME: &str = "ledger.lock";

/// The migrations, in order; each leads from the schema of its place to the next.
pub(super) const MIGRATIONS: [&str; 3] =
    [include_str!("schema-1.sql"), include_str!("schema-2.sql"), include_str!("schema-3.sql")];

/// Opens the ledger in the directory `home`.
pub(super) fn open(home: &Path) -> Result<Connection, LedgerError> {
    let path = home.join(FILE_NAME);
    let lock = home.join(LOCK_NAME);
    let mut connection = sqlite::open(&path, &lock, &MIGRATIONS, BUSY_TIMEOUT).map_err(|error| match error {
        OpenError::Database(source) => explained(home, source),
        OpenError::Lock(source) => LedgerError::Lock { path: lock.clone(), source },
        OpenError::Newer { found, known } => LedgerError::Newer { path: path.clone(), found, known },
    })?;
    let waits = connection.busy_handler(Some(wait));
    waits.map_err(|source| explained(home, source))?;
    let prepared = connection.pragma_update(None, "cache_size", CACHE).and_then(|()| set_durable(&connection, true));
    prepared.map_err(|source| explained(home, source))?;
    Ok(connection)
}

/// Why the ledger can't be opened. SQLite's own words for a directory that can't be written and a disk that is full are
/// "unable to open database file" and "disk I/O error".
fn explained(home: &Path, source: rusqlite::Error) -> LedgerError {
    let path = home.join(FILE_NAME);
    if let Err(error) = access(home, AccessFlags::W_OK) {
        return LedgerError::NotWritable { path: home.to_owned(), source: error.into() };
    }
    let is_full = statvfs(home).is_ok_and(|state| {
        let left = if geteuid().is_root() { state.blocks_free() } else { state.blocks_available() };
        left.saturating_mul(state.fragment_size()) < LEAST_ROOM
    });
    if is_full { LedgerError::Full { path, source } } else { LedgerError::Open { path, source } }
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
