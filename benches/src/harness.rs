//! Takes samples: contenders take turns, A B A B …, so that what changes on the machine meanwhile changes for all.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "MiB/s")]
    MebibytesPerSecond,
    #[serde(rename = "/s")]
    PerSecond,
    #[serde(rename = "instructions")]
    Instructions,
}

impl Unit {
    /// As it stands in a table.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::MebibytesPerSecond => "MiB/s",
            Self::PerSecond => "/s",
            Self::Instructions => "instructions",
        }
    }

    /// Whether a larger number is the better one.
    pub fn is_rate(self) -> bool {
        matches!(self, Self::MebibytesPerSecond | Self::PerSecond)
    }
}

/// One number that a turn gave, and the series that it belongs to.
#[derive(Clone, Debug)]
pub struct Sample {
    pub series: String,
    pub unit: Unit,
    pub value: f64,
}

impl Sample {
    /// A time.
    pub fn milliseconds(series: &str, value: f64) -> Self {
        Self { series: series.to_owned(), unit: Unit::Milliseconds, value }
    }

    /// Work of a processor.
    pub fn instructions(series: &str, value: u64) -> Self {
        Self { series: series.to_owned(), unit: Unit::Instructions, value: value as f64 }
    }

    /// An amount of memory.
    pub fn mebibytes(series: &str, bytes: u64) -> Self {
        Self { series: series.to_owned(), unit: Unit::Mebibytes, value: bytes as f64 / f64::from(1 << 20) }
    }

    /// How many bytes went somewhere in this time.
    pub fn throughput(series: &str, bytes: u64, time: Duration) -> Self {
        let value = bytes as f64 / f64::from(1 << 20) / time.as_secs_f64();
        Self { series: series.to_owned(), unit: Unit::MebibytesPerSecond, value }
    }

    /// How many of something were done in this time.
    pub fn rate(series: &str, count: u32, time: Duration) -> Self {
        Self { series: series.to_owned(), unit: Unit::PerSecond, value: f64::from(count) / time.as_secs_f64() }
    }
}

/// All samples of one series, in the order in which they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    pub name: String,
    pub unit: Unit,
    pub samples: Vec<f64>,
}

/// Someone who does the work; each call is one turn.
pub struct Contender<'a> {
    name: &'a str,
    turn: Box<dyn FnMut() -> Result<Vec<Sample>> + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender with the work of one turn.
    pub fn new(name: &'a str, turn: impl FnMut() -> Result<Vec<Sample>> + 'a) -> Self {
        Self { name, turn: Box::new(turn) }
    }
}

impl std::fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contender").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Lets the contenders take turns for this many rounds. A turn that fails ends it: its work was not the same work.
pub fn interleave(mut contenders: Vec<Contender<'_>>, rounds: u32) -> Result<Vec<Series>> {
    let mut series: Vec<Series> = Vec::new();
    for round in 1..=rounds {
        for contender in &mut contenders {
            eprintln!("bench: round {round} of {rounds}: {}", contender.name);
            let samples = (contender.turn)().with_context(|| format!("{} failed in round {round}", contender.name))?;
            for sample in samples {
                add(&mut series, sample);
            }
        }
    }
    Ok(series)
}

fn add(series: &mut Vec<Series>, Sample { series: name, unit, value }: Sample) {
    match series.iter_mut().find(|series| series.name == name) {
        Some(series) => series.samples.push(value),
        None => series.push(Series { name, unit, samples: vec![value] }),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;

    #[test]
    fn contenders_take_turns_and_each_series_keeps_its_samples_in_order() {
        let turns = RefCell::new(String::new());
        let mut value = 0.0;
        let a = Contender::new("a", || {
            turns.borrow_mut().push('a');
            value += 1.0;
            Ok(vec![Sample::milliseconds("a", value), Sample::milliseconds("a, part", value / 2.0)])
        });
        let b = Contender::new("b", || {
            turns.borrow_mut().push('b');
            Ok(vec![Sample::mebibytes("b", 3 << 19)])
        });
        let series = interleave(vec![a, b], 3).unwrap();
        assert_eq!(*turns.borrow(), "ababab");
        let all: Vec<_> = series.iter().map(|series| (series.name.as_str(), series.samples.as_slice())).collect();
        assert_eq!(all, [("a", [1.0, 2.0, 3.0].as_slice()), ("a, part", &[0.5, 1.0, 1.5]), ("b", &[1.5, 1.5, 1.5])]);
    }

    #[test]
    fn a_failed_turn_is_an_error_that_says_whose_it_was() {
        let mut left = 1;
        let failing = Contender::new("umoci", || {
            if left == 0 {
                bail!("no space");
            }
            left -= 1;
            Ok(Vec::new())
        });
        let error = interleave(vec![failing], 5).unwrap_err();
        assert_eq!(format!("{error:#}"), "umoci failed in round 2: no space");
    }
}
