//! What a person and a program see.

use std::collections::BTreeMap;

use super::*;
use crate::ledger::billing::Rules;
use crate::ledger::{DesiredStatus, End, Record, Stamps, Status, StopCode, Used};

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap()
}

fn record(id: char, end: Option<i64>) -> Record {
    Record {
        id: id.to_string().repeat(32),
        image: "oci:/image:latest".into(),
        name: None,
        digest: Some("sha256:00".into()),
        cpu_units: 256,
        memory_mib: 512,
        storage_mib: 0,
        labels: BTreeMap::new(),
        detached: false,
        supervisor: None,
        rules: Rules::default(),
        status: if end.is_some() { Status::Stopped } else { Status::Running },
        desired_status: DesiredStatus::Running,
        stamps: Stamps::default(),
        removed: false,
        started_at: at(1_700_000_000_000),
        end: end.map(|seconds| End {
            stopped_at: at(1_700_000_000_000 + seconds * 1000),
            exit_code: Some(3),
            stop_code: StopCode::EssentialContainerExited,
            settled: false,
            elapsed_ns: u64::try_from(seconds).unwrap() * 1_000_000_000,
            used: Used::default(),
            reason: "It \"ended\".".into(),
            billed_seconds: u64::try_from(seconds.max(60)).unwrap(),
        }),
    }
}

fn printed(records: &[Record], format: Format) -> String {
    let mut out = Vec::new();
    print(records, format, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_table_has_a_row_for_each_task_and_the_sums() {
    let table = printed(&[record('a', Some(7)), record('b', Some(62)), record('c', None)], Format::Table);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let id = |c: char| c.to_string().repeat(32);
    let started = ["2023-11-14", "22:13:20"];
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0].first(), Some(&"TASK"));
    assert_eq!(
        lines[1][..],
        [
            &id('a'),
            "oci:/image:latest",
            "0.25",
            "0.5",
            started[0],
            started[1],
            started[0],
            "22:13:27",
            "3",
            "60",
            "15",
            "30"
        ]
    );
    assert_eq!(lines[2][8..], ["3", "62", "15.5", "31"]);
    assert_eq!(lines[3][6..], ["not", "ended", "-", "-", "-", "-"]);
    assert!(
        table.ends_with("\nTotal: 3 tasks, 122 s billed, 30.5 vCPU-seconds, 61 GB-seconds; 1 without an end\n"),
        "{table}"
    );
}

#[test]
fn json_has_the_documented_fields() {
    let json: serde_json::Value =
        serde_json::from_str(&printed(&[record('a', Some(7)), record('b', None)], Format::Json)).unwrap();
    let expected = serde_json::json!({
        "task_id": "a".repeat(32), "image": "oci:/image:latest", "digest": "sha256:00", "cpu_units": 256, "memory_mib": 512,
        "started_at": "2023-11-14T22:13:20.000Z", "stopped_at": "2023-11-14T22:13:27.000Z", "exit_code": 3,
        "reason": "It \"ended\".", "billed_seconds": 60, "vcpu_seconds": 15.0, "gb_seconds": 30.0
    });
    assert_eq!(json[0], expected);
    let open = json[1].as_object().unwrap();
    for field in ["stopped_at", "exit_code", "reason", "billed_seconds", "vcpu_seconds", "gb_seconds"] {
        assert_eq!(open.get(field), Some(&serde_json::Value::Null), "{field}");
    }
}

#[test]
fn an_empty_ledger_is_a_header_and_an_empty_array() {
    assert_eq!(printed(&[], Format::Json), "[]\n");
    let table = printed(&[], Format::Table);
    assert!(
        table.starts_with("TASK") && table.ends_with("Total: 0 tasks, 0 s billed, 0 vCPU-seconds, 0 GB-seconds\n"),
        "{table}"
    );
    assert!(table.lines().all(|line| line == line.trim_end()));
}

#[test]
fn an_image_name_can_not_drive_the_terminal() {
    let mut hostile = record('a', None);
    hostile.image = "\u{1b}[2Jx\ny".into();
    let table = printed(&[hostile], Format::Table);
    assert!(!table.contains('\u{1b}') && table.lines().count() == 3, "{table}");
}

/// A reader that is gone.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    for format in [Format::Table, Format::Json] {
        let records = [record('a', Some(7))];
        assert!(print(&records, format, &mut Broken(io::ErrorKind::BrokenPipe)).is_ok());
        assert!(print(&records, format, &mut Broken(io::ErrorKind::StorageFull)).is_err());
    }
}
