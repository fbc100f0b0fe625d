//! Many at once: threads, and processes of their own, which are this test program started again with another job.

use std::env;
use std::io::Read as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::*;

/// Says where the ledger is, to a process that was started with a job.
const HOME: &str = "TASKRUN_TEST_LEDGER";

/// Says which of many the process is.
const NUMBER: &str = "TASKRUN_TEST_NUMBER";

/// A process with a job: the ignored test of that name. It starts when [`Worker::go`] is called.
struct Worker(Child);

impl Worker {
    fn start(job: &str, home: &Path, number: u32) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", &format!("ledger::tests::many::{job}")]);
        command.env(HOME, home).env(NUMBER, number.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn go(&mut self) {
        drop(self.0.stdin.take());
    }

    /// Waits for its end; what it printed, behind a colon a line.
    fn finish(self) -> (ExitStatus, Vec<String>) {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = text.lines().filter_map(|line| line.split_once("said: ")).map(|(_, word)| word.to_owned()).collect();
        if !output.status.success() {
            eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
        }
        (output.status, said)
    }
}

/// Runs `count` processes with this job at once; what they said.
fn all_at_once(job: &str, home: &Path, count: u32) -> Vec<String> {
    let mut workers: Vec<_> = (0..count).map(|number| Worker::start(job, home, number)).collect();
    workers.iter_mut().for_each(Worker::go);
    let mut said = Vec::new();
    for worker in workers {
        let (status, mut words) = worker.finish();
        assert!(status.success(), "{status}");
        said.append(&mut words);
    }
    said
}

/// The ledger's home and the number, in a process with a job, when it is to begin.
fn job() -> Option<(std::path::PathBuf, u32)> {
    let home = env::var_os(HOME)?;
    let number = env::var(NUMBER).ok()?.parse().ok()?;
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    Some((home.into(), number))
}

const WRITERS: u32 = 16;
const TASKS: u32 = 200;

#[test]
fn two_hundred_tasks_by_sixteen_processes_are_all_recorded() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().join("new/home");
    all_at_once("writer", &home, WRITERS);
    let ledger = Ledger::open(&home).unwrap();
    let records = ledger.list(&Filter::default()).unwrap();
    assert_eq!(records.len(), usize::try_from(TASKS).unwrap());
    assert!(records.iter().all(|record| record.end.as_ref().is_some_and(|end| !end.settled)));
    assert!(records.iter().all(|record| record.stamps.started_at.is_some()));
    assert_eq!(ledger.verify().unwrap(), (records.len(), vec![]));
}

#[test]
#[ignore = "the job of a process that the test above starts"]
fn writer() {
    let Some((home, number)) = job() else { return };
    for id in (number..TASKS).step_by(usize::try_from(WRITERS).unwrap()) {
        let mut ledger = Ledger::open(&home).unwrap();
        let new = NewTask { name: Some(format!("task-{id}")), ..task(id) };
        ledger.admit(&new).unwrap();
        ledger.image(&new.id, "sha256:0").unwrap();
        for event in [Event::from(Stamp::PullStarted), Status::Activating.into(), Status::Running.into()] {
            ledger.reach(&new.id, event).unwrap();
        }
        // Others settle meanwhile, and must not take it for dead.
        assert_eq!(ledger.settle(&home.join(TASKS_FOLDER)).unwrap(), []);
        ledger.finish(&new.id, &outcome(0)).unwrap();
    }
}

#[test]
fn eight_processes_that_settle_at_once_settle_each_task_once() {
    const ORPHANS: u32 = 25;
    let (home, mut ledger) = open();
    let own = Process::own().unwrap();
    let gone = Process { start_ticks: own.start_ticks + 1, ..own };
    for id in 0..ORPHANS {
        ledger.admit(&NewTask { supervisor: gone, ..task(id) }).unwrap();
    }
    let mut settled = all_at_once("settler", home.path(), 8);
    settled.sort();
    let expected: Vec<_> = (0..ORPHANS).map(|id| task(id).id).collect();
    assert_eq!(settled, expected);
    assert_eq!(ledger.verify().unwrap(), (expected.len(), vec![]));
}

