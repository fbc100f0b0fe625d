//! Images from registries (OCI distribution specification 1.1, and Docker's registry protocol before it).
//!
//! A pull goes in this order:
//!
//! 1. *Sources.* The mirrors of the registry that are configured, then the registry itself. Each is asked for
//!    `/v2/` ("Determining support") when it is first needed, which also tells whether it speaks TLS and whether it wants
//!    a token; the token is fetched with the user's credentials, or without any. The first source that has the manifest
//!    is the first that is asked for all that follows.
//! 2. *Manifest* ("Pulling manifests"). By digest when the name has one, else by tag. An index leads to the manifest for
//!    the platform. What is in the store already is not asked for again. All bytes are checked against the digest that
//!    led to them before they are parsed, and an image that can't be used is refused before anything else is
//!    downloaded.
//! 3. *Configuration*, then *layers* ("Pulling blobs"), some at a time. Bytes are hashed as they come and go straight to
//!    a file of the store. A connection that breaks or stalls is taken up again where it stopped; a pause that doubles
//!    lies before each attempt, and five attempts without a new byte end the pull. What was received stays for the next one.
//!    A blob with other content than its digest says is not kept.
//! 4. *Name.* The store learns what the name means now.
//!
//! Credentials go to the host that they are for and to the token server that it names, never to where a request is
//! redirected and never into a message. Nothing that a registry sends is trusted: what it sends is bounded in size,
//! except for the texts of errors and tokens, which the library reads whole.
//!
//! # Layout
//! - `sources`: mirrors and the registry, and whether to try again; `endpoint`: one of them, reached;
//!   `identity`: the exchange of identity tokens; `retry`: the pauses.
//! - `credentials`: who the user is; `settings`: the configuration file; `progress`: what a pull tells.
//! - `manifests`: from a name to a manifest; `download`: blobs.

mod credentials;
mod download;
mod endpoint;
mod error;
mod identity;
mod manifests;
mod progress;
mod retry;
mod settings;
mod sources;

use std::cell::Cell;
use std::time::Duration;

pub use self::credentials::{AuthFiles, Credentials};
use self::download::Downloads;
pub use self::error::{Cause, PullError};
use self::manifests::Found;
pub use self::progress::{Progress, Silent};
pub use self::settings::{ConfigError, RegistryConfig, RegistryTable, RegistryTables};
use self::sources::Sources;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::files::Document;
use crate::name::Name;
use crate::platform::Platform;
use crate::store::{Blob, NewImage, Store, StoredImage};
use crate::{config, layout};

/// How to pull.
#[derive(Clone)]
pub struct PullOptions<'a> {
    /// The platform to choose from an index; `None` for the best that runs here.
    pub platform: Option<Platform>,
    /// Who the user is to the registry of the image. They win over the files.
    pub credentials: Option<Credentials>,
    /// Where `docker login` left credentials.
    pub auth_files: AuthFiles,
    /// What is configured about registries.
    pub config: RegistryConfig,
    /// How many layers are downloaded at a time.
    pub parallel: usize,
    /// How long to wait for what.
    pub timing: Timing,
    /// Who wants to know how it goes.
    pub progress: &'a dyn Progress,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes.
    pub stall: Duration,
    /// Before the second attempt; longer before those that follow.
    pub backoff: Duration,
}

/// What a pull did.
#[derive(Clone, Debug)]
pub struct PullOutcome {
    /// The image, in the store.
    pub image: StoredImage,
    /// Whether the name means another image now than before, or is new.
    pub changed: bool,
    /// The bytes of blobs that were downloaded.
    pub downloaded: u64,
}

impl Default for PullOptions<'_> {
    fn default() -> Self {
        Self {
            platform: None,
            credentials: None,
            auth_files: AuthFiles::from_environment(),
            config: RegistryConfig::default(),
            parallel: 3,
            timing: Timing::default(),
            progress: &Silent,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self { connect: Duration::from_secs(30), stall: Duration::from_secs(60), backoff: Duration::from_millis(500) }
    }
}

impl std::fmt::Debug for PullOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { platform, credentials, auth_files, config, parallel, timing, progress: _ } = self;
        let mut debug = f.debug_struct("PullOptions");
        debug.field("platform", platform).field("credentials", credentials).field("auth_files", auth_files);
        debug.field("config", config).field("parallel", parallel).field("timing", timing).finish_non_exhaustive()
    }
}

/// Pulls the image `name` into `store`. What is there already is not downloaded, so that this is also how to find out
/// whether a tag has changed.
///
/// # Errors
/// [`PullError`], with the registry, the cause and the remedy. What was downloaded stays for the next pull.
pub fn pull(store: &Store, name: &Name, options: &PullOptions<'_>) -> Result<PullOutcome, PullError> {
    let place = name.to_string();
    if let Some(platform) = options.platform.as_ref().filter(|platform| !platform.fits()) {
        return Err(ImageError::Platform { place, offered: vec![platform.clone()] }.into());
    }
    let before = store.find(name)?.map(|image| image.manifest);
    let runtime = Runtime::new()?;
    let sources = Sources::new(name, options);
    let found = manifests::find(&runtime, store, &sources, name, options.platform.as_ref(), &place)?;
    let Found { manifest, digest, index, held } = found;
    layout::check(&place, &manifest)?;
    let downloads = Downloads { store, sources: &sources, options, received: Cell::new(0) };
    let configuration = runtime.block_on(downloads.all(std::slice::from_ref(&manifest.config)))?;
    let platform = platform(&place, &manifest.config.digest, &configuration)?;
    let layers = runtime.block_on(downloads.all(&manifest.layers))?;
    let image = store.tag(&NewImage { name, manifest: digest, index, platform })?;
    // Until here nobody could remove them.
    drop((held, configuration, layers));
    Ok(PullOutcome { changed: before != Some(image.manifest), image, downloaded: downloads.received.get() })
}

/// Finds out which manifest or index `name` means at its registry now, without downloading it where the registry allows.
///
/// # Errors
/// [`PullError`], with the registry, the cause and the remedy.
pub fn resolve(name: &Name, options: &PullOptions<'_>) -> Result<Digest, PullError> {
    let runtime = Runtime::new()?;
    let sources = Sources::new(name, options);
    let reference = manifests::reference(name);
    let ask = sources.ask(async |endpoint| sources.retry(endpoint, async || endpoint.digest(&reference).await).await);
    Ok(runtime.block_on(ask)?.1)
}

/// The platform that the configuration says, which must be this machine's.
fn platform(place: &str, digest: &Digest, configuration: &[Blob]) -> Result<Platform, PullError> {
    let what = format!("the configuration {digest}");
    let blob = configuration.first().ok_or_else(|| ImageError::Missing { place: place.into(), what: what.clone() })?;
    let document = Document { place, what, bytes: manifests::read(place, blob)? };
    config::read(&document)?;
    let platform: Platform = document.parse()?;
    Ok(platform)
}

/// The event loop of a pull. Dropping it waits for nothing, since a thread of it may wait for another process.
struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    fn new() -> Result<Self, PullError> {
        // Somebody else may have chosen one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self(Some(runtime.map_err(|source| PullError::Setup { source: source.into() })?)))
    }

    fn block_on<T>(&self, future: impl Future<Output = Result<T, PullError>>) -> Result<T, PullError> {
        match &self.0 {
            Some(runtime) => runtime.block_on(future),
            None => Err(PullError::Setup { source: "the event loop has ended".into() }),
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
