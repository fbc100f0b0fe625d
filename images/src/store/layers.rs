//! Hashing layers that nobody has hashed: those of the user's own layouts and archives.
//!
//! A root file system is stored under its layers' digests. A layout that lies about a digest could so put its own
//! files in the place of another image's; therefore nothing that was made from local layers is committed before this
//! has agreed.

use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::error::StoreError;
use crate::digest::Digest;
use crate::image::{Compression, LayerBlob};

/// How much is read at a time.
const BUFFER: u64 = 1 << 18;

/// Compares the stored bytes of layers with the digests that [`super::RootfsKey::of`] makes the key from: the one that
/// the image names, or else, where the layer is not compressed, its diff ID. A compressed layer without a digest is
/// not read: its key is that of its file.
///
/// # Errors
/// [`StoreError::Layer`], [`StoreError::ReadLayer`].
pub fn verify_layers(layers: &[LayerBlob]) -> Result<(), StoreError> {
    layers.iter().try_for_each(|layer| {
        let expected = match (layer.digest, layer.compression) {
            (Some(digest), _) => digest,
            (None, Compression::None) => layer.diff_id,
            (None, _) => return Ok(()),
        };
        let actual = hash(layer).map_err(|source| StoreError::ReadLayer { layer: expected, source })?;
        if actual == expected { Ok(()) } else { Err(StoreError::Layer { expected, actual }) }
    })
}

fn hash(layer: &LayerBlob) -> std::io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; usize::try_from(BUFFER.min(layer.length)).unwrap_or_default()];
    let mut done = 0_u64;
    while done < layer.length {
        let size = usize::try_from(layer.length.saturating_sub(done).min(BUFFER)).unwrap_or_default();
        let part = buffer.get_mut(..size).unwrap_or_default();
        layer.file.read_exact_at(part, layer.offset.saturating_add(done))?;
        hasher.update(&*part);
        done = done.saturating_add(BUFFER).min(layer.length);
    }
    Ok(Digest::finish(hasher))
}