#[test]
#[ignore = "the job of a process that the test above starts"]
fn settler() {
    let Some((home, _)) = job() else { return };
    for record in Ledger::open(&home).unwrap().settle(&home.join(TASKS_FOLDER)).unwrap() {
        println!("\nsaid: {}", record.id);
    }
}

/// Supervisors that are killed at random moments of their tasks' lives. After the next command every task that was admitted
/// has one end, between its last heartbeat and its supervisor's death.
#[test]
fn supervisors_that_are_killed_leave_tasks_that_are_settled_once() {
    const SUPERVISORS: u32 = 30;
    let home = tempfile::tempdir().unwrap();
    let tasks = home.path().join(TASKS_FOLDER);
    drop(Ledger::open(home.path()).unwrap());
    let mut workers: Vec<_> = (0..SUPERVISORS).map(|number| Worker::start("supervisor", home.path(), number)).collect();
    let mut killed = Vec::new();
    for (number, worker) in (0..SUPERVISORS).zip(&mut workers) {
        worker.go();
        // At another point of the life each time: before its admission, at any of its statuses, or long after.
        thread::sleep(Duration::from_millis(u64::from(number * number % 61)));
        let last = heartbeat::read(&tasks.join(task(number).id).join("heartbeat"));
        worker.0.kill().unwrap();
        killed.push((last, Moment::now().unwrap()));
    }
    let mut ledger = Ledger::open(home.path()).unwrap();
    // They are zombies still. Death takes its time after kill(2).
    let mut settled = Vec::new();
    while ledger.list(&Filter { open: true, ..Filter::default() }).unwrap().iter().any(|record| record.end.is_none()) {
        settled.extend(ledger.settle(&tasks).unwrap());
    }
    for worker in workers {
        worker.finish();
    }
    assert_eq!(ledger.settle(&tasks).unwrap(), []);
    let (count, problems) = ledger.verify().unwrap();
    assert_eq!(problems, []);
    let records = ledger.list(&Filter::default()).unwrap();
    assert!(count > 0, "none was admitted in time");
    assert_eq!((records.len(), settled.len()), (count, count), "each of those that were admitted, once");
    for record in settled {
        let number = usize::try_from(u32::from_str_radix(&record.id, 16).unwrap()).unwrap();
        let (last, death) = killed[number].clone();
        let stopped = rows::events(&ledger.connection, &record.id).unwrap();
        let stopped = stopped.into_iter().find(|event| event.kind == "STOPPED").unwrap().at;
        let ns = |moment: Moment| moment.boot.unwrap().ns;
        assert!(last.is_none_or(|last| ns(last.at) <= ns(stopped)), "{record:?}");
        // Its thread may have beaten while it died.
        assert!(ns(stopped) <= ns(death) + 5_000_000_000, "{record:?}");
        assert!(record.end.unwrap().settled);
    }
}

#[test]
#[ignore = "the job of a process that the test above starts"]
fn supervisor() {
    let Some((home, number)) = job() else { return };
    let mut ledger = Ledger::open(&home).unwrap();
    ledger.admit(&task(number)).unwrap();
    let id = task(number).id;
    let heartbeat = Heartbeat::start(&home.join(TASKS_FOLDER).join(&id).join("heartbeat")).unwrap();
    for status in Status::ALL.iter().skip(1).take(3) {
        ledger.reach(&id, *status).unwrap();
        heartbeat.measure(move || Used { cpu_ns: Some(number.into()), ..Used::default() });
    }
    // Until it is killed.
    loop {
        thread::park();
    }
}

#[test]
fn a_new_ledger_opened_by_many_threads_at_once_loses_nothing() {
    const WRITERS: u32 = 12;
    const TASKS: u32 = 4;
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
    let records = Ledger::open(&home).unwrap().list(&Filter::default()).unwrap();
    assert_eq!(records.len(), usize::try_from(WRITERS * TASKS).unwrap());
    let open = records.iter().filter(|record| record.end.is_none()).count();
    assert_eq!(open, usize::try_from(WRITERS * TASKS / 4).unwrap());
}
