//! Ledgers of other versions.

use super::*;

/// A ledger as the first version left it: one task that ended, one that could not start, one without an end.
fn old_ledger(home: &Path) {
    let connection = Connection::open(home.join(FILE_NAME)).unwrap();
    connection.execute_batch(schema::MIGRATIONS[0]).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    let rows = format!(
        "INSERT INTO task (id, image, digest, cpu_units, memory_mib, started_at, stopped_at, exit_code, reason, billed_seconds) VALUES
            ('{:032x}', 'oci:/old', 'sha256:1', 2048, 1024, 1000000, 1061001, 3, 'It ended', 62),
            ('{:032x}', 'oci:/old', 'sha256:1', 256, 512, 2000000, 2000000, 125, 'It failed', 60),
            ('{:032x}', 'oci:/old', 'sha256:1', 256, 512, 3000000, NULL, NULL, NULL, NULL)",
        1, 2, 3
    );
    connection.execute_batch(&rows).unwrap();
}

#[test]
fn what_the_first_version_wrote_is_kept() {
    let home = tempfile::tempdir().unwrap();
    old_ledger(home.path());
    let mut ledger = Ledger::open(home.path()).unwrap();
    let records = ledger.list(&Filter::default()).unwrap();
    let [ended, failed, open] = records.as_slice() else { panic!("{records:?}") };
    let end = ended.end.as_ref().unwrap();
    assert_eq!((ended.cpu_units, ended.memory_mib, ended.storage_mib), (2048, 1024, 0));
    assert_eq!((ended.image.as_str(), ended.digest.as_deref()), ("oci:/old", Some("sha256:1")));
    assert_eq!((end.billed_seconds, end.elapsed_ns, end.exit_code), (62, 61_001_000_000, Some(3)));
    assert_eq!(
        (end.stop_code, end.settled, end.reason.as_str()),
        (StopCode::EssentialContainerExited, false, "It ended")
    );
    assert_eq!(ended.stamps.stopped_at, Some(clock::timestamp(1_061_001)));
    assert_eq!(ended.vcpu_seconds().unwrap().to_string(), "124");
    assert_eq!(failed.end.as_ref().unwrap().stop_code, StopCode::TaskFailedToStart);
    assert_eq!((&open.end, open.started_at), (&None, clock::timestamp(3_000_000)));
    let settled = ledger.settle(&home.path().join(TASKS_FOLDER)).unwrap();
    assert_eq!(settled.len(), 1);
    let end = settled[0].end.as_ref().unwrap();
    assert_eq!((end.billed_seconds, end.settled, end.exit_code), (60, true, None));
    assert_eq!(ledger.verify().unwrap(), (3, vec![]));
    assert!(end.reason.starts_with("The task was left open by an earlier version"), "{}", end.reason);
}

#[test]
fn a_ledger_of_a_newer_taskrun_is_left_alone() {
    let (home, ledger) = open();
    drop(ledger);
    let connection = Connection::open(home.path().join(FILE_NAME)).unwrap();
    connection.pragma_update(None, "user_version", 7).unwrap();
    let error = Ledger::open(home.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Newer { found: 7, known: 3, .. }), "{error}");
}
