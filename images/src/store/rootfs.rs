//! Root file systems: the images that layers were unpacked to.
//!
//! One builder at a time has `rootfs/KEY.building` locked exclusively, which is the file that is built; others wait for
//! that lock. What a dead builder left is emptied and built again. The lock stays through the renaming until the row
//! is there; so whoever could lock `rootfs/KEY.erofs` and finds no row has found what a builder left that died in
//! between.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Transaction, named_params};

use super::download::once;
use super::error::{self, StoreError};
use super::fingerprint::fingerprint;
use super::index::now;
use super::lock::{self, Exclusive};
use super::{Store, sync_directory};
use crate::digest::Digest;
use crate::image::{Compression, LayerBlob};

/// What a root file system's length is a multiple of, so that all of it can be mapped into a guest.
const ALIGNMENT: u64 = 2 << 20;

/// The version of what is made from layers: to be raised when the same layers give another image.
const FORMAT: u32 = 1;

/// What a root file system is made of: the same key, the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootfsKey(Digest);

impl RootfsKey {
    /// The key of the root file system that is made of `layers`, the lowest first.
    ///
    /// Nobody can make a file system that is taken for that of other layers: what counts is the digest of the stored
    /// bytes, which the host verifies (at the download, or with [`super::verify_layers`]). A compressed layer whose
    /// image doesn't name that digest counts as the very file that it is in.
    #[must_use]
    pub fn of(layers: &[LayerBlob]) -> Self {
        let mut text = format!("taskrun rootfs {FORMAT}\n");
        for layer in layers {
            let stored = match (layer.digest, layer.compression) {
                (Some(digest), _) => digest.to_string(),
                (None, Compression::None) => layer.diff_id.to_string(),
                (None, _) => identity(layer),
            };
            text.push_str(&format!("{stored} {}\n", layer.diff_id));
        }
        Self(Digest::of(text.as_bytes()))
    }

    /// The key with these 64 hexadecimal digits.
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        format!("sha256:{hex}").parse().ok().map(Self)
    }

    /// The key's 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl From<Digest> for RootfsKey {
    /// The key that the index or a file's name holds.
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for RootfsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// What tells the file that a layer is in from others, and from itself before it was changed.
fn identity(layer: &LayerBlob) -> String {
    let LayerBlob { file, offset, length, .. } = layer;
    match file.metadata() {
        Ok(metadata) => {
            let (device, inode) = (metadata.dev(), metadata.ino());
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            format!("file {device} {inode} {changed:?} {offset} {length}")
        }
        // Unknown files are not mixed up: reading them will fail too.
        Err(error) => format!("unknown {error} {:?} {offset} {length}", std::sync::Arc::as_ptr(file)),
    }
}

/// A root file system in the store. It can't be removed as long as the file is open, in this process or another.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// It, open for reading.
    pub file: Arc<File>,
    /// Its length in bytes, a multiple of 2 MiB.
    pub length: u64,
}

/// What [`Store::build_rootfs`] gives.
#[derive(Debug)]
pub enum BuildRootfs {
    /// The root file system is there.
    Present(Rootfs),
    /// It is to be built, by the caller.
    Build(RootfsBuild),
}

/// A root file system that is being built. Dropping it removes what there is.
#[derive(Debug)]
pub struct RootfsBuild {
    store: Store,
    key: RootfsKey,
    path: PathBuf,
    locked: Exclusive,
    /// Whether `path` is another's again.
    done: bool,
}

impl Store {
    /// Opens a root file system, and notes that it was used. `None` when it is not in the store.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Index`].
    pub fn rootfs(&self, key: &RootfsKey) -> Result<Option<Rootfs>, StoreError> {
        let path = self.rootfs_path(&key.hex());
        let (file, length) = loop {
            let Some(file) = lock::shared(&path).map_err(error::file(&path, "opened"))? else { return Ok(None) };
            let find = "SELECT length FROM rootfs WHERE key = ?1";
            let find = |index: &Connection| index.query_row(find, [key.hex()], |row| row.get::<_, i64>(0)).optional();
            let Some(length) = self.index().read(find)? else { return Ok(None) };
            // The row may be that of a file which has taken the place of a dead builder's meanwhile.
            if lock::names(&path, &file).map_err(error::file(&path, "opened"))? {
                break (file, u64::try_from(length).unwrap_or(0));
            }
        };
        // One that was cut short would kill the guest that maps it.
        if file.metadata().map_err(error::file(&path, "opened"))?.len() != length {
            return Err(StoreError::RootfsDamaged { path });
        }
        let touch = "UPDATE rootfs SET used_at = ?1 WHERE key = ?2";
        // A disk too full to note the time is no reason not to run.
        let _ = self.index().change(|transaction| transaction.execute(touch, (now(), key.hex())));
        Ok(Some(Rootfs { file: Arc::new(file), length }))
    }

