//! What tasks used: processor time, memory and bytes, of tasks that end and of those whose supervisors die.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::home::Home;
use e2e::place::fixture;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

fn used(home: &Home, task: &str, name: &str) -> Result<u64> {
    let task = home.inspect(task);
    let used = task.get("used").and_then(|used| used.get(name)).and_then(Value::as_u64);
    used.with_context(|| format!("no {name} in {task:#}"))
}

#[test]
fn a_task_that_ends_has_used_what_it_did() -> Result<()> {
    let home = Home::new();
    let script = "cat; dd if=/dev/zero of=/dev/null bs=8M count=1 2>/dev/null; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; printf end >&2";
    let words = ["run", "-i", "--name", "worker", "--memory", "256MB", &fixture("busybox:latest"), "sh", "-c", script];
    let started = Instant::now();
    let outcome = home.call(words).stdin(b"twelve bytes".to_vec()).output().expect_code(0);
    let limit = u64::try_from(started.elapsed().as_nanos())?;
    assert_eq!((outcome.text(), outcome.errors()), ("twelve bytes".into(), "end".into()));
    let used = |name| used(&home, "worker", name);
    assert_eq!((used("bytes_in")?, used("bytes_out")?), (12, 15));
    let (cpu, memory) = (used("cpu_ns")?, used("peak_memory_bytes")?);
    // It has one vCPU, and the VMM's other thread does little.
    assert!((1_000_000..limit).contains(&cpu), "{cpu} ns of {limit}");
    assert!((8 << 20..100 << 20).contains(&memory), "{memory} bytes");
    let metrics = home.ask("metrics");
    assert!(metrics.contains("taskrun_received_bytes_total 12"), "{metrics}");
    home.finish();
    Ok(())
}

#[test]
fn a_task_whose_supervisor_dies_has_used_what_was_seen_last() -> Result<()> {
    let home = Home::new();
    let id = home.start(&[], "echo ready; while :; do :; done");
    while home.ask(&format!("logs {id}")) != "ready" {}
    // The command's own share of it comes after its start; a heartbeat tells what was used each half second.
    thread::sleep(Duration::from_secs(2));
    kill(home.supervisor(&id), Signal::SIGKILL)?;
    home.wait_for_silence();
    assert!(used(&home, &id, "cpu_ns")? > 300_000_000);
    assert!(used(&home, &id, "peak_memory_bytes")? > 1 << 20);
    assert_eq!((used(&home, &id, "bytes_in")?, used(&home, &id, "bytes_out")?), (0, 6));
    home.finish();
    Ok(())
}
