//! What a task costs, as AWS Fargate bills Linux tasks: its allocated size, from its admission to its end, rounded up
//! to a full second and at least one minute.
//!
//! Quantities are kept in integers, in units of a 1024th, so that sums are exact.

use std::fmt;
use std::iter::Sum;
use std::marker::PhantomData;

use jiff::Timestamp;

/// The least that a task is billed for, in seconds.
pub const MINIMUM_SECONDS: u64 = 60;

/// The units of a vCPU, and the MiB of a GB (which is a GiB here, as in Fargate's sizes).
const SCALE: u32 = 1024;

/// The end to write down for a task that ran from `started_at` until `now`, and the seconds to bill it for. A clock
/// that was set back does not make a task end before it started.
#[must_use]
pub fn settle(started_at: Timestamp, now: Timestamp) -> (Timestamp, u64) {
    let stopped_at = now.max(started_at);
    let milliseconds = stopped_at.as_millisecond().saturating_sub(started_at.as_millisecond());
    (stopped_at, billed_seconds(u64::try_from(milliseconds).unwrap_or(0)))
}

/// The seconds to bill for so many milliseconds.
#[must_use]
pub fn billed_seconds(milliseconds: u64) -> u64 {
    milliseconds.div_ceil(1000).max(MINIMUM_SECONDS)
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
    pub fn new(size: u32, seconds: u64) -> Self {
        Self { scaled: u128::from(size).saturating_mul(u128::from(seconds)), unit: PhantomData }
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

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    /// A quarter vCPU and 512 MiB for 7.2 s are billed as a minute: 15 vCPU-seconds and 30 GB-seconds.
    #[test]
    fn a_short_task_is_billed_as_a_minute() {
        let (_, seconds) = settle(at(1_000), at(8_200));
        assert_eq!(seconds, 60);
        assert_eq!(VcpuSeconds::new(256, seconds).to_string(), "15");
        assert_eq!(GbSeconds::new(512, seconds).to_string(), "30");
    }

    #[test]
    fn a_second_that_was_begun_counts() {
        for (milliseconds, seconds) in
            [(0, 60), (1, 60), (59_999, 60), (60_000, 60), (60_001, 61), (61_000, 61), (61_001, 62), (3_600_000, 3_600)]
        {
            assert_eq!(billed_seconds(milliseconds), seconds, "{milliseconds} ms");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_costs_the_minimum() {
        assert_eq!(settle(at(10_000), at(5_000)), (at(10_000), 60));
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
        fn sums_are_exact(sizes in prop::collection::vec((1_u32..20_000, 60_u64..10_000_000), 0..50)) {
            let sum: VcpuSeconds = sizes.iter().map(|&(size, seconds)| Quantity::new(size, seconds)).sum();
            let exact: u64 = sizes.iter().map(|&(size, seconds)| u64::from(size) * seconds).sum();
            prop_assert_eq!(sum.scaled, u128::from(exact));
            prop_assert_eq!(sum.to_string().parse::<f64>().unwrap(), sum.to_f64());
        }

        #[test]
        fn billing_never_falls_short_and_never_adds_a_second(milliseconds in 0_u64..u64::MAX / 2) {
            let seconds = billed_seconds(milliseconds);
            prop_assert!(seconds >= MINIMUM_SECONDS && u128::from(seconds) * 1000 >= u128::from(milliseconds));
            prop_assert!(seconds == MINIMUM_SECONDS || u128::from(seconds - 1) * 1000 < u128::from(milliseconds));
        }
    }
}
