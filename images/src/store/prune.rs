//! Pruning: removing what nothing needs, and what was not used for longest.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::error::{self, StoreError};
use super::lock::{Attempt, Exclusive, found};
use super::remove::{Condemned, What, blob_is_referenced, execute, rootfs_is_referenced};
use super::rootfs::{BUILDING, COMPLETE};
use super::{Removed, RootfsKey, Store};
use crate::digest::Digest;

/// What to prune, beyond what is always removed: blobs that no image needs, root file systems whose images are gone,
/// and what dead processes left.
#[derive(Clone, Copy, Debug, Default)]
pub struct PruneOptions {
    /// All images, and the root file systems of images that are not in the store.
    pub all: bool,
    /// Images and root file systems, the least recently used first, until the store takes at most so many bytes of the
    /// disk.
    pub keep_storage: Option<u64>,
}

/// What can be evicted.
#[derive(Debug)]
enum Evictable {
    /// The names of an image.
    Image(Vec<String>),
    /// The root file system of an image that is not in the store.
    Rootfs(RootfsKey),
}

/// Which root file systems may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// Those whose images are gone, and files without a row.
    Orphaned,
    /// Those that belong to no image in the store.
    Local,
}

impl Store {
    /// Removes what `options` say; never what is in use ([`Removed::in_use`]).
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Index`]; what was removed before stays so.
    pub fn prune(&self, options: &PruneOptions) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        self.prune_blobs(&mut removed)?;
        self.prune_leftovers(&self.partials(), &|_| true, &mut removed)?;
        let building = |path: &Path| path.extension().is_some_and(|extension| extension == BUILDING);
        self.prune_leftovers(&self.root_file_systems(), &building, &mut removed)?;
        self.prune_root_file_systems(&mut removed)?;
        if options.all {
            for evictable in self.evictable()? {
                self.evict(evictable, &mut removed)?;
            }
        }
        if let Some(limit) = options.keep_storage {
            for evictable in self.evictable()? {
                if self.real_size()? <= limit {
                    break;
                }
                self.evict(evictable, &mut removed)?;
            }
        }
        removed.in_use.sort_unstable();
        removed.in_use.dedup();
        Ok(removed)
    }

    /// What the store takes on the disk, in bytes.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn real_size(&self) -> Result<u64, StoreError> {
        let mut size = 0_u64;
        for directory in [self.root().into(), self.blobs(), self.partials(), self.root_file_systems()] {
            for path in list(&directory)? {
                let metadata = found(path.symlink_metadata()).map_err(error::file(&path, "read"))?;
                let files = metadata.filter(|metadata| metadata.is_file());
                size = size.saturating_add(files.map_or(0, |metadata| metadata.blocks().saturating_mul(512)));
            }
        }
        Ok(size)
    }

    fn prune_blobs(&self, removed: &mut Removed) -> Result<(), StoreError> {
        for path in list(&self.blobs())? {
            let Some(digest) = blob_of(&path) else { continue };
            let referenced = || self.index().read(|index| blob_is_referenced(index, &digest));
            if referenced()? {
                continue;
            }
            match Exclusive::attempt(&path).map_err(error::file(&path, "locked"))? {
                // Now nobody can name an image with it; but somebody may have done so before.
                Attempt::Locked(locked) if !referenced()? => {
                    execute(Condemned { path, locked, what: What::Blob(digest) }, removed)?;
                }
                Attempt::InUse => removed.in_use.push(digest.to_string()),
                Attempt::Locked(_) | Attempt::Missing => {}
            }
        }
        Ok(())
    }

    /// Removes the files in `directory` that `meant` says, unless their writers live.
    fn prune_leftovers(
        &self,
        directory: &Path,
        meant: &dyn Fn(&Path) -> bool,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        for path in list(directory)?.into_iter().filter(|path| stem_of(path).is_some() && meant(path)) {
            match Exclusive::attempt(&path).map_err(error::file(&path, "locked"))? {
                Attempt::Locked(locked) => execute(Condemned { path, locked, what: What::Leftover }, removed)?,
                Attempt::InUse => removed.in_use.push(path.display().to_string()),
                Attempt::Missing => {}
            }
        }
        Ok(())
    }

    fn prune_root_file_systems(&self, removed: &mut Removed) -> Result<(), StoreError> {
        for path in list(&self.root_file_systems())? {
            let Some(key) = rootfs_of(&path) else { continue };
            if self.index().read(|index| may_go(index, &key, Which::Orphaned))? {
                self.evict_rootfs(&key, Which::Orphaned, removed)?;
            }
        }
        Ok(())
    }

    fn evict(&self, evictable: Evictable, removed: &mut Removed) -> Result<(), StoreError> {
        match evictable {
            Evictable::Image(names) => match self.forget(names, removed) {
                Err(StoreError::InUse { name }) => {
                    removed.in_use.push(name);
                    Ok(())
                }
                result => result,
            },
            Evictable::Rootfs(key) => self.evict_rootfs(&key, Which::Local, removed),
        }
    }

    fn evict_rootfs(&self, key: &RootfsKey, which: Which, removed: &mut Removed) -> Result<(), StoreError> {
        let path = self.rootfs_path(&key.hex());
        match Exclusive::attempt(&path).map_err(error::file(&path, "locked"))? {
            Attempt::Locked(locked) => {
                let goes = self.index().durable(|transaction| {
                    let goes = may_go(transaction, key, which)?;
                    if goes {
                        transaction.execute("DELETE FROM rootfs WHERE key = ?1", [key.hex()])?;
                    }
                    Ok(Ok(goes))
                })?;
                if goes { execute(Condemned { path, locked, what: What::Rootfs(*key) }, removed) } else { Ok(()) }
            }
            Attempt::InUse => {
                removed.in_use.push(format!("root file system {key}"));
                Ok(())
            }
            Attempt::Missing => Ok(()),
        }
    }

    /// Everything that can be evicted, the least recently used first. An image counts as used when it was opened under
    /// any of its names.
    fn evictable(&self) -> Result<Vec<Evictable>, StoreError> {
        const LOCAL: &str = "SELECT key, used_at FROM rootfs WHERE key NOT IN (SELECT rootfs FROM manifest)";
        let mut images: BTreeMap<Digest, (i64, Vec<String>)> = BTreeMap::new();
        for image in self.images()? {
            let used = image.used_at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
            let (at, names) = images.entry(image.manifest).or_default();
            *at = (*at).max(i64::try_from(used).unwrap_or(i64::MAX));
            names.push(image.name);
        }
        let mut all: Vec<(i64, Evictable)> =
            images.into_values().map(|(at, names)| (at, Evictable::Image(names))).collect();
        let local: Vec<(String, i64)> = self.index().read(|index| {
            let mut statement = index.prepare(LOCAL)?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        let rootfs = |(hex, at): (String, i64)| Some((at, Evictable::Rootfs(RootfsKey::from_hex(&hex)?)));
        all.extend(local.into_iter().filter_map(rootfs));
        all.sort_by_key(|(at, _)| *at);
        Ok(all.into_iter().map(|(_, evictable)| evictable).collect())
    }
}

fn may_go(index: &Connection, key: &RootfsKey, which: Which) -> rusqlite::Result<bool> {
    const KEPT: &str = "SELECT EXISTS (SELECT 1 FROM rootfs WHERE key = ?1 AND made_for IS NULL)";
    if rootfs_is_referenced(index, key)? {
        // A file without a row is no root file system, whoever would like to have one of that key.
        return index
            .query_row("SELECT NOT EXISTS (SELECT 1 FROM rootfs WHERE key = ?1)", [key.hex()], |row| row.get(0));
    }
    let kept = |index: &Connection| index.query_row(KEPT, [key.hex()], |row| row.get(0));
    Ok(which == Which::Local || !kept(index)?)
}

/// The files in a directory, sorted.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = list().map_err(error::file(directory, "listed"))?;
    paths.sort_unstable();
    Ok(paths)
}

/// The digest that a file in the store is named by, whatever its extension.
pub(super) fn stem_of(path: &Path) -> Option<Digest> {
    format!("sha256:{}", path.file_stem()?.to_str()?).parse().ok()
}

/// The digest of the blob at `path`.
pub(super) fn blob_of(path: &Path) -> Option<Digest> {
    path.extension().is_none().then(|| stem_of(path)).flatten()
}

/// The key of the root file system at `path`.
pub(super) fn rootfs_of(path: &Path) -> Option<RootfsKey> {
    let complete = path.extension().is_some_and(|extension| extension == COMPLETE);
    RootfsKey::from_hex(&stem_of(path).filter(|_| complete)?.hex())
}
