//! The ledger on real files, with other writers.

use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use rusqlite::Connection;

use super::*;

fn task(id: u32) -> NewTask {
    NewTask {
        id: format!("{id:032x}"),
        image: "oci:/image".into(),
        digest: "sha256:0".into(),
        cpu_units: 256,
        memory_mib: 512,
    }
}

fn outcome(exit_code: i32) -> Outcome {
    Outcome { exit_code, reason: "The command ended.".into() }
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap()
}

#[test]
fn a_task_is_there_from_its_admission_on_and_complete_after_its_end() {
    let home = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(home.path()).unwrap();
    let started_at = ledger.admit(&task(1)).unwrap();
    let mut other = Ledger::open(home.path()).unwrap();
    let [open] = <[Record; 1]>::try_from(other.list().unwrap()).unwrap();
    let NewTask { id, image, digest, cpu_units, memory_mib } = task(1);
    assert_eq!(open, Record { id, image, digest, cpu_units, memory_mib, started_at, end: None });
    assert_eq!((open.vcpu_seconds(), open.gb_seconds()), (None, None));
    let finished = other.finish(&open.id, &outcome(42)).unwrap();
    assert_eq!(ledger.list().unwrap(), std::slice::from_ref(&finished));
    let end = finished.end.as_ref().unwrap();
    assert_eq!((end.exit_code, end.billed_seconds, end.reason.as_str()), (42, 60, "The command ended."));
    assert!(end.stopped_at >= started_at);
    assert_eq!(finished.vcpu_seconds().unwrap().to_string(), "15");
    assert_eq!(finished.gb_seconds().unwrap().to_string(), "30");
}

#[test]
fn the_times_decide_what_is_billed() {
    let home = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(home.path()).unwrap();
    for (id, stopped_at, seconds) in [(1, 1_061_001, 62), (2, 1_000_000, 60), (3, 0, 60)] {
        ledger.admit_at(&task(id), at(1_000_000)).unwrap();
        let record = ledger.finish_at(&task(id).id, &outcome(0), at(stopped_at)).unwrap().unwrap();
        assert_eq!(record.end.unwrap().billed_seconds, seconds);
    }
}

#[test]
fn a_task_is_admitted_once_and_ends_once() {
    let home = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(home.path()).unwrap();
    ledger.admit(&task(1)).unwrap();
    assert!(matches!(ledger.admit(&task(1)), Err(LedgerError::Admit { .. })));
    assert!(matches!(ledger.finish(&task(2).id, &outcome(0)), Err(LedgerError::NotOpen { .. })));
    let first = ledger.finish(&task(1).id, &outcome(0)).unwrap();
    assert!(matches!(ledger.finish(&task(1).id, &outcome(9)), Err(LedgerError::NotOpen { .. })));
    assert_eq!(ledger.list().unwrap(), [first]);
}

#[test]
fn the_schema_refuses_what_is_no_task() {
    let home = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(home.path()).unwrap();
    for id in ["", "0123", &"g".repeat(32), &"A".repeat(32), &"0".repeat(33)] {
        assert!(ledger.admit(&NewTask { id: id.into(), ..task(1) }).is_err(), "{id}");
    }
    assert!(ledger.admit(&NewTask { cpu_units: 0, ..task(1) }).is_err());
    assert!(ledger.admit(&NewTask { memory_mib: 0, ..task(1) }).is_err());
    ledger.admit(&task(1)).unwrap();
    for change in ["stopped_at = started_at", "exit_code = 1", "billed_seconds = 59", "reason = 'x'", "started_at = -1"]
    {
        assert!(ledger.connection.execute(&format!("UPDATE task SET {change}"), []).is_err(), "{change}");
    }
    ledger.finish(&task(1).id, &outcome(0)).unwrap();
    let rewritten = ledger.connection.execute("UPDATE task SET exit_code = 1", []).unwrap_err();
    assert!(rewritten.to_string().contains("has an end already"), "{rewritten}");
}

#[test]
fn other_readers_find_the_sums_in_the_file() {
    let home = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(home.path()).unwrap();
    for id in 1..=3 {
        ledger.admit(&NewTask { cpu_units: 1024 * id, ..task(id) }).unwrap();
    }
    ledger.finish(&task(1).id, &outcome(0)).unwrap();
    ledger.finish(&task(2).id, &outcome(0)).unwrap();
    let reader = Connection::open(home.path().join(FILE_NAME)).unwrap();
    let sums = reader.query_row("SELECT sum(vcpu_seconds), sum(gb_seconds), count(*) FROM task", [], |row| {
        Ok((row.get::<_, f64>(0)?, row.get::<_, f64>(1)?, row.get::<_, u32>(2)?))
    });
    assert_eq!(sums.unwrap(), (180.0, 60.0, 3));
}

#[test]
fn a_new_ledger_opened_by_many_at_once_loses_nothing() {
    const WRITERS: u32 = 12;
    const TASKS: u32 = 8;
    let home = tempfile::tempdir().unwrap();
    let home = home.path().join("new/home");
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let home = &home;
            scope.spawn(move || {
                for number in 0..TASKS {
                    let id = writer * TASKS + number;
                    let mut ledger = Ledger::open(home).unwrap();
                    ledger.admit(&task(id)).unwrap();
                    drop(ledger);
                    if number % 4 != 3 {
                        Ledger::open(home).unwrap().finish(&task(id).id, &outcome(0)).unwrap();
                    }
                }
            });
        }
    });
    let records = Ledger::open(&home).unwrap().list().unwrap();
    assert_eq!(records.len(), usize::try_from(WRITERS * TASKS).unwrap());
    let open = records.iter().filter(|record| record.end.is_none()).count();
    assert_eq!(open, usize::try_from(WRITERS * TASKS / 4).unwrap());
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
fn a_ledger_of_a_newer_taskrun_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    drop(Ledger::open(home.path()).unwrap());
    let connection = Connection::open(home.path().join(FILE_NAME)).unwrap();
    connection.pragma_update(None, "user_version", 7).unwrap();
    let error = Ledger::open(home.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Newer { found: 7, known: 1, .. }), "{error}");
}

#[test]
fn a_file_that_is_no_ledger_is_named() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(FILE_NAME), "this is no database, but it is long enough to be one ".repeat(40))
        .unwrap();
    let error = Ledger::open(home.path()).unwrap_err();
    assert!(error.to_string().contains(home.path().to_str().unwrap()), "{error}");
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(Ledger::open(&file), Err(LedgerError::Directory { .. })));
}
