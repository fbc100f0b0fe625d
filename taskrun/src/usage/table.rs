//! The tables, with the sums below them.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;

use super::price::PriceList;
use super::totals::{By, Total};
use crate::bytes::Bytes;
use crate::ledger::Record;
use crate::ledger::billing::{GbSeconds, VcpuSeconds};

/// Nanoseconds in the tenth of a second that is shown.
const NS_PER_TENTH: u64 = 100_000_000;

const TASK_HEADER: [&str; 13] = [
    "TASK",
    "IMAGE",
    "VCPU",
    "GB",
    "STARTED (UTC)",
    "STOPPED (UTC)",
    "EXIT",
    "SECONDS",
    "VCPU-S",
    "GB-S",
    "CPU USED",
    "PEAK",
    "COST",
];

/// The columns of numbers.
const TASK_NUMBERS: [usize; 9] = [2, 3, 6, 7, 8, 9, 10, 11, 12];

/// A line for each task.
pub(super) fn tasks(records: &[Record], prices: &PriceList, out: &mut impl Write) -> io::Result<()> {
    let rows = records.iter().map(|record| task_cells(record, prices));
    write(&TASK_HEADER, &TASK_NUMBERS, rows, out)?;
    write_sums(records, prices, out)
}

fn task_cells(record: &Record, prices: &PriceList) -> [String; 13] {
    let end = record.end.as_ref();
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let used = end.map(|end| end.used).unwrap_or_default();
    let settled = if end.is_some_and(|end| end.settled) { " settled" } else { "" };
    [
        record.id.clone(),
        printable(&record.image),
        VcpuSeconds::new(record.cpu_units.into(), 1).to_string(),
        GbSeconds::new(record.memory_mib.into(), 1).to_string(),
        time(record.started_at),
        end.map_or_else(|| "not ended".into(), |end| format!("{}{settled}", time(end.stopped_at))),
        known(end.and_then(|end| end.exit_code).map(|code| code.to_string())),
        known(end.map(|end| end.billed_seconds.to_string())),
        known(record.vcpu_seconds().map(|quantity| quantity.to_string())),
        known(record.gb_seconds().map(|quantity| quantity.to_string())),
        known(used.cpu_ns.map(seconds)),
        known(used.peak_memory_bytes.map(|bytes| Bytes(bytes).to_string())),
        known(prices.cost(record).map(|cost| format!("{cost:.6}"))),
    ]
}

const TOTAL_HEADER: [&str; 9] = ["", "TASKS", "SECONDS", "VCPU-S", "GB-S", "DISK GB-S", "CPU USED", "PEAK", "COST"];

/// A line for each total.
pub(super) fn totals(
    totals: &[Total<'_>],
    by: &By,
    records: &[Record],
    prices: &PriceList,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut header = TOTAL_HEADER.map(str::to_owned);
    if let Some(first) = header.first_mut() {
        *first = match by {
            By::Task => "TASK".into(),
            By::Image => "IMAGE".into(),
            By::Day => "DAY (UTC)".into(),
            By::Label(key) => printable(key).to_uppercase(),
        };
    }
    let rows = totals.iter().map(|total| {
        [
            printable(total.key.as_deref().unwrap_or("-")),
            total.tasks.to_string(),
            total.billed_seconds.to_string(),
            total.sums.vcpu.to_string(),
            total.sums.gb.to_string(),
            total.sums.storage_gb.to_string(),
            total.used_cpu_ns.map_or_else(|| "-".into(), seconds),
            total.used_peak_memory_bytes.map_or_else(|| "-".into(), |bytes| Bytes(bytes).to_string()),
            format!("{:.6}", total.sums.cost),
        ]
    });
    write(&header.each_ref().map(String::as_str), &[1, 2, 3, 4, 5, 6, 7, 8], rows, out)?;
    write_sums(records, prices, out)
}

fn write<const N: usize>(
    header: &[&str; N],
    numbers: &[usize],
    rows: impl Iterator<Item = [String; N]>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What all tasks come to.
fn write_sums(records: &[Record], prices: &PriceList, out: &mut impl Write) -> io::Result<()> {
    let records: Vec<&Record> = records.iter().collect();
    let total = Total::of(None, &records, prices);
    let open = if total.open == 0 { String::new() } else { format!("; {} without an end", total.open) };
    let tasks = if total.tasks == 1 { "1 task".into() } else { format!("{} tasks", total.tasks) };
    let sums = &total.sums;
    let storage = if total.storage_mib_seconds == 0 {
        String::new()
    } else {
        format!(", {} GB-seconds of disk", sums.storage_gb)
    };
    writeln!(
        out,
        "Total: {tasks}, {} s billed, {} vCPU-seconds, {} GB-seconds{storage}{open}",
        total.billed_seconds, sums.vcpu, sums.gb
    )?;
    let (currency, name) = (printable(&prices.currency), printable(&prices.name));
    writeln!(out, "Cost: {:.6} {currency} at the prices of {name}", sums.cost)
}

/// Nanoseconds as seconds, to a tenth, rounded.
fn seconds(ns: u64) -> String {
    let tenths = ns.saturating_add(NS_PER_TENTH / 2) / NS_PER_TENTH;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

/// A time to the second, in UTC.
fn time(timestamp: Timestamp) -> String {
    timestamp.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A text without the characters that would drive a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
