//! Tasks in the background: their life from `run -d` to `rm`, and what becomes of them when a process is killed.

use std::{fs, thread};

use anyhow::{Context, Result};
use e2e::home::Home;
use e2e::place::fixture;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

/// A command that says something and then waits for SIGTERM.
const POLITE: &str = "trap 'echo bye; exit 7' TERM; echo ready; echo oops >&2; while :; do sleep 0.1; done";

/// A command that waits for SIGUSR1 and then goes on with what follows.
const PATIENT: &str = "trap go=1 USR1; echo ready; until [ $go ]; do sleep 0.1; done; ";

/// Waits until the task has said that it is ready, and takes signals.
fn ready(home: &Home, task: &str) {
    while !home.ask(&format!("logs {task}")).contains("ready") {}
}

fn field(task: &Value, name: &str) -> Value {
    task.get(name).cloned().unwrap_or_default()
}

#[test]
fn a_task_is_started_looked_at_stopped_and_removed() -> Result<()> {
    let home = Home::new();
    let id = home.start(&["--name", "one", "--label", "team=a", "-l", "x"], POLITE);
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let list = home.ask("ps");
    let row = list.lines().nth(1).context("a row")?;
    assert!(row.starts_with(&id[..12]) && row.contains("Running for") && row.ends_with("one"), "{list}");
    assert_eq!(home.ask("ps -q --no-trunc -f label=team=a -f name=on"), id);
    assert_eq!(home.ask("ps -q -f label=team=b"), "");
    let row = home.call(["ps", "--format", "{{.Name}} {{.Status}} {{.Labels.team}} {{json .ExitCode}}"]).output();
    assert_eq!(row.expect_code(0).text(), "one RUNNING a null");

    // A name is one task's, and a wrong one nobody's.
    let image = fixture("busybox:latest");
    home.call(["run", "-d", "--name", "one", &image]).output().expect_failure(125, &["one", &id, "taskrun rm"]);
    home.call(["run", "-d", "--name", "o ne", &image]).output().expect_failure(125, &["o ne", "letters"]);
    home.call(["rm", "one"]).output().expect_failure(1, &["one", "is running"]);
    assert_eq!(home.ask("ps -aq --no-trunc"), id);

    ready(&home, "one");
    let waiting = home.call(["wait", "one"]).start();
    assert_eq!(home.ask("stop -t 100 one"), "one");
    assert_eq!(waiting.finish().expect_code(0).text(), "7");
    assert_eq!(home.ask("ps -q"), "");
    assert!(home.ask("ps -a").contains("Stopped (7)"));
    let task = home.inspect(&id[..8]);
    let expected = [("status", json!("STOPPED")), ("exit_code", json!(7)), ("stop_code", json!("UserInitiated"))];
    for (name, value) in expected.into_iter().chain([("settled", json!(false)), ("supervisor", Value::Null)]) {
        assert_eq!(field(&task, name), value, "{name}: {task:#}");
    }
    let stamps =
        ["created_at", "pull_started_at", "pull_stopped_at", "started_at", "stopping_at", "execution_stopped_at"];
    let stamps = stamps.into_iter().chain(["stopped_at"]).map(|name| field(&task, name).as_str().map(str::to_owned));
    let stamps = stamps.collect::<Option<Vec<_>>>().with_context(|| format!("a stamp is missing: {task:#}"))?;
    assert!(stamps.is_sorted(), "{stamps:?}");

    let logs = home.expect("logs one", 0);
    assert_eq!((logs.text().as_str(), logs.errors().as_str()), ("ready\nbye", "oops\n"));
    assert_eq!(home.ask("logs -n 1 one"), "bye");
    assert_eq!(home.ask("logs --since 0s one"), "");
    assert_eq!(home.ask("logs --until 1h one"), "");
    let stamped = home.ask("logs --follow --timestamps one");
    let (time, text) = stamped.lines().next().and_then(|line| line.split_once(' ')).context("a stamp")?;
    assert!(text == "ready" && time.ends_with('Z') && *time >= *stamps[3] && *time <= *stamps[6], "{stamped}");

    home.call(["kill", "one"]).output().expect_failure(1, &["one", "isn't running"]);
    assert_eq!(home.ask("stop one"), "one", "a task that has ended is stopped");
    assert_eq!(home.ask("rm one"), "one");
    home.call(["inspect", "-f", "{{.Id}}", "one"]).output().expect_failure(1, &["one"]);
    assert!(home.ask("usage --format json").contains(&id), "the usage is gone");
    home.finish();
    Ok(())
}

#[test]
fn a_log_is_followed_through_its_files_to_the_end() -> Result<()> {
    let home = Home::new();
    let script = format!("{PATIENT} seq 1 2000; exit 3");
    let id = home.start(&["--name", "seq", "--log-opt", "max-size=4k", "--log-opt", "max-file=1000"], &script);
    let mut follower = home.call(["logs", "-f", "seq"]).start();
    follower.read_until("ready\n");
    assert_eq!(home.ask("kill -s USR1 seq"), "seq");
    let expected: String = (1..=2000).map(|line| format!("{line}\n")).collect();
    assert_eq!(String::from_utf8(follower.finish().expect_code(0).stdout)?, expected);
    assert_eq!(home.ask("wait seq"), "3");
    assert_eq!(home.ask("logs seq") + "\n", format!("ready\n{expected}"));
    assert_eq!(home.ask("logs -n 2 seq"), "1999\n2000");
    let files = home.log_sizes(&id);
    assert!(files.len() > 10 && files.iter().all(|size| *size <= 4096), "{files:?}");
    home.finish();
    Ok(())
}

