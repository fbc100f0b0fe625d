//! What a task has of the process that runs it: where its streams end, who hears of it, and whether that process is the task's
//! alone.
//!
//! Invariant: a task that is not [`Surroundings::attached`] changes nothing of its process: no signal's handling, no terminal,
//! no standard stream. So a program can run many of them at once, each in a thread.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use crate::events::Listeners;
use crate::task::control::Connection;
use crate::voice::Voice;

/// The surroundings of a task.
#[derive(Debug)]
pub struct Surroundings {
    /// Taskrun's home.
    pub home: PathBuf,
    /// The ends of the task's streams.
    pub ends: Ends,
    /// Whether this process is the task's alone: its signals are the task's, and its terminal where the task has one.
    pub attached: bool,
    /// Hears what the user should know.
    pub voice: Voice,
    /// Hear what happens.
    pub listeners: Listeners,
    /// Is told when the ledger has the task.
    pub admitted: Option<Sender<Admitted>>,
}

/// The ends of a task's streams on this side.
#[derive(Debug)]
pub struct Ends {
    /// What the command reads, where it reads anything.
    pub stdin: Option<OwnedFd>,
    /// Where its output goes. A terminal's has both outputs in it.
    pub stdout: OwnedFd,
    /// Where the other goes.
    pub stderr: OwnedFd,
}

impl Ends {
    /// Those of this process.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn own() -> io::Result<Self> {
        Ok(Self {
            stdin: Some(io::stdin().as_fd().try_clone_to_owned()?),
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }
}

/// A task that is in the ledger.
#[derive(Debug)]
pub struct Admitted {
    /// Its id.
    pub id: String,
    /// How its end is asked for.
    pub requests: Connection,
}
