//! What is known of the images in the store, to be shown.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rusqlite::OptionalExtension as _;

use super::error::{self, StoreError};
use super::image::digest;
use super::index::time;
use super::lock::found;
use super::{RootfsKey, Store, StoredImage};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::image::Compression;

/// A line of the list of images.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The image.
    pub image: StoredImage,
    /// When it was made, as it says itself (RFC 3339); nothing when it doesn't say it, or can't be read.
    pub created: Option<String>,
    /// The bytes of its blobs that no other image needs.
    pub unique: u64,
    /// The bytes of its blobs that other images need too.
    pub shared: u64,
    /// Its root file system.
    pub rootfs: Option<RootfsState>,
}

/// What is known of a root file system in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootfsState {
    /// Its key.
    pub key: RootfsKey,
    /// Its length in bytes.
    pub length: u64,
    /// What it takes on the disk, in bytes.
    pub real_size: u64,
    /// What tells whether it changed.
    pub fingerprint: Digest,
    /// When it was made.
    pub made_at: SystemTime,
    /// When it was used last.
    pub used_at: SystemTime,
}

/// Everything that is known of an image.
#[derive(Clone, Debug)]
pub struct Details {
    /// The line of the list.
    pub summary: Summary,
    /// What it says about its process.
    pub config: ImageConfig,
    /// The digest of its configuration: docker's image id.
    pub id: Digest,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerDetails>,
}

/// What is known of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDetails {
    /// The digest of its bytes as stored.
    pub digest: Option<Digest>,
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Its length as stored, in bytes.
    pub length: u64,
    /// How it is compressed.
    pub compression: Compression,
}

impl Store {
    /// All images, by their names, with what they take.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::File`]. An image that is damaged is in the list.
    pub fn summaries(&self) -> Result<Vec<Summary>, StoreError> {
        self.images()?.into_iter().map(|image| self.summary(image)).collect()
    }

    /// Everything that is known of an image.
    ///
    /// # Errors
    /// [`StoreError::Image`] when something of it is missing or damaged.
    pub fn inspect(&self, image: &StoredImage) -> Result<Details, StoreError> {
        let (contents, manifest) = self.read_image(&image.name, &image.manifest)?;
        let layers = contents.layers.iter().map(|layer| LayerDetails {
            digest: layer.digest,
            diff_id: layer.diff_id,
            length: layer.length,
            compression: layer.compression,
        });
        let layers = layers.collect();
        let summary = self.summary(image.clone())?;
        Ok(Details { summary, config: contents.config, id: manifest.config.digest, layers })
    }

    fn summary(&self, image: StoredImage) -> Result<Summary, StoreError> {
        let (mut unique, mut shared) = (0_u64, 0_u64);
        for (blob, users) in self.blob_users(&image.manifest)? {
            let path = self.blob_path(&blob);
            let length = found(path.metadata()).map_err(error::file(&path, "read"))?.map_or(0, |found| found.len());
            let sum = if users > 1 { &mut shared } else { &mut unique };
            *sum = sum.saturating_add(length);
        }
        let contents = self.read_image(&image.name, &image.manifest);
        let created = contents.ok().and_then(|(contents, _)| contents.config.created);
        let rootfs = self.rootfs_state(&image.manifest)?;
        Ok(Summary { image, created, unique, shared, rootfs })
    }

    /// The blobs that a manifest needs, with the number of manifests that need each.
    fn blob_users(&self, manifest: &Digest) -> Result<BTreeMap<Digest, u64>, StoreError> {
        const FIND: &str = "SELECT blob, (SELECT count(*) FROM manifest_blob AS other WHERE other.blob = this.blob)
            FROM manifest_blob AS this WHERE manifest = ?1";
        self.index().read(|index| {
            let mut statement = index.prepare(FIND)?;
            let row =
                |row: &rusqlite::Row<'_>| Ok((digest(row.get(0)?)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0)));
            statement.query_map([manifest.hex()], row)?.collect()
        })
    }

    fn rootfs_state(&self, manifest: &Digest) -> Result<Option<RootfsState>, StoreError> {
        const FIND: &str = "SELECT rootfs.* FROM rootfs JOIN manifest ON manifest.rootfs = rootfs.key
            WHERE manifest.digest = ?1";
        self.index().read(|index| index.query_row(FIND, [manifest.hex()], state).optional())
    }
}

fn state(row: &rusqlite::Row<'_>) -> rusqlite::Result<RootfsState> {
    let unsigned = |name| Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(name)?).unwrap_or(0));
    Ok(RootfsState {
        key: RootfsKey::from(digest(row.get("key")?)?),
        length: unsigned("length")?,
        real_size: unsigned("real_size")?,
        fingerprint: digest(row.get("fingerprint")?)?,
        made_at: time(row.get("made_at")?),
        used_at: time(row.get("used_at")?),
    })
}
