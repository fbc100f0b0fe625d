//! From an index to the one manifest that is meant, and what the kinds of blobs are called.

use crate::document::{Descriptor, Index};
use crate::error::ImageError;
use crate::files::{Document, Expected};
use crate::image::Compression;
use crate::platform::{self, Choice, Platform};

/// How deep indexes may lie in indexes.
const MAX_DEPTH: usize = 4;

/// What a media type says a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An image index.
    Index,
    /// An image manifest.
    Manifest,
    /// An image's configuration.
    Config,
    /// A layer.
    Layer(Compression),
    /// A thing that is not supported, and why, as the rest of a sentence.
    Unsupported(&'static str),
}

impl Kind {
    /// The kind that `media_type` says, for OCI's and Docker's types.
    #[must_use]
    pub fn of(media_type: &str) -> Self {
        let oci = media_type.strip_prefix("application/vnd.oci.image.");
        let docker = media_type.strip_prefix("application/vnd.docker.");
        match (oci, docker) {
            (Some("index.v1+json"), _) | (_, Some("distribution.manifest.list.v2+json")) => Self::Index,
            (Some("manifest.v1+json"), _) | (_, Some("distribution.manifest.v2+json")) => Self::Manifest,
            (Some("config.v1+json"), _) | (_, Some("container.image.v1+json")) => Self::Config,
            (Some("layer.v1.tar"), _) | (_, Some("image.rootfs.diff.tar")) => Self::Layer(Compression::None),
            (Some("layer.v1.tar+gzip"), _) | (_, Some("image.rootfs.diff.tar.gzip")) => Self::Layer(Compression::Gzip),
            (Some("layer.v1.tar+zstd"), _) | (_, Some("image.rootfs.diff.tar.zstd")) => Self::Layer(Compression::Zstd),
            (_, Some("distribution.manifest.v1+json" | "distribution.manifest.v1+prettyjws")) => {
                Self::Unsupported("which is docker's schema 1: push the image again with a newer docker")
            }
            (Some(layer), _) if layer.contains("encrypted") => {
                Self::Unsupported("which says that it is encrypted: decrypt the image first")
            }
            (Some(layer), _) if layer.starts_with("layer.nondistributable.") => FOREIGN,
            (_, Some(layer)) if layer.starts_with("image.rootfs.foreign.") => FOREIGN,
            _ => Self::Unsupported("which is not supported"),
        }
    }
}

const FOREIGN: Kind = Kind::Unsupported("which says that it is not part of the image but lies elsewhere");

/// Chooses the image that is meant in the index of an image layout: by `tag`, then by platform.
pub(crate) fn choose_tagged<'a>(
    place: &str,
    index: &'a Index,
    tag: Option<&str>,
) -> Result<&'a Descriptor, ImageError> {
    let mut tags: Vec<String> = index.manifests.iter().filter_map(|item| item.tag().map(str::to_owned)).collect();
    tags.sort_unstable();
    tags.dedup();
    let meant = |item: &&Descriptor| tag.is_none() || item.tag() == tag;
    let candidates: Vec<&Descriptor> = index.manifests.iter().filter(meant).collect();
    match tag {
        _ if index.manifests.is_empty() => return Err(ImageError::NoImage { place: place.into() }),
        Some(tag) if candidates.is_empty() => {
            let wanted = format!("tagged {tag:?}");
            return Err(ImageError::NoSuchImage { place: place.into(), wanted, offered: tags });
        }
        _ => {}
    }
    let same = candidates.windows(2).all(|pair| matches!(pair, [a, b] if a.digest == b.digest));
    let ambiguous = || ImageError::Ambiguous { place: place.into(), offered: tags.clone() };
    if tag.is_none() && tags.len() > 1 && !same {
        return Err(ambiguous());
    }
    match platform::choose(&candidates) {
        Choice::Best(best) => match best.as_slice() {
            [first, rest @ ..] if rest.iter().all(|item| item.digest == first.digest) => Ok(first),
            _ => Err(ambiguous()),
        },
        Choice::NoneFits(offered) => Err(ImageError::Platform { place: place.into(), offered }),
    }
}

/// Follows `descriptor` through nested indexes to a manifest, that of the platform `wanted` or the best one. `read` gets
/// the document that a descriptor names.
pub(crate) fn resolve<'p, E: From<ImageError>>(
    mut descriptor: Descriptor,
    wanted: Option<&Platform>,
    read: impl Fn(&Descriptor, &str) -> Result<Document<'p>, E>,
) -> Result<(Descriptor, Document<'p>), E> {
    for _ in 0..=MAX_DEPTH {
        let kind = Kind::of(&descriptor.media_type);
        let document = read(&descriptor, if kind == Kind::Index { "the index" } else { "the manifest" })?;
        match kind {
            Kind::Manifest => return Ok((descriptor, document)),
            Kind::Index => {}
            Kind::Unsupported(problem) => return Err(media_type(&document, &descriptor, problem).into()),
            Kind::Config | Kind::Layer(_) => {
                return Err(media_type(&document, &descriptor, "which is not that of an image").into());
            }
        }
        let index: Index = document.parse()?;
        if index.config.is_some() || index.layers.is_some() || differs(index.media_type.as_deref(), &descriptor) {
            return Err(document.contradiction(CONFUSED).into());
        }
        let place = || document.place.to_owned();
        descriptor = match platform::choose_wanted(&index.manifests, wanted) {
            Choice::Best(best) => best.first().copied().cloned(),
            Choice::NoneFits(offered) if offered.is_empty() => None,
            Choice::NoneFits(offered) => match wanted {
                Some(wanted) => {
                    return Err(ImageError::NoSuchPlatform { place: place(), wanted: wanted.clone(), offered }.into());
                }
                None => return Err(ImageError::Platform { place: place(), offered }.into()),
            },
        }
        .ok_or_else(|| ImageError::NoImage { place: place() })?;
    }
    Err(ImageError::Contradiction {
        place: read(&descriptor, "the index")?.place.into(),
        what: format!("the index {}", descriptor.digest),
        problem: "lies too deep in other indexes",
    }
    .into())
}

