//! The size of a task: its share of CPUs and its memory.
//!
//! Inside, CPU is counted in cpu units (1024 are one vCPU) and memory in MiB, as AWS Fargate counts them; users write
//! and read vCPU and GB (1 GB = 1024 MiB, as on Fargate), or cpu units. Any ratio of the two is a size; [`strict`] knows
//! those that Fargate has.

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
    #[error("Write a number of vCPUs, such as 0.25, 1 or 4, or of cpu units, such as 256")]
    NotCpu,
    /// Out of range.
    #[error(
        "A task has between {} and {} vCPUs ({MIN_UNITS} to {MAX_UNITS} cpu units)",
        Cpu(MIN_UNITS),
        Cpu(MAX_UNITS)
    )]
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
    /// Fargate has no such share of CPUs. The first sentence is ECS's.
    #[error("Invalid 'cpu' setting for task. Fargate has {}", join(&FARGATE.map(|row| format!("{} vCPU", row.cpu))))]
    NotFargateCpu,
    /// Fargate has no such memory for this share of CPUs. The first sentence is ECS's.
    #[error("No Fargate configuration exists for given values. With {} vCPU Fargate has {}", .0.cpu, .0)]
    NotFargateMemory(FargateSizes),
}

/// The memories that Fargate has for a share of CPUs: from the smallest in equal steps to the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FargateSizes {
    cpu: Cpu,
    smallest: u32,
    largest: u32,
    /// 0 where each memory is twice the one before.
    step: u32,
}

/// Fargate's sizes for Linux. Source: the ECS developer guide, "Task CPU and memory".
const FARGATE: [FargateSizes; 7] = [
    FargateSizes { cpu: Cpu(256), smallest: 512, largest: 2048, step: 0 },
    FargateSizes { cpu: Cpu(512), smallest: 1024, largest: 4096, step: 1024 },
    FargateSizes { cpu: Cpu(1024), smallest: 2048, largest: 8192, step: 1024 },
    FargateSizes { cpu: Cpu(2048), smallest: 4096, largest: 16_384, step: 1024 },
    FargateSizes { cpu: Cpu(4096), smallest: 8192, largest: 30_720, step: 1024 },
    FargateSizes { cpu: Cpu(8192), smallest: 16_384, largest: 61_440, step: 4096 },
    FargateSizes { cpu: Cpu(16_384), smallest: 32_768, largest: 122_880, step: 8192 },
];

impl FargateSizes {
    fn has(&self, memory: Memory) -> bool {
        let fits = match self.step {
            0 => memory.0.is_power_of_two(),
            step => memory.0.is_multiple_of(step),
        };
        (self.smallest..=self.largest).contains(&memory.0) && fits
    }
}

impl fmt::Display for FargateSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (smallest, largest) = (Memory(self.smallest), Memory(self.largest));
        match self.step {
            0 => write!(f, "{smallest}, {} or {largest}", Memory::GIB),
            step => write!(f, "{smallest} to {largest} in steps of {}", Memory(step)),
        }
    }
}

/// Whether Fargate has this size.
///
/// # Errors
/// [`SizeError::NotFargateCpu`] and [`SizeError::NotFargateMemory`], which say what Fargate has.
pub fn strict(cpu: Cpu, memory: Memory) -> Result<(), SizeError> {
    let sizes = FARGATE.into_iter().find(|row| row.cpu == cpu).ok_or(SizeError::NotFargateCpu)?;
    if sizes.has(memory) { Ok(()) } else { Err(SizeError::NotFargateMemory(sizes)) }
}

