//! The changes that the ledger knows. Each is one transaction that takes the lock for writing first, so that none of two
//! writers has to give up halfway.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, named_params, params};
use serde_json::json;

use super::billing::Rules;
use super::clock::Moment;
use super::record::{NewTask, Outcome, Record};
use super::rows::{self, EventRow, signed};
use super::status::{DesiredStatus, Event, Stamp, Status, StopCode};

/// What became of an admission.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// The ledger has the task.
    Yes,
    /// This task has the name.
    NameTaken(String),
}

/// Begins a change.
pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

const ADMIT: &str = "INSERT INTO task (id, name, image, cpu_units, memory_mib, storage_mib, labels, detached, supervisor_pid,
        supervisor_start, supervisor_boot, rounding_seconds, minimum_seconds, status, desired_status, started_at)
    VALUES (:id, :name, :image, :cpu_units, :memory_mib, :storage_mib, :labels, :detached, :supervisor_pid,
        :supervisor_start, :supervisor_boot, :rounding_seconds, :minimum_seconds, 'PROVISIONING', 'RUNNING', :started_at)";

/// Enters a task.
pub(super) fn admit(
    connection: &mut Connection,
    task: &NewTask,
    rules: Rules,
    now: Moment,
) -> rusqlite::Result<Admitted> {
    let transaction = begin(connection)?;
    if let Some(name) = &task.name {
        let holder = "SELECT id FROM task WHERE name = ?1 AND removed = 0";
        if let Some(id) = transaction.query_row(holder, [name], |row| row.get(0)).optional()? {
            return Ok(Admitted::NameTaken(id));
        }
    }
    let parameters = named_params! {
        ":id": task.id,
        ":name": task.name,
        ":image": task.image,
        ":cpu_units": task.cpu_units,
        ":memory_mib": task.memory_mib,
        ":storage_mib": signed(task.storage_mib),
        ":labels": json!(task.labels).to_string(),
        ":detached": task.detached,
        ":supervisor_pid": task.supervisor.pid,
        ":supervisor_start": signed(task.supervisor.start_ticks),
        ":supervisor_boot": task.supervisor.boot_id.to_string(),
        ":rounding_seconds": rules.rounding_seconds.get(),
        ":minimum_seconds": rules.minimum_seconds,
        ":started_at": now.wall.as_millisecond(),
    };
    transaction.execute(ADMIT, parameters)?;
    let detail = admission_detail(task.cpu_units, task.memory_mib, task.storage_mib, rules);
    insert_event(&transaction, &task.id, Status::Provisioning.into(), now, Some(&detail))?;
    transaction.commit()?;
    Ok(Admitted::Yes)
}

/// Enters what happened to a task, the first time it does. `false` when the task is not open.
pub(super) fn reach(connection: &mut Connection, id: &str, event: Event, now: Moment) -> rusqlite::Result<bool> {
    let transaction = begin(connection)?;
    let open = "SELECT status FROM task WHERE id = ?1 AND stopped_at IS NULL";
    let status: Option<String> = transaction.query_row(open, [id], |row| row.get(0)).optional()?;
    let Some(status) = status else { return Ok(false) };
    match event {
        Event::Status(next) => {
            if status.parse::<Status>().is_ok_and(|status| next <= status) {
                return Ok(true);
            }
            insert_event(&transaction, id, event, now, None)?;
            transaction.execute("UPDATE task SET status = ?2 WHERE id = ?1", params![id, next.as_str()])?;
        }
        Event::Stamp(stamp) => {
            let first = insert_event(&transaction, id, event, now, None)?;
            if first && stamp == Stamp::PullStarted {
                let started_at = now.wall.as_millisecond();
                transaction.execute("UPDATE task SET started_at = ?2 WHERE id = ?1", params![id, started_at])?;
            }
        }
    }
    transaction.commit()?;
    Ok(true)
}

/// Says which image it is. `false` when the task is not open.
pub(super) fn image(connection: &Connection, id: &str, digest: &str) -> rusqlite::Result<bool> {
    let sql = "UPDATE task SET digest = ?2 WHERE id = ?1 AND stopped_at IS NULL";
    connection.execute(sql, [id, digest]).map(|rows| rows > 0)
}

/// Says who holds it to its share of processors. `false` when the task is not open.
pub(super) fn enforcement(connection: &Connection, id: &str, enforcement: &str) -> rusqlite::Result<bool> {
    let sql = "UPDATE task SET cpu_enforcement = ?2 WHERE id = ?1 AND stopped_at IS NULL";
    connection.execute(sql, [id, enforcement]).map(|rows| rows > 0)
}

/// Says what is wanted of it. `false` when the task is not open.
pub(super) fn desire(connection: &Connection, id: &str, desired: DesiredStatus) -> rusqlite::Result<bool> {
    let sql = "UPDATE task SET desired_status = ?2 WHERE id = ?1 AND stopped_at IS NULL";
    connection.execute(sql, [id, desired.as_str()]).map(|rows| rows > 0)
}

