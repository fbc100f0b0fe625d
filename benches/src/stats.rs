//! What samples come to: percentiles, and the ratio of two medians with an interval.
//!
//! The interval is a bootstrap over rounds: contenders take turns, so the samples of one round saw the same machine, and
//! a drift of the machine cancels in their ratio. Rounds are drawn again with replacement, in pairs, and the interval
//! holds the middle 95 % of the ratios that come of it. With few rounds it is narrower than the truth.
//!
//! Two runs share no rounds ([`independent`]): each one's samples are drawn by themselves.

use serde::Serialize;

use crate::random::Random;

/// How often rounds are drawn again.
const DRAWS: u32 = 5000;

/// The middle and the ends of some samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub n: usize,
    pub median: f64,
    pub p10: f64,
    pub p90: f64,
    pub p99: f64,
}

/// A ratio of medians, and where it lies with 95 % confidence, or 99 % between two runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
}

/// Sums samples up; `None` when there are none.
pub fn summary(samples: &[f64]) -> Option<Summary> {
    let sorted = sorted(samples.iter().copied());
    Some(Summary {
        n: sorted.len(),
        median: percentile(&sorted, 500)?,
        p10: percentile(&sorted, 100)?,
        p90: percentile(&sorted, 900)?,
        p99: percentile(&sorted, 990)?,
    })
}

/// The ratio of the medians of `over` and `under`, which are from the same rounds.
///
/// `None` when there are no samples, when their numbers differ, or when a median is 0.
pub fn ratio(over: &[f64], under: &[f64]) -> Option<Interval> {
    if over.len() != under.len() {
        return None;
    }
    let pairs: Vec<(f64, f64)> = over.iter().copied().zip(under.iter().copied()).collect();
    let ratio = ratio_of(&pairs)?;
    let mut random = Random::new(0);
    let mut draw = || -> Option<f64> {
        let drawn: Option<Vec<_>> = pairs.iter().map(|_| random.choose(&pairs).copied()).collect();
        ratio_of(&drawn?)
    };
    let ratios = sorted((0..DRAWS).filter_map(|_| draw()));
    Some(Interval { ratio, low: percentile(&ratios, 25)?, high: percentile(&ratios, 975)? })
}

/// The ratio of the medians of `over` and `under`, which are from different runs, with an interval of 99 %: of dozens of
/// figures that are compared, one in twenty would leave its interval of 95 % by chance.
///
/// `None` when there are no samples, or when a median is 0.
pub fn independent(over: &[f64], under: &[f64]) -> Option<Interval> {
    let quotient = |over: f64, under: f64| Some(over / under).filter(|ratio| ratio.is_finite());
    let ratio = quotient(median(over.iter().copied())?, median(under.iter().copied())?)?;
    let mut random = Random::new(0);
    let mut redrawn = |samples: &[f64]| median(samples.iter().filter_map(|_| random.choose(samples).copied()));
    let ratios = sorted((0..DRAWS).filter_map(|_| quotient(redrawn(over)?, redrawn(under)?)));
    Some(Interval { ratio, low: percentile(&ratios, 5)?, high: percentile(&ratios, 995)? })
}

fn ratio_of(pairs: &[(f64, f64)]) -> Option<f64> {
    let over = median(pairs.iter().map(|pair| pair.0))?;
    let under = median(pairs.iter().map(|pair| pair.1))?;
    Some(over / under).filter(|ratio| ratio.is_finite())
}

fn median(samples: impl Iterator<Item = f64>) -> Option<f64> {
    percentile(&sorted(samples), 500)
}

fn sorted(samples: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    samples
}

/// The value below which `permille` of the samples lie, interpolated between its neighbours.
fn percentile(sorted: &[f64], permille: usize) -> Option<f64> {
    let position = sorted.len().checked_sub(1)?.checked_mul(permille)?;
    let (rank, part) = (position / 1000, position % 1000);
    let below = *sorted.get(rank)?;
    let above = sorted.get(rank.saturating_add(1)).copied().unwrap_or(below);
    Some(below + (above - below) * part as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_interpolated_and_order_does_not_matter() {
        let samples: Vec<f64> = [3, 1, 2, 5, 4, 11, 10, 9, 8, 7, 6].map(f64::from).to_vec();
        assert_eq!(summary(&samples), Some(Summary { n: 11, median: 6.0, p10: 2.0, p90: 10.0, p99: 10.9 }));
        assert_eq!(summary(&[1.0, 2.0]), Some(Summary { n: 2, median: 1.5, p10: 1.1, p90: 1.9, p99: 1.99 }));
        assert_eq!(summary(&[7.0]), Some(Summary { n: 1, median: 7.0, p10: 7.0, p90: 7.0, p99: 7.0 }));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn the_interval_holds_the_ratio_and_is_the_same_each_time() {
        let under: Vec<f64> = (0..20).map(|i| 100.0 + f64::from(i % 7)).collect();
        let over: Vec<f64> = (0..20).map(|i| 200.0 + f64::from(i % 5)).collect();
        let interval = ratio(&over, &under).unwrap();
        assert!(interval.low < interval.ratio && interval.ratio < interval.high, "{interval:?}");
        assert!(interval.low > 1.85 && interval.high < 2.05, "{interval:?}");
        assert_eq!(ratio(&over, &under), Some(interval));
    }

    #[test]
    fn a_drift_that_both_share_does_not_widen_the_interval() {
        let under: Vec<f64> = (1..=9).map(|i| f64::from(i) * 10.0).collect();
        let over: Vec<f64> = under.iter().map(|sample| sample * 3.0).collect();
        assert_eq!(ratio(&over, &under), Some(Interval { ratio: 3.0, low: 3.0, high: 3.0 }));
    }

    #[test]
    fn noise_widens_the_interval() {
        let under = [10.0; 9];
        let quiet = [9.9, 10.0, 10.1, 9.9, 10.0, 10.1, 9.9, 10.0, 10.1];
        let noisy = [5.0, 10.0, 15.0, 5.0, 10.0, 15.0, 5.0, 10.0, 15.0];
        let width = |over: &[f64]| ratio(over, &under).map(|interval| interval.high - interval.low).unwrap();
        assert!(width(&noisy) > 10.0 * width(&quiet));
    }

    #[test]
    fn runs_that_share_no_rounds_are_drawn_by_themselves() {
        let before: Vec<f64> = (0..12).map(|i| 100.0 + f64::from(i % 4)).collect();
        let slower: Vec<f64> = (0..9).map(|i| 120.0 + f64::from(i % 3)).collect();
        let interval = independent(&slower, &before).unwrap();
        assert!(1.1 < interval.low && interval.low < interval.ratio && interval.high < 1.3, "{interval:?}");
        let same = independent(&before, &before).unwrap();
        assert!(same.low < 1.0 && 1.0 < same.high, "{same:?}");
        assert_eq!(independent(&[], &before), None);
        assert_eq!(independent(&before, &[0.0]), None);
    }

    #[test]
    fn there_is_no_ratio_without_pairs_or_over_nothing() {
        assert_eq!(ratio(&[], &[]), None);
        assert_eq!(ratio(&[1.0, 2.0], &[1.0]), None);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
    }
}
