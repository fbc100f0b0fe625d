//! Runs OCI images as tasks, each in a microVM of its own, and keeps a ledger of what they were allocated.
//!
//! This is the library of `taskrun`, for programs that need a sandbox: a [`Task`] is what to run, as
//! [`std::process::Command`] is; started, it is a [`RunningTask`], whose streams are read and written, which is stopped, and waited
//! for; ended, it has a [`Record`] in the ledger that says how it went and what is billed.
//!
//! ```no_run
//! use std::io::{BufRead as _, BufReader};
//! use std::time::Duration;
//!
//! use taskrun::{Home, Stdio, Task};
//!
//! let home = Home::from_environment()?;
//! let mut task = Task::new("docker.io/library/python:3.13")
//!     .command(["python3", "-c", "print(2**64)"])
//!     .cpu("0.5")
//!     .memory("1GB")
//!     .timeout(Duration::from_secs(60))
//!     .stdout(Stdio::piped())
//!     .start(&home)?;
//! for line in BufReader::new(task.stdout.take().expect("it is piped")).lines() {
//!     println!("{}: {}", task.id(), line?);
//! }
//! let ended = task.wait();
//! if let Some(record) = &ended.record {
//!     println!("exit code {}, {} vCPU-seconds", ended.exit_code, record.vcpu_seconds().expect("it has ended"));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a task has to do with the process that runs it
//! A task has a thread of that process, and a VMM's process below it. Nothing is printed, no signal's handling and no terminal is
//! changed; what there is to say comes as [`Event`]s. Any number of tasks run at once. When the process ends, in whatever way, the
//! microVMs of its tasks end with it; the next start of a task, or of `taskrun`, enters their ends in the ledger.
//!
//! `taskrun ps`, `inspect`, `stop` and the others see these tasks as they see their own, in the same [`Home`].
//!
//! # What it needs
//! `/dev/kvm`, and an installation of taskrun, see [`Home::libexec`].

// Beside the API, the crate holds what the program `taskrun` is made of. None of that is for other programs; it may change at any
// time.
//
// - cli: what the user typed, and what it means. errors: how errors reach the user.
// - embed: the API. run: a task from its image to its exit code. events: what happens meanwhile, and voice: what there is to say.
// - footprint: what the program itself takes. size: a task's CPU and memory. timings: when a task got where. terminal: the caller's terminal.
// - cpu: who holds a task to its share of processors.
// - install, kvm: what a task needs of this host. doctor: whether it is there. inherited: the caller's descriptors.
// - task: tasks in the background, and the commands that look after them. template: what tasks start from.
// - ledger: what tasks were allocated. usage and metrics: the ledger, printed.

#[doc(hidden)]
pub mod bytes;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod cpu;
#[doc(hidden)]
pub mod doctor;
mod embed;
#[doc(hidden)]
pub mod errors;
#[doc(hidden)]
pub mod events;
mod footprint;
#[doc(hidden)]
pub mod image;
#[doc(hidden)]
pub mod inherited;
#[doc(hidden)]
pub mod install;
#[doc(hidden)]
pub mod kvm;
#[doc(hidden)]
pub mod ledger;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod microvm;
#[doc(hidden)]
pub mod run;
#[doc(hidden)]
pub mod scratch;
#[doc(hidden)]
pub mod size;
#[doc(hidden)]
pub mod task;
#[doc(hidden)]
pub mod template;
#[doc(hidden)]
pub mod terminal;
#[doc(hidden)]
pub mod timings;
#[doc(hidden)]
pub mod usage;
#[doc(hidden)]
pub mod voice;

pub use self::config::ConfigError;
pub use self::embed::{Ended, Home, Output, RunningTask, Stdio, Task, TaskError, TaskHandle};
pub use self::events::{Event, What};
pub use self::image::PullPolicy;
pub use self::ledger::billing::{GbSeconds, VcpuSeconds};
pub use self::ledger::{End, HomeError, LedgerError, Record, Stamp, Stamps, Status, StopCode, Used};
pub use self::usage::price::{Cost, PriceList};
