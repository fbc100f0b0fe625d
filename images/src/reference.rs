//! The text that names an image: a transport and what it needs, in the syntax of containers-transports(5), which
//! skopeo and podman use.
//!
//! As there, the *first* colon behind the transport ends the path, so a path that has a colon can't be written; and an
//! empty tag is no tag. A text without a transport is docker's name for an image in a registry.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::name::{Name, NameError};

/// A parsed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `oci:DIR[:TAG]`: an OCI image layout in a directory.
    Oci {
        /// The directory.
        directory: PathBuf,
        /// The tag to look for, which may also be a whole name.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: an OCI image layout in a tar archive.
    OciArchive {
        /// The archive.
        file: PathBuf,
        /// The tag to look for, which may also be a whole name.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:NAME[:TAG]|:@INDEX]`: what `docker save` writes.
    DockerArchive {
        /// The archive.
        file: PathBuf,
        /// Which of the archive's images.
        select: Option<DockerSelect>,
    },
    /// `docker://NAME`, or a bare name: an image in a registry.
    Registry(Name),
}

/// Which image of an archive of `docker save`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerSelect {
    /// The one that has this name; always with a tag.
    Name(Name),
    /// The one at this place, counted from 0.
    Index(usize),
}

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// There is nothing.
    #[error("The image reference is empty: name one such as oci:DIR, oci-archive:FILE or docker-archive:FILE")]
    Empty,
    /// A path without a transport, which can't be a name.
    #[error("The image reference {0:?} is a path: put oci:, oci-archive: or docker-archive: in front of it")]
    Path(String),
    /// The path is missing.
    #[error("The image reference {reference:?} has no path: it should look like {form}")]
    NoPath {
        /// The reference.
        reference: String,
        /// What it should look like.
        form: &'static str,
    },
    /// The tag has characters that no tag has.
    #[error("The image reference {reference:?} has the tag {tag:?}, which can't be one")]
    Tag {
        /// The reference.
        reference: String,
        /// What should be the tag.
        tag: String,
    },
    /// The index of an image in an archive is not a number.
    #[error("The image reference {reference:?} should have a number, from 0, behind the @")]
    Index {
        /// The reference.
        reference: String,
    },
    /// The image in the archive is named by digest, which the archive does not have.
    #[error("The image reference {reference:?} names an image by digest, which an archive of docker save doesn't have")]
    ByDigest {
        /// The reference.
        reference: String,
    },
    /// A transport of skopeo's that taskrun does not have.
    #[error("The transport {0}: is not supported: use oci:, oci-archive: or docker-archive:")]
    Transport(String),
    /// The name of the image is wrong.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// The other transports of containers-transports(5), which would otherwise be taken for names.
const OTHER_TRANSPORTS: [&str; 8] =
    ["atomic", "containers-storage", "dir", "docker-daemon", "openshift", "ostree", "sif", "tarball"];

/// The longest tag of an OCI layout; it may be a whole name.
const MAX_OCI_TAG: usize = 1024;

impl Reference {
    /// Reads a reference. Nothing is opened.
    ///
    /// # Errors
    /// [`ReferenceError`], with the text that is not a reference.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.starts_with(['/', '.']) {
            return Err(ReferenceError::Path(text.into()));
        }
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(Name::parse(name)?));
        }
        match text.split_once(':') {
            Some(("oci", rest)) => {
                let (directory, tag) = path_and_tag(text, rest, "oci:DIR[:TAG]")?;
                Ok(Self::Oci { directory, tag })
            }
            Some(("oci-archive", rest)) => {
                let (file, tag) = path_and_tag(text, rest, "oci-archive:FILE[:TAG]")?;
                Ok(Self::OciArchive { file, tag })
            }
            Some(("docker-archive", rest)) => docker_archive(text, rest),
            Some((other, _)) if OTHER_TRANSPORTS.contains(&other) => Err(ReferenceError::Transport(other.into())),
            _ => Ok(Self::Registry(Name::parse(text)?)),
        }
    }

    /// The path of the directory or archive, when the image is in one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Oci { directory: path, .. } | Self::OciArchive { file: path, .. } => Some(path),
            Self::DockerArchive { file, .. } => Some(file),
            Self::Registry(_) => None,
        }
    }
}

