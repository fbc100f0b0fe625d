//! The ledger on real files.

mod many;
mod migration;
mod properties;
mod settling;
mod verifying;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use jiff::Timestamp;

use super::clock::{BootId, BootTime};
use super::*;

pub(super) fn task(id: u32) -> NewTask {
    NewTask {
        id: format!("{id:032x}"),
        name: None,
        image: "oci:/image".into(),
        cpu_units: 256,
        memory_mib: 512,
        storage_mib: 0,
        labels: BTreeMap::new(),
        detached: false,
        supervisor: Process::own().unwrap(),
    }
}

pub(super) fn outcome(exit_code: i32) -> Outcome {
    Outcome {
        exit_code: Some(exit_code),
        stop_code: StopCode::EssentialContainerExited,
        reason: "The command ended.".into(),
        used: Used::default(),
    }
}

/// A moment of some boot: what the wall clock showed, and milliseconds since the boot.
pub(super) fn moment(wall_ms: i64, boottime_ms: u64) -> Moment {
    let boot = BootTime { boot_id: BootId::from_bytes([9; 16]), ns: boottime_ms * 1_000_000 };
    Moment { wall: clock::timestamp(wall_ms), boot: Some(boot) }
}

fn open() -> (tempfile::TempDir, Ledger) {
    let home = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(home.path()).unwrap();
    (home, ledger)
}

#[test]
fn a_task_is_there_from_its_admission_on_and_complete_after_its_end() {
    let (home, mut ledger) = open();
    let labels = BTreeMap::from([("team".to_owned(), "a \"b\"".to_owned())]);
    let new = NewTask { name: Some("web".into()), labels, detached: true, storage_mib: 20_480, ..task(1) };
    let admission = ledger.admit(&new).unwrap();
    let mut other = Ledger::open(home.path()).unwrap();
    let [open] = <[Record; 1]>::try_from(other.list(&Filter::default()).unwrap()).unwrap();
    let NewTask { id, name, image, cpu_units, memory_mib, storage_mib, labels, detached, supervisor } = new;
    let expected = Record {
        id,
        name,
        image,
        digest: None,
        cpu_units,
        memory_mib,
        storage_mib,
        labels,
        detached,
        supervisor: Some(supervisor),
        rules: Rules::default(),
        cpu_enforcement: None,
        status: Status::Provisioning,
        desired_status: DesiredStatus::Running,
        started_at: admission.created_at,
        stamps: Stamps { created_at: Some(admission.created_at), ..Stamps::default() },
        end: None,
        removed: false,
    };
    assert_eq!(open, expected);
    assert_eq!((open.vcpu_seconds(), open.gb_seconds()), (None, None));
    other.image(&open.id, "sha256:0").unwrap();
    let used = Used { cpu_ns: Some(5), peak_memory_bytes: Some(u64::MAX), bytes_in: None, bytes_out: Some(0) };
    let finished = other.finish(&open.id, &Outcome { used, ..outcome(42) }).unwrap();
    assert_eq!(ledger.list(&Filter::default()).unwrap(), std::slice::from_ref(&finished));
    let end = finished.end.as_ref().unwrap();
    assert_eq!((end.exit_code, end.billed_seconds, end.reason.as_str()), (Some(42), 60, "The command ended."));
    assert_eq!((end.stop_code, end.settled), (StopCode::EssentialContainerExited, false));
    assert_eq!(end.used, Used { peak_memory_bytes: Some(i64::MAX as u64), ..used });
    assert_eq!((finished.status, finished.desired_status), (Status::Stopped, DesiredStatus::Stopped));
    assert_eq!(finished.digest.as_deref(), Some("sha256:0"));
    assert_eq!(finished.stamps.stopped_at, Some(end.stopped_at));
    assert_eq!(finished.vcpu_seconds().unwrap().to_string(), "15");
    assert_eq!(finished.gb_seconds().unwrap().to_string(), "30");
    assert_eq!(finished.storage_gb_seconds().unwrap().to_string(), "1200");
}

