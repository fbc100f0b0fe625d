//! Templates: tasks that start from a saved guest, and what must not be wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use e2e::image::Image;
use e2e::layer::{Layer, mode};
use e2e::place::{self, fixture, many};
use e2e::task::{Outcome, Running, Task, taskrun};
use nix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// How far a guest's clock may be from the host's, in nanoseconds.
const CLOCK_ERROR: i128 = 50_000_000;

/// How long free memory may take to be the host's again. Guests report it every two seconds of theirs.
const REPORTED: Duration = Duration::from_secs(120);

/// The smallest guest: the cheapest template.
const SMALL: [&str; 2] = ["--memory", "128MB"];

/// An image with a shell and the probe.
fn probe_image() -> Result<(TempDir, String)> {
    let directory = tempdir()?;
    let probe = Layer::new().file("probe", mode(0o755), fs::read(place::probe())?);
    let image = Image::with_shell()?.layer(&probe, e2e::image::Stored::Plain).write(directory.path())?;
    Ok((directory, image))
}

fn run(words: &[&str]) -> Task {
    taskrun(["run"].iter().chain(&SMALL).chain(words))
}

/// The templates in this state directory, as JSON.
fn list(home: &Path) -> Result<Vec<Value>> {
    let text = taskrun(["template", "ls", "--format", "json"]).own_templates().env("TASKRUN_HOME", home).output();
    Ok(serde_json::from_str(&text.expect_code(0).text())?)
}

/// When each phase was reached, in milliseconds.
fn phases(file: &Path) -> Result<BTreeMap<String, f64>> {
    let json: Value = serde_json::from_slice(&fs::read(file)?)?;
    let phases = json.get("phases").and_then(Value::as_array).context("phases")?.iter();
    Ok(phases.filter_map(|phase| Some((phase["name"].as_str()?.to_owned(), phase["ms"].as_f64()?))).collect())
}

/// Runs `task` so many times, a few at a time.
fn repeat(count: usize, at_once: usize, task: impl Fn(usize) -> Task + Sync) -> Vec<Outcome> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            if index >= count {
                return done;
            }
            done.push(task(index).output());
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        #[expect(clippy::unwrap_used, reason = "a task that failed fails the test")]
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

#[test]
fn a_task_starts_from_its_template_as_it_would_have_booted() -> Result<()> {
    let (_directory, image) = probe_image()?;
    let home = tempdir()?;
    let file = home.path().join("t.json");
    let timed = ["--timings", file.to_str().context("a path")?];
    let script = "id; pwd; cat /proc/uptime | wc -w; env | sort | grep -v HOSTNAME; mount | sort; exit 7";
    let words: Vec<&str> = timed.into_iter().chain([&*image, "sh", "-c", script]).collect();
    // Makes the template, if no other test has.
    let _ = run(&words).output().expect_code(7);
    let warm = run(&words).output().expect_code(7);
    let warm_phases = phases(&file)?;
    let cold_words: Vec<&str> = ["--cold"].into_iter().chain(words.iter().copied()).collect();
    let cold = run(&cold_words).output().expect_code(7);
    let cold_phases = phases(&file)?;
    let settle = |text: String| text.replace("virtio", "");
    assert_eq!(settle(warm.text()), settle(cold.text()));
    assert_eq!(warm.errors(), "");
    let boot = |phases: &BTreeMap<String, f64>| phases["agent-ready"] - phases["guest-running"];
    // A figure for the benchmark; here it only shows that nothing booted.
    assert!(boot(&warm_phases) * 2.0 < boot(&cold_phases), "{warm_phases:?}\n{cold_phases:?}");
    Ok(())
}

#[test]
fn no_two_tasks_share_what_must_be_their_own() -> Result<()> {
    let (_directory, image) = probe_image()?;
    let count = many(100, 12);
    let words = [&*image, "sh", "-c", "/probe own 4; t=$(mktemp /t.XXXXXX) && echo temporary $t"];
    let outcomes = repeat(count, 4, |_| run(&words));
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in outcomes {
        for line in outcome.expect_code(0).text().lines() {
            let (name, value) = line.split_once(' ').context("a name and a value")?;
            *given.entry(name.to_owned()).or_default() += 1;
            seen.entry(name.to_owned()).or_default().insert(value.to_owned());
        }
    }
    assert_eq!(given.len(), 9, "{given:?}");
    for (name, values) in &seen {
        assert_eq!(values.len(), given[name], "{name} was seen twice in {count} tasks");
    }
    assert_eq!(given["urandom"], 4 * count);
    Ok(())
}

