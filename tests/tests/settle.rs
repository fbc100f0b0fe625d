//! Processes that are killed at random: every task ends up in the ledger with one end, when it really ended.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use e2e::home::Home;
use e2e::place::{self, fixture};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The name of the task that makes what all others start from.
const FIRST: &str = "first";

/// How many tasks run at once.
const WORKERS: usize = 4;

/// How far the recorded end of a task may be from its real one, in milliseconds.
const TOLERANCE: i64 = 1000;

/// Numbers that differ with the seed (xorshift64, Marsaglia).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|now| i64::try_from(now.as_millis()).ok()).unwrap_or(0)
}

/// What a process is to its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It waits for a task that runs, or is about to run, in the background.
    Caller,
    Supervisor,
    Vmm,
}

/// A process of a task, which was killed then.
#[derive(Clone, Debug)]
struct Killed {
    task: String,
    role: Role,
    /// Just before and just after, in milliseconds.
    at: (i64, i64),
}

/// The processes of tasks: process id, task and role.
fn processes(home: &Home) -> Vec<(i32, String, Role)> {
    let of_task = |pid: i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).collect();
        let name = words.iter().position(|word| *word == b"--name").and_then(|at| words.get(at + 1));
        name.map(|name| String::from_utf8_lossy(name).into_owned())
    };
    let mut found = Vec::new();
    for (pid, line) in home.processes() {
        if line.contains("taskrun-vmm") {
            found.extend(of_task(parent(pid)).map(|task| (pid, task, Role::Vmm)));
        } else if let Some(task) = of_task(pid) {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let reports = environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(b"TASKRUN_REPORT="));
            let role = if reports || !line.contains(" -d ") { Role::Supervisor } else { Role::Caller };
            found.push((pid, task, role));
        }
    }
    // A VMM that has not executed its program yet looks like its supervisor.
    let supervisors: Vec<_> =
        found.iter().filter(|(_, _, role)| *role == Role::Supervisor).map(|(pid, ..)| *pid).collect();
    for (pid, _, role) in found.iter_mut().filter(|(_, _, role)| *role == Role::Supervisor) {
        if supervisors.contains(&parent(*pid)) {
            *role = Role::Vmm;
        }
    }
    found
}

/// The process that started this one; 0 when there is none.
fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    parent.unwrap_or(0)
}

/// Kills a process of some task, or all of all tasks.
fn kill_some(home: &Home, random: &mut Random) -> Vec<Killed> {
    let mut victims = processes(home);
    let role = match random.below(10) {
        0 => None,
        1 | 2 => Some(Role::Caller),
        3..=5 => Some(Role::Vmm),
        _ => Some(Role::Supervisor),
    };
    if role.is_some() {
        victims.retain(|(_, _, found)| Some(*found) == role);
        let chosen = usize::try_from(random.below(u64::try_from(victims.len().max(1)).unwrap_or(1))).unwrap_or(0);
        victims = victims.into_iter().skip(chosen).take(1).collect();
    }
    let mut killed = Vec::new();
    for (pid, task, role) in victims {
        let before = now();
        if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
            killed.push(Killed { task, role, at: (before, now()) });
        }
    }
    killed
}

/// A task under this name, of random length, in the foreground or in the background.
fn run(home: &Home, name: &str, random: &mut Random) -> Result<()> {
    let image = fixture("busybox:latest");
    let detached = random.below(2) == 0;
    let script = format!("sleep 0.{}; exit {}", random.below(10), random.below(100));
    let mut command = home.program(&place::taskrun());
    command.args(["run", "--cpu", "0.25", "--memory", "128MB", "--name", name]);
    if detached {
        command.args(["-d", &image, "sh", "-c", &script]);
    } else {
        command.args([&image, "sh", "-c", &script]);
    }
    let status = quiet(&mut command).status()?;
    if detached && status.success() {
        // Also where it has ended, or is being settled by this very command.
        let _ = quiet(home.program(&place::taskrun()).args(["wait", name])).status()?;
    }
    Ok(())
}

