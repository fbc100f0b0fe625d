//! Why the store can't do what it was asked for.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::{ImageError, printable};

/// Why the store can't do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A directory of the store can't be made.
    #[error("The directory {path} of the image store can't be made; set TASKRUN_HOME to one that can", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// A file of the store can't be used.
    #[error("The file {path} of the image store can't be {action}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The file system is full.
    #[error(
        "The file system of {directory} is full{}: free some space, for example with `taskrun image prune`",
        shortage(.needed), directory = .directory.display()
    )]
    Full {
        /// The directory.
        directory: PathBuf,
        /// The bytes that were still to be written, where that is known.
        needed: Option<u64>,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The index can't be used.
    #[error("The index {path} of the image store can't be used", path = .path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// The index is not a database, or a broken one.
    #[error(
        "The index {path} of the image store is damaged: remove it and the files -wal and -shm beside it while no task \
         runs, and pull the images again (what was downloaded is found again)", path = .path.display()
    )]
    Damaged {
        /// The index.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// The index was written by a taskrun that knows more.
    #[error(
        "The image store {path} was written by a newer taskrun (schema {found}; this one knows {known}): use that one, \
         or set TASKRUN_HOME to another directory", path = .path.display()
    )]
    Newer {
        /// The index.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
    /// What was downloaded is not what was asked for.
    #[error("What was received as {expected} has the digest {actual}: it was not kept")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A download has another length than was announced.
    #[error("What was received as {digest} has {} bytes instead of {expected}", length(.actual, .expected))]
    Length {
        /// What was asked for.
        digest: Digest,
        /// The announced length in bytes.
        expected: u64,
        /// The received length in bytes, as far as it was received.
        actual: u64,
    },
    /// An image in the store can't be opened.
    #[error("The image {name} in the store can't be used; remove it with `taskrun image rm` and pull it again")]
    Image {
        /// The image's name or digest.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Box<ImageError>,
    },
    /// A root file system of no bytes, or of more than a file can have.
    #[error("A root file system of {length} bytes can't be stored")]
    RootfsLength {
        /// The length in bytes.
        length: u64,
    },
    /// A root file system in the store has another length than when it was stored.
    #[error("The root file system {path} is damaged: `taskrun image verify --repair` removes it", path = .path.display())]
    RootfsDamaged {
        /// The file.
        path: PathBuf,
    },
    /// A layer's bytes are not those that its image names.
    #[error("The layer {expected} of the image is damaged: its content has the digest {actual}")]
    Layer {
        /// The digest that the image names.
        expected: Digest,
        /// The digest of its bytes.
        actual: Digest,
    },
    /// A layer's bytes can't be read.
    #[error("The layer {layer} of the image can't be read")]
    ReadLayer {
        /// The layer.
        layer: Digest,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// No image has the name or digest.
    #[error("There is no image {} in the store: `taskrun image ls` lists them", printable(.0))]
    NoSuchImage(String),
    /// A digest's prefix fits several images, or an image has several names.
    #[error("{} means several images or names: {}; give one of them, or the whole digest with --force", printable(.text), .names.join(", "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// What it could mean.
        names: Vec<String>,
    },
    /// The image is in use.
    #[error("The image {name} is in use by a task or a download: stop that first")]
    InUse {
        /// The image's name.
        name: String,
    },
    /// An archive can't be written.
    #[error("The archive can't be written")]
    Archive(#[source] io::Error),
}

/// How much space is needed, as a part of a sentence.
fn shortage(needed: &Option<u64>) -> String {
    needed.map_or_else(String::new, |bytes| format!(" ({bytes} more bytes are needed)"))
}

/// A received length; one that is too long was not received to its end.
fn length(actual: &u64, expected: &u64) -> String {
    if actual > expected { format!("more than {expected}") } else { actual.to_string() }
}

/// Errors of operations on the file at `path`, by what was tried.
pub(super) fn file<'a>(path: &'a Path, action: &'static str) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| at(path, action, None, source)
}

/// The error of an operation on the file at `path`, which had `needed` more bytes to write.
pub(super) fn at(path: &Path, action: &'static str, needed: Option<u64>, source: io::Error) -> StoreError {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        let directory = path.parent().unwrap_or(path).into();
        return StoreError::Full { directory, needed, source };
    }
    StoreError::File { path: path.into(), action, source }
}
