//! What the kernel sees in an image. Mounting needs root.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use erofs::{Special, Time};

use super::model::{Seen, SeenKind, Tree};
use super::tools::run;

/// An image that is mounted. It is unmounted when this is dropped.
pub struct Mount {
    folder: tempfile::TempDir,
}

/// Mounts an image; doesn't without the rights for it, and says so.
pub fn mount(image: &[u8]) -> Option<Mount> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(image).expect("the image is stored");
    // The loop device keeps the file open, so it may lose its name afterwards.
    mount_file(file.path())
}

/// Mounts an image in a file.
pub fn mount_file(image: &Path) -> Option<Mount> {
    if std::fs::metadata("/proc/self").expect("/proc is mounted").uid() != 0 {
        println!("NOT RUN: mounting needs root.");
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    run(Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(image).arg(folder.path()));
    Some(Mount { folder })
}

impl Drop for Mount {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.folder.path()));
    }
}

impl Mount {
    /// Where.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// All that is in it.
    pub fn read(&self) -> Tree {
        let mut tree = Tree::new();
        self.read_below(&mut tree, Vec::new());
        let mut firsts = BTreeMap::new();
        for (path, seen) in &mut tree {
            let inode = std::mem::take(&mut seen.first);
            seen.first = firsts.entry(inode).or_insert_with(|| path.clone()).clone();
        }
        tree
    }

    fn read_below(&self, tree: &mut Tree, path: Vec<u8>) {
        let place = self.path().join(OsStr::from_bytes(&path));
        let seen = see(&place);
        if seen.kind == SeenKind::Directory {
            for entry in std::fs::read_dir(&place).expect("a directory") {
                let name = entry.expect("an entry").file_name().into_vec();
                let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
                self.read_below(tree, path);
            }
        }
        tree.insert(path, seen);
    }
}

/// What is at `place`. Its inode number stands for the first path.
fn see(place: &Path) -> Seen {
    let metadata = std::fs::symlink_metadata(place).expect("metadata");
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let file_type = metadata.file_type();
    let kind = if file_type.is_dir() {
        SeenKind::Directory
    } else if file_type.is_file() {
        SeenKind::File(std::fs::read(place).expect("content"))
    } else if file_type.is_symlink() {
        SeenKind::Symlink(std::fs::read_link(place).expect("a target").into_os_string().into_vec())
    } else if file_type.is_char_device() {
        SeenKind::Special(Special::CharDevice { major, minor })
    } else if file_type.is_block_device() {
        SeenKind::Special(Special::BlockDevice { major, minor })
    } else if file_type.is_fifo() {
        SeenKind::Special(Special::Fifo)
    } else {
        SeenKind::Special(Special::Socket)
    };
    let nanoseconds = u32::try_from(metadata.mtime_nsec()).expect("nanoseconds");
    Seen {
        kind,
        mode: u16::try_from(metadata.mode() & 0o7777).expect("permissions"),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Time { seconds: metadata.mtime(), nanoseconds },
        links: u32::try_from(metadata.nlink()).expect("links"),
        xattrs: xattrs(place),
        first: metadata.ino().to_string().into_bytes(),
    }
}

fn xattrs(place: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(place, &mut names).expect("names of extended attributes");
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(place, OsStr::from_bytes(name), &mut value[..]).ok()?;
        value.truncate(length);
        Some((name.to_vec(), value))
    };
    names.filter_map(read).collect()
}

/// What of a tree Linux shows: `user.` only of files and directories.
pub fn visible(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    for seen in tree.values_mut() {
        if !matches!(seen.kind, SeenKind::File(_) | SeenKind::Directory) {
            seen.xattrs.retain(|name, _| !name.starts_with(b"user."));
        }
    }
    tree
}
