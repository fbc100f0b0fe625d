//! One registry or mirror: how it is reached, and who the user is to it.
//!
//! HTTPS is spoken first. Plain HTTP follows only where it is allowed, on loopback and for registries that are
//! configured as insecure, and only when the server does not speak TLS; a certificate that nobody vouches for is refused
//! on loopback too. Credentials are found by the name of the host and sent to that host and to the token server it
//! names; neither client here sends them on to where a request is redirected.
//!
//! Manifests are read with a client of our own, because the library's has no bound for their size and hides their
//! type. The library gets tokens and streams blobs.

use std::cell::RefCell;
use std::net::IpAddr;

use futures_util::StreamExt as _;
use oci_client::client::{
    BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol, LayerDescriptor,
};
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::RegistryTokenType;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};

use super::credentials::{Credentials, Login};
use super::error::{Asked, PullError};
use super::settings::Registry;
use super::{Timing, identity};
use crate::digest::Digest;
use crate::document::Descriptor;
use crate::error::printable;
use crate::files::MAX_DOCUMENT;
use crate::name::Name;

/// What documents may be, for the `Accept` header. Schema 1 is not asked for: a registry that has nothing else sends it
/// all the same.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

const AGENT: &str = concat!("taskrun/", env!("CARGO_PKG_VERSION"));

/// A host as the user knows it and as it is reached.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// As it is in names.
    pub(super) shown: String,
    /// As it is in addresses.
    address: String,
}

impl Host {
    /// The registry or mirror `host`.
    pub(super) fn new(host: &str) -> Self {
        let address = if host == "docker.io" { "registry-1.docker.io" } else { host };
        Self { shown: host.into(), address: address.into() }
    }

    /// Whether it is this machine.
    fn is_loopback(&self) -> bool {
        let name = match self.address.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => name,
            _ => &self.address,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

/// A document as a registry sent it.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    /// What the registry says that it is.
    pub(super) media_type: String,
}

/// A stream of a blob's bytes, and whether they start where it was asked for or at the blob's start.
pub(super) struct Body {
    pub(super) stream: futures_util::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>,
    pub(super) continued: bool,
}

/// A registry or mirror that answered.
pub(super) struct Endpoint {
    pub(super) host: Host,
    name: Name,
    login: Option<Login>,
    settings: Registry,
    timing: Timing,
    scheme: &'static str,
    http: reqwest::Client,
    reference: Reference,
    access: RefCell<Access>,
}

/// What requests are authorized with.
struct Access {
    proof: Proof,
    library: oci_client::Client,
}

/// What a request shows.
#[derive(Clone)]
enum Proof {
    Nothing,
    Basic(Credentials),
    Bearer(HeaderValue),
}

impl Endpoint {
    /// Connects to `host` for the repository of `name`, and gets the token that the registry wants.
    pub(super) async fn connect(
        host: Host,
        name: &Name,
        login: Option<Login>,
        settings: Registry,
        timing: Timing,
    ) -> Result<Self, PullError> {
        let plain = settings.insecure || host.is_loopback();
        let reference = Reference::with_tag(host.address.clone(), name.path.clone(), String::new());
        let http = http(&host, &settings, timing)?;
        let library = library(&host, &settings, timing, "https")?;
        let access = RefCell::new(Access { proof: Proof::Nothing, library });
        let mut endpoint =
            Self { host, name: name.clone(), login, settings, timing, scheme: "https", http, reference, access };
        match endpoint.authorize().await {
            Err(PullError::Connect { .. } | PullError::Broken { .. }) if plain => {
                endpoint.scheme = "http";
                endpoint.authorize().await?;
            }
            result => result?,
        }
        Ok(endpoint)
    }

