//! Changes of one ledger per second, by many processes at once; and of a plain SQLite table that is as durable.
//!
//! Each writer is a process of this program ([`crate::writers`]), since what is measured is how processes wait for each other.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::Bench;
use crate::harness::{Contender, Sample, interleave};
use crate::report::{Benchmark, Comparison};
use crate::task::{Task, end_all};
use crate::writers::Kind;

const ALONE: u32 = 1;
const MANY: u32 = 16;

const LEDGER: &str = "taskrun's ledger, 16 processes at once";
const LEDGER_ALONE: &str = "taskrun's ledger, one process";
const PLAIN: &str = "plain SQLite table, 16 processes at once";
const PLAIN_ALONE: &str = "plain SQLite table, one process";

/// Each task is two changes: its admission and its end.
const CHANGES: u32 = 2;

/// Takes turns: plain table and ledger, with many processes and with one.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let tasks = if bench.quick { 25 } else { 200 };
    let contender = |series: &'static str, kind, writers| {
        Contender::new(series, move || {
            let folder = bench.folder()?;
            turn(folder.path(), kind, writers, tasks, series).map(|sample| vec![sample])
        })
    };
    let contenders = vec![
        contender(PLAIN, Kind::Plain, MANY),
        contender(LEDGER, Kind::Ledger, MANY),
        contender(PLAIN_ALONE, Kind::Plain, ALONE),
        contender(LEDGER_ALONE, Kind::Ledger, ALONE),
    ];
    let series = interleave(contenders, bench.rounds(7, 3))?;
    let comparisons = [
        Comparison { over: LEDGER, under: PLAIN, at_most: None },
        Comparison { over: LEDGER_ALONE, under: PLAIN_ALONE, at_most: None },
    ];
    let about = format!(
        "Changes per second of one ledger: each process admits and ends {tasks} tasks, one after the other, and each change is \
         on the disk before the next. The plain table takes the same changes with SQLite's write-ahead log and \
         `synchronous = FULL`, an insertion and an update of a row with two columns: no events, no checks, no bill. Rates \
         are those of this host's disk."
    );
    Ok(Benchmark::new("ledger", about, series, &comparisons))
}

fn turn(folder: &Path, kind: Kind, writers: u32, tasks: u32, series: &str) -> Result<Sample> {
    let program = env::current_exe().context("This program has no path")?;
    let start = || {
        let mut command = Command::new(&program);
        command.args(["writer", kind.as_str()]).arg(folder).arg(tasks.to_string());
        let mut writer = Task::start(&mut command)?;
        writer.wait_for("ready").map(|()| writer)
    };
    let processes = (0..writers).map(|_| start()).collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    // The end of their input sets them off.
    end_all(processes)?;
    let changes = writers.saturating_mul(tasks).saturating_mul(CHANGES);
    Ok(Sample::rate(series, changes, started.elapsed()))
}