/// How far the guest's clock is from the host's, at least, in nanoseconds: 0 when it can be right.
fn clock_error(image: &str, rounds: usize) -> Result<i128> {
    let nanoseconds = || {
        Ok::<_, anyhow::Error>(i128::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos())?)
    };
    let mut running = run(&["-i", image, "/probe", "clock", "0"]).open_stdin().start();
    let mut input = running.child.stdin.take().context("a pipe")?;
    let mut output = BufReader::new(running.child.stdout.take().context("a pipe")?);
    // The guest read its clock between the question and the answer: each round narrows the error down.
    let (mut low, mut high) = (i128::MIN, i128::MAX);
    for _ in 0..rounds {
        let before = nanoseconds()?;
        input.write_all(b"?\n")?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        let after = nanoseconds()?;
        let guest: i128 = line.trim().parse()?;
        (low, high) = (low.max(guest - after), high.min(guest - before));
    }
    drop(input);
    let _ = running.finish().expect_code(0);
    ensure!(low <= high + 1_000_000, "the guest's clock goes at another pace: {low} {high}");
    Ok(if low > 0 { low } else { high.min(0).abs() })
}

/// In the lab, which is a machine of the tests' own, also long after the template was made.
#[test]
fn the_clock_is_the_hosts() -> Result<()> {
    let (_directory, image) = probe_image()?;
    let error = clock_error(&image, 20)?;
    assert!(error < CLOCK_ERROR, "the guest's clock is {error} ns off");
    if place::owns_the_host() {
        shift_clock(true)?;
        let error = clock_error(&image, 20);
        shift_clock(false)?;
        let error = error?;
        assert!(error < CLOCK_ERROR, "an hour after its template was made the guest's clock is {error} ns off");
    }
    Ok(())
}

/// Sets the host's clock an hour later, or back again.
fn shift_clock(later: bool) -> Result<()> {
    let hour = Duration::from_secs(3600);
    let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?);
    Ok(clock_settime(ClockId::CLOCK_REALTIME, (if later { now + hour } else { now - hour }).into())?)
}

#[test]
fn timers_and_processes_go_on_with_one_and_more_vcpus() -> Result<()> {
    let image = fixture("busybox:latest");
    // Directly a guest with more vCPUs than the host has processors boots in minutes: each waits for others that don't run.
    for cpus in ["1", "2", "4"].into_iter().take(many(3, 2)) {
        let script = "nproc; (sleep 1; echo slept) & for i in 1 2 3; do usleep 100000; done; wait; echo done";
        let outcome = taskrun(["run", "--cpu", cpus, "--memory", "128MB", &image, "sh", "-c", script]).output();
        assert_eq!(outcome.expect_code(0).text(), format!("{cpus}\nslept\ndone"));
    }
    Ok(())
}

#[test]
fn many_at_once_end_right_and_a_killed_one_harms_no_other() -> Result<()> {
    let (_directory, image) = probe_image()?;
    let _ = run(&[&image, "echo"]).output().expect_code(0);
    let count = many(50, 10);
    let mut running: Vec<_> = (0..count)
        .map(|index| {
            let script = format!("echo {index} is there; read line; exit {}", index % 100);
            run(&["-i", &image, "sh", "-c", &script]).open_stdin().start()
        })
        .collect();
    for (index, task) in running.iter_mut().enumerate() {
        task.read_until(&format!("{index} is there\n"));
    }
    // Every fourth loses a process: taskrun itself, or its VMM.
    let mut left = Vec::new();
    for (index, task) in running.into_iter().enumerate() {
        match index % 8 {
            1 => task.kill(),
            5 => {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(task.vmm()), nix::sys::signal::Signal::SIGKILL)?;
                task.finish().expect_failure(125, &["signal 9"]);
            }
            _ => left.push((index, task)),
        }
    }
    for (index, mut task) in left {
        drop(task.child.stdin.take());
        let outcome = task.finish();
        assert_eq!(outcome.code, Some(i32::try_from(index % 100)?), "{}", outcome.errors());
    }
    assert_eq!(run(&[&image, "echo", "after"]).output().expect_code(0).text(), "after");
    Ok(())
}

/// How much memory a task's VMM holds, in MiB.
fn resident(task: &Running) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", task.vmm()))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
}

/// Prints the virtio devices, by their kinds.
const DEVICES: &str = "cat /sys/bus/virtio/devices/*/device | sort";
/// A balloon.
const BALLOON: &str = "0x0005";

