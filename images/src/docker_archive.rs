//! The format of `docker save`: `manifest.json` names the configuration and the layers of each image by their paths
//! in the archive. Layers say nothing of their compression; their first bytes tell it.

use std::os::unix::fs::FileExt as _;

use crate::archive::Method;
use crate::config;
use crate::digest::Digest;
use crate::document::DockerArchiveItem;
use crate::error::{ImageError, printable};
use crate::files::{Document, Extent, Files};
use crate::image::{Compression, Contents, LayerBlob, MAX_LAYERS};
use crate::name::Name;
use crate::reference::DockerSelect;

/// Opens the image that `select` says, or the only one, in the archive `files`.
pub(crate) fn open(files: &dyn Files, select: Option<&DockerSelect>) -> Result<Contents, ImageError> {
    let place = || files.place().to_owned();
    let (name, format) = ("manifest.json", "an archive of docker save");
    let extent = files.find(name)?.ok_or_else(|| ImageError::NotAnImage { place: place(), name, format })?;
    let items: Vec<DockerArchiveItem> = Document::read(files, &extent, name.into(), None)?.parse()?;
    let item = choose(files.place(), &items, select)?;
    if item.layers.len() > MAX_LAYERS {
        return Err(ImageError::TooManyLayers { place: place(), count: item.layers.len() });
    }
    let document = configuration(files, &item.config)?;
    let digest = Digest::of(&document.bytes);
    let (config, diff_ids) = config::read(&document)?;
    if diff_ids.len() != item.layers.len() {
        let (layers, diff_ids) = (item.layers.len(), diff_ids.len());
        return Err(ImageError::LayerCount { place: place(), layers, diff_ids });
    }
    let layers = item.layers.iter().zip(diff_ids).map(|(name, diff_id)| layer(files, name, diff_id));
    Ok(Contents { digest, config, layers: layers.collect::<Result<_, _>>()? })
}

/// Chooses among the images of an archive.
fn choose<'a>(
    place: &str,
    items: &'a [DockerArchiveItem],
    select: Option<&DockerSelect>,
) -> Result<&'a DockerArchiveItem, ImageError> {
    let names = || items.iter().flat_map(|item| &item.repo_tags).cloned().collect();
    let missing = |wanted| ImageError::NoSuchImage { place: place.into(), wanted, offered: names() };
    let is_named = |item: &&DockerArchiveItem, name: &Name| {
        item.repo_tags.iter().any(|tag| Name::parse(tag).is_ok_and(|tag| tag == *name))
    };
    match (select, items) {
        (_, []) => Err(ImageError::NoImage { place: place.into() }),
        (None, [only]) => Ok(only),
        (None, _) => Err(ImageError::Ambiguous { place: place.into(), offered: names() }),
        (Some(DockerSelect::Index(index)), _) => items.get(*index).ok_or_else(|| missing(format!("at place @{index}"))),
        (Some(DockerSelect::Name(name)), _) => {
            items.iter().find(|item| is_named(item, name)).ok_or_else(|| missing(format!("named {name}")))
        }
    }
}

/// Reads the configuration, whose file is named by its digest: `HEX.json` or `blobs/sha256/HEX`.
fn configuration<'a>(files: &'a dyn Files, name: &str) -> Result<Document<'a>, ImageError> {
    let what = format!("the configuration {}", printable(name));
    let extent = find(files, name, &what)?;
    let document = Document::read(files, &extent, what, None)?;
    let stem = name.strip_prefix("blobs/sha256/").unwrap_or(name);
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    match format!("sha256:{stem}").parse::<Digest>() {
        Ok(digest) if digest != Digest::of(&document.bytes) => {
            Err(ImageError::Digest { place: document.place.into(), what: document.what })
        }
        _ => Ok(document),
    }
}

/// Finds a layer. Of its bytes only the first few are read.
fn layer(files: &dyn Files, name: &str, diff_id: Digest) -> Result<LayerBlob, ImageError> {
    let what = format!("the layer {}", printable(name));
    let Extent { file, offset, length } = find(files, name, &what)?;
    let mut magic = [0; 6];
    let known = usize::try_from(length).unwrap_or(usize::MAX).min(magic.len());
    let magic = magic.get_mut(..known).unwrap_or_default();
    let place = || files.place().to_owned();
    let read = file.read_exact_at(magic, offset);
    read.map_err(|source| ImageError::Read { place: place(), name: printable(name), source })?;
    let compression = match Method::of(magic) {
        None => Compression::None,
        Some(Method::Gzip) => Compression::Gzip,
        Some(Method::Zstd) => Compression::Zstd,
        Some(other) => return Err(ImageError::Compression { place: place(), what, method: other.name() }),
    };
    Ok(LayerBlob { file, offset, length, compression, digest: None, diff_id })
}

/// Finds a file that `manifest.json` names.
fn find(files: &dyn Files, name: &str, what: &str) -> Result<Extent, ImageError> {
    files.find(name)?.ok_or_else(|| ImageError::Missing { place: files.place().into(), what: what.into() })
}

#[cfg(test)]
mod tests;
