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

/// Which rows a list has. Each in the form that lets SQLite walk the index that has the fewest of them: a condition that a parameter
/// turns off keeps it from choosing, and so does one on another column that has an index (hence the `+`).
const OPEN: &str = "WHERE stopped_at IS NULL AND (:removed OR removed = 0)
    AND +started_at >= :since AND +started_at < :until ORDER BY number";
const ALL: &str = "WHERE (:removed OR removed = 0) AND +started_at >= :since AND +started_at < :until ORDER BY number";
const PERIOD: &str = "WHERE (:removed OR removed = 0) AND started_at >= :since AND started_at < :until ORDER BY number";

/// Ids that start so; `g` is behind all digits.
const PREFIX: &str = "WHERE id BETWEEN :text AND :text || 'g' AND removed = 0";

pub(super) fn list(connection: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Record>> {
    let since = filter.since.map_or(i64::MIN, Timestamp::as_millisecond);
    // A time between two milliseconds is behind the first of them.
    let rounded_up = |time: Timestamp| {
        let milliseconds = time.as_millisecond();
        milliseconds
            .saturating_add(i64::from(Timestamp::from_millisecond(milliseconds).is_ok_and(|whole| whole < time)))
    };
    let until = filter.until.map_or(i64::MAX, rounded_up);
    let parameters: [(&str, &dyn ToSql); 3] = [(":removed", &filter.removed), (":since", &since), (":until", &until)];
    let condition = match (filter.open, filter.since.or(filter.until)) {
        (true, _) => OPEN,
        (false, None) => ALL,
        (false, Some(_)) => PERIOD,
    };
    rows::records(connection, condition, &parameters)
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
    let mut found = records(PREFIX, name_or_id)?;
    match (found.pop(), found.len()) {
        (Some(record), 0) => Ok(record),
        (Some(_), others) => Err(LedgerError::Ambiguous { prefix: name_or_id.into(), count: others.saturating_add(1) }),
        (None, _) => Err(LedgerError::NotFound(name_or_id.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, rows::SELECT};
    use super::*;

    #[test]
    fn what_is_few_is_found_without_looking_at_all() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(home.path()).unwrap();
        let plan = |condition: &str| {
            let sql = format!("EXPLAIN QUERY PLAN {SELECT} {condition}");
            let mut statement = ledger.connection.prepare(&sql).unwrap();
            // The plan is the same whatever is bound.
            statement.raw_query().mapped(|row| row.get::<_, String>(3)).collect::<Result<Vec<_>, _>>().unwrap()
        };
        let walks = |condition: &str, step: &str| {
            let plan = plan(condition);
            assert!(plan.first().is_some_and(|first| first.starts_with(step)), "{condition}: {plan:?}");
        };
        walks(OPEN, "SCAN task USING INDEX task_open");
        walks(PERIOD, "SEARCH task USING INDEX task_started_at");
        walks(PREFIX, "SEARCH task USING INDEX sqlite_autoindex_task_1");
        // In order, so that nothing is to be sorted.
        assert!(plan(ALL).iter().all(|step| !step.contains("ORDER BY")), "{:?}", plan(ALL));
    }
}
