//! What to run: the command line after everything in it was checked and resolved against the caller.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use images::env::EnvChange;

use crate::size::{Cpu, Memory};

/// A task as its caller wants it. What is not said here is the image's to say.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The image.
    pub image: images::Reference,
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
    /// The guest kernel; the installed one when absent.
    pub kernel: Option<PathBuf>,
    /// Whether the guest kernel's log goes to standard error.
    pub console: bool,
    /// Where the time stamps are written.
    pub timings: Option<PathBuf>,
}
