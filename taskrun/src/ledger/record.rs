//! What the ledger holds of a task.

use jiff::Timestamp;

use super::billing::{GbSeconds, VcpuSeconds};

/// A task that is about to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// Its id: 32 lower-case hexadecimal digits, as ECS gives them.
    pub id: String,
    /// The reference of its image, as the caller wrote it.
    pub image: String,
    /// The digest that identifies the image.
    pub digest: String,
    /// Allocated processor: 1024 units are a vCPU.
    pub cpu_units: u32,
    /// Allocated memory, in MiB.
    pub memory_mib: u32,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code that the caller saw.
    pub exit_code: i32,
    /// Why it ended, as one sentence.
    pub reason: String,
}

/// A task in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id: 32 lower-case hexadecimal digits.
    pub id: String,
    /// The reference of its image, as the caller wrote it.
    pub image: String,
    /// The digest that identifies the image.
    pub digest: String,
    /// Allocated processor: 1024 units are a vCPU.
    pub cpu_units: u32,
    /// Allocated memory, in MiB.
    pub memory_mib: u32,
    /// When it was admitted.
    pub started_at: Timestamp,
    /// Its end; `None` while it runs, and when the process that would have entered the end has died.
    pub end: Option<End>,
}

/// The end of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When it ended.
    pub stopped_at: Timestamp,
    /// The exit code that the caller saw.
    pub exit_code: i32,
    /// Why it ended, as one sentence.
    pub reason: String,
    /// The seconds that it is billed for.
    pub billed_seconds: u64,
}

impl Record {
    /// The vCPU-seconds that it is billed for; `None` before its end is known.
    #[must_use]
    pub fn vcpu_seconds(&self) -> Option<VcpuSeconds> {
        self.end.as_ref().map(|end| VcpuSeconds::new(self.cpu_units, end.billed_seconds))
    }

    /// The GB-seconds that it is billed for; `None` before its end is known.
    #[must_use]
    pub fn gb_seconds(&self) -> Option<GbSeconds> {
        self.end.as_ref().map(|end| GbSeconds::new(self.memory_mib, end.billed_seconds))
    }
}

/// The time, as exact as the ledger holds it.
pub(super) fn now() -> Timestamp {
    timestamp(Timestamp::now().as_millisecond())
}

/// A time from the ledger, in milliseconds since 1970 UTC. The schema admits no others than exist.
pub(super) fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or_default()
}
