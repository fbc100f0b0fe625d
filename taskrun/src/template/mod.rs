//! Templates: saved guests to start tasks from, so that only the first task of a size boots a kernel.
//!
//! ```text
//! templates/lock             held by who makes or removes one
//!           KEY/state        vCPUs, interrupt controllers, devices (written by the VMM, [`vmm::template`])
//!           KEY/memory       the guest's memory, sparse
//!           KEY/about.json   what it was made of
//!           KEY/verified     that the two files were read whole and found right, see [`verified`]
//!           KEY/written      which pages a guest writes before its command runs, see [`written`]
//!           KEY.failed       why it couldn't be made, the last time
//!           digests/         of the files that templates are made of, see [`key`]
//! ```
//!
//! A template is found by a key over everything that it depends on ([`key::Inputs`]), so one that is outdated is never
//! found. It appears in one rename when it is whole, is never changed but for the two notes, and may be removed at any time: who
//! has opened it keeps it. A template that was damaged is told of, removed and made anew; where none can be had, the task boots.
//!
//! # Layout
//! - [`key`]: what a template depends on. [`build`]: making one. [`verified`]: which ones need not be read again.
//!   [`written`]: what is copied ahead for a guest.
//! - [`files`]: what is in the folder, listed and removed. [`commands`]: `taskrun template`.

pub mod build;
pub mod commands;
pub mod files;
pub mod key;
pub mod verified;
mod written;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use vmm::template::extents::Extent;

use self::build::BuildError;
use self::key::{Inputs, Key, KeyError};
use self::verified::Damage;
use crate::errors;
use crate::microvm::{Host, Plan, TemplateFiles};
use crate::voice::Voice;

/// The folder of templates in taskrun's home.
pub const FOLDER: &str = "templates";

/// The variable that names another folder.
const VARIABLE: &str = "TASKRUN_TEMPLATES";

const STATE: &str = "state";
const MEMORY: &str = "memory";
const ABOUT: &str = "about.json";
const WRITTEN: &str = "written";

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// What it depends on can't be found out.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It can't be made.
    #[error("The template for {vcpus} vCPUs and {memory_mib} MiB can't be made")]
    Build {
        /// Its size.
        vcpus: u8,
        /// Its memory.
        memory_mib: u32,
        /// Why.
        #[source]
        source: BuildError,
    },
    /// The folder can't be used.
    #[error("The folder of templates {folder} can't be used", folder = .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No template has this name.
    #[error("There is no template {0:?}: `taskrun template ls` lists them")]
    Unknown(String),
    /// More than one template has this name.
    #[error("More than one template begins with {0:?}: write more of it")]
    Ambiguous(String),
}

/// A template, open.
#[derive(Debug)]
pub struct Template {
    /// The state of everything but the memory.
    pub state: File,
    /// The memory.
    pub memory: File,
    folder: PathBuf,
    /// What its guests write before their commands run; `None` when no task has noted it yet.
    written: Option<Vec<Extent>>,
}

impl Template {
    /// The template in `folder`.
    fn open(folder: PathBuf) -> io::Result<Self> {
        let (state, memory) = (File::open(folder.join(STATE))?, File::open(folder.join(MEMORY))?);
        let written = written::read(&folder, memory.metadata()?.len());
        Ok(Self { state, memory, folder, written })
    }

    /// What a VMM needs of it.
    #[must_use]
    pub fn files(&self) -> TemplateFiles<'_> {
        let written = self.written.as_deref().unwrap_or_default();
        TemplateFiles { state: &self.state, memory: &self.memory, written }
    }

    /// Notes what the guest of the process `vmm` has written, if that isn't known. To be called when its command starts.
    pub fn note_written(&self, vmm: u32) {
        if self.written.is_none() {
            // A note that can't be kept is made again.
            let _ = written::note(&self.folder, vmm, &self.memory);
        }
    }
}

/// The templates of a user.
#[derive(Debug)]
pub struct Templates {
    folder: PathBuf,
    voice: Voice,
}

