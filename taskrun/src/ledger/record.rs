//! What the ledger holds of a task.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::billing::{GbSeconds, Rules, VcpuSeconds};
use super::process::Process;
use super::status::{DesiredStatus, Status, StopCode};

/// A task that is about to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// Its id: 32 lower-case hexadecimal digits, as ECS gives them.
    pub id: String,
    /// Its name, which no other task has that was not removed.
    pub name: Option<String>,
    /// The reference of its image, as the caller wrote it.
    pub image: String,
    /// Allocated processor: 1024 units are a vCPU.
    pub cpu_units: u32,
    /// Allocated memory, in MiB.
    pub memory_mib: u32,
    /// Allocated scratch disk, in MiB; 0 without one.
    pub storage_mib: u64,
    /// What the caller wants to find it by.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs behind its caller.
    pub detached: bool,
    /// The process that will enter its end.
    pub supervisor: Process,
}

/// A task that the ledger has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// When it was admitted.
    pub created_at: Timestamp,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code that the caller saw, if it saw one.
    pub exit_code: Option<i32>,
    /// Who or what ended it.
    pub stop_code: StopCode,
    /// Why it ended, as one sentence.
    pub reason: String,
    /// What it used.
    pub used: Used,
}

/// What a task used of what it was allocated. What isn't known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    /// Processor time of the guest, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// The most memory that it held at once, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes that went into it.
    pub bytes_in: Option<u64>,
    /// Bytes that came out of it.
    pub bytes_out: Option<u64>,
}

/// A task in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id: 32 lower-case hexadecimal digits.
    pub id: String,
    /// Its name; another task may have the same when this one is `removed`.
    pub name: Option<String>,
    /// The reference of its image, as the caller wrote it.
    pub image: String,
    /// The digest that identifies the image; `None` before that is known.
    pub digest: Option<String>,
    /// Allocated processor: 1024 units are a vCPU.
    pub cpu_units: u32,
    /// Allocated memory, in MiB.
    pub memory_mib: u32,
    /// Allocated scratch disk, in MiB; 0 without one.
    pub storage_mib: u64,
    /// What the caller wants to find it by.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs behind its caller.
    pub detached: bool,
    /// The process that enters its end; `None` in rows of a taskrun that did not write it down.
    pub supervisor: Option<Process>,
    /// How its time is counted.
    pub rules: Rules,
    /// Who holds it to its share of processors, in words; `None` before it has a microVM.
    pub cpu_enforcement: Option<String>,
    /// How far it is.
    pub status: Status,
    /// What was asked for.
    pub desired_status: DesiredStatus,
    /// From when on it is billed: the start of the pull, or its admission when it did not come that far.
    pub started_at: Timestamp,
    /// What happened to it when, on the wall clock.
    pub stamps: Stamps,
    /// Its end; `None` while it runs, and when the process that would have entered the end has died.
    pub end: Option<End>,
    /// Whether it was removed: hidden from lists, its name free.
    pub removed: bool,
}

/// The time stamps of a task, named as ECS names them; `None` for what has not happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Stamps {
    /// It was admitted (PROVISIONING).
    #[serde(rename = "PROVISIONING", deserialize_with = "milliseconds")]
    pub created_at: Option<Timestamp>,
    /// Getting the image began.
    #[serde(rename = "pullStartedAt", deserialize_with = "milliseconds")]
    pub pull_started_at: Option<Timestamp>,
    /// The image was there.
    #[serde(rename = "pullStoppedAt", deserialize_with = "milliseconds")]
    pub pull_stopped_at: Option<Timestamp>,
    /// Its command ran (RUNNING).
    #[serde(rename = "RUNNING", deserialize_with = "milliseconds")]
    pub started_at: Option<Timestamp>,
    /// It was asked to stop (STOPPING).
    #[serde(rename = "STOPPING", deserialize_with = "milliseconds")]
    pub stopping_at: Option<Timestamp>,
    /// Its command had ended.
    #[serde(rename = "executionStoppedAt", deserialize_with = "milliseconds")]
    pub execution_stopped_at: Option<Timestamp>,
    /// Nothing was left of it (STOPPED).
    #[serde(rename = "STOPPED", deserialize_with = "milliseconds")]
    pub stopped_at: Option<Timestamp>,
    /// Its end was entered by another process than its supervisor.
    #[serde(rename = "settledAt", deserialize_with = "milliseconds")]
    pub settled_at: Option<Timestamp>,
}

fn milliseconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    i64::deserialize(deserializer).map(|milliseconds| Some(super::clock::timestamp(milliseconds)))
}

/// The end of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When it ended.
    pub stopped_at: Timestamp,
    /// The exit code that the caller saw; `None` when nobody did.
    pub exit_code: Option<i32>,
    /// Who or what ended it.
    pub stop_code: StopCode,
    /// Why it ended, as one sentence.
    pub reason: String,
    /// Whether another process than its supervisor entered this, from what was known.
    pub settled: bool,
    /// How long it lasted, in nanoseconds, from `Record::started_at` on.
    pub elapsed_ns: u64,
    /// The seconds that it is billed for.
    pub billed_seconds: u64,
    /// What it used.
    pub used: Used,
}

impl Record {
    /// The vCPU-seconds that it is billed for; `None` before its end is known.
    #[must_use]
    pub fn vcpu_seconds(&self) -> Option<VcpuSeconds> {
        self.end.as_ref().map(|end| VcpuSeconds::new(self.cpu_units.into(), end.billed_seconds))
    }

    /// The GB-seconds of memory that it is billed for; `None` before its end is known.
    #[must_use]
    pub fn gb_seconds(&self) -> Option<GbSeconds> {
        self.end.as_ref().map(|end| GbSeconds::new(self.memory_mib.into(), end.billed_seconds))
    }

    /// The GB-seconds of scratch disk, all of it; `None` before its end is known.
    #[must_use]
    pub fn storage_gb_seconds(&self) -> Option<GbSeconds> {
        self.end.as_ref().map(|end| GbSeconds::new(self.storage_mib, end.billed_seconds))
    }
}
