//! The environment of a task: defaults, the image's variables and the caller's, merged as docker does it.
//!
//! The caller's come from files (`--env-file`) and then from options (`-e`); of several settings of one variable the
//! last counts. Names and values are bytes.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::config::ImageConfig;

/// The `PATH` of an image that sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the caller wishes for one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvChange {
    /// Set it to this value.
    Set {
        /// The variable's name.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Remove it, even if the image sets it.
    Unset {
        /// The variable's name.
        name: Vec<u8>,
    },
}

/// Why a variable can't be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// There is nothing in front of the `=`.
    #[error("The variable {0:?} has no name in front of the =")]
    NoName(String),
    /// A NUL byte ends a variable for the kernel.
    #[error("The variable {0:?} has a NUL byte in it")]
    Nul(String),
    /// A name in a file has blanks.
    #[error("The variable's name {0:?} has a blank in it")]
    Blank(String),
}

/// Why a file of variables can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Line {line} can't be used")]
pub struct EnvFileError {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    #[source]
    pub source: EnvError,
}

/// Reads the argument of `-e`: `NAME=value`, or `NAME` to take over the caller's own value, which `caller` looks up;
/// a variable that the caller doesn't have is removed.
///
/// # Errors
/// [`EnvError`], when there is no name or a NUL byte.
pub fn parse_option(argument: &OsStr, caller: impl Fn(&OsStr) -> Option<OsString>) -> Result<EnvChange, EnvError> {
    let (name, value) = split(argument.as_bytes())?;
    let value = value.map(<[u8]>::to_vec).or_else(|| caller(OsStr::from_bytes(name)).map(OsString::into_vec));
    let name = name.to_vec();
    Ok(match value {
        Some(value) => EnvChange::Set { name, value },
        None => EnvChange::Unset { name },
    })
}

/// Reads a file of variables, a `NAME=value` or `NAME` on each line. Blanks in front, empty lines and lines that start
/// with `#` don't count; everything behind the `=` is the value, quotes included. `NAME` takes over the caller's own
/// value, and is left out when the caller doesn't have it.
///
/// # Errors
/// [`EnvFileError`], for the first line that is wrong.
pub fn parse_file(
    contents: &[u8],
    caller: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Vec<EnvChange>, EnvFileError> {
    let contents = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents);
    let mut changes = Vec::new();
    for (number, line) in contents.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let at = |source| EnvFileError { line: number.saturating_add(1), source };
        let (name, value) = split(line).map_err(at)?;
        if name.iter().any(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(at(EnvError::Blank(shown(name))));
        }
        let value = value.map(<[u8]>::to_vec).or_else(|| caller(OsStr::from_bytes(name)).map(OsString::into_vec));
        changes.extend(value.map(|value| EnvChange::Set { name: name.to_vec(), value }));
    }
    Ok(changes)
}

/// The whole environment, `NAME=value` each, names unique: `PATH`, `HOSTNAME` and (with a terminal) `TERM`, then
/// `changes` in order, then what is left of the image's.
#[must_use]
pub fn environment(config: &ImageConfig, hostname: &str, terminal: bool, changes: &[EnvChange]) -> Vec<Vec<u8>> {
    let mut result = Variables::default();
    result.set(b"PATH", DEFAULT_PATH.as_bytes());
    result.set(b"HOSTNAME", hostname.as_bytes());
    if terminal {
        result.set(b"TERM", b"xterm");
    }
    let mut wished = Variables::default();
    for change in changes {
        match change {
            EnvChange::Set { name, value } => wished.set(name, value),
            EnvChange::Unset { name } => wished.put(name.clone(), None),
        }
    }
    // The image's variables give way to the caller's. An entry without `=` or without a name sets nothing.
    let image = config.env.iter().filter_map(|entry| entry.split_once('=')).filter(|(name, _)| !name.is_empty());
    let mut rest = Variables::default();
    for (name, value) in image {
        if !wished.knows(name.as_bytes()) {
            rest.set(name.as_bytes(), value.as_bytes());
        }
    }
    for (name, value) in wished.entries.into_iter().chain(rest.entries) {
        result.put(name, value);
    }
    let set = result.entries.into_iter().filter_map(|(name, value)| value.map(|value| [name, value].join(&b'=')));
    set.collect()
}

/// Variables in the order in which they were first named.
#[derive(Debug, Default)]
struct Variables {
    /// Name and value; `None` is a variable that shall not be there.
    entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The place of each name among the entries. A hostile image may have very many.
    places: HashMap<Vec<u8>, usize>,
}

impl Variables {
    fn set(&mut self, name: &[u8], value: &[u8]) {
        self.put(name.to_vec(), Some(value.to_vec()));
    }

    fn put(&mut self, name: Vec<u8>, value: Option<Vec<u8>>) {
        let place = *self.places.entry(name.clone()).or_insert(self.entries.len());
        match self.entries.get_mut(place) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((name, value)),
        }
    }

    fn knows(&self, name: &[u8]) -> bool {
        self.places.contains_key(name)
    }
}

/// A variable's name and, behind a `=`, its value.
fn split(variable: &[u8]) -> Result<(&[u8], Option<&[u8]>), EnvError> {
    if variable.contains(&0) {
        return Err(EnvError::Nul(shown(variable)));
    }
    let mut parts = variable.splitn(2, |&byte| byte == b'=');
    let name = parts.next().unwrap_or_default();
    if name.is_empty() { Err(EnvError::NoName(shown(variable))) } else { Ok((name, parts.next())) }
}

/// As much of a variable as belongs into a message; its value may be a secret.
fn shown(variable: &[u8]) -> String {
    String::from_utf8_lossy(variable).chars().take(40).collect()
}

#[cfg(test)]
mod tests;
