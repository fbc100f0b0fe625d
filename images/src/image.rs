//! An opened image: what a task needs to know of it.

use std::fs::File;
use std::sync::Arc;

use crate::archive::Archive;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::directory::Directory;
use crate::error::ImageError;
use crate::reference::Reference;
use crate::{docker_archive, layout};

/// The most layers of an image. Docker stops at 125; the bound keeps the descriptors of an image's layers within the
/// 253 that Linux passes in one message.
pub const MAX_LAYERS: usize = 200;

/// An image, found and checked as far as the host does it.
#[derive(Debug)]
pub struct Image {
    /// The reference that named it.
    pub reference: String,
    /// What identifies it: the digest of its manifest, or of its configuration (docker's image id) when it comes from
    /// an archive of `docker save`, which has no manifest.
    pub digest: Digest,
    /// What it says about its process.
    pub config: ImageConfig,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerBlob>,
}

/// A layer: a part of an open file. The part is known to exist; its bytes have not been read.
#[derive(Clone, Debug)]
pub struct LayerBlob {
    /// The open file; layers in one archive share it.
    pub file: Arc<File>,
    /// Where the layer starts in it, in bytes.
    pub offset: u64,
    /// The layer's length as stored (compressed), in bytes.
    pub length: u64,
    /// How the layer's tar archive is compressed.
    pub compression: Compression,
    /// The digest of the stored bytes, where the image names one.
    pub digest: Option<Digest>,
    /// The digest of the uncompressed tar archive.
    pub diff_id: Digest,
}

/// How a layer's tar archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// Opens the image that `reference` names, chosen for this machine's platform.
///
/// The documents of the image are read and checked against their digests. Its layers stay where they are; whoever
/// reads them has to check them against [`LayerBlob::digest`] and [`LayerBlob::diff_id`].
///
/// # Errors
/// [`ImageError`], which names the place and the cause.
pub fn open(reference: &Reference) -> Result<Image, ImageError> {
    let contents = match reference {
        Reference::Oci { directory, tag } => layout::open(&Directory::open(directory)?, tag.as_deref()),
        Reference::OciArchive { file, tag } => layout::open(&Archive::open(file)?, tag.as_deref()),
        Reference::DockerArchive { file, select } => docker_archive::open(&Archive::open(file)?, select.as_ref()),
        Reference::Registry(name) => Err(ImageError::Registry { name: name.clone() }),
    }?;
    let Contents { digest, config, layers } = contents;
    Ok(Image { reference: reference.to_string(), digest, config, layers })
}

/// What the formats give.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) digest: Digest,
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<LayerBlob>,
}
