//! From the start of a process to a task's end, with a template and with a boot; and the restored guest alone.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::harness::{Contender, Sample, interleave};
use crate::memory::{Pss, descendants};
use crate::report::{Benchmark, Comparison};

pub const IMAGE: &str = "data-5";

/// The smallest guest that both have, with all of a processor: how long a share takes is the share's doing.
const SIZE: [&str; 4] = ["--cpu", "1", "--memory", "128"];

const WARM: &str = "template, whole `taskrun run … true`";
const COLD: &str = "--cold, whole `taskrun run … true`";

/// The parts of a task that starts from a template.
const PARTS: [(&str, &str, &str); 6] = [
    ("template, VMM's process → guest runs", "vmm-started", "guest-running"),
    ("template, guest runs → agent greets", "guest-running", "agent-ready"),
    ("template, agent greets → root mounted", "agent-ready", "root-mounted"),
    ("template, root mounted → command starts", "root-mounted", "command-started"),
    ("template, command starts → command exited", "command-started", "command-exited"),
    ("template, command exited → all over", "command-exited", "finished"),
];

/// Takes turns: template, cold, several at once, several in a row, idle ones.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let image = bench.image(IMAGE)?;
    let home = bench.folder()?;
    // Unpacks the image and makes the templates.
    bench.taskrun.run_true_with(home.path(), &image, &SIZE)?;
    let many = if bench.quick { 10 } else { 100 };
    let (at_once, in_a_row) = (format!("{many} at once, per task"), format!("{many} in a row, per task"));
    let contenders = vec![
        Contender::new("template", || {
            let timings = bench.taskrun.run_true_with(home.path(), &image, &SIZE)?;
            let part = |&(series, from, to): &(&str, &str, &str)| {
                Some(Sample::milliseconds(series, timings.between(from, to)?))
            };
            let whole = Sample::milliseconds(WARM, timings.until("finished")?);
            Ok(std::iter::once(whole).chain(PARTS.iter().filter_map(part)).collect())
        }),
        Contender::new("--cold", || {
            let options = [&SIZE[..], &["--cold"]].concat();
            let timings = bench.taskrun.run_true_with(home.path(), &image, &options)?;
            Ok(vec![Sample::milliseconds(COLD, timings.until("finished")?)])
        }),
    ];
    let mut series = interleave(contenders, bench.rounds(21, 5))?;
    let crowds = vec![
        Contender::new(&in_a_row, || {
            let started = Instant::now();
            (0..many).try_for_each(|_| start(bench, home.path(), &image, "true")?.end())?;
            Ok(vec![per_task(&in_a_row, started, many)])
        }),
        Contender::new(&at_once, || {
            let started = Instant::now();
            let tasks: Vec<_> = (0..many).map(|_| start(bench, home.path(), &image, "true")).collect();
            tasks.into_iter().try_for_each(|task| task?.end())?;
            Ok(vec![per_task(&at_once, started, many)])
        }),
        Contender::new("idle", || idle(bench, home.path(), &image, many)),
    ];
    series.extend(interleave(crowds, bench.rounds(3, 1))?);
    let comparisons = [Comparison { over: WARM, under: COLD, at_most: Some(0.125) }];
    let about = format!(
        "A task of an image of 5 MB that is in the store and unpacked, with 1 vCPU and 128 MiB, from its template and \
         with a boot. Then {many} such tasks, one after the other and all at once; and {many} that wait for input, whose \
         VMMs' memory is added up (PSS counts a page that n processes map as 1/n in each)."
    );
    Ok(Benchmark::new("start", about, series, &comparisons))
}

fn per_task(series: &str, started: Instant, many: u32) -> Sample {
    Sample::milliseconds(series, started.elapsed().as_secs_f64() * 1e3 / f64::from(many))
}

/// A task that is under way; killed when it is dropped.
struct Task(Child);

fn start(bench: &Bench, home: &Path, image: &str, script: &str) -> Result<Task> {
    let mut command = bench.taskrun.command(home);
    command.args(["run", "--quiet", "-i"]).args(SIZE).args([image, "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().map(Task).context("taskrun can't be started")
}

impl Task {
    /// Closes its input and waits for it.
    fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait().context("The task can't be waited for")?;
        if status.success() { Ok(()) } else { bail!("A task ended with {status}") }
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        let stdout = self.0.stdout.as_mut().context("The task has no standard output")?;
        BufReader::new(stdout).read_line(&mut line).context("The task's output can't be read")?;
        if line == "ready\n" { Ok(()) } else { bail!("A task did not get ready") }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Many tasks that wait, and their VMMs' memory.
fn idle(bench: &Bench, home: &Path, image: &str, many: u32) -> Result<Vec<Sample>> {
    let mut tasks: Vec<Task> = Vec::new();
    for _ in 0..many {
        let mut task = start(bench, home, image, "echo ready; read line; true")?;
        task.wait_until_ready()?;
        tasks.push(task);
    }
    let vmms = tasks.iter().map(|task| descendants(task.0.id(), "taskrun-vmm")).collect::<Result<Vec<_>>>()?;
    let pss = Pss::sum(vmms.into_iter().flatten().map(Pss::of).collect::<Result<Vec<_>>>()?);
    thread::scope(|scope| {
        let ends: Vec<_> = tasks.into_iter().map(|task| scope.spawn(move || task.end())).collect();
        ends.into_iter().try_for_each(|end| end.join().map_err(|_| anyhow::anyhow!("a thread failed"))?)
    })?;
    let sample =
        |name: &str, bytes: u64| Sample::mebibytes(&format!("{many} idle, per task: {name}"), bytes / u64::from(many));
    Ok(vec![
        sample("PSS of guest memory", pss.guest),
        sample("PSS of the image", pss.image),
        sample("PSS of the rest of the VMM", pss.rest),
    ])
}
