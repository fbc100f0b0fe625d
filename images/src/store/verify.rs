//! Verifying the store: reading everything in it and comparing it with what it should be.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension as _;

use super::download::hash;
use super::error::{self, StoreError};
use super::fingerprint::fingerprint;
use super::image::{digest, forget_nameless};
use super::lock;
use super::prune::{blob_of, list, rootfs_of};
use super::remove::blob_is_referenced;
use super::{RootfsKey, Store};
use crate::digest::Digest;

/// What [`Store::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// How many blobs were read.
    pub blobs: u64,
    /// How many root file systems were read.
    pub rootfs: u64,
    /// How many bytes these have.
    pub bytes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Files that nothing needs: what dead processes left, what became unneeded, and what is not the store's. They do no
    /// harm; `prune` removes those that are the store's.
    pub leftovers: Vec<PathBuf>,
    /// Whether what is wrong was removed.
    pub repaired: bool,
}

/// A thing that is wrong in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A blob has other content than its digest says.
    DamagedBlob(Digest),
    /// A blob that an image needs is not there, or was damaged and has been removed.
    MissingBlob {
        /// The image's name.
        image: String,
        /// The blob.
        blob: Digest,
    },
    /// A root file system has other content than when it was stored.
    DamagedRootfs(RootfsKey),
    /// A root file system is in the index and nowhere else.
    MissingRootfs(RootfsKey),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DamagedBlob(blob) => write!(f, "The blob {blob} has other content than its digest says"),
            Self::MissingBlob { image, blob } => write!(f, "The image {image} lacks the blob {blob}"),
            Self::DamagedRootfs(key) => write!(f, "The root file system {key} has changed since it was stored"),
            Self::MissingRootfs(key) => write!(f, "The root file system {key} is missing"),
        }
    }
}

impl VerifyReport {
    /// Whether nothing is wrong, or nothing any more.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty() || self.repaired
    }
}

/// A complete root file system, as the index has it.
#[derive(Debug)]
struct RootfsRow {
    length: u64,
    fingerprint: Digest,
}

impl Store {
    /// Reads everything in the store and compares it with its digests. With `repair` what is wrong is removed: damaged
    /// files, and the names of images that lack a blob, so that the next run pulls and unpacks them again.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Index`].
    pub fn verify(&self, repair: bool) -> Result<VerifyReport, StoreError> {
        let mut report = VerifyReport { repaired: repair, ..VerifyReport::default() };
        for path in list(&self.blobs())? {
            self.verify_blob(path, &mut report)?;
        }
        self.verify_images(&mut report)?;
        for path in list(&self.root_file_systems())? {
            self.verify_rootfs(path, &mut report)?;
        }
        self.verify_rows(&mut report)?;
        report.leftovers.extend(list(&self.partials())?);
        Ok(report)
    }

    fn verify_blob(&self, path: PathBuf, report: &mut VerifyReport) -> Result<(), StoreError> {
        let Some(blob) = blob_of(&path) else {
            report.leftovers.push(path);
            return Ok(());
        };
        let Some(file) = lock::shared(&path).map_err(error::file(&path, "opened"))? else { return Ok(()) };
        let (hasher, length) = hash(&file).map_err(error::file(&path, "read"))?;
        report.blobs = report.blobs.saturating_add(1);
        report.bytes = report.bytes.saturating_add(length);
        if Digest::finish(hasher) != blob {
            report.problems.push(Problem::DamagedBlob(blob));
            return remove_damaged(&path, &file, report.repaired);
        }
        if !self.index().read(|index| blob_is_referenced(index, &blob))? {
            report.leftovers.push(path);
        }
        Ok(())
    }

