//! Why an image could not be unpacked, as one sentence: which layer, which entry, what was wrong.

use std::fmt;
use std::io;

use nix::errno::Errno;

use super::path::escape;
use crate::failure::sentence;

/// Why an image could not be unpacked.
///
/// The sentence names everything, so there is no `source` below it.
#[derive(Debug)]
pub struct UnpackError {
    /// The layer's number, from 1.
    pub layer: usize,
    /// How many layers the image has.
    pub layers: usize,
    /// The path of the entry at which it happened, escaped for printing.
    pub entry: Option<String>,
    /// What was wrong.
    pub cause: Cause,
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, layers, entry, cause } = self;
        match entry {
            Some(entry) => write!(f, "Entry {entry} of layer {layer} of {layers} can't be unpacked: {cause}"),
            None => write!(f, "Layer {layer} of {layers} can't be unpacked: {cause}"),
        }
    }
}

impl std::error::Error for UnpackError {}

impl UnpackError {
    /// Whether the image is to blame, rather than the guest it is unpacked in.
    #[must_use]
    pub fn is_image_fault(&self) -> bool {
        !matches!(self.cause, Cause::Device(_) | Cause::Output(_) | Cause::TooMuchMemory { .. })
    }
}

/// What was wrong with a layer or one of its entries: the part of a sentence behind the colon.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The layer device failed.
    #[error("the layer device can't be read: {0}")]
    Device(io::Error),
    /// The device ended before the layer did.
    #[error("the layer device ends {missing} bytes before the layer does")]
    DeviceTooShort {
        /// How many bytes of the layer were not there.
        missing: u64,
    },
    /// The image names a digest that cannot be checked.
    #[error("its digest {0} is not sha256 and 64 hex digits")]
    DigestFormat(String),
    /// The content is not what the image says it is.
    #[error("the digest of its {what} is {got}, but the image says {expected}")]
    Digest {
        /// What was hashed: "blob" or "uncompressed archive".
        what: &'static str,
        /// What the image says.
        expected: String,
        /// What was read.
        got: String,
    },
    /// The compressed stream is broken.
    #[error("its {format} stream is broken: {error}")]
    Compression {
        /// The name of the format.
        format: &'static str,
        /// What the decoder says.
        error: io::Error,
    },
    /// The archive ended early.
    #[error("the tar archive ends in the middle of {0}")]
    Truncated(&'static str),
    /// The archive is broken.
    #[error("the tar archive is broken: {0}")]
    Archive(&'static str),
    /// The archive uses a feature that is not supported, as by the other tools of the field.
    #[error("{0}")]
    Unsupported(String),
    /// There are too many entries.
    #[error("the image has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// There are too many bytes.
    #[error("the image is larger than {limit} bytes uncompressed")]
    TooManyBytes {
        /// The limit.
        limit: u64,
    },
    /// A path is too long.
    #[error("a path of {length} bytes is longer than the {limit} that are allowed")]
    PathTooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A path has too many components.
    #[error("a path has more than the {limit} components that are allowed")]
    PathTooDeep {
        /// The limit.
        limit: usize,
    },
    /// A path is not one that Linux could hold, or means nothing.
    #[error("{0}")]
    Path(&'static str),
    /// A directory on an entry's path is something else.
    #[error("{} is not a directory", escape(.0))]
    NotADirectory(Vec<u8>),
    /// A hard link leads nowhere.
    #[error("its hard link target {} does not exist", escape(.0))]
    LinkTargetMissing(Vec<u8>),
    /// A hard link leads to a directory.
    #[error("its hard link target {} is a directory", escape(.0))]
    LinkTargetDirectory(Vec<u8>),
    /// The output device failed.
    #[error("the unpacked image can't be written: {0}")]
    Output(io::Error),
    /// The image grows too large.
    #[error("the unpacked image would be larger than {limit} bytes")]
    ImageTooLarge {
        /// The limit.
        limit: u64,
    },
    /// An image cannot hold this.
    #[error("{}", sentence(.0))]
    Image(erofs::Error),
    /// Names and metadata are too large.
    #[error("its names and attributes take more than the {} MiB of memory that unpacking has for them", .limit >> 20)]
    TooMuchMemory {
        /// The limit, in bytes.
        limit: u64,
    },
    /// An extended attribute that Linux would refuse.
    #[error("its extended attribute {} can't be set: {errno}", escape(.name), errno = .errno.desc())]
    Xattr {
        /// The attribute.
        name: Vec<u8>,
        /// What Linux would say.
        errno: Errno,
    },
}

impl From<erofs::Error> for Cause {
    fn from(error: erofs::Error) -> Self {
        match error {
            erofs::Error::Output { source, .. } => Self::Output(source),
            erofs::Error::Full { limit } => Self::ImageTooLarge { limit },
            other => Self::Image(other),
        }
    }
}

impl Cause {
    /// Whether damaged bytes could have caused this, so that a wrong blob digest is the better explanation.
    pub fn may_be_damage(&self) -> bool {
        !matches!(
            self,
            Self::Device(_)
                | Self::DeviceTooShort { .. }
                | Self::DigestFormat(_)
                | Self::Digest { .. }
                | Self::Output(_)
        )
    }
}
