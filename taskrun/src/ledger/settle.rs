//! Settling: the ends of tasks whose supervisors died before they could enter them.
//!
//! A task is settled when its supervisor is gone: its process doesn't exist any more ([`Process::is_alive`]) and nobody
//! holds its heartbeat's lock (a supervisor in another PID namespace does, invisible as it is here). Its end is its last
//! sign of life, a heartbeat or an event; how it ended is known if the last heartbeat says it. Whoever finds such tasks settles them; the ledger takes one end only.

use std::path::Path;

use rusqlite::Connection;

use super::changes::{self, Closing};
use super::clock::{BootId, Moment};
use super::heartbeat::{self, LastWord};
use super::process::Process;
use super::record::{Outcome, Record, Used};
use super::rows;
use super::status::{DesiredStatus, Status, StopCode};

/// The name of the heartbeat in a task's folder.
pub(super) const HEARTBEAT: &str = "heartbeat";

/// A task whose supervisor is gone.
#[derive(Debug)]
struct Orphan {
    id: String,
    /// Its last sign of life.
    at: Moment,
    outcome: Outcome,
}

/// Settles what is to be settled. Writes nothing where nothing is.
pub(super) fn settle(connection: &mut Connection, tasks_folder: &Path, now: Moment) -> rusqlite::Result<Vec<Record>> {
    let orphans = orphans(connection, tasks_folder, now)?;
    if orphans.is_empty() {
        return Ok(Vec::new());
    }
    let transaction = changes::begin(connection)?;
    let mut settled = Vec::new();
    for Orphan { id, at, outcome } in &orphans {
        let closing = Closing { id, outcome, at: *at, settled_at: Some(now) };
        settled.extend(changes::close(&transaction, &closing)?);
    }
    transaction.commit()?;
    Ok(settled)
}

fn orphans(connection: &Connection, tasks_folder: &Path, now: Moment) -> rusqlite::Result<Vec<Orphan>> {
    let open = rows::records(connection, "WHERE stopped_at IS NULL ORDER BY number", &[])?;
    let mut orphans = Vec::new();
    for record in open {
        let path = tasks_folder.join(&record.id).join(HEARTBEAT);
        if record.supervisor.is_some_and(|supervisor| supervisor.is_alive()) || heartbeat::is_held(&path) {
            continue;
        }
        let beat = heartbeat::read(&path);
        let events = rows::events(connection, &record.id)?;
        let signs = events.iter().map(|event| event.at).chain(beat.iter().map(|beat| beat.at));
        let Some(at) = signs.reduce(Moment::latest) else { continue };
        let (used, end) = beat.map_or_else(Default::default, |beat| (beat.used, beat.end));
        let outcome = match end {
            Some(end) => last_word(&end, used),
            None => outcome(&record, reason(record.supervisor, now.boot.map(|boot| boot.boot_id)), used),
        };
        orphans.push(Orphan { id: record.id.clone(), at, outcome });
    }
    Ok(orphans)
}

/// The end of a task whose supervisor came so far, but could not enter it.
fn last_word(end: &LastWord, used: Used) -> Outcome {
    let reason = format!("{}; the task's supervisor could not enter its end in the ledger", end.reason);
    Outcome { exit_code: end.exit_code, stop_code: end.stop_code(), reason, used }
}

fn outcome(record: &Record, reason: String, used: Used) -> Outcome {
    let stop_code = match (record.desired_status, record.status) {
        (DesiredStatus::Stopped, _) => StopCode::UserInitiated,
        (_, Status::Provisioning | Status::Pending | Status::Activating) => StopCode::TaskFailedToStart,
        _ => StopCode::EssentialContainerExited,
    };
    Outcome { exit_code: None, stop_code, reason, used }
}

fn reason(supervisor: Option<Process>, boot_id: Option<BootId>) -> String {
    let cause = match supervisor {
        None => "The task was left open by an earlier version of taskrun".to_owned(),
        Some(process) if Some(process.boot_id) != boot_id => "The host went down while the task ran".to_owned(),
        Some(process) => {
            format!("The task's supervisor (process {}) died before the task's end was entered", process.pid)
        }
    };
    format!("{cause}; its end is its last sign of life")
}
