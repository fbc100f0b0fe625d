//! A task's scratch disk: an ext4 file system in a sparse file without a name.
//!
//! It has no name from the start, so it is gone with the last process that holds it, however that ends. It takes room
//! only for what the task has written; a task that deletes gives room back (the guest mounts it with `discard`).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bytes::DiskSize;

/// The program that makes the file system, and where it is when `PATH` leaves it out.
const MKFS: &str = "mkfs.ext4";
const MKFS_FOLDERS: &str = "/usr/sbin:/sbin:/usr/local/sbin";

/// No journal, since a scratch disk never has to survive a crash; nothing reserved for root; nothing written that is
/// zero anyway.
const OPTIONS: [&str; 9] =
    ["-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard", "-Lscratch"];

/// Why there is no scratch disk.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The file can't be made.
    #[error("A scratch disk of {size} can't be made in {folder}", folder = .folder.display())]
    Create {
        /// Its size.
        size: DiskSize,
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no program.
    #[error("A scratch disk needs {MKFS}: install e2fsprogs")]
    NoProgram(#[source] io::Error),
    /// The program failed; its own words.
    #[error("{MKFS} can't make a scratch disk of {size}: {words}")]
    Failed {
        /// The size.
        size: DiskSize,
        /// What it said.
        words: String,
    },
}

/// Makes a scratch disk on the file system of `folder`.
///
/// # Errors
/// [`ScratchError`].
pub fn create(folder: &Path, size: DiskSize) -> Result<File, ScratchError> {
    let failed = |source| ScratchError::Create { size, folder: folder.to_owned(), source };
    let file = tempfile::tempfile_in(folder).map_err(failed)?;
    file.set_len(size.bytes()).map_err(failed)?;
    let input = file.try_clone().map_err(failed)?;
    // Its own standard input is a name for a file that has none.
    let output = mkfs().args(OPTIONS).arg("/proc/self/fd/0").stdin(Stdio::from(input)).output();
    let output = output.map_err(ScratchError::NoProgram)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(ScratchError::Failed { size, words: crate::errors::harmless(words.trim()) });
    }
    Ok(file)
}

/// Whether a scratch disk can be made, for the report of `doctor`.
///
/// # Errors
/// [`ScratchError::NoProgram`].
pub fn available() -> Result<(), ScratchError> {
    let output = mkfs().arg("-V").stdin(Stdio::null()).output();
    output.map(drop).map_err(ScratchError::NoProgram)
}

fn mkfs() -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(find(&format!("{path}:{MKFS_FOLDERS}")));
    command.env_clear().env("LC_ALL", "C");
    command
}

/// The first `mkfs.ext4` of these folders, or else its bare name.
fn find(path: &str) -> PathBuf {
    let candidates = std::env::split_paths(path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(MKFS));
    candidates.into_iter().find(|program| program.is_file()).unwrap_or_else(|| MKFS.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_scratch_disk_is_a_sparse_ext4_file_system_without_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let size: DiskSize = "1GB".parse().unwrap();
        let file = create(folder.path(), size).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.nlink()), (1 << 30, 0));
        assert!(metadata.blocks() * 512 < 16 << 20, "{} blocks", metadata.blocks());
        let mut magic = [0; 2];
        file.read_exact_at(&mut magic, 1024 + 56).unwrap();
        assert_eq!(magic, [0x53, 0xef]);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = create(Path::new("/no/such/folder"), "1GB".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
