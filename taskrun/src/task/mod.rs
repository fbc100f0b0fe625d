//! Tasks as their user looks after them: in the background or not, from `taskrun run` to `taskrun rm`.
//!
//! A task belongs to the process that supervises it, `taskrun run` itself or, detached, a process of its own; there is no
//! daemon. What all processes know of it is in the ledger ([`crate::ledger`]) and in the task's folder ([`folder`]).
//!
//! # Layout
//! - [`detach`]: tasks in the background. [`control`]: how they are asked to stop, and their end is noticed.
//! - [`log`]: what they write. [`view`]: how they are printed, [`format`]: through a template, [`filter`]: which of them.
//! - [`commands`]: `ps`, `inspect`, `logs`, `wait`, `stop`, `kill`, `rm`.

pub mod commands;
pub mod control;
pub mod detach;
pub mod filter;
pub mod folder;
pub mod format;
pub mod log;
pub mod view;
