//! What a task is billed for, as AWS Fargate bills Linux tasks: its allocated size, from the start of its image's pull to its
//! end, rounded up to a full second and at least one minute.
//!
//! Source: aws.amazon.com/fargate/pricing ("from the time you start to download your container image until the task
//! terminates, rounded up to the nearest second"; one minute at least). Quantities are kept in integers, in units of a
//! 1024th, so that sums are exact.

use std::fmt;
use std::iter::Sum;
use std::marker::PhantomData;
use std::num::NonZeroU32;

use super::clock::NS_PER_SECOND;

/// The units of a vCPU, and the MiB of a GB (which is a GiB here, as in Fargate's sizes).
const SCALE: u32 = 1024;

/// How a task's time is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A step that was begun counts in full, in seconds.
    pub rounding_seconds: NonZeroU32,
    /// The least that a task is billed for, in seconds.
    pub minimum_seconds: u32,
}

/// Fargate's: each second that was begun, a minute at least.
impl Default for Rules {
    fn default() -> Self {
        Self { rounding_seconds: NonZeroU32::MIN, minimum_seconds: 60 }
    }
}

impl Rules {
    /// The seconds to bill for so many nanoseconds. The schema checks the same.
    #[must_use]
    pub fn billed_seconds(&self, elapsed_ns: u64) -> u64 {
        let rounding = u64::from(self.rounding_seconds.get());
        // At most 2^64 / 10^9 steps and a step: far from overflowing.
        let seconds = elapsed_ns.div_ceil(NS_PER_SECOND).div_ceil(rounding).saturating_mul(rounding);
        seconds.max(self.minimum_seconds.into())
    }
}

/// Seconds of a vCPU.
pub type VcpuSeconds = Quantity<Vcpu>;

/// Seconds of a GB of memory.
pub type GbSeconds = Quantity<Gb>;

/// The unit of [`VcpuSeconds`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vcpu;

/// The unit of [`GbSeconds`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gb;

/// An exact number of seconds times some allocated size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity<U> {
    /// The number, times 1024.
    scaled: u128,
    unit: PhantomData<U>,
}

impl<U> Quantity<U> {
    /// `size` (cpu units or MiB, 1024 to one) for so many seconds.
    #[must_use]
    pub fn new(size: u64, seconds: u64) -> Self {
        Self { scaled: u128::from(size).saturating_mul(u128::from(seconds)), unit: PhantomData }
    }

    /// The number in the smallest unit: cpu units or MiB, times seconds.
    #[must_use]
    pub fn scaled(self) -> u128 {
        self.scaled
    }

    /// The number, exact up to 2^53 units of a 1024th: 278 000 years of a vCPU.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        self.scaled as f64 / f64::from(SCALE)
    }
}

impl<U> Sum for Quantity<U> {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        let scaled = items.fold(0_u128, |sum, item| sum.saturating_add(item.scaled));
        Self { scaled, unit: PhantomData }
    }
}

/// The exact decimal number, without zeros at its end.
impl<U> fmt::Display for Quantity<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = u128::from(SCALE);
        // A 1024th has ten decimal places.
        let fraction = (self.scaled % scale).saturating_mul(10_u128.pow(10)) / scale;
        let digits = format!("{fraction:010}");
        let digits = digits.trim_end_matches('0');
        let point = if digits.is_empty() { "" } else { "." };
        f.pad(&format!("{}{point}{digits}", self.scaled / scale))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn billed(elapsed_ns: u64) -> u64 {
        Rules::default().billed_seconds(elapsed_ns)
    }

    /// A quarter vCPU and 512 MiB for 7.2 s are billed as a minute: 15 vCPU-seconds and 30 GB-seconds.
    #[test]
    fn a_short_task_is_billed_as_a_minute() {
        let seconds = billed(7_200 * MS);
        assert_eq!(seconds, 60);
        assert_eq!(VcpuSeconds::new(256, seconds).to_string(), "15");
        assert_eq!(GbSeconds::new(512, seconds).to_string(), "30");
    }

    #[test]
    fn a_second_that_was_begun_counts() {
        for (ns, seconds) in [
            (0, 60),
            (1, 60),
            (59_999 * MS, 60),
            (60_000 * MS, 60),
            (60_000 * MS + 1, 61),
            (61_000 * MS, 61),
            (61_001 * MS, 62),
            (3_600_000 * MS, 3_600),
            (u64::MAX, 18_446_744_074),
        ] {
            assert_eq!(billed(ns), seconds, "{ns} ns");
        }
    }

    #[test]
    fn other_rules_round_and_fill_up_otherwise() {
        let rules =
            |rounding, minimum_seconds| Rules { rounding_seconds: NonZeroU32::new(rounding).unwrap(), minimum_seconds };
        assert_eq!(rules(60, 0).billed_seconds(0), 0);
        assert_eq!(rules(60, 0).billed_seconds(1), 60);
        assert_eq!(rules(60, 0).billed_seconds(60_001 * MS), 120);
        assert_eq!(rules(7, 10).billed_seconds(7_000 * MS), 10, "the minimum is not rounded");
        assert_eq!(rules(7, 10).billed_seconds(7_001 * MS), 14);
        assert_eq!(rules(u32::MAX, u32::MAX).billed_seconds(u64::MAX), u64::from(u32::MAX) * 5);
    }

    #[test]
    fn fractions_are_printed_exactly() {
        assert_eq!(VcpuSeconds::new(1, 61).to_string(), "0.0595703125");
        assert_eq!(GbSeconds::new(1536, 61).to_string(), "91.5");
        assert_eq!(GbSeconds::new(0, 0).to_string(), "0");
        assert_eq!(format!("{:>6}|", VcpuSeconds::new(512, 61)), "  30.5|");
    }

    proptest! {
        #[test]
        fn sums_are_exact(sizes in prop::collection::vec((1_u64..20_000, 60_u64..10_000_000), 0..50)) {
            let sum: VcpuSeconds = sizes.iter().map(|&(size, seconds)| Quantity::new(size, seconds)).sum();
            let exact: u64 = sizes.iter().map(|&(size, seconds)| size * seconds).sum();
            prop_assert_eq!(sum.scaled, u128::from(exact));
            prop_assert_eq!(sum.to_string().parse::<f64>().unwrap(), sum.to_f64());
        }

        #[test]
        fn billing_never_falls_short_and_never_adds_a_step(ns in 0_u64..1 << 62, rounding in 1_u32..100_000, minimum_seconds in 0_u32..100_000) {
            let rules = Rules { rounding_seconds: NonZeroU32::new(rounding).unwrap(), minimum_seconds };
            let seconds = rules.billed_seconds(ns);
            let billed_ns = u128::from(seconds) * u128::from(NS_PER_SECOND);
            prop_assert!(seconds >= u64::from(minimum_seconds) && billed_ns >= u128::from(ns));
            let step = u128::from(rounding) * u128::from(NS_PER_SECOND);
            prop_assert!(seconds == u64::from(minimum_seconds) || billed_ns - step < u128::from(ns));
        }
    }
}
