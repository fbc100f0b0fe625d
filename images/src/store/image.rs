//! The images in the store: names, and what they mean.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use rusqlite::{OptionalExtension as _, Row, Transaction, named_params};

use super::error::StoreError;
use super::index::{now, time};
use super::{RootfsKey, Store, lock};
use crate::digest::Digest;
use crate::document::{Descriptor, Manifest};
use crate::error::{ImageError, printable};
use crate::files::{Document, Expected, Extent, Files};
use crate::image::{Contents, Image};
use crate::layout;
use crate::name::Name;
use crate::platform::Platform;

/// An image that was pulled, to be named.
#[derive(Clone, Debug)]
pub struct NewImage<'a> {
    /// Its name.
    pub name: &'a Name,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest of the index that the manifest was chosen from.
    pub index: Option<Digest>,
    /// The platform that it is for.
    pub platform: Platform,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Its full name.
    pub name: String,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest of the index that the manifest was chosen from.
    pub index: Option<Digest>,
    /// The platform that it is for.
    pub platform: Platform,
    /// When it was pulled under this name.
    pub pulled_at: SystemTime,
    /// When it was opened last.
    pub used_at: SystemTime,
}

impl Store {
    /// Names an image. Its manifest, configuration and layers must be in the store, and the caller has to hold them
    /// ([`super::Blob`]) until this returns. A name that meant another image means this one from now on.
    ///
    /// # Errors
    /// [`StoreError::Image`] when the image is not complete; [`StoreError::Index`].
    pub fn tag(&self, image: &NewImage<'_>) -> Result<StoredImage, StoreError> {
        let name = image.name.to_string();
        // Locks what it opens: nothing of it can go until the row is there.
        let (contents, manifest) = self.read_image(&name, &image.manifest)?;
        let index = image.index.map(|index| self.needed(&name, "the index", &index)).transpose()?;
        let rootfs = RootfsKey::of(&contents.layers);
        let blobs = needed_blobs(&image.manifest, &manifest);
        let stored = self.index().change(|transaction| {
            set_manifest(transaction, &image.manifest, &rootfs, &blobs)?;
            set_image(transaction, &name, image)?;
            forget_nameless(transaction)?;
            transaction.query_row("SELECT * FROM image WHERE name = ?1", [&name], stored)
        })?;
        drop((contents, index));
        Ok(stored)
    }

    /// Finds an image by its name.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::Damaged`].
    pub fn find(&self, name: &Name) -> Result<Option<StoredImage>, StoreError> {
        let name = name.to_string();
        let find = "SELECT * FROM image WHERE name = ?1";
        self.index().read(|connection| connection.query_row(find, [name], stored).optional())
    }

    /// All images, by their names.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::Damaged`].
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        self.index().read(|connection| {
            let mut statement = connection.prepare("SELECT * FROM image ORDER BY name")?;
            statement.query_map([], stored)?.collect()
        })
    }

    /// Opens an image to run it. As long as its layers are open nothing of it is removed.
    ///
    /// # Errors
    /// [`StoreError::Image`] when something of it is missing or damaged.
    pub fn open_image(&self, image: &StoredImage) -> Result<Image, StoreError> {
        let (contents, _) = self.read_image(&image.name, &image.manifest)?;
        let touch = "UPDATE image SET used_at = ?1 WHERE name = ?2";
        // A disk too full to note the time is no reason not to run.
        let _ = self.index().change(|transaction| transaction.execute(touch, (now(), &image.name)));
        let Contents { digest, config, layers } = contents;
        Ok(Image { reference: format!("docker://{}", image.name), digest, config, layers })
    }

    /// Reads the image whose manifest is `digest`, and locks its layers.
    pub(super) fn read_image(&self, name: &str, digest: &Digest) -> Result<(Contents, Manifest), StoreError> {
        let blobs = Blobs { store: self, place: self.root().display().to_string() };
        let read = || {
            let extent = blobs.require(digest, "the manifest")?;
            let expected = Expected { digest: *digest, size: extent.length };
            let document = Document::read(&blobs, &extent, format!("the manifest {digest}"), Some(expected))?;
            let manifest: Manifest = document.parse()?;
            Ok((layout::image(&blobs, *digest, &manifest)?, manifest))
        };
        read().map_err(|source| StoreError::Image { name: printable(name), source: Box::new(source) })
    }

    /// Locks a blob that the image `name` can't do without.
    fn needed(&self, name: &str, what: &str, digest: &Digest) -> Result<Extent, StoreError> {
        let blobs = Blobs { store: self, place: self.root().display().to_string() };
        let source = |source| StoreError::Image { name: printable(name), source: Box::new(source) };
        blobs.require(digest, what).map_err(source)
    }
}

