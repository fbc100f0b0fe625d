//! The configuration file, `config.toml`: in taskrun's home, or else `/etc/taskrun/config.toml`.
//!
//! ```toml
//! [registry."registry.example:5000"]    # see images::registry
//! insecure = true
//!
//! [unpack]                              # the microVM that unpacks images, and what it takes
//! cpu = 2
//! memory = "1GB"
//! max-bytes = "64GB"                    # of an image's files, uncompressed
//! max-entries = 2000000
//!
//! [cpu]
//! enforce = "auto"                      # who holds tasks to their shares: "auto", "cgroup2", "cgroup1" or "vmm"
//!
//! [billing]                             # how a task's time is counted, and what it costs
//! rounding_seconds = 1
//! minimum_seconds = 60
//!
//! [billing.prices]                      # given whole; by default Fargate's for Linux/x86 in us-east-1
//! name = "In-house"
//! currency = "EUR"
//! vcpu_hour = "0.02"
//! gb_hour = "0.002"
//! storage_gb_hour = "0.0001"            # beyond free_storage_gb = 20 of each task
//! ```
//!
//! A key that means nothing is refused: it is a mistake, and a limit that is not applied is worse than none.

use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use images::registry::{RegistryConfig, RegistryTables};
use serde::Deserialize;

use crate::bytes::Bytes;
use crate::cpu::Wanted;
use crate::ledger::billing::Rules;
use crate::size::{Cpu, Memory};
use crate::usage::price::PriceList;

/// The name of the file.
const FILE_NAME: &str = "config.toml";

/// The file for all users.
const SYSTEM: &str = "/etc/taskrun/config.toml";

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("The configuration file {path} can't be read", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not TOML, or has keys or values that mean nothing.
    #[error("The configuration file {path} is wrong in line {line}: {problem}", path = .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// What it says of registries is wrong.
    #[error(transparent)]
    Registry(#[from] images::registry::ConfigError),
}

/// The configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What registries need.
    pub registries: RegistryConfig,
    /// How images are unpacked.
    pub unpack: UnpackConfig,
    /// How tasks' shares of processors are enforced.
    pub cpu: CpuConfig,
    /// How tasks are billed.
    pub billing: BillingConfig,
}

/// How tasks' shares of processors are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CpuConfig {
    /// By whom.
    pub enforce: Wanted,
}

/// How tasks are billed. How time is counted is fixed for a task at its admission; prices are applied when a cost is printed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BillingConfig {
    /// Steps that count in full once they were begun.
    pub rounding_seconds: NonZeroU32,
    /// The least that a task is billed for.
    pub minimum_seconds: u32,
    /// What tasks cost.
    pub prices: PriceList,
}

impl Default for BillingConfig {
    fn default() -> Self {
        let Rules { rounding_seconds, minimum_seconds } = Rules::default();
        Self { rounding_seconds, minimum_seconds, prices: PriceList::default() }
    }
}

impl BillingConfig {
    /// How a task's time is counted.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules { rounding_seconds: self.rounding_seconds, minimum_seconds: self.minimum_seconds }
    }
}

/// How images are unpacked, and how much of an image is too much.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct UnpackConfig {
    /// vCPUs of the microVM that unpacks.
    #[serde(deserialize_with = "cpu")]
    pub cpu: Cpu,
    /// Its memory.
    #[serde(deserialize_with = "memory")]
    pub memory: Memory,
    /// The most bytes of an image's uncompressed layers.
    #[serde(deserialize_with = "bytes")]
    pub max_bytes: u64,
    /// The most entries of an image's layers.
    pub max_entries: u64,
}

impl Default for UnpackConfig {
    fn default() -> Self {
        Self { cpu: Cpu::TWO, memory: Memory::GIB, max_bytes: 64 << 30, max_entries: 2_000_000 }
    }
}

impl UnpackConfig {
    /// Whole vCPUs for the microVM.
    #[must_use]
    pub fn vcpus(&self) -> u8 {
        self.cpu.vcpus()
    }
}

/// The file, as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    registry: RegistryTables,
    unpack: UnpackConfig,
    cpu: CpuConfig,
    billing: BillingConfig,
}

impl Config {
    /// Reads the file in `home`, else that of all users. Where there is none, everything is as it is by default.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file, and the line where there is one.
    pub fn load(home: &Path) -> Result<Self, ConfigError> {
        for path in [home.join(FILE_NAME), SYSTEM.into()] {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Self::parse(&path, &text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(ConfigError::Read { path, source }),
            }
        }
        Ok(Self::default())
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            problem: error.message().to_owned(),
        })?;
        let File { registry, unpack, cpu, billing } = file;
        Ok(Self { registries: RegistryConfig::new(path, registry)?, unpack, cpu, billing })
    }
}

