//! What a run of the benchmarks gives: `report.json` with every sample and, from the same data, `report.md` and plots.

mod benchmark;
mod goal;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

pub use self::benchmark::{Benchmark, Comparison, figure};
pub use self::goal::Goal;
use crate::harness::Unit;
use crate::host::Host;
use crate::plot::{Group, Plot};

/// The name of the JSON document.
pub const FILE_NAME: &str = "report.json";

/// The version of the JSON document.
pub const VERSION: u32 = 1;

/// The plot for a reader in a hurry: what benchmarks of a start measured, one below the other.
const MAIN_PLOT: &str = "main.svg";
const MAIN_TITLE: &str = "A start, from the process's beginning";
const MAIN: [(&str, &str); 3] = [
    ("start", "to the first byte of the command's output"),
    ("boot", "boot: to the guest's first user instruction"),
    ("restore", "restore: to the guest's going on"),
];

/// Everything that a run measured.
#[derive(Debug, Serialize)]
pub struct Report {
    version: u32,
    host: Host,
    quick: bool,
    /// Whether a nanosecond is an executed instruction.
    icount: bool,
    benchmarks: Vec<Benchmark>,
    /// What was not measured, and why.
    skipped: Vec<String>,
    /// How it differs from an earlier run, as a table.
    #[serde(skip)]
    comparison: String,
}

impl Report {
    /// A report without benchmarks.
    pub fn new(host: Host, quick: bool, icount: bool) -> Self {
        Self {
            version: VERSION,
            host,
            quick,
            icount,
            benchmarks: Vec::new(),
            skipped: Vec::new(),
            comparison: String::new(),
        }
    }

    /// Notes that a benchmark was left out.
    pub fn skip(&mut self, sentence: String) {
        self.skipped.push(sentence);
    }

    /// Adds a benchmark and writes all files, so that what was measured stays when a later one fails.
    pub fn add(&mut self, benchmark: Benchmark, folder: &Path) -> Result<()> {
        if let Some(svg) = benchmark.svg()? {
            write(folder, &format!("{}.svg", benchmark.name), &svg)?;
        }
        self.benchmarks.push(benchmark);
        if let Some(plot) = self.main_plot() {
            write(folder, MAIN_PLOT, &plot.svg()?)?;
        }
        self.write_documents(folder)
    }

    /// Adds how it differs from an earlier run, if it was compared with one, and writes what is known only now.
    pub fn finish(&mut self, comparison: String, folder: &Path) -> Result<()> {
        self.comparison = comparison;
        self.write_documents(folder)
    }

    fn write_documents(&self, folder: &Path) -> Result<()> {
        write(folder, FILE_NAME, &self.json()?)?;
        write(folder, "report.md", &self.markdown())
    }

    /// The document for programs.
    pub fn json(&self) -> Result<String> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        Ok(json)
    }

    /// The report for people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "| | |\n|---|---|")?;
        for (name, value) in self.host.facts() {
            writeln!(out, "| {name} | {value} |")?;
        }
        if self.quick {
            writeln!(out, "\nA quick run: few rounds, and smaller images. Its intervals say little.")?;
        }
        if self.icount {
            writeln!(out, "\nTimes are instruction counts: a nanosecond is an instruction, so 1 ms is a million.")?;
        }
        for sentence in &self.skipped {
            writeln!(out, "\n{sentence}")?;
        }
        if self.main_plot().is_some() {
            writeln!(out, "\n![{MAIN_TITLE}]({MAIN_PLOT})")?;
        }
        for benchmark in &self.benchmarks {
            benchmark.write_markdown(out)?;
        }
        write!(out, "{}", self.comparison)
    }

    fn main_plot(&self) -> Option<Plot> {
        let group = |&(name, heading): &(&str, &str)| {
            let (unit, bars) = self.benchmarks.iter().find(|benchmark| benchmark.name == name)?.bars()?;
            (unit == Unit::Milliseconds).then(|| Group { heading: heading.to_owned(), bars })
        };
        let groups: Vec<Group> = MAIN.iter().filter_map(group).collect();
        (!groups.is_empty()).then(|| Plot { title: MAIN_TITLE.to_owned(), unit: Unit::Milliseconds, groups })
    }
}

fn write(folder: &Path, name: &str, content: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, content).with_context(|| format!("{} can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Series;

    fn benchmark(name: &'static str, series: &[(&str, &[f64])]) -> Benchmark {
        let series = series.iter().map(|(name, samples)| Series {
            name: (*name).to_owned(),
            unit: Unit::Milliseconds,
            samples: samples.to_vec(),
        });
        Benchmark::new(name, String::new(), series.collect(), &[])
    }

    #[test]
    fn all_files_are_written_after_each_benchmark_and_keep_every_sample() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name));
        let host = Host { kernel: "6.1".to_owned(), ..Host::default() };
        let mut report = Report::new(host, false, false);
        report.skip("No share here.".to_owned());
        report.add(benchmark("pull", &[("skopeo", &[1.0, 3.0])]), folder.path()).unwrap();
        let text = read("report.md").unwrap();
        for part in ["| kernel | 6.1 |", "| skopeo | 2 | 2.00 |", "\nNo share here.\n"] {
            assert!(text.contains(part), "no {part:?} in:\n{text}");
        }
        assert!(read(MAIN_PLOT).is_err() && !text.contains("svg"), "nothing of a start was measured");

        report.add(benchmark("start", &[("warm", &[2.0]), ("cold", &[30.0])]), folder.path()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&read(FILE_NAME).unwrap()).unwrap();
        assert_eq!(json["benchmarks"][0]["rows"][0]["samples"], serde_json::json!([1.0, 3.0]));
        assert_eq!(json["benchmarks"][1]["rows"][1]["p99"], 30.0);
        for plot in [MAIN_PLOT, "start.svg"] {
            assert!(read(plot).unwrap().contains("cold"), "{plot}");
            assert!(read("report.md").unwrap().contains(&format!("]({plot})")), "{plot}");
        }
    }
}
