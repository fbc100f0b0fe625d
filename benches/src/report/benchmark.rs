//! What one benchmark measured: series, ratios, which of them were meant to be what, and its plot.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::goal::Goal;
use crate::harness::{Series, Unit};
use crate::plot::{Bar, Group, Plot};
use crate::stats::{self, Interval, Summary};

/// What one benchmark measured.
#[derive(Debug, Serialize)]
pub struct Benchmark {
    pub(super) name: &'static str,
    about: String,
    rows: Vec<Row>,
    ratios: Vec<Ratio>,
    /// What tables of numbers can't say, in Markdown; empty where there is nothing.
    details: String,
    /// The series in the plot, in their order; those of the first one's unit when none is named.
    #[serde(skip)]
    plotted: Vec<&'static str>,
}

/// A series and what it comes to.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    series: Series,
    #[serde(flatten)]
    summary: Summary,
    /// What the median is meant to be.
    #[serde(flatten)]
    goal: Option<Goal>,
}

/// Two series compared.
#[derive(Debug, Serialize)]
struct Ratio {
    over: String,
    under: String,
    #[serde(flatten)]
    interval: Option<Interval>,
    #[serde(flatten)]
    goal: Option<Goal>,
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
        let row = |series: Series| stats::summary(&series.samples).map(|summary| Row { series, summary, goal: None });
        let rows = series.into_iter().filter_map(row).collect();
        let mut benchmark = Self { name, about, rows, ratios: Vec::new(), details: String::new(), plotted: Vec::new() };
        for &Comparison { over, under, at_most } in comparisons {
            benchmark.compare(over, under, at_most.map(Goal::AtMost));
        }
        benchmark
    }

    /// The same with more to tell, which comes last.
    pub fn with_details(self, details: String) -> Self {
        Self { details, ..self }
    }

    /// Compares two further series, whose ratio is meant to be so much or more.
    pub fn at_least(mut self, over: &str, under: &str, least: f64) -> Self {
        self.compare(over, under, Some(Goal::AtLeast(least)));
        self
    }

    /// Compares two further series.
    pub fn comparing(mut self, over: &str, under: &str) -> Self {
        self.compare(over, under, None);
        self
    }

    /// Says what the median of a series is meant to be.
    pub fn meant(mut self, series: &str, goal: Goal) -> Self {
        for row in self.rows.iter_mut().filter(|row| row.series.name == series) {
            row.goal = Some(goal);
        }
        self
    }

    /// Names the series that the plot shows, from the top; they have one unit.
    pub fn plotting(mut self, series: &[&'static str]) -> Self {
        self.plotted = series.to_vec();
        self
    }

    fn compare(&mut self, over: &str, under: &str, goal: Option<Goal>) {
        let samples = |name: &str| self.row(name).map_or(&[][..], |row| row.series.samples.as_slice());
        let interval = stats::ratio(samples(over), samples(under));
        self.ratios.push(Ratio { over: over.to_owned(), under: under.to_owned(), interval, goal });
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.series.name == name)
    }

    /// What the plot shows and its unit; `None` when there is nothing to compare.
    pub(super) fn bars(&self) -> Option<(Unit, Vec<Bar>)> {
        let unit = match self.plotted.first() {
            Some(name) => self.row(name)?.series.unit,
            None => self.rows.first()?.series.unit,
        };
        let rows: Vec<&Row> = if self.plotted.is_empty() {
            self.rows.iter().filter(|row| row.series.unit == unit).collect()
        } else {
            self.plotted.iter().filter_map(|name| self.row(name)).collect()
        };
        let bars = rows.iter().map(|row| Bar { label: row.series.name.clone(), summary: row.summary });
        (rows.len() > 1).then(|| (unit, bars.collect()))
    }

    /// The plot as SVG, where there is one.
    pub(super) fn svg(&self) -> Result<Option<String>> {
        let Some((unit, bars)) = self.bars() else { return Ok(None) };
        let groups = vec![Group { heading: String::new(), bars }];
        Plot { title: self.name.to_owned(), unit, groups }.svg().map(Some)
    }

    pub(super) fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n### {}\n\n{}\n", self.name, self.about)?;
        if self.bars().is_some() {
            writeln!(out, "![{0}]({0}.svg)\n", self.name)?;
        }
        self.write_rows(out)?;
        self.write_ratios(out)?;
        if !self.details.is_empty() {
            writeln!(out, "\n{}", self.details.trim_end())?;
        }
        Ok(())
    }

    fn write_rows(&self, out: &mut String) -> std::fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let goals = self.rows.iter().any(|row| row.goal.is_some());
        let (head, rule) = if goals { (" meant to be |", "---|") } else { ("", "") };
        writeln!(out, "| | n | median | p10 | p90 | p99 | |{head}\n|---|--:|--:|--:|--:|--:|---|{rule}")?;
        for row in &self.rows {
            row.write_markdown(out)?;
            writeln!(out, "{}", if goals { format!(" {} |", row.verdict()) } else { String::new() })?;
        }
        Ok(())
    }

    fn write_ratios(&self, out: &mut String) -> std::fmt::Result {
        if !self.ratios.is_empty() {
            writeln!(out, "\n| ratio of medians | | 95 % interval | meant to be |\n|---|--:|--:|---|")?;
        }
        for ratio in &self.ratios {
            writeln!(out, "| {} / {} | {} |", ratio.over, ratio.under, ratio.cells())?;
        }
        Ok(())
    }
}

