//! Ends that come at a bad time: while the image is pulled, on a full disk, with the clock set back and forth. Those that come while the
//! image is unpacked are in `unpacking`.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use e2e::home::Home;
use e2e::leftovers::TEST_MOUNT;
use e2e::place::{Suite, fixture, suite};
use e2e::task::taskrun;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime, clock_settime};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// An end that waits for nothing takes less.
const AT_ONCE: Duration = Duration::from_secs(10);

/// How far the recorded end of a task may be from its real one.
const NEAR: Duration = Duration::from_secs(1);

/// The clock of all that runs here: who sets it holds this alone, and who compares what it says holds it with others.
static CLOCK: RwLock<()> = RwLock::new(());

fn field(task: &Value, name: &str) -> Value {
    task.get(name).cloned().unwrap_or_default()
}

#[test]
fn a_pull_is_ended_at_once() -> Result<()> {
    let _clock = CLOCK.read().unwrap_or_else(PoisonError::into_inner);
    // It takes connections and says nothing.
    let registry = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let image = format!("docker://{}/slow:1", registry.local_addr()?);
    let home = Home::new();
    let pulled = |name: &str, detach: bool| {
        let mode = if detach { "-d" } else { "-i" };
        let running = home.call(["run", mode, "--name", name, "--memory", "256MB", &image, "true"]).start();
        while home.ask(&format!("ps -q -f status=provisioning -f name={name}")).is_empty() {}
        while field(&home.inspect(name), "pull_started_at").is_null() {}
        running
    };
    let ended = |name: &str, code: i32, started: Instant| {
        let task = home.inspect(name);
        assert!(started.elapsed() < AT_ONCE, "{name}: {:?}", started.elapsed());
        let fields = ["status", "stop_code", "exit_code", "settled", "pull_stopped_at"].map(|name| field(&task, name));
        assert_eq!(fields, [json!("STOPPED"), json!("UserInitiated"), json!(code), json!(false), Value::Null]);
    };
    let running = pulled("stopped", true);
    let started = Instant::now();
    assert_eq!(home.ask("stop stopped"), "stopped");
    ended("stopped", 143, started);
    let _ = running.finish().expect_code(143);

    let running = pulled("killed", true);
    let started = Instant::now();
    assert_eq!(home.ask("kill killed"), "killed");
    let _ = running.finish().expect_code(137);
    ended("killed", 137, started);

    let running = pulled("interrupted", false);
    let started = Instant::now();
    running.signal(Signal::SIGINT);
    let errors = running.finish().expect_code(130).errors();
    ended("interrupted", 130, started);
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert_eq!(home.tasks().read_dir()?.count(), 0);
    home.finish();
    Ok(())
}

/// A file system in memory, small, with a state directory in it.
struct Small(Home);

impl Small {
    fn new() -> Result<Self> {
        let home = Home::new();
        let root = home.path().join(TEST_MOUNT);
        fs::create_dir(&root)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&root).status()?;
        ensure!(mounted.success(), "no tmpfs");
        std::os::unix::fs::symlink(home.path().join("images"), root.join("images"))?;
        Ok(Self(home))
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join(TEST_MOUNT)
    }

    fn ask(&self, words: &[&str]) -> String {
        self.0.call(words).env("TASKRUN_HOME", self.root()).output().expect_code(0).text()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.root()).status();
    }
}

