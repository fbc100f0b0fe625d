//! What is in memory about inodes.

use std::collections::BTreeMap;

use crate::attributes::Time;
use crate::format::{BLOCK, FileType};

/// An inode of the writer that made it. It means nothing to another writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(u32);

impl InodeId {
    /// The root directory, which is there from the start.
    pub const ROOT: Self = Self(0);

    pub(crate) fn new(index: usize) -> Option<Self> {
        u32::try_from(index).ok().map(Self)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// An inode.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) kind: Kind,
    /// How many names it has.
    pub(crate) names: u32,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Its extended attributes in [`crate::xattr::Xattrs`].
    pub(crate) xattrs: Box<[u32]>,
}

/// What an inode is.
#[derive(Debug)]
pub(crate) enum Kind {
    File(Extent),
    Directory(Box<Directory>),
    Symlink(Box<[u8]>),
    Special {
        file_type: FileType,
        device: u32,
    },
    /// It lost its last name.
    Removed,
}

/// Where a file's content is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// The first block.
    pub(crate) block: u64,
    /// In bytes.
    pub(crate) size: u64,
}

impl Extent {
    pub(crate) fn blocks(self) -> u64 {
        self.size.div_ceil(BLOCK as u64)
    }
}

/// A directory.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The root's is the root; itself, as long as it has no name.
    pub(crate) parent: InodeId,
    pub(crate) entries: BTreeMap<Box<[u8]>, InodeId>,
}

impl Directory {
    pub(crate) fn new(parent: InodeId) -> Self {
        Self { parent, entries: BTreeMap::new() }
    }
}

impl Kind {
    /// Its type; nothing once it was removed.
    pub(crate) fn file_type(&self) -> Option<FileType> {
        match self {
            Self::File(_) => Some(FileType::FILE),
            Self::Directory(_) => Some(FileType::DIRECTORY),
            Self::Symlink(_) => Some(FileType::SYMLINK),
            Self::Special { file_type, .. } => Some(*file_type),
            Self::Removed => None,
        }
    }
}
