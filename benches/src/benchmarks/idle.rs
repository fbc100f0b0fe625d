//! What tasks take that wait: their VMMs' own memory, and their guests'.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Bench, SIZE};
use crate::harness::{Contender, Sample, interleave};
use crate::memory::{Pss, descendants};
use crate::report::{Benchmark, Goal};
use crate::task::{Task, end_all};

pub const IMAGE: &str = "data-5";

/// So many share what processes of one program share anyhow: this is what one of them more takes.
const MANY: u64 = 100;

/// How many tasks there are when it is looked at their memory.
const COUNTS: [u64; 3] = [1, 10, MANY];
const COUNTS_QUICK: [u64; 2] = [1, 4];

/// A guest reports about every two seconds what it doesn't need any more.
const SETTLING: Duration = Duration::from_secs(3);
const MOST_SETTLINGS: u32 = 20;

const DIRTY: &str = "VMM, private dirty outside guest memory";
const WHOLE: &str = "all together, PSS without the template";

/// The goals, in MiB.
const MOST_DIRTY: f64 = 2.5;
const MOST_WHOLE: f64 = 3.0;

/// A round starts all tasks, and looks at them whenever there are as many as wanted.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let image = bench.image(IMAGE)?;
    let home = bench.folder()?;
    bench.taskrun.run_true_with(home.path(), &image, &SIZE)?;
    let counts: &[u64] = if bench.quick { &COUNTS_QUICK } else { &COUNTS };
    let start = || {
        let mut command = bench.taskrun.command(home.path());
        command.args(["run", "--quiet", "-i"]).args(SIZE).args([&image, "sh", "-c", "echo ready; read line; true"]);
        let mut task = Task::start(&mut command)?;
        task.wait_for("ready").map(|()| task)
    };
    let contender = Contender::new("idle", || turn(counts, &start));
    let series = interleave(vec![contender], bench.rounds(3, 1))?;
    let about =
        "Tasks of one image of 5 MB, with 1 vCPU and 128 MiB, started from their template, that wait for input; \
        figures are MiB per task, taken when the guests have given back what they freed. *VMM* is the process \
        `taskrun-vmm` without guest memory and image; *guest* is guest memory that differs from the template's, so no \
        other task has it; the template's own pages and the image's are the host's page cache, once for all tasks (PSS \
        counts a page that n processes map as 1/n in each). *All together* is both processes, the guest and the image."
            .to_owned();
    let benchmark = Benchmark::new("idle", about, series, &[]);
    let meant = |benchmark: Benchmark, &count: &u64| benchmark.meant(&name(count, DIRTY), Goal::AtMost(MOST_DIRTY));
    Ok(counts.iter().fold(benchmark, meant).meant(&name(MANY, WHOLE), Goal::AtMost(MOST_WHOLE)))
}

fn name(count: u64, what: &str) -> String {
    format!("{count} idle: {what}")
}

fn turn(counts: &[u64], start: &dyn Fn() -> Result<Task>) -> Result<Vec<Sample>> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut samples = Vec::new();
    for &count in counts {
        while (tasks.len() as u64) < count {
            tasks.push(start()?);
        }
        samples.extend(per_task(count, settled(&tasks)?));
    }
    end_all(tasks)?;
    Ok(samples)
}

/// What the tasks hold.
#[derive(Clone, Copy, Debug)]
struct Held {
    vmms: Pss,
    /// `taskrun`, one for each task.
    supervisors: Pss,
}

impl Held {
    fn of(tasks: &[Task]) -> Result<Self> {
        let sum = |pids: Vec<u32>| pids.into_iter().map(Pss::of).collect::<Result<Vec<_>>>().map(Pss::sum);
        let vmms = tasks.iter().map(|task| descendants(task.pid(), "taskrun-vmm")).collect::<Result<Vec<_>>>()?;
        let supervisors = sum(tasks.iter().map(Task::pid).collect())?;
        Ok(Self { vmms: sum(vmms.into_iter().flatten().collect())?, supervisors })
    }
}

/// What they hold when it doesn't become less any more.
fn settled(tasks: &[Task]) -> Result<Held> {
    let mut held = Held::of(tasks)?;
    for _ in 0..MOST_SETTLINGS {
        thread::sleep(SETTLING);
        let next = Held::of(tasks)?;
        let (before, now) = (held.vmms.guest_own, next.vmms.guest_own);
        held = next;
        if now >= before.saturating_sub(before / 100) {
            break;
        }
    }
    Ok(held)
}

fn per_task(count: u64, Held { vmms, supervisors }: Held) -> Vec<Sample> {
    let sample = |what: &str, bytes: u64| Sample::mebibytes(&name(count, what), bytes / count);
    let whole = [vmms.rest, vmms.guest_own, vmms.image, supervisors.rest].into_iter().fold(0, u64::saturating_add);
    vec![
        sample(DIRTY, vmms.rest_dirty),
        sample("VMM, PSS outside guest memory", vmms.rest),
        sample("guest, its own memory", vmms.guest_own),
        sample("template, PSS", vmms.guest.saturating_sub(vmms.guest_own)),
        sample("image, PSS", vmms.image),
        sample("taskrun, PSS", supervisors.rest),
        sample(WHOLE, whole),
    ]
}
