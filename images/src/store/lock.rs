//! Locks on the store's files: flock(2) on the file itself.
//!
//! The kernel ties such a lock to the open file description, so it lives as long as any descriptor of it in any process
//! (descriptors are copied by `dup`, `fork` and SCM_RIGHTS), and it is gone when the last one is, however the processes
//! died. A file can be renamed or removed between being opened and being locked; so whoever has the lock looks whether
//! the path still names the file, and starts again when it doesn't.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A file with an exclusive lock, which is given up at the end.
#[derive(Debug)]
pub(super) struct Exclusive(File);

/// What came of an attempt to lock a file exclusively.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It is locked.
    Locked(Exclusive),
    /// Somebody uses it.
    InUse,
    /// There is no such file.
    Missing,
}

impl Exclusive {
    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// Opens the file at `path` for reading and writing, makes it when it doesn't exist, and waits for its lock;
    /// `waiting` is called before that.
    pub(super) fn create(path: &Path, waiting: &mut dyn FnMut()) -> io::Result<Self> {
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    // Shared: who completes the file goes on to use it under another name, perhaps for long, and lets
                    // others use it too.
                    uninterrupted(|| file.lock_shared())?;
                    continue;
                }
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let locked = Self(file);
            if names(path, locked.file())? {
                return Ok(locked);
            }
        }
    }

    /// Locks the existing file at `path` if nobody uses it.
    pub(super) fn attempt(path: &Path) -> io::Result<Attempt> {
        loop {
            let Some(file) = existing(path)? else { return Ok(Attempt::Missing) };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Attempt::InUse),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let locked = Self(file);
            if names(path, locked.file())? {
                return Ok(Attempt::Locked(locked));
            }
        }
    }

    /// Lets others use the file too. Nobody else can have locked it exclusively in between: Linux changes the lock in
    /// one step, and [`shared`] looks again anyway.
    pub(super) fn share(&self) -> io::Result<()> {
        uninterrupted(|| self.0.lock_shared())
    }
}

impl Drop for Exclusive {
    /// A child that was forked and has not executed its program yet has a copy of the descriptor; it must not keep the
    /// lock.
    fn drop(&mut self) {
        // Without the lock, closing the file can't fail to give it up.
        let _ = self.0.unlock();
    }
}

/// Opens the file at `path` for reading, with a shared lock that lasts as long as the file is open. Waits while
/// somebody has it locked exclusively, who is about to remove or to complete it. `None` when it doesn't exist.
pub(super) fn shared(path: &Path) -> io::Result<Option<File>> {
    loop {
        let Some(file) = existing(path)? else { return Ok(None) };
        uninterrupted(|| file.lock_shared())?;
        if names(path, &file)? {
            return Ok(Some(file));
        }
    }
}

/// Opens the regular file at `path` for reading.
fn existing(path: &Path) -> io::Result<Option<File>> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    found(OpenOptions::new().read(true).custom_flags(flags.bits()).open(path))
}

/// Whether `path` names `file`.
pub(super) fn names(path: &Path, file: &File) -> io::Result<bool> {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let Some(named) = found(path.symlink_metadata())? else { return Ok(false) };
    Ok(identity(named) == identity(file.metadata()?))
}

/// Takes a missing file as `None`.
pub(super) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Repeats a call that a signal breaks off.
fn uninterrupted(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
