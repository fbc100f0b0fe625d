//! Prices, and what a usage costs at them.
//!
//! Everything is an integer: prices are counted in billionths of the currency's unit per hour, and a cost in parts of that
//! which divide an hour and a 1024th, so that a sum of costs is exact and rounded once, when it is printed.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::Deserialize;

use crate::ledger::Record;

/// Billionths: the decimal places of a price.
const PLACES: usize = 9;

/// The parts of a billionth that a cost is counted in: seconds of an hour times 1024ths.
const PARTS: u128 = 3600 * 1024;

/// A price that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A price is a decimal number in quotes with up to 9 places, such as \"0.04048\"")]
pub struct NotAPrice;

/// A price for an hour of one vCPU or one GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Price {
    /// In billionths of the currency's unit.
    nano: u64,
}

impl FromStr for Price {
    type Err = NotAPrice;

    /// Reads a decimal number, exactly.
    fn from_str(text: &str) -> Result<Self, NotAPrice> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || fraction.len() > PLACES || !digits(whole) || !digits(fraction) {
            return Err(NotAPrice);
        }
        let nano = format!("{whole}{fraction:0<PLACES$}").parse().map_err(|_| NotAPrice)?;
        Ok(Self { nano })
    }
}

impl TryFrom<String> for Price {
    type Error = NotAPrice;

    fn try_from(text: String) -> Result<Self, NotAPrice> {
        text.parse()
    }
}

/// A price list. It is given whole, so that its name is true.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceList {
    /// What it is called where a cost is printed.
    pub name: String,
    /// The currency, such as USD.
    pub currency: String,
    /// For a vCPU.
    pub vcpu_hour: Price,
    /// For a GB of memory.
    pub gb_hour: Price,
    /// For a GB of scratch disk beyond those that cost nothing.
    pub storage_gb_hour: Price,
    /// The GB of scratch disk of each task that cost nothing.
    #[serde(default = "free_storage_gb")]
    pub free_storage_gb: u32,
}

fn free_storage_gb() -> u32 {
    20
}

/// Fargate's for Linux on x86 in us-east-1, on demand. Source: aws.amazon.com/fargate/pricing.
impl Default for PriceList {
    fn default() -> Self {
        Self {
            name: "AWS Fargate, Linux/x86, us-east-1".to_owned(),
            currency: "USD".to_owned(),
            vcpu_hour: Price { nano: 40_480_000 },
            gb_hour: Price { nano: 4_445_000 },
            storage_gb_hour: Price { nano: 111_000 },
            free_storage_gb: free_storage_gb(),
        }
    }
}

impl PriceList {
    /// What a task costs; `None` before its end is known.
    #[must_use]
    pub fn cost(&self, record: &Record) -> Option<Cost> {
        let seconds = record.end.as_ref()?.billed_seconds;
        let paid_storage = record.storage_mib.saturating_sub(u64::from(self.free_storage_gb).saturating_mul(1024));
        let items = [
            (u64::from(record.cpu_units), self.vcpu_hour),
            (u64::from(record.memory_mib), self.gb_hour),
            (paid_storage, self.storage_gb_hour),
        ];
        let parts = items.into_iter().fold(0_u128, |sum, (size, price)| {
            let hourly = u128::from(size).saturating_mul(price.nano.into());
            sum.saturating_add(hourly.saturating_mul(seconds.into()))
        });
        Some(Cost { parts })
    }
}

/// An exact amount of money, in the currency of the price list that it was computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    parts: u128,
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        Self { parts: items.fold(0, |sum, item| sum.saturating_add(item.parts)) }
    }
}