/// The form in which it can be parsed again.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci { directory, tag } => {
                write!(f, "oci:{}", directory.display())?;
                tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
            }
            Self::OciArchive { file, tag } => {
                write!(f, "oci-archive:{}", file.display())?;
                tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
            }
            Self::DockerArchive { file, select } => {
                write!(f, "docker-archive:{}", file.display())?;
                match select {
                    Some(DockerSelect::Name(name)) => write!(f, ":{name}"),
                    Some(DockerSelect::Index(index)) => write!(f, ":@{index}"),
                    None => Ok(()),
                }
            }
            Self::Registry(name) => name.fmt(f),
        }
    }
}

/// Splits `PATH[:TAG]`.
fn path_and_tag(reference: &str, rest: &str, form: &'static str) -> Result<(PathBuf, Option<String>), ReferenceError> {
    let (path, tag) = rest.split_once(':').unwrap_or((rest, ""));
    if path.is_empty() {
        return Err(ReferenceError::NoPath { reference: reference.into(), form });
    }
    if !tag.is_empty() && !is_oci_tag(tag) {
        return Err(ReferenceError::Tag { reference: reference.into(), tag: tag.into() });
    }
    Ok((path.into(), (!tag.is_empty()).then(|| tag.to_owned())))
}

/// Whether a text can be an `org.opencontainers.image.ref.name` (OCI image specification, "Pre-Defined Annotation
/// Keys"): alphanumeric words joined by one separator (or `--`), in components joined by slashes.
fn is_oci_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric();
    let is_component = |component: &str| {
        let bytes = component.as_bytes();
        let pairs = bytes.windows(2).all(|pair| match pair {
            [a, b] if !is_word(*a) && !is_word(*b) => pair == b"--",
            _ => true,
        });
        let ends = bytes.first().is_some_and(|&byte| is_word(byte)) && bytes.last().is_some_and(|&byte| is_word(byte));
        let known = bytes.iter().all(|&byte| is_word(byte) || b"-._:@+".contains(&byte));
        ends && known && pairs && !component.contains("---")
    };
    tag.len() <= MAX_OCI_TAG && tag.split('/').all(is_component)
}

