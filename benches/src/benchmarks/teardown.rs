//! From the command's exit to the end of everything.

use anyhow::{Context, Result};

use super::{Bench, SIZE};
use crate::harness::{Contender, Sample, interleave};
use crate::report::{Benchmark, Goal};

pub const IMAGE: &str = "data-5";

const MEMORY: &str = "taskrun, root in memory: command exited → process ended";
const DISK: &str = "taskrun, root on a scratch disk: command exited → process ended";

/// The goal, in milliseconds.
const MOST: f64 = 20.0;

/// The parts of it with the root in memory; the last one ends with the process.
const PARTS: [(&str, &str, &str); 3] = [
    ("part: command exited → its output is written", "command-exited", "output-ended"),
    ("part: output written → VMM ended", "output-ended", "vmm-ended"),
    ("part: VMM ended → end in the ledger", "vmm-ended", "finished"),
];
const LAST_PART: &str = "part: end in the ledger → process ended";

/// Takes turns: root in memory, root on a disk.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let image = bench.image(IMAGE)?;
    let home = bench.folder()?;
    bench.taskrun.run_true_with(home.path(), &image, &SIZE)?;
    let contenders = vec![
        Contender::new("memory", || {
            let timings = bench.taskrun.run_true_with(home.path(), &image, &SIZE)?;
            let part = |&(series, from, to): &(&str, &str, &str)| {
                Some(Sample::milliseconds(series, timings.between(from, to)?))
            };
            let sample = |series, from| {
                let time = timings.to_the_end(from).context("The timings miss an end")?;
                Ok::<_, anyhow::Error>(Sample::milliseconds(series, time))
            };
            let whole = sample(MEMORY, "command-exited")?;
            let last = sample(LAST_PART, "finished")?;
            Ok(std::iter::once(whole).chain(PARTS.iter().filter_map(part)).chain([last]).collect())
        }),
        Contender::new("disk", || {
            let options = [&SIZE[..], &["--disk", "1GB"]].concat();
            let timings = bench.taskrun.run_true_with(home.path(), &image, &options)?;
            let time = timings.to_the_end("command-exited").context("The timings miss the command's exit")?;
            Ok(vec![Sample::milliseconds(DISK, time)])
        }),
    ];
    let series = interleave(contenders, bench.rounds(21, 5))?;
    let about =
        "`true` in a task that started from its template, with 1 vCPU and 128 MiB: from the moment in which taskrun \
        learns that the command has exited to the end of taskrun's process. In between the guest powers off, the VMM \
        ends, and the ledger gets the task's end, on the disk."
            .to_owned();
    let benchmark = Benchmark::new("teardown", about, series, &[]);
    Ok([MEMORY, DISK].iter().fold(benchmark, |benchmark, series| benchmark.meant(series, Goal::AtMost(MOST))))
}