    /// Starts to build a root file system. While another process builds it this call waits; `waiting` is called once
    /// before that.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Full`], [`StoreError::Index`].
    pub fn build_rootfs(&self, key: &RootfsKey, waiting: &mut dyn FnMut()) -> Result<BuildRootfs, StoreError> {
        if let Some(rootfs) = self.rootfs(key)? {
            return Ok(BuildRootfs::Present(rootfs));
        }
        let path = self.building_path(&key.hex());
        let locked = Exclusive::create(&path, &mut once(waiting)).map_err(error::file(&path, "locked"))?;
        let build = RootfsBuild { store: self.clone(), key: *key, path, locked, done: false };
        // It may have become complete since.
        if let Some(rootfs) = self.rootfs(key)? {
            return Ok(BuildRootfs::Present(rootfs));
        }
        build.locked.file().set_len(0).map_err(|source| build.failed("emptied", source))?;
        Ok(BuildRootfs::Build(build))
    }

    pub(super) fn rootfs_path(&self, hex: &str) -> PathBuf {
        self.root_file_systems().join(format!("{hex}.{COMPLETE}"))
    }

    pub(super) fn building_path(&self, hex: &str) -> PathBuf {
        self.root_file_systems().join(format!("{hex}.{BUILDING}"))
    }
}

/// The extension of complete root file systems.
pub(super) const COMPLETE: &str = "erofs";

/// The extension of those that are being built.
pub(super) const BUILDING: &str = "building";

impl RootfsBuild {
    /// The file to build it in: empty, open for reading and writing. The caller gives it the size that it needs, and
    /// lets go of all other descriptors of it before [`Self::commit`].
    #[must_use]
    pub fn output(&self) -> &File {
        self.locked.file()
    }

    /// Completes the root file system, whose image is the first `length` bytes of the output: it is in the store, and
    /// on disk. `manifest` is the image in the store that it was made for; nothing for one that is elsewhere.
    ///
    /// # Errors
    /// [`StoreError`], and then nothing is kept.
    pub fn commit(mut self, length: u64, manifest: Option<&Digest>) -> Result<Rootfs, StoreError> {
        let rounded = length.checked_next_multiple_of(ALIGNMENT).filter(|&rounded| rounded > 0);
        let rounded = rounded.filter(|&rounded| i64::try_from(rounded).is_ok());
        let rounded = rounded.ok_or(StoreError::RootfsLength { length })?;
        let file = self.locked.file();
        // Twice: what lies behind the image is not part of it, and has to read as zeros.
        let cut = file.set_len(length).and_then(|()| file.set_len(rounded));
        cut.map_err(|source| self.failed("cut to its length", source))?;
        let fingerprint = fingerprint(file, rounded).map_err(|source| self.failed("read", source))?;
        file.sync_all().map_err(|source| self.failed("written to the disk", source))?;
        let real = real_size(file).map_err(|source| self.failed("read", source))?;
        let path = self.store.rootfs_path(&self.key.hex());
        fs::rename(&self.path, &path).map_err(|source| self.failed("renamed", source))?;
        self.done = true;
        self.finish(&path, Row { length: rounded, real, fingerprint, made_for: manifest }).inspect_err(|_| {
            // Without its row it is of no use. The error to report is the first.
            let _ = fs::remove_file(&path);
        })?;
        let found = self.store.rootfs(&self.key)?;
        found.ok_or_else(|| error::at(&path, "opened", None, io::ErrorKind::NotFound.into()))
    }

    /// What follows the renaming.
    fn finish(&self, path: &std::path::Path, row: Row<'_>) -> Result<(), StoreError> {
        let file = self.locked.file();
        file.set_permissions(Permissions::from_mode(0o400)).map_err(error::file(path, "protected"))?;
        sync_directory(&self.store.root_file_systems())?;
        self.store.index().change(|transaction| row.insert(transaction, &self.key))?;
        // Between this lock and that of the caller's root file system there must be no moment without one.
        self.locked.share().map_err(error::file(path, "locked"))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> StoreError {
        error::at(&self.path, action, None, source)
    }
}

impl Drop for RootfsBuild {
    fn drop(&mut self) {
        if !self.done {
            // The space is needed at once, also while a virtual machine has the file open. What can't be removed is
            // taken over by the next builder.
            let _ = self.locked.file().set_len(0).and_then(|()| fs::remove_file(&self.path));
        }
    }
}

/// What a file takes on the disk, in bytes.
pub(super) fn real_size(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

/// The row of a root file system.
#[derive(Debug)]
struct Row<'a> {
    length: u64,
    real: u64,
    fingerprint: Digest,
    made_for: Option<&'a Digest>,
}

impl Row<'_> {
    fn insert(&self, transaction: &Transaction<'_>, key: &RootfsKey) -> rusqlite::Result<()> {
        const INSERT: &str = "INSERT OR REPLACE INTO rootfs
            (key, length, real_size, fingerprint, made_for, made_at, used_at)
            VALUES (:key, :length, :real_size, :fingerprint, :made_for, :now, :now)";
        let parameters = named_params! {
            ":key": key.hex(),
            ":length": i64::try_from(self.length).unwrap_or(i64::MAX),
            ":real_size": i64::try_from(self.real).unwrap_or(i64::MAX),
            ":fingerprint": self.fingerprint.hex(),
            ":made_for": self.made_for.map(Digest::hex),
            ":now": now(),
        };
        transaction.execute(INSERT, parameters).map(drop)
    }
}