    /// Looks for the blobs of every image.
    fn verify_images(&self, report: &mut VerifyReport) -> Result<(), StoreError> {
        let mut broken = BTreeSet::new();
        for (image, blob) in self.needs()? {
            let path = self.blob_path(&blob);
            let there = lock::shared(&path).map_err(error::file(&path, "opened"))?.is_some();
            // It may have gone together with the image.
            if !there && self.needs()?.contains(&(image.clone(), blob)) {
                broken.insert(image.clone());
                report.problems.push(Problem::MissingBlob { image, blob });
            }
        }
        if report.repaired && !broken.is_empty() {
            self.index().durable(|transaction| {
                let mut delete = transaction.prepare("DELETE FROM image WHERE name = ?1")?;
                broken.iter().try_for_each(|name| delete.execute([name]).map(drop))?;
                forget_nameless(transaction).map(Ok)
            })?;
        }
        Ok(())
    }

    /// Every image's name, with every blob that it needs.
    fn needs(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        const NEEDS: &str = "SELECT name, blob FROM image JOIN manifest_blob USING (manifest)
            UNION SELECT name, image_index FROM image WHERE image_index IS NOT NULL ORDER BY 1, 2";
        self.index().read(|index| {
            let mut statement = index.prepare(NEEDS)?;
            statement.query_map([], |row| Ok((row.get(0)?, digest(row.get(1)?)?)))?.collect()
        })
    }

    fn verify_rootfs(&self, path: PathBuf, report: &mut VerifyReport) -> Result<(), StoreError> {
        let Some(key) = rootfs_of(&path) else {
            report.leftovers.push(path);
            return Ok(());
        };
        let Some(file) = lock::shared(&path).map_err(error::file(&path, "opened"))? else { return Ok(()) };
        let Some(row) = self.rootfs_row(&key)? else {
            report.leftovers.push(path);
            return Ok(());
        };
        let length = file.metadata().map_err(error::file(&path, "read"))?.len();
        report.rootfs = report.rootfs.saturating_add(1);
        report.bytes = report.bytes.saturating_add(length);
        let same =
            length == row.length && fingerprint(&file, length).map_err(error::file(&path, "read"))? == row.fingerprint;
        if same || !lock::names(&path, &file).map_err(error::file(&path, "read"))? {
            return Ok(());
        }
        report.problems.push(Problem::DamagedRootfs(key));
        if report.repaired {
            self.forget_rootfs(&key)?;
        }
        remove_damaged(&path, &file, report.repaired)
    }

    /// Looks for the files of the root file systems in the index.
    fn verify_rows(&self, report: &mut VerifyReport) -> Result<(), StoreError> {
        let keys: Vec<String> = self.index().read(|index| {
            let mut statement = index.prepare("SELECT key FROM rootfs ORDER BY key")?;
            statement.query_map([], |row| row.get(0))?.collect()
        })?;
        for key in keys.iter().filter_map(|hex| RootfsKey::from_hex(hex)) {
            let path = self.rootfs_path(&key.hex());
            let there = lock::shared(&path).map_err(error::file(&path, "opened"))?.is_some();
            if !there && self.rootfs_row(&key)?.is_some() {
                report.problems.push(Problem::MissingRootfs(key));
                if report.repaired {
                    self.forget_rootfs(&key)?;
                }
            }
        }
        Ok(())
    }

    fn rootfs_row(&self, key: &RootfsKey) -> Result<Option<RootfsRow>, StoreError> {
        self.index().read(|index| {
            let find = "SELECT length, fingerprint FROM rootfs WHERE key = ?1";
            let row = |row: &rusqlite::Row<'_>| {
                let length = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
                Ok(RootfsRow { length, fingerprint: digest(row.get(1)?)? })
            };
            index.query_row(find, [key.hex()], row).optional()
        })
    }

    fn forget_rootfs(&self, key: &RootfsKey) -> Result<(), StoreError> {
        let delete = "DELETE FROM rootfs WHERE key = ?1";
        self.index().durable(|transaction| transaction.execute(delete, [key.hex()]).map(|_| Ok(())))
    }
}

/// Removes a damaged file, of which `file` holds a lock. Tasks that use it keep it; nobody else gets it.
fn remove_damaged(path: &Path, file: &File, repair: bool) -> Result<(), StoreError> {
    if repair && lock::names(path, file).map_err(error::file(path, "read"))? {
        lock::found(fs::remove_file(path)).map_err(error::file(path, "removed"))?;
    }
    Ok(())
}
