//! From a name to a manifest, through indexes, from the store where it is there and else from the registry.

use std::cell::RefCell;
use std::os::unix::fs::FileExt as _;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Runtime;
use super::error::PullError;
use super::sources::Sources;
use crate::digest::Digest;
use crate::document::{Descriptor, Manifest};
use crate::error::ImageError;
use crate::files::{Document, MAX_DOCUMENT};
use crate::manifest::{self, Kind};
use crate::name::Name;
use crate::platform::Platform;
use crate::store::{Blob, Store};

/// A manifest that was found. It and what led to it are in the store.
pub(super) struct Found {
    pub(super) manifest: Manifest,
    pub(super) digest: Digest,
    /// The index that it was chosen from.
    pub(super) index: Option<Digest>,
    /// Keeps the documents in the store.
    pub(super) held: Vec<Blob>,
}

/// What a document says about itself, when it is not known what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Unknown {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
}

/// How the registry is asked for what `name` means.
pub(super) fn reference(name: &Name) -> String {
    let digest = name.digest.map(|digest| digest.to_string());
    digest.or_else(|| name.tag.clone()).unwrap_or_default()
}

/// Finds the manifest that `name` means. `place` is what messages call the image.
pub(super) fn find(
    runtime: &Runtime,
    store: &Store,
    sources: &Sources<'_>,
    name: &Name,
    platform: Option<&Platform>,
    place: &str,
) -> Result<Found, PullError> {
    let held = RefCell::new(Vec::new());
    let hold = |bytes: &[u8]| -> Result<(), PullError> {
        held.borrow_mut().push(store.put(bytes)?);
        Ok(())
    };
    let stored = name.digest.map(|digest| stored(store, place, &digest)).transpose()?.flatten();
    let (bytes, media_type) = match stored {
        Some(bytes) => (bytes, String::new()),
        None => fetch(runtime, sources, &reference(name), name.digest)?,
    };
    let digest = Digest::of(&bytes);
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let media_type = kind(place, &digest, &bytes, media_type)?;
    let top = Descriptor { media_type, digest, size, platform: None, annotations: Default::default() };
    let read = |descriptor: &Descriptor, what: &str| -> Result<Document<'_>, PullError> {
        let what = format!("{what} {}", descriptor.digest);
        if descriptor.size > MAX_DOCUMENT {
            let (length, limit) = (descriptor.size, MAX_DOCUMENT);
            return Err(ImageError::TooLarge { place: place.into(), what, length, limit }.into());
        }
        let bytes = if descriptor.digest == digest {
            bytes.clone()
        } else if let Some(bytes) = self::stored(store, place, &descriptor.digest)? {
            bytes
        } else {
            fetch(runtime, sources, &descriptor.digest.to_string(), Some(descriptor.digest))?.0
        };
        let actual = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if actual != descriptor.size {
            let expected = descriptor.size;
            return Err(ImageError::Size { place: place.into(), what, expected, actual }.into());
        }
        hold(&bytes)?;
        Ok(Document { place, what, bytes })
    };
    let (descriptor, document) = manifest::resolve(top, platform, read)?;
    let manifest: Manifest = document.parse()?;
    if manifest.manifests.is_some() || manifest::differs(manifest.media_type.as_deref(), &descriptor) {
        return Err(document.contradiction(manifest::CONFUSED).into());
    }
    let index = (descriptor.digest != digest).then_some(digest);
    Ok(Found { manifest, digest: descriptor.digest, index, held: held.into_inner() })
}

/// Gets a document from the registry, and what the registry says that it is.
fn fetch(
    runtime: &Runtime,
    sources: &Sources<'_>,
    reference: &str,
    digest: Option<Digest>,
) -> Result<(Vec<u8>, String), PullError> {
    let what = format!("the manifest {reference}");
    let ask = sources.ask(async |endpoint| {
        let answer = sources.retry(endpoint, async || endpoint.manifest(reference, &what).await).await?;
        match digest {
            Some(digest) if Digest::of(&answer.bytes) != digest => {
                Err(PullError::Lies { registry: endpoint.host.shown.clone(), digest })
            }
            _ => Ok(answer),
        }
    });
    let (number, answer) = runtime.block_on(ask)?;
    sources.start_at(number);
    Ok((answer.bytes, answer.media_type))
}

