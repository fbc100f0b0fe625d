//! Unpacking as a task's user sees it: an image of very many files, and ends that come meanwhile. Then the task is in the ledger as
//! what it was, nothing is left of it, and the next run unpacks the image and runs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::home::Home;
use e2e::image::{GZIP_LAYER, Image, Stored};
use e2e::layer::{Layer, many_files, mode};
use e2e::task::{Outcome, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The megabytes of the image: unpacking it goes on for a while after the first of them is written.
const MEGABYTES: u64 = 48;

/// An end that waits for nothing takes less.
const AT_ONCE: Duration = Duration::from_secs(10);

/// How far the recorded end of a task may be from its real one: two heartbeats where the host is busy, and a second for it.
const TOLERANCE: Duration = Duration::from_secs(2);

/// How many files the image of many has, instead of what is quick: for a run by hand. A million take the host 4 GiB.
const FILES_VARIABLE: &str = "TASKRUN_TEST_FILES";
const FILES: u64 = 20_000;

/// A state directory with an empty store, and an image that takes a while to unpack.
struct Bench {
    home: Home,
    _layout: TempDir,
    image: String,
}

/// A task whose image is being unpacked.
struct Unpacking<'a> {
    bench: &'a Bench,
    name: &'static str,
    running: Running,
}

impl Bench {
    fn new() -> Result<Self> {
        let layout = tempfile::tempdir()?;
        let noise = test_registry::bytes(usize::try_from(MEGABYTES << 20)?, 11);
        let layer = Layer::new().file("noise", mode(0o644), noise);
        let image = Image::with_shell()?.layer(&layer, Stored::Gzip).write(layout.path())?;
        Ok(Self { home: Home::new().own_store(), _layout: layout, image })
    }

    /// The bytes on the disk of what is being unpacked.
    fn unpacked(&self) -> u64 {
        let files = fs::read_dir(self.home.path().join("images/rootfs")).into_iter().flatten().flatten();
        let building = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "building"));
        building.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
    }

    /// Starts a task, and waits until a guest is writing its image.
    fn start(&self, name: &'static str, detach: bool) -> Result<Unpacking<'_>> {
        let mode = if detach { "-d" } else { "-i" };
        let words = ["run", mode, "--name", name, "--memory", "256MB", &self.image, "echo", "ran"];
        let mut running = self.home.call(words).start();
        // What an earlier guest has written counts only until the new one begins, with an empty file.
        while self.home.ask(&format!("ps -q -f name={name}")).is_empty()
            || self.unpacked() < 1 << 20
            || !self.is_served()
        {
            ensure!(running.child.try_wait()?.is_none(), "{name} ended before it was unpacked");
        }
        Ok(Unpacking { bench: self, name, running })
    }

    /// Whether there is a VMM.
    fn is_served(&self) -> bool {
        self.home.processes().iter().any(|(_, line)| line.contains("taskrun-vmm"))
    }

    /// What is left when nobody runs any more: the ledger, and a store that is valid and has no such image.
    fn assert_nothing_left(&self) -> Result<()> {
        self.home.wait_for_silence();
        assert_eq!(self.home.ask("ps -q"), "");
        let report: Value = serde_json::from_str(&self.home.ask("image verify --format json"))?;
        let (valid, rootfs) = (report.get("valid"), report.get("rootfs"));
        assert_eq!((valid, rootfs), (Some(&json!(true)), Some(&json!(0))), "{report:#}");
        Ok(())
    }
}

impl Unpacking<'_> {
    fn supervisor(&self) -> Pid {
        self.bench.home.supervisor(self.name)
    }

    fn vmm(&self) -> Pid {
        self.bench.home.vmm(self.supervisor())
    }

    /// Waits for the end of the call that began at `ended`, and looks at what is entered for the task.
    fn expect(self, code: i32, ended: Instant, expected: &[(&str, Value)]) -> Result<Outcome> {
        let Self { bench, name, running } = self;
        let outcome = running.finish().expect_code(code);
        assert!(ended.elapsed() < AT_ONCE, "{name}: {:?}", ended.elapsed());
        let task = bench.home.inspect(name);
        let always = [("status", json!("STOPPED")), ("started_at", Value::Null), ("pull_stopped_at", Value::Null)];
        for (field, value) in always.iter().chain(expected) {
            assert_eq!(task.get(field), Some(value), "{field} of {name}: {task:#}");
        }
        bench.assert_nothing_left()?;
        Ok(outcome)
    }
}

