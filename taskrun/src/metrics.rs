//! `taskrun metrics`: the ledger in Prometheus's text format (version 0.0.4), for a scraper or for node_exporter's textfile
//! collector.
//!
//! Everything is computed from the ledger when it is asked for; there is no process that counts. Counters cover tasks that
//! have ended, so that none of them ever goes down. Names follow Prometheus's conventions: base units, `_total`.

use std::fmt::{Display, Write as _};
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::ledger::billing::{GbSeconds, VcpuSeconds};
use crate::ledger::{End, Filter, LedgerError, Record, Status, StopCode};
use crate::usage;

/// The upper bounds of the start latency's buckets, in milliseconds, as they are and as they are printed.
const BUCKETS: [(u64, &str); 14] = [
    (10, "0.01"),
    (25, "0.025"),
    (50, "0.05"),
    (100, "0.1"),
    (150, "0.15"),
    (250, "0.25"),
    (500, "0.5"),
    (1_000, "1"),
    (2_500, "2.5"),
    (5_000, "5"),
    (10_000, "10"),
    (30_000, "30"),
    (60_000, "60"),
    (300_000, "300"),
];

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// Who may read the file for the collector: everybody, since it runs as another user.
const FILE_MODE: u32 = 0o644;

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The file can't be written.
    #[error("The metrics can't be written to {path}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The output.
    #[error("The metrics can't be printed")]
    Print(#[source] io::Error),
}

/// Prints the metrics of the ledger in `home`, or puts them into the file `textfile`, all at once. Settles tasks whose
/// supervisors died, first.
///
/// # Errors
/// [`MetricsError`].
pub fn run(home: &Path, textfile: Option<&Path>, out: &mut impl Write) -> Result<(), MetricsError> {
    let (records, latencies) = match usage::open(home)? {
        Some(ledger) => (ledger.list(&Filter::everything())?, ledger.start_latencies()?),
        None => Default::default(),
    };
    let text = text(&records, &latencies);
    match textfile {
        Some(path) => replace(path, &text).map_err(|source| MetricsError::File { path: path.into(), source }),
        None => out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(MetricsError::Print),
    }
}

/// Puts a file in the place of `path`: whoever reads sees the old one or the new one, never a part.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Its name doesn't end with .prom, so the collector passes it over.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// The metrics of these tasks, with the nanoseconds that each took from its admission to its command.
fn text(records: &[Record], latencies: &[u64]) -> String {
    let mut page = Page::default();
    let count = |selected: &dyn Fn(&Record) -> bool| records.iter().filter(|record| selected(record)).count();
    page.family("taskrun_tasks", "gauge", "Tasks that have not ended, by ECS's lastStatus.");
    for status in Status::ALL.iter().filter(|status| **status != Status::Stopped) {
        page.labelled("taskrun_tasks", "status", status, count(&|record| record.status == *status));
    }
    page.counter("taskrun_tasks_admitted_total", "Tasks that were admitted.", records.len());
    let started = count(&|record| record.stamps.started_at.is_some());
    page.counter("taskrun_tasks_started_total", "Tasks whose command ran.", started);
    let name = "taskrun_tasks_stopped_total";
    page.family(name, "counter", "Tasks that have ended, by ECS's stopCode.");
    for code in StopCode::ALL {
        page.labelled(
            name,
            "stop_code",
            code,
            count(&|record| record.end.as_ref().is_some_and(|end| end.stop_code == *code)),
        );
    }
    let settled = count(&|record| record.end.as_ref().is_some_and(|end| end.settled));
    page.counter(
        "taskrun_tasks_settled_total",
        "Tasks whose end was entered after their supervisor had died.",
        settled,
    );
    allocations(&mut page, records);
    uses(&mut page, records);
    histogram(&mut page, latencies);
    page.0
}

