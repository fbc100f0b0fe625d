//! The axis of a plot: linear from 0, or logarithmic where the range is wide.

use crate::stats::Summary;

/// How many times the smallest median the largest may be on a linear axis.
const WIDE: f64 = 20.0;

/// An axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From 0.
    Linear { high: f64 },
    /// Between two values, neither 0.
    Logarithmic { low: f64, high: f64 },
}

impl Scale {
    /// An axis for these.
    pub fn of(summaries: impl Iterator<Item = Summary> + Clone) -> Self {
        let high = summaries.clone().map(|summary| summary.p90.max(summary.median)).fold(0.0, f64::max);
        let low = summaries.map(|summary| summary.p10.min(summary.median)).fold(f64::INFINITY, f64::min);
        if low > 0.0 && high / low > WIDE {
            // So that the smallest has a bar, too.
            return Self::Logarithmic { low: low * 0.6, high: high * 1.05 };
        }
        Self::Linear { high: if high > 0.0 { high * 1.05 } else { 1.0 } }
    }

    pub fn is_logarithmic(self) -> bool {
        matches!(self, Self::Logarithmic { .. })
    }

    /// Where a value is, from 0 to 1.
    pub fn part(self, value: f64) -> f64 {
        let part = match self {
            Self::Linear { high } => value / high,
            Self::Logarithmic { low, high } => (value.max(low) / low).log10() / (high / low).log10(),
        };
        part.clamp(0.0, 1.0)
    }

    /// Round values on it, and how they are written.
    pub fn ticks(self) -> Vec<(f64, String)> {
        let values: Vec<f64> = match self {
            Self::Linear { high } => {
                let step = round_step(high / 6.0);
                (0_u32..).map(|index| f64::from(index) * step).take_while(|value| *value <= high).collect()
            }
            Self::Logarithmic { low, high } => {
                let factors: &[f64] = if high / low > 300.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let decades = (-6..=9).map(|exponent| 10_f64.powi(exponent));
                let all = decades.flat_map(|decade| factors.iter().map(move |factor| factor * decade));
                all.filter(|value| (low..=high).contains(value)).collect()
            }
        };
        values.into_iter().map(|value| (value, written(value))).collect()
    }
}

/// The next of 1, 2, 5, 10 … that is not below.
fn round_step(least: f64) -> f64 {
    let decade = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|factor| factor * decade).find(|step| *step >= least).unwrap_or(10.0 * decade)
}

fn written(value: f64) -> String {
    if value >= 1e6 {
        return format!("{} M", value / 1e6);
    }
    // Sums of binary fractions have long tails.
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(p10: f64, median: f64, p90: f64) -> Summary {
        Summary { n: 3, median, p10, p90, p99: p90 }
    }

    fn labels(scale: Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn a_wide_range_is_logarithmic_and_zero_never_is() {
        let scale = Scale::of([summary(1.0, 2.0, 3.0), summary(50.0, 60.0, 4000.0)].into_iter());
        assert!(scale.is_logarithmic());
        assert!(scale.part(1.0) > 0.0 && scale.part(4000.0) < 1.0);
        assert_eq!(labels(scale), ["1", "10", "100", "1000"]);
        assert!(!Scale::of([summary(0.0, 0.0, 0.0), summary(1.0, 1.0, 100.0)].into_iter()).is_logarithmic());
        assert_eq!(Scale::of([summary(0.0, 0.0, 0.0)].into_iter()), Scale::Linear { high: 1.0 });
    }

    #[test]
    fn a_narrow_range_starts_at_zero() {
        let scale = Scale::of([summary(1.0, 2.0, 3.0), summary(9.0, 10.0, 11.0)].into_iter());
        assert_eq!(scale.part(0.0), 0.0);
        assert_eq!(labels(scale), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(Scale::Linear { high: 0.55 }), ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]);
        assert_eq!(labels(Scale::Logarithmic { low: 3.0, high: 30.0 }), ["5", "10", "20"]);
    }
}
