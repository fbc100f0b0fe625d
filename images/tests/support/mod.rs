//! What the tests of pulling share.
#![allow(dead_code, clippy::unwrap_used, reason = "the tests' own tools; each test uses some of them")]

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use images::name::Name;
use images::registry::{self, AuthFiles, Progress, PullError, PullOptions, PullOutcome, RegistryConfig, Timing};
use images::store::Store;
use images::{Digest, Image};
use tempfile::TempDir;

/// A store, with what `docker login` left and a configuration file.
pub struct Home {
    pub directory: TempDir,
    pub store: Store,
    pub events: Events,
}

/// What a pull told.
#[derive(Default)]
pub struct Events {
    pub notes: Mutex<Vec<String>>,
    pub present: Mutex<Vec<Digest>>,
    /// The digests of downloads that started, and how many bytes were there.
    pub started: Mutex<Vec<(Digest, u64)>>,
    pub done: Mutex<Vec<Digest>>,
    pub waited: Mutex<Vec<Digest>>,
}

impl Progress for Events {
    fn layer_started(&self, digest: &Digest, length: u64, already: u64) {
        if already == length {
            self.present.lock().unwrap().push(*digest);
        } else {
            self.started.lock().unwrap().push((*digest, already));
        }
    }

    fn layer_progress(&self, _: &Digest, _: u64) {}

    fn layer_done(&self, digest: &Digest) {
        self.done.lock().unwrap().push(*digest);
    }

    fn waiting(&self, digest: &Digest) {
        self.waited.lock().unwrap().push(*digest);
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.into());
    }
}

impl Home {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("images")).unwrap();
        Self { directory, store, events: Events::default() }
    }

    /// Options with short pauses, and nothing of the user's environment.
    pub fn options(&self) -> PullOptions<'_> {
        PullOptions {
            auth_files: AuthFiles::default(),
            timing: Timing {
                connect: Duration::from_secs(10),
                stall: Duration::from_secs(10),
                backoff: Duration::from_millis(5),
            },
            progress: &self.events,
            ..PullOptions::default()
        }
    }

    /// A configuration file with this text.
    pub fn config(&self, text: &str) -> RegistryConfig {
        let path = self.directory.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        RegistryConfig::load(&path).unwrap()
    }

    pub fn pull(&self, name: &str) -> Result<PullOutcome, PullError> {
        self.pull_with(name, &self.options())
    }

    pub fn pull_with(&self, name: &str, options: &PullOptions<'_>) -> Result<PullOutcome, PullError> {
        registry::pull(&self.store, &parse(name), options)
    }

    /// Opens an image that was pulled, and checks the content of each layer against its digest.
    pub fn open(&self, outcome: &PullOutcome) -> Image {
        let image = self.store.open_image(&outcome.image).unwrap();
        for layer in &image.layers {
            let bytes = read(layer.file.as_ref(), layer.length);
            assert_eq!(Some(Digest::of(&bytes)), layer.digest);
        }
        image
    }

    /// How many files there are in a directory of the store.
    pub fn files(&self, directory: &str) -> usize {
        std::fs::read_dir(self.store.root().join(directory)).unwrap().count()
    }

    pub fn notes(&self) -> Vec<String> {
        self.events.notes.lock().unwrap().clone()
    }
}

pub fn parse(name: &str) -> Name {
    Name::parse(name).unwrap()
}

fn read(file: &std::fs::File, length: u64) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The error with all its causes.
pub fn chain(error: &PullError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}

/// A file for credentials, in docker's form.
pub fn auth_file(directory: &Path, json: &str) -> AuthFiles {
    let path = directory.join("auth.json");
    std::fs::write(&path, json).unwrap();
    AuthFiles(vec![path])
}