/// Fills a file system to its last byte. Gives the file that does.
fn fill(root: &Path) -> Result<std::path::PathBuf> {
    let path = root.join("filler");
    let mut file = File::create(&path)?;
    for size in [4096, 1] {
        loop {
            match file.write(&vec![b'x'; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(path)
}

#[test]
fn an_exit_code_is_not_lost_when_the_disk_is_full() -> Result<()> {
    let _clock = CLOCK.read().unwrap_or_else(PoisonError::into_inner);
    let small = Small::new()?;
    let script = "trap 'exit 42' USR1; echo ready; while :; do sleep 0.1; done";
    let image = fixture("busybox:latest");
    let id = small.ask(&["run", "-d", "--memory", "256MB", &image, "sh", "-c", script]);
    while small.ask(&["logs", &id]) != "ready" {}
    let filler = fill(&small.root())?;
    assert_eq!(small.ask(&["kill", "-s", "USR1", &id]), id);
    small.0.wait_for_silence();
    fs::remove_file(filler)?;
    let tasks: Vec<Value> = serde_json::from_str(&small.ask(&["inspect", &id]))?;
    let task = tasks.first().context("a task")?;
    assert_eq!((field(task, "status"), field(task, "exit_code")), (json!("STOPPED"), json!(42)), "{task:#}");
    assert!(field(task, "stopped_reason").to_string().contains("exited with code 42"), "{task:#}");
    let _ = small.ask(&["usage", "verify"]);
    Ok(())
}

#[test]
fn a_state_directory_that_cannot_be_written_is_told_before_anything_runs() {
    let image = fixture("busybox:latest");
    let task = taskrun(["run", "--memory", "256MB", &image, "echo", "ran"]);
    let home = task.home().display().to_string();
    let script = format!("mount --bind {home} {home} && mount -o remount,ro,bind {home} && exec \"$0\" \"$@\"");
    let outcome = task.behind(&["unshare", "--mount", "sh", "-c", &script]).output();
    assert_eq!(outcome.text(), "");
    outcome.expect_failure(125, &["can't be", "TASKRUN_HOME"]);
}

/// Sets the clock of this host so many days on, or back.
fn set_clock(days: i32) -> Result<()> {
    let day = Duration::from_secs(86_400);
    let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?);
    let moved = if days < 0 { now - day * days.unsigned_abs() } else { now + day * days.unsigned_abs() };
    Ok(clock_settime(ClockId::CLOCK_REALTIME, moved.into())?)
}

/// A task that runs, with what it may be billed for.
struct Running<'a> {
    home: &'a Home,
    id: String,
    /// Before it was admitted, and when it ran.
    begun: (Instant, Instant),
}

impl<'a> Running<'a> {
    fn start(home: &'a Home) -> Self {
        let begun = Instant::now();
        let id = home.start(&[], "echo ready; sleep 1000");
        Self { home, id, begun: (begun, Instant::now()) }
    }

    /// Waits until the supervisor has written down what the clock shows since it was set.
    fn notice_the_clock(&self) -> Result<()> {
        let heartbeat = self.home.tasks().join(&self.id).join("heartbeat");
        let is_near = |time: SystemTime| {
            let now = SystemTime::now();
            now.duration_since(time).or_else(|_| time.duration_since(now)).is_ok_and(|apart| apart < NEAR)
        };
        while !is_near(fs::metadata(&heartbeat)?.modified()?) {
            thread::yield_now();
        }
        Ok(())
    }

    /// Ends it with `end`, and waits until its processes are gone. Gives what is to be entered for it.
    fn end(self, settled: bool, end: impl FnOnce(Pid, Pid) -> nix::Result<()>) -> Result<Ended> {
        self.notice_the_clock()?;
        let supervisor = self.home.supervisor(&self.id);
        let vmm = self.home.vmm(supervisor);
        let at = jiff::Timestamp::now();
        let least = self.begun.1.elapsed().as_secs();
        end(supervisor, vmm)?;
        while self.home.processes().iter().any(|(pid, _)| [supervisor, vmm].contains(&Pid::from_raw(*pid))) {}
        let most = (self.begun.0.elapsed() + NEAR).as_secs() + 1;
        Ok(Ended { id: self.id, at: at - NEAR..=jiff::Timestamp::now() + NEAR, settled, billed: least..=most })
    }
}

/// What is to be entered for a task.
struct Ended {
    id: String,
    at: RangeInclusive<jiff::Timestamp>,
    settled: bool,
    billed: RangeInclusive<u64>,
}

impl Ended {
    fn check(&self, home: &Home) -> Result<()> {
        let task = home.inspect(&self.id);
        assert_eq!(
            (field(&task, "status"), field(&task, "settled")),
            (json!("STOPPED"), json!(self.settled)),
            "{task:#}"
        );
        let stopped_at: jiff::Timestamp = field(&task, "stopped_at").as_str().context("an end")?.parse()?;
        assert!(self.at.contains(&stopped_at), "{:?}: {task:#}", self.at);
        let billed = field(&task, "billed_seconds").as_u64().context("seconds")?;
        assert!(self.billed.contains(&billed), "{:?}: {task:#}", self.billed);
        Ok(())
    }
}

#[test]
fn a_clock_that_is_set_changes_no_end_and_no_bill() -> Result<()> {
    // It is the clock of all that runs here.
    if suite() != Suite::Lab {
        return Ok(());
    }
    let _clock = CLOCK.write().unwrap_or_else(PoisonError::into_inner);
    let home = Home::new();
    // So that a second more or less is seen.
    home.configure("[billing]\nminimum_seconds = 1\n");
    let tasks = [(), (), (), ()].map(|()| Running::start(&home));
    let [orphan, headless, both, stopped] = tasks;
    set_clock(2)?;
    let orphan = orphan.end(true, |supervisor, _| kill(supervisor, Signal::SIGKILL))?;
    set_clock(-3)?;
    let headless = headless.end(false, |_, vmm| kill(vmm, Signal::SIGKILL))?;
    set_clock(2)?;
    let both = both.end(true, |supervisor, vmm| kill(supervisor, Signal::SIGKILL).and(kill(vmm, Signal::SIGKILL)))?;
    set_clock(-1)?;
    let id = stopped.id.clone();
    let stopped = stopped.end(false, |_, _| {
        let _ = home.ask(&format!("stop -t 0 {id}"));
        Ok(())
    })?;
    assert_eq!(home.ask("ps -q"), "");
    for ended in [orphan, headless, both, stopped] {
        ended.check(&home)?;
    }
    home.finish();
    Ok(())
}

#[test]
fn a_task_killed_on_a_full_disk_is_settled_when_there_is_room() -> Result<()> {
    let _clock = CLOCK.read().unwrap_or_else(PoisonError::into_inner);
    let small = Small::new()?;
    let image = fixture("busybox:latest");
    let id = small.ask(&["run", "-d", "--memory", "256MB", &image, "sh", "-c", "echo ready; sleep 1000"]);
    while small.ask(&["logs", &id]) != "ready" {}
    let supervisor = Pid::from_raw(small.ask(&["inspect", "-f", "{{.Supervisor}}", &id]).parse()?);
    let filler = fill(&small.root())?;
    let at = jiff::Timestamp::now();
    kill(supervisor, Signal::SIGKILL)?;
    small.0.wait_for_silence();
    // Nothing is begun that could not be entered.
    let call = |words: &[&str]| small.0.call(words).env("TASKRUN_HOME", small.root()).output();
    let refused = call(&["run", "--memory", "256MB", &image, "echo", "ran"]);
    assert_eq!(refused.text(), "");
    refused.expect_failure(125, &["full"]);
    call(&["ps"]).expect_failure(1, &["full"]);
    fs::remove_file(filler)?;
    let inspect = || -> Result<Value> {
        let mut tasks: Vec<Value> = serde_json::from_str(&small.ask(&["inspect", &id]))?;
        tasks.pop().context("a task")
    };
    let task = inspect()?;
    let seen = ["status", "settled", "exit_code"].map(|name| field(&task, name));
    assert_eq!(seen, [json!("STOPPED"), json!(true), Value::Null], "{task:#}");
    let stopped_at: jiff::Timestamp = field(&task, "stopped_at").as_str().context("an end")?.parse()?;
    assert!(stopped_at.duration_since(at).abs() <= jiff::SignedDuration::try_from(NEAR)?, "{stopped_at} for {at}");
    assert_eq!((small.ask(&["ps", "-q"]), inspect()?), (String::new(), task));
    let _ = small.ask(&["usage", "verify"]);
    Ok(())
}
