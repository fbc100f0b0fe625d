//! The size of a task: its share of CPUs and its memory.
//!
//! Inside, CPU is counted in cpu units (1024 are one vCPU) and memory in MiB, as AWS Fargate counts them; users write
//! and read vCPU and GB (1 GB = 1024 MiB, as on Fargate).

use std::fmt;
use std::str::FromStr;

use vmm::config::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};

/// Cpu units in one vCPU.
pub const UNITS_PER_VCPU: u32 = 1024;

/// The smallest share of CPUs, in cpu units.
const MIN_UNITS: u32 = 256;

/// The largest share of CPUs, in cpu units: all vCPUs that a microVM can have.
const MAX_UNITS: u32 = MAX_VCPUS as u32 * UNITS_PER_VCPU;

/// Why a size was refused. The sentences name the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number of vCPUs.
    #[error("Write a number of vCPUs, such as 0.25, 1 or 4")]
    NotCpu,
    /// Out of range, and the value looks like cpu units.
    #[error("That many vCPUs don't fit into a microVM; {units} cpu units are --cpu {vcpus}")]
    CpuUnits {
        /// What was written.
        units: u32,
        /// The same in vCPUs.
        vcpus: Cpu,
    },
    /// Out of range.
    #[error("A task has between {} and {} vCPUs", Cpu(MIN_UNITS), Cpu(MAX_UNITS))]
    CpuRange,
    /// Not an amount of memory.
    #[error("Write an amount of memory in MiB, or with a unit: 512, 512MB, 0.5GB, 2GB")]
    NotMemory,
    /// Not a whole number of MiB.
    #[error("Memory is counted in whole MiB (1 GB is 1024 MiB)")]
    PartOfMib,
    /// Less than a microVM can start with.
    #[error("The smallest memory is {} MiB: the guest's kernel needs that much to start", MIN_MEMORY_MIB)]
    MemoryTooSmall,
    /// More than a microVM can have.
    #[error("The largest memory is {} GB", MAX_MEMORY_MIB / 1024)]
    MemoryTooLarge,
}

/// A share of CPUs, in cpu units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu(u32);

impl Cpu {
    /// Fargate's smallest: a quarter of a vCPU.
    pub const DEFAULT: Self = Self(MIN_UNITS);

    /// Two vCPUs.
    pub const TWO: Self = Self(2 * UNITS_PER_VCPU);

    /// The share in cpu units.
    #[must_use]
    pub fn units(self) -> u32 {
        self.0
    }

    /// How many vCPUs the microVM needs to hold this share: the next whole number.
    #[must_use]
    pub fn vcpus(self) -> u8 {
        u8::try_from(self.0.div_ceil(UNITS_PER_VCPU)).unwrap_or(MAX_VCPUS)
    }
}

impl fmt::Display for Cpu {
    /// Writes vCPUs without needless digits: `0.25`, `1`, `1.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.4}", f64::from(self.0) / f64::from(UNITS_PER_VCPU));
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl FromStr for Cpu {
    type Err = SizeError;

    /// Reads vCPUs: `0.25`, `.5`, `2`, `1 vCPU`; rounded to the nearest cpu unit.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let number = lower.strip_suffix("vcpus").or_else(|| lower.strip_suffix("vcpu")).unwrap_or(&lower);
        let thousandth_units =
            decimal_times(number.trim_end(), u64::from(UNITS_PER_VCPU) * 1000).ok_or(SizeError::NotCpu)?;
        let units = u32::try_from(thousandth_units.saturating_add(500) / 1000).unwrap_or(u32::MAX);
        let looks_like_units = |vcpus: u32| (MIN_UNITS..=MAX_UNITS).contains(&vcpus).then_some(vcpus);
        match units {
            MIN_UNITS..=MAX_UNITS => Ok(Self(units)),
            _ => match looks_like_units(units / UNITS_PER_VCPU) {
                Some(units) => Err(SizeError::CpuUnits { units, vcpus: Self(units) }),
                None => Err(SizeError::CpuRange),
            },
        }
    }
}

/// An amount of memory, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(u32);

impl Memory {
    /// Fargate's smallest: 512 MiB.
    pub const DEFAULT: Self = Self(512);

    /// One GB.
    pub const GIB: Self = Self(1024);

    /// The amount in MiB.
    #[must_use]
    pub fn mib(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Memory {
    /// Writes whole GB as `2 GB`, everything else as `512 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1024) { write!(f, "{} GB", self.0 / 1024) } else { write!(f, "{} MiB", self.0) }
    }
}

impl FromStr for Memory {
    type Err = SizeError;

    /// Reads MiB (`512`, `512MB`, `512M`, `512MiB`) or GB (`2GB`, `0.5 GB`, `1G`, `1GiB`), in either case.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let lower = text.trim().to_ascii_lowercase();
        let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let kib_per_unit = match lower.get(number.len()..) {
            Some("" | "m" | "mb" | "mib") => 1024,
            Some("g" | "gb" | "gib") => 1024 * 1024,
            _ => return Err(SizeError::NotMemory),
        };
        let kib = decimal_times(number.trim_end(), kib_per_unit).ok_or(SizeError::NotMemory)?;
        match u32::try_from(kib / 1024).unwrap_or(u32::MAX) {
            0..MIN_MEMORY_MIB => Err(SizeError::MemoryTooSmall),
            MIN_MEMORY_MIB..=MAX_MEMORY_MIB if !kib.is_multiple_of(1024) => Err(SizeError::PartOfMib),
            mib @ MIN_MEMORY_MIB..=MAX_MEMORY_MIB => Ok(Self(mib)),
            _ => Err(SizeError::MemoryTooLarge),
        }
    }
}