#[test]
fn unpacking_is_ended_at_any_time_and_begun_again() -> Result<()> {
    let bench = Bench::new()?;
    let by_its_user =
        |code: i32| [("exit_code", json!(code)), ("stop_code", json!("UserInitiated")), ("settled", json!(false))];

    let task = bench.start("terminated", false)?;
    let ended = Instant::now();
    task.running.signal(Signal::SIGTERM);
    let errors = task.expect(143, ended, &by_its_user(143))?.errors();
    assert_eq!(errors.lines().count(), 1, "{errors}");

    let task = bench.start("stopped", true)?;
    let ended = Instant::now();
    assert_eq!(bench.home.ask("stop stopped"), "stopped");
    let _ = task.expect(143, ended, &by_its_user(143))?;

    let task = bench.start("killed", true)?;
    let ended = Instant::now();
    assert_eq!(bench.home.ask("kill killed"), "killed");
    let _ = task.expect(137, ended, &by_its_user(137))?;

    // A VMM that is killed is an end that its supervisor tells.
    let task = bench.start("headless", false)?;
    let ended = Instant::now();
    kill(task.vmm(), Signal::SIGKILL)?;
    let failed = [("exit_code", json!(125)), ("stop_code", json!("TaskFailedToStart")), ("settled", json!(false))];
    let outcome = task.expect(125, ended, &failed)?;
    outcome.expect_failure(125, &["unpacked", "signal"]);
    assert_eq!(bench.home.tasks().read_dir()?.count(), 0, "folders of tasks that never ran");

    // A supervisor that is killed leaves its end to the next command. Its caller ends as it did.
    let task = bench.start("orphan", true)?;
    let (ended, at) = (Instant::now(), jiff::Timestamp::now());
    kill(task.supervisor(), Signal::SIGKILL)?;
    let settled = [("exit_code", Value::Null), ("stop_code", json!("TaskFailedToStart")), ("settled", json!(true))];
    let _ = task.expect(137, ended, &settled)?;
    let stopped_at = bench.home.inspect("orphan").get("stopped_at").cloned().unwrap_or_default();
    let stopped_at: jiff::Timestamp = stopped_at.as_str().context("an end")?.parse()?;
    assert!(stopped_at.duration_since(at).abs() <= jiff::SignedDuration::try_from(TOLERANCE)?, "{stopped_at} for {at}");

    let image = &bench.image;
    let outcome = bench.home.call(["run", "--rm", "--memory", "256MB", image, "stat", "-c", "%s", "/noise"]).output();
    assert_eq!(outcome.expect_code(0).text(), (MEGABYTES << 20).to_string());
    let _ = bench.home.ask("image prune --all");
    bench.home.finish();
    Ok(())
}

#[test]
fn an_image_of_very_many_files_is_unpacked_within_the_default_limits() -> Result<()> {
    let count: u64 = std::env::var(FILES_VARIABLE).map_or(Ok(FILES), |text| text.parse())?;
    let layout = tempfile::tempdir()?;
    let (blob, diff_id) = many_files(count);
    let image = Image::with_shell()?.blob(blob, GZIP_LAYER, diff_id).write(layout.path())?;
    let home = Home::new().own_store();
    let last = count - 1;
    let (directory, name) = (last / 1000, last % 1000);
    let script = format!("cd /many; ls | wc -l; ls 0000 | wc -l; cat {directory:04}/{name:03} 0000/007");
    let timings = layout.path().join("timings");
    let timings = timings.to_str().context("a path")?;
    let words = ["run", "--rm", "--memory", "256MB", "--timings", timings, &image, "sh", "-c", &script];
    let outcome = home.call(words).output().expect_code(0);
    println!("{count} files: {}", fs::read_to_string(timings)?);
    assert_eq!(outcome.text(), format!("{}\n1000\n{}7", count.div_ceil(1000), last % 10));
    let _ = home.ask("image prune --all");
    home.finish();
    Ok(())
}
