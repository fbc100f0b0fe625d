//! `taskrun usage`: the ledger, for people (a table with the sums below it) and for programs (JSON).

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use crate::ledger::Record;
use crate::ledger::billing::{GbSeconds, VcpuSeconds};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A table with the sums below it.
    #[default]
    Table,
    /// An array with one object for each task; the fields are those of [`Row`].
    Json,
}

/// Prints `records` to `out`. A reader that has seen enough (a broken pipe) is no error.
///
/// # Errors
/// Those of `out`.
pub fn print(records: &[Record], format: Format, out: &mut impl Write) -> io::Result<()> {
    let printed = match format {
        Format::Table => write_table(records, out),
        Format::Json => write_json(records, out),
    };
    match printed.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A task in the JSON output. Fields are added in later versions, and never renamed or removed.
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
    /// When the task was admitted, and billing started: RFC 3339 with milliseconds, UTC.
    pub started_at: String,
    /// When it ended; `null`, as all that follows, while it runs or when its end was never entered.
    pub stopped_at: Option<String>,
    /// The exit code that the caller saw.
    pub exit_code: Option<i32>,
    /// Why it ended.
    pub reason: Option<&'a str>,
    /// Seconds billed: rounded up, at least 60.
    pub billed_seconds: Option<u64>,
    /// `cpu_units / 1024 * billed_seconds`, exactly.
    pub vcpu_seconds: Option<f64>,
    /// `memory_mib / 1024 * billed_seconds`, exactly.
    pub gb_seconds: Option<f64>,
}

impl<'a> From<&'a Record> for Row<'a> {
    fn from(record: &'a Record) -> Self {
        let end = record.end.as_ref();
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
        }
    }
}

fn write_json(records: &[Record], out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<Row<'_>> = records.iter().map(Row::from).collect();
    serde_json::to_writer_pretty(&mut *out, &rows)?;
    writeln!(out)
}

const HEADER: [&str; 10] =
    ["TASK", "IMAGE", "VCPU", "GB", "STARTED (UTC)", "STOPPED (UTC)", "EXIT", "SECONDS", "VCPU-S", "GB-S"];

/// The columns of numbers.
const NUMBERS: [usize; 6] = [2, 3, 6, 7, 8, 9];

fn write_table(records: &[Record], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADER);
    table.add_rows(records.iter().map(cells));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if NUMBERS.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    let seconds: u64 = records.iter().filter_map(|record| record.end.as_ref()).map(|end| end.billed_seconds).sum();
    let vcpu: VcpuSeconds = records.iter().filter_map(Record::vcpu_seconds).sum();
    let gb: GbSeconds = records.iter().filter_map(Record::gb_seconds).sum();
    let open = records.iter().filter(|record| record.end.is_none()).count();
    let open = if open == 0 { String::new() } else { format!("; {open} without an end") };
    let tasks = if records.len() == 1 { "1 task".into() } else { format!("{} tasks", records.len()) };
    writeln!(out, "Total: {tasks}, {seconds} s billed, {vcpu} vCPU-seconds, {gb} GB-seconds{open}")
}

/// The cells of a task's row.
fn cells(record: &Record) -> [String; 10] {
    let end = record.end.as_ref();
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        record.id.clone(),
        printable(&record.image),
        VcpuSeconds::new(record.cpu_units.into(), 1).to_string(),
        GbSeconds::new(record.memory_mib.into(), 1).to_string(),
        time(record.started_at),
        end.map_or_else(|| "not ended".into(), |end| time(end.stopped_at)),
        known(end.and_then(|end| end.exit_code).map(|code| code.to_string())),
        known(end.map(|end| end.billed_seconds.to_string())),
        known(record.vcpu_seconds().map(|quantity| quantity.to_string())),
        known(record.gb_seconds().map(|quantity| quantity.to_string())),
    ]
}

/// A time to the millisecond, in UTC.
fn rfc3339(timestamp: Timestamp) -> String {
    timestamp.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A time to the second, in UTC.
fn time(timestamp: Timestamp) -> String {
    timestamp.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A text without the characters that would drive a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests;
