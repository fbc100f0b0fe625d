//! Blobs: manifests, configurations and layers, by the digest of their bytes.

use std::fs::File;
use std::sync::Arc;

use super::download::Download;
use super::error::{self, StoreError};
use super::{Store, lock};
use crate::digest::Digest;

/// A blob in the store. It can't be removed from the store as long as the file is open, in this process or another.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The digest of its bytes.
    pub digest: Digest,
    /// It, open for reading.
    pub file: Arc<File>,
    /// Its length in bytes.
    pub length: u64,
}

impl Store {
    /// Opens a blob. `None` when it is not in the store.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let path = self.blob_path(digest);
        let Some(file) = lock::shared(&path).map_err(error::file(&path, "opened"))? else { return Ok(None) };
        let length = file.metadata().map_err(error::file(&path, "opened"))?.len();
        Ok(Some(Blob { digest: *digest, file: Arc::new(file), length }))
    }

    /// Stores a small blob that is at hand.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Full`].
    pub fn put(&self, bytes: &[u8]) -> Result<Blob, StoreError> {
        let digest = Digest::of(bytes);
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match self.download(&digest, length, &mut || {})? {
            Download::Present(blob) => Ok(blob),
            Download::Partial(mut partial) => {
                partial.restart()?;
                partial.write(bytes)?;
                partial.commit()
            }
        }
    }
}