/// What was allocated, for as long as it was, and what of that was billed.
fn allocations(page: &mut Page, records: &[Record]) {
    let ends = || records.iter().filter_map(|record| Some((record, record.end.as_ref()?)));
    let allocated = |size: &dyn Fn(&Record) -> u64| {
        let units = ends().fold(0_u128, |sum, (record, end)| {
            sum.saturating_add(u128::from(size(record)).saturating_mul(end.elapsed_ns.into()))
        });
        units as f64 / 1024.0 / 1e9
    };
    let billed_vcpu: VcpuSeconds = records.iter().filter_map(Record::vcpu_seconds).sum();
    let billed_gb: GbSeconds = records.iter().filter_map(Record::gb_seconds).sum();
    let billed_storage: GbSeconds = records.iter().filter_map(Record::storage_gb_seconds).sum();
    let billed_seconds = ends().fold(0_u64, |sum, (_, end)| sum.saturating_add(end.billed_seconds));
    let vcpu = allocated(&|record| record.cpu_units.into());
    page.counter("taskrun_allocated_vcpu_seconds_total", "vCPU-seconds that tasks had allocated.", vcpu);
    let gb = allocated(&|record| record.memory_mib.into());
    page.counter("taskrun_allocated_memory_gb_seconds_total", "GB-seconds of memory that tasks had allocated.", gb);
    let storage = allocated(&|record| record.storage_mib);
    page.counter(
        "taskrun_allocated_storage_gb_seconds_total",
        "GB-seconds of scratch disk that tasks had allocated.",
        storage,
    );
    page.counter("taskrun_billed_seconds_total", "Seconds that tasks were billed for.", billed_seconds);
    page.counter("taskrun_billed_vcpu_seconds_total", "vCPU-seconds that tasks were billed for.", billed_vcpu);
    page.counter(
        "taskrun_billed_memory_gb_seconds_total",
        "GB-seconds of memory that tasks were billed for.",
        billed_gb,
    );
    let help = "GB-seconds of scratch disk of tasks that were billed, the free part included.";
    page.counter("taskrun_billed_storage_gb_seconds_total", help, billed_storage);
}

/// What was used, as far as it is known.
fn uses(page: &mut Page, records: &[Record]) {
    let sum = |used: &dyn Fn(&End) -> Option<u64>| {
        records.iter().filter_map(|record| used(record.end.as_ref()?)).fold(0_u64, u64::saturating_add)
    };
    let cpu = Seconds(sum(&|end| end.used.cpu_ns));
    page.counter("taskrun_used_cpu_seconds_total", "Processor time of tasks' guests.", cpu);
    page.counter("taskrun_received_bytes_total", "Bytes that went into tasks.", sum(&|end| end.used.bytes_in));
    page.counter("taskrun_sent_bytes_total", "Bytes that came out of tasks.", sum(&|end| end.used.bytes_out));
}

fn histogram(page: &mut Page, latencies: &[u64]) {
    let name = "taskrun_task_start_seconds";
    page.family(
        name,
        "histogram",
        "Time from the admission of a task to the start of its command, its image's pull included.",
    );
    for (milliseconds, bound) in BUCKETS {
        let below = latencies.iter().filter(|ns| **ns <= milliseconds.saturating_mul(NS_PER_MS)).count();
        page.labelled(&format!("{name}_bucket"), "le", bound, below);
    }
    page.labelled(&format!("{name}_bucket"), "le", "+Inf", latencies.len());
    page.sample(&format!("{name}_sum"), Seconds(latencies.iter().copied().fold(0, u64::saturating_add)));
    page.sample(&format!("{name}_count"), latencies.len());
}

/// Nanoseconds, printed as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let per_second = NS_PER_MS * 1000;
        write!(f, "{}.{:09}", self.0 / per_second, self.0 % per_second)
    }
}

/// The text. Writing to a string can't fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, value);
    }

    fn sample(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn labelled(&mut self, name: &str, label: &str, label_value: impl Display, value: impl Display) {
        let _ = writeln!(self.0, "{name}{{{label}=\"{label_value}\"}} {value}");
    }
}

#[cfg(test)]
mod tests;
