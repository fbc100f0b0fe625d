//! A task, as programs read it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::price::PriceList;
use crate::ledger::billing::{GbSeconds, VcpuSeconds};
use crate::ledger::{Record, Status, StopCode};

/// A task in the JSON and CSV outputs. Fields are added in later versions, and never renamed or removed. Times are
/// RFC 3339 with milliseconds, UTC; what isn't known, or has not happened, is `null` (nothing, in CSV).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row<'a> {
    /// The task's id: 32 hexadecimal digits.
    pub task_id: &'a str,
    /// The reference of the image, as the caller wrote it.
    pub image: &'a str,
    /// The digest that identifies the image; `null` when the task ended before it was known.
    pub digest: Option<&'a str>,
    /// Allocated processor: 1024 units are a vCPU.
    pub cpu_units: u32,
    /// Allocated memory, in MiB.
    pub memory_mib: u32,
    /// When billing started: the start of the pull, or the task's admission when it did not come that far.
    pub started_at: String,
    /// When it ended; `null`, as all that follows from it, while it runs.
    pub stopped_at: Option<String>,
    /// The exit code that the caller saw.
    pub exit_code: Option<i32>,
    /// Why it ended.
    pub reason: Option<&'a str>,
    /// Seconds billed: rounded up, at least the minimum.
    pub billed_seconds: Option<u64>,
    /// `cpu_units / 1024 * billed_seconds`, exactly.
    pub vcpu_seconds: Option<f64>,
    /// `memory_mib / 1024 * billed_seconds`, exactly.
    pub gb_seconds: Option<f64>,
    /// Its name.
    pub name: Option<&'a str>,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Allocated scratch disk, in MiB.
    pub storage_mib: u64,
    /// `storage_mib / 1024 * billed_seconds`, exactly; all of it, of which some may cost nothing.
    pub storage_gb_seconds: Option<f64>,
    /// How long it lasted, in nanoseconds.
    pub elapsed_ns: Option<u64>,
    /// How far it is, as ECS's `lastStatus`.
    pub status: Status,
    /// Who or what ended it, as ECS's `stopCode`.
    pub stop_code: Option<StopCode>,
    /// Whether its end was entered by another command after its supervisor had died.
    pub settled: Option<bool>,
    /// When it was admitted.
    pub created_at: Option<String>,
    /// When getting its image began.
    pub pull_started_at: Option<String>,
    /// When its image was there.
    pub pull_stopped_at: Option<String>,
    /// When its command ran; ECS's `startedAt`.
    pub running_at: Option<String>,
    /// When it was asked to stop.
    pub stopping_at: Option<String>,
    /// When its command had ended.
    pub execution_stopped_at: Option<String>,
    /// Processor time of its guest, in nanoseconds.
    pub used_cpu_ns: Option<u64>,
    /// The most memory that it held at once, in bytes.
    pub used_peak_memory_bytes: Option<u64>,
    /// Bytes that went into it.
    pub used_bytes_in: Option<u64>,
    /// Bytes that came out of it.
    pub used_bytes_out: Option<u64>,
    /// What it costs with that price list: a decimal number with nine places.
    pub cost: Option<String>,
    /// In which currency.
    pub currency: &'a str,
    /// The price list's name.
    pub price_list: &'a str,
}

impl<'a> Row<'a> {
    /// The row of a task, at these prices.
    #[must_use]
    pub fn of(record: &'a Record, prices: &'a PriceList) -> Self {
        let end = record.end.as_ref();
        let used = end.map(|end| end.used).unwrap_or_default();
        let stamps = &record.stamps;
        let stamp = |at: Option<Timestamp>| at.map(rfc3339);
        Self {
            task_id: &record.id,
            image: &record.image,
            digest: record.digest.as_deref(),
            cpu_units: record.cpu_units,
            memory_mib: record.memory_mib,
            started_at: rfc3339(record.started_at),
            stopped_at: end.map(|end| rfc3339(end.stopped_at)),
            exit_code: end.and_then(|end| end.exit_code),
            reason: end.map(|end| end.reason.as_str()),
            billed_seconds: end.map(|end| end.billed_seconds),
            vcpu_seconds: record.vcpu_seconds().map(VcpuSeconds::to_f64),
            gb_seconds: record.gb_seconds().map(GbSeconds::to_f64),
            name: record.name.as_deref(),
            labels: &record.labels,
            storage_mib: record.storage_mib,
            storage_gb_seconds: record.storage_gb_seconds().map(GbSeconds::to_f64),
            elapsed_ns: end.map(|end| end.elapsed_ns),
            status: record.status,
            stop_code: end.map(|end| end.stop_code),
            settled: end.map(|end| end.settled),
            created_at: stamp(stamps.created_at),
            pull_started_at: stamp(stamps.pull_started_at),
            pull_stopped_at: stamp(stamps.pull_stopped_at),
            running_at: stamp(stamps.started_at),
            stopping_at: stamp(stamps.stopping_at),
            execution_stopped_at: stamp(stamps.execution_stopped_at),
            used_cpu_ns: used.cpu_ns,
            used_peak_memory_bytes: used.peak_memory_bytes,
            used_bytes_in: used.bytes_in,
            used_bytes_out: used.bytes_out,
            cost: prices.cost(record).map(|cost| cost.to_string()),
            currency: &prices.currency,
            price_list: &prices.name,
        }
    }
}

/// A time to the millisecond, in UTC.
fn rfc3339(timestamp: Timestamp) -> String {
    timestamp.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
