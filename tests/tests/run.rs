//! `taskrun run` as its user meets it: process settings, the container's surroundings, signals, timings, usage.

use std::fs;

use anyhow::{Context, Result};
use e2e::image::Image;
use e2e::leftovers;
use e2e::place::fixture;
use e2e::task::{Task, taskrun};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::tempdir;

/// `taskrun run OPTIONS busybox COMMAND`.
fn run(options: &[&str], command: &[&str]) -> Task {
    run_tag("latest", options, command)
}

fn run_tag(tag: &str, options: &[&str], command: &[&str]) -> Task {
    let image = fixture(&format!("busybox:{tag}"));
    taskrun(["run"].iter().chain(options).copied().chain([&*image]).chain(command.iter().copied()))
}

fn text(task: Task) -> String {
    task.output().expect_code(0).text()
}

#[test]
fn the_short_form_and_the_images_own_command() {
    let image = fixture("busybox:entry");
    assert_eq!(text(taskrun([&image])), "entry cmd");
    assert_eq!(text(taskrun([&*image, "other", "words"])), "entry other words");
    assert_eq!(text(taskrun(["--entrypoint", "/bin/basename", &*image, "/a/b"])), "b");
    let image = fixture("busybox:nocmd");
    taskrun([&image]).output().expect_failure(125, &["command"]);
}

#[test]
fn environment_and_working_directory() -> Result<()> {
    let directory = tempdir()?;
    let file = directory.path().join("variables");
    fs::write(&file, "# a comment\nFROM_FILE=one two\nTAKEN\n")?;
    let file = file.display().to_string();
    let script = "pwd; echo \"$FROM_FILE|$TAKEN|$GIVEN|$PATH|$HOME|$HOSTNAME\"; hostname";
    let options = ["--env-file", &file, "-e", "GIVEN=x=y", "-w", "/made/here", "--hostname", "named"];
    let outcome = run(&options, &["sh", "-c", script]).env("TAKEN", "caller").output().expect_code(0);
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(outcome.text(), format!("/made/here\none two|caller|x=y|{path}|/root|named\nnamed"));
    assert_eq!(text(run_tag("workdir", &[], &["pwd"])), "/srv/made");
    Ok(())
}

#[test]
fn users_are_the_images_own() {
    let id = |user: &str| text(run(&["-u", user], &["sh", "-c", "id; echo $HOME"]));
    assert!(id("app").starts_with("uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)\n"), "{}", id("app"));
    assert!(id("1000").contains("groups=1000(app),2000(extra)"));
    assert_eq!(id("4242:4343"), "uid=4242 gid=4343 groups=4343\n/");
    assert!(id("app:extra").starts_with("uid=1000(app) gid=2000(extra) groups=2000(extra)\n"));
    assert!(text(run_tag("user", &[], &["id", "-un"])).starts_with("app"));
}

#[test]
fn the_command_sees_a_container() -> Result<()> {
    let script = "grep -E '^(CapEff|CapBnd|CapInh|NoNewPrivs):' /proc/self/status; \
        for n in null zero full random urandom tty ptmx pts shm mqueue fd stdin stdout stderr; do ls -d /dev/$n; done; \
        mount | grep -E ' on /(proc|sys|dev|dev/pts|dev/shm|dev/mqueue|sys/fs/cgroup) ' | cut -d' ' -f3,5 | sort; \
        cat /proc/self/cgroup; ls -d /proc/[0-9]* | wc -l; echo x >/proc/sys/kernel/hostname || echo read-only; \
        head -c 1 /proc/kcore | wc -c; ls /init /newroot 2>&1 | grep -c 'No such'; ip -o link show lo | grep -c UP";
    let outcome = run(&[], &["sh", "-c", script]).output().expect_code(0);
    let text = outcome.text();
    // Docker's default set, as docker 28 shows it.
    assert!(text.contains("CapEff:\t00000000a80425fb") && text.contains("CapBnd:\t00000000a80425fb"), "{text}");
    assert!(text.contains("CapInh:\t0000000000000000"), "{text}");
    for name in ["null", "ptmx", "mqueue", "stderr"] {
        assert!(text.contains(&format!("/dev/{name}\n")), "no {name}: {text}");
    }
    for mount in [
        "/dev tmpfs",
        "/dev/mqueue mqueue",
        "/dev/pts devpts",
        "/dev/shm tmpfs",
        "/proc proc",
        "/sys sysfs",
        "/sys/fs/cgroup cgroup2",
    ] {
        assert!(text.contains(&format!("{mount}\n")), "no {mount}: {text}");
    }
    assert!(text.contains("\n0::/\n"), "the cgroup is not the root of what it sees: {text}");
    let tail: Vec<_> = text.lines().rev().take(4).collect();
    assert_eq!(tail.first().copied(), Some("1"), "loopback is not up: {text}");
    assert_eq!(tail.get(1).copied(), Some("2"), "the guest's own files are in sight: {text}");
    assert_eq!(tail.get(2).copied(), Some("0"), "/proc/kcore can be read: {text}");
    assert_eq!(tail.get(3).copied(), Some("read-only"), "/proc/sys can be written: {text}");
    Ok(())
}

