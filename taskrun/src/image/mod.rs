//! A task's image on this host: found, pulled where it is missing, unpacked where that has not been done, and held.
//!
//! ```text
//! reference ─▶ store ─┬▶ image (layers' blobs, configuration) ─▶ key ─▶ store ─┬▶ root file system (an EROFS file)
//!            registry ┘                                        unpack microVM ─┘
//! ```
//!
//! What [`Images::prepare`] gives is locked: as long as it, or a VMM that got its file, lives, nothing of it can be removed.
//!
//! # Layout
//! - [`unpack`]: the microVM that makes a root file system of layers. [`progress`]: bars on a terminal.
//! - [`login`]: who the user is to a registry. [`commands`]: `taskrun pull` and `taskrun image`.

pub mod commands;
pub mod login;
pub mod progress;
pub mod unpack;

use std::io;
use std::path::{Path, PathBuf};

use images::platform::Platform;
use images::registry::{self, PullError, PullOptions};
use images::store::{BuildRootfs, Rootfs, RootfsKey, Store, StoreError, StoredImage};
use images::{Image, ImageError, LayerBlob, Reference};
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;

use self::login::{Login, PasswordError};
use self::progress::Display;
use self::unpack::{MachineRequest, Step, UnpackError};
use crate::config::{Config, ConfigError};
use crate::install::Installation;
use crate::ledger::{self, HomeError};
use crate::microvm::{Host, LaunchError};
use crate::template::Templates;
use crate::timings::{Phase, Timings};
use crate::voice::Voice;

/// The folder of images in taskrun's home.
pub const FOLDER: &str = "images";

/// A write of a guest that unpacks is shorter than this, so one that finds no room leaves less.
const LARGEST_WRITE: u64 = 4 << 20;

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PullPolicy {
    /// Each time; what has not changed is not downloaded again.
    Always,
    /// When it is not in the store.
    #[default]
    Missing,
    /// Never: it is in the store, or the task fails.
    Never,
}

/// How an image's file system reaches a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// As persistent memory where that can be had, else as a block device.
    #[default]
    Auto,
    /// As persistent memory (virtio-pmem with DAX): all tasks of an image share its pages.
    Pmem,
    /// As a block device (virtio-blk): each task reads it into memory of its own.
    Blk,
}

/// An image, and how to get it.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// Its name.
    pub reference: Reference,
    /// When it is pulled.
    pub policy: PullPolicy,
    /// The platform to pull it for; this machine's when absent.
    pub platform: Option<Platform>,
    /// What the registry wants to know.
    pub login: Option<Login>,
    /// Whether progress is kept off the terminal.
    pub quiet: bool,
    /// The guest kernel for unpacking; the installed one when absent.
    pub kernel: Option<PathBuf>,
    /// The folder of the installation; found from this program's when absent.
    pub libexec: Option<PathBuf>,
    /// Whether the guest kernel's log goes to standard error.
    pub console: bool,
    /// Whether guests boot, even where they could start from a template.
    pub cold: bool,
}

impl ImageRequest {
    /// This image, with everything as it is by default.
    #[must_use]
    pub fn new(reference: Reference) -> Self {
        Self {
            reference,
            policy: PullPolicy::default(),
            platform: None,
            login: None,
            quiet: false,
            kernel: None,
            libexec: None,
            console: false,
            cold: false,
        }
    }

    /// Opens what its microVMs need.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn host(&self) -> Result<Host, LaunchError> {
        Host::of(Installation::locate_in(self.libexec.as_deref(), self.kernel.as_deref())?)
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is no place for images.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The image can't be opened.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The password for it.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// It is not there, and was not to be pulled.
    #[error("The image {0} is not in the store, and --pull never forbids to get it: run `taskrun pull {0}`")]
    Absent(String),
    /// It is no name of an image in a registry.
    #[error("{0} is not in a registry, so there is nothing to pull: `taskrun run` takes it as it is")]
    NotPullable(String),
    /// The microVM for unpacking.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The unpacking.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The file for the unpacked image.
    #[error("The file for the unpacked image can't be used")]
    Output(#[source] io::Error),
}

/// An image that is ready to run, held as long as this lives.
#[derive(Debug)]
pub struct Prepared {
    /// What it says, and its layers.
    pub image: Image,
    /// Its root file system.
    pub rootfs: Rootfs,
}

/// Where images are kept and how they are got.
#[derive(Debug)]
pub struct Images {
    /// The store.
    pub store: Store,
    config: Config,
    templates: Templates,
    voice: Voice,
}

impl Images {
    /// Opens the store and the configuration in taskrun's home.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn open() -> Result<Self, PrepareError> {
        Self::open_in(&ledger::home::resolve()?, Voice::stderr())
    }