/// Reads `FILE[:NAME[:TAG]|:@INDEX]`.
fn docker_archive(reference: &str, rest: &str) -> Result<Reference, ReferenceError> {
    let (file, select) = rest.split_once(':').map_or((rest, None), |(file, select)| (file, Some(select)));
    if file.is_empty() {
        let form = "docker-archive:FILE[:NAME[:TAG]|:@INDEX]";
        return Err(ReferenceError::NoPath { reference: reference.into(), form });
    }
    let select = match select {
        None => None,
        Some(select) => Some(match select.strip_prefix('@') {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let index = digits.parse().map_err(|_| ReferenceError::Index { reference: reference.into() })?;
                DockerSelect::Index(index)
            }
            Some(_) => return Err(ReferenceError::Index { reference: reference.into() }),
            None => DockerSelect::Name(Name::parse(select)?),
        }),
    };
    if matches!(&select, Some(DockerSelect::Name(name)) if name.digest.is_some()) {
        return Err(ReferenceError::ByDigest { reference: reference.into() });
    }
    Ok(Reference::DockerArchive { file: file.into(), select })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oci(directory: &str, tag: Option<&str>) -> Reference {
        Reference::Oci { directory: directory.into(), tag: tag.map(str::to_owned) }
    }

    #[test]
    fn the_first_colon_ends_the_path_as_it_does_for_skopeo() {
        assert_eq!(Reference::parse("oci:a/b"), Ok(oci("a/b", None)));
        assert_eq!(Reference::parse("oci:/a:latest"), Ok(oci("/a", Some("latest"))));
        assert_eq!(Reference::parse("oci:/a:"), Ok(oci("/a", None)));
        assert_eq!(Reference::parse("oci:/a:b:c"), Ok(oci("/a", Some("b:c"))));
        assert_eq!(
            Reference::parse("oci:a:docker.io/library/busybox:1"),
            Ok(oci("a", Some("docker.io/library/busybox:1")))
        );
        assert_eq!(
            Reference::parse("oci-archive:x.tar:v1"),
            Ok(Reference::OciArchive { file: "x.tar".into(), tag: Some("v1".into()) })
        );
    }

    #[test]
    fn archives_of_docker_save_are_searched_by_name_or_place() {
        let named = Reference::parse("docker-archive:x.tar:busybox").unwrap();
        assert_eq!(named.to_string(), "docker-archive:x.tar:docker.io/library/busybox:latest");
        let tagged = Reference::parse("docker-archive:x.tar:localhost:5000/a:1").unwrap();
        assert_eq!(tagged.to_string(), "docker-archive:x.tar:localhost:5000/a:1");
        let placed = Reference::parse("docker-archive:x.tar:@3").unwrap();
        assert_eq!(placed, Reference::DockerArchive { file: "x.tar".into(), select: Some(DockerSelect::Index(3)) });
        for text in ["docker-archive:x:@-1", "docker-archive:x:@", "docker-archive:x:@+1", "docker-archive:x:@1x"] {
            assert!(matches!(Reference::parse(text), Err(ReferenceError::Index { .. })), "{text}");
        }
        let digest = crate::Digest::of(b"");
        assert!(matches!(
            Reference::parse(&format!("docker-archive:x:a@{digest}")),
            Err(ReferenceError::ByDigest { .. })
        ));
        assert!(matches!(Reference::parse("docker-archive:x:"), Err(ReferenceError::Name(NameError::Empty))));
    }

    #[test]
    fn names_without_a_transport_are_in_a_registry() {
        for (text, name) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("docker://ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("oci/app:1", "docker.io/oci/app:1"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), name);
        }
    }

    #[test]
    fn what_is_not_a_reference_is_refused() {
        assert_eq!(Reference::parse(""), Err(ReferenceError::Empty));
        for text in ["oci:", "oci::tag", "oci-archive:", "docker-archive:", "docker-archive::busybox"] {
            assert!(matches!(Reference::parse(text), Err(ReferenceError::NoPath { .. })), "{text}");
        }
        for text in ["oci:a:b+_c", "oci:a:@0", "oci:a:b c", "oci:a:-b", "oci:a:b---c", "oci:a:b//c", "oci:a:b\n"] {
            assert!(matches!(Reference::parse(text), Err(ReferenceError::Tag { .. })), "{text}");
        }
        for text in ["dir:/x", "docker-daemon:busybox:latest", "containers-storage:x"] {
            assert!(matches!(Reference::parse(text), Err(ReferenceError::Transport(_))), "{text}");
        }
        for text in ["/image", "./image", "../image:tag"] {
            assert!(matches!(Reference::parse(text), Err(ReferenceError::Path(_))), "{text}");
        }
        assert!(matches!(Reference::parse("docker://"), Err(ReferenceError::Name(_))));
    }

    proptest! {
        #[test]
        fn a_printed_reference_is_the_same_reference(
            text in "((oci|oci-archive|docker-archive):|docker://)?[a-z0-9./_-]{1,12}(:[@a-z0-9./_-]{0,8}){0,2}"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference));
            }
        }

        #[test]
        fn a_path_never_has_a_colon(text in "(oci|oci-archive|docker-archive):[a-z:/@]{0,12}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(!reference.path().unwrap().to_string_lossy().contains(':'));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = Reference::parse(&text);
        }
    }
}
