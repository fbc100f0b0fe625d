//! A task's folder in taskrun's home, for what isn't in the ledger.
//!
//! ```text
//! tasks/ID/control        the supervisor's socket while the task lives, see [`super::control`]
//!          heartbeat      when it was last alive
//!          log.N          what a detached task wrote, see [`super::log`]
//!          supervisor     what the supervisor of a detached task had to say
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::ledger::TASKS_FOLDER;

/// The file for messages.
const MESSAGES: &str = "supervisor";

/// The folder of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFolder(PathBuf);

impl TaskFolder {
    /// The folder of the task with this id, which may not be there.
    #[must_use]
    pub fn of(home: &Path, id: &str) -> Self {
        Self(home.join(TASKS_FOLDER).join(id))
    }

    /// Makes it, open to its owner alone: what a task writes is nobody else's business.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(home: &Path, id: &str) -> io::Result<Self> {
        let folder = Self::of(home, id);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder.0)?;
        Ok(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file that says when the supervisor was last alive.
    #[must_use]
    pub fn heartbeat(&self) -> PathBuf {
        self.0.join("heartbeat")
    }

    /// Opens the file for what a detached supervisor, and its VMM, have to say.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open_messages(&self) -> io::Result<File> {
        File::options().create(true).append(true).open(self.0.join(MESSAGES))
    }

    /// Tells the caller what was said there.
    pub fn tell_messages(&self) {
        if let Ok(mut messages) = File::open(self.0.join(MESSAGES)) {
            // A copy for convenience: what matters was told.
            let _ = io::copy(&mut messages, &mut io::stderr());
        }
    }

    /// Removes it with all that is in it; one that isn't there is as good as removed.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}