#[test]
fn a_user_without_privileges_has_no_capabilities() {
    let status = text(run(&["-u", "app"], &["grep", "-E", "^Cap(Eff|Prm|Amb):", "/proc/self/status"]));
    assert!(status.lines().all(|line| line.ends_with("0000000000000000")), "{status}");
}

#[test]
fn signals_are_passed_on() {
    let signals = [
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGTERM, "TERM"),
    ];
    let traps: String = signals.iter().map(|(_, name)| format!("trap 'echo got {name}' {name}; ")).collect();
    let script = format!("{traps} trap 'echo got TERM; exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    let mut task = run(&[], &["sh", "-c", &script]).start();
    task.read_until("ready\n");
    for (signal, name) in signals {
        task.signal(signal);
        task.read_until(&format!("got {name}\n"));
    }
    let _ = task.finish().expect_code(7);
}

#[test]
fn a_stop_is_the_images_stop_signal_and_then_a_kill() {
    let script = "trap 'echo asked' USR1; echo ready; while :; do sleep 0.05; done";
    let mut task = run_tag("stopsignal", &["--stop-timeout", "1s"], &["sh", "-c", script]).start();
    task.read_until("ready\n");
    task.signal(Signal::SIGTERM);
    assert_eq!(task.finish().expect_code(137).text(), "asked");
}