    /// Gets a token where the registry wants one (distribution specification, "Authentication" of the token scheme).
    pub(super) async fn authorize(&self) -> Result<(), PullError> {
        let library = library(&self.host, &self.settings, self.timing, self.scheme)?;
        let asked = self.asked("an answer to the first request", None);
        let auth = match &self.login {
            Some(Login::Basic(Credentials { user, password })) => RegistryAuth::Basic(user.clone(), password.clone()),
            Some(Login::Identity(_)) | None => RegistryAuth::Anonymous,
        };
        let token = match &self.login {
            Some(Login::Identity(token)) => {
                identity::exchange(&self.http, &self.root(), &self.name, token, asked).await?
            }
            _ => library
                .auth(&self.reference, &auth, RegistryOperation::Pull)
                .await
                .map_err(|error| asked.library(error))?,
        };
        // A fresh client that knows the proof only, or else it would ask for one with each request.
        let fresh = self::library(&self.host, &self.settings, self.timing, self.scheme)?;
        let proof = match (token, auth, &self.login) {
            (Some(token), ..) => {
                // The library would panic where a token can't be in a header.
                let header = HeaderValue::try_from(format!("Bearer {token}"));
                let mut header = header.map_err(|_| PullError::NotARegistry {
                    registry: self.host.shown.clone(),
                    what: "its token has characters that no token has".into(),
                })?;
                header.set_sensitive(true);
                fresh.store_auth_if_needed(&self.host.address, &RegistryAuth::Bearer(token)).await;
                Proof::Bearer(header)
            }
            (None, auth @ RegistryAuth::Basic(..), Some(Login::Basic(credentials))) => {
                let Credentials { user, password } = credentials.clone();
                let basic = RegistryTokenType::Basic(user, password);
                fresh.tokens.insert(&self.reference, RegistryOperation::Pull, basic).await;
                fresh.store_auth_if_needed(&self.host.address, &auth).await;
                Proof::Basic(credentials.clone())
            }
            (None, ..) => Proof::Nothing,
        };
        self.access.replace(Access { proof, library: fresh });
        Ok(())
    }

    /// Whether a fresh token could help.
    pub(super) fn has_token(&self) -> bool {
        matches!(self.access.borrow().proof, Proof::Bearer(_))
    }

    /// The address that all others start with.
    fn root(&self) -> String {
        format!("{}://{}/v2/", self.scheme, self.host.address)
    }

    pub(super) fn asked<'a>(&'a self, what: &'a str, blob: Option<Digest>) -> Asked<'a> {
        Asked { host: &self.host, name: &self.name, known: self.login.is_some(), what, blob }
    }

    /// Gets the manifest or index `reference`, a tag or a digest (distribution specification, "Pulling manifests").
    pub(super) async fn manifest(&self, reference: &str, what: &str) -> Result<Answer, PullError> {
        let asked = self.asked(what, None);
        let mut response = self.request(reqwest::Method::GET, reference, asked).await?;
        let status = response.status();
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let promised = digest_of(&response);
        let bytes = read_bounded(&mut response, asked).await?;
        if !status.is_success() {
            return Err(self.failed(asked, status.as_u16(), &bytes));
        }
        match promised {
            Some(digest) if digest != Digest::of(&bytes) => {
                Err(PullError::Lies { registry: self.host.shown.clone(), digest })
            }
            _ => Ok(Answer { bytes, media_type }),
        }
    }

    /// The digest of the manifest or index `reference`, without the document where the registry tells it.
    pub(super) async fn digest(&self, reference: &str) -> Result<Digest, PullError> {
        let asked = self.asked("the manifest", None);
        let response = self.request(reqwest::Method::HEAD, reference, asked).await?;
        match digest_of(&response) {
            Some(digest) if response.status().is_success() => Ok(digest),
            _ => Ok(Digest::of(&self.manifest(reference, "the manifest").await?.bytes)),
        }
    }

    async fn request(
        &self,
        method: reqwest::Method,
        reference: &str,
        asked: Asked<'_>,
    ) -> Result<reqwest::Response, PullError> {
        let url = format!("{}{}/manifests/{reference}", self.root(), self.name.path);
        let request = self.http.request(method, url).header(ACCEPT, ACCEPTED);
        let request = match self.access.borrow().proof.clone() {
            Proof::Nothing => request,
            Proof::Basic(Credentials { user, password }) => request.basic_auth(user, Some(password)),
            Proof::Bearer(header) => request.header(AUTHORIZATION, header),
        };
        request.send().await.map_err(|error| asked.transport(error))
    }