/// Reads a decimal number without sign or exponent and multiplies it by `scale`, cutting off what is behind the point
/// then. A product that does not fit gives `u64::MAX`.
pub(crate) fn decimal_times(text: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(u64::MAX) };
    // Nine digits are more than any unit needs, and their product with a scale fits.
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let fraction = fraction.parse::<u64>().ok()?;
    let part = u128::from(fraction) * u128::from(scale) / 1_000_000_000;
    Some(whole.saturating_mul(scale).saturating_add(u64::try_from(part).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_is_written_in_vcpus_and_kept_in_units() {
        for (text, units, vcpus) in [
            ("0.25", 256, 1),
            (".5", 512, 1),
            (".25 vCPU", 256, 1),
            ("1", 1024, 1),
            ("1.0", 1024, 1),
            ("1.5", 1536, 2),
            ("2vCPU", 2048, 2),
            ("0.3", 307, 1),
            ("16", 16384, 16),
        ] {
            let cpu: Cpu = text.parse().unwrap();
            assert_eq!((cpu.units(), cpu.vcpus()), (units, vcpus), "{text}");
        }
    }

    #[test]
    fn cpu_out_of_range_is_refused_and_units_are_explained() {
        assert_eq!("0.1".parse::<Cpu>(), Err(SizeError::CpuRange));
        assert_eq!("17".parse::<Cpu>(), Err(SizeError::CpuRange));
        assert_eq!("99999999999999999999".parse::<Cpu>(), Err(SizeError::CpuRange));
        assert_eq!("-1".parse::<Cpu>(), Err(SizeError::NotCpu));
        assert_eq!(".".parse::<Cpu>(), Err(SizeError::NotCpu));
        assert_eq!("".parse::<Cpu>(), Err(SizeError::NotCpu));
        assert_eq!("1e1".parse::<Cpu>(), Err(SizeError::NotCpu));
        let error = "512".parse::<Cpu>().unwrap_err().to_string();
        assert_eq!(error, "That many vCPUs don't fit into a microVM; 512 cpu units are --cpu 0.5");
    }

    #[test]
    fn memory_is_mib_or_has_a_unit() {
        for (text, mib) in [
            ("512", 512),
            ("512MB", 512),
            ("512 MiB", 512),
            ("1GB", 1024),
            ("0.5gb", 512),
            ("2g", 2048),
            ("1.5G", 1536),
        ] {
            assert_eq!(text.parse::<Memory>().map(Memory::mib), Ok(mib), "{text}");
        }
    }

    #[test]
    fn memory_out_of_range_is_refused() {
        assert_eq!("63".parse::<Memory>(), Err(SizeError::MemoryTooSmall));
        assert_eq!("0".parse::<Memory>(), Err(SizeError::MemoryTooSmall));
        assert_eq!("0.3GB".parse::<Memory>(), Err(SizeError::PartOfMib));
        assert_eq!("257GB".parse::<Memory>(), Err(SizeError::MemoryTooLarge));
        assert_eq!("99999999999999999999GB".parse::<Memory>(), Err(SizeError::MemoryTooLarge));
        assert_eq!("512KB".parse::<Memory>(), Err(SizeError::NotMemory));
        assert_eq!("GB".parse::<Memory>(), Err(SizeError::NotMemory));
    }

    #[test]
    fn sizes_print_as_users_write_them() {
        assert_eq!("0.25".parse::<Cpu>().unwrap().to_string(), "0.25");
        assert_eq!("2".parse::<Cpu>().unwrap().to_string(), "2");
        assert_eq!("1GB".parse::<Memory>().unwrap().to_string(), "1 GB");
        assert_eq!("1536".parse::<Memory>().unwrap().to_string(), "1536 MiB");
    }

    proptest! {
        #[test]
        fn any_text_is_in_range_or_refused(text in "\\PC{0,24}") {
            if let Ok(cpu) = text.parse::<Cpu>() {
                prop_assert!((MIN_UNITS..=MAX_UNITS).contains(&cpu.units()) && (1..=16).contains(&cpu.vcpus()));
            }
            if let Ok(memory) = text.parse::<Memory>() {
                prop_assert!((MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory.mib()));
            }
        }

        #[test]
        fn every_share_survives_being_printed(units in MIN_UNITS..=MAX_UNITS) {
            prop_assert_eq!(Cpu(units).to_string().parse::<Cpu>(), Ok(Cpu(units)));
        }

        #[test]
        fn every_whole_memory_is_read_back(mib in MIN_MEMORY_MIB..=MAX_MEMORY_MIB) {
            prop_assert_eq!(mib.to_string().parse::<Memory>(), Ok(Memory(mib)));
            prop_assert_eq!(Memory(mib).to_string().parse::<Memory>(), Ok(Memory(mib)));
        }
    }
}
