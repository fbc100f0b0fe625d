//! Bytes into and out of a task: its image, its scratch disk, its standard streams; beside the same program on the host.
//!
//! The program is `meter`, which takes its own times; only what it writes to standard output is timed here.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Bench, read, rootfs};
use crate::command;
use crate::harness::{Contender, Sample, interleave};
use crate::random::Random;
use crate::report::Benchmark;

const SIZE: [&str; 4] = ["--cpu", "1", "--memory", "256"];

/// The works that read the image, each its own files, so that none finds pages that another has read.
const READS: [&str; 4] =
    ["sequential read", "random read, 4 KiB", "page faults of a mapped file", "copy of a mapped file"];
const WRITE: &str = "sequential write, synced";
const OUT: &str = "standard output";
const IN: &str = "standard input";

/// The image with the program and ten files.
pub const fn image(quick: bool) -> &'static str {
    if quick { "io-20" } else { "io-100" }
}

/// How much is done.
struct Amount {
    /// The length of each file in the image.
    file: u64,
    /// Pages that are read in random order.
    pages: u32,
    copies: u32,
    /// What goes to the disk and through the streams.
    mebibytes: u64,
}

impl Amount {
    const FULL: Self = Self { file: 10_000_000, pages: 4000, copies: 50, mebibytes: 64 };
    const QUICK: Self = Self { file: 2_000_000, pages: 500, copies: 100, mebibytes: 16 };

    /// A script that reads the files in `folder`, and prints a line for each of [`READS`].
    fn script(&self, meter: &str, folder: &str) -> String {
        let files = |numbers: &[u32]| numbers.iter().map(|n| format!(" {folder}/{n}")).collect::<String>();
        let (pages, copies) = (self.pages, self.copies);
        [
            format!("{meter} sequential{}", files(&[0, 1, 2])),
            format!("{meter} random {pages}{}", files(&[3, 4, 5])),
            format!("{meter} fault{}", files(&[6, 7, 8])),
            format!("{meter} copy {copies}{}", files(&[9])),
        ]
        .join(" && ")
    }
}

/// What the program says.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Done {
    bytes: u64,
    ns: u64,
}

impl Done {
    fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line).with_context(|| format!("meter said {line:?}"))
    }

    fn sample(self, who: &str, what: &str) -> Sample {
        Sample::throughput(&format!("{who}: {what}"), self.bytes, Duration::from_nanos(self.ns))
    }
}

/// Takes turns: host, pmem, blk; then host and task with disk and streams.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let (image, amount) = (bench.image(image(bench.quick))?, if bench.quick { Amount::QUICK } else { Amount::FULL });
    let (home, data) = (bench.folder()?, bench.folder()?);
    make_files(data.path(), amount.file)?;
    bench.taskrun.run_true_with(home.path(), &image, &SIZE)?;
    read(&rootfs(home.path())?).context("The image can't be read")?;
    let works = Works { bench, home: home.path(), data: data.path(), image: &image, amount: &amount };
    let contenders = vec![
        Contender::new("host, files", || works.host_reads()),
        Contender::new("pmem", || works.task_reads("pmem")),
        Contender::new("blk", || works.task_reads("blk")),
        Contender::new("host, disk and streams", || works.host_streams()),
        Contender::new("task, disk and streams", || works.task_streams()),
    ];
    let series = interleave(contenders, bench.rounds(7, 2))?;
    let about = format!(
        "Reads of one image's files in a task with 1 vCPU and 256 MiB, through persistent memory (DAX) and through a block \
         device, both with the image in the host's page cache and a guest that has read none of it; beside files in the page \
         cache of the host. The copy of a mapped file into memory makes no system calls and comes after a first one with all page \
         faults. Then {0} MiB to a scratch disk (`--disk`) with an fsync, {0} MiB of zeros out of the task through a pipe, and as \
         much into it; on the host, the same program without a task.",
        amount.mebibytes
    );
    let name = |who: &str, what: &str| format!("{who}: {what}");
    let [sequential, random, faults, copy] = READS;
    let benchmark = Benchmark::new("io", about, series, &[]);
    let benchmark = [sequential, random, faults]
        .iter()
        .fold(benchmark, |benchmark, what| benchmark.at_least(&name("pmem", what), &name("blk", what), 2.0));
    let benchmark = benchmark.at_least(&name("pmem", copy), &name("host", copy), 0.9);
    let against_host = [name("task", WRITE), name("task", OUT), name("task", IN)];
    Ok(against_host
        .iter()
        .zip([WRITE, OUT, IN])
        .fold(benchmark, |benchmark, (task, what)| benchmark.comparing(task, &name("host", what))))
}

/// Ten files of random bytes, as the image has them.
fn make_files(folder: &Path, length: u64) -> Result<()> {
    (0..10_u64)
        .try_for_each(|number| {
            let mut file = File::create(folder.join(number.to_string()))?;
            Random::new(number).write(length, &mut file)
        })
        .context("Files for the host can't be made")
}

/// Who does the works, and where.
struct Works<'a> {
    bench: &'a Bench,
    home: &'a Path,
    data: &'a Path,
    image: &'a str,
    amount: &'a Amount,
}

