//! Two runs compared: what became slower or faster beyond noise.
//!
//! A run is read from its `report.json`. Runs share no rounds, so their samples are drawn independently
//! ([`stats::independent`]); a figure has changed when the interval of the ratio leaves out 1 and the ratio is a few per
//! cent away from it. Only runs of the same kind on the same host are compared.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::harness::Unit;
use crate::host::Host;
use crate::report::{FILE_NAME, Report, VERSION, figure};
use crate::stats::{self, Interval};

/// The least change that is told of.
const LEAST_EFFECT: f64 = 0.03;

/// Of fewer samples, even such as all lie apart say too little.
const LEAST_SAMPLES: usize = 4;

/// What is read of a report.
#[derive(Debug, Deserialize)]
pub struct Run {
    version: u32,
    host: Host,
    quick: bool,
    #[serde(default)]
    icount: bool,
    benchmarks: Vec<Benchmark>,
}

#[derive(Debug, Deserialize)]
struct Benchmark {
    name: String,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    unit: Unit,
    samples: Vec<f64>,
}

/// What became of a figure.
#[derive(Debug, PartialEq)]
enum Verdict {
    TooFew,
    Noise,
    Changed(Interval),
}

impl Run {
    /// Reads the report in a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE_NAME);
        let json = fs::read(&path).with_context(|| format!("The earlier report {} can't be read", path.display()))?;
        Self::parse(&json).with_context(|| format!("{} is no report of this version", path.display()))
    }

    /// The same of a report of this process.
    pub fn of(report: &Report) -> Result<Self> {
        Self::parse(report.json()?.as_bytes())
    }

    fn parse(json: &[u8]) -> Result<Self> {
        let run: Self = serde_json::from_slice(json)?;
        if run.version != VERSION {
            bail!("Its version is {}, not {VERSION}", run.version);
        }
        Ok(run)
    }

    /// Says, as Markdown, how this run differs from an earlier one.
    ///
    /// # Errors
    /// When the two can't be compared.
    pub fn against(&self, before: &Self) -> Result<String> {
        self.check_comparable(before)?;
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write_comparison(before, &mut text);
        Ok(text)
    }

    /// Figures say something about each other only where the same work was done by the same machine.
    fn check_comparable(&self, before: &Self) -> Result<()> {
        let (then, now) = (before.what_ran(), self.what_ran());
        // Instructions are counted alike on all machines.
        let names_differ = !self.icount && before.host.name != self.host.name;
        if then != now || names_differ {
            let name = |run: &Self| if names_differ { format!("{}, ", run.host.name) } else { String::new() };
            bail!(
                "The earlier run can't be compared with this one, since it was made elsewhere: on {}{then}; this one is on {}{now}",
                name(before),
                name(self)
            );
        }
        if before.quick != self.quick {
            bail!("A quick run and a full one can't be compared: their images differ in size");
        }
        Ok(())
    }

    /// The kind of host.
    fn what_ran(&self) -> String {
        let Host { place, cpu, cpus, kvm, .. } = &self.host;
        let icount = if self.icount { ", counting instructions" } else { "" };
        format!("{place}, {cpus} × {cpu}, KVM {kvm}{icount}")
    }

    fn write_comparison(&self, before: &Self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n### Against the run of commit {}\n", before.host.commit)?;
        if before.host.kernel != self.host.kernel {
            writeln!(out, "The host's kernel was {} then, and is {} now.\n", before.host.kernel, self.host.kernel)?;
        }
        let (mut noise, mut few, mut missing, mut lines) = (0_u32, 0_u32, 0_u32, String::new());
        for (benchmark, row) in self.rows() {
            let Some(then) = before.find(benchmark, row) else {
                missing = missing.saturating_add(1);
                continue;
            };
            match verdict(row, then) {
                Verdict::TooFew => few = few.saturating_add(1),
                Verdict::Noise => noise = noise.saturating_add(1),
                Verdict::Changed(interval) => write_line(&mut lines, benchmark, row, then, interval)?,
            }
        }
        if lines.is_empty() {
            writeln!(out, "Nothing changed beyond noise.")?;
        } else {
            writeln!(
                out,
                "| | | before | now | | now / before | 99 % interval | |\n|---|---|--:|--:|---|--:|--:|---|"
            )?;
            write!(out, "{lines}")?;
        }
        writeln!(out, "\nWithin noise: {noise}; too few samples: {few}; not measured then: {missing}.")
    }

    fn rows(&self) -> impl Iterator<Item = (&str, &Row)> {
        self.benchmarks.iter().flat_map(|benchmark| benchmark.rows.iter().map(|row| (benchmark.name.as_str(), row)))
    }

    fn find(&self, benchmark: &str, wanted: &Row) -> Option<&Row> {
        let is_it =
            |(name, row): &(&str, &Row)| *name == benchmark && row.name == wanted.name && row.unit == wanted.unit;
        self.rows().find(is_it).map(|(_, row)| row)
    }
}

fn verdict(now: &Row, before: &Row) -> Verdict {
    if now.samples.len().min(before.samples.len()) < LEAST_SAMPLES {
        return Verdict::TooFew;
    }
    match stats::independent(&now.samples, &before.samples) {
        Some(interval) if is_beyond_noise(interval) => Verdict::Changed(interval),
        _ => Verdict::Noise,
    }
}

