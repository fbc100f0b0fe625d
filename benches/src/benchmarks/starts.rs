//! How many tasks are started and ended per second: one after the other, and many at once; beside containers.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use super::{Bench, SIZE};
use crate::crun::{self, Containers};
use crate::harness::{Contender, Sample, interleave};
use crate::report::Benchmark;
use crate::task::{Task, end_all};

pub const IMAGE: &str = "data-5";

/// How many there are at once; one alone is started again and again.
const AT_ONCE: [u32; 3] = [1, 8, 64];
const AT_ONCE_QUICK: [u32; 2] = [1, 4];

/// How many follow each other.
const IN_A_ROW: u32 = 8;
const IN_A_ROW_QUICK: u32 = 2;

/// Takes turns: crun and taskrun, for each number.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let image = bench.image(IMAGE)?;
    let home = bench.folder()?;
    bench.taskrun.run_true_with(home.path(), &image, &SIZE)?;
    let containers = Containers::new(bench.folder()?, &image, &["true"]);
    let task = || {
        let mut command = bench.taskrun.command(home.path());
        command.args(["run", "--quiet"]).args(SIZE).args([&image, "true"]);
        command
    };
    let numbers: &[u32] = if bench.quick { &AT_ONCE_QUICK } else { &AT_ONCE };
    let names: Vec<(u32, String, String)> =
        numbers.iter().map(|&count| (count, name("crun", count), name("taskrun", count))).collect();
    let in_a_row = if bench.quick { IN_A_ROW_QUICK } else { IN_A_ROW };
    let mut contenders = Vec::new();
    for (count, crun, taskrun) in &names {
        if let Ok(containers) = &containers {
            contenders.push(Contender::new(crun, || turn(&|| containers.command(), *count, in_a_row, crun)));
        }
        contenders.push(Contender::new(taskrun, || turn(&task, *count, in_a_row, taskrun)));
    }
    let series = interleave(contenders, bench.rounds(5, 2))?;
    let about = format!(
        "`true` in an image of 5 MB that is in the store and unpacked, with 1 vCPU and 128 MiB, from the template: started, run and \
         over, per second; {in_a_row} tasks one after the other, and so many started at once, until the last is over. \
         Containers of crun, which share the host's kernel, are scale and no peer."
    );
    Ok(Benchmark::new("starts", about, series, &[]).with_details(crun::absence(&containers)))
}

fn name(who: &str, count: u32) -> String {
    if count == 1 { format!("{who}, one after the other") } else { format!("{who}, {count} at once") }
}

fn turn(command: &dyn Fn() -> Command, at_once: u32, in_a_row: u32, series: &str) -> Result<Vec<Sample>> {
    let started = Instant::now();
    if at_once == 1 {
        (0..in_a_row).try_for_each(|_| Task::start(&mut command())?.end().map(drop))?;
        return Ok(vec![Sample::rate(series, in_a_row, started.elapsed())]);
    }
    end_all((0..at_once).map(|_| Task::start(&mut command())).collect::<Result<_>>()?)?;
    Ok(vec![Sample::rate(series, at_once, started.elapsed())])
}
