//! Finding tasks in the ledger.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, ToSql};

use super::LedgerError;
use super::record::Record;
use super::rows;

/// Which tasks. By default all that were not removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Also those that were removed.
    pub removed: bool,
    /// Only those without an end.
    pub open: bool,
    /// Only those that are billed from then on or from later.
    pub since: Option<Timestamp>,
    /// Only those that are billed from before then.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// All that the ledger has.
    #[must_use]
    pub fn everything() -> Self {
        Self { removed: true, ..Self::default() }
    }
}

const LIST: &str = "WHERE (:removed OR removed = 0) AND (NOT :open OR stopped_at IS NULL)
    AND started_at >= :since AND started_at < :until ORDER BY number";

pub(super) fn list(connection: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Record>> {
    let since = filter.since.map_or(i64::MIN, Timestamp::as_millisecond);
    // A time between two milliseconds is behind the first of them.
    let rounded_up = |time: Timestamp| {
        let milliseconds = time.as_millisecond();
        milliseconds
            .saturating_add(i64::from(Timestamp::from_millisecond(milliseconds).is_ok_and(|whole| whole < time)))
    };
    let until = filter.until.map_or(i64::MAX, rounded_up);
    let parameters: [(&str, &dyn ToSql); 4] =
        [(":removed", &filter.removed), (":open", &filter.open), (":since", &since), (":until", &until)];
    rows::records(connection, LIST, &parameters)
}

/// How long tasks took from their admission to their command, in nanoseconds, by the clock that bills.
pub(super) fn start_latencies(connection: &Connection) -> rusqlite::Result<Vec<u64>> {
    let sql = "SELECT max(running.boottime_ns - created.boottime_ns, 0) FROM event running
        JOIN event created ON created.task = running.task AND created.kind = 'PROVISIONING' AND created.boot_id = running.boot_id
        WHERE running.kind = 'RUNNING'";
    let mut statement = connection.prepare(sql)?;
    let latencies = statement.query_map([], |row| row.get(0).map(i64::unsigned_abs))?;
    latencies.collect()
}

pub(super) fn exists(connection: &Connection, id: &str) -> rusqlite::Result<bool> {
    connection.query_row("SELECT 1 FROM task WHERE id = ?1", [id], |_| Ok(())).optional().map(|found| found.is_some())
}

/// A name goes before an id that starts so, and a whole id before a name.
pub(super) fn find(connection: &Connection, name_or_id: &str) -> Result<Record, LedgerError> {
    let records = |condition: &str, text: &str| {
        rows::records(connection, condition, &[(":text", &text)]).map_err(LedgerError::List)
    };
    for condition in ["WHERE id = :text AND removed = 0", "WHERE name = :text AND removed = 0"] {
        if let Some(record) = records(condition, name_or_id)?.pop() {
            return Ok(record);
        }
    }
    let digits = !name_or_id.is_empty() && name_or_id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !digits {
        return Err(LedgerError::NotFound(name_or_id.into()));
    }
    let mut found = records("WHERE id GLOB :text || '*' AND removed = 0", name_or_id)?;
    match (found.pop(), found.len()) {
        (Some(record), 0) => Ok(record),
        (Some(_), others) => Err(LedgerError::Ambiguous { prefix: name_or_id.into(), count: others.saturating_add(1) }),
        (None, _) => Err(LedgerError::NotFound(name_or_id.into())),
    }
}