/// What taskrun says. Unlike [`Home::ask`] this doesn't look for what tasks leave: others run meanwhile.
fn say(home: &Home, words: &[&str]) -> Result<String> {
    let output = home.program(&place::taskrun()).args(words).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

#[test]
fn whatever_is_killed_every_task_has_one_end_and_the_right_one() -> Result<()> {
    let seed = std::env::var("TASKRUN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| now().unsigned_abs() | 1);
    println!("TASKRUN_TEST_SEED={seed}");
    let home = Home::new();
    // The image and the template, which nobody is to be killed for.
    run(&home, FIRST, &mut Random(7))?;
    let (started, done, kills) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(Vec::new()));
    let moments = AtomicUsize::new(0);
    // How many tasks there are at least, and how many moments at which some process is killed.
    let (tasks, kill_moments) = (place::many(100, 12), place::many(30, 6));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (home, started, moments) = (&home, &started, &moments);
                let mut random =
                    Random(seed ^ (u64::try_from(worker).unwrap_or(0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                scope.spawn(move || -> Result<()> {
                    loop {
                        let number = started.fetch_add(1, Ordering::SeqCst);
                        let enough = number >= tasks && moments.load(Ordering::SeqCst) >= kill_moments;
                        // Some are killed before the ledger has them.
                        if enough && say(home, &["ps", "-aq"])?.lines().count() >= tasks {
                            return Ok(());
                        }
                        run(home, &format!("t{number}"), &mut random)?;
                    }
                })
            })
            .collect();
        let killer = scope.spawn(|| {
            let mut random = Random(seed);
            while !done.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(random.below(3000)));
                let killed = kill_some(&home, &mut random);
                if !killed.is_empty() {
                    moments.fetch_add(1, Ordering::SeqCst);
                    kills.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(killed);
                }
            }
        });
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        let killer = killer.join();
        assert!(killer.is_ok());
        results.into_iter().try_for_each(|result| result.unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked"))))
    })?;
    home.wait_for_silence();
    // Several commands find what is to be settled at once.
    thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(|| say(&home, &["ps", "-q"])))));
    assert_eq!(home.ask("ps -q"), "", "tasks without an end");
    let tasks: Vec<Value> = serde_json::from_str(&home.ask("ps -a --format json"))?;
    let kills = kills.into_inner()?;
    let settled = check(&tasks, &kills)?;
    println!("{} tasks, {} kills at {} moments, {settled} settled", tasks.len(), kills.len(), moments.into_inner());
    assert!(settled > 0, "nothing was settled");
    let _ = home.expect("usage verify", 0);
    home.finish();
    Ok(())
}

/// Compares what the ledger has with what was done. Gives how many tasks were settled.
fn check(tasks: &[Value], kills: &[Killed]) -> Result<usize> {
    let mut by_name = BTreeMap::new();
    let mut settled = 0;
    for task in tasks {
        let name = task["name"].as_str().context("a name")?;
        assert!(by_name.insert(name, task).is_none(), "{name} is there twice");
        let stopped_at: jiff::Timestamp = task["stopped_at"].as_str().context("an end")?.parse()?;
        let stopped_at = stopped_at.as_millisecond();
        let of_role = |role: Role| kills.iter().find(|killed| killed.task == name && killed.role == role);
        let is_settled = task["settled"] == true;
        settled += usize::from(is_settled);
        let near = |killed: &Killed| (killed.at.0 - TOLERANCE..=killed.at.1 + TOLERANCE).contains(&stopped_at);
        // A supervisor whose caller is killed before its command runs ends too: by the signal, or by entering that it came.
        let ends = of_role(Role::Supervisor).or_else(|| of_role(Role::Caller).filter(|_| is_settled));
        match (ends, is_settled) {
            (Some(killed), true) => assert!(near(killed), "{killed:?}: {task:#}"),
            (Some(killed), false) => assert!(stopped_at <= killed.at.1, "{killed:?}: {task:#}"),
            (None, true) => bail!("settled under a living supervisor: {task:#}"),
            (None, false) => {
                // Its supervisor entered the end itself: at once when its VMM was killed, unless it was over by then.
                if let Some(killed) = of_role(Role::Vmm).filter(|_| task["exit_code"] == 125) {
                    assert!(near(killed), "{killed:?}: {task:#}");
                }
                assert!(task["exit_code"].is_number(), "{task:#}");
            }
        }
        // A supervisor that was killed at the very end may have left its task's exit code.
        assert!(is_settled || task["exit_code"].is_number(), "{task:#}");
        assert!(task["billed_seconds"] == 60 || name == FIRST, "{task:#}");
    }
    Ok(settled)
}
