//! What a scraper reads.

use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::ledger::{Ledger, NewTask, Outcome, Process, Used};

/// The samples of a text that is in Prometheus's format, by name and labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    assert!(text.ends_with('\n'));
    let mut families = Vec::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            if words[0] == "TYPE" {
                assert!(["counter", "gauge", "histogram"].contains(&words[2]), "{line}");
                assert!(!families.contains(&words[1]), "{line} is there twice");
                families.push(words[1]);
            } else {
                assert_eq!(words[0], "HELP");
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = families.last().unwrap();
        assert!(name.starts_with(family), "{line} is not of {family}");
        assert!(samples.insert(name, value.parse().unwrap()).is_none(), "{line} is there twice");
    }
    samples
}

fn task(id: u32) -> NewTask {
    NewTask {
        id: format!("{id:032x}"),
        name: None,
        image: "oci:x".into(),
        cpu_units: 512,
        memory_mib: 1024,
        storage_mib: 2048,
        labels: BTreeMap::new(),
        detached: false,
        supervisor: Process::own().unwrap(),
    }
}

#[test]
fn the_ledger_is_told_in_prometheus_words() {
    let home = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(home.path()).unwrap();
    for id in 1..=3 {
        ledger.admit(&task(id)).unwrap();
    }
    for id in 1..=2 {
        ledger.reach(&task(id).id, Status::Running).unwrap();
    }
    let used = Used { cpu_ns: Some(1_500_000_000), peak_memory_bytes: None, bytes_in: Some(7), bytes_out: None };
    let outcome = Outcome { exit_code: Some(0), stop_code: StopCode::UserInitiated, reason: "Done".into(), used };
    ledger.finish(&task(1).id, &outcome).unwrap();
    let mut out = Vec::new();
    run(home.path(), None, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let samples = samples(&text);
    for (name, value) in [
        ("taskrun_tasks{status=\"PROVISIONING\"}", 1.0),
        ("taskrun_tasks{status=\"RUNNING\"}", 1.0),
        ("taskrun_tasks{status=\"STOPPING\"}", 0.0),
        ("taskrun_tasks_admitted_total", 3.0),
        ("taskrun_tasks_started_total", 2.0),
        ("taskrun_tasks_stopped_total{stop_code=\"UserInitiated\"}", 1.0),
        ("taskrun_tasks_stopped_total{stop_code=\"TaskFailedToStart\"}", 0.0),
        ("taskrun_tasks_settled_total", 0.0),
        ("taskrun_billed_seconds_total", 60.0),
        ("taskrun_billed_vcpu_seconds_total", 30.0),
        ("taskrun_billed_memory_gb_seconds_total", 60.0),
        ("taskrun_billed_storage_gb_seconds_total", 120.0),
        ("taskrun_used_cpu_seconds_total", 1.5),
        ("taskrun_received_bytes_total", 7.0),
        ("taskrun_sent_bytes_total", 0.0),
        ("taskrun_task_start_seconds_bucket{le=\"+Inf\"}", 2.0),
        ("taskrun_task_start_seconds_count", 2.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in {text}");
    }
    let allocated = samples["taskrun_allocated_vcpu_seconds_total"];
    assert!(allocated > 0.0 && allocated < 30.0, "{allocated}");
}

#[test]
fn latencies_fall_into_the_buckets_of_their_bounds() {
    let ms = |milliseconds: u64| milliseconds * NS_PER_MS;
    let text = text(&[], &[0, ms(10), ms(10) + 1, ms(300_000), ms(300_001)]);
    let samples = samples(&text);
    let bucket = |bound: &str| samples[format!("taskrun_task_start_seconds_bucket{{le=\"{bound}\"}}").as_str()];
    assert_eq!(
        [bucket("0.01"), bucket("0.025"), bucket("60"), bucket("300"), bucket("+Inf")],
        [2.0, 3.0, 3.0, 4.0, 5.0]
    );
    assert_eq!(samples["taskrun_task_start_seconds_sum"], 600.021_000_001);
    for (milliseconds, bound) in BUCKETS {
        assert_eq!(bound.parse::<f64>().unwrap() * 1000.0, milliseconds as f64, "{bound}");
    }
}

#[test]
fn the_textfile_is_replaced_as_a_whole_and_all_may_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taskrun.prom");
    fs::write(&path, "old").unwrap();
    let reader = fs::File::open(&path).unwrap();
    run(&folder.path().join("no-home"), Some(&path), &mut Vec::new()).unwrap();
    assert_eq!(samples(&fs::read_to_string(&path).unwrap())["taskrun_tasks_admitted_total"], 0.0);
    assert_eq!(io::read_to_string(reader).unwrap(), "old", "it is another file");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
    let error = run(folder.path(), Some(&folder.path().join("no/such.prom")), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, MetricsError::File { .. }), "{error}");
}