impl Row {
    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        let Summary { n, median, p10, p90, p99 } = self.summary;
        let [median, p10, p90, p99] = [median, p10, p90, p99].map(figure);
        let Series { name, unit, .. } = &self.series;
        write!(out, "| {name} | {n} | {median} | {p10} | {p90} | {p99} | {} |", unit.symbol())
    }

    fn verdict(&self) -> String {
        self.goal.map(|goal| goal.verdict(self.summary.median)).unwrap_or_default()
    }
}

impl Ratio {
    /// The ratio, its interval and whether it is what it is meant to be.
    fn cells(&self) -> String {
        let verdict = |ratio: f64| self.goal.map(|goal| goal.verdict(ratio)).unwrap_or_default();
        self.interval.map_or_else(
            || "not measured | | ".to_owned(),
            |Interval { ratio, low, high }| format!("{ratio:.2} | {low:.2}–{high:.2} | {}", verdict(ratio)),
        )
    }
}

/// A number with about three digits that count.
pub fn figure(value: f64) -> String {
    let digits = if value.abs() >= 100.0 { 0 } else { 1 + usize::from(value.abs() < 10.0) };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, unit: Unit, samples: &[f64]) -> Series {
        Series { name: name.to_owned(), unit, samples: samples.to_vec() }
    }

    fn markdown(benchmark: &Benchmark) -> String {
        let mut text = String::new();
        benchmark.write_markdown(&mut text).unwrap();
        text
    }

    fn assert_has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no {line:?} in:\n{text}");
        }
    }

    #[test]
    fn the_tables_say_what_was_measured_and_what_was_meant() {
        let all = [("a", &[10.0; 3]), ("b", &[15.0; 3]), ("c", &[1234.0, 30.0, 30.0])];
        let all = all.map(|(name, samples)| series(name, Unit::Milliseconds, samples)).into();
        let comparisons = [
            Comparison { over: "b", under: "a", at_most: Some(2.0) },
            Comparison { over: "c", under: "a", at_most: Some(2.0) },
            Comparison { over: "absent", under: "a", at_most: None },
        ];
        let benchmark = Benchmark::new("unpack", "What it does.".to_owned(), all, &comparisons)
            .at_least("b", "a", 1.2)
            .with_details("More.".to_owned());
        assert_has(
            &markdown(&benchmark),
            &[
                "### unpack",
                "![unpack](unpack.svg)",
                "| a | 3 | 10.0 | 10.0 | 10.0 | 10.0 | ms |",
                "| b / a | 1.50 | 1.50–1.50 | at most 2: it is |",
                "| c / a | 3.00 | 3.00–123.40 | at most 2: **it isn't**, by 50 % |",
                "| absent / a | not measured | |  |",
                "| b / a | 1.50 | 1.50–1.50 | at least 1.2: it is |",
                "More.",
            ],
        );
    }

    #[test]
    fn a_series_with_a_goal_adds_a_column() {
        let all = vec![series("end", Unit::Milliseconds, &[25.0]), series("other", Unit::Mebibytes, &[1.0])];
        let benchmark = Benchmark::new("teardown", String::new(), all, &[]).meant("end", Goal::AtMost(20.0));
        let text = markdown(&benchmark);
        assert_has(
            &text,
            &[
                "| | n | median | p10 | p90 | p99 | | meant to be |",
                "| end | 1 | 25.0 | 25.0 | 25.0 | 25.0 | ms | at most 20: **it isn't**, by 25 % |",
                "| other | 1 | 1.00 | 1.00 | 1.00 | 1.00 | MiB |  |",
            ],
        );
        assert!(!text.contains("svg"), "one bar is no plot");
        assert_eq!(serde_json::to_value(&benchmark).unwrap()["rows"][0]["at_most"], 20.0);
    }

    #[test]
    fn a_plot_shows_what_is_named_or_all_of_one_unit() {
        let all = || {
            let names = [("a", Unit::Milliseconds), ("b", Unit::Mebibytes), ("c", Unit::Milliseconds)];
            names.map(|(name, unit)| series(name, unit, &[1.0])).into()
        };
        let labels = |benchmark: Benchmark| {
            let (_, bars) = benchmark.bars().unwrap();
            bars.into_iter().map(|bar| bar.label).collect::<String>()
        };
        assert_eq!(labels(Benchmark::new("x", String::new(), all(), &[])), "ac");
        assert_eq!(labels(Benchmark::new("x", String::new(), all(), &[]).plotting(&["c", "absent", "a"])), "ca");
    }

    #[test]
    fn figures_have_three_digits_that_count() {
        assert_eq!([1234.5, 123.4, 12.34, 1.234].map(figure), ["1234", "123", "12.3", "1.23"]);
    }
}