/// Words with commas, and an "or" before the last.
fn join(words: &[String]) -> String {
    match words {
        [some @ .., last] if !some.is_empty() => format!("{} or {last}", some.join(", ")),
        _ => words.concat(),
    }
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

    /// Reads vCPUs: `0.25`, `.5`, `2`, `1 vCPU`; rounded to the nearest cpu unit. A whole number above the most vCPUs
    /// that there can be is cpu units: `256`, `1536`.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let lower = text.trim().to_ascii_lowercase();
        let vcpus = lower.strip_suffix("vcpus").or_else(|| lower.strip_suffix("vcpu"));
        let number = vcpus.unwrap_or(&lower).trim_end();
        let thousandth_units = decimal_times(number, u64::from(UNITS_PER_VCPU) * 1000).ok_or(SizeError::NotCpu)?;
        let is_units = vcpus.is_none() && !number.contains('.') && thousandth_units > u64::from(MAX_UNITS) * 1000;
        let units = if is_units {
            number.parse().unwrap_or(u32::MAX)
        } else {
            u32::try_from(thousandth_units.saturating_add(500) / 1000).unwrap_or(u32::MAX)
        };
        if (MIN_UNITS..=MAX_UNITS).contains(&units) { Ok(Self(units)) } else { Err(SizeError::CpuRange) }
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
            ("256", 256, 1),
            (" 512 ", 512, 1),
            ("1536", 1536, 2),
            ("16384", 16384, 16),
            ("1000", 1000, 1),
        ] {
            let cpu: Cpu = text.parse().unwrap();
            assert_eq!((cpu.units(), cpu.vcpus()), (units, vcpus), "{text}");
        }
    }

    #[test]
    fn cpu_out_of_range_is_refused() {
        for text in ["0.1", "0", "17", "255", "16385", "256.0", "17 vCPU", "512 vCPU", "99999999999999999999"] {
            assert_eq!(text.parse::<Cpu>(), Err(SizeError::CpuRange), "{text}");
        }
        for text in ["-1", ".", "", "1e1", "512 units", "0x200"] {
            assert_eq!(text.parse::<Cpu>(), Err(SizeError::NotCpu), "{text}");
        }
        let range = "A task has between 0.25 and 16 vCPUs (256 to 16384 cpu units)";
        assert_eq!("17".parse::<Cpu>().unwrap_err().to_string(), range);
    }

    /// The table of the ECS developer guide, written out.
    #[test]
    fn strict_sizes_are_fargates() {
        let steps =
            |smallest: u32, largest: u32, step: u32| (smallest..=largest).step_by(step as usize).collect::<Vec<_>>();
        let table = [
            (256, vec![512, 1024, 2048]),
            (512, steps(1024, 4096, 1024)),
            (1024, steps(2048, 8192, 1024)),
            (2048, steps(4096, 16_384, 1024)),
            (4096, steps(8192, 30_720, 1024)),
            (8192, steps(16_384, 61_440, 4096)),
            (16_384, steps(32_768, 122_880, 8192)),
        ];
        for (units, memories) in &table {
            for mib in (64..=MAX_MEMORY_MIB).step_by(64) {
                assert_eq!(strict(Cpu(*units), Memory(mib)).is_ok(), memories.contains(&mib), "{units} and {mib}");
            }
        }
        for units in MIN_UNITS..=MAX_UNITS {
            let known = table.iter().any(|(known, _)| *known == units);
            assert_eq!(strict(Cpu(units), Memory(8192)) == Err(SizeError::NotFargateCpu), !known, "{units}");
        }
    }

    #[test]
    fn what_fargate_does_not_have_is_refused_in_its_words_and_with_what_it_has() {
        let refused =
            |cpu: &str, memory: &str| strict(cpu.parse().unwrap(), memory.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            refused("0.3", "512"),
            "Invalid 'cpu' setting for task. Fargate has 0.25 vCPU, 0.5 vCPU, 1 vCPU, 2 vCPU, 4 vCPU, 8 vCPU or 16 vCPU"
        );
        assert_eq!(
            refused("0.25", "4GB"),
            "No Fargate configuration exists for given values. With 0.25 vCPU Fargate has 512 MiB, 1 GB or 2 GB"
        );
        assert_eq!(
            refused("8192", "17GB"),
            "No Fargate configuration exists for given values. With 8 vCPU Fargate has 16 GB to 60 GB in steps of 4 GB"
        );
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