/// Reads a document that is in the store.
fn stored(store: &Store, place: &str, digest: &Digest) -> Result<Option<Vec<u8>>, PullError> {
    let Some(blob) = store.blob(digest)? else { return Ok(None) };
    let bytes = read(place, &blob)?;
    if Digest::of(&bytes) != *digest {
        return Err(ImageError::Digest { place: place.into(), what: format!("the manifest {digest}") }.into());
    }
    Ok(Some(bytes))
}

/// Reads a document of the store.
pub(super) fn read(place: &str, blob: &Blob) -> Result<Vec<u8>, ImageError> {
    let what = || format!("the document {}", blob.digest);
    let Some(length) = usize::try_from(blob.length).ok().filter(|_| blob.length <= MAX_DOCUMENT) else {
        let (length, limit) = (blob.length, MAX_DOCUMENT);
        return Err(ImageError::TooLarge { place: place.into(), what: what(), length, limit });
    };
    let mut bytes = vec![0; length];
    let read = blob.file.read_exact_at(&mut bytes, 0);
    read.map_err(|source| ImageError::Read { place: place.into(), name: what(), source })?;
    Ok(bytes)
}

/// The media type of a document that only a registry's header describes: what it says itself, else the header, else what
/// it looks like. Whoever reads it refuses one that looks like several kinds.
fn kind(place: &str, digest: &Digest, bytes: &[u8], header: String) -> Result<String, ImageError> {
    let what = || format!("the manifest {digest}");
    let unknown: Unknown = serde_json::from_slice(bytes).map_err(|source| ImageError::Json {
        place: place.into(),
        what: what(),
        source,
    })?;
    if unknown.schema_version == Some(1) {
        return Ok("application/vnd.docker.distribution.manifest.v1+prettyjws".into());
    }
    if let Some(own) = unknown.media_type.filter(|own| !own.is_empty()) {
        return Ok(own);
    }
    if matches!(Kind::of(&header), Kind::Index | Kind::Manifest) {
        return Ok(header);
    }
    let kind = match (unknown.manifests.is_some(), unknown.config.is_some()) {
        (true, _) => "application/vnd.oci.image.index.v1+json",
        (false, true) => "application/vnd.oci.image.manifest.v1+json",
        (false, false) => return Ok(header),
    };
    Ok(kind.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn kind_of(document: &str, header: &str) -> String {
        kind("place", &Digest::of(b""), document.as_bytes(), header.into()).unwrap()
    }

    #[test]
    fn what_a_document_says_itself_counts_most() {
        assert_eq!(kind_of(&format!(r#"{{"mediaType": "{INDEX}", "config": {{}}}}"#), MANIFEST), INDEX);
        assert_eq!(kind_of(r#"{"mediaType": "", "config": {}}"#, INDEX), INDEX);
        assert_eq!(kind_of(r#"{"manifests": []}"#, "application/json"), INDEX);
        assert_eq!(kind_of(r#"{"config": {}, "layers": []}"#, ""), MANIFEST);
        assert_eq!(kind_of("{}", "text/html"), "text/html");
    }

    #[test]
    fn schema_1_is_known_by_its_version() {
        let media_type = kind_of(r#"{"schemaVersion": 1, "fsLayers": []}"#, "application/json");
        assert!(matches!(Kind::of(&media_type), Kind::Unsupported(problem) if problem.contains("schema 1")));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        assert!(matches!(kind("p", &Digest::of(b""), b"<html>", String::new()), Err(ImageError::Json { .. })));
    }
}