/// The line of a place in a text, counted from 1.
fn line_of(text: &str, place: usize) -> usize {
    let before = text.get(..place).unwrap_or(text);
    before.matches('\n').count().saturating_add(1)
}

/// A number or a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Whole(u64),
    Part(f64),
    Text(String),
}

impl Amount {
    fn text(self) -> String {
        match self {
            Self::Whole(number) => number.to_string(),
            Self::Part(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

fn parsed<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
    D: serde::Deserializer<'de>,
{
    Amount::deserialize(deserializer)?.text().parse().map_err(serde::de::Error::custom)
}

fn cpu<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Cpu, D::Error> {
    parsed(deserializer)
}

fn memory<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Memory, D::Error> {
    parsed(deserializer)
}

fn bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parsed::<Bytes, D>(deserializer).map(|bytes| bytes.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/c.toml"), text)
    }

    #[test]
    fn everything_has_a_default() {
        assert_eq!(parse("").unwrap().unpack, UnpackConfig::default());
        assert_eq!(Config::load(Path::new("/no/such/folder")).unwrap().unpack, UnpackConfig::default());
    }

    #[test]
    fn limits_are_read_as_on_the_command_line() {
        let text = "[unpack]\ncpu = 0.5\nmemory = \"2GB\"\nmax-bytes = \"1.5GB\"\nmax-entries = 10\n";
        let unpack = parse(text).unwrap().unpack;
        assert_eq!((unpack.vcpus(), unpack.memory.mib()), (1, 2048));
        assert_eq!((unpack.max_bytes, unpack.max_entries), (3 << 29, 10));
        assert_eq!(parse("[unpack]\nmemory = 256\n").unwrap().unpack.memory.mib(), 256);
    }

    #[test]
    fn a_mechanism_for_shares_can_be_wanted() {
        let wanted = |text: &str| parse(text).map(|config| config.cpu.enforce);
        assert_eq!(wanted("").unwrap(), Wanted::Auto);
        assert_eq!(wanted("[cpu]\nenforce = \"cgroup2\"\n").unwrap(), Wanted::Cgroup2);
        assert_eq!(wanted("[cpu]\nenforce = \"vmm\"\n").unwrap(), Wanted::Vmm);
        assert!(wanted("[cpu]\nenforce = \"no\"\n").unwrap_err().to_string().contains("cgroup1"));
    }

    #[test]
    fn billing_is_fargates_unless_it_is_said_otherwise() {
        let billing = |text: &str| parse(text).map(|config| config.billing);
        assert_eq!(billing("[billing]\n").unwrap(), BillingConfig::default());
        assert_eq!(BillingConfig::default().prices.vcpu_hour, "0.04048".parse().unwrap());
        let text = "[billing]\nrounding_seconds = 60\n[billing.prices]\nname = \"Mine\"\ncurrency = \"EUR\"\n\
                    vcpu_hour = \"1\"\ngb_hour = \"0.5\"\nstorage_gb_hour = \"0\"\n";
        let mine = billing(text).unwrap();
        assert_eq!((mine.rounding_seconds.get(), mine.minimum_seconds), (60, 60));
        assert_eq!((mine.prices.name.as_str(), mine.prices.free_storage_gb), ("Mine", 20));
        assert_eq!(mine.prices.gb_hour, "0.5".parse().unwrap());
        for (text, word) in [
            ("[billing]\nrounding_seconds = 0\n", "nonzero"),
            ("[billing.prices]\nname = \"Mine\"\n", "currency"),
            ("[billing]\nminimum = 1\n", "minimum"),
            (&text.replace("\"0.5\"", "0.5"), "string"),
            (&text.replace("0.5", "half"), "decimal"),
        ] {
            let error = billing(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, line, word) in [
            ("[unpack]\nmax-byte = 1\n", 2, "max-byte"),
            ("\n\n[unpak]\n", 3, "unpak"),
            ("[unpack]\nmemory = \"16MB\"\n", 2, "64 MiB"),
            ("[unpack\n", 1, ""),
        ] {
            let error = parse(text).unwrap_err();
            let ConfigError::Parse { line: found, problem, .. } = &error else { panic!("{error}") };
            assert_eq!(*found, line, "{error}");
            assert!(problem.contains(word), "{error}");
        }
    }

    #[test]
    fn registries_are_read_too() {
        assert!(parse("[registry.\"a:5000\"]\ninsecure = true\n").is_ok());
        assert!(parse("[registry.\"a:5000\"]\nunsure = true\n").is_err());
    }
}
