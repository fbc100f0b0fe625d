//! Running tasks from another program: what `taskrun` the program uses, too.
//!
//! # Layout
//! - [`task`]: what to run. [`running`]: what runs. [`stdio`]: where its streams end.
//! - [`home`]: where images, templates and the ledger are.

mod home;
mod running;
mod stdio;
mod task;

pub use self::home::Home;
pub use self::running::{Ended, Output, RunningTask, TaskHandle};
pub use self::stdio::Stdio;
pub use self::task::{Task, TaskError};
