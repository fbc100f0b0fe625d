//! The main job, proven in few boots: this suite also runs directly on a host whose /dev/kvm is slow.
//!
//! One task per test where an exit code or a size is the point; everything else is asked of one guest at once. Memory is
//! small where its size is not the point: the kernel initialises every page of it.

use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::image::{GZIP_LAYER, Image, digest};
use e2e::place::{Suite, fixture, suite};
use e2e::task::taskrun;
use tempfile::TempDir;

/// An image with a shell and the probe, in a directory that lives as long as the test.
fn shell() -> Result<(TempDir, String)> {
    let directory = tempfile::tempdir()?;
    let image = Image::with_shell()?.write(directory.path())?;
    Ok((directory, image))
}

#[test]
fn the_exit_code_is_the_commands_own_and_the_kernel_the_guests() -> Result<()> {
    let outcome =
        taskrun(["run", "--memory", "256MB", &fixture("busybox:latest"), "sh", "-c", "uname -r; echo $$; exit 42"])
            .output();
    let outcome = outcome.expect_code(42);
    let text = outcome.text();
    let (kernel, pid) = text.split_once('\n').context("two lines")?;
    assert_ne!(kernel, std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(), "the host's kernel");
    assert!(kernel.ends_with("-taskrun"), "not our kernel: {kernel}");
    assert_eq!(pid, "1", "the command is the first process of its container");
    Ok(())
}

#[test]
fn a_command_that_ignores_its_stop_signal_is_killed() {
    // `sleep` is process 1 of its namespace, which ignores signals without a handler, as under docker.
    let options = ["run", "--memory", "256MB", "--timeout", "1s", "--stop-timeout", "1s"];
    let image = fixture("busybox:latest");
    let outcome = taskrun(options.into_iter().chain([&*image, "sleep", "1000"])).output().expect_code(137);
    assert!(outcome.errors().contains("timed out"), "{}", outcome.errors());
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let image = fixture("busybox:latest");
    taskrun(["run", "--memory", "256MB", &image, "no-such-command"])
        .output()
        .expect_failure(127, &["no-such-command", "not found"]);
}

#[test]
fn a_command_that_is_not_executable_is_126() {
    let image = fixture("busybox:latest");
    taskrun(["run", "--memory", "256MB", &image, "/etc/passwd"]).output().expect_failure(126, &["/etc/passwd"]);
}

#[test]
fn an_image_that_is_not_there_is_taskruns_own_failure() {
    taskrun(["run", "oci:/no/such/layout"]).output().expect_failure(125, &["/no/such/layout"]);
}

#[test]
fn five_mebibytes_of_input_arrive_whole() {
    let mut state = 0x9e37_79b9_u32;
    let random = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    });
    let bytes: Vec<u8> = random.take(5 << 20).collect();
    let expected = digest(&bytes);
    let image = fixture("busybox:latest");
    let outcome = taskrun(["run", "-i", "--memory", "256MB", &image, "sha256sum"]).stdin(bytes).output().expect_code(0);
    assert_eq!(format!("sha256:{}", outcome.text().trim_end_matches("  -")), expected);
}

/// More than all buffers on the way hold; far more where the guest's kernel is not emulated.
#[test]
fn both_outputs_arrive_whole_and_apart() {
    let (out, err) = if suite() == Suite::Direct { (2 << 20, 512 << 10) } else { (20 << 20, 1 << 20) };
    let script = format!("head -c {err} /dev/zero | tr '\\0' e >&2 & head -c {out} /dev/zero | tr '\\0' o; wait");
    let image = fixture("busybox:latest");
    let outcome = taskrun(["run", "--memory", "256MB", &image, "sh", "-c", &script]).output().expect_code(0);
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (out, err));
    assert!(outcome.stdout.iter().all(|byte| *byte == b'o') && outcome.stderr.iter().all(|byte| *byte == b'e'));
}

#[test]
fn a_reader_that_stops_stops_the_guest_and_not_memory() -> Result<()> {
    const CHUNKS: usize = 256;
    const CHUNK: usize = 64 << 10;
    // The command says on its error output how many chunks it has got rid of.
    let (_directory, image) = shell()?;
    let task = taskrun(["run", "--memory", "256MB", &image, "/bin/probe", "stream", &CHUNKS.to_string()]);
    let (running, stderr) = task.start_unheard();
    let (count, counted) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| drop(count.send(line)));
    });
    // Nobody reads the output. The count comes to a halt when every buffer on the way is full.
    let mut written = 0;
    let first = counted.recv().context("no output at all")?;
    for line in std::iter::once(first).chain(std::iter::from_fn(|| counted.recv_timeout(Duration::from_secs(5)).ok())) {
        written = line.parse::<usize>().with_context(|| format!("not a count: {line}"))?;
    }
    assert!(written * CHUNK < 8 << 20, "the command wrote {written} chunks that nobody read");
    let resident = resident_kib(running.child.id())?;
    assert!(resident < 64 << 10, "taskrun holds {resident} KiB");
    let outcome = running.finish().expect_code(0);
    assert_eq!(outcome.stdout.len(), CHUNKS * CHUNK);
    drop(reader.join());
    Ok(())
}

