//! Verifying: recomputing every row of the ledger from its events.
//!
//! The schema keeps a ledger from disagreeing with itself, as long as all that writes to it goes through the schema. A
//! person with a SQLite shell can drop a trigger and write what they like; this finds the rows that don't follow from
//! their events any more, and a schema that is not this program's.

use rusqlite::{Connection, OptionalExtension as _};

use super::changes::{StopDetail, admission_detail, billed_from};
use super::record::{End, Record};
use super::rows::{self, EventRow};
use super::schema;
use super::status::{Event, Stamp, Status};

/// What is wrong with the ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// A row says something else than its events.
    #[error("The task {id} has {field} {found}, but its events say {expected}")]
    Field {
        /// The task.
        id: String,
        /// What disagrees.
        field: &'static str,
        /// What the row says.
        found: String,
        /// What the events say.
        expected: String,
    },
    /// An event is missing.
    #[error("The task {id} has no event {kind}")]
    Missing {
        /// The task.
        id: String,
        /// The event.
        kind: &'static str,
    },
    /// Events of a task that isn't there.
    #[error("The task {0} has events, but no row")]
    Orphan(String),
    /// A table or trigger is not as this program makes it.
    #[error("The {kind} {name} of the ledger was changed or taken away")]
    Schema {
        /// What it is.
        kind: String,
        /// Its name.
        name: String,
    },
    /// SQLite itself finds the file damaged; its words.
    #[error("The ledger's file is damaged: {0}")]
    Damaged(String),
}

/// Checks all of it. Returns how many tasks were checked, and what is wrong.
pub(super) fn verify(connection: &Connection) -> rusqlite::Result<(usize, Vec<Disagreement>)> {
    let damage: String = connection.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    let mut problems: Vec<_> = (damage != "ok").then_some(Disagreement::Damaged(damage)).into_iter().collect();
    schema_problems(connection, &mut problems)?;
    let orphans = "SELECT DISTINCT task FROM event WHERE task NOT IN (SELECT id FROM task)";
    let mut statement = connection.prepare(orphans)?;
    for id in statement.query_map([], |row| row.get(0))? {
        problems.push(Disagreement::Orphan(id?));
    }
    let records = rows::records(connection, "ORDER BY number", &[])?;
    for record in &records {
        let mut check = Check { record, events: rows::events(connection, &record.id)?, problems: &mut problems };
        check.row();
    }
    Ok((records.len(), problems))
}

/// Compares the schema with that of a new ledger.
fn schema_problems(connection: &Connection, problems: &mut Vec<Disagreement>) -> rusqlite::Result<()> {
    let new = Connection::open_in_memory()?;
    schema::MIGRATIONS.iter().try_for_each(|migration| new.execute_batch(migration))?;
    let mut statement =
        new.prepare("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name")?;
    let entries = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for entry in entries {
        let (kind, name, sql): (String, String, String) = entry?;
        let find = "SELECT sql FROM sqlite_schema WHERE type = ?1 AND name = ?2";
        let found: Option<Option<String>> = connection.query_row(find, [&kind, &name], |row| row.get(0)).optional()?;
        if found.flatten().as_deref() != Some(sql.as_str()) {
            problems.push(Disagreement::Schema { kind, name });
        }
    }
    Ok(())
}

/// The check of one row.
struct Check<'a> {
    record: &'a Record,
    events: Vec<EventRow>,
    problems: &'a mut Vec<Disagreement>,
}

impl Check<'_> {
    fn row(&mut self) {
        let Some(created) = self.event(Status::Provisioning) else { return };
        let record = self.record;
        let Record { cpu_units, memory_mib, storage_mib, rules, .. } = *record;
        let admitted = admission_detail(cpu_units, memory_mib, storage_mib, rules);
        self.compare("an allocation of", &admitted, &created.detail.unwrap_or_default());
        if let Some(start) = billed_from(&self.events) {
            self.compare("a start at", &record.started_at, &start.wall);
        }
        self.status();
        match &record.end {
            Some(end) => self.end(end),
            None => self.compare("an end", &false, &self.has(Status::Stopped)),
        }
    }

    /// The status is the last that was reached.
    fn status(&mut self) {
        let reached = Status::ALL.iter().copied().filter(|status| self.has(*status)).max();
        let record = self.record;
        self.compare("the status", &record.status, &reached.unwrap_or(Status::Provisioning));
    }

    fn end(&mut self, end: &End) {
        let Some(stopped) = self.event(Status::Stopped) else { return };
        self.compare("an end at", &end.stopped_at, &stopped.at.wall);
        let StopDetail(outcome) = StopDetail::new(end.exit_code, end.stop_code);
        self.compare("the outcome", &outcome, &stopped.detail.unwrap_or_default());
        let settled = self.has(Stamp::Settled);
        self.compare("settled", &end.settled, &settled);
        let Some(start) = billed_from(&self.events) else { return };
        let elapsed_ns = start.until(&stopped.at).min(i64::MAX.unsigned_abs());
        self.compare("a duration in ns of", &end.elapsed_ns, &elapsed_ns);
        let billed = self.record.rules.billed_seconds(elapsed_ns);
        self.compare("billed seconds of", &end.billed_seconds, &billed);
    }

    fn has(&self, event: impl Into<Event>) -> bool {
        let kind = event.into().as_str();
        self.events.iter().any(|event| event.kind == kind)
    }

    /// The event, or a problem.
    fn event(&mut self, event: impl Into<Event>) -> Option<EventRow> {
        let kind = event.into().as_str();
        let found = self.events.iter().find(|event| event.kind == kind).cloned();
        if found.is_none() {
            self.problems.push(Disagreement::Missing { id: self.record.id.clone(), kind });
        }
        found
    }

    fn compare<T: PartialEq + ToString>(&mut self, field: &'static str, found: &T, expected: &T) {
        if found != expected {
            let (found, expected) = (found.to_string(), expected.to_string());
            self.problems.push(Disagreement::Field { id: self.record.id.clone(), field, found, expected });
        }
    }
}