#[test]
fn a_killed_taskrun_takes_its_guest_along() -> Result<()> {
    let mut task = run(&[], &["sh", "-c", "echo ready; sleep 1000"]).start();
    task.read_until("ready\n");
    let vmm = task.vmm();
    task.signal(Signal::SIGKILL);
    task.child.wait()?;
    // The VMM sees its control socket end. Its own end is awaited by reading its state until there is none.
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while kill(Pid::from_raw(vmm), None).is_ok() && !is_zombie(vmm) {
        assert!(std::time::Instant::now() < limit, "the VMM outlived taskrun");
        std::thread::yield_now();
    }
    Ok(())
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_killed_vmm_is_a_reason_of_its_own() -> Result<()> {
    let mut task = run(&[], &["sh", "-c", "echo ready; sleep 1000"]).start();
    task.read_until("ready\n");
    kill(Pid::from_raw(task.vmm()), Signal::SIGKILL)?;
    task.finish().expect_failure(125, &["killed by signal 9"]);
    Ok(())
}

#[test]
fn timings_name_each_phase_in_order() -> Result<()> {
    let directory = tempdir()?;
    let file = directory.path().join("timings.json");
    let path = file.display().to_string();
    let outcome = run(&["--timings", &path], &["true"]).output().expect_code(0);
    drop(outcome);
    let timings: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let phases = timings.get("phases").and_then(Value::as_array).context("phases")?;
    let names = phases.iter().filter_map(|phase| phase.get("name")?.as_str());
    // Only the first task of an image unpacks it, and that may be this one; one that boots has no template.
    let names: Vec<_> = names.filter(|name| !name.contains("unpack") && *name != "template-ready").collect();
    let expected = [
        "admitted",
        "image-opened",
        "vmm-started",
        "guest-running",
        "agent-ready",
        "root-mounted",
        "command-prepared",
        "command-started",
        "command-exited",
        "output-ended",
        "vmm-ended",
        "finished",
    ];
    assert_eq!(names, expected);
    let times: Vec<_> = phases.iter().filter_map(|phase| phase.get("at_ns")?.as_u64()).collect();
    assert!(times.is_sorted() && times.len() >= expected.len(), "{times:?}");
    let start = timings.get("process_start_ns").and_then(Value::as_u64).context("a start")?;
    assert!(times.first().is_some_and(|first| *first >= start));
    Ok(())
}

#[test]
fn each_run_leaves_a_row_in_the_ledger() -> Result<()> {
    let image = fixture("busybox:latest");
    let first = run(&["--cpu", "2", "--memory", "1GB"], &["sh", "-c", "exit 3"]).output().expect_code(3);
    let second = first.again(["run", &image, "true"]).output().expect_code(0);
    drop(second);
    let usage = first.again(["usage", "--format", "json"]).output().expect_code(0);
    let rows: Value = serde_json::from_slice(&usage.stdout)?;
    let rows = rows.as_array().context("an array")?;
    assert_eq!(rows.len(), 2);
    let row = rows.iter().find(|row| row.get("exit_code") == Some(&json!(3))).context("the first run")?;
    let field = |name: &str| row.get(name).cloned().unwrap_or_default();
    assert_eq!((field("cpu_units"), field("memory_mib")), (json!(2048), json!(1024)));
    assert_eq!(field("billed_seconds"), json!(60), "a minute is the least that is billed");
    assert_eq!((field("vcpu_seconds").as_f64(), field("gb_seconds").as_f64()), (Some(120.0), Some(60.0)));
    assert!(field("image").as_str().is_some_and(|name| name.contains("busybox")));
    assert!(field("digest").as_str().is_some_and(|digest| digest.starts_with("sha256:")));
    let table = first.again(["usage"]).output().expect_code(0).text();
    assert!(table.contains("busybox") && table.contains("60"), "{table}");
    let verified = first.again(["usage", "verify"]).output().expect_code(0).text();
    assert!(verified.contains("agrees") && verified.contains("2 tasks"), "{verified}");
    let metrics = first.again(["metrics"]).output().expect_code(0).text();
    assert!(metrics.contains("\ntaskrun_tasks_started_total 2\n"), "{metrics}");
    Ok(())
}

#[test]
fn two_tasks_at_once_do_not_meet() {
    let tasks = ["one", "two"].map(|word| run(&[], &["sh", "-c", &format!("hostname; echo {word}")]).start());
    let outputs = tasks.map(|task| task.finish().expect_code(0).text());
    let [one, two] = outputs.map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    assert_eq!((one.last().map(String::as_str), two.last().map(String::as_str)), (Some("one"), Some("two")));
    assert_ne!(one.first(), two.first(), "each has a hostname of its own");
}

#[test]
fn the_kernels_log_is_shown_on_request() {
    let outcome = run(&["--console"], &["echo", "out"]).output().expect_code(0);
    assert_eq!(outcome.text(), "out", "standard output is the command's alone");
    assert!(outcome.errors().contains("Linux version"), "{}", outcome.errors());
}

#[test]
fn mitigations_and_smap_are_on_where_the_hardware_virtualises() {
    let script =
        "cat /sys/devices/system/cpu/vulnerabilities/spectre_v2; grep -o -w -m1 smap /proc/cpuinfo; cat /proc/cmdline";
    let text = text(run(&[], &["sh", "-c", script]));
    assert!(text.contains("Mitigation: ") && text.contains("\nsmap\n"), "{text}");
    assert!(!text.contains("taskrun.deprivileged"), "remedies on a host that needs none: {text}");
}

#[test]
fn closed_output_ends_the_command_as_a_broken_pipe() -> Result<()> {
    let mut task = run(&[], &["sh", "-c", "yes; echo status $? >&2"]).start();
    task.read_until("y\n");
    drop(task.child.stdout.take());
    let outcome = task.finish();
    assert!(outcome.errors().contains("status"), "the command did not end: {}", outcome.errors());
    Ok(())
}

#[test]
fn the_images_environment_gives_way_and_its_files_stay_as_they_are() -> Result<()> {
    let directory = tempdir()?;
    let image = Image::with_shell()?.set("Env", json!(["A=image", "PATH=/bin"])).write(directory.path())?;
    let contents =
        || leftovers::files(directory.path()).into_iter().map(|path| (fs::read(&path).ok(), path)).collect::<Vec<_>>();
    let before = contents();
    let outcome = taskrun(["run", "-e", "A=caller", &image, "sh", "-c", "echo $A; echo x >/dev/null && cat /dev/null"]);
    assert_eq!(outcome.output().expect_code(0).text(), "caller");
    assert!(contents() == before, "the run changed the image's files");
    Ok(())
}
