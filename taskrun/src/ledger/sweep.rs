//! Sweeping: the folders of tasks that no command lists.
//!
//! A supervisor makes its task's folder, holds the lock of the heartbeat in it, and only then enters the task in the ledger. One that is
//! killed in between leaves a folder of a task that never was.
//!
//! Invariant: the folder of a task that is about to be entered stays. Who has written a heartbeat holds its lock, so a heartbeat that
//! nobody holds is a dead supervisor's; a folder without one is left alone for [`BEGINNING`].

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::heartbeat;
use super::settle::HEARTBEAT;

/// How long a supervisor may take from its folder to its first heartbeat.
const BEGINNING: Duration = Duration::from_secs(60);

/// Removes the folders that belong to no task. What can't be removed is left for the next call.
pub(super) fn sweep(connection: &Connection, tasks_folder: &Path) -> rusqlite::Result<()> {
    let Ok(folders) = fs::read_dir(tasks_folder) else { return Ok(()) };
    // There may be many more tasks than folders, but not the other way round.
    let mut task = connection.prepare_cached("SELECT 1 FROM task WHERE id = ?1 AND removed = 0")?;
    for folder in folders.flatten() {
        // First the folder, then the task: one that is entered meanwhile is found.
        let name = folder.file_name();
        let listed = name.to_str().map_or(Ok(false), |name| task.exists([name]))?;
        if !listed && is_dead(&folder.path()) {
            let _ = fs::remove_dir_all(folder.path());
        }
    }
    Ok(())
}

/// Whether the supervisor whose folder this is is gone.
fn is_dead(folder: &Path) -> bool {
    let path = folder.join(HEARTBEAT);
    if heartbeat::read(&path).is_some() {
        return !heartbeat::is_held(&path);
    }
    let made = fs::metadata(folder).and_then(|folder| folder.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > BEGINNING))
}
