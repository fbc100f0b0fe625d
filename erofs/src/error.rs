//! What can go wrong while an image is written.

use std::io;

/// Why an image can't be written, or can't hold something. After [`Self::Output`] and [`Self::Full`] the image is lost;
/// after the others nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The output failed.
    #[error("The image can't be written at byte {offset}")]
    Output {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// More data or metadata than fits.
    #[error("The image would be larger than the {limit} bytes that are allowed")]
    Full {
        /// The limit: [`crate::Options::max_size`], or EROFS's own.
        limit: u64,
    },
    /// A name that no directory can hold.
    #[error("The name {name:?} can't be used: {problem}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The name is taken.
    #[error("The directory has an entry {name:?} already")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is no such entry.
    #[error("The directory has no entry {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// An entry can only be put into a directory.
    #[error("The entry {name:?} can't be in what is not a directory")]
    NotADirectory {
        /// The entry's name.
        name: String,
    },
    /// Only an empty directory can be removed.
    #[error("The directory {name:?} is not empty: remove its entries first")]
    NotEmpty {
        /// The directory's name.
        name: String,
    },
    /// A directory has one name, and is not inside itself.
    #[error("The directory can't be linked as {name:?}: it has a name already, or would be inside itself")]
    DirectoryLink {
        /// The second name.
        name: String,
    },
    /// The inode is not one of this writer, or was removed with its last name.
    #[error("The inode is not there any more: its last name was removed")]
    Removed,
    /// A symbolic link that Linux couldn't follow.
    #[error("The target of a symbolic link has {length} bytes: 1 to {limit} bytes without zero bytes are possible")]
    Target {
        /// How long it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// More than permissions in a mode.
    #[error("The mode {mode:#o} has more than the bits 07777")]
    Mode {
        /// The mode.
        mode: u16,
    },
    /// A fraction of a second that is none.
    #[error("A time has {nanoseconds} nanoseconds, more than a second")]
    Time {
        /// The nanoseconds.
        nanoseconds: u32,
    },
    /// A device number that Linux's encoding has no room for.
    #[error("The device number {major}:{minor} is too large: 4095:1048575 is the largest")]
    Device {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// An extended attribute that EROFS can't store.
    #[error("The extended attribute {name:?} can't be stored: {problem}")]
    Xattr {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An inode's extended attributes are too large together.
    #[error("The extended attributes of an inode take {size} bytes, more than the {limit} that are possible")]
    XattrsSize {
        /// How large they are.
        size: usize,
        /// How large they may be.
        limit: usize,
    },
    /// There are too many of something for the format.
    #[error("There are more {what} than an image can have")]
    TooMany {
        /// What.
        what: &'static str,
    },
    /// A volume name that the superblock has no room for.
    #[error("The volume name has {length} bytes: up to {limit} bytes without zero bytes are possible")]
    VolumeName {
        /// How long it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
}

/// Bytes from an image, for a message.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
