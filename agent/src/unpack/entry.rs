//! What an archive's entry says, apart from how tar says it.

/// An entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name as the archive has it; see [`super::path::clean`].
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Everything about it that does not depend on what it is. Without meaning for hard links.
    pub metadata: Metadata,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, whose content follows in the archive.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with this text.
    Symlink(Vec<u8>),
    /// Another name for the file with this name.
    HardLink(Vec<u8>),
    /// A device node or FIFO.
    Node(Node),
    /// Something that layers may not have: the type byte of the tar header.
    Unknown(u8),
}

/// A file without content of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A character device with major and minor number.
    Character(u32, u32),
    /// A block device with major and minor number.
    Block(u32, u32),
    /// A FIFO.
    Fifo,
}

/// Owner, permissions, time and extended attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The permission bits, 0o7777 at most. Without meaning for symbolic links.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was changed last.
    pub mtime: Time,
    /// The extended attributes: names and values, sorted by name, none twice.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// What a directory gets that no entry describes: root's, 0755 and, so that an image gives the same tree each time,
    /// the epoch as its time.
    pub fn implied() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Time::default(), xattrs: Vec::new() }
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds since the epoch, rounded down.
    pub seconds: i64,
    /// Nanoseconds after that, below 10⁹.
    pub nanoseconds: u32,
}
