//! `taskrun usage`: the ledger, for people (tables) and for programs (JSON, CSV): what tasks were allocated and used, and
//! what that costs.
//!
//! What a task was billed is in the ledger and fixed; its cost is computed when it is printed, with the price list of the
//! configuration, whose name is printed beside it.
//!
//! # Layout
//! - [`row`]: a task. [`totals`]: many tasks as one line. [`price`]: what they cost. [`period`]: which of them.
//! - [`table`] and [`csv`] write either.

mod csv;
pub mod period;
pub mod price;
pub mod row;
mod table;
pub mod totals;

use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use self::price::PriceList;
use self::row::Row;
use self::totals::{By, Total};
use crate::config::{Config, ConfigError};
use crate::cpu;
use crate::errors;
use crate::ledger::{Filter, Ledger, LedgerError, Record, TASKS_FOLDER};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table with the sums below it.
    #[default]
    Table,
    /// An array with one object for each line; the fields are those of [`Row`] or [`Total`].
    Json,
    /// The same fields, with a header (RFC 4180).
    Csv,
}

/// What to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// What makes a line.
    pub by: By,
    /// Only tasks that are billed from then on or from later.
    pub since: Option<Timestamp>,
    /// Only tasks that are billed from before then.
    pub until: Option<Timestamp>,
    /// How to print it.
    pub format: Format,
}

/// Why the usage can't be printed.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The configuration, which has the prices.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The output.
    #[error("The usage can't be printed")]
    Print(#[source] io::Error),
}

/// Prints what the tasks in the ledger of `home` used, after it has settled those whose supervisors died.
///
/// # Errors
/// [`UsageError`].
pub fn run(home: &Path, query: &Query, out: &mut impl Write) -> Result<(), UsageError> {
    let prices = Config::load(home)?.billing.prices;
    let filter = Filter { since: query.since, until: query.until, ..Filter::everything() };
    let records = match open(home)? {
        Some(ledger) => ledger.list(&filter)?,
        None => Vec::new(),
    };
    print(&records, query, &prices, out).map_err(UsageError::Print)
}

/// Recomputes every row of the ledger from its events. Prints a sentence for each that disagrees, or one that none does.
/// Whether none does.
///
/// # Errors
/// [`UsageError`].
pub fn verify(home: &Path, out: &mut impl Write) -> Result<bool, UsageError> {
    let (checked, problems) = match open(home)? {
        Some(ledger) => ledger.verify()?,
        None => (0, Vec::new()),
    };
    let tasks = if checked == 1 { "1 task".into() } else { format!("{checked} tasks") };
    let mut lines: Vec<String> = problems.iter().map(|problem| errors::harmless(&problem.to_string())).collect();
    if problems.is_empty() {
        lines.push(format!("The ledger agrees with its events: {tasks}"));
    }
    let printed = lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
    ignore_broken_pipe(printed).map_err(UsageError::Print)?;
    Ok(problems.is_empty())
}

/// The ledger with all tasks settled that can be. Looking at it works where nothing can be written, too.
pub(crate) fn open(home: &Path) -> Result<Option<Ledger>, LedgerError> {
    let mut ledger = Ledger::open_existing(home)?;
    if let Some(Err(error)) = ledger.as_mut().map(|ledger| ledger.settle(&home.join(TASKS_FOLDER))) {
        errors::say(&errors::chain(&error));
    }
    cpu::cgroup::sweep(home);
    Ok(ledger)
}

/// Prints `records` to `out`. A reader that has seen enough (a broken pipe) is no error.
///
/// # Errors
/// Those of `out`.
pub fn print(records: &[Record], query: &Query, prices: &PriceList, out: &mut impl Write) -> io::Result<()> {
    let printed = match (&query.by, query.format) {
        (By::Task, Format::Table) => table::tasks(records, prices, out),
        (By::Task, format) => {
            write(&records.iter().map(|record| Row::of(record, prices)).collect::<Vec<_>>(), format, out)
        }
        (by, Format::Table) => table::totals(&Total::all(records, by, prices), by, records, prices, out),
        (by, format) => write(&Total::all(records, by, prices), format, out),
    };
    ignore_broken_pipe(printed.and_then(|()| out.flush()))
}

fn write<T: Serialize>(lines: &[T], format: Format, out: &mut impl Write) -> io::Result<()> {
    if format == Format::Csv {
        return csv::write(lines, out);
    }
    serde_json::to_writer_pretty(&mut *out, lines)?;
    writeln!(out)
}

fn ignore_broken_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests;
