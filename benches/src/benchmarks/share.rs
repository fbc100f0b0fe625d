//! Ten tasks of one image that have all read all of it: how often its pages are in memory, as persistent memory (DAX) and
//! as a block device.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::harness::{Contender, Sample, interleave};
use crate::memory::{Pss, descendants, evict, file_pages, resident};
use crate::report::{Benchmark, Comparison};

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

/// The only root file system in a store.
fn rootfs(home: &Path) -> Result<PathBuf> {
    let folder = home.join("images/rootfs");
    let entries = fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let found = paths.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "erofs"));
    found.with_context(|| format!("{} has no root file system", folder.display()))
}

fn turn(bench: &Bench, home: &Path, image: &str, rootfs: &Path, device: &str) -> Result<Vec<Sample>> {
    evict(rootfs)?;
    let before = file_pages()?;
    let mut tasks = (0..TASKS).map(|_| Task::start(bench, home, image, device)).collect::<Result<Vec<_>>>()?;
    for task in &mut tasks {
        task.wait_until_read()?;
    }
    let grown = file_pages()?.saturating_sub(before);
    let cached = resident(rootfs)?;
    let vmms = tasks.iter().map(|task| descendants(task.process.id(), "taskrun-vmm")).collect::<Result<Vec<_>>>()?;
    let pss = Pss::sum(vmms.into_iter().flatten().map(Pss::of).collect::<Result<Vec<_>>>()?);
    for task in tasks {
        task.finish()?;
    }
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

/// A task that is under way; killed when it is dropped.
struct Task {
    process: Child,
    stdin: Option<ChildStdin>,
}

impl Task {
    fn start(bench: &Bench, home: &Path, image: &str, device: &str) -> Result<Self> {
        let mut command = bench.taskrun.command(home);
        command.args(["run", "--quiet", "-i", "--memory", "128", "--image-device", device, image, "sh", "-c", SCRIPT]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().context("taskrun can't be started")?;
        let stdin = process.stdin.take();
        Ok(Self { process, stdin })
    }

    fn wait_until_read(&mut self) -> Result<()> {
        let mut line = String::new();
        let stdout = self.process.stdout.as_mut().context("The task has no standard output")?;
        BufReader::new(stdout).read_line(&mut line).context("The task's output can't be read")?;
        if line != "read\n" {
            bail!("A task could not read its image: {}", self.errors());
        }
        Ok(())
    }

    /// Lets it end.
    fn finish(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.process.wait().context("The task can't be waited for")?;
        if !status.success() {
            bail!("A task ended with {status}: {}", self.errors());
        }
        Ok(())
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.process.stderr {
            let _ = stderr.read_to_string(&mut text);
        }
        text.trim().to_owned()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
