//! Who hears what the runtime has to say beside a task's result: warnings, and what takes long.
//!
//! `taskrun` says it on standard error. A program that runs tasks itself has its standard error to itself, and gets it as
//! events ([`crate::events`]).

use std::fmt;
use std::sync::Arc;

use crate::errors;

/// Says it to whoever is to hear it, from any thread.
#[derive(Clone)]
pub struct Voice(Arc<dyn Fn(&str) + Send + Sync>);

impl Voice {
    /// On standard error, as `taskrun: TEXT`.
    #[must_use]
    pub fn stderr() -> Self {
        Self::to(errors::say)
    }

    /// To this function, a sentence at a time.
    pub fn to(hear: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// Says one sentence.
    pub fn say(&self, text: &str) {
        (self.0)(text);
    }

    /// Says an error and its causes.
    pub fn say_error(&self, error: &dyn std::error::Error) {
        self.say(&errors::chain(error));
    }
}

impl fmt::Debug for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Voice")
    }
}