impl Works<'_> {
    fn host_reads(&self) -> Result<Vec<Sample>> {
        let script = self.amount.script(&self.bench.meter.display().to_string(), &self.data.display().to_string());
        reads("host", Command::new("sh").args(["-c", &script]))
    }

    fn task_reads(&self, device: &str) -> Result<Vec<Sample>> {
        let script = self.amount.script("meter", "/data");
        reads(device, &mut self.task(&["--image-device", device], &["sh", "-c", &script]))
    }

    fn host_streams(&self) -> Result<Vec<Sample>> {
        let mebibytes = self.amount.mebibytes.to_string();
        let file: PathBuf = self.bench.folder()?.path().with_extension("written");
        let meter = |arguments: &[&str]| {
            let mut command = Command::new(&self.bench.meter);
            command.args(arguments);
            command
        };
        let written = command::first_line(meter(&["write", &mebibytes]).arg(&file));
        // Also when it failed halfway.
        let _ = fs::remove_file(&file);
        self.streams("host", &written?, &mut meter(&["pour", &mebibytes]), &mut meter(&["drain"]))
    }

    fn task_streams(&self) -> Result<Vec<Sample>> {
        let mebibytes = self.amount.mebibytes.to_string();
        let written =
            command::first_line(&mut self.task(&["--disk", "1GB"], &["meter", "write", &mebibytes, "/written"]))?;
        let (mut pour, mut drain) =
            (self.task(&[], &["meter", "pour", &mebibytes]), self.task(&["-i"], &["meter", "drain"]));
        self.streams("task", &written, &mut pour, &mut drain)
    }

    fn streams(&self, who: &str, written: &str, pour: &mut Command, drain: &mut Command) -> Result<Vec<Sample>> {
        let bytes = self.amount.mebibytes << 20;
        Ok(vec![
            Done::parse(written)?.sample(who, WRITE),
            Sample::throughput(&format!("{who}: {OUT}"), bytes, output(pour, bytes)?),
            input(drain, bytes)?.sample(who, IN),
        ])
    }

    fn task(&self, options: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.bench.taskrun.command(self.home);
        command.args(["run", "--quiet"]).args(SIZE).args(options).arg(self.image).args(arguments);
        command
    }
}

/// Runs a script of reads.
fn reads(who: &str, command: &mut Command) -> Result<Vec<Sample>> {
    let output = command::run(command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let done = text.lines().map(Done::parse).collect::<Result<Vec<_>>>()?;
    if done.len() != READS.len() {
        bail!("meter did {} of {} works", done.len(), READS.len());
    }
    Ok(done.into_iter().zip(READS).map(|(done, what)| done.sample(who, what)).collect())
}

/// Reads what a process prints, and says how long that took from the first byte on.
fn output(command: &mut Command, bytes: u64) -> Result<Duration> {
    let mut process =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("A process can't be started")?;
    let mut stdout = process.stdout.take().context("A process has no standard output")?;
    let mut block = vec![0; 1 << 20];
    let mut count = stdout.read(&mut block).context("A stream can't be read")? as u64;
    let started = Instant::now();
    loop {
        match stdout.read(&mut block).context("A stream can't be read")? {
            0 => break,
            more => count = count.saturating_add(more as u64),
        }
    }
    let time = started.elapsed();
    end(&mut process)?;
    if count != bytes {
        bail!("{count} bytes came out instead of {bytes}");
    }
    Ok(time)
}

/// Writes zeros into a process, and gives what it says about them.
fn input(command: &mut Command, bytes: u64) -> Result<Done> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().context("A process can't be started")?;
    let mut stdin = process.stdin.take().context("A process has no standard input")?;
    io::copy(&mut io::repeat(0).take(bytes), &mut stdin)
        .and_then(|_| stdin.flush())
        .context("A stream can't be written")?;
    drop(stdin);
    let mut line = String::new();
    let stdout = process.stdout.as_mut().context("A process has no standard output")?;
    stdout.read_to_string(&mut line).context("A stream can't be read")?;
    end(&mut process)?;
    let done = Done::parse(line.trim())?;
    if done.bytes != bytes {
        bail!("{} bytes went in instead of {bytes}", done.bytes);
    }
    Ok(done)
}

fn end(process: &mut Child) -> Result<()> {
    let status = process.wait().context("A process can't be waited for")?;
    if status.success() { Ok(()) } else { bail!("A process ended with {status}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::sh;

    #[test]
    fn every_work_reads_files_of_its_own() {
        let script = Amount::QUICK.script("meter", "/d");
        let mut files: Vec<&str> = script.split(' ').filter(|word| word.starts_with("/d/")).collect();
        files.sort_unstable();
        assert_eq!(files.len(), 10);
        files.dedup();
        assert_eq!(files.len(), 10);
        assert_eq!(script.split(" && ").count(), READS.len());
    }

    #[test]
    fn streams_are_counted_and_a_byte_too_few_is_an_error() {
        assert!(output(&mut sh("head -c 5000 /dev/zero"), 5000).is_ok());
        assert!(output(&mut sh("head -c 4999 /dev/zero"), 5000).is_err());
        let drain = r#"printf '{"bytes": %d, "ns": 7}' "$(wc -c)""#;
        assert_eq!(input(&mut sh(drain), 3 << 20).unwrap().ns, 7);
        assert!(input(&mut sh(r#"cat >/dev/null; echo '{"bytes": 5, "ns": 7}'"#), 6).is_err());
        assert!(input(&mut sh("cat >/dev/null; exit 1"), 6).is_err());
    }
}
