//! The store of images: what was downloaded and unpacked, for all tasks and processes of a user.

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
