//! Downloads: a blob that comes piece by piece, perhaps over several processes' lives.
//!
//! The bytes go to `partial/HEX`, which its writer has locked exclusively; others who want the same blob wait for that
//! lock. Dropping a [`Partial`] and dying leave the bytes; the next writer hashes them again and goes on behind them.
//! On a full disk they are removed: the space is needed by everything else in the file system, and the remedy,
//! `taskrun image prune`, would remove them anyway.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::blob::Blob;
use super::error::{self, StoreError};
use super::lock::Exclusive;
use super::{Store, sync_directory};
use crate::digest::Digest;

/// How much is read at a time.
const BUFFER: usize = 1 << 18;

/// What [`Store::download`] gives.
#[derive(Debug)]
pub enum Download {
    /// The blob is there.
    Present(Blob),
    /// It is to be downloaded, by the caller.
    Partial(Partial),
}

/// A blob that is being downloaded. Dropping it keeps what there is for later.
#[derive(Debug)]
pub struct Partial {
    store: Store,
    digest: Digest,
    length: u64,
    path: PathBuf,
    locked: Exclusive,
    position: u64,
    hasher: Sha256,
}

impl Store {
    /// Starts or resumes the download of a blob of `length` bytes. While another process downloads it this call
    /// waits; `waiting` is called once before that.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Full`].
    pub fn download(&self, digest: &Digest, length: u64, waiting: &mut dyn FnMut()) -> Result<Download, StoreError> {
        if let Some(blob) = self.blob(digest)? {
            return Ok(Download::Present(blob));
        }
        let path = self.partials().join(digest.hex());
        let locked = Exclusive::create(&path, &mut once(waiting)).map_err(error::file(&path, "locked"))?;
        // It may have become complete since.
        if let Some(blob) = self.blob(digest)? {
            fs::remove_file(&path).map_err(error::file(&path, "removed"))?;
            return Ok(Download::Present(blob));
        }
        let (store, digest) = (self.clone(), *digest);
        let mut partial = Partial { store, digest, length, path, locked, position: 0, hasher: Sha256::new() };
        partial.resume()?;
        Ok(Download::Partial(partial))
    }
}

/// Calls `waiting` the first time only.
pub(super) fn once(waiting: &mut dyn FnMut()) -> impl FnMut() {
    let mut first = true;
    move || {
        if std::mem::replace(&mut first, false) {
            waiting();
        }
    }
}

impl Partial {
    /// How many bytes there are: where the download goes on.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`StoreError::Length`] when there are more than announced, and then none is added; [`StoreError::File`];
    /// [`StoreError::Full`], and then nothing is kept.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let end = u64::try_from(bytes.len()).ok().and_then(|length| self.position.checked_add(length));
        let Some(end) = end.filter(|&end| end <= self.length) else {
            let (digest, expected) = (self.digest, self.length);
            return Err(StoreError::Length { digest, expected, actual: end.unwrap_or(u64::MAX) });
        };
        let mut file = self.locked.file();
        let write = file.seek(SeekFrom::Start(self.position)).and_then(|_| file.write_all(bytes));
        write.map_err(|source| self.failed(source))?;
        self.hasher.update(bytes);
        self.position = end;
        Ok(())
    }

    /// Throws away the bytes that there are.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.locked.file().set_len(0).map_err(error::file(&self.path, "emptied"))?;
        self.position = 0;
        self.hasher = Sha256::new();
        Ok(())
    }

    /// Completes the download: the blob is in the store, and on disk.
    ///
    /// # Errors
    /// [`StoreError::Length`] when bytes are missing, which are kept; [`StoreError::Digest`] when they are others than
    /// the digest says, which are not; [`StoreError::File`], [`StoreError::Full`].
    pub fn commit(self) -> Result<Blob, StoreError> {
        let (digest, expected, actual) = (self.digest, self.length, self.position);
        if actual != expected {
            return Err(StoreError::Length { digest, expected, actual });
        }
        let found = Digest::finish(self.hasher.clone());
        if found != digest {
            fs::remove_file(&self.path).map_err(error::file(&self.path, "removed"))?;
            return Err(StoreError::Digest { expected: digest, actual: found });
        }
        let blob = self.store.blob_path(&digest);
        let file = self.locked.file();
        // What a dead writer left behind the end, had it known another length.
        let written = file.set_len(expected).and_then(|()| file.sync_all());
        written.map_err(|source| self.failed(source))?;
        fs::rename(&self.path, &blob).map_err(error::file(&blob, "made"))?;
        file.set_permissions(Permissions::from_mode(0o400)).map_err(error::file(&blob, "protected"))?;
        sync_directory(&self.store.blobs())?;
        // Between this lock and that of the caller's blob there must be no moment without one.
        self.locked.share().map_err(error::file(&blob, "locked"))?;
        let found = self.store.blob(&digest)?;
        found.ok_or_else(|| error::at(&blob, "opened", None, io::ErrorKind::NotFound.into()))
    }

    /// Hashes the bytes that are there already.
    fn resume(&mut self) -> Result<(), StoreError> {
        let (hasher, position) = hash(self.locked.file()).map_err(error::file(&self.path, "read"))?;
        if position > self.length {
            return self.restart();
        }
        (self.hasher, self.position) = (hasher, position);
        Ok(())
    }

    /// The error of a write. What a full disk cut off is removed.
    fn failed(&self, source: io::Error) -> StoreError {
        let needed = self.length.saturating_sub(self.position);
        let error = error::at(&self.path, "written", Some(needed), source);
        if matches!(error, StoreError::Full { .. }) {
            // The error to report is the full disk.
            let _ = self.locked.file().set_len(0).and_then(|()| fs::remove_file(&self.path));
        }
        error
    }
}

/// Hashes a file from its start to its end. Returns its length too.
pub(super) fn hash(mut file: &File) -> io::Result<(Sha256, u64)> {
    let (mut hasher, mut length) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; BUFFER];
    file.seek(SeekFrom::Start(0))?;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher, length)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..read).unwrap_or_default());
        length = length.saturating_add(u64::try_from(read).unwrap_or(0));
    }
}
