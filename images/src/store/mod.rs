//! The store of images: what was downloaded and unpacked, for all tasks and processes of a user.
//!
//! # Layout
//! ```text
//! blobs/sha256/HEX     manifests, configurations and layers, by the digest of their bytes
//! partial/HEX          a blob that is being downloaded, or will be further
//! rootfs/KEY.erofs     what layers were unpacked to, by what it is made of (RootfsKey)
//! rootfs/KEY.building  one that is being made
//! index.db             SQLite: names, what they need, root file systems (`schema-1.sql`)
//! index.lock           held while a new index is set up
//! ```
//! The directories are open to their owner alone.
//!
//! # Invariants
//! 1. What has its final name is complete, on disk, and never written again: it was written under another name, synced,
//!    and renamed.
//! 2. A name's manifest, configuration, layers and index are in `blobs/`; a row of a root file system has its file.
//! 3. What is under a digest has that digest. The host hashes it while it comes; so nobody, whatever they push or
//!    pack, can change what another image means. The same holds for root file systems, whose key is made of digests
//!    that the host verifies ([`verify_layers`]).
//! 4. What is in use is not removed.
//!
//! Files may be there without a row: a pull that is under way or was broken off, a root file system whose builder died
//! just then. They are found again by the next pull, or built again, and removed by [`Store::prune`].
//!
//! # Locks
//! flock(2) on the files themselves (`lock`): no lock files, nothing stale after a kill. A user of a file has it locked
//! shared, for as long as any copy of the descriptor is open, in this process or in one that it was passed to. A writer
//! has its partial or output locked exclusively, and others who want the same wait for it. A collector locks
//! exclusively or not at all.
//!
//! - Who wants to use a file opens it, waits for the shared lock, and looks whether the path still names it.
//! - [`Store::tag`] opens, and so locks, everything that the image needs, and then writes the rows.
//! - A collector tries the exclusive lock, and *then* asks the index whether the file is needed. It can't have missed a
//!   row: who is about to write one has the file locked.
//! - Who completes a file keeps its exclusive lock over the renaming and the row, and then makes it a shared one. So a
//!   root file system that could be locked and has no row has lost its builder.
//!
//! Nobody waits for a file's lock within a change of the index, and who collects waits for none; so there is no circle.
//!
//! # Crashes
//! Adding goes *file, then row*; removing goes *row, then file*, the row's absence being on disk first (`index`). A
//! crash in between leaves a file without a row in both cases, which is harmless. A part of a download is taken up
//! by the next one, which hashes it anew; a part of a root file system is emptied.
//!
//! On a full disk a download and an output are removed (see `download` for why), and what is complete stays usable:
//! that opening an image can't note the time is no error.

mod blob;
mod download;
mod error;
mod fingerprint;
mod image;
mod index;
mod inspect;
mod layers;
mod lock;
mod prune;
mod remove;
mod rootfs;
mod save;
mod verify;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::blob::Blob;
pub use self::download::{Download, Partial};
pub use self::error::StoreError;
pub use self::image::{NewImage, StoredImage};
use self::index::Index;
pub use self::inspect::{Details, LayerDetails, RootfsState, Summary};
pub use self::layers::verify_layers;
pub use self::prune::PruneOptions;
pub use self::remove::Removed;
pub use self::rootfs::{BuildRootfs, Rootfs, RootfsBuild, RootfsKey};
pub use self::verify::{Problem, VerifyReport};
use crate::digest::Digest;

/// The directories of the store.
const DIRECTORIES: [&str; 4] = ["", "blobs/sha256", "partial", "rootfs"];

/// An open store. Copies share the connection to the index; threads may share a store or have one each.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    index: Index,
}

impl Store {
    /// Opens the store in the directory `root`, and makes it when it doesn't exist.
    ///
    /// # Errors
    /// [`StoreError`], when it can't be made, or its index is damaged or newer than this program.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for directory in DIRECTORIES {
            let path = root.join(directory);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| StoreError::Directory { path, source })?;
        }
        let index = Index::open(root)?;
        Ok(Self { inner: Arc::new(Inner { root: root.into(), index }) })
    }

    /// The directory that it is in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    fn index(&self) -> &Index {
        &self.inner.index
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn blobs(&self) -> PathBuf {
        self.root().join("blobs/sha256")
    }

    fn partials(&self) -> PathBuf {
        self.root().join("partial")
    }

    fn root_file_systems(&self) -> PathBuf {
        self.root().join("rootfs")
    }
}

/// Waits until a directory's names are on disk.
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let sync = File::open(path).and_then(|directory| directory.sync_all());
    sync.map_err(error::file(path, "written to the disk"))
}

#[cfg(test)]
mod tests;
