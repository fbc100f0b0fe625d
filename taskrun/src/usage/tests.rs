//! What a person and a program see.

use std::collections::BTreeMap;

use super::*;
use crate::ledger::billing::Rules;
use crate::ledger::{DesiredStatus, End, Stamps, Status, StopCode, Used};

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap()
}

pub(super) fn record_of(cpu_units: u32, memory_mib: u32, storage_mib: u64, elapsed_ms: u64) -> Record {
    let elapsed_ns = elapsed_ms * 1_000_000;
    let rules = Rules::default();
    Record {
        id: "a".repeat(32),
        image: "oci:/image:latest".into(),
        name: None,
        digest: Some("sha256:00".into()),
        cpu_units,
        memory_mib,
        storage_mib,
        labels: BTreeMap::new(),
        detached: false,
        supervisor: None,
        rules,
        cpu_enforcement: None,
        status: Status::Stopped,
        desired_status: DesiredStatus::Stopped,
        started_at: at(1_700_000_000_000),
        stamps: Stamps { created_at: Some(at(1_699_999_999_000)), ..Stamps::default() },
        end: Some(End {
            stopped_at: at(1_700_000_000_000 + i64::try_from(elapsed_ms).unwrap()),
            exit_code: Some(3),
            stop_code: StopCode::EssentialContainerExited,
            settled: false,
            elapsed_ns,
            billed_seconds: rules.billed_seconds(elapsed_ns),
            used: Used::default(),
            reason: "It \"ended\".".into(),
        }),
        removed: false,
    }
}

fn record(id: char, end: Option<u64>) -> Record {
    let mut record = record_of(256, 512, 0, end.unwrap_or(0) * 1000);
    record.id = id.to_string().repeat(32);
    if end.is_none() {
        record.end = None;
        record.status = Status::Running;
    }
    record
}

