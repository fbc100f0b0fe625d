//! The OCI image layout (OCI image specification, "Image Layout"): `oci-layout`, `index.json` and `blobs/`.

use crate::config;
use crate::digest::Digest;
use crate::document::{Descriptor, Index, LayoutMarker, Manifest};
use crate::error::ImageError;
use crate::files::{Document, Expected, Extent, Files};
use crate::image::{Compression, Contents, LayerBlob, MAX_LAYERS};
use crate::manifest::{self, Kind};

/// Opens the image that is tagged `tag`, or the only one, in the image layout in `files`.
pub(crate) fn open(files: &dyn Files, tag: Option<&str>) -> Result<Contents, ImageError> {
    let index = top(files)?;
    let chosen = manifest::choose_tagged(files.place(), &index, tag)?.clone();
    let (descriptor, document) = manifest::resolve(chosen, None, |descriptor, what| document(files, descriptor, what))?;
    let manifest: Manifest = document.parse()?;
    if manifest.manifests.is_some() || manifest::differs(manifest.media_type.as_deref(), &descriptor) {
        return Err(document.contradiction(manifest::CONFUSED));
    }
    image(files, descriptor.digest, &manifest)
}

/// Reads the two files that an image layout starts with.
fn top(files: &dyn Files) -> Result<Index, ImageError> {
    let place = files.place();
    let named = |name: &'static str| {
        let format = "an OCI image layout";
        let missing = ImageError::NotAnImage { place: place.into(), name, format };
        let extent = files.find(name)?.ok_or(missing)?;
        Document::read(files, &extent, name.into(), None)
    };
    let LayoutMarker { image_layout_version: version } = named("oci-layout")?.parse()?;
    if !version.starts_with("1.") {
        return Err(ImageError::LayoutVersion { place: place.into(), version });
    }
    named("index.json")?.parse()
}

/// Checks what can be checked of `manifest` without what it names: that it is the image of a container, of layers that
/// can be read.
pub(crate) fn check(place: &str, manifest: &Manifest) -> Result<(), ImageError> {
    if !matches!(Kind::of(&manifest.config.media_type), Kind::Config) {
        let problem = "so this is not the image of a container";
        return Err(media_type(place, "the configuration", &manifest.config, problem));
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(ImageError::TooManyLayers { place: place.into(), count: manifest.layers.len() });
    }
    manifest.layers.iter().try_for_each(|descriptor| compression(place, descriptor).map(drop))
}

/// What `manifest` describes.
pub(crate) fn image(files: &dyn Files, digest: Digest, manifest: &Manifest) -> Result<Contents, ImageError> {
    check(files.place(), manifest)?;
    let (config, diff_ids) = config::read(&document(files, &manifest.config, "the configuration")?)?;
    if diff_ids.len() != manifest.layers.len() {
        let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
        return Err(ImageError::LayerCount { place: files.place().into(), layers, diff_ids });
    }
    let layers = manifest.layers.iter().zip(diff_ids).map(|(descriptor, diff_id)| layer(files, descriptor, diff_id));
    Ok(Contents { digest, config, layers: layers.collect::<Result<_, _>>()? })
}

/// Finds a layer. Its bytes are not read.
fn layer(files: &dyn Files, descriptor: &Descriptor, diff_id: Digest) -> Result<LayerBlob, ImageError> {
    let compression = compression(files.place(), descriptor)?;
    let Extent { file, offset, length } = find(files, descriptor, "the layer")?;
    if length != descriptor.size {
        let what = format!("the layer {}", descriptor.digest);
        return Err(ImageError::Size { place: files.place().into(), what, expected: descriptor.size, actual: length });
    }
    Ok(LayerBlob { file, offset, length, compression, digest: Some(descriptor.digest), diff_id })
}

/// How a layer is compressed.
fn compression(place: &str, descriptor: &Descriptor) -> Result<Compression, ImageError> {
    match Kind::of(&descriptor.media_type) {
        Kind::Layer(compression) => Ok(compression),
        Kind::Unsupported(problem) => Err(media_type(place, "the layer", descriptor, problem)),
        _ => Err(media_type(place, "the layer", descriptor, "which is not that of a layer")),
    }
}

/// Finds the blob that `descriptor` names.
fn find(files: &dyn Files, descriptor: &Descriptor, what: &str) -> Result<Extent, ImageError> {
    let found = files.find(&format!("blobs/sha256/{}", descriptor.digest.hex()))?;
    found.ok_or_else(|| ImageError::Missing {
        place: files.place().into(),
        what: format!("{what} {}", descriptor.digest),
    })
}

/// Reads the document that `descriptor` names, and checks it.
fn document<'a>(files: &'a dyn Files, descriptor: &Descriptor, what: &str) -> Result<Document<'a>, ImageError> {
    let extent = find(files, descriptor, what)?;
    Document::read(files, &extent, format!("{what} {}", descriptor.digest), Some(Expected::from(descriptor)))
}

fn media_type(place: &str, what: &str, descriptor: &Descriptor, problem: &'static str) -> ImageError {
    let media_type = descriptor.media_type.chars().take(160).collect();
    let what = format!("{what} {}", descriptor.digest);
    ImageError::MediaType { place: place.into(), what, media_type, problem }
}

#[cfg(test)]
mod tests;
