//! How many instructions the guest's kernel spends: in a boot, and in a task that starts from a template.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::{fs, thread};

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::harness::{Contender, Sample, interleave};
use crate::instructions::{Count, Counter, Profile, Span, Symbols, grouped};
use crate::memory::descendants;
use crate::report::Benchmark;
use crate::taskrun::{Timings, monotonic_ns};
use crate::vmms::Payload;
use crate::vmms::taskrun::TaskrunVmm;

pub const IMAGE: &str = "data-5";

/// As in the benchmark of starts.
const SIZE: [&str; 4] = ["--cpu", "1", "--memory", "128"];

const BOOT: &str = "boot: kernel's entry → agent's first instruction";
const BOOT_WORK: &str = "boot, without interrupts of the timer";
const TASK: &str = "task: a whole `taskrun run … true` from a template";
const TASK_WORK: &str = "task, without interrupts of the timer";

/// The most that a boot is meant to take.
const BOOT_GOAL: u64 = 6_000_000;

/// The rows of the tables of functions.
const ROWS: usize = 25;

/// The parts of a task.
const PHASES: [(&str, &str, &str); 5] = [
    ("guest runs → agent greets", "guest-running", "agent-ready"),
    ("agent greets → root mounted", "agent-ready", "root-mounted"),
    ("root mounted → command starts", "root-mounted", "command-started"),
    ("command starts → command exited", "command-started", "command-exited"),
    ("command exited → all over", "command-exited", "finished"),
];

/// Takes turns: a boot, a task. A host whose KVM emulates nothing has nothing to count.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    if !vmm::deprivileged::is_deprivileged() {
        let about = "Not measured: this host's KVM runs guest kernels on the processor, so that their instructions can't be \
                     counted here. A deprivileged host emulates them, and there they can.";
        return Ok(Benchmark::new("instructions", about.to_owned(), Vec::new(), &[]));
    }
    let map = bench.guests.system_map.as_deref();
    let symbols = Symbols::read(map.context("The kernel's System.map isn't known: see --system-map")?)?;
    let (image, home) = (bench.image(IMAGE)?, bench.folder()?);
    // Unpacks the image and makes the templates.
    bench.taskrun.run_true_with(home.path(), &image, &SIZE)?;
    let mut last_boot = None;
    let mut last_task = None;
    let contenders = vec![
        Contender::new("boot", || {
            let counts = boot(bench, &symbols)?;
            let profile = Profile::new(&counts, &symbols);
            let samples = samples(&profile, [BOOT, BOOT_WORK]);
            last_boot = Some(profile);
            Ok(samples)
        }),
        Contender::new("task", || {
            let task = task(bench, home.path(), &image, &symbols)?;
            let profile = Profile::new(&task.counts, &symbols);
            let samples = samples(&profile, [TASK, TASK_WORK]);
            last_task = Some((profile, task));
            Ok(samples)
        }),
    ];
    let series = interleave(contenders, bench.rounds(5, 1))?;
    let mut details = String::new();
    if let Some(profile) = last_boot {
        write_boot(&mut details, &profile)?;
    }
    if let Some((profile, task)) = last_task {
        write_task(&mut details, &profile, &task, &symbols)?;
    }
    let about = "Instructions of the guest's kernel, with 1 vCPU and 128 MiB, counted by the host's KVM, which emulates them one \
                 by one (a repeated string instruction counts once). A slow host has more interrupts of the timer in the same \
                 work, so these are told apart. The tables are of the last round.";
    Ok(Benchmark::new("instructions", about.to_owned(), series, &[]).with_details(details))
}

fn samples(profile: &Profile, [all, work]: [&str; 2]) -> Vec<Sample> {
    vec![Sample::instructions(all, profile.all()), Sample::instructions(work, profile.work)]
}