fn printed_by(records: &[Record], by: By, format: Format) -> String {
    let mut out = Vec::new();
    let query = Query { by, format, ..Query::default() };
    print(records, &query, &PriceList::default(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn printed(records: &[Record], format: Format) -> String {
    printed_by(records, By::Task, format)
}

#[test]
fn the_table_has_a_row_for_each_task_and_the_sums() {
    let mut used = record('b', Some(62));
    used.end.as_mut().unwrap().used =
        Used { cpu_ns: Some(1_250_000_000), peak_memory_bytes: Some(3 << 20), ..Used::default() };
    let table = printed(&[record('a', Some(7)), used, record('c', None)], Format::Table);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let id = |c: char| c.to_string().repeat(32);
    let day = "2023-11-14";
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0].first(), Some(&"TASK"));
    let expected = [
        &id('a'),
        "oci:/image:latest",
        "0.25",
        "0.5",
        day,
        "22:13:20",
        day,
        "22:13:27",
        "3",
        "60",
        "15",
        "30",
        "-",
        "-",
        "0.000206",
    ];
    assert_eq!(lines[1][..], expected);
    assert_eq!(lines[2][8..], ["3", "62", "15.5", "31", "1.3", "s", "3", "MB", "0.000213"]);
    assert_eq!(lines[3][6..], ["not", "ended", "-", "-", "-", "-", "-", "-", "-"]);
    let sums = "\nTotal: 3 tasks, 122 s billed, 30.5 vCPU-seconds, 61 GB-seconds; 1 without an end\n\
                Cost: 0.000418 USD at the prices of AWS Fargate, Linux/x86, us-east-1\n";
    assert!(table.ends_with(sums), "{table}");
}

#[test]
fn json_has_the_documented_fields() {
    let json: serde_json::Value =
        serde_json::from_str(&printed(&[record('a', Some(7)), record('b', None)], Format::Json)).unwrap();
    let expected = serde_json::json!({
        "task_id": "a".repeat(32), "image": "oci:/image:latest", "digest": "sha256:00", "cpu_units": 256, "memory_mib": 512,
        "started_at": "2023-11-14T22:13:20.000Z", "stopped_at": "2023-11-14T22:13:27.000Z", "exit_code": 3,
        "reason": "It \"ended\".", "billed_seconds": 60, "vcpu_seconds": 15.0, "gb_seconds": 30.0,
        "name": null, "labels": {}, "storage_mib": 0, "storage_gb_seconds": 0.0, "elapsed_ns": 7_000_000_000_u64,
        "status": "STOPPED", "stop_code": "EssentialContainerExited", "settled": false,
        "created_at": "2023-11-14T22:13:19.000Z", "pull_started_at": null, "pull_stopped_at": null, "running_at": null,
        "stopping_at": null, "execution_stopped_at": null, "used_cpu_ns": null, "used_peak_memory_bytes": null,
        "used_bytes_in": null, "used_bytes_out": null, "cost": "0.000205708", "currency": "USD",
        "price_list": "AWS Fargate, Linux/x86, us-east-1",
    });
    assert_eq!(json[0], expected);
    let open = json[1].as_object().unwrap();
    for field in
        ["stopped_at", "exit_code", "reason", "billed_seconds", "vcpu_seconds", "gb_seconds", "cost", "stop_code"]
    {
        assert_eq!(open.get(field), Some(&serde_json::Value::Null), "{field}");
    }
}

#[test]
fn csv_has_the_same_fields_in_the_same_order() {
    let csv = printed(&[record('a', Some(7)), record('b', None)], Format::Csv);
    let lines: Vec<&str> = csv.lines().collect();
    assert!(
        lines[0].starts_with("task_id,image,digest,cpu_units,memory_mib,started_at,stopped_at,exit_code,"),
        "{csv}"
    );
    assert!(lines[0].ends_with(",cost,currency,price_list"), "{csv}");
    assert!(lines[1].contains(",3,\"It \"\"ended\"\".\",60,15.0,30.0,"), "{csv}");
    assert!(lines[1].ends_with(",0.000205708,USD,\"AWS Fargate, Linux/x86, us-east-1\""), "{csv}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn tasks_are_added_up_by_image_label_and_day() {
    let mut records = [record('a', Some(7)), record('b', Some(62)), record('c', Some(7)), record('d', None)];
    records[1].labels.insert("team".into(), "blue".into());
    records[1].end.as_mut().unwrap().used.cpu_ns = Some(5);
    records[2].labels.insert("team".into(), "blue".into());
    records[2].image = "oci:/other".into();
    records[2].started_at = at(1_700_100_000_000);
    let prices = PriceList::default();
    let totals = |by: By| {
        let totals = Total::all(&records, &by, &prices);
        totals
            .into_iter()
            .map(|total| (total.key, total.tasks, total.open, total.cpu_unit_seconds, total.used_cpu_ns))
            .collect::<Vec<_>>()
    };
    let key = |text: &str| Some(text.to_owned());
    let (minute, longer) = (256 * 60, 256 * 62);
    assert_eq!(
        totals(By::Image),
        [(key("oci:/image:latest"), 3, 1, minute + longer, Some(5)), (key("oci:/other"), 1, 0, minute, None)]
    );
    assert_eq!(
        totals(By::Label("team".into())),
        [(None, 2, 1, minute, None), (key("blue"), 2, 0, minute + longer, Some(5))]
    );
    assert_eq!(
        totals(By::Day),
        [(key("2023-11-14"), 3, 1, minute + longer, Some(5)), (key("2023-11-16"), 1, 0, minute, None)]
    );
    let table = printed_by(&records, By::Day, Format::Table);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["2023-11-14", "3", "122", "30.5", "61", "0", "0.0", "s", "-", "0.000418"]);
    let json: serde_json::Value = serde_json::from_str(&printed_by(&records, By::Image, Format::Json)).unwrap();
    assert_eq!((&json[1]["vcpu_seconds"], &json[1]["cost"]), (&15.0.into(), &"0.000205708".into()));
    assert!(printed_by(&records, By::Image, Format::Csv).starts_with("key,tasks,open,billed_seconds,"));
}

#[test]
fn an_empty_ledger_is_a_header_and_an_empty_array() {
    assert_eq!(printed(&[], Format::Json), "[]\n");
    assert_eq!(printed(&[], Format::Csv), "");
    let table = printed(&[], Format::Table);
    assert!(table.starts_with("TASK"), "{table}");
    assert!(table.contains("\nTotal: 0 tasks, 0 s billed, 0 vCPU-seconds, 0 GB-seconds\n"), "{table}");
    assert!(table.lines().all(|line| line == line.trim_end()));
}

#[test]
fn an_image_name_can_not_drive_the_terminal() {
    let mut hostile = record('a', None);
    hostile.image = "\u{1b}[2Jx\ny".into();
    for by in [By::Task, By::Image] {
        let table = printed_by(std::slice::from_ref(&hostile), by, Format::Table);
        assert!(!table.contains('\u{1b}') && table.lines().count() == 4, "{table}");
    }
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
    for format in [Format::Table, Format::Json, Format::Csv] {
        let records = [record('a', Some(7))];
        let query = Query { format, ..Query::default() };
        let print = |kind| print(&records, &query, &PriceList::default(), &mut Broken(kind));
        assert!(print(io::ErrorKind::BrokenPipe).is_ok());
        assert!(print(io::ErrorKind::StorageFull).is_err());
    }
}

#[test]
fn looking_at_the_usage_settles_what_can_be_settled_and_verifies() {
    let home = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(home.path()).unwrap();
    let own = crate::ledger::Process::own().unwrap();
    let task = crate::ledger::NewTask {
        id: "a".repeat(32),
        name: None,
        image: "oci:x".into(),
        cpu_units: 256,
        memory_mib: 512,
        storage_mib: 0,
        labels: BTreeMap::new(),
        detached: false,
        supervisor: crate::ledger::Process { start_ticks: own.start_ticks + 1, ..own },
    };
    ledger.admit(&task).unwrap();
    let mut out = Vec::new();
    run(home.path(), &Query::default(), &mut out).unwrap();
    let table = String::from_utf8(out).unwrap();
    assert!(table.contains(" settled ") && table.contains("Total: 1 task, 60 s billed"), "{table}");
    let mut out = Vec::new();
    assert!(verify(home.path(), &mut out).unwrap());
    assert_eq!(String::from_utf8(out).unwrap(), "The ledger agrees with its events: 1 task\n");
    let nowhere = home.path().join("nowhere");
    assert!(verify(&nowhere, &mut Vec::new()).unwrap());
    run(&nowhere, &Query::default(), &mut Vec::new()).unwrap();
    assert!(!nowhere.exists());
}
