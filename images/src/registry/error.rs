//! Why an image can't be pulled: one sentence for each cause, with what can be done about it. No sentence has a secret
//! in it, nor the address that a registry redirected to, which often is one.

use std::error::Error;
use std::io;

use oci_client::errors::{OciDistributionError, OciErrorCode};

use super::endpoint::Host;
use crate::digest::Digest;
use crate::error::{ImageError, printable};
use crate::files::MAX_DOCUMENT;
use crate::name::Name;
use crate::store::StoreError;

/// A reason of somebody else's.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why an image can't be pulled. `registry` is the host that was asked, which may be a mirror.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry does not have the image.
    #[error("The registry {registry} has no image {name}: check its name and its tag{}", hidden(registry))]
    Unknown {
        /// The registry.
        registry: String,
        /// The image.
        name: String,
    },
    /// The registry wants to know who asks.
    #[error(
        "The registry {registry} gives {name} only to users it knows, or there is no such image: log in with \
        `docker login {}`, or name a user with --creds USER",
        login_host(registry)
    )]
    NoCredentials {
        /// The registry.
        registry: String,
        /// The image.
        name: String,
    },
    /// The registry does not take the credentials.
    #[error(
        "The registry {registry} refuses {name} to this user: check the credentials of --creds or of \
        `docker login {}`",
        login_host(registry)
    )]
    Refused {
        /// The registry.
        registry: String,
        /// The image.
        name: String,
    },
    /// Too many requests.
    #[error(
        "The registry {registry} has had too many requests from here: try again later, or log in with \
        `docker login {}` for a higher limit",
        login_host(registry)
    )]
    RateLimited {
        /// The registry.
        registry: String,
    },
    /// Nobody vouches for the registry's certificate.
    #[error(
        "The certificate of the registry {registry} can't be trusted: name the authority that signed it as \
        `ca = \"FILE\"` under [registry.\"{registry}\"] in config.toml"
    )]
    Certificate {
        /// The registry.
        registry: String,
        /// What is wrong with the certificate.
        #[source]
        source: Cause,
    },
    /// There is no connection.
    #[error("The registry {registry} can't be reached: check its name and the network")]
    Connect {
        /// The registry.
        registry: String,
        /// The operating system's reason.
        #[source]
        source: Cause,
    },
    /// The connection broke, or nothing came for too long, and again so after several attempts.
    #[error(
        "The connection to the registry {registry} broke while it sent {what}: run the pull again, it goes on where \
        it stopped"
    )]
    Broken {
        /// The registry.
        registry: String,
        /// What was to come.
        what: String,
        /// How it broke.
        #[source]
        source: Cause,
    },
    /// The registry has an answer that is none.
    #[error("The registry {registry} failed with status {status} when asked for {what}{}", quote(.message))]
    Status {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// Something else than a registry answers.
    #[error("The server {registry} does not answer as a registry does: check the image's name ({what})")]
    NotARegistry {
        /// The server.
        registry: String,
        /// What it did.
        what: String,
    },
    /// The registry names a blob that it does not have.
    #[error("The registry {registry} does not have {digest}, a part of the image: push the image again")]
    MissingBlob {
        /// The registry.
        registry: String,
        /// The blob.
        digest: Digest,
    },
    /// A blob or manifest with other content than its digest says.
    #[error(
        "The registry {registry} sent other content than {digest}: the image there is damaged or was tampered \
        with, and nothing of it was kept"
    )]
    Lies {
        /// The registry.
        registry: String,
        /// The digest that was asked for.
        digest: Digest,
    },
    /// A manifest that is larger than any honest one.
    #[error("The registry {registry} sent more than the {MAX_DOCUMENT} bytes that are allowed for {what}")]
    TooLarge {
        /// The registry.
        registry: String,
        /// What is too large.
        what: String,
    },
    /// The image is of no use here.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image can't be kept.
    #[error("The image can't be put into the store")]
    Store(#[from] StoreError),
    /// This machine can't make connections at all.
    #[error("Connections can't be set up: is the package ca-certificates installed?")]
    Setup {
        /// What is missing.
        #[source]
        source: Cause,
    },
}