#[test]
fn the_clock_that_nobody_can_set_decides_what_is_billed() {
    let (_home, mut ledger) = open();
    for (id, wall_ms, boottime_ms, seconds) in [
        (1, 1_061_001, 61_001, 62),
        (2, 0, 61_001, 62),
        (3, 9_999_999_999_999, 61_001, 62),
        (4, 1_000_000, 60_000, 60),
        (5, 1_000_000, 0, 60),
    ] {
        ledger.admit_at(&task(id), moment(1_000_000, 0)).unwrap();
        let end = ledger.finish_at(&task(id).id, &outcome(0), moment(wall_ms, boottime_ms)).unwrap().end.unwrap();
        assert_eq!((end.billed_seconds, end.elapsed_ns), (seconds, boottime_ms * 1_000_000), "task {id}");
        assert_eq!(end.stopped_at, clock::timestamp(wall_ms));
    }
}

#[test]
fn a_task_is_billed_from_the_start_of_its_pull_on() {
    let (_home, mut ledger) = open();
    ledger.admit_at(&task(1), moment(0, 0)).unwrap();
    let id = task(1).id;
    ledger.reach_at(&id, Status::Pending.into(), moment(10_000, 10_000)).unwrap();
    ledger.reach_at(&id, Stamp::PullStarted.into(), moment(30_000, 30_000)).unwrap();
    ledger.reach_at(&id, Stamp::PullStarted.into(), moment(90_000, 90_000)).unwrap();
    ledger.reach_at(&id, Stamp::PullStopped.into(), moment(80_000, 80_000)).unwrap();
    let record = ledger.finish_at(&id, &outcome(0), moment(100_500, 100_500)).unwrap();
    assert_eq!(record.started_at, clock::timestamp(30_000));
    assert_eq!(record.end.unwrap().billed_seconds, 71);
}

#[test]
fn a_task_goes_through_its_statuses_forward_and_once() {
    let (_home, mut ledger) = open();
    let id = task(1).id;
    ledger.admit_at(&task(1), moment(0, 0)).unwrap();
    let steps: [(Event, i64); 7] = [
        (Stamp::PullStarted.into(), 1),
        (Stamp::PullStopped.into(), 2),
        (Status::Running.into(), 3),
        (Status::Pending.into(), 4),
        (Status::Running.into(), 5),
        (Stamp::ExecutionStopped.into(), 6),
        (Status::Stopping.into(), 7),
    ];
    for (event, ms) in steps {
        ledger.reach_at(&id, event, moment(ms, ms.unsigned_abs())).unwrap();
    }
    ledger.desire(&id, DesiredStatus::Stopped).unwrap();
    let record = ledger.find(&id).unwrap();
    let at = |ms| Some(clock::timestamp(ms));
    let stamps = Stamps {
        created_at: at(0),
        pull_started_at: at(1),
        pull_stopped_at: at(2),
        started_at: at(3),
        execution_stopped_at: at(6),
        stopping_at: at(7),
        stopped_at: None,
        settled_at: None,
    };
    assert_eq!((record.stamps, record.status), (stamps, Status::Stopping));
    assert_eq!(record.desired_status, DesiredStatus::Stopped);
    let kinds: Vec<_> = rows::events(&ledger.connection, &id).unwrap().into_iter().map(|event| event.kind).collect();
    assert!(!kinds.contains(&"PENDING".to_owned()), "it was passed: {kinds:?}");
    assert!(matches!(ledger.reach(&id, Status::Stopped), Err(LedgerError::OnlyFinish { .. })));
    ledger.finish(&id, &outcome(0)).unwrap();
    for event in [Event::from(Status::Stopping), Stamp::PullStarted.into()] {
        assert!(matches!(ledger.reach(&id, event), Err(LedgerError::NotOpen { .. })));
    }
    assert!(matches!(ledger.reach(&task(2).id, Status::Running), Err(LedgerError::NotOpen { .. })));
}

#[test]
fn a_task_is_admitted_once_and_ends_once() {
    let (_home, mut ledger) = open();
    ledger.admit(&task(1)).unwrap();
    assert!(matches!(ledger.admit(&task(1)), Err(LedgerError::Admit { .. })));
    assert!(matches!(ledger.finish(&task(2).id, &outcome(0)), Err(LedgerError::NotOpen { .. })));
    let first = ledger.finish(&task(1).id, &outcome(0)).unwrap();
    assert!(matches!(ledger.finish(&task(1).id, &outcome(9)), Err(LedgerError::NotOpen { .. })));
    assert_eq!(ledger.list(&Filter::default()).unwrap(), [first]);
}

