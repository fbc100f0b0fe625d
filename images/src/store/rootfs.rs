//! Root file systems: the images that layers were unpacked to.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;

use crate::digest::Digest;
use crate::image::{Compression, LayerBlob};

/// The version of what is made from layers: to be raised when the same layers give another image.
const FORMAT: u32 = 1;

/// What a root file system is made of: the same key, the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootfsKey(Digest);

impl RootfsKey {
    /// The key of the root file system that is made of `layers`, the lowest first.
    ///
    /// Nobody can make a file system that is taken for that of other layers: what counts is the digest of the stored
    /// bytes, which the host verifies (at the download, or with [`super::verify_layers`]). A compressed layer whose
    /// image doesn't name that digest counts as the very file that it is in.
    #[must_use]
    pub fn of(layers: &[LayerBlob]) -> Self {
        let mut text = format!("taskrun rootfs {FORMAT}\n");
        for layer in layers {
            let stored = match (layer.digest, layer.compression) {
                (Some(digest), _) => digest.to_string(),
                (None, Compression::None) => layer.diff_id.to_string(),
                (None, _) => identity(layer),
            };
            text.push_str(&format!("{stored} {}\n", layer.diff_id));
        }
        Self(Digest::of(text.as_bytes()))
    }

    /// The key's 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl fmt::Display for RootfsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// What tells the file that a layer is in from others, and from itself before it was changed.
fn identity(layer: &LayerBlob) -> String {
    let LayerBlob { file, offset, length, .. } = layer;
    match file.metadata() {
        Ok(metadata) => {
            let (device, inode) = (metadata.dev(), metadata.ino());
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            format!("file {device} {inode} {changed:?} {offset} {length}")
        }
        // Unknown files are not mixed up: reading them will fail too.
        Err(error) => format!("unknown {error} {:?} {offset} {length}", std::sync::Arc::as_ptr(file)),
    }
}