/// Hides a task that has ended. `false` when there is none.
pub(super) fn remove(connection: &Connection, id: &str) -> rusqlite::Result<bool> {
    let sql = "UPDATE task SET removed = 1 WHERE id = ?1 AND stopped_at IS NOT NULL";
    connection.execute(sql, [id]).map(|rows| rows > 0)
}

/// The end of a task, about to be entered.
#[derive(Debug)]
pub(super) struct Closing<'a> {
    pub(super) id: &'a str,
    pub(super) outcome: &'a Outcome,
    /// When it ended.
    pub(super) at: Moment,
    /// When somebody else than its supervisor entered that.
    pub(super) settled_at: Option<Moment>,
}

const CLOSE: &str = "UPDATE task SET status = 'STOPPED', desired_status = 'STOPPED', stopped_at = :stopped_at, exit_code = :exit_code,
        stop_code = :stop_code, reason = :reason, settled = :settled, elapsed_ns = :elapsed_ns, billed_seconds = :billed_seconds,
        cpu_ns = :cpu_ns, peak_memory_bytes = :peak_memory_bytes, bytes_in = :bytes_in, bytes_out = :bytes_out
    WHERE id = :id AND stopped_at IS NULL";

/// Enters the end of a task. Gives the completed row; nothing when the task is not open: an end is entered once.
pub(super) fn close(transaction: &Transaction<'_>, closing: &Closing<'_>) -> rusqlite::Result<Option<Record>> {
    let id = closing.id;
    let find = |condition: &str| {
        transaction.query_row(&format!("{} WHERE id = ?1 {condition}", rows::SELECT), [id], rows::record).optional()
    };
    let Some(open) = find("AND stopped_at IS NULL")? else { return Ok(None) };
    let Some(start) = billed_from(&rows::events(transaction, id)?) else { return Ok(None) };
    // Not more than the ledger can hold, so that what is billed follows from what is written.
    let elapsed_ns = start.until(&closing.at).min(signed(u64::MAX).unsigned_abs());
    let outcome = closing.outcome;
    let StopDetail(detail) = StopDetail::new(outcome.exit_code, outcome.stop_code);
    insert_event(transaction, id, Status::Stopped.into(), closing.at, Some(&detail))?;
    if let Some(at) = closing.settled_at {
        insert_event(transaction, id, Stamp::Settled.into(), at, None)?;
    }
    let parameters = named_params! {
        ":id": id,
        ":stopped_at": closing.at.wall.as_millisecond(),
        ":exit_code": outcome.exit_code,
        ":stop_code": outcome.stop_code.as_str(),
        ":reason": outcome.reason,
        ":settled": closing.settled_at.is_some(),
        ":elapsed_ns": signed(elapsed_ns),
        ":billed_seconds": signed(open.rules.billed_seconds(elapsed_ns)),
        ":cpu_ns": outcome.used.cpu_ns.map(signed),
        ":peak_memory_bytes": outcome.used.peak_memory_bytes.map(signed),
        ":bytes_in": outcome.used.bytes_in.map(signed),
        ":bytes_out": outcome.used.bytes_out.map(signed),
    };
    transaction.execute(CLOSE, parameters)?;
    find("")
}

/// What the event of an admission fixes: what the bill follows from, so that it can be verified.
pub(super) fn admission_detail(cpu_units: u32, memory_mib: u32, storage_mib: u64, rules: Rules) -> String {
    json!({
        "cpu_units": cpu_units, "memory_mib": memory_mib, "storage_mib": storage_mib,
        "rounding_seconds": rules.rounding_seconds, "minimum_seconds": rules.minimum_seconds,
    })
    .to_string()
}

/// What the event of an end fixes.
pub(super) struct StopDetail(pub(super) String);

impl StopDetail {
    pub(super) fn new(exit_code: Option<i32>, stop_code: StopCode) -> Self {
        Self(json!({ "exit_code": exit_code, "stop_code": stop_code }).to_string())
    }
}

/// From when on a task is billed: from the start of the pull, or from its admission when it did not come that far.
pub(super) fn billed_from(events: &[EventRow]) -> Option<Moment> {
    let at = |kind: Event| events.iter().find(|event| event.kind == kind.as_str()).map(|event| event.at);
    at(Stamp::PullStarted.into()).or_else(|| at(Status::Provisioning.into()))
}

/// Enters an event, unless it is there. Whether it was not.
fn insert_event(
    transaction: &Transaction<'_>,
    id: &str,
    event: Event,
    at: Moment,
    detail: Option<&str>,
) -> rusqlite::Result<bool> {
    let sql = "INSERT INTO event (task, kind, wall_ms, boottime_ns, boot_id, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
        ON CONFLICT (task, kind) DO NOTHING";
    let boot_id = at.boot.map(|boot| boot.boot_id.to_string());
    let boottime_ns = at.boot.map(|boot| signed(boot.ns));
    let inserted = transaction
        .execute(sql, params![id, event.as_str(), at.wall.as_millisecond(), boottime_ns, boot_id, detail])?;
    Ok(inserted > 0)
}