/// The decimal number with nine places, or as many as asked for up to that; the last is rounded, a half up.
impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(PLACES).min(PLACES);
        let power = |digits: usize| 10_u128.saturating_pow(u32::try_from(digits).unwrap_or(0));
        let divisor = PARTS.saturating_mul(power(PLACES.saturating_sub(places)));
        let rounded = self.parts.saturating_add(divisor / 2) / divisor;
        let (whole, fraction) = (rounded / power(places), rounded % power(places));
        if places == 0 { write!(f, "{whole}") } else { write!(f, "{whole}.{fraction:0places$}") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::usage::tests::record_of;

    fn cost(cpu_units: u32, memory_mib: u32, storage_mib: u64, elapsed_ms: u64) -> Cost {
        PriceList::default().cost(&record_of(cpu_units, memory_mib, storage_mib, elapsed_ms)).unwrap()
    }

    /// Computed by hand (python's `decimal`) from Fargate's prices: cpu units, MiB, MiB of disk, ms, billed seconds,
    /// vCPU-seconds, GB-seconds, cost.
    #[test]
    fn bills_are_right_to_the_digit() {
        let vectors = include_str!("price/vectors.txt");
        let mut count = 0;
        for line in vectors.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let number = |index: usize| fields[index].parse::<u64>().unwrap();
            let small = |index: usize| u32::try_from(number(index)).unwrap();
            let record = record_of(small(0), small(1), number(2), number(3));
            let end = record.end.as_ref().unwrap();
            assert_eq!(end.billed_seconds, number(4), "{line}");
            assert_eq!(record.vcpu_seconds().unwrap().to_string(), fields[5], "{line}");
            assert_eq!(record.gb_seconds().unwrap().to_string(), fields[6], "{line}");
            assert_eq!(PriceList::default().cost(&record).unwrap().to_string(), fields[7], "{line}");
            count += 1;
        }
        assert!(count >= 24, "{count} vectors");
    }

    #[test]
    fn a_price_is_read_exactly() {
        let nano = |text: &str| text.parse::<Price>().map(|price| price.nano);
        assert_eq!(nano("0.04048"), Ok(40_480_000));
        assert_eq!(nano("0.000000001"), Ok(1));
        assert_eq!(nano("12"), Ok(12_000_000_000));
        assert_eq!(nano("1."), Ok(1_000_000_000));
        for text in ["", ".5", "-1", "1e3", "0.0000000001", "0,5", "99999999999", "1.2.3", "+1"] {
            assert_eq!(nano(text), Err(NotAPrice), "{text}");
        }
    }

    #[test]
    fn a_cost_is_rounded_once_when_it_is_printed() {
        let third = Cost { parts: PARTS * 1_000_000_000 / 3 };
        assert_eq!(third.to_string(), "0.333333333");
        assert_eq!([third; 3].into_iter().sum::<Cost>().to_string(), "1.000000000");
        assert_eq!(format!("{third:.2}"), "0.33");
        assert_eq!(format!("{:.0}", Cost { parts: PARTS * 1_500_000_000 }), "2");
        assert_eq!(format!("{:.6}", cost(256, 512, 0, 7_200)), "0.000206");
    }

    #[test]
    fn only_the_disk_beyond_the_free_one_costs() {
        let hour = 3_600_000;
        let extra = |storage_gb: u64| cost(1024, 1024, storage_gb * 1024, hour).parts - cost(1024, 1024, 0, hour).parts;
        assert_eq!(extra(20), 0);
        assert_eq!(extra(21), PARTS * 111_000);
        assert_eq!(extra(200), PARTS * 111_000 * 180);
    }

    proptest! {
        #[test]
        fn any_price_is_printed_as_it_was_read(nano in any::<u32>()) {
            let text = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
            let price: Price = text.parse().unwrap();
            prop_assert_eq!(Cost { parts: u128::from(price.nano) * PARTS }.to_string(), text);
        }

        #[test]
        fn a_sum_of_bills_is_the_bill_of_the_sum(tasks in prop::collection::vec((1_u32..20_000, 1_u32..200_000, 60_u64..100_000), 0..20)) {
            let sum: Cost = tasks.iter().map(|&(cpu, memory, seconds)| cost(cpu, memory, 0, seconds * 1000)).sum();
            let exact: u128 = tasks.iter().map(|&(cpu, memory, seconds)| {
                u128::from(seconds) * (u128::from(cpu) * 40_480_000 + u128::from(memory) * 4_445_000)
            }).sum();
            prop_assert_eq!(sum.parts, exact);
        }
    }
}
