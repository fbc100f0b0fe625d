//! SQLite files whose schema grows with the program, opened by many processes at once.
//!
//! `PRAGMA user_version` counts the migrations that a file has had. Processes that find an old file queue up at a lock
//! file beside it, because SQLite doesn't wait when two of them switch a new file to the write-ahead log at once. A file
//! that had more migrations than the program knows is refused, and never written to.
//!
//! A short write-ahead log stays when the last process closes the file. SQLite, if it isn't told, brings it into the file
//! then, and a process that makes one change waits for the disk four times.
//!
//! What the tables mean, and how errors are told to a user, is the callers' business.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};

/// How long the write-ahead log may be, in bytes, to stay when the last process closes the file. The next one reads all
/// of it.
const LOG_LENGTH: u64 = 512 << 10;

/// Why a file can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite can't use the file.
    #[error("The database can't be used")]
    Database(#[from] rusqlite::Error),
    /// The lock file can't be used.
    #[error("The lock beside the database can't be taken")]
    Lock(#[source] io::Error),
    /// The file was written by a program that knows more.
    #[error("The database has schema {found}; this program knows {known}")]
    Newer {
        /// Its schema.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
}

/// Opens the database `path`, makes it when it doesn't exist, and applies the `migrations` that it has not had; each
/// leads from the schema of its place to the next. A change waits up to `busy` for those of other processes.
///
/// # Errors
/// [`OpenError`]
pub fn open(path: &Path, lock: &Path, migrations: &[&str], busy: Duration) -> Result<Connection, OpenError> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(busy)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, log_length(path) < LOG_LENGTH)?;
    let mut found = version(&connection)?;
    if found < known {
        let lock = locked(lock).map_err(OpenError::Lock)?;
        let migrated = migrate(&mut connection, migrations);
        // A child that was forked and has not executed its program yet has a copy of the descriptor; it must not keep the
        // lock. Without the lock, closing the file can't fail to give it up.
        let _ = lock.unlock();
        migrated?;
        found = version(&connection)?;
    }
    if found > known {
        return Err(OpenError::Newer { found, known });
    }
    Ok(connection)
}

/// Opens the file at `path`, which nobody removes, and waits for its lock.
fn locked(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    loop {
        match file.lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(|()| file),
        }
    }
}

/// The length of the file's write-ahead log, in bytes; 0 without one.
fn log_length(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Path::new(&log).metadata().map_or(0, |log| log.len())
}

/// How many migrations the file has had.
fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Applies the migrations that the file has not had. Only one process at a time is here.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = usize::try_from(version(&transaction)?).unwrap_or(0);
    for (done, migration) in (1_i64..).zip(migrations).skip(found) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", done)?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const FIRST: &str = "CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (1)";
    const SECOND: &str = "ALTER TABLE a ADD COLUMN y INTEGER; UPDATE a SET y = x + 1";

    fn open_in(directory: &Path, migrations: &[&str]) -> Result<Connection, OpenError> {
        open(&directory.join("db"), &directory.join("lock"), migrations, Duration::from_secs(60))
    }

    fn numbers(connection: &Connection) -> Vec<(i64, i64)> {
        let mut statement = connection.prepare("SELECT x, y FROM a").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_file_has_each_migration_once() {
        let directory = tempfile::tempdir().unwrap();
        open_in(directory.path(), &[FIRST]).unwrap();
        for _ in 0..2 {
            let connection = open_in(directory.path(), &[FIRST, SECOND]).unwrap();
            assert_eq!(numbers(&connection), [(1, 2)]);
        }
    }

    #[test]
    fn the_log_outlives_its_writer_and_does_not_grow() {
        let directory = tempfile::tempdir().unwrap();
        let mut longest = 0;
        for _ in 0..50 {
            let connection = open_in(directory.path(), &[FIRST, SECOND]).unwrap();
            connection.execute("INSERT INTO a VALUES (randomblob(40000), 0)", []).unwrap();
            drop(connection);
            longest = longest.max(log_length(&directory.path().join("db")));
        }
        assert!((4096..LOG_LENGTH + (100 << 10)).contains(&longest), "{longest}");
        let connection = open_in(directory.path(), &[FIRST, SECOND]).unwrap();
        assert_eq!(connection.query_row("SELECT count(*) FROM a", [], |row| row.get::<_, i64>(0)).unwrap(), 51);
    }

    #[test]
    fn a_file_of_a_newer_program_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        open_in(directory.path(), &[FIRST, SECOND]).unwrap();
        let refused = open_in(directory.path(), &[FIRST]);
        assert!(matches!(refused, Err(OpenError::Newer { found: 2, known: 1 })), "{refused:?}");
    }

    #[test]
    fn a_migration_that_fails_leaves_the_file_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let failed = open_in(directory.path(), &[FIRST, "nonsense"]);
        assert!(matches!(failed, Err(OpenError::Database(_))), "{failed:?}");
        assert_eq!(numbers(&open_in(directory.path(), &[FIRST, SECOND]).unwrap()), [(1, 2)]);
    }

    #[test]
    fn many_that_open_a_new_file_at_once_make_one_schema() {
        let directory = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(numbers(&open_in(directory.path(), &[FIRST, SECOND]).unwrap()), [(1, 2)]));
            }
        });
    }
}
