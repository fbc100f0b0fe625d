//! Shares of processors: a busy task gets what it was allocated, whoever holds it to that.
//!
//! A loaded host can only give less. How much less is what the threads waited for a processor while nobody held them back.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result};
use e2e::home::Home;
use nix::sys::signal::{Signal, kill};
use serde_json::json;

/// What `[cpu] enforce` can be, and what `inspect` says then.
const MECHANISMS: [(&str, &str); 3] = [("cgroup2", "cgroup v2"), ("cgroup1", "cgroup v1"), ("vmm", "VMM")];

/// How many seconds the share is measured instead of [`WINDOW`], and of which shares instead of [`SHARES`]: for a run by hand.
const WINDOW_VARIABLE: &str = "TASKRUN_TEST_SHARES_SECONDS";
const SHARES_VARIABLE: &str = "TASKRUN_TEST_SHARES";

const WINDOW: Duration = Duration::from_secs(20);

/// Those that run beside one another: more than two processors can give, so one task or another waits.
const SHARES: &str = "0.25 0.5 1.5";

/// Held by each test: a cgroup whose last process has just ended, which is yet to be removed, looks like one that was left behind to
/// a run that ends meanwhile.
static CGROUPS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    CGROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far from its share a task may be.
const TOLERANCE: f64 = 0.03;

/// A state directory whose configuration wants this mechanism; `None` where the host lacks it.
fn home(mechanism: &str) -> Result<Option<Home>> {
    let home = Home::new();
    home.configure(&format!("[cpu]\nenforce = \"{mechanism}\"\n"));
    let report = home.call(["doctor"]).output().text();
    let line = report.lines().find(|line| line.contains("CPU shares")).context("a line")?;
    Ok(line.starts_with("ok").then_some(home))
}

/// What a VMM's threads have had, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Time {
    used: f64,
    /// They wanted a processor, were not held back, and got none.
    waited: f64,
}

/// A task that is measured.
struct Busy {
    share: f64,
    vmm: i32,
    cgroup: Option<PathBuf>,
}

impl Busy {
    fn start(home: &Home, share: &str) -> Result<Self> {
        let script = "echo ready; (while :; do :; done) & while :; do :; done";
        let id = home.start(&["--cpu", share], script);
        let supervisor = home.supervisor(&id);
        let vmm = home.vmm(supervisor).as_raw();
        let cgroup = fs::read_link(home.path().join("cgroups").join(&id)).ok();
        Ok(Self { share: share.parse()?, vmm, cgroup })
    }

    fn time(&self) -> Result<Time> {
        let mut time = Time::default();
        for thread in fs::read_dir(format!("/proc/{}/task", self.vmm))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let mut numbers = text.split_whitespace().map(str::parse::<f64>);
            time.used += numbers.next().context("a number")?? / 1e9;
            time.waited += numbers.next().context("a number")?? / 1e9;
        }
        time.waited -= self.cgroup.as_deref().map_or(Ok(0.0), throttled)?;
        Ok(time)
    }
}

/// How long a cgroup was held back, in seconds.
fn throttled(cgroup: &Path) -> Result<f64> {
    let stat = fs::read_to_string(cgroup.join("cpu.stat"))?;
    let field = |name: &str, unit: f64| {
        let number = stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        number.map(|number| number / unit)
    };
    field("throttled_usec ", 1e6).or(field("throttled_time ", 1e9)).context("a time")
}

#[test]
fn a_busy_task_gets_its_share_on_each_mechanism_that_the_host_has() -> Result<()> {
    let _alone = alone();
    let mut seen = Vec::new();
    let window = env::var(WINDOW_VARIABLE).ok().map(|seconds| seconds.parse().map(Duration::from_secs)).transpose()?;
    let window = window.unwrap_or(WINDOW);
    let shares = env::var(SHARES_VARIABLE).unwrap_or_else(|_| SHARES.to_owned());
    for (mechanism, name) in MECHANISMS {
        let Some(home) = home(mechanism)? else { continue };
        let tasks: Vec<_> = shares.split(' ').map(|share| Busy::start(&home, share)).collect::<Result<_>>()?;
        let ids = home.ask("ps -q");
        for id in ids.lines() {
            assert_eq!(home.inspect(id).get("cpu_enforcement"), Some(&json!(name)));
        }
        // The first period is there to be used at once.
        thread::sleep(Duration::from_secs(1));
        let now = || tasks.iter().map(Busy::time).collect::<Result<Vec<_>>>();
        let (start, before) = (Instant::now(), now()?);
        thread::sleep(window);
        let (elapsed, after) = (start.elapsed().as_secs_f64(), now()?);
        for (task, (before, after)) in tasks.iter().zip(before.into_iter().zip(after)) {
            let (used, waited) = (after.used - before.used, (after.waited - before.waited).max(0.0));
            let share = task.share * elapsed;
            println!("{name} {}: used {used:.3} s of {share:.3} s, waited {waited:.3} s", task.share);
            assert!(used <= share * (1.0 + TOLERANCE), "{name}: {used} s instead of {share} s");
            assert!(used + waited >= share * (1.0 - TOLERANCE), "{name}: {used} s instead of {share} s");
        }
        for id in ids.lines() {
            let _ = home.ask(&format!("rm -f {id}"));
        }
        assert!(tasks.iter().filter_map(|task| task.cgroup.as_ref()).all(|cgroup| !cgroup.exists()));
        seen.push(mechanism);
        home.finish();
    }
    assert!(seen.contains(&"vmm"), "{seen:?}");
    Ok(())
}

#[test]
fn whole_vcpus_need_nobody_and_a_dead_supervisors_cgroup_is_removed() -> Result<()> {
    let _alone = alone();
    let home = Home::new();
    let id = home.start(&["--cpu", "1", "--rm"], "sleep 1000");
    assert_eq!(home.inspect(&id).get("cpu_enforcement"), Some(&json!("none: whole vCPUs")));
    assert!(!home.path().join("cgroups").join(&id).exists());
    let _ = home.ask(&format!("kill {id}"));
    let _ = home.call(["wait", &id]).output();

    let id = home.start(&["--cpu", "0.5"], "sleep 1000");
    let link = home.path().join("cgroups").join(&id);
    let cgroup = fs::read_link(&link).ok();
    assert!(cgroup.iter().all(|cgroup| cgroup.is_dir()));
    kill(home.supervisor(&id), Signal::SIGKILL)?;
    home.wait_for_silence();
    // Until its new parent has taken note of its end, the VMM's process keeps its cgroup.
    let limit = Instant::now() + Duration::from_secs(60);
    while link.is_symlink() {
        assert!(Instant::now() < limit, "{cgroup:?}");
        assert_eq!(home.ask("ps -q"), "");
    }
    assert!(cgroup.iter().all(|cgroup| !cgroup.exists()), "{cgroup:?}");
    home.finish();
    Ok(())
}

#[test]
fn a_mechanism_that_the_host_lacks_is_an_error() -> Result<()> {
    let _alone = alone();
    for (mechanism, _) in MECHANISMS {
        if home(mechanism)?.is_some() {
            continue;
        }
        let home = Home::new();
        home.configure(&format!("[cpu]\nenforce = \"{mechanism}\"\n"));
        let image = e2e::place::fixture("busybox:latest");
        let run = |share: &str| home.call(["run", "--cpu", share, "--memory", "128MB", &image, "true"]).output();
        run("0.25").expect_failure(125, &["cgroup", "enforce"]);
        let _ = run("1").expect_code(0);
        home.finish();
    }
    Ok(())
}
