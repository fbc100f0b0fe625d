//! What to run: the command line after everything in it was checked and resolved against the caller.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use images::env::EnvChange;
use protocol::spec::TmpfsMount;

use super::etc::Network;
use crate::bytes::DiskSize;
use crate::image::{ImageRequest, Transport};
use crate::size::{Cpu, Memory};
use crate::task::log::Limits;

/// How long a task may take to stop, by default.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A task as its caller wants it. What is not said here is the image's to say.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The image, and how to get it.
    pub image: ImageRequest,
    /// Arguments for the image's entrypoint, instead of the image's own; empty when there are none.
    pub arguments: Vec<OsString>,
    /// Instead of the image's entrypoint; empty takes the image's away.
    pub entrypoint: Option<OsString>,
    /// Changes to the image's variables, in order.
    pub env: Vec<EnvChange>,
    /// Instead of the image's working directory; absolute.
    pub workdir: Option<OsString>,
    /// Instead of the image's user.
    pub user: Option<String>,
    /// The task's hostname.
    pub hostname: Option<String>,
    /// What its files in `/etc` say of the network.
    pub network: Network,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// File systems in memory, over what the image has there.
    pub tmpfs: Vec<TmpfsMount>,
    /// A scratch disk of this size for what the task writes; without it that is in memory.
    pub disk: Option<DiskSize>,
    /// How the image's file system reaches the guest.
    pub transport: Transport,
    /// Whether the command reads the caller's standard input.
    pub stdin: bool,
    /// Whether the command gets a terminal.
    pub terminal: bool,
    /// The share of CPUs.
    pub cpu: Cpu,
    /// The microVM's memory.
    pub memory: Memory,
    /// How long the command may run until it is asked to stop.
    pub timeout: Option<Duration>,
    /// How long after that it is killed.
    pub stop_timeout: Duration,
    /// Where the time stamps are written.
    pub timings: Option<PathBuf>,
    /// The descriptor of the caller's that events are written to.
    pub events: Option<i32>,
    /// Its name, for people.
    pub name: Option<String>,
    /// What the caller wants to find it by.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs on in the background.
    pub detach: bool,
    /// Whether nothing but its usage is kept when it has ended.
    pub remove: bool,
    /// How much of its output is kept when it is detached.
    pub log: Limits,
}

impl RunRequest {
    /// A task of this image in which everything is as it is by default.
    ///
    /// # Errors
    /// [`ReferenceError`](images::reference::ReferenceError).
    pub fn of_image(reference: &str) -> Result<Self, images::reference::ReferenceError> {
        Ok(Self {
            image: ImageRequest::new(images::Reference::parse(reference)?),
            arguments: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            workdir: None,
            user: None,
            hostname: None,
            network: Network::default(),
            read_only: false,
            tmpfs: Vec::new(),
            disk: None,
            transport: Transport::default(),
            stdin: false,
            terminal: false,
            cpu: Cpu::DEFAULT,
            memory: Memory::DEFAULT,
            timeout: None,
            stop_timeout: STOP_TIMEOUT,
            timings: None,
            events: None,
            name: None,
            labels: BTreeMap::new(),
            detach: false,
            remove: false,
            log: Limits::default(),
        })
    }
}