impl PullError {
    /// Whether it may go well when it is tried again.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Broken { .. } | Self::RateLimited { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }

    /// Whether the reason is on this machine or in the image: another source would not help.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Image(_) | Self::Setup { .. })
    }

    /// Whether the registry may have wanted a fresher token.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::NoCredentials { .. } | Self::Refused { .. })
    }
}

/// What was asked of whom: what the errors of a request have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) host: &'a Host,
    pub(super) name: &'a Name,
    /// Credentials went with the request.
    pub(super) known: bool,
    pub(super) what: &'a str,
    /// The blob, when it is one.
    pub(super) blob: Option<Digest>,
}

impl Asked<'_> {
    fn registry(&self) -> String {
        self.host.shown.clone()
    }

    /// The error for an answer with an HTTP status that is no success.
    pub(super) fn status(&self, status: u16, message: &str) -> PullError {
        let registry = self.registry();
        match (status, self.blob) {
            (401 | 403, _) if self.known => PullError::Refused { registry, name: self.name.to_string() },
            (401 | 403, _) => PullError::NoCredentials { registry, name: self.name.to_string() },
            (404, Some(digest)) => PullError::MissingBlob { registry, digest },
            (404, None) => PullError::Unknown { registry, name: self.name.to_string() },
            (429, _) => PullError::RateLimited { registry },
            _ => PullError::Status { registry, what: self.what.into(), status, message: printable(message.trim()) },
        }
    }

    /// The error for a request that got no answer, or half of one.
    pub(super) fn transport(&self, error: reqwest::Error) -> PullError {
        let registry = self.registry();
        // The address may be one that was redirected to, with a secret in it.
        let error = error.without_url();
        if matches!(tls(&error), Some(rustls::Error::InvalidCertificate(_))) {
            return PullError::Certificate { registry, source: error.into() };
        }
        if error.is_connect() {
            return PullError::Connect { registry, source: error.into() };
        }
        if error.is_redirect() {
            return PullError::NotARegistry { registry, what: "it redirects without end".into() };
        }
        PullError::Broken { registry, what: self.what.into(), source: error.into() }
    }

    /// The error for an answer that broke off.
    pub(super) fn broken(&self, error: io::Error) -> PullError {
        match error.downcast::<reqwest::Error>() {
            Ok(error) => self.transport(error),
            Err(error) => PullError::Broken { registry: self.registry(), what: self.what.into(), source: error.into() },
        }
    }

    /// What the client library's error means. Its own texts hold addresses, so they are not shown.
    pub(super) fn library(&self, error: OciDistributionError) -> PullError {
        let registry = self.registry();
        match error {
            OciDistributionError::RequestError(error) => self.transport(error),
            OciDistributionError::IoError(error) => self.broken(error),
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                self.status(401, "")
            }
            OciDistributionError::ServerError { code, message, .. } => self.status(code, &message),
            OciDistributionError::RegistryError { envelope, .. } => {
                let first = envelope.errors.first();
                let status = match first.map(|error| &error.code) {
                    Some(OciErrorCode::Toomanyrequests) => 429,
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => 403,
                    Some(
                        OciErrorCode::BlobUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::ManifestUnknown
                        | OciErrorCode::ManifestBlobUnknown
                        | OciErrorCode::NotFound,
                    ) => 404,
                    _ => 400,
                };
                self.status(status, first.map_or("", |error| &error.message))
            }
            OciDistributionError::RegistryTokenDecodeError(_) => {
                PullError::NotARegistry { registry, what: "it gave no token".into() }
            }
            other => PullError::NotARegistry { registry, what: printable(&other.to_string()) },
        }
    }
}

/// The TLS error behind `error`, if there is one.
pub(super) fn tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(error);
        }
        // An `io::Error` hides what it holds: its source is the source of that.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// The host that `docker login` is told: none for docker's own registry.
fn login_host(registry: &str) -> &str {
    if registry == "docker.io" { "" } else { registry }
}

/// Docker's own registry hides what one may not see.
fn hidden(registry: &str) -> &'static str {
    if registry == "docker.io" { ", or log in with `docker login` if it is private" } else { "" }
}

fn quote(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message:?}") }
}