    /// The error for an answer that is no success. A registry says what is wrong in a document; a 404 without one
    /// is from something else.
    fn failed(&self, asked: Asked<'_>, status: u16, body: &[u8]) -> PullError {
        let document: Option<oci_client::errors::OciEnvelope> = serde_json::from_slice(body).ok();
        match document {
            None if status == 404 => PullError::NotARegistry {
                registry: self.host.shown.clone(),
                what: format!("status 404, {:?}", printable(&String::from_utf8_lossy(body)).trim()),
            },
            document => {
                let first = document.and_then(|document| document.errors.into_iter().next());
                asked.status(status, &first.map_or(String::new(), |error| error.message))
            }
        }
    }

    /// Starts to get a blob, from byte `start` on (distribution specification, "Pulling blobs"). Whether the registry
    /// starts there is in the answer.
    pub(super) async fn blob(&self, blob: &Descriptor, start: u64) -> Result<Body, PullError> {
        let digest = blob.digest.to_string();
        let layer = LayerDescriptor { digest: &digest, urls: &None };
        let library = self.access.borrow().library.clone();
        let response = library.pull_blob_stream_partial(&self.reference, &layer, start, None).await;
        let what = what(blob);
        let response = response.map_err(|error| self.asked(&what, Some(blob.digest)).library(error))?;
        Ok(match response {
            BlobResponse::Full(body) => Body { stream: body.boxed(), continued: false },
            BlobResponse::Partial(body) => Body { stream: body.boxed(), continued: true },
        })
    }
}

/// Reads an answer that is a document.
pub(super) async fn read_bounded(response: &mut reqwest::Response, asked: Asked<'_>) -> Result<Vec<u8>, PullError> {
    let limit = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| asked.transport(error))? {
        if bytes.len().saturating_add(chunk.len()) > limit {
            return Err(PullError::TooLarge { registry: asked.host.shown.clone(), what: asked.what.into() });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What a blob is called in messages.
pub(super) fn what(blob: &Descriptor) -> String {
    format!("the blob {}", blob.digest)
}

/// The digest that a registry says its answer has. One of another kind than ours says nothing.
fn digest_of(response: &reqwest::Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// Our own client.
fn http(host: &Host, settings: &Registry, timing: Timing) -> Result<reqwest::Client, PullError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(AGENT)
        .connect_timeout(timing.connect)
        .read_timeout(timing.stall)
        .tls_danger_accept_invalid_certs(settings.insecure);
    if host.is_loopback() {
        builder = builder.no_proxy();
    }
    let setup = |error: reqwest::Error| PullError::Setup { source: error.into() };
    if let Some(ca) = &settings.ca {
        builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(ca).map_err(setup)?);
    }
    builder.build().map_err(setup)
}

/// The library's client.
fn library(host: &Host, settings: &Registry, timing: Timing, scheme: &str) -> Result<oci_client::Client, PullError> {
    let certificate = |data: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: data.clone() };
    // There is no other way to say that a proxy of the environment is not for this machine itself.
    let nobody = host.is_loopback().then(|| "http://localhost".to_owned());
    let config = ClientConfig {
        protocol: if scheme == "http" { ClientProtocol::Http } else { ClientProtocol::Https },
        accept_invalid_certificates: settings.insecure,
        extra_root_certificates: settings.ca.iter().map(certificate).collect(),
        connect_timeout: Some(timing.connect),
        read_timeout: Some(timing.stall),
        user_agent: AGENT,
        no_proxy: nobody.as_ref().map(|_| "localhost,127.0.0.0/8,::1".to_owned()),
        https_proxy: nobody.clone(),
        http_proxy: nobody,
        ..ClientConfig::default()
    };
    config
        .try_into()
        .map_err(|error: oci_client::errors::OciDistributionError| PullError::Setup { source: error.into() })
}
