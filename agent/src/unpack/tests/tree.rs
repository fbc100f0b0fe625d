//! A directory tree, read back completely.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::unpack::xattr;

/// What is at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Type and permissions.
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The content of a file or the text of a symbolic link.
    pub content: Vec<u8>,
    /// The first path of the same file.
    pub first: Vec<u8>,
}

/// All that is below a directory, by path; the directory itself has an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<Vec<u8>, File>);

impl Tree {
    /// Reads `root`.
    pub fn read(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut inodes = BTreeMap::new();
        let mut pending = vec![Vec::new()];
        while let Some(name) = pending.pop() {
            let path = if name.is_empty() { root.to_owned() } else { root.join(OsStr::from_bytes(&name)) };
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            if kind.is_dir() {
                for child in fs::read_dir(&path).unwrap() {
                    let child = child.unwrap().file_name().into_vec();
                    pending.push(if name.is_empty() { child } else { [&name[..], &child].join(&b'/') });
                }
            }
            let content = match () {
                () if kind.is_file() => fs::read(&path).unwrap(),
                () if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_vec(),
                () => Vec::new(),
            };
            let device = nix::sys::stat::major(metadata.rdev()).try_into().unwrap();
            let device = (device, nix::sys::stat::minor(metadata.rdev()).try_into().unwrap());
            let file = File {
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                mtime: (metadata.mtime(), metadata.mtime_nsec()),
                device,
                xattrs: xattr::testing::get(&path),
                content,
                first: Vec::new(),
            };
            inodes.entry(metadata.ino()).or_insert_with(Vec::new).push(name.clone());
            files.insert(name, file);
        }
        for names in inodes.into_values() {
            let first = names.iter().min().unwrap().clone();
            for name in names {
                files.get_mut(&name).unwrap().first.clone_from(&first);
            }
        }
        Self(files)
    }

    /// The paths, in order.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| name.escape_ascii().to_string()).collect()
    }

    pub fn get(&self, name: &str) -> &File {
        self.0.get(name.as_bytes()).unwrap_or_else(|| panic!("{name} is missing among {:?}", self.names()))
    }

    /// The content of a file or text of a link.
    pub fn content(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.get(name).content).into_owned()
    }

    /// The permissions of a file, without its type.
    pub fn mode(&self, name: &str) -> u32 {
        self.get(name).mode & 0o7777
    }
}
