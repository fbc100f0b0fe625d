//! What happens to a task, told while it happens: to a program that runs tasks ([`crate::Task::on_event`]), and as lines of
//! JSON on a descriptor (`taskrun run --events FD`, [`lines`]).
//!
//! What is told is in the ledger already, with the same time.

pub mod lines;

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::ledger::{self, Record, Stamp, Status};
use crate::task::view;

/// Something that happened to a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The task's id; `None` when it ended before it had one.
    pub task: Option<String>,
    /// When, on the wall clock.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What can happen to a task.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// It reached this status: PROVISIONING when the ledger has it, RUNNING when its command runs. Statuses may be skipped.
    /// [`Self::Stopped`] comes in place of STOPPED.
    Status(Status),
    /// Another point in its life was passed, such as the start and the end of getting its image.
    Stamp(Stamp),
    /// Something that its user should know, as a sentence. The task goes on.
    Warning(String),
    /// It has ended, and this is its record. Nothing follows.
    Stopped(Box<Record>),
    /// It can't be run, and was never admitted; or its end can't be entered in the ledger. Why, as a sentence. Nothing follows.
    Failed(String),
}

impl Event {
    /// The event as JSON, see `docs/events.md`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (kind, key, value) = match &self.what {
            What::Status(status) => ("status", "status", json!(status)),
            What::Stamp(stamp) => ("stamp", "stamp", json!(stamp)),
            What::Warning(text) => ("warning", "text", json!(text)),
            What::Stopped(record) => ("stopped", "record", view::value(record)),
            What::Failed(reason) => ("failed", "reason", json!(reason)),
        };
        json!({ "type": kind, "task": self.task, "at": view::time(Some(self.at)), key: value })
    }
}

/// Who is told of a task's events, from any of its threads.
#[derive(Clone, Default)]
pub struct Listeners(Vec<Arc<Listener>>);

/// One of them.
type Listener = dyn Fn(&Event) + Send + Sync;

impl Listeners {
    /// Tells `listener` too.
    pub fn add(&mut self, listener: impl Fn(&Event) + Send + Sync + 'static) {
        self.0.push(Arc::new(listener));
    }

    /// Tells them what happened just now, or when it did.
    pub fn tell(&self, task: Option<&str>, at: Option<Timestamp>, what: What) {
        if !self.0.is_empty() {
            let at = at.unwrap_or_else(ledger::clock::wall);
            let event = Event { task: task.map(str::to_owned), at, what };
            self.0.iter().for_each(|listener| listener(&event));
        }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners").field(&self.0.len()).finish()
    }
}