fn is_beyond_noise(Interval { ratio, low, high }: Interval) -> bool {
    (low > 1.0 || high < 1.0) && (ratio - 1.0).abs() >= LEAST_EFFECT
}

fn write_line(out: &mut String, benchmark: &str, now: &Row, then: &Row, interval: Interval) -> std::fmt::Result {
    let median = |row: &Row| stats::summary(&row.samples).map(|summary| figure(summary.median)).unwrap_or_default();
    let Interval { ratio, low, high } = interval;
    let (name, unit, words) = (&now.name, now.unit.symbol(), words(now.unit, ratio));
    let (then, now) = (median(then), median(now));
    writeln!(out, "| {benchmark} | {name} | {then} | {now} | {unit} | {ratio:.2} | {low:.2}–{high:.2} | {words} |")
}

/// What a ratio means: bad news are bold.
fn words(unit: Unit, ratio: f64) -> &'static str {
    match (unit, ratio > 1.0) {
        (Unit::Mebibytes, true) => "**more**",
        (Unit::Mebibytes, false) => "less",
        (unit, more) if unit.is_rate() == more => "faster",
        _ => "**slower**",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run on `host` of `rows`: name, unit, samples.
    fn run(host: &str, quick: bool, rows: &[(&str, &str, &[f64])]) -> Run {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, unit, samples)| serde_json::json!({"name": name, "unit": unit, "samples": samples, "median": 1}))
            .collect();
        let host = Host { name: host.to_owned(), cpus: 2, commit: "abc".to_owned(), ..Host::default() };
        let json = serde_json::json!({
            "version": VERSION, "host": host, "quick": quick, "benchmarks": [{"name": "start", "rows": rows}]
        });
        Run::parse(json.to_string().as_bytes()).unwrap()
    }

    const LOW: &[f64] = &[10.0, 10.1, 10.2, 10.0, 10.1, 10.2];
    const HIGH: &[f64] = &[12.0, 12.1, 12.2, 12.0, 12.1, 12.2];
    const SLIGHT: &[f64] = &[10.2, 10.3, 10.4, 10.2, 10.3, 10.4];

    #[test]
    fn what_changed_beyond_noise_is_told_and_which_way() {
        let units = [("time", "ms"), ("memory", "MiB"), ("speed", "MiB/s"), ("rate", "/s")];
        let all = |samples: &'static [f64]| units.map(|(name, unit)| (name, unit, samples));
        let (low, high) = (run("h", false, &all(LOW)), run("h", false, &all(HIGH)));
        let up = high.against(&low).unwrap();
        for (name, words) in [("time", "**slower**"), ("memory", "**more**"), ("speed", "faster"), ("rate", "faster")] {
            let line = up.lines().find(|line| line.contains(&format!("| {name} |"))).unwrap_or_default();
            assert!(line.ends_with(&format!("| {words} |")) && line.contains("| 10.1 | 12.1 |"), "{up}");
        }
        let down = low.against(&high).unwrap();
        assert_eq!(down.matches("**slower**").count(), 2, "{down}");
        assert!(down.contains("| faster |") && down.contains("| less |"), "{down}");
    }

    #[test]
    fn noise_small_effects_and_few_samples_are_no_change() {
        let rows = [("same", "ms", LOW), ("slight", "ms", SLIGHT), ("few", "ms", &HIGH[..3]), ("new", "ms", HIGH)];
        let before = [("same", "ms", LOW), ("slight", "ms", LOW), ("few", "ms", LOW)];
        let text = run("h", false, &rows).against(&run("h", false, &before)).unwrap();
        assert!(text.contains("Nothing changed beyond noise."), "{text}");
        assert!(text.contains("Within noise: 2; too few samples: 1; not measured then: 1."), "{text}");
    }

    #[test]
    fn runs_of_different_kinds_or_hosts_are_refused() {
        let here = run("here", false, &[]);
        let refused = |other: &Run| here.against(other).unwrap_err().to_string();
        let sentence = refused(&run("there", false, &[]));
        assert!(
            sentence.contains("made elsewhere: on there, ") && sentence.contains("this one is on here, "),
            "{sentence}"
        );
        assert!(refused(&run("here", true, &[])).contains("quick"));
        let mut other = run("here", false, &[]);
        other.host.place = "lab".to_owned();
        assert!(refused(&other).contains("on lab, 2 × "));
    }

    #[test]
    fn where_instructions_are_counted_the_machine_does_not_matter() {
        let [mut here, mut there] = ["here", "there"].map(|host| run(host, false, &[]));
        (here.icount, there.icount) = (true, true);
        here.against(&there).unwrap();
    }

    #[test]
    fn another_version_and_other_files_are_refused() {
        assert!(Run::parse(br#"{"version": 0}"#).is_err());
        let folder = tempfile::tempdir().unwrap();
        assert!(Run::read(folder.path()).unwrap_err().to_string().contains("can't be read"));
        fs::write(folder.path().join(FILE_NAME), "{}").unwrap();
        assert!(Run::read(folder.path()).unwrap_err().to_string().contains("is no report"));
    }
}
