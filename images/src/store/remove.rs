//! Removing images, and what nothing else needs.
//!
//! The names go first, then the rows, in one change that is on disk before the first file is removed. Within that change
//! everything that is to go is locked exclusively, so that either all of it is unused or nothing is changed. Whoever
//! wants to use one of the files meanwhile waits for the lock and then sees that the file is gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rusqlite::{OptionalExtension as _, Transaction};

use super::error::{self, StoreError};
use super::image::{digest, forget_nameless, stored};
use super::lock::{Attempt, Exclusive};
use super::rootfs::real_size;
use super::{RootfsKey, Store, StoredImage};
use crate::digest::Digest;
use crate::name::Name;

/// The least digits of a digest that are taken for one.
const MIN_PREFIX: usize = 4;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that no longer mean an image.
    pub untagged: Vec<String>,
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Root file systems.
    pub rootfs: Vec<RootfsKey>,
    /// What dead processes left: parts of downloads and of root file systems.
    pub leftovers: Vec<PathBuf>,
    /// What that took on the disk, in bytes.
    pub freed: u64,
    /// What could go but is in use, and was kept.
    pub in_use: Vec<String>,
}

/// A file that is locked to be removed.
#[derive(Debug)]
pub(super) struct Condemned {
    pub(super) path: PathBuf,
    pub(super) locked: Exclusive,
    pub(super) what: What,
}

/// What a file in the store is.
#[derive(Clone, Debug)]
pub(super) enum What {
    Blob(Digest),
    Rootfs(RootfsKey),
    Leftover,
}

impl Store {
    /// Finds the images that `text` means: the one of that name, or else those whose manifest's digest starts with it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchImage`]; [`StoreError::Ambiguous`] when several manifests start with it.
    pub fn resolve(&self, text: &str) -> Result<Vec<StoredImage>, StoreError> {
        if let Some(image) = Name::parse(text).ok().map(|name| self.find(&name)).transpose()?.flatten() {
            return Ok(vec![image]);
        }
        let none = || StoreError::NoSuchImage(text.into());
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() < MIN_PREFIX || !hex.bytes().all(is_digit) {
            return Err(none());
        }
        let images: Vec<_> = self.images()?.into_iter().filter(|image| image.manifest.hex().starts_with(hex)).collect();
        let first = images.first().ok_or_else(none)?.manifest;
        if images.iter().any(|image| image.manifest != first) {
            return Err(ambiguous(text, &images));
        }
        Ok(images)
    }

    /// Removes the image that `text` means ([`Self::resolve`]), and what no other image needs. An image that is named
    /// by its digest and has several names is removed with `force` only.
    ///
    /// # Errors
    /// [`StoreError::InUse`], and then nothing is changed; as [`Self::resolve`].
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed, StoreError> {
        let images = self.resolve(text)?;
        if images.len() > 1 && !force {
            return Err(ambiguous(text, &images));
        }
        let mut removed = Removed::default();
        self.forget(images.into_iter().map(|image| image.name).collect(), &mut removed)?;
        Ok(removed)
    }

    /// Removes these names, which mean one image, and what no other needs.
    pub(super) fn forget(&self, names: Vec<String>, removed: &mut Removed) -> Result<(), StoreError> {
        let condemned = self.index().durable(|transaction| {
            let garbage = forget_names(transaction, &names)?;
            let condemned = self.condemn(&garbage, names.first().map_or("", String::as_str));
            for key in &garbage.rootfs {
                transaction.execute("DELETE FROM rootfs WHERE key = ?1", [key.hex()])?;
            }
            Ok(condemned)
        })?;
        removed.untagged.extend(names);
        condemned.into_iter().try_for_each(|condemned| execute(condemned, removed))
    }