#[test]
fn a_name_is_one_tasks_until_that_is_removed() {
    let (_home, mut ledger) = open();
    let named = |id| NewTask { name: Some("web".into()), ..task(id) };
    ledger.admit(&named(1)).unwrap();
    let error = ledger.admit(&named(2)).unwrap_err();
    assert!(matches!(&error, LedgerError::NameTaken { id, .. } if *id == task(1).id), "{error}");
    assert!(matches!(ledger.remove(&task(1).id), Err(LedgerError::StillOpen { .. })));
    ledger.finish(&task(1).id, &outcome(0)).unwrap();
    assert!(ledger.admit(&named(2)).is_err(), "a task that has ended keeps its name");
    ledger.remove(&task(1).id).unwrap();
    ledger.remove(&task(1).id).unwrap();
    ledger.admit(&named(2)).unwrap();
    assert_eq!(ledger.find("web").unwrap().id, task(2).id);
    assert_eq!(ledger.list(&Filter::default()).unwrap().len(), 1);
    assert_eq!(ledger.list(&Filter::everything()).unwrap().len(), 2, "its row stays");
    assert!(matches!(ledger.find(&task(1).id), Err(LedgerError::NotFound(_))));
    assert!(matches!(ledger.remove(&task(9).id), Err(LedgerError::NotFound(_))));
}

#[test]
fn a_task_is_found_by_its_name_its_id_or_the_start_of_that() {
    let (_home, mut ledger) = open();
    let id = |digits: &str| format!("{digits:0<32}");
    for (digits, name) in [("abc1", None), ("abc2", Some("def")), ("def0", Some("abc2"))] {
        ledger.admit(&NewTask { id: id(digits), name: name.map(Into::into), ..task(0) }).unwrap();
    }
    let found = |text: &str| ledger.find(text).map(|record| record.id);
    assert_eq!(found("abc1").unwrap(), id("abc1"));
    assert_eq!(found(&id("abc2")).unwrap(), id("abc2"));
    assert_eq!(found("abc2").unwrap(), id("def0"), "a name goes before the start of an id");
    assert_eq!(found("def").unwrap(), id("abc2"));
    assert!(matches!(found("abc"), Err(LedgerError::Ambiguous { count: 2, .. })));
    for unknown in ["", "9", "*", "abc1*", "web", "ABC1"] {
        assert!(matches!(found(unknown), Err(LedgerError::NotFound(_))), "{unknown:?}");
    }
}

#[test]
fn tasks_are_listed_by_when_they_are_billed_from() {
    let (_home, mut ledger) = open();
    for (id, ms) in [(1, 1000), (2, 2000), (3, 3000)] {
        ledger.admit_at(&task(id), moment(ms, 0)).unwrap();
    }
    ledger.finish(&task(2).id, &outcome(0)).unwrap();
    let count = |filter: Filter| ledger.list(&filter).unwrap().len();
    let at = |ns| Some(Timestamp::from_nanosecond(ns).unwrap());
    assert_eq!(count(Filter { since: at(2_000_000_000), ..Filter::default() }), 2);
    assert_eq!(count(Filter { until: at(2_000_000_000), ..Filter::default() }), 1);
    assert_eq!(count(Filter { until: at(2_000_000_001), ..Filter::default() }), 2);
    assert_eq!(count(Filter { open: true, ..Filter::default() }), 2);
}

