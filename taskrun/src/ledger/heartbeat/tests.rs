//! Heartbeats on real files.

use std::fs;
use std::time::Instant;

use super::*;

fn beat(ns: u64) -> Beat {
    let boot = Some(BootTime { boot_id: BootId::from_bytes([3; 16]), ns });
    let used = Used { cpu_ns: Some(ns / 2), peak_memory_bytes: None, bytes_in: Some(0), bytes_out: Some(u64::MAX) };
    Beat { at: Moment { wall: timestamp(1_700_000_000_123), boot }, used, end: None }
}

fn decoded(record: &[u8]) -> Option<(u64, Beat)> {
    decode(record.try_into().unwrap())
}

#[test]
fn a_record_is_read_back() {
    let record = encode(7, &beat(99));
    assert_eq!(record.len(), RECORD);
    assert_eq!(decoded(&record), Some((7, beat(99))));
}

#[test]
fn no_damaged_record_is_believed() {
    let record = encode(7, &beat(99));
    for byte in 0..RECORD {
        for bit in 0..8 {
            let mut damaged = record.clone();
            damaged[byte] ^= 1 << bit;
            assert_eq!(decoded(&damaged), None, "byte {byte} bit {bit}");
        }
    }
}

#[test]
fn a_torn_write_leaves_the_beat_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heartbeat");
    for torn_at in 1..RECORD {
        let (before, after) = (encode(6, &beat(60)), encode(8, &beat(80)));
        let mut first = after[..torn_at].to_vec();
        first.extend(&before[torn_at..]);
        let file = File::create(&path).unwrap();
        file.write_all_at(&first, PLACES[0]).unwrap();
        file.write_all_at(&encode(7, &beat(70)), PLACES[1]).unwrap();
        assert_eq!(read(&path), Some(beat(70)), "torn at {torn_at}");
    }
}

#[test]
fn no_file_an_empty_one_and_a_short_one_are_no_heartbeat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heartbeat");
    assert_eq!(read(&path), None);
    assert!(!is_held(&path));
    fs::write(&path, "").unwrap();
    assert_eq!(read(&path), None);
    fs::write(&path, encode(1, &beat(5))).unwrap();
    assert_eq!(read(&path), Some(beat(5)));
    fs::write(&path, &encode(1, &beat(5))[..RECORD - 1]).unwrap();
    assert_eq!(read(&path), None);
}

#[test]
fn it_beats_while_it_lives_and_has_what_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks/0/heartbeat");
    let started = Moment::now().unwrap();
    let heartbeat = Heartbeat::start(&path).unwrap();
    let first = read(&path).unwrap();
    assert_eq!(first.used, Used::default());
    assert!(is_held(&path));
    assert!(matches!(Heartbeat::start(&path), Err(HeartbeatError::File { .. })), "one writer at a time");
    let used = Used { cpu_ns: Some(5), peak_memory_bytes: Some(6), bytes_in: None, bytes_out: Some(0) };
    heartbeat.measure(move || used);
    let deadline = Instant::now() + Duration::from_secs(60);
    while read(&path).unwrap().used != used {
        assert!(Instant::now() < deadline, "it stopped beating");
        thread::sleep(Duration::from_millis(5));
    }
    let length = fs::metadata(&path).unwrap().len();
    assert_eq!(length, PLACES[1] + RECORD as u64, "it never grows");
    drop(heartbeat);
    assert!(!is_held(&path));
    let last = read(&path).unwrap();
    let ns = |moment: Moment| moment.boot.unwrap().ns;
    assert!(ns(started) <= ns(first.at) && ns(first.at) < ns(last.at));
    assert_eq!(first.at.boot.unwrap().boot_id, BootId::current().unwrap());
}

#[test]
fn it_goes_on_where_another_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heartbeat");
    drop(Heartbeat::start(&path).unwrap());
    let (before, _) = newest(&File::open(&path).unwrap()).unwrap();
    drop(Heartbeat::start(&path).unwrap());
    let (after, _) = newest(&File::open(&path).unwrap()).unwrap();
    assert!(after > before);
}
