//! Amounts of bytes as users write and read them. As everywhere in taskrun, and on Fargate, 1 GB is 1024 MB.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::size::decimal_times;

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// The smallest scratch disk: less holds no file system.
const MIN_DISK: u64 = 16 * MIB;

/// The largest scratch disk.
const MAX_DISK: u64 = 64 << 40;

/// Why an amount was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// Not an amount.
    #[error("Write an amount with a unit, such as 64MB or 1.5GB; without a unit it is bytes")]
    NotBytes,
    /// Not a size for a disk.
    #[error("Write a size such as 20GB; without a unit it is MiB")]
    NotDisk,
    /// A disk that can't be.
    #[error("A scratch disk has {} to {}", Bytes(MIN_DISK), Bytes(MAX_DISK))]
    DiskRange,
}

/// An amount of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Bytes(pub u64);

impl TryFrom<String> for Bytes {
    type Error = BytesError;

    fn try_from(text: String) -> Result<Self, BytesError> {
        text.parse()
    }
}

impl FromStr for Bytes {
    type Err = BytesError;

    /// Reads bytes (`4096`) or an amount with a unit (`64k`, `64MB`, `1.5 GiB`), in either case.
    fn from_str(text: &str) -> Result<Self, BytesError> {
        parse(text, 1).map(Self).ok_or(BytesError::NotBytes)
    }
}

impl fmt::Display for Bytes {
    /// Writes three digits at least in the largest unit that leaves something before the point: `512 B`, `1.50 GB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 1_u64;
        let mut name = "B";
        for larger in ["KB", "MB", "GB", "TB"] {
            if self.0 / unit < 1024 {
                break;
            }
            unit = unit.saturating_mul(1024);
            name = larger;
        }
        let (whole, rest) = (self.0 / unit, self.0 % unit);
        let hundredths = u128::from(rest) * 100 / u128::from(unit);
        match whole {
            _ if rest == 0 || whole >= 100 => write!(f, "{whole} {name}"),
            10.. => write!(f, "{whole}.{} {name}", hundredths / 10),
            _ => write!(f, "{whole}.{hundredths:02} {name}"),
        }
    }
}

/// The size of a scratch disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSize(u64);

impl DiskSize {
    /// The size in bytes, a multiple of 1 MiB.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DiskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.0).fmt(f)
    }
}

impl FromStr for DiskSize {
    type Err = BytesError;

    /// Reads MiB (`512`) or an amount with a unit (`20GB`), rounded up to whole MiB.
    fn from_str(text: &str) -> Result<Self, BytesError> {
        let bytes = parse(text, MIB).ok_or(BytesError::NotDisk)?;
        match bytes.checked_next_multiple_of(MIB) {
            Some(bytes @ MIN_DISK..=MAX_DISK) => Ok(Self(bytes)),
            _ => Err(BytesError::DiskRange),
        }
    }
}

/// Reads a number and its unit; `plain` is the unit of a number without one.
fn parse(text: &str, plain: u64) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match lower.get(number.len()..)? {
        "" => plain,
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    decimal_times(number.trim_end(), unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_have_units() {
        for (text, bytes) in [("4096", 4096), ("64k", 65536), ("1.5GB", 3 << 29), ("2 MiB", 2 << 20), ("1T", 1 << 40)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for bad in ["", "MB", "-1", "1XB", "1e3", "1.2.3G"] {
            assert_eq!(bad.parse::<Bytes>(), Err(BytesError::NotBytes), "{bad}");
        }
    }

    #[test]
    fn amounts_are_printed_as_they_are_read() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.50 KB"),
            (20 << 30, "20 GB"),
            ((100 << 20) + 1, "100 MB"),
            (12_345_678, "11.7 MB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn disks_are_in_mib_and_have_a_range() {
        assert_eq!("512".parse::<DiskSize>().map(DiskSize::bytes), Ok(512 << 20));
        assert_eq!("0.5GB".parse::<DiskSize>().map(DiskSize::bytes), Ok(512 << 20));
        assert_eq!("16777217b".parse::<DiskSize>().map(DiskSize::bytes), Ok(17 << 20));
        assert_eq!("1".parse::<DiskSize>(), Err(BytesError::DiskRange));
        assert_eq!("99999999999T".parse::<DiskSize>(), Err(BytesError::DiskRange));
        assert_eq!("much".parse::<DiskSize>(), Err(BytesError::NotDisk));
    }

    proptest! {
        #[test]
        fn any_text_is_an_amount_or_refused(text in "\\PC{0,24}") {
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<DiskSize>();
        }

        #[test]
        fn every_amount_can_be_printed(bytes: u64) {
            prop_assert!(!Bytes(bytes).to_string().is_empty());
        }
    }
}
