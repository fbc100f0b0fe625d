//! `taskrun usage` and `taskrun metrics` as their users meet them: the program, on a ledger that this test has filled. No KVM is
//! needed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "the tests' own tools")]
#![expect(clippy::unwrap_used, reason = "tests may stop at the first thing that is wrong")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use taskrun::ledger::{Ledger, NewTask, Outcome, Process, Stamp, Status, StopCode, Used};

/// A ledger with tasks of two teams, one of them without its supervisor.
fn ledger(home: &Path) -> Ledger {
    let mut ledger = Ledger::open(home).unwrap();
    let own = Process::own().unwrap();
    let gone = Process { start_ticks: own.start_ticks + 1, ..own };
    for (id, team, cpu_units, supervisor) in [(1, "blue", 256, own), (2, "red", 2048, own), (3, "blue", 512, gone)] {
        let id = format!("{id:032x}");
        let labels = BTreeMap::from([("team".to_owned(), team.to_owned())]);
        let (image, name) = ("docker://tool:1".to_owned(), Some(format!("{team}-{cpu_units}")));
        let task = NewTask {
            id: id.clone(),
            name,
            image,
            cpu_units,
            memory_mib: cpu_units * 2,
            storage_mib: 0,
            labels,
            detached: true,
            supervisor,
        };
        ledger.admit(&task).unwrap();
        ledger.reach(&id, Stamp::PullStarted).unwrap();
        ledger.reach(&id, Status::Running).unwrap();
        if supervisor == own {
            let used = Used { cpu_ns: Some(7_000_000), ..Used::default() };
            let stop_code = StopCode::EssentialContainerExited;
            ledger.finish(&id, &Outcome { exit_code: Some(0), stop_code, reason: "It ended".into(), used }).unwrap();
        }
    }
    ledger
}

fn taskrun(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskrun"));
    command.args(arguments).env("TASKRUN_HOME", home).output().unwrap()
}

/// What a command printed that succeeded.
fn printed(home: &Path, arguments: &[&str]) -> String {
    let output = taskrun(home, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn usage_is_added_up_and_settled() {
    let home = tempfile::tempdir().unwrap();
    ledger(home.path());
    let rows: Value = serde_json::from_str(&printed(home.path(), &["usage", "--format", "json"])).unwrap();
    let settled: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["settled"].as_bool().unwrap()).collect();
    assert_eq!(settled, [false, false, true]);
    let teams = ["usage", "--by", "label:team", "--since", "1h", "--format", "json"];
    let teams: Value = serde_json::from_str(&printed(home.path(), &teams)).unwrap();
    assert_eq!(
        (&teams[0]["key"], &teams[0]["tasks"], &teams[0]["vcpu_seconds"]),
        (&"blue".into(), &2.into(), &45.0.into())
    );
    assert_eq!((&teams[1]["key"], &teams[1]["cost"]), (&"red".into(), &"0.001645667".into()));
    let table = printed(home.path(), &["usage", "--by", "image"]);
    assert!(
        table.contains("docker://tool:1      3      180     165   330") && table.contains("AWS Fargate"),
        "{table}"
    );
    assert_eq!(printed(home.path(), &["usage", "--format", "csv"]).lines().count(), 4);
    assert_eq!(printed(home.path(), &["usage", "--until", "1h", "--format", "json"]), "[]\n");
}

#[test]
fn a_row_that_was_changed_by_hand_is_told_and_the_exit_code_is_1() {
    let home = tempfile::tempdir().unwrap();
    drop(ledger(home.path()));
    assert_eq!(printed(home.path(), &["usage", "verify"]), "The ledger agrees with its events: 3 tasks\n");
    let database = rusqlite::Connection::open(home.path().join("ledger.sqlite3")).unwrap();
    let by_hand = "PRAGMA ignore_check_constraints = ON; DROP TRIGGER task_ends_once;
        UPDATE task SET billed_seconds = 30 WHERE name = 'red-2048'";
    database.execute_batch(by_hand).unwrap();
    let output = taskrun(home.path(), &["usage", "verify"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let sentence = format!("The task {:032x} has billed seconds of 30, but its events say 60\n", 2);
    assert!(
        text.contains(&sentence) && text.contains("The trigger task_ends_once of the ledger was changed"),
        "{text}"
    );
}

#[test]
fn metrics_are_printed_or_put_into_a_file() {
    let home = tempfile::tempdir().unwrap();
    ledger(home.path());
    let text = printed(home.path(), &["metrics"]);
    for line in [
        "taskrun_tasks{status=\"RUNNING\"} 0",
        "taskrun_tasks_started_total 3",
        "taskrun_tasks_stopped_total{stop_code=\"EssentialContainerExited\"} 3",
        "taskrun_tasks_settled_total 1",
        "taskrun_billed_vcpu_seconds_total 165",
        "taskrun_used_cpu_seconds_total 0.014000000",
        "taskrun_task_start_seconds_count 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let file = home.path().join("taskrun.prom");
    assert_eq!(printed(home.path(), &["metrics", "--textfile", file.to_str().unwrap()]), "");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_mistake_in_the_configuration_is_told_with_its_line() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("config.toml"), "[billing.prices]\nname = \"Mine\"\n").unwrap();
    let output = taskrun(home.path(), &["usage"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && text.contains("config.toml is wrong in line 1: missing field `currency`"),
        "{text}"
    );
}