/// A boot of the agent's guest.
fn boot(bench: &Bench, symbols: &Symbols) -> Result<Vec<Count>> {
    let files = bench.taskrun.libexec()?;
    let payload = Payload { kernel: files.join("vmlinux"), initramfs: files.join("initramfs.cpio") };
    let counter = Counter::start(Span::Boot, symbols)?;
    let guest = TaskrunVmm::new(files.join("taskrun-vmm")).boot_agent(&payload)?;
    counter.only(guest.process.id())?;
    guest.first_output()?;
    counter.of(guest.process.id())
}

/// A task, and what its guest ran.
struct Task {
    counts: Vec<Count>,
    timings: Timings,
}

fn task(bench: &Bench, home: &Path, image: &str, symbols: &Symbols) -> Result<Task> {
    let counter = Counter::start(Span::Whole, symbols)?;
    let file = home.join("timings.json");
    let mut command = bench.taskrun.command(home);
    command.args(["run", "--quiet", "--timings"]).arg(&file).args(SIZE).args([image, "true"]);
    let started = monotonic_ns()?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("taskrun can't be started")?;
    let vmm = find_vmm(&mut child)?;
    counter.only(vmm)?;
    let status = child.wait().context("taskrun can't be waited for")?;
    if !status.success() {
        bail!("taskrun ended with {status}");
    }
    let timings = Timings::parse(started, &fs::read(&file).context("taskrun wrote no timings")?)?;
    Ok(Task { counts: counter.of(vmm)?, timings })
}

/// Looks for a task's VMM until it is there; that it lives for seconds is what this benchmark is about.
fn find_vmm(taskrun: &mut Child) -> Result<u32> {
    while taskrun.try_wait().context("taskrun can't be waited for")?.is_none() {
        // None is an error there.
        if let Ok([vmm, ..]) = descendants(taskrun.id(), "taskrun-vmm").as_deref() {
            return Ok(*vmm);
        }
        thread::yield_now();
    }
    bail!("taskrun ended before its VMM was seen")
}

fn write_boot(out: &mut String, profile: &Profile) -> Result<()> {
    let over = |sum: u64| match sum as f64 / BOOT_GOAL as f64 {
        ratio if ratio <= 1.0 => "it is".to_owned(),
        ratio => format!("**it isn't**, by {:.0} %", (ratio - 1.0) * 100.0),
    };
    writeln!(
        out,
        "The boot took {} instructions, and {} more in interrupts of the timer. It is meant to take at most {}: {}; with the \
         interrupts {}.\n",
        grouped(profile.work),
        grouped(profile.interrupts),
        grouped(BOOT_GOAL),
        over(profile.work),
        over(profile.all())
    )?;
    Ok(writeln!(out, "{}", profile.table(ROWS))?)
}

fn write_task(out: &mut String, profile: &Profile, task: &Task, symbols: &Symbols) -> Result<()> {
    let (work, interrupts) = (grouped(profile.work), grouped(profile.interrupts));
    writeln!(out, "The task took {work} instructions, and {interrupts} more in interrupts of the timer.\n")?;
    writeln!(out, "{}", profile.table(ROWS))?;
    writeln!(out, "The same by phase, to within 67 ms, with the functions that had the most of the work:\n")?;
    writeln!(out, "| phase | ms | instructions | in interrupts, besides | most of them in |\n|---|--:|--:|--:|---|")?;
    for (name, from, to) in PHASES {
        let (Some(from), Some(to)) = (task.timings.at(from), task.timings.at(to)) else {
            continue;
        };
        let profile = Profile::new(task.counts.iter().filter(|count| (from..to).contains(&count.at_ns)), symbols);
        let milliseconds = to.saturating_sub(from) as f64 / 1e6;
        let [work, interrupts] = [profile.work, profile.interrupts].map(grouped);
        writeln!(out, "| {name} | {milliseconds:.0} | {work} | {interrupts} | {} |", profile.most(8))?;
    }
    Ok(())
}
