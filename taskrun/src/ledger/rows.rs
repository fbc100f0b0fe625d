//! The ledger's rows, read.

use std::collections::BTreeMap;
use std::error::Error;
use std::num::NonZeroU32;
use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{Connection, Row, ToSql, params};

use super::billing::Rules;
use super::clock::{BootTime, Moment, timestamp};
use super::process::Process;
use super::record::{End, Record, Stamps, Used};

/// Selects what [`record`] reads.
pub(super) const SELECT: &str = "SELECT task.*,
    (SELECT json_group_object(kind, wall_ms) FROM event WHERE event.task = task.id) AS stamps FROM task";

/// All records that `condition` selects, in the order that it says.
pub(super) fn records(
    connection: &Connection,
    condition: &str,
    parameters: &[(&str, &dyn ToSql)],
) -> rusqlite::Result<Vec<Record>> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} {condition}"))?;
    statement.query_map(parameters, record)?.collect()
}

/// Reads a row of [`SELECT`].
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let rules = Rules {
        rounding_seconds: NonZeroU32::new(row.get("rounding_seconds")?).unwrap_or(NonZeroU32::MIN),
        minimum_seconds: row.get("minimum_seconds")?,
    };
    Ok(Record {
        id: row.get("id")?,
        name: row.get("name")?,
        image: row.get("image")?,
        digest: row.get("digest")?,
        cpu_units: row.get("cpu_units")?,
        memory_mib: row.get("memory_mib")?,
        storage_mib: unsigned(row.get("storage_mib")?),
        labels: json::<BTreeMap<String, String>>(row, "labels")?,
        detached: row.get("detached")?,
        supervisor: supervisor(row)?,
        rules,
        cpu_enforcement: row.get("cpu_enforcement")?,
        status: word(row, "status")?,
        desired_status: word(row, "desired_status")?,
        started_at: timestamp(row.get("started_at")?),
        stamps: json::<Stamps>(row, "stamps")?,
        end: end(row)?,
        removed: row.get("removed")?,
    })
}

fn supervisor(row: &Row<'_>) -> rusqlite::Result<Option<Process>> {
    let Some(pid) = row.get("supervisor_pid")? else { return Ok(None) };
    let start_ticks = unsigned(row.get("supervisor_start")?);
    Ok(Some(Process { pid, start_ticks, boot_id: word(row, "supervisor_boot")? }))
}

fn end(row: &Row<'_>) -> rusqlite::Result<Option<End>> {
    let Some(stopped_at) = row.get("stopped_at")? else { return Ok(None) };
    let known = |name| row.get(name).map(|number: Option<i64>| number.map(unsigned));
    Ok(Some(End {
        stopped_at: timestamp(stopped_at),
        exit_code: row.get("exit_code")?,
        stop_code: word(row, "stop_code")?,
        reason: row.get("reason")?,
        settled: row.get("settled")?,
        elapsed_ns: unsigned(row.get("elapsed_ns")?),
        billed_seconds: unsigned(row.get("billed_seconds")?),
        used: Used {
            cpu_ns: known("cpu_ns")?,
            peak_memory_bytes: known("peak_memory_bytes")?,
            bytes_in: known("bytes_in")?,
            bytes_out: known("bytes_out")?,
        },
    }))
}

/// An event of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventRow {
    /// The status or time stamp.
    pub(super) kind: String,
    /// When.
    pub(super) at: Moment,
    /// What it fixed, as JSON.
    pub(super) detail: Option<String>,
}

/// The events of a task.
pub(super) fn events(connection: &Connection, id: &str) -> rusqlite::Result<Vec<EventRow>> {
    let mut statement = connection.prepare_cached("SELECT * FROM event WHERE task = ?1")?;
    let rows = statement.query_map(params![id], |row| {
        let boot = match row.get::<_, Option<i64>>("boottime_ns")? {
            Some(ns) => Some(BootTime { boot_id: word(row, "boot_id")?, ns: unsigned(ns) }),
            None => None,
        };
        let at = Moment { wall: timestamp(row.get("wall_ms")?), boot };
        Ok(EventRow { kind: row.get("kind")?, at, detail: row.get("detail")? })
    })?;
    rows.collect()
}

/// A number that the schema keeps from being negative.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A number as SQLite holds it. The largest stands for all above.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A column that holds one of some words.
fn word<T: FromStr<Err: Error + Send + Sync + 'static>>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| unreadable(row, column, Box::new(error)))
}

/// A column that holds JSON.
fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| unreadable(row, column, Box::new(error)))
}

fn unreadable(row: &Row<'_>, column: &str, error: Box<dyn Error + Send + Sync>) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or(0);
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error)
}