    /// Opens those in `home`. `voice` is told what the user should know.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn open_in(home: &Path, voice: Voice) -> Result<Self, PrepareError> {
        let templates = Templates::of(home).told_by(voice.clone());
        Ok(Self { store: Store::open(&home.join(FOLDER))?, config: Config::load(home)?, templates, voice })
    }

    /// Pulls an image and unpacks it where needed, so that its tasks start at once.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn fetch(&self, request: &ImageRequest, download_only: bool) -> Result<StoredImage, PrepareError> {
        let display = Display::new(request.quiet);
        let stored = self.pull(request, &display)?;
        if !download_only {
            let image = self.store.open_image(&stored)?;
            let origin = Origin::Store(stored.clone());
            self.rootfs(&image, &origin, request, &display, &mut Timings::start())?;
        }
        Ok(stored)
    }

    /// Makes an image ready to run: opens it, pulls and unpacks it where needed.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn prepare(&self, request: &ImageRequest, timings: &mut Timings) -> Result<Prepared, PrepareError> {
        let display = Display::new(request.quiet);
        let (image, origin) = self.find(request, &display, timings)?;
        timings.reach(Phase::ImageOpened);
        let rootfs = self.rootfs(&image, &origin, request, &display, timings)?;
        Ok(Prepared { image, rootfs })
    }

    /// Opens an image; pulls it as the policy wants.
    fn find(
        &self,
        request: &ImageRequest,
        display: &Display,
        timings: &mut Timings,
    ) -> Result<(Image, Origin), PrepareError> {
        let Reference::Registry(name) = &request.reference else {
            return Ok((images::open(&request.reference)?, Origin::Local));
        };
        let stored = match request.policy {
            PullPolicy::Always => None,
            PullPolicy::Missing | PullPolicy::Never => self.store.find(name)?,
        };
        let stored = match stored {
            Some(stored) => stored,
            None if request.policy == PullPolicy::Never => {
                return Err(PrepareError::Absent(request.reference.to_string()));
            }
            None => {
                let stored = self.pull(request, display)?;
                timings.reach(Phase::ImagePulled);
                stored
            }
        };
        Ok((self.store.open_image(&stored)?, Origin::Store(stored)))
    }

    /// Pulls an image into the store.
    ///
    /// # Errors
    /// [`PrepareError`].
    fn pull(&self, request: &ImageRequest, display: &Display) -> Result<StoredImage, PrepareError> {
        let Reference::Registry(name) = &request.reference else {
            return Err(PrepareError::NotPullable(request.reference.to_string()));
        };
        let credentials = request.login.as_ref().map(Login::credentials).transpose()?;
        let options = PullOptions {
            platform: request.platform.clone(),
            credentials,
            config: self.config.registries.clone(),
            progress: display,
            ..PullOptions::default()
        };
        let outcome = registry::pull(&self.store, name, &options);
        display.clear();
        Ok(outcome?.image)
    }

    /// The root file system of an image; unpacks it when it is not there.
    fn rootfs(
        &self,
        image: &Image,
        origin: &Origin,
        request: &ImageRequest,
        display: &Display,
        timings: &mut Timings,
    ) -> Result<Rootfs, PrepareError> {
        let key = RootfsKey::of(&image.layers);
        if let Some(rootfs) = self.store.rootfs(&key)? {
            return Ok(rootfs);
        }
        let mut waiting = || display.note("Another taskrun unpacks this image; waiting for it");
        let build = match self.store.build_rootfs(&key, &mut waiting)? {
            BuildRootfs::Present(rootfs) => return Ok(rootfs),
            BuildRootfs::Build(build) => build,
        };
        let host = request.host()?;
        let output = build.output().try_clone().map_err(PrepareError::Output)?;
        let (report, verified) = std::thread::scope(|scope| {
            let verified = scope.spawn(|| origin.verify(&image.layers));
            let total = image.layers.iter().map(|layer| layer.length).sum();
            let bar = display.unpacking(total);
            let mut on_step = |step| match step {
                Step::AgentReady => timings.reach(Phase::UnpackAgentReady),
                Step::Read(position) => bar.at(position),
                Step::Reported => timings.reach(Phase::UnpackReported),
            };
            let machine = MachineRequest {
                config: &self.config.unpack,
                console: request.console,
                cold: request.cold,
                templates: &self.templates,
                note: &|text| display.note(text),
                voice: &self.voice,
            };
            let report = unpack::unpack(&host, &image.layers, output, &machine, &mut on_step);
            (report, verified.join())
        });
        display.clear();
        let report = report.map_err(|error| self.full().map_or(error.into(), PrepareError::from))?;
        // A panic of that thread is a bug of ours, and goes on as one.
        verified.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let rootfs = build.commit(report.image_size, origin.manifest())?;
        timings.reach(Phase::ImageUnpacked);
        Ok(rootfs)
    }

    /// What a guest meets as a failing disk may be a full file system of the host, which the guest cannot know.
    fn full(&self) -> Option<StoreError> {
        let directory = self.store.root();
        let state = statvfs(directory).ok()?;
        let blocks = if geteuid().is_root() { state.blocks_free() } else { state.blocks_available() };
        let left = blocks.saturating_mul(state.fragment_size());
        let full = || StoreError::Full {
            directory: directory.to_owned(),
            needed: None,
            source: io::ErrorKind::StorageFull.into(),
        };
        (left < LARGEST_WRITE).then(full)
    }
}

/// Where an image comes from.
#[derive(Debug)]
enum Origin {
    /// A layout or an archive of the user's, which nobody has hashed.
    Local,
    /// The store, which hashed what it holds.
    Store(StoredImage),
}

impl Origin {
    fn verify(&self, layers: &[LayerBlob]) -> Result<(), StoreError> {
        match self {
            Self::Local => images::store::verify_layers(layers),
            Self::Store(_) => Ok(()),
        }
    }

    fn manifest(&self) -> Option<&images::Digest> {
        match self {
            Self::Local => None,
            Self::Store(stored) => Some(&stored.manifest),
        }
    }
}
