//! The configuration file: what registries need that can't be found out. Its tables are
//!
//! ```toml
//! [registry."registry.example:5000"]
//! insecure = true                       # plain HTTP, or a certificate that nobody vouches for
//! ca = "/etc/ssl/private-ca.pem"        # further certificate authorities
//! mirrors = ["mirror.example"]          # asked first, in this order
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;

use crate::name::is_host;

/// What is configured about registries.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    registries: BTreeMap<String, Registry>,
}

/// What is configured about one registry.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    /// Plain HTTP and certificates that nobody vouches for are fine.
    pub(super) insecure: bool,
    /// Certificate authorities beside the system's, in PEM.
    pub(super) ca: Option<Vec<u8>>,
    /// Hosts that are asked first.
    pub(super) mirrors: Vec<String>,
}

/// Why a configuration file can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file can't be read.
    #[error("The file {} can't be read", path.display())]
    Read {
        /// The configuration file, or one that it names.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or has keys or values that mean nothing.
    #[error("The configuration file {} is wrong in line {line}: {problem}", path.display())]
    Parse {
        /// The configuration file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A registry or a mirror that is no host.
    #[error("The configuration file {} names {host:?}, which is not HOST or HOST:PORT", path.display())]
    Host {
        /// The configuration file.
        path: PathBuf,
        /// What should be a host.
        host: String,
    },
    /// A file of certificates without one.
    #[error("The configuration file {} names {} as ca, which holds no certificate in PEM", path.display(), ca.display())]
    Certificate {
        /// The configuration file.
        path: PathBuf,
        /// The file of certificates.
        ca: PathBuf,
    },
}

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    registry: RegistryTables,
}

/// The tables of the configuration file, by `HOST[:PORT]`, as they are written: for a file that says other things too.
pub type RegistryTables = BTreeMap<String, RegistryTable>;

/// A table of the configuration file, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryTable {
    #[serde(default)]
    insecure: bool,
    ca: Option<PathBuf>,
    #[serde(default)]
    mirrors: Vec<String>,
}

impl RegistryConfig {
    /// Reads the file at `path`. One that does not exist configures nothing.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file, and the line and the key where there is one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.into(), source }),
        }
    }

    /// Reads `text`, which is in the file at `path`.
    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count().saturating_add(1);
            ConfigError::Parse { path: path.into(), line, problem: error.message().replace('\n', ", ") }
        })?;
        Self::new(path, file.registry)
    }

    /// Takes the tables of the configuration file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file.
    pub fn new(path: &Path, tables: RegistryTables) -> Result<Self, ConfigError> {
        let registry = |(host, table): (String, RegistryTable)| {
            let mut hosts = std::iter::once(&host).chain(&table.mirrors);
            if let Some(host) = hosts.find(|host| !is_host(host)) {
                return Err(ConfigError::Host { path: path.into(), host: host.clone() });
            }
            let ca = table.ca.map(|ca| certificates(path, ca)).transpose()?;
            Ok((host, Registry { insecure: table.insecure, ca, mirrors: table.mirrors }))
        };
        Ok(Self { registries: tables.into_iter().map(registry).collect::<Result<_, _>>()? })
    }

    /// What is configured about `host`.
    pub(super) fn registry(&self, host: &str) -> Registry {
        self.registries.get(host).cloned().unwrap_or_default()
    }
}

/// Reads a file of certificates.
fn certificates(path: &Path, ca: PathBuf) -> Result<Vec<u8>, ConfigError> {
    let pem = fs::read(&ca).map_err(|source| ConfigError::Read { path: ca.clone(), source })?;
    let marker = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(marker.len()).any(|window| window == marker) && reqwest::Certificate::from_pem(&pem).is_ok() {
        Ok(pem)
    } else {
        Err(ConfigError::Certificate { path: path.into(), ca })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RegistryConfig, String> {
        RegistryConfig::parse(Path::new("config.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_that_can_be_configured_is_taken() {
        let config =
            parse("[registry.'a:5000']\ninsecure = true\nmirrors = ['b', 'c.example:80']\n[registry.d]").unwrap();
        let registry = config.registry("a:5000");
        assert!(registry.insecure && registry.mirrors == ["b", "c.example:80"]);
        assert!(!config.registry("d").insecure && config.registry("e").mirrors.is_empty());
    }

    #[test]
    fn what_means_nothing_is_refused_with_its_place() {
        let error = parse("[registry.a]\ninsecure = true\nmirror = 'b'\n").unwrap_err();
        assert!(error.starts_with("The configuration file config.toml is wrong in line 3: "), "{error}");
        assert!(error.contains("unknown field `mirror`"), "{error}");
        let error = parse("\n[registries]\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("`registries`"), "{error}");
        let error = parse("[registry.a]\ninsecure = 'yes'").unwrap_err();
        assert!(error.contains("line 2") && error.contains("boolean"), "{error}");
        let error = parse("[registry.a").unwrap_err();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn hosts_are_hosts() {
        for text in ["[registry.'https://a']", "[registry.a]\nmirrors = ['b/c']", "[registry.'a b']"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("not HOST or HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_file_of_certificates_holds_some() {
        let temp = tempfile::tempdir().unwrap();
        let ca = temp.path().join("ca.pem");
        let text = format!("[registry.a]\nca = '{}'", ca.display());
        assert!(parse(&text).unwrap_err().ends_with("ca.pem can't be read"));
        fs::write(&ca, "nothing").unwrap();
        assert!(parse(&text).unwrap_err().ends_with("ca.pem as ca, which holds no certificate in PEM"));
    }

    #[test]
    fn no_file_configures_nothing() {
        let temp = tempfile::tempdir().unwrap();
        assert!(RegistryConfig::load(&temp.path().join("config.toml")).unwrap().registries.is_empty());
        assert!(matches!(RegistryConfig::load(temp.path()), Err(ConfigError::Read { .. })));
    }
}
