//! The states of a task and the words for its end, as Amazon ECS has them.
//!
//! Source: the ECS developer guide, "Task lifecycle"; the ECS API reference, `Task` (`lastStatus`, `desiredStatus`,
//! `stopCode` and the time stamps). A task only moves forward; statuses may be skipped.

/// A word of the ledger that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no {1} of a task")]
pub struct Unknown(String, &'static str);

/// Makes an enum with a word for each value, in order.
macro_rules! words {
    ($(#[$enum:meta])* $name:ident, $what:literal: $($(#[$value:meta])* $variant:ident = $word:literal,)+) => {
        $(#[$enum])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$value])* $variant,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word, as ECS writes it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = Unknown;

            fn from_str(text: &str) -> Result<Self, Unknown> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| Unknown(text.into(), $what))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

words! {
    /// ECS's `lastStatus`: how far a task is.
    Status, "status":
    /// It is admitted; nothing was done for it yet.
    Provisioning = "PROVISIONING",
    /// Its image is got and its microVM made.
    Pending = "PENDING",
    /// Its guest has started, its command has not.
    Activating = "ACTIVATING",
    /// Its command runs.
    Running = "RUNNING",
    /// Its command has ended, or is about to be asked to.
    Deactivating = "DEACTIVATING",
    /// Its command was asked to stop.
    Stopping = "STOPPING",
    /// Its guest is gone; what it held is given back.
    Deprovisioning = "DEPROVISIONING",
    /// Nothing is left of it.
    Stopped = "STOPPED",
}

words! {
    /// ECS's `desiredStatus`: what was asked for.
    DesiredStatus, "desired status":
    /// It is to run.
    Running = "RUNNING",
    /// It is to stop.
    Stopped = "STOPPED",
}

words! {
    /// ECS's `stopCode`: who or what ended a task.
    StopCode, "stop code":
    /// It never ran.
    TaskFailedToStart = "TaskFailedToStart",
    /// Its command ended.
    EssentialContainerExited = "EssentialContainerExited",
    /// Somebody ended it.
    UserInitiated = "UserInitiated",
    /// A service's scheduler ended it.
    ServiceSchedulerInitiated = "ServiceSchedulerInitiated",
    /// Its capacity was taken away.
    SpotInterruption = "SpotInterruption",
    /// Its host is about to end.
    TerminationNotice = "TerminationNotice",
}

words! {
    /// A time stamp that is not the beginning of a status. (`createdAt`, `startedAt`, `stoppingAt` and `stoppedAt` are
    /// those of PROVISIONING, RUNNING, STOPPING and STOPPED.)
    Stamp, "time stamp":
    /// Getting the image began; from here on a task is billed.
    PullStarted = "pullStartedAt",
    /// The image is there.
    PullStopped = "pullStoppedAt",
    /// The command has ended.
    ExecutionStopped = "executionStoppedAt",
    /// Not ECS's: somebody else entered the end of a task whose supervisor had died.
    Settled = "settledAt",
}

/// What can happen to a task, once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It got into a status.
    Status(Status),
    /// Something else that is remembered.
    Stamp(Stamp),
}

impl Event {
    /// The word in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status(status) => status.as_str(),
            Self::Stamp(stamp) => stamp.as_str(),
        }
    }
}

impl From<Status> for Event {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Stamp> for Event {
    fn from(stamp: Stamp) -> Self {
        Self::Stamp(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back_and_no_other() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        assert!(Status::ALL.is_sorted());
        assert_eq!("SpotInterruption".parse(), Ok(StopCode::SpotInterruption));
        let error = "running".parse::<Status>().unwrap_err();
        assert_eq!(error.to_string(), "\"running\" is no status of a task");
    }
}
