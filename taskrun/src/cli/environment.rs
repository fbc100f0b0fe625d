//! Environment variables from `--env-file` and `--env`, with the caller's own values filled in.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::{fs, io};

use images::env::{self, EnvChange};

/// Why a variable was refused.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// An `--env` is wrong.
    #[error("The option --env {0:?} can't be used")]
    Option(OsString, #[source] env::EnvError),
    /// An `--env-file` can't be read.
    #[error("The environment file {0:?} can't be read")]
    Read(PathBuf, #[source] io::Error),
    /// An `--env-file` is wrong.
    #[error("The environment file {0:?} can't be used")]
    File(PathBuf, #[source] env::EnvFileError),
}

/// The caller's variable of that name.
pub type Lookup<'a> = &'a dyn Fn(&OsStr) -> Option<OsString>;

/// The changes of all files in their order, then those of the options; of several for one name the last counts.
///
/// # Errors
/// [`EnvironmentError`], the first one.
pub fn collect(
    files: &[PathBuf],
    options: &[OsString],
    caller: Lookup<'_>,
) -> Result<Vec<EnvChange>, EnvironmentError> {
    let mut changes = Vec::new();
    for path in files {
        let contents = fs::read(path).map_err(|source| EnvironmentError::Read(path.clone(), source))?;
        let parsed = env::parse_file(&contents, caller);
        changes.extend(parsed.map_err(|source| EnvironmentError::File(path.clone(), source))?);
    }
    for option in options {
        let parsed = env::parse_option(option, caller);
        changes.push(parsed.map_err(|source| EnvironmentError::Option(option.clone(), source))?);
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &OsStr) -> Option<OsString> {
        (name == "HOME").then(|| "/home/me".into())
    }

    fn set(name: &str, value: &str) -> EnvChange {
        EnvChange::Set { name: name.into(), value: value.into() }
    }

    #[test]
    fn options_come_behind_files() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        fs::write(&first, "A=1\nB=1\n").unwrap();
        fs::write(&second, "# comment\nA=2\nHOME\n").unwrap();
        let got = collect(&[first, second], &["A=3".into(), "HOME".into()], &caller).unwrap();
        let home = set("HOME", "/home/me");
        assert_eq!(got, [set("A", "1"), set("B", "1"), set("A", "2"), home.clone(), set("A", "3"), home]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |files: &[PathBuf], options: &[OsString]| {
            crate::errors::chain(&collect(files, options, &caller).unwrap_err())
        };
        assert!(message(&["/no/such/file".into()], &[]).starts_with("The environment file \"/no/such/file\" can't"));
        assert!(message(&[], &["=x".into()]).starts_with("The option --env \"=x\" can't be used: "));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        fs::write(&file, "A=1\n=2\n").unwrap();
        assert!(message(&[file], &[]).contains("Line 2"));
    }
}
