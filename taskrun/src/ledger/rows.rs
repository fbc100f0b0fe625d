//! The ledger's rows, read.

use std::collections::BTreeMap;
use std::error::Error;
use std::num::NonZeroU32;
use std::str::FromStr;

use rusqlite::types::{FromSql, Type};
use rusqlite::{Connection, Row, ToSql, params};

use super::billing::Rules;
use super::clock::{BootTime, Moment, timestamp};
use super::process::Process;
use super::record::{End, Record, Stamps, Used};

/// Selects what [`record`] reads, in the order in which it does: to look columns up by their names takes longer than to read
/// them.
pub(super) const SELECT: &str = "SELECT id, name, image, digest, cpu_units, memory_mib, storage_mib, labels, detached,
    supervisor_pid, supervisor_start, supervisor_boot, rounding_seconds, minimum_seconds, cpu_enforcement, status, desired_status,
    started_at, (SELECT json_group_object(kind, wall_ms) FROM event WHERE event.task = task.id), removed, stopped_at, exit_code,
    stop_code, reason, settled, elapsed_ns, billed_seconds, cpu_ns, peak_memory_bytes, bytes_in, bytes_out FROM task";

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
    let mut columns = Columns { row, next: 0 };
    // Fields of a structure are evaluated in the order in which they are written.
    Ok(Record {
        id: columns.get()?,
        name: columns.get()?,
        image: columns.get()?,
        digest: columns.get()?,
        cpu_units: columns.get()?,
        memory_mib: columns.get()?,
        storage_mib: unsigned(columns.get()?),
        labels: columns.json::<BTreeMap<String, String>>()?,
        detached: columns.get()?,
        supervisor: supervisor(&mut columns)?,
        rules: Rules {
            rounding_seconds: NonZeroU32::new(columns.get()?).unwrap_or(NonZeroU32::MIN),
            minimum_seconds: columns.get()?,
        },
        cpu_enforcement: columns.get()?,
        status: columns.word()?,
        desired_status: columns.word()?,
        started_at: timestamp(columns.get()?),
        stamps: columns.json::<Stamps>()?,
        removed: columns.get()?,
        end: end(&mut columns)?,
    })
}

fn supervisor(columns: &mut Columns<'_>) -> rusqlite::Result<Option<Process>> {
    let (pid, start, boot_id) = (columns.get()?, columns.get()?, columns.word_or_null()?);
    Ok(match (pid, start, boot_id) {
        (Some(pid), Some(start), Some(boot_id)) => Some(Process { pid, start_ticks: unsigned(start), boot_id }),
        _ => None,
    })
}

fn end(columns: &mut Columns<'_>) -> rusqlite::Result<Option<End>> {
    let Some(stopped_at) = columns.get()? else { return Ok(None) };
    Ok(Some(End {
        stopped_at: timestamp(stopped_at),
        exit_code: columns.get()?,
        stop_code: columns.word()?,
        reason: columns.get()?,
        settled: columns.get()?,
        elapsed_ns: unsigned(columns.get()?),
        billed_seconds: unsigned(columns.get()?),
        used: Used {
            cpu_ns: columns.get::<Option<i64>>()?.map(unsigned),
            peak_memory_bytes: columns.get::<Option<i64>>()?.map(unsigned),
            bytes_in: columns.get::<Option<i64>>()?.map(unsigned),
            bytes_out: columns.get::<Option<i64>>()?.map(unsigned),
        },
    }))
}

/// The columns of a row, one behind the other.
struct Columns<'a> {
    row: &'a Row<'a>,
    next: usize,
}

impl Columns<'_> {
    fn next(&mut self) -> usize {
        let next = self.next;
        self.next = next.saturating_add(1);
        next
    }

    fn get<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.row.get(self.next())
    }

    /// A column that holds one of some words.
    fn word<T: FromStr<Err: Error + Send + Sync + 'static>>(&mut self) -> rusqlite::Result<T> {
        let index = self.next();
        self.row.get_ref(index)?.as_str()?.parse().map_err(|error| unreadable(index, Box::new(error)))
    }

    fn word_or_null<T: FromStr<Err: Error + Send + Sync + 'static>>(&mut self) -> rusqlite::Result<Option<T>> {
        let index = self.next();
        let word = self.row.get_ref(index)?.as_str_or_null()?;
        word.map(str::parse).transpose().map_err(|error| unreadable(index, Box::new(error)))
    }

    /// A column that holds JSON.
    fn json<T: serde::de::DeserializeOwned>(&mut self) -> rusqlite::Result<T> {
        let index = self.next();
        serde_json::from_str(self.row.get_ref(index)?.as_str()?).map_err(|error| unreadable(index, Box::new(error)))
    }
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
            Some(ns) => {
                let boot_id = row.get_ref("boot_id")?.as_str()?;
                let boot_id = boot_id.parse().map_err(|error| unreadable(0, Box::new(error)))?;
                Some(BootTime { boot_id, ns: unsigned(ns) })
            }
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

fn unreadable(index: usize, error: Box<dyn Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error)
}