/// The blobs that the image with this manifest needs.
pub(super) fn needed_blobs(digest: &Digest, manifest: &Manifest) -> BTreeSet<Digest> {
    let descriptors = manifest.layers.iter().chain([&manifest.config]);
    descriptors.map(|descriptor: &Descriptor| descriptor.digest).chain([*digest]).collect()
}

/// The store's blobs as the files of an image layout.
#[derive(Debug)]
struct Blobs<'a> {
    store: &'a Store,
    place: String,
}

impl Blobs<'_> {
    fn require(&self, digest: &Digest, what: &str) -> Result<Extent, ImageError> {
        let found = self.find(&format!("blobs/sha256/{}", digest.hex()))?;
        found.ok_or_else(|| ImageError::Missing { place: self.place.clone(), what: format!("{what} {digest}") })
    }
}

impl Files for Blobs<'_> {
    fn place(&self) -> &str {
        &self.place
    }

    fn find(&self, name: &str) -> Result<Option<Extent>, ImageError> {
        let error = |source| ImageError::Read { place: self.place.clone(), name: name.into(), source };
        let Some(file) = lock::shared(&self.store.root().join(Path::new(name))).map_err(error)? else {
            return Ok(None);
        };
        let length = file.metadata().map_err(error)?.len();
        Ok(Some(Extent { file: file.into(), offset: 0, length }))
    }
}

fn set_manifest(
    transaction: &Transaction<'_>,
    manifest: &Digest,
    rootfs: &RootfsKey,
    blobs: &BTreeSet<Digest>,
) -> rusqlite::Result<()> {
    const SET: &str = "INSERT INTO manifest (digest, rootfs) VALUES (?1, ?2)
        ON CONFLICT (digest) DO UPDATE SET rootfs = excluded.rootfs";
    transaction.execute(SET, (manifest.hex(), rootfs.hex()))?;
    let mut insert = transaction.prepare("INSERT OR IGNORE INTO manifest_blob (manifest, blob) VALUES (?1, ?2)")?;
    blobs.iter().try_for_each(|blob| insert.execute((manifest.hex(), blob.hex())).map(drop))
}

fn set_image(transaction: &Transaction<'_>, name: &str, image: &NewImage<'_>) -> rusqlite::Result<()> {
    const SET: &str = "INSERT OR REPLACE INTO image
        (name, manifest, image_index, os, architecture, variant, pulled_at, used_at)
        VALUES (:name, :manifest, :image_index, :os, :architecture, :variant, :now, :now)";
    let parameters = named_params! {
        ":name": name,
        ":manifest": image.manifest.hex(),
        ":image_index": image.index.map(|index| index.hex()),
        ":os": image.platform.os,
        ":architecture": image.platform.architecture,
        ":variant": image.platform.variant,
        ":now": now(),
    };
    transaction.execute(SET, parameters).map(drop)
}

/// Forgets the manifests that no name means. Their blobs stay until they are removed.
pub(super) fn forget_nameless(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    const FORGET: &str = "DELETE FROM manifest WHERE digest NOT IN (SELECT manifest FROM image)";
    transaction.execute(FORGET, []).map(drop)
}

/// Reads a row of an image.
pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<StoredImage> {
    Ok(StoredImage {
        name: row.get("name")?,
        manifest: digest(row.get("manifest")?)?,
        index: row.get::<_, Option<String>>("image_index")?.map(digest).transpose()?,
        platform: Platform { os: row.get("os")?, architecture: row.get("architecture")?, variant: row.get("variant")? },
        pulled_at: time(row.get("pulled_at")?),
        used_at: time(row.get("used_at")?),
    })
}

/// Reads a digest of a row.
pub(super) fn digest(hex: String) -> rusqlite::Result<Digest> {
    let parsed = format!("sha256:{hex}").parse();
    parsed.map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))
}
