//! Docker's names for images, `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, with their short forms: `busybox` is
//! `docker.io/library/busybox:latest` (the grammar of distribution's `reference` package).
//!
//! Invariant: a [`Name`] holds only characters of that grammar, so that it is safe in a message, a URL and a header.

use std::fmt;

use crate::digest::Digest;

/// The registry that is meant when a name says none.
const DEFAULT_HOST: &str = "docker.io";

/// The longest host and path, together, that registries take.
const MAX_NAME: usize = 255;

/// The longest tag.
const MAX_TAG: usize = 128;

/// A full name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The registry, `HOST` or `HOST:PORT`.
    pub host: String,
    /// The repository in the registry.
    pub path: String,
    /// The tag; `latest` when the text had neither a tag nor a digest.
    pub tag: Option<String>,
    /// The digest of the manifest, when the text had one.
    pub digest: Option<Digest>,
}

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no name.
    #[error("The image's name is empty")]
    Empty,
    /// Docker refuses capitals in a repository.
    #[error("The image's name {0:?} has a capital letter, which is not allowed")]
    Capital(String),
    /// The name does not follow the grammar.
    #[error("{0:?} is not the name of an image: it should look like [HOST/]NAME[:TAG][@DIGEST]")]
    Malformed(String),
    /// The part behind `@` is not a digest.
    #[error("The image's name {0:?} has no valid digest behind the @")]
    Digest(String),
}

impl Name {
    /// Reads a name, long or short.
    ///
    /// # Errors
    /// [`NameError`], with the text that is not a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| NameError::Digest(text.into()))?)),
            None => (text, None),
        };
        // A colon in front of a slash belongs to the port.
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (rest, None),
        };
        let (host, path) = split_host(repository);
        let path = if host == DEFAULT_HOST && !path.contains('/') { format!("library/{path}") } else { path.into() };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(NameError::Capital(text.into()));
        }
        let fits = host.len().saturating_add(path.len()) < MAX_NAME;
        if !fits || !is_host(host) || !path.split('/').all(is_component) || !tag.is_none_or(is_tag) {
            return Err(NameError::Malformed(text.into()));
        }
        let tag = tag.or(digest.is_none().then_some("latest")).map(str::to_owned);
        Ok(Self { host: host.into(), path, tag, digest })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// The registry and the path. The first component is a host only when it can't be a repository's: it has a dot, a
/// port or a capital, or is `localhost`.
fn split_host(repository: &str) -> (&str, &str) {
    match repository.split_once('/') {
        Some(("index.docker.io", path)) => (DEFAULT_HOST, path),
        Some((first, path))
            if first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase) =>
        {
            (first, path)
        }
        _ => (DEFAULT_HOST, repository),
    }
}

/// `HOST` or `HOST:PORT`: a DNS name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_label),
    };
    is_name && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lower-case letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let (Some(first), Some(last)) = (component.bytes().next(), component.bytes().last()) else { return false };
    let separators = component.split(|c: char| u8::try_from(c).is_ok_and(is_inner));
    is_inner(first)
        && is_inner(last)
        && separators
            .filter(|separator| !separator.is_empty())
            .all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'))
}

/// A tag: a word character, then word characters, dots and dashes.
pub(crate) fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(text: &str) -> String {
        Name::parse(text).map_or_else(|error| format!("error: {error}"), |name| name.to_string())
    }

    #[test]
    fn short_names_become_full_ones() {
        let digest = Digest::of(b"");
        for (short, long) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("[::1]:5000/a/b", "[::1]:5000/a/b:latest"),
            ("ghcr.io/a/b_c/d__e/f---g:V1.0_x", "ghcr.io/a/b_c/d__e/f---g:V1.0_x"),
            ("Registry/app", "Registry/app:latest"),
        ] {
            assert_eq!(full(short), long);
        }
        assert_eq!(full(&format!("busybox@{digest}")), format!("docker.io/library/busybox@{digest}"));
        assert_eq!(full(&format!("a.b/c:t@{digest}")), format!("a.b/c:t@{digest}"));
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in [
            "/",
            "a/",
            "/a",
            "a//b",
            "a:",
            ":a",
            "a b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a.-b",
            "a:-t",
            "a@",
            "a@sha256:0",
            "a.b:x/c",
            "[::g]/a",
            "-.b/c",
            "a\n",
            "ä",
            "a:b:c",
            "localhost:/a",
        ] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
        assert_eq!(Name::parse(""), Err(NameError::Empty));
        assert_eq!(Name::parse("BusyBox"), Err(NameError::Capital("BusyBox".into())));
        assert!(Name::parse(&format!("a:{}", "t".repeat(129))).is_err());
        assert!(Name::parse(&"a".repeat(300)).is_err());
    }

    proptest! {
        #[test]
        fn a_full_name_is_its_own_full_name(text in "[a-zA-Z0-9.:_/@-]{1,40}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(&name.to_string()), Ok(name));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = Name::parse(&text);
        }
    }
}