#[test]
fn a_supervisor_or_a_vmm_that_is_killed_is_noticed() -> Result<()> {
    let home = Home::new();
    let ids = thread::scope(|scope| {
        let start = |name| {
            scope.spawn({
                let home = &home;
                move || home.start(&["--name", name], POLITE)
            })
        };
        [start("orphan"), start("headless")].map(std::thread::ScopedJoinHandle::join)
    });
    assert!(ids.iter().all(std::result::Result::is_ok));
    ready(&home, "orphan");
    let waiting = home.call(["wait", "orphan", "headless"]).start();
    let following = home.call(["logs", "-f", "orphan"]).start();
    kill(home.supervisor("orphan"), Signal::SIGKILL)?;
    assert_eq!(following.finish().expect_code(0).text(), "ready");
    kill(home.vmm(home.supervisor("headless")), Signal::SIGKILL)?;
    assert_eq!(waiting.finish().expect_code(0).text(), "255\n125");
    assert_eq!(home.ask("ps -q"), "");
    let task = home.inspect("orphan");
    assert_eq!((field(&task, "settled"), field(&task, "exit_code")), (json!(true), Value::Null), "{task:#}");
    assert!(field(&task, "stopped_reason").to_string().contains("supervisor"), "{task:#}");
    let task = home.inspect("headless");
    assert_eq!((field(&task, "settled"), field(&task, "exit_code")), (json!(false), json!(125)), "{task:#}");
    home.call(["stop", "-t", "1", "orphan", "nobody"]).output().expect_failure(1, &["nobody"]);
    assert_eq!(home.ask("logs orphan"), "ready");
    home.finish();
    Ok(())
}

#[test]
fn a_task_that_does_not_start_says_why_to_its_caller() -> Result<()> {
    let home = Home::new();
    let image = fixture("busybox:latest");
    let run = |image: &str, command: &str| home.call(["run", "-d", "--memory", "256MB", image, command]).output();
    run("oci:/no/such/layout", "true").expect_failure(125, &["/no/such/layout"]);
    run(&image, "no-such-command").expect_failure(127, &["no-such-command", "not found"]);
    run(&image, "/etc/passwd").expect_failure(126, &["/etc/passwd"]);
    home.call(["run", "-d", "-i", &image]).output().expect_failure(125, &["--interactive"]);
    assert_eq!(home.ask("ps -q"), "");
    assert_eq!(home.tasks().read_dir()?.count(), 0, "folders of tasks that never ran");
    let last = home.ask("ps -aq").lines().next().map(str::to_owned).context("a row")?;
    let reason = home.ask(&format!("inspect -f {{{{.StoppedReason}}}} {last}"));
    assert!(reason.contains("/etc/passwd"), "{reason}");
    assert_eq!(home.ask(&format!("logs -f {last}")), "");

    // A caller that is killed takes the start with it.
    let mut caller = home.call(["run", "-d", "--cold", &image, "sleep", "1000"]).start();
    while home.ask("ps -q -f status=pending").is_empty() {}
    caller.child.kill()?;
    home.wait_for_silence();
    let _ = caller.finish();
    assert!(home.ask("ps -a").contains("Stopped (143)"));
    home.finish();
    Ok(())
}

#[test]
fn what_is_to_be_removed_goes_at_its_end() -> Result<()> {
    let home = Home::new();
    let id = home.start(&["--rm", "--name", "brief"], POLITE);
    ready(&home, "brief");
    let waiting = home.call(["wait", "brief"]).start();
    let following = home.call(["logs", "-f", "brief"]).start();
    // Both are there before the end: each waits for a descriptor, in poll(2).
    let polls = |pid| fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|call| call.starts_with("7 "));
    let waits = |(pid, line): &(_, String)| (line.contains("wait") || line.contains("logs")) && polls(*pid);
    while home.processes().iter().filter(|process| waits(process)).count() < 2 {}
    assert_eq!(home.ask("stop brief"), "brief");
    assert_eq!(waiting.finish().expect_code(0).text(), "7");
    assert_eq!(following.finish().expect_code(0).text(), "ready\nbye");
    home.wait_for_silence();
    assert_eq!((home.ask("ps -aq"), home.tasks().join(&id).exists()), (String::new(), false));

    // Its name is free. A task in the foreground has a row too, but no log.
    let image = fixture("busybox:latest");
    let outcome = home.call(["run", "--name", "brief", "--memory", "256MB", &image, "echo", "hello"]).output();
    assert_eq!(outcome.expect_code(0).text(), "hello");
    assert!(home.ask("ps -a").ends_with("brief"));
    home.call(["logs", "brief"]).output().expect_failure(1, &["brief", "foreground"]);
    assert_eq!(home.ask("rm brief"), "brief");
    let id = home.start(&["--name", "forced"], "sleep 1000");
    assert_eq!(home.ask(&format!("rm -f {id}")), "forced");
    assert_eq!(home.ask("ps -aq"), "");
    home.finish();
    Ok(())
}
