//! The files in a directory that somebody else filled.
//!
//! Symbolic links are followed only within the directory (`openat2` with `RESOLVE_BENEATH`): an image that was
//! unpacked from an archive must not be able to hand the host's own files to a guest. Opening never blocks on a FIFO,
//! and only regular files are accepted.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::error::ImageError;
use crate::files::{Extent, Files};

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    place: String,
    directory: File,
}

impl Directory {
    /// Opens the directory at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let place = path.display().to_string();
        let open = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(path);
        let directory = open.map_err(|source| ImageError::Open { place: place.clone(), source })?;
        Ok(Self { place, directory })
    }
}

impl Files for Directory {
    fn place(&self) -> &str {
        &self.place
    }

    fn find(&self, name: &str) -> Result<Option<Extent>, ImageError> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = match openat2(&self.directory, name, how) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(Errno::EXDEV) => {
                return Err(ImageError::LeadsOut { place: self.place.clone(), name: name.into() });
            }
            Err(errno) => return Err(self.read_error(name, errno.into())),
        };
        let metadata = file.metadata().map_err(|source| self.read_error(name, source))?;
        if !metadata.is_file() {
            return Err(ImageError::NotAFileInside { place: self.place.clone(), name: name.into() });
        }
        Ok(Some(Extent { file: Arc::new(file), offset: 0, length: metadata.len() }))
    }
}

impl Directory {
    fn read_error(&self, name: &str, source: io::Error) -> ImageError {
        ImageError::Read { place: self.place.clone(), name: name.into(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn links_are_followed_only_within_the_directory() {
        let temp = tempfile::tempdir().unwrap();
        let inside = temp.path().join("image");
        fs::create_dir_all(inside.join("blobs")).unwrap();
        fs::write(temp.path().join("secret"), "secret").unwrap();
        fs::write(inside.join("blobs/a"), "abc").unwrap();
        symlink("a", inside.join("blobs/near")).unwrap();
        symlink("../../secret", inside.join("blobs/up")).unwrap();
        symlink(temp.path().join("secret"), inside.join("blobs/absolute")).unwrap();
        symlink("/proc/self/fd/0", inside.join("blobs/magic")).unwrap();
        let directory = Directory::open(&inside).unwrap();
        assert_eq!(directory.find("blobs/near").unwrap().unwrap().length, 3);
        for name in ["blobs/up", "blobs/absolute", "blobs/magic", "../secret"] {
            assert!(matches!(directory.find(name), Err(ImageError::LeadsOut { .. })), "{name}");
        }
        assert!(directory.find("blobs/none").unwrap().is_none());
        assert!(directory.find("blobs/a/below").unwrap().is_none());
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_without_waiting() {
        let temp = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&temp.path().join("fifo"), Mode::S_IRWXU).unwrap();
        fs::create_dir(temp.path().join("directory")).unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        for name in ["fifo", "directory"] {
            assert!(matches!(directory.find(name), Err(ImageError::NotAFileInside { .. })), "{name}");
        }
    }

    #[test]
    fn a_directory_that_is_missing_or_a_file_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file, temp.path().join("none")] {
            let error = Directory::open(&path).unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }
}
