//! What a run of the benchmarks gives: `report.json` and, from the same data, `report.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::harness::Series;
use crate::host::Host;
use crate::stats::{self, Interval, Summary};

/// The version of the JSON document.
const VERSION: u32 = 1;

/// Everything that a run measured.
#[derive(Debug, Serialize)]
pub struct Report {
    version: u32,
    host: Host,
    quick: bool,
    benchmarks: Vec<Benchmark>,
}

/// What one benchmark measured.
#[derive(Debug, Serialize)]
pub struct Benchmark {
    name: &'static str,
    about: String,
    rows: Vec<Row>,
    ratios: Vec<Ratio>,
}

/// A series and what it comes to.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    series: Series,
    #[serde(flatten)]
    summary: Summary,
}

/// Two series compared.
#[derive(Debug, Serialize)]
struct Ratio {
    over: &'static str,
    under: &'static str,
    #[serde(flatten)]
    interval: Option<Interval>,
    /// The figure that the project has set itself.
    at_most: Option<f64>,
}

/// Which series are compared, and the most that their ratio is meant to be.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    pub over: &'static str,
    pub under: &'static str,
    pub at_most: Option<f64>,
}

impl Benchmark {
    /// Works out what the series come to.
    pub fn new(name: &'static str, about: String, series: Vec<Series>, comparisons: &[Comparison]) -> Self {
        let samples = |name: &str| {
            series.iter().find(|series| series.name == name).map_or(&[][..], |series| series.samples.as_slice())
        };
        let ratios = comparisons
            .iter()
            .map(|&Comparison { over, under, at_most }| {
                let interval = stats::ratio(samples(over), samples(under));
                Ratio { over, under, interval, at_most }
            })
            .collect();
        let row = |series: Series| stats::summary(&series.samples).map(|summary| Row { series, summary });
        Self { name, about, ratios, rows: series.into_iter().filter_map(row).collect() }
    }
}

impl Report {
    /// A report without benchmarks.
    pub fn new(host: Host, quick: bool) -> Self {
        Self { version: VERSION, host, quick, benchmarks: Vec::new() }
    }

    /// Adds a benchmark and writes both files, so that what was measured stays when a later one fails.
    pub fn add(&mut self, benchmark: Benchmark, folder: &Path) -> Result<()> {
        self.benchmarks.push(benchmark);
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        for (name, content) in [("report.json", json), ("report.md", self.markdown())] {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| format!("{} can't be written", path.display()))?;
        }
        Ok(())
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
        for benchmark in &self.benchmarks {
            benchmark.write_markdown(out)?;
        }
        Ok(())
    }
}

impl Benchmark {
    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n### {}\n\n{}\n", self.name, self.about)?;
        writeln!(out, "| | n | median | p10 | p90 | |\n|---|--:|--:|--:|--:|---|")?;
        for Row { series, summary: Summary { n, median, p10, p90 } } in &self.rows {
            let [median, p10, p90] = [median, p10, p90].map(|value| figure(*value));
            writeln!(out, "| {} | {n} | {median} | {p10} | {p90} | {} |", series.name, series.unit.symbol())?;
        }
        if !self.ratios.is_empty() {
            writeln!(out, "\n| ratio of medians | | 95 % interval | meant to be |\n|---|--:|--:|---|")?;
        }
        for ratio in &self.ratios {
            writeln!(out, "| {} / {} | {} |", ratio.over, ratio.under, ratio.cells())?;
        }
        Ok(())
    }
}

impl Ratio {
    /// The ratio, its interval and whether it is what it is meant to be.
    fn cells(&self) -> String {
        let goal = |ratio: f64| match self.at_most {
            None => String::new(),
            Some(most) if ratio <= most => format!("at most {most}: it is"),
            Some(most) => format!("at most {most}: **it isn't**, by {:.0} %", (ratio / most - 1.0) * 100.0),
        };
        self.interval.map_or_else(
            || "not measured | | ".to_owned(),
            |Interval { ratio, low, high }| format!("{ratio:.2} | {low:.2}–{high:.2} | {}", goal(ratio)),
        )
    }
}

/// A number with about three digits that count.
fn figure(value: f64) -> String {
    let digits = if value.abs() >= 100.0 { 0 } else { 1 + usize::from(value.abs() < 10.0) };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Unit;

    fn series(name: &str, samples: &[f64]) -> Series {
        Series { name: name.to_owned(), unit: Unit::Milliseconds, samples: samples.to_vec() }
    }

    fn report() -> Report {
        let host = Host { kernel: "6.1".to_owned(), ..Host::default() };
        let comparisons = [
            Comparison { over: "b", under: "a", at_most: Some(2.0) },
            Comparison { over: "c", under: "a", at_most: Some(2.0) },
            Comparison { over: "absent", under: "a", at_most: None },
        ];
        let all = vec![series("a", &[10.0; 3]), series("b", &[15.0; 3]), series("c", &[1234.0, 30.0, 30.0])];
        let mut report = Report::new(host, false);
        report.benchmarks.push(Benchmark::new("unpack", "What it does.".to_owned(), all, &comparisons));
        report
    }

    #[test]
    fn the_tables_say_what_was_measured_and_what_was_meant() {
        let text = report().markdown();
        for line in [
            "### unpack",
            "| a | 3 | 10.0 | 10.0 | 10.0 | ms |",
            "| b / a | 1.50 | 1.50–1.50 | at most 2: it is |",
            "| c / a | 3.00 | 3.00–123.40 | at most 2: **it isn't**, by 50 % |",
            "| absent / a | not measured | |  |",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in:\n{text}");
        }
    }

    #[test]
    fn both_files_are_written_after_each_benchmark() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = report();
        let next = Benchmark::new("pull", String::new(), vec![series("skopeo", &[1.0, 3.0])], &[]);
        report.add(next, folder.path()).unwrap();
        assert!(fs::read_to_string(folder.path().join("report.md")).unwrap().contains("| skopeo | 2 | 2.00 |"));
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path().join("report.json")).unwrap()).unwrap();
        assert_eq!(json["benchmarks"][1]["rows"][0]["samples"], serde_json::json!([1.0, 3.0]));
        assert_eq!(json["benchmarks"][0]["ratios"][0]["ratio"], 1.5);
    }

    #[test]
    fn figures_have_three_digits_that_count() {
        assert_eq!([1234.5, 123.4, 12.34, 1.234].map(figure), ["1234", "123", "12.3", "1.23"]);
    }
}
