//! The files in a tar archive, read in place: nothing is extracted, a file is a range of the archive's bytes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::OFlag;

use crate::error::ImageError;
use crate::files::{Extent, Files};
use crate::tar_index::TarIndex;

/// An open archive and what lies where in it.
#[derive(Debug)]
pub(crate) struct Archive {
    place: String,
    file: Arc<File>,
    index: TarIndex,
}

impl Archive {
    /// Opens the archive at `path` and reads its headers.
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let place = path.display().to_string();
        let open_error = |source| ImageError::Open { place: place.clone(), source };
        // Not to wait for the writer of a FIFO.
        let open = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let file = open.map_err(open_error)?;
        let metadata = file.metadata().map_err(open_error)?;
        if !metadata.is_file() {
            return Err(ImageError::NotAFile { place });
        }
        let mut magic = [0; 6];
        let length = file.read_at(&mut magic, 0).map_err(open_error)?;
        if let Some(method) = magic.get(..length).and_then(Method::of) {
            return Err(ImageError::CompressedArchive { place, tool: method.name() });
        }
        match TarIndex::read(&file, metadata.len()) {
            Ok(index) => Ok(Self { place, file: Arc::new(file), index }),
            Err(source) => Err(ImageError::Tar { place, source }),
        }
    }
}

impl Files for Archive {
    fn place(&self) -> &str {
        &self.place
    }

    fn find(&self, name: &str) -> Result<Option<Extent>, ImageError> {
        let found = self.index.find(name.as_bytes());
        let found = found.map_err(|source| ImageError::Tar { place: self.place.clone(), source })?;
        Ok(found.map(|range| Extent { file: Arc::clone(&self.file), offset: range.offset, length: range.length }))
    }
}

/// A way to compress, told by the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Method {
    /// The compression of data that starts with `magic`, at least six bytes of it where it has so many.
    pub(crate) fn of(magic: &[u8]) -> Option<Self> {
        let known: [(&[u8], Self); 4] = [
            (&[0x1f, 0x8b], Self::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (b"BZh", Self::Bzip2),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
        ];
        known.into_iter().find(|(prefix, _)| magic.starts_with(prefix)).map(|(_, method)| method)
    }

    /// Its name, which is that of its program too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn an_archive_that_is_no_archive_is_refused_by_its_kind() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x");
        fs::write(&path, [0x1f, 0x8b, 8, 0]).unwrap();
        assert!(matches!(Archive::open(&path), Err(ImageError::CompressedArchive { tool: "gzip", .. })));
        fs::write(&path, "this is some text and no archive").unwrap();
        assert!(matches!(Archive::open(&path), Err(ImageError::Tar { .. })));
        fs::write(&path, "").unwrap();
        assert!(matches!(Archive::open(&path), Err(ImageError::Tar { .. })));
        assert!(matches!(Archive::open(temp.path()), Err(ImageError::NotAFile { .. })));
        let fifo = temp.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert!(matches!(Archive::open(&fifo), Err(ImageError::NotAFile { .. })));
        assert!(matches!(Archive::open(&temp.path().join("none")), Err(ImageError::Open { .. })));
    }
}
