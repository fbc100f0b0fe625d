//! From the start of a VMM's process to a restored guest that runs: taskrun beside other VMMs.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::Bench;
use crate::harness::{Contender, Sample, Series, interleave};
use crate::report::{Benchmark, Comparison};
use crate::stats;
use crate::vmms::{Contenders, Snapshots};

/// The most milliseconds that taskrun is meant to take.
const GOAL: f64 = 5.0;

/// How many restores the figures per second are of.
const MANY: u32 = 100;
const MANY_QUICK: u32 = 10;

const RESUMED: &str = "taskrun, process → guest runs";

/// Saves a guest under each VMM, then takes turns restoring them.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let contenders = Contenders::find(&bench.taskrun.libexec()?.join("taskrun-vmm"), &bench.guests)?;
    let payload = bench.payload()?;
    let folder = bench.folder()?;
    let many = if bench.quick { MANY_QUICK } else { MANY };
    let (mut turns, mut crowds) = (Vec::new(), Vec::new());
    for (index, vmm) in contenders.with_snapshots().enumerate() {
        let saved = folder.path().join(index.to_string());
        eprintln!("bench: saving a guest of {}", vmm.name());
        vmm.save(&payload, &saved)?;
        // The first restore reads what was just written, and is nobody's usual one.
        restore(vmm, &saved)?;
        crowds.push(crowd(vmm, saved.clone(), many));
        turns.push(turn(vmm, saved));
    }
    let mut series = interleave(turns, bench.rounds(51, 10))?;
    series.extend(interleave(crowds, bench.rounds(5, 1))?);
    let comparisons = [
        Comparison { over: RESUMED, under: "Firecracker, process → guest runs", at_most: Some(0.33) },
        Comparison { over: RESUMED, under: "Cloud Hypervisor, process → guest runs", at_most: None },
    ];
    // The figure is one for processors, not for the lab's emulation of one.
    let verdict = if vmm::arch::is_emulated() { String::new() } else { verdict(&series) + "\n\n" };
    let details = verdict + &contenders.remarks();
    let about = "VMM's process → the VMM says that a guest that was saved runs again; and → the first that the guest does that \
                 its VMM can tell of: a byte on the serial port, or, with taskrun, whose restored guests have none, the reading \
                 of 32 bytes of randomness, one port each. The guest is that of `boot`; all files are in the page cache. Per second: so \
                 many restored and ended one after the other, and so many started at once, until the last guest runs beside all others.";
    Ok(Benchmark::new("restore", about.to_owned(), series, &comparisons).with_details(details))
}

fn turn(vmm: &dyn Snapshots, saved: PathBuf) -> Contender<'_> {
    Contender::new(vmm.name(), move || restore(vmm, &saved))
}

fn restore(vmm: &dyn Snapshots, saved: &Path) -> Result<Vec<Sample>> {
    let restored = vmm.restore(saved)?;
    let name = vmm.name();
    Ok(vec![
        Sample::milliseconds(&format!("{name}, process → guest runs"), restored.resumed),
        Sample::milliseconds(&format!("{name}, process → guest's first output"), restored.guest.first_output()?),
    ])
}

fn crowd(vmm: &dyn Snapshots, saved: PathBuf, many: u32) -> Contender<'_> {
    let name = vmm.name();
    Contender::new(name, move || {
        let started = Instant::now();
        (0..many).try_for_each(|_| vmm.restore(&saved).map(drop))?;
        let in_a_row = Sample::rate(&format!("{name}, {many} one after the other"), many, started.elapsed());
        let at_once = Sample::rate(&format!("{name}, {many} at once"), many, at_once(vmm, &saved, many)?);
        Ok(vec![in_a_row, at_once])
    })
}

/// How long it takes until so many guests, started together, all run. None ends before.
fn at_once(vmm: &dyn Snapshots, saved: &Path, many: u32) -> Result<Duration> {
    let started = Instant::now();
    let all_run = Barrier::new(usize::try_from(many)?);
    let one = || {
        let restored = vmm.restore(saved);
        let took = started.elapsed();
        all_run.wait();
        restored.map(|_| took)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..many).map(|_| scope.spawn(one)).collect();
        threads.into_iter().try_fold(Duration::ZERO, |longest, thread| {
            let took = thread.join().map_err(|_| anyhow!("A thread that restored a guest panicked"))??;
            Ok(longest.max(took))
        })
    })
}

/// Whether taskrun is as quick as it is meant to be.
fn verdict(series: &[Series]) -> String {
    let series = series.iter().find(|series| series.name == RESUMED);
    let Some(median) = series.and_then(|series| stats::summary(&series.samples)).map(|summary| summary.median) else {
        return "taskrun's restore was not measured.".to_owned();
    };
    let is = if median <= GOAL { "it is" } else { "**it isn't**" };
    format!(
        "The median of \"{RESUMED}\" is meant to be at most {GOAL} ms directly on a host: {is}, with {median:.2} ms."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Unit;

    #[test]
    fn the_verdict_is_by_the_median() {
        let series = |samples: &[f64]| {
            [Series { name: RESUMED.to_owned(), unit: Unit::Milliseconds, samples: samples.to_vec() }]
        };
        assert!(verdict(&series(&[1.0, 4.0, 9.0])).ends_with("it is, with 4.00 ms."));
        assert!(verdict(&series(&[1.0, 6.0, 9.0])).ends_with("**it isn't**, with 6.00 ms."));
        assert_eq!(verdict(&[]), "taskrun's restore was not measured.");
    }
}