#[test]
fn memory_that_a_task_frees_is_the_hosts_again() -> Result<()> {
    let (_directory, image) = probe_image()?;
    if vmm::arch::is_emulated() {
        // It isn't there: such processors lose what guests need, where there is a balloon.
        let devices = run(&[&image, "sh", "-c", DEVICES]).output().expect_code(0).text();
        ensure!(!devices.is_empty() && !devices.contains(BALLOON), "{devices}");
        return Ok(());
    }
    for start in [&[][..], &["--cold"]] {
        // A guest with little free memory keeps it, and each keeps blocks of 4 MiB of which it uses a page.
        let words = [&["run", "--memory", "512MB"], start, &["-i", &image, "/probe", "give", "64"]].concat();
        let mut task = taskrun(words).open_stdin().start();
        task.read_until("ate 64 MiB\n");
        let before = resident(&task)?;
        assert!(before >= 64, "{before} MiB");
        task.child.stdin.as_mut().context("a pipe")?.write_all(b"\n")?;
        task.read_until("gave it back\n");
        let given = Instant::now();
        let mut after = before;
        while after + 24 > before {
            ensure!(given.elapsed() < REPORTED, "{start:?}: of {before} MiB {after} are left");
            thread::sleep(Duration::from_millis(50));
            after = resident(&task)?;
        }
        println!("{start:?}: from {before} to {after} MiB after {:?}", given.elapsed());
        drop(task.child.stdin.take());
        let _ = task.finish().expect_code(0);
    }
    Ok(())
}

/// A copy of the shared template of [`SMALL`] in a new state directory, and its folder.
fn copy(image: &str) -> Result<(TempDir, PathBuf)> {
    let _ = run(&[image, "true"]).output().expect_code(0);
    let home = tempdir()?;
    let listed = taskrun(["template", "ls", "--format", "json"]).output().expect_code(0).text();
    let listed: Vec<Value> = serde_json::from_str(&listed)?;
    let small = listed.iter().find(|one| one["memory_mib"] == 128 && one["vcpus"] == 1 && one["current"] == true);
    let key = small.and_then(|one| one["key"].as_str()).context("a template of 128 MiB")?;
    let folder = home.path().join("templates").join(key);
    fs::create_dir_all(&folder)?;
    std::os::unix::fs::symlink(place::store(), home.path().join("images"))?;
    for name in ["state", "memory", "about.json"] {
        let status = std::process::Command::new("cp")
            .args(["--sparse=always"])
            .args([place::templates().join(key).join(name), folder.join(name)])
            .status()?;
        ensure!(status.success(), "cp failed");
        let mut permissions = folder.join(name).metadata()?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        fs::set_permissions(folder.join(name), permissions)?;
    }
    Ok((home, folder))
}

/// A task in this state directory, with the templates there.
fn in_home(home: &Path, image: &str) -> Outcome {
    run(&[image, "echo", "right"]).own_templates().env("TASKRUN_HOME", home).output()
}

#[test]
fn a_damaged_template_is_told_of_and_made_anew() -> Result<()> {
    let image = fixture("busybox:latest");
    let (home, folder) = copy(&image)?;
    let outcome = in_home(home.path(), &image).expect_code(0);
    assert_eq!((outcome.text().as_str(), outcome.errors().as_str()), ("right", ""), "a copy is as good");

    let damage = |what: &str| -> Result<()> {
        let file = OpenOptions::new().write(true).open(folder.join(what))?;
        if what == "memory" {
            file.write_all_at(&[0xa5; 16], 20 << 20)?;
        } else {
            file.set_len(100)?;
        }
        Ok(())
    };
    for what in ["memory", "state"].into_iter().take(many(2, 1)) {
        let before =
            fs::metadata(folder.join("memory")).map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata))?;
        fs::set_permissions(folder.join(what), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        damage(what)?;
        let outcome = in_home(home.path(), &image).expect_code(0);
        assert_eq!(outcome.text(), "right", "{what}");
        assert!(outcome.errors().contains("is damaged and is made anew"), "{what}: {}", outcome.errors());
        assert_eq!(outcome.errors().lines().count(), 1, "{what}: {}", outcome.errors());
        let after =
            fs::metadata(folder.join("memory")).map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata))?;
        assert_ne!(before, after, "{what}: not made anew");
        assert_eq!(in_home(home.path(), &image).expect_code(0).errors(), "", "{what}: still damaged");
    }
    assert_eq!(list(home.path())?.len(), 1);
    Ok(())
}

/// How many bytes the note in a template's folder says that its guests write.
fn noted(folder: &Path) -> Result<u64> {
    let extents: Vec<Value> = serde_json::from_slice(&fs::read(folder.join("written"))?)?;
    extents.iter().map(|extent| extent["length"].as_u64().context("a length")).sum()
}

