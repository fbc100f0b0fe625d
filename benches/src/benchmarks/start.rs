//! From the start of a process to its command's first output and to its end: a task with a template, with a boot, with an
//! image that must be unpacked first; and, as scale, a container on the host.

use std::time::Instant;

use anyhow::Result;

use super::{Bench, SIZE};
use crate::crun::{self, Containers};
use crate::harness::{Contender, Sample, interleave};
use crate::report::{Benchmark, Comparison};
use crate::task::Task;
use crate::taskrun::Timings;

pub const IMAGE: &str = "data-5";

const COMMAND: [&str; 2] = ["echo", "x"];

const CRUN: &str = "crun, a container on the host: first output";
const CRUN_WHOLE: &str = "crun, a container on the host: whole";
const WARM: &str = "taskrun, from a template: first output";
const WARM_WHOLE: &str = "taskrun, from a template: whole";
const NEW: &str = "taskrun, the same, image not unpacked yet: first output";
const COLD: &str = "taskrun --cold: first output";
const COLD_WHOLE: &str = "taskrun --cold: whole";

/// The parts of a task that starts from a template.
const PARTS: [(&str, &str, &str); 6] = [
    ("template, VMM's process → guest runs", "vmm-started", "guest-running"),
    ("template, guest runs → agent greets", "guest-running", "agent-ready"),
    ("template, agent greets → root mounted", "agent-ready", "root-mounted"),
    ("template, root mounted → command starts", "root-mounted", "command-started"),
    ("template, command starts → command exited", "command-started", "command-exited"),
    ("template, command exited → all over", "command-exited", "finished"),
];

/// Takes turns: crun, template, image not unpacked, cold.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let image = bench.image(IMAGE)?;
    let home = bench.folder()?;
    // Unpacks the image and makes the templates.
    bench.taskrun.run_true_with(home.path(), &image, &SIZE)?;
    let containers = Containers::new(bench.folder()?, &image, &COMMAND);
    let mut contenders: Vec<_> =
        containers.iter().map(|containers| Contender::new("crun", || container(containers))).collect();
    contenders.extend([
        Contender::new("template", || {
            let timings = bench.taskrun.run_with(home.path(), &image, &SIZE, &COMMAND)?;
            let part = |&(series, from, to): &(&str, &str, &str)| {
                Some(Sample::milliseconds(series, timings.between(from, to)?))
            };
            let mut samples = task(&timings, WARM, WARM_WHOLE)?;
            samples.extend(PARTS.iter().filter_map(part));
            Ok(samples)
        }),
        Contender::new("image not unpacked", || {
            let home = bench.folder()?;
            let timings = bench.taskrun.run_with(home.path(), &image, &SIZE, &COMMAND)?;
            Ok(vec![Sample::milliseconds(NEW, timings.until_output()?)])
        }),
        Contender::new("--cold", || {
            let options = [&SIZE[..], &["--cold"]].concat();
            task(&bench.taskrun.run_with(home.path(), &image, &options, &COMMAND)?, COLD, COLD_WHOLE)
        }),
    ]);
    let series = interleave(contenders, bench.rounds(21, 3))?;
    let comparisons = [
        Comparison { over: WARM_WHOLE, under: COLD_WHOLE, at_most: Some(0.125) },
        Comparison { over: WARM_WHOLE, under: CRUN_WHOLE, at_most: None },
    ];
    let about = "`echo x` in an image of 5 MB, with 1 vCPU and 128 MiB: from the start of the process to the first byte of \
                 its output, and to its end. The image is in the store and unpacked but for one contender, whose store is \
                 empty. A container of crun shares the host's kernel: it is no peer, but shows how long a process with \
                 namespaces takes here."
        .to_owned();
    let benchmark = Benchmark::new("start", about, series, &comparisons).plotting(&[CRUN, WARM, NEW, COLD]);
    Ok(benchmark.with_details(crun::absence(&containers)))
}

fn task(timings: &Timings, output: &str, whole: &str) -> Result<Vec<Sample>> {
    Ok(vec![Sample::milliseconds(output, timings.until_output()?), Sample::milliseconds(whole, timings.whole())])
}

fn container(containers: &Containers) -> Result<Vec<Sample>> {
    let started = Instant::now();
    let milliseconds = || started.elapsed().as_secs_f64() * 1e3;
    let mut container = Task::start(&mut containers.command())?;
    container.wait_for_output()?;
    let output = milliseconds();
    container.end()?;
    Ok(vec![Sample::milliseconds(CRUN, output), Sample::milliseconds(CRUN_WHOLE, milliseconds())])
}
