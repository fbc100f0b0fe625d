//! Where the library finds what lasts, and the files of taskrun's installation.

use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError};
use crate::ledger::{self, HomeError, Ledger, LedgerError, Record};
use crate::usage::price::PriceList;

/// Taskrun's home, with its images, its templates and its ledger; and the installation whose VMM and guest kernel tasks
/// have. Making one looks at nothing yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    pub(super) folder: PathBuf,
    pub(super) libexec: Option<PathBuf>,
    pub(super) kernel: Option<PathBuf>,
}

impl Home {
    /// The home that `taskrun` has in this environment: `TASKRUN_HOME`, else `taskrun` in the user's data directory.
    ///
    /// # Errors
    /// [`HomeError`], when the environment doesn't say it.
    pub fn from_environment() -> Result<Self, HomeError> {
        ledger::home::resolve().map(Self::at)
    }

    /// The home in this folder, which needn't exist.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), libexec: None, kernel: None }
    }

    /// Takes the VMM, the guest's kernel and its initramfs from this folder (`PREFIX/libexec/taskrun`). Without it they are where
    /// `TASKRUN_LIBEXEC` says, else in the tree that this program is in (`../libexec/taskrun`), else in the tree of the `taskrun`
    /// on the `PATH`.
    #[must_use]
    pub fn libexec(self, folder: impl Into<PathBuf>) -> Self {
        Self { libexec: Some(folder.into()), ..self }
    }

    /// Takes this guest kernel, an uncompressed vmlinux, instead of the installed one.
    #[must_use]
    pub fn kernel(self, file: impl Into<PathBuf>) -> Self {
        Self { kernel: Some(file.into()), ..self }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the ledger has of the task with this name or id.
    ///
    /// # Errors
    /// [`LedgerError`], also when there is none.
    pub fn record(&self, name_or_id: &str) -> Result<Record, LedgerError> {
        let mut ledger = Ledger::open(&self.folder)?;
        ledger.settle(&self.folder.join(ledger::TASKS_FOLDER))?;
        ledger.find(name_or_id)
    }

    /// The price list of this home's configuration, with which a record's cost is computed ([`PriceList::cost`]).
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn prices(&self) -> Result<PriceList, ConfigError> {
        Ok(Config::load(&self.folder)?.billing.prices)
    }
}