/// The problem of a document that could be read as an index and as a manifest.
pub(crate) const CONFUSED: &str = "says that it is something else than what it is named as";

/// Whether a document says that it is something else than its descriptor does.
pub(crate) fn differs(media_type: Option<&str>, descriptor: &Descriptor) -> bool {
    media_type.is_some_and(|media_type| !media_type.is_empty() && media_type != descriptor.media_type)
}

impl From<&Descriptor> for Expected {
    fn from(descriptor: &Descriptor) -> Self {
        Self { digest: descriptor.digest, size: descriptor.size }
    }
}

fn media_type(document: &Document<'_>, descriptor: &Descriptor, problem: &'static str) -> ImageError {
    let media_type = descriptor.media_type.chars().take(160).collect();
    ImageError::MediaType { place: document.place.into(), what: document.what.clone(), media_type, problem }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digest;
    use crate::document::REF_NAME;

    #[test]
    fn media_types_of_oci_and_docker_say_the_same_kinds() {
        for (media_type, kind) in [
            ("application/vnd.oci.image.index.v1+json", Kind::Index),
            ("application/vnd.docker.distribution.manifest.list.v2+json", Kind::Index),
            ("application/vnd.oci.image.manifest.v1+json", Kind::Manifest),
            ("application/vnd.docker.distribution.manifest.v2+json", Kind::Manifest),
            ("application/vnd.oci.image.config.v1+json", Kind::Config),
            ("application/vnd.docker.container.image.v1+json", Kind::Config),
            ("application/vnd.oci.image.layer.v1.tar", Kind::Layer(Compression::None)),
            ("application/vnd.docker.image.rootfs.diff.tar", Kind::Layer(Compression::None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Kind::Layer(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Kind::Layer(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Kind::Layer(Compression::Zstd)),
        ] {
            assert_eq!(Kind::of(media_type), kind, "{media_type}");
        }
        for media_type in ["", "text/plain", "application/vnd.oci.image.", "vnd.oci.image.index.v1+json"] {
            assert!(matches!(Kind::of(media_type), Kind::Unsupported(_)), "{media_type}");
        }
    }

    /// A row of an index: which image, under which tag, for which platform.
    fn row() -> impl Strategy<Value = Descriptor> {
        let tag = prop::option::of(prop::sample::select(vec!["a", "b"]));
        let platform = prop::option::of(prop::sample::select(vec!["amd64", "amd64/v2", "arm64"]));
        (0_u8..4, tag, platform).prop_map(|(image, tag, platform)| Descriptor {
            media_type: String::new(),
            digest: Digest::of(&[image]),
            size: 1,
            platform: platform.map(|platform| {
                let (architecture, variant) = platform.split_once('/').unwrap_or((platform, ""));
                Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
            }),
            annotations: tag.map(|tag| (REF_NAME.to_owned(), tag.to_owned())).into_iter().collect(),
        })
    }

    proptest! {
        /// What is chosen has the tag and fits; what is refused has the reason that is given.
        #[test]
        fn the_choice_is_right(manifests in prop::collection::vec(row(), 0..6), tag in prop::option::of(prop::sample::select(vec!["a", "b"]))) {
            let index = Index { media_type: None, manifests, config: None, layers: None };
            let meant: Vec<&Descriptor> =
                index.manifests.iter().filter(|item| tag.is_none() || item.tag() == tag).collect();
            let fits = |item: &Descriptor| item.platform.as_ref().is_none_or(Platform::fits);
            match choose_tagged("place", &index, tag) {
                Ok(chosen) => prop_assert!(meant.contains(&chosen) && fits(chosen)),
                Err(ImageError::NoImage { .. }) => prop_assert!(index.manifests.is_empty()),
                Err(ImageError::NoSuchImage { .. }) => prop_assert!(tag.is_some() && meant.is_empty()),
                Err(ImageError::Ambiguous { .. }) => {
                    let images: BTreeSet<Digest> = meant.iter().map(|item| item.digest).collect();
                    prop_assert!(images.len() > 1);
                }
                Err(ImageError::Platform { .. }) => prop_assert!(!meant.iter().any(|item| fits(item))),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}