#[test]
fn the_schema_refuses_what_is_no_task_and_keeps_what_was_written() {
    let (_home, mut ledger) = open();
    for id in ["", "0123", &"g".repeat(32), &"A".repeat(32), &"0".repeat(33)] {
        assert!(ledger.admit(&NewTask { id: id.into(), ..task(1) }).is_err(), "{id}");
    }
    assert!(ledger.admit(&NewTask { cpu_units: 0, ..task(1) }).is_err());
    assert!(ledger.admit(&NewTask { memory_mib: 0, ..task(1) }).is_err());
    assert!(ledger.admit(&NewTask { name: Some(String::new()), ..task(1) }).is_err());
    ledger.admit(&task(1)).unwrap();
    ledger.reach(&task(1).id, Status::Running).unwrap();
    let refused = |ledger: &Ledger, sql: &str| {
        assert!(ledger.connection.execute(sql, []).is_err(), "{sql}");
    };
    for change in [
        "stopped_at = started_at",
        "exit_code = 1",
        "billed_seconds = 60",
        "reason = 'x'",
        "started_at = -1",
        "cpu_units = 1",
        "memory_mib = 1",
        "storage_mib = 1",
        "minimum_seconds = 0",
        "status = 'PENDING'",
        "status = 'x'",
        "removed = 1",
        "id = 'x'",
        "labels = '[]'",
    ] {
        refused(&ledger, &format!("UPDATE task SET {change}"));
    }
    // All of an end, but billed less than follows from its duration.
    refused(
        &ledger,
        "UPDATE task SET status = 'STOPPED', stopped_at = 1, stop_code = 'UserInitiated', reason = 'x', settled = 0,
        elapsed_ns = 61000000001, billed_seconds = 61",
    );
    ledger.finish(&task(1).id, &outcome(0)).unwrap();
    for sql in [
        "UPDATE task SET exit_code = 1",
        "UPDATE task SET cpu_ns = 1",
        "DELETE FROM task",
        "DELETE FROM event",
        "UPDATE event SET wall_ms = 1",
        "INSERT INTO event (task, kind, wall_ms) SELECT id, 'PENDING', 1 FROM task",
        "INSERT OR REPLACE INTO event (task, kind, wall_ms) SELECT id, 'RUNNING', 1 FROM task",
    ] {
        refused(&ledger, sql);
    }
    let rewritten = ledger.connection.execute("UPDATE task SET exit_code = 1", []).unwrap_err();
    assert!(rewritten.to_string().contains("has an end already"), "{rewritten}");
}

#[test]
fn other_readers_find_the_sums_in_the_file() {
    let (home, mut ledger) = open();
    for id in 1..=3 {
        ledger.admit(&NewTask { cpu_units: 1024 * id, storage_mib: 2048, ..task(id) }).unwrap();
    }
    ledger.finish(&task(1).id, &outcome(0)).unwrap();
    ledger.finish(&task(2).id, &outcome(0)).unwrap();
    let reader = Connection::open(home.path().join(FILE_NAME)).unwrap();
    let sql = "SELECT sum(vcpu_seconds), sum(gb_seconds), sum(cpu_unit_seconds), sum(memory_mib_seconds), sum(storage_mib_seconds),
        count(*) FROM task";
    let sums = reader.query_row(sql, [], |row| {
        Ok((
            row.get::<_, f64>(0)?,
            row.get::<_, f64>(1)?,
            [row.get::<_, i64>(2)?, row.get(3)?, row.get(4)?, row.get(5)?],
        ))
    });
    assert_eq!(sums.unwrap(), (180.0, 60.0, [184_320, 61_440, 245_760, 3]));
}

#[test]
fn the_configuration_says_how_the_time_of_new_tasks_is_counted() {
    let (home, mut ledger) = open();
    ledger.admit_at(&task(1), moment(0, 0)).unwrap();
    let config = home.path().join("config.toml");
    fs::write(&config, "[billing]\nrounding_seconds = 10\nminimum_seconds = 0\n").unwrap();
    let mut ledger = Ledger::open(home.path()).unwrap();
    ledger.admit_at(&task(2), moment(0, 0)).unwrap();
    for (id, seconds) in [(1, 60), (2, 10)] {
        let record = ledger.finish_at(&task(id).id, &outcome(0), moment(0, 1)).unwrap();
        assert_eq!(record.end.unwrap().billed_seconds, seconds, "what was agreed at its admission");
    }
    fs::write(&config, "[billing]\nrounding_seconds = 0\n").unwrap();
    assert!(matches!(Ledger::open(home.path()), Err(LedgerError::Config(_))));
}

#[test]
fn nothing_is_made_to_look_at_a_ledger_that_is_not_there() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().join("home");
    assert!(Ledger::open_existing(&home).unwrap().is_none());
    assert!(!home.exists());
    Ledger::open(&home).unwrap();
    assert!(Ledger::open_existing(&home).unwrap().is_some());
    assert_eq!(home.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_file_that_is_no_ledger_is_named() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(FILE_NAME), "this is no database, but it is long enough to be one ".repeat(40)).unwrap();
    let error = Ledger::open(home.path()).unwrap_err();
    assert!(error.to_string().contains(home.path().to_str().unwrap()), "{error}");
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Ledger::open(&file).is_err());
}