impl Templates {
    /// The templates in taskrun's home, or where `TASKRUN_TEMPLATES` says. Looks at nothing yet.
    #[must_use]
    pub fn of(home: &Path) -> Self {
        let named = std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty());
        let named = named.and_then(|folder| std::path::absolute(folder).ok());
        Self { folder: named.unwrap_or_else(|| home.join(FOLDER)), voice: Voice::stderr() }
    }

    /// Tells this voice, and not standard error, what the user should know.
    #[must_use]
    pub fn told_by(self, voice: Voice) -> Self {
        Self { voice, ..self }
    }

    /// The template to start `plan` from. `None` when it is to boot instead; the user was told why where that isn't what
    /// the plan wants. `note` is told what takes long.
    pub fn choose(&self, host: &Host, plan: &Plan, note: &mut dyn FnMut(&str)) -> Option<Template> {
        if plan.cold || !plan.fits_template() {
            return None;
        }
        let found = self.get(host, plan.vcpus, plan.memory_mib, note);
        found.unwrap_or_else(|error| {
            self.voice.say(&format!("{}; the guest boots without one", errors::chain(&error)));
            None
        })
    }

    /// The template of this size; makes it when it isn't there. `None` when that failed not long ago.
    fn get(
        &self,
        host: &Host,
        vcpus: u8,
        memory_mib: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<Option<Template>, TemplateError> {
        let inputs = Inputs::of(&self.folder, host, vcpus, memory_mib)?;
        let key = inputs.key();
        if let Ok(Some(template)) = self.open(&key) {
            return Ok(Some(template));
        }
        let _lock = self.lock(note).map_err(|source| self.failed(source))?;
        match self.open(&key) {
            Ok(Some(template)) => return Ok(Some(template)),
            Ok(None) if files::failed_lately(&self.folder, &key) => return Ok(None),
            Ok(None) => {}
            Err(damage) => {
                let damage = errors::chain(&damage);
                self.voice.say(&format!("The template {} is damaged and is made anew: {damage}", key.short()));
            }
        }
        self.make(host, &inputs, &key, note).map(Some)
    }

    /// Makes the template of this size, whether one is there or not. Gives its key.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn build(
        &self,
        host: &Host,
        vcpus: u8,
        memory_mib: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<Key, TemplateError> {
        let inputs = Inputs::of(&self.folder, host, vcpus, memory_mib)?;
        let key = inputs.key();
        let _lock = self.lock(note).map_err(|source| self.failed(source))?;
        self.make(host, &inputs, &key, note)?;
        Ok(key)
    }

    /// With the lock held.
    fn make(
        &self,
        host: &Host,
        inputs: &Inputs,
        key: &Key,
        note: &mut dyn FnMut(&str),
    ) -> Result<Template, TemplateError> {
        let (vcpus, memory_mib) = (inputs.vcpus, inputs.memory_mib);
        note(&format!("Making the template for {vcpus} vCPUs and {memory_mib} MiB, once; tasks then start from it"));
        build::build(&self.folder, host, inputs, key)
            .inspect_err(|error| files::note_failure(&self.folder, key, error))
            .map_err(|source| TemplateError::Build { vcpus, memory_mib, source })
    }

    /// Opens a template and makes sure that it is right. `None` when there is none.
    fn open(&self, key: &Key) -> Result<Option<Template>, Damage> {
        let folder = self.folder.join(key.as_str());
        let template = match Template::open(folder.clone()) {
            Ok(template) => template,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => return Ok(None),
            Err(error) => return Err(Damage::Unreadable(error)),
        };
        verified::ensure(&folder, &template)?;
        files::note_use(&folder);
        Ok(Some(template))
    }

    /// Waits for whoever else makes or removes templates.
    fn lock(&self, note: &mut dyn FnMut(&str)) -> io::Result<Flock<File>> {
        files::create_folder(&self.folder)?;
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(self.folder.join("lock"));
        match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, nix::errno::Errno::EAGAIN)) => note("Another taskrun makes a template; waiting for it"),
            Err((_, error)) => return Err(error.into()),
        }
        loop {
            match Flock::lock(open()?, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(lock),
                Err((_, nix::errno::Errno::EINTR)) => {}
                Err((_, error)) => return Err(error.into()),
            }
        }
    }

    fn failed(&self, source: io::Error) -> TemplateError {
        TemplateError::Folder { folder: self.folder.clone(), source }
    }
}
