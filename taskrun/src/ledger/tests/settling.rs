//! Tasks whose supervisors died.

use std::process::{Child, Command, Stdio};
use std::thread;

use super::*;

/// A process that was, and is no more.
fn gone() -> Process {
    let own = Process::own().unwrap();
    Process { start_ticks: own.start_ticks + 1, ..own }
}

/// A process that runs until it is killed.
fn other() -> (Child, Process) {
    let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let start_ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let process = Process { pid: child.id(), start_ticks, boot_id: BootId::current().unwrap() };
    (child, process)
}

#[test]
fn what_a_supervisor_left_that_died_before_its_task_was_entered_is_removed() {
    let (home, mut ledger) = open();
    let tasks = home.path().join(TASKS_FOLDER);
    ledger.admit(&task(1)).unwrap();
    let folder = |number| tasks.join(task(number).id);
    let beat = |number| Heartbeat::start(&folder(number).join("heartbeat")).unwrap();
    let (entered, dead, living) = (beat(1), beat(2), beat(3));
    fs::create_dir(folder(4)).unwrap();
    drop((entered, dead));
    ledger.sweep(&tasks).unwrap();
    assert_eq!([1, 2, 3, 4].map(|number| folder(number).exists()), [true, false, true, true]);
    drop(living);
}

#[test]
fn only_a_task_without_its_supervisor_is_settled_and_only_once() {
    let (home, mut ledger) = open();
    let tasks = home.path().join(TASKS_FOLDER);
    let (mut child, supervisor) = other();
    ledger.admit(&task(1)).unwrap();
    ledger.admit(&NewTask { supervisor, ..task(2) }).unwrap();
    assert_eq!(ledger.settle(&tasks).unwrap(), []);
    child.kill().unwrap();
    // Its parent has not waited for it: it is a zombie.
    while supervisor.is_alive() {
        thread::yield_now();
    }
    let settled = ledger.settle(&tasks).unwrap();
    child.wait().unwrap();
    let [record] = settled.as_slice() else { panic!("{settled:?}") };
    let end = record.end.as_ref().unwrap();
    assert_eq!((record.id.as_str(), end.exit_code, end.settled), (task(2).id.as_str(), None, true));
    assert_eq!((end.stop_code, end.used), (StopCode::TaskFailedToStart, Used::default()));
    let died = format!("(process {}) died before the task's end was entered", supervisor.pid);
    assert!(end.reason.contains(&died), "{}", end.reason);
    assert!(record.stamps.settled_at.is_some());
    assert_eq!(ledger.settle(&tasks).unwrap(), []);
    assert!(matches!(ledger.finish(&task(2).id, &outcome(0)), Err(LedgerError::NotOpen { .. })));
    assert_eq!(ledger.list(&Filter { open: true, ..Filter::default() }).unwrap().len(), 1);
}

#[test]
fn an_end_that_could_not_be_entered_is_settled_as_it_was() {
    let (home, mut ledger) = open();
    let tasks = home.path().join(TASKS_FOLDER);
    let new = NewTask { supervisor: gone(), ..task(1) };
    ledger.admit(&new).unwrap();
    ledger.reach(&new.id, Status::Running).unwrap();
    let heartbeat = Heartbeat::start(&tasks.join(&new.id).join("heartbeat")).unwrap();
    let known = Outcome { stop_code: StopCode::UserInitiated, reason: "It was stopped".into(), ..outcome(42) };
    heartbeat.end(heartbeat::LastWord::of(&known));
    drop(heartbeat);
    let settled = ledger.settle(&tasks).unwrap();
    let end = settled[0].end.as_ref().unwrap();
    assert_eq!((end.exit_code, end.stop_code, end.settled), (Some(42), StopCode::UserInitiated, true));
    assert!(end.reason.starts_with("It was stopped; "), "{}", end.reason);
    assert_eq!(ledger.verify().unwrap(), (1, vec![]));
}

#[test]
fn its_end_is_its_last_heartbeat_with_what_was_used_until_then() {
    let (home, mut ledger) = open();
    let tasks = home.path().join(TASKS_FOLDER);
    let new = NewTask { supervisor: gone(), ..task(1) };
    ledger.admit(&new).unwrap();
    ledger.reach(&new.id, Status::Running).unwrap();
    let path = tasks.join(&new.id).join("heartbeat");
    let heartbeat = Heartbeat::start(&path).unwrap();
    let used = Used { cpu_ns: Some(7), peak_memory_bytes: Some(8), bytes_in: Some(9), bytes_out: None };
    heartbeat.measure(move || used);
    assert_eq!(
        ledger.settle(&tasks).unwrap(),
        [],
        "who can't be seen, in another PID namespace, holds its heartbeat's lock"
    );
    drop(heartbeat);
    let beat = heartbeat::read(&path).unwrap();
    let settled = ledger.settle(&tasks).unwrap();
    let end = settled[0].end.as_ref().unwrap();
    assert_eq!((end.stopped_at, end.used, end.stop_code), (beat.at.wall, used, StopCode::EssentialContainerExited));
    let events = rows::events(&ledger.connection, &new.id).unwrap();
    let stopped = events.iter().find(|event| event.kind == "STOPPED").unwrap();
    assert_eq!(stopped.at, beat.at);
    assert_eq!(end.elapsed_ns, changes::billed_from(&events).unwrap().until(&beat.at));
}

#[test]
fn without_a_heartbeat_its_end_is_the_last_that_is_known_of_it() {
    let (home, mut ledger) = open();
    let new = NewTask { supervisor: gone(), ..task(1) };
    ledger.admit_at(&new, moment(5_000, 1_000)).unwrap();
    // The clock was set back meanwhile.
    ledger.reach_at(&new.id, Status::Running.into(), moment(2_000, 91_500)).unwrap();
    ledger.desire(&new.id, DesiredStatus::Stopped).unwrap();
    let settled = ledger.settle(home.path()).unwrap();
    let end = settled[0].end.as_ref().unwrap();
    assert_eq!((end.stopped_at, end.elapsed_ns, end.billed_seconds), (clock::timestamp(2_000), 90_500_000_000, 91));
    assert_eq!(end.stop_code, StopCode::UserInitiated);
}

#[test]
fn after_the_host_went_down_all_that_ran_is_settled() {
    let (home, mut ledger) = open();
    let supervisor = Process { boot_id: BootId::from_bytes([9; 16]), ..Process::own().unwrap() };
    ledger.admit_at(&NewTask { supervisor, ..task(1) }, moment(0, 0)).unwrap();
    ledger.reach_at(&task(1).id, Status::Running.into(), moment(100_000, 100_000)).unwrap();
    let settled = ledger.settle(home.path()).unwrap();
    let end = settled[0].end.as_ref().unwrap();
    assert_eq!(end.billed_seconds, 100);
    assert!(end.reason.starts_with("The host went down while the task ran"), "{}", end.reason);
}