    /// Locks all of `garbage`, which the image `name` needed.
    fn condemn(&self, garbage: &Garbage, name: &str) -> Result<Vec<Condemned>, StoreError> {
        let blobs = garbage.blobs.iter().map(|blob| (self.blob_path(blob), What::Blob(*blob)));
        let rootfs = garbage.rootfs.iter().map(|key| (self.rootfs_path(&key.hex()), What::Rootfs(*key)));
        let mut condemned = Vec::new();
        for (path, what) in blobs.chain(rootfs) {
            match Exclusive::attempt(&path).map_err(error::file(&path, "locked"))? {
                Attempt::Locked(locked) => condemned.push(Condemned { path, locked, what }),
                Attempt::InUse => return Err(StoreError::InUse { name: name.into() }),
                Attempt::Missing => {}
            }
        }
        Ok(condemned)
    }
}

/// Removes a file for which nothing speaks any more.
pub(super) fn execute(condemned: Condemned, removed: &mut Removed) -> Result<(), StoreError> {
    let Condemned { path, locked, what } = condemned;
    let size = real_size(locked.file()).map_err(error::file(&path, "read"))?;
    fs::remove_file(&path).map_err(error::file(&path, "removed"))?;
    removed.freed = removed.freed.saturating_add(size);
    match what {
        What::Blob(digest) => removed.blobs.push(digest),
        What::Rootfs(key) => removed.rootfs.push(key),
        What::Leftover => removed.leftovers.push(path),
    }
    Ok(())
}

/// What nothing refers to any more.
#[derive(Debug, Default)]
struct Garbage {
    blobs: BTreeSet<Digest>,
    rootfs: BTreeSet<RootfsKey>,
}

/// Removes names, and the rows of the manifests that have none any more.
fn forget_names(transaction: &Transaction<'_>, names: &[String]) -> rusqlite::Result<Garbage> {
    let mut garbage = Garbage::default();
    for name in names {
        let image = "SELECT * FROM image WHERE name = ?1";
        let Some(image) = transaction.query_row(image, [name], stored).optional()? else { continue };
        let mut blobs = transaction.prepare("SELECT blob FROM manifest_blob WHERE manifest = ?1")?;
        for blob in blobs.query_map([image.manifest.hex()], |row| row.get(0))? {
            garbage.blobs.insert(digest(blob?)?);
        }
        garbage.blobs.extend(image.index);
        let rootfs = "SELECT rootfs FROM manifest WHERE digest = ?1";
        let rootfs: String = transaction.query_row(rootfs, [image.manifest.hex()], |row| row.get(0))?;
        garbage.rootfs.extend(RootfsKey::from_hex(&rootfs));
        transaction.execute("DELETE FROM image WHERE name = ?1", [name])?;
    }
    forget_nameless(transaction)?;
    let mut kept = Garbage::default();
    for blob in garbage.blobs {
        if !blob_is_referenced(transaction, &blob)? {
            kept.blobs.insert(blob);
        }
    }
    for key in garbage.rootfs {
        if !rootfs_is_referenced(transaction, &key)? {
            kept.rootfs.insert(key);
        }
    }
    Ok(kept)
}

/// Whether an image needs the blob.
pub(super) fn blob_is_referenced(connection: &rusqlite::Connection, blob: &Digest) -> rusqlite::Result<bool> {
    const FIND: &str = "SELECT EXISTS (SELECT 1 FROM manifest_blob WHERE blob = ?1)
        OR EXISTS (SELECT 1 FROM image WHERE image_index = ?1)";
    connection.query_row(FIND, [blob.hex()], |row| row.get(0))
}

/// Whether an image has the root file system.
pub(super) fn rootfs_is_referenced(connection: &rusqlite::Connection, key: &RootfsKey) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM manifest WHERE rootfs = ?1)", [key.hex()], |row| row.get(0))
}

fn ambiguous(text: &str, images: &[StoredImage]) -> StoreError {
    StoreError::Ambiguous { text: text.into(), names: images.iter().map(|image| image.name.clone()).collect() }
}
