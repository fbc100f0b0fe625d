//! A streaming writer of EROFS file-system images.
//!
//! EROFS is Linux's read-only file system. This crate writes images that every kernel since 5.10 mounts: uncompressed,
//! the content of each file in one run of 4 KiB blocks, so that they can be mapped straight from the device (DAX).
//!
//! File content streams through; what stays in memory is metadata: some 170 bytes for an entry with a name of usual
//! length, and each distinct extended attribute once. The same calls in the same order give the same bytes.
//!
//! ```
//! use erofs::{Attributes, InodeId, Options, Special, Time, Writer};
//!
//! # fn main() -> Result<(), erofs::Error> {
//! let mut image = Writer::new(Vec::new(), Options::default());
//! let attributes = Attributes { mode: 0o755, mtime: Time { seconds: 1_700_000_000, nanoseconds: 5 }, ..Attributes::default() };
//!
//! let etc = image.directory(attributes.clone())?;
//! image.link(InodeId::ROOT, b"etc", etc)?;
//! let mut file = image.file(attributes.clone())?;
//! file.write(b"127.0.0.1 ")?;
//! file.write(b"localhost\n")?;
//! let hosts = file.finish()?;
//! image.link(etc, b"hosts", hosts)?;
//! image.link(etc, b"a-second-name", hosts)?;
//! let null = image.special(Special::CharDevice { major: 1, minor: 3 }, attributes)?;
//! image.link(InodeId::ROOT, b"null", null)?;
//!
//! let (bytes, summary) = image.finish()?;
//! assert_eq!(summary.size, bytes.len() as u64);
//! assert_eq!(summary.inodes, 4);
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! ```text
//! block 0      superblock, at byte 1024; written last, so what an interrupted writer leaves is no file system
//! 1..          content of files, in the order in which it came; what was removed again leaves a hole
//! meta_blkaddr shared extended attributes (from xattr_blkaddr = meta_blkaddr)
//!              blocks of large directories and of symbolic links that don't fit beside their inode
//!              inodes: 64 bytes, inline extended attributes, inline last part of a directory or symbolic link
//! ```
//!
//! The inodes of a directory's entries lie together in the order of their names, those of its subdirectories' entries
//! behind them. An inode with what is inline doesn't cross a block where that can be avoided, so a step of a path walk
//! reads one block. The kernel numbers inodes by their place (`st_ino`), which names of one file have in common.
//!
//! # Limits
//!
//! | | |
//! |---|---|
//! | image | [`Options::max_size`], and 2³² - 1 blocks (16 TiB) |
//! | name | 1 to 255 bytes without `/` and zero bytes |
//! | target of a symbolic link | 1 to 4095 bytes without zero bytes |
//! | device number | major below 2¹², minor below 2²⁰ |
//! | extended attribute | in `user.`, `trusted.` or `security.`, or one of the two POSIX access control lists; name up to 255 bytes, value up to 65535 |
//! | extended attributes of an inode | 256 KiB together |
//! | inodes | 2³² |
//!
//! Each has an [`Error`] of its own, given before anything is changed.

mod attributes;
mod directory;
mod error;
mod file;
mod finish;
mod format;
mod inode;
mod layout;
mod output;
mod sink;
mod writer;
mod xattr;

pub use attributes::{Attributes, Special, Time, VolumeName, Xattr};
pub use error::Error;
pub use file::FileWriter;
pub use finish::Summary;
pub use inode::InodeId;
pub use output::Output;
pub use writer::{Options, Writer};

/// The size of a block. Images, and all that is written to an [`Output`], are multiples of it.
pub const BLOCK_SIZE: u64 = format::BLOCK as u64;
