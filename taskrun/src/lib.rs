//! The taskrun runtime: what `taskrun` does between its command line and a task's microVM.
//!
//! # Layout
//! - [`cli`]: what the user typed, and what it means.
//! - [`run`]: a task from its image to its exit code. [`size`]: a task's CPU and memory. [`timings`]: when a task got
//!   where. [`terminal`]: the caller's terminal.
//! - [`install`], [`kvm`]: what a task needs of this host. [`doctor`]: whether it is there.
//! - [`task`]: tasks in the background, and the commands that look after them. [`template`]: what tasks start from.
//! - [`ledger`]: what tasks were allocated. [`usage`] and [`metrics`]: the ledger, printed.
//! - [`errors`]: how errors reach the user.

pub mod bytes;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod errors;
pub mod image;
pub mod install;
pub mod kvm;
pub mod ledger;
pub mod metrics;
pub mod microvm;
pub mod run;
pub mod scratch;
pub mod size;
pub mod task;
pub mod template;
pub mod terminal;
pub mod timings;
pub mod usage;
