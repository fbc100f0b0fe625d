//! Ledgers that somebody wrote in.

use super::*;

/// A ledger with a task that ended, one that was settled and one that runs.
fn ledger() -> (tempfile::TempDir, Ledger) {
    let (home, mut ledger) = open();
    let own = Process::own().unwrap();
    let gone = Process { start_ticks: own.start_ticks + 1, ..own };
    for (id, supervisor) in [(1, own), (2, gone), (3, own)] {
        ledger.admit_at(&NewTask { supervisor, ..task(id) }, moment(1_000, 1_000)).unwrap();
        ledger.reach_at(&task(id).id, Stamp::PullStarted.into(), moment(2_000, 2_000)).unwrap();
        ledger.reach_at(&task(id).id, Status::Running.into(), moment(3_000, 3_000)).unwrap();
    }
    ledger.finish_at(&task(1).id, &outcome(3), moment(90_000, 90_000)).unwrap();
    ledger.settle(home.path()).unwrap();
    (home, ledger)
}

/// What is wrong after somebody without the triggers has made this change; the schema's own problems aside.
fn found(change: &str) -> Vec<String> {
    let (_home, ledger) = ledger();
    let triggers = "SELECT 'DROP TRIGGER ' || name FROM sqlite_schema WHERE type = 'trigger'";
    let drops: Vec<String> = {
        let mut statement = ledger.connection.prepare(triggers).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    drops.iter().for_each(|drop| ledger.connection.execute_batch(drop).unwrap());
    ledger
        .connection
        .execute_batch(&format!("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; {change}"))
        .unwrap();
    let (_, problems) = ledger.verify().unwrap();
    let schema = problems.iter().filter(|problem| matches!(problem, Disagreement::Schema { .. })).count();
    assert_eq!(schema, drops.len(), "{problems:?}");
    let others = problems.iter().filter(|problem| !matches!(problem, Disagreement::Schema { .. }));
    others.map(ToString::to_string).collect()
}

#[test]
fn a_ledger_that_nobody_changed_agrees() {
    let (_home, ledger) = ledger();
    assert_eq!(ledger.verify().unwrap(), (3, vec![]));
    assert_eq!(found(""), [""; 0]);
}

#[test]
fn a_row_that_was_changed_by_hand_is_found() {
    let one = format!("{:032x}", 1);
    for (change, sentence) in [
        ("billed_seconds = 60", format!("The task {one} has billed seconds of 60, but its events say 88")),
        ("elapsed_ns = 5", format!("The task {one} has a duration in ns of 5, but its events say 88000000000")),
        (
            "stopped_at = 1",
            format!("The task {one} has an end at 1970-01-01T00:00:00.001Z, but its events say 1970-01-01T00:01:30Z"),
        ),
        (
            "started_at = 1000",
            format!("The task {one} has a start at 1970-01-01T00:00:01Z, but its events say 1970-01-01T00:00:02Z"),
        ),
        ("settled = 1", format!("The task {one} has settled true, but its events say false")),
        ("status = 'RUNNING'", format!("The task {one} has the status RUNNING, but its events say STOPPED")),
        (
            "exit_code = 0",
            format!(
                "The task {one} has the outcome {{\"exit_code\":0,\"stop_code\":\"EssentialContainerExited\"}}, \
                 but its events say {{\"exit_code\":3,\"stop_code\":\"EssentialContainerExited\"}}"
            ),
        ),
    ] {
        let sentences = found(&format!("UPDATE task SET {change} WHERE id = '{one}'"));
        assert!(sentences.contains(&sentence), "{change}: {sentences:?}");
    }
    for change in ["cpu_units = 128", "memory_mib = 1", "storage_mib = 1", "minimum_seconds = 1"] {
        let sentences = found(&format!("UPDATE task SET {change} WHERE id = '{one}'"));
        assert!(sentences.iter().any(|text| text.contains("an allocation of")), "{change}: {sentences:?}");
    }
}

#[test]
fn an_event_that_was_changed_or_taken_away_is_found() {
    let id = |number: u32| format!("{number:032x}");
    for (change, part) in [
        (
            format!("UPDATE event SET boottime_ns = 1 WHERE kind = 'STOPPED' AND task = '{}'", id(1)),
            "a duration in ns of".to_owned(),
        ),
        (
            format!("DELETE FROM event WHERE kind = 'STOPPED' AND task = '{}'", id(2)),
            format!("The task {} has no event STOPPED", id(2)),
        ),
        (format!("DELETE FROM event WHERE kind = 'settledAt' AND task = '{}'", id(2)), "has settled true".into()),
        (
            format!("DELETE FROM event WHERE task = '{}'", id(3)),
            format!("The task {} has no event PROVISIONING", id(3)),
        ),
        (format!("DELETE FROM task WHERE id = '{}'", id(3)), format!("The task {} has events, but no row", id(3))),
        (
            "UPDATE task SET stopped_at = NULL, status = 'RUNNING'".into(),
            "has an end false, but its events say true".into(),
        ),
    ] {
        let sentences = found(&change);
        assert!(sentences.iter().any(|sentence| sentence.contains(&part)), "{change}: {sentences:?}");
    }
}
