//! What many tasks come to: all of an image, of a label's value, or of a day.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Serialize;

use super::price::{Cost, PriceList};
use crate::ledger::Record;
use crate::ledger::billing::{GbSeconds, VcpuSeconds};

/// What makes a line of the output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Each task.
    #[default]
    Task,
    /// All tasks of an image, as its reference was written.
    Image,
    /// All tasks with the same value of this label.
    Label(String),
    /// All tasks that are billed from a time on that day (UTC).
    Day,
}

/// What is not a way to add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Write task, image, day or label:KEY")]
pub struct NotBy;

impl FromStr for By {
    type Err = NotBy;

    fn from_str(text: &str) -> Result<Self, NotBy> {
        match text {
            "task" => Ok(Self::Task),
            "image" => Ok(Self::Image),
            "day" => Ok(Self::Day),
            _ => match text.strip_prefix("label:") {
                Some(key) if !key.is_empty() => Ok(Self::Label(key.to_owned())),
                _ => Err(NotBy),
            },
        }
    }
}

impl By {
    /// What a task is added up under; `None` where it doesn't have the label.
    fn key(&self, record: &Record) -> Option<String> {
        match self {
            Self::Task => Some(record.id.clone()),
            Self::Image => Some(record.image.clone()),
            Self::Label(key) => record.labels.get(key).cloned(),
            Self::Day => Some(record.started_at.strftime("%Y-%m-%d").to_string()),
        }
    }
}

/// What some tasks come to, as programs read it. Fields are added in later versions, and never renamed or removed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Total<'a> {
    /// The image, the label's value, or the day (UTC); `null` for tasks without the label.
    pub key: Option<String>,
    /// How many tasks.
    pub tasks: u64,
    /// How many of them have no end yet; nothing of these is in the sums.
    pub open: u64,
    /// Seconds billed.
    pub billed_seconds: u64,
    /// Cpu units (1024 are a vCPU) times seconds billed.
    pub cpu_unit_seconds: u128,
    /// The same in vCPU-seconds.
    pub vcpu_seconds: f64,
    /// MiB of memory times seconds billed.
    pub memory_mib_seconds: u128,
    /// The same in GB-seconds.
    pub gb_seconds: f64,
    /// MiB of scratch disk times seconds billed; all of it, of which some may cost nothing.
    pub storage_mib_seconds: u128,
    /// The same in GB-seconds.
    pub storage_gb_seconds: f64,
    /// Processor time of the guests, in nanoseconds, as far as it is known; `null` when it is of none.
    pub used_cpu_ns: Option<u64>,
    /// The most memory that one of them held at once, in bytes, as far as it is known.
    pub used_peak_memory_bytes: Option<u64>,
    /// Bytes that went into them, as far as it is known.
    pub used_bytes_in: Option<u64>,
    /// Bytes that came out of them, as far as it is known.
    pub used_bytes_out: Option<u64>,
    /// What they cost with that price list: a decimal number with nine places. The sum is exact before it is rounded.
    pub cost: String,
    /// In which currency.
    pub currency: &'a str,
    /// The price list's name.
    pub price_list: &'a str,
    /// The exact sums, for the table.
    #[serde(skip)]
    pub(super) sums: Sums,
}

/// Sums that are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    pub(super) vcpu: VcpuSeconds,
    pub(super) gb: GbSeconds,
    pub(super) storage_gb: GbSeconds,
    pub(super) cost: Cost,
}

impl<'a> Total<'a> {
    /// The totals of `records`, in the order of their keys.
    #[must_use]
    pub fn all(records: &[Record], by: &By, prices: &'a PriceList) -> Vec<Self> {
        let mut groups: BTreeMap<Option<String>, Vec<&Record>> = BTreeMap::new();
        for record in records {
            groups.entry(by.key(record)).or_default().push(record);
        }
        groups.into_iter().map(|(key, records)| Self::of(key, &records, prices)).collect()
    }

    /// The total of all `records`.
    #[must_use]
    pub fn of(key: Option<String>, records: &[&Record], prices: &'a PriceList) -> Self {
        let ends = || records.iter().filter_map(|record| record.end.as_ref());
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let add = |sum: Option<u64>, number: u64| Some(sum.unwrap_or(0).saturating_add(number));
        let sums = Sums {
            vcpu: records.iter().filter_map(|record| record.vcpu_seconds()).sum(),
            gb: records.iter().filter_map(|record| record.gb_seconds()).sum(),
            storage_gb: records.iter().filter_map(|record| record.storage_gb_seconds()).sum(),
            cost: records.iter().filter_map(|record| prices.cost(record)).sum(),
        };
        Self {
            key,
            tasks: count(records.len()),
            open: count(records.len().saturating_sub(ends().count())),
            billed_seconds: ends().fold(0, |sum: u64, end| sum.saturating_add(end.billed_seconds)),
            cpu_unit_seconds: sums.vcpu.scaled(),
            vcpu_seconds: sums.vcpu.to_f64(),
            memory_mib_seconds: sums.gb.scaled(),
            gb_seconds: sums.gb.to_f64(),
            storage_mib_seconds: sums.storage_gb.scaled(),
            storage_gb_seconds: sums.storage_gb.to_f64(),
            used_cpu_ns: ends().filter_map(|end| end.used.cpu_ns).fold(None, add),
            used_peak_memory_bytes: ends().filter_map(|end| end.used.peak_memory_bytes).max(),
            used_bytes_in: ends().filter_map(|end| end.used.bytes_in).fold(None, add),
            used_bytes_out: ends().filter_map(|end| end.used.bytes_out).fold(None, add),
            cost: sums.cost.to_string(),
            currency: &prices.currency,
            price_list: &prices.name,
            sums,
        }
    }
}
