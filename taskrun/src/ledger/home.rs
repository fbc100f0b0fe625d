//! Taskrun's home: the directory that holds what lasts, such as the ledger.
//!
//! `TASKRUN_HOME`, else `taskrun` in the data directory of the XDG Base Directory Specification: `XDG_DATA_HOME`, else
//! `~/.local/share`. A variable that is empty counts as not set; so does an `XDG_DATA_HOME` that is relative, as the
//! specification wants it.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf, absolute};

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// No variable says where it is.
    #[error("There is no place for the ledger: set TASKRUN_HOME (or HOME) to a directory")]
    Unset,
    /// A relative `TASKRUN_HOME`, and no current directory.
    #[error("TASKRUN_HOME is relative and the current directory can't be found")]
    CurrentDirectory(#[source] io::Error),
}

/// Where taskrun's home is, from this process's environment. It may not exist yet.
///
/// # Errors
/// [`HomeError`], when the environment doesn't say it.
pub fn resolve() -> Result<PathBuf, HomeError> {
    resolve_with(|name| std::env::var_os(name))
}

fn resolve_with(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, HomeError> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = set("TASKRUN_HOME") {
        return absolute(home).map_err(HomeError::CurrentDirectory);
    }
    let data = set("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let data = data.or_else(|| set("HOME").filter(|path| path.is_absolute()).map(|home| home.join(".local/share")));
    Ok(data.ok_or(HomeError::Unset)?.join("taskrun"))
}

/// Makes `home`, open to its owner alone, and what is missing above it. One that exists stays as it is.
pub(super) fn create(home: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(home)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn home(variables: &[(&str, &str)]) -> Option<String> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        resolve_with(find).ok().map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_variables_are_tried_in_order() {
        let all = [("TASKRUN_HOME", "/t"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(home(&all).as_deref(), Some("/t"));
        assert_eq!(home(&all[1..]).as_deref(), Some("/x/taskrun"));
        assert_eq!(home(&all[2..]).as_deref(), Some("/h/.local/share/taskrun"));
        assert_eq!(home(&[]), None);
        assert_eq!(
            home(&[("TASKRUN_HOME", ""), ("XDG_DATA_HOME", "x"), ("HOME", "/h")]).as_deref(),
            Some("/h/.local/share/taskrun")
        );
        assert_eq!(home(&[("HOME", "")]), None);
    }

    #[test]
    fn a_relative_home_becomes_absolute() {
        let expected = std::env::current_dir().unwrap().join("some/where");
        assert_eq!(home(&[("TASKRUN_HOME", "some/where")]).as_deref(), expected.to_str());
    }

    #[test]
    fn a_new_home_is_its_owners_alone() {
        let temp = tempfile::tempdir().unwrap();
        let home = temp.path().join("a/b");
        create(&home).unwrap();
        create(&home).unwrap();
        assert_eq!(home.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
