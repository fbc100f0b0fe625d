//! The taskrun runtime: what `taskrun` does between its command line and a task's microVM.

pub mod ledger;
pub mod usage;
