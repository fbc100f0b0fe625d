//! Paths of the task, looked up inside its root before there is a task: as a container's process would see them, with every
//! symbolic link resolved against the root and `..` stopping there.
//!
//! This is done here and not by `openat2`, since what is missing is to be made on the way, also behind a link that leads
//! nowhere. It is safe because nobody else changes the root yet: what was seen to be a directory stays one, so each name is
//! looked up below directories only, and no file system in the root has links that are more than text.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How many symbolic links one path may lead through, as in Linux's own look-up.
const LINKS_MAX: usize = 40;

/// What is wanted at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A directory.
    Directory,
    /// Anything but a directory.
    File,
}

/// Why there cannot be what is wanted.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The path, or the image's files on it, rule it out.
    #[error("{0}")]
    Path(&'static str),
    /// The kernel refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// The real place of `path` in `root`, relative to it; made, with directories of root's, where it is missing.
pub fn make(root: &Path, path: &[u8], wanted: Wanted) -> Result<PathBuf, ResolveError> {
    if !path.starts_with(b"/") || path.contains(&0) {
        return Err(ResolveError::Path("the path is not absolute"));
    }
    let mut place = PathBuf::new();
    let mut pending = components(path);
    let mut links = 0_usize;
    while let Some(name) = pending.pop() {
        if name == b".." {
            place.pop();
            continue;
        }
        let next = place.join(OsStr::from_bytes(&name));
        let real = root.join(&next);
        let last = pending.is_empty();
        match fs::read_link(&real) {
            Ok(text) => {
                links = links.saturating_add(1);
                if links > LINKS_MAX {
                    return Err(ResolveError::Path("its path leads through more than 40 symbolic links"));
                }
                let text = text.into_os_string().into_vec();
                if text.starts_with(b"/") {
                    place = PathBuf::new();
                }
                pending.extend(components(&text));
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(&real, if last { wanted } else { Wanted::Directory })?;
            }
            // It is there and no link.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let wanted = if last { wanted } else { Wanted::Directory };
                if fs::symlink_metadata(&real)?.is_dir() != (wanted == Wanted::Directory) {
                    return Err(ResolveError::Path(match wanted {
                        Wanted::Directory => "the image has something else than a directory there",
                        Wanted::File => "the image has a directory there",
                    }));
                }
            }
            Err(error) => return Err(error.into()),
        }
        place = next;
    }
    Ok(place)
}

/// The names of a path, the last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.map(<[u8]>::to_vec).rev().collect()
}

fn create(path: &Path, wanted: Wanted) -> io::Result<()> {
    match wanted {
        Wanted::Directory => fs::DirBuilder::new().mode(0o755).create(path),
        Wanted::File => fs::File::options().write(true).create_new(true).mode(0o644).open(path).map(drop),
    }
}