#[test]
fn what_guests_write_is_noted_and_a_wrong_note_does_no_harm() -> Result<()> {
    let image = fixture("busybox:latest");
    let (home, folder) = copy(&image)?;
    let right = || {
        let outcome = in_home(home.path(), &image).expect_code(0);
        assert_eq!((outcome.text().as_str(), outcome.errors().as_str()), ("right", ""));
    };
    right();
    let first = noted(&folder)?;
    assert!((256 << 10..=4 << 20).contains(&first), "{first} bytes");
    // Copied for the next one, and not noted again.
    let note = fs::metadata(folder.join("written"))?.modified()?;
    right();
    assert_eq!(fs::metadata(folder.join("written"))?.modified()?, note);

    fs::write(folder.join("written"), "nonsense")?;
    right();
    assert!((first / 2..first * 2).contains(&noted(&folder)?), "{first} bytes, then {}", noted(&folder)?);
    let other = r#"[{"start":0,"length":4096},{"start":134213632,"length":4096}]"#;
    fs::write(folder.join("written"), other)?;
    right();
    assert_eq!(fs::read_to_string(folder.join("written"))?, other);
    Ok(())
}

/// The first place of a file at or behind `place` that holds data.
fn data_behind(file: &fs::File, place: u64) -> Result<u64> {
    let found = nix::unistd::lseek(file, i64::try_from(place)?, nix::unistd::Whence::SeekData)?;
    Ok(u64::try_from(found)?)
}

#[test]
fn no_flipped_bit_goes_unnoticed() -> Result<()> {
    let (_home, folder) = copy(&fixture("busybox:latest"))?;
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(folder.join(name));
    let (state, memory) = (open("state")?, open("memory")?);
    vmm::template::verify(&state, &memory)?;
    // Places spread by a multiplicative sequence; half in each file.
    for round in 0..100_u64 {
        let file = if round % 2 == 0 { &state } else { &memory };
        let place = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % file.metadata()?.len();
        // What is in a hole of the file is in no guest's memory.
        let place = data_behind(file, place).or_else(|_| data_behind(file, 0))?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, place)?;
        file.write_all_at(&[byte[0] ^ 1 << (round % 8)], place)?;
        let verified = vmm::template::verify(&state, &memory);
        ensure!(
            verified.is_err(),
            "a bit at {place} of {} was flipped unnoticed",
            ["state", "memory"][usize::try_from(round % 2)?]
        );
        file.write_all_at(&byte, place)?;
    }
    vmm::template::verify(&state, &memory)?;
    Ok(())
}

#[test]
fn templates_are_made_listed_and_removed() -> Result<()> {
    let home = tempdir()?;
    let call = |words: &[&str]| taskrun(words).own_templates().env("TASKRUN_HOME", home.path()).output();
    let key = call(&["template", "build", "--memory", "128MB", "--cpu", "1"]).expect_code(0).text();
    assert_eq!(key.len(), 64, "{key}");
    let listed = list(home.path())?;
    let one = listed.first().context("one")?;
    assert_eq!((listed.len(), &one["key"], &one["current"]), (1, &Value::from(key.as_str()), &Value::from(true)));
    assert!(one["size_bytes"].as_u64().context("a size")? < 64 << 20, "not sparse: {one}");
    let table = call(&["template", "ls"]).expect_code(0).text();
    assert!(table.starts_with("TEMPLATE") && table.contains(&key[..12]) && table.ends_with("yes"), "{table}");

    // One of another version: as if the kernel had been replaced.
    let about = home.path().join("templates").join(&key).join("about.json");
    fs::write(&about, fs::read_to_string(&about)?.replace("\"kernel\": \"", "\"kernel\": \"0"))?;
    assert_eq!(list(home.path())?.first().context("one")?["current"], false);
    let pruned = call(&["template", "prune"]).expect_code(0).text();
    assert!(pruned.contains("Deleted:") && pruned.contains("Freed:"), "{pruned}");
    assert!(list(home.path())?.is_empty());
    call(&["template", "rm", &key]).expect_failure(1, &["no template"]);
    Ok(())
}

#[test]
fn a_template_that_cannot_be_made_is_done_without() -> Result<()> {
    let image = fixture("busybox:latest");
    let home = tempdir()?;
    // A file where the folder should be.
    let file = home.path().join("templates");
    fs::write(&file, "")?;
    std::os::unix::fs::symlink(place::store(), home.path().join("images"))?;
    let outcome = run(&[&image, "echo", "booted"]).own_templates().env("TASKRUN_HOME", home.path()).output();
    let outcome = outcome.expect_code(0);
    assert_eq!(outcome.text(), "booted");
    assert!(outcome.errors().contains("boots without one"), "{}", outcome.errors());
    fs::remove_file(file)?;
    Ok(())
}