/// The memory of a process that is its own, in KiB.
fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn the_task_has_the_size_that_was_asked_for() -> Result<()> {
    let image = fixture("busybox:latest");
    let script = "nproc; grep MemTotal /proc/meminfo";
    let options = ["run", "--cpu", "2", "--memory", "1GB", &image, "sh", "-c", script];
    let outcome = taskrun(options).output().expect_code(0);
    let text = outcome.text();
    let (processors, memory) = text.split_once('\n').context("two lines")?;
    assert_eq!(processors, "2");
    let kib: f64 = memory.split_whitespace().nth(1).context("a number")?.parse()?;
    let share = kib / f64::from(1 << 20);
    assert!((0.92..=1.0).contains(&share), "{memory} is {share} of 1 GB");
    Ok(())
}

#[test]
fn a_command_that_eats_more_than_its_memory_is_killed_and_the_reason_says_so() -> Result<()> {
    let (_directory, image) = shell()?;
    let outcome = taskrun(["run", "--memory", "128MB", &image, "/bin/probe", "eat", "160"]).output().expect_code(137);
    assert!(!outcome.text().contains("ate"), "it ate more than there is");
    let errors = outcome.errors();
    assert!(errors.contains("OutOfMemory") && errors.contains("probe"), "{errors}");
    let usage = outcome.again(["usage", "--format", "json"]).output().expect_code(0).text();
    assert!(usage.contains("OutOfMemory"), "{usage}");
    Ok(())
}

#[test]
fn debians_python_does_its_work() -> Result<()> {
    let script = r#"
import hashlib, json, sqlite3, subprocess, threading
sums = [0] * 4
def work(i): sums[i] = sum(range(i * 1000))
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
db = sqlite3.connect("/tmp/x.db")
db.execute("create table t (a)"); db.executemany("insert into t values (?)", [(i,) for i in range(10)])
print(json.dumps({
    "threads": sums,
    "child": subprocess.run(["/bin/sh", "-c", "echo $((6*7))"], capture_output=True, text=True).stdout.strip(),
    "sha256": hashlib.sha256(b"taskrun").hexdigest(),
    "sqlite": db.execute("select sum(a) from t").fetchone()[0],
    "power": str(2**64),
}, sort_keys=True))
"#;
    let image = fixture("python:latest");
    let outcome =
        taskrun(["run", "-i", "--memory", "256MB", &image, "python3", "-"]).stdin(script).output().expect_code(0);
    let answer: serde_json::Value = serde_json::from_str(&outcome.text())?;
    let expected = serde_json::json!({
        "threads": [0, 499_500, 1_999_000, 4_498_500],
        "child": "42",
        "sha256": digest(b"taskrun").trim_start_matches("sha256:"),
        "sqlite": 45,
        "power": "18446744073709551616",
    });
    assert_eq!(answer, expected);
    Ok(())
}

#[test]
fn vector_registers_survive_switches_between_processes() -> Result<()> {
    let (_directory, image) = shell()?;
    let outcome = taskrun(["run", "--cpu", "1", "--memory", "256MB", &image, "/bin/probe", "vectors", "150"])
        .output()
        .expect_code(0);
    writeln!(std::io::stdout(), "{}", outcome.text())?;
    assert_eq!(outcome.text(), "0 of 150 rounds wrong, other process right");
    Ok(())
}

/// 10 GiB; less in the lab, where decompressing and hashing is work for an emulated processor.
#[test]
fn zeros_without_end_become_an_image_that_takes_no_room() -> Result<()> {
    let length: u64 = if suite() == Suite::Lab { 64 << 20 } else { 10 << 30 };
    let directory = tempfile::tempdir()?;
    let (blob, diff_id) = e2e::layer::zeros("zeros", length);
    let image = Image::with_shell()?.blob(blob, GZIP_LAYER, diff_id);
    let reference = image.write(directory.path())?;
    let script = "stat -c %s /zeros; tail -c 4096 /zeros | tr -d '\\0' | wc -c";
    let task = taskrun(["run", "--memory", "1GB", &reference, "sh", "-c", script]).own_store();
    let outcome = task.output().expect_code(0);
    assert_eq!(outcome.text(), format!("{length}\n0"));
    let files = std::fs::read_dir(outcome.home().join("images/rootfs"))?;
    let blocks = files.map(|file| Ok(std::os::unix::fs::MetadataExt::blocks(&file?.metadata()?)));
    let used = blocks.sum::<Result<u64>>()?.saturating_mul(512);
    assert!((1..64 << 20).contains(&used), "the image takes {used} bytes on the disk");
    Ok(())
}
