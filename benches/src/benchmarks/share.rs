//! Ten tasks of one image that have all read all of it: how often its pages are in memory, as persistent memory (DAX) and
//! as a block device.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Bench, rootfs};
use crate::harness::{Contender, Sample, interleave};
use crate::memory::{Pss, descendants, evict, file_pages, resident};
use crate::report::{Benchmark, Comparison};
use crate::task::{Task, end_all};

pub const IMAGE: &str = "data-100";

const TASKS: u64 = 10;

/// Reads the image, says so, and waits for the end of its standard input.
const SCRIPT: &str = "md5sum /data/* >/dev/null && echo read && cat >/dev/null";

/// Takes turns: pmem, blk.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let image = bench.image(IMAGE)?;
    let home = bench.folder()?;
    eprintln!("bench: unpacking {image}");
    bench.taskrun.run_true(home.path(), &image)?;
    let rootfs = rootfs(home.path())?;
    let contenders = ["pmem", "blk"]
        .map(|device| Contender::new(device, || turn(bench, home.path(), &image, &rootfs, device)))
        .into_iter()
        .collect();
    let series = interleave(contenders, bench.rounds(3, 1))?;
    let comparisons = [Comparison {
        over: "pmem: image and guests, all together",
        under: "blk: image and guests, all together",
        at_most: None,
    }];
    let about = format!(
        "{TASKS} tasks with 128 MB of memory each have read all {} MiB of one image's root file system and wait. PSS is \
         the VMMs' share of mapped pages (a page that n processes map counts as 1/n in each), so the image's sum over \
         all tasks is what it takes once. The page cache is the host's pages of that file, emptied before each turn. \
         With a block device, each guest keeps the image in a page cache of its own, as far as its memory goes.",
        fs::metadata(&rootfs).map(|file| file.len() >> 20).unwrap_or_default()
    );
    Ok(Benchmark::new("share", about, series, &comparisons))
}

fn turn(bench: &Bench, home: &Path, image: &str, rootfs: &Path, device: &str) -> Result<Vec<Sample>> {
    evict(rootfs)?;
    let before = file_pages()?;
    let start = |_| {
        let mut command = bench.taskrun.command(home);
        command.args(["run", "--quiet", "-i", "--memory", "128", "--image-device", device, image, "sh", "-c", SCRIPT]);
        Task::start(&mut command)
    };
    let mut tasks = (0..TASKS).map(start).collect::<Result<Vec<_>>>()?;
    tasks.iter_mut().try_for_each(|task| task.wait_for("read"))?;
    let grown = file_pages()?.saturating_sub(before);
    let cached = resident(rootfs)?;
    let vmms = tasks.iter().map(|task| descendants(task.pid(), "taskrun-vmm")).collect::<Result<Vec<_>>>()?;
    let pss = Pss::sum(vmms.into_iter().flatten().map(Pss::of).collect::<Result<Vec<_>>>()?);
    end_all(tasks)?;
    // A page that is mapped is in the page cache, and counts there.
    let sample = |name: &str, bytes| Sample::mebibytes(&format!("{device}: {name}"), bytes);
    Ok(vec![
        sample("image in the host's page cache", cached),
        sample("growth of all file pages (/proc/meminfo)", grown),
        sample("image, PSS of all VMMs", pss.image),
        sample("image, PSS per task", pss.image / TASKS),
        sample("guests' memory, PSS of all VMMs", pss.guest),
        sample("guests' memory, PSS per task", pss.guest / TASKS),
        sample("rest of the VMMs, PSS per task", pss.rest / TASKS),
        sample("image and guests, all together", cached.saturating_add(pss.guest)),
    ])
}
