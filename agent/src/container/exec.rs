//! Finding and executing the command.
//!
//! As `execvp` does it: a name with a slash is a path; another is tried in each directory of `PATH`, where a file that may
//! not be executed is passed over and remembered. Trying is executing, which costs one system call for each directory and
//! asks the kernel itself for the rights of the user that the process already is.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};
use protocol::message::FailureKind;

use crate::failure::{Kind, quoted};

/// Where a command is looked up when its environment has no `PATH`: Docker's default.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// An argument or variable that Linux cannot pass.
    #[error("There is a NUL byte in {0}, an argument or environment variable of the command")]
    Nul(String),
    /// No such name in `PATH`.
    #[error("The command {command} was not found in the image's PATH {path}")]
    NotInPath {
        /// The quoted name.
        command: String,
        /// The quoted variable.
        path: String,
    },
    /// No such file.
    #[error("The command {0} was not found in the image: no such file or directory")]
    NotThere(String),
    /// The file is there, what it needs is not.
    #[error(
        "The command {0} is in the image, but the interpreter that its #! line or its ELF header names was not found \
         there"
    )]
    NoInterpreter(String),
    /// Neither a program for this machine nor a script.
    #[error(
        "The command {0} can't be executed: exec format error (a program must be made for Linux on x86-64, a script must \
         start with #!)"
    )]
    Format(String),
    /// Anything else, mostly permissions.
    #[error("The command {command} can't be executed")]
    Refused {
        /// The quoted path.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Kind for ExecError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Nul(_) => FailureKind::Settings,
            Self::NotInPath { .. } | Self::NotThere(_) | Self::NoInterpreter(_) => FailureKind::NotFound,
            Self::Format(_) | Self::Refused { .. } => FailureKind::NotExecutable,
        }
    }
}

/// A command ready to be executed.
#[derive(Debug)]
pub struct Command {
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Command {
    /// Prepares `arguments` (the first is the command) and `environment`.
    ///
    /// # Errors
    /// [`ExecError::Nul`]
    pub fn new(arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> Result<Self, ExecError> {
        Ok(Self { arguments: strings(arguments)?, environment: strings(environment)? })
    }

    /// Adds `HOME` where the environment has none.
    pub fn set_default_home(&mut self, home: &[u8]) {
        if self.variable(b"HOME=").is_none() {
            // A home directory is a field of a line of text: a NUL byte in it would be the image's mistake.
            self.environment.extend(CString::new([b"HOME=", home].concat()));
        }
    }

    /// Executes the command in this process.
    ///
    /// # Errors
    /// All of [`ExecError`] but `Nul`.
    pub fn execute(&self) -> Result<Infallible, ExecError> {
        let name = self.arguments.first().map(|name| name.to_bytes()).unwrap_or_default();
        if name.is_empty() || name.contains(&b'/') {
            return Err(self.execute_path(name));
        }
        let path = self.variable(b"PATH=").unwrap_or(DEFAULT_PATH);
        Err(self.search(name, path))
    }

    fn execute_path(&self, name: &[u8]) -> ExecError {
        match CString::new(name) {
            Ok(file) => failed(&file, self.try_execute(&file)),
            Err(_) => ExecError::Nul(quoted(name)),
        }
    }

    /// Tries `name` in the directories of `path`; returns the error that says most.
    fn search(&self, name: &[u8], path: &[u8]) -> ExecError {
        let mut refused = None;
        for file in candidates(name, path) {
            match self.try_execute(&file) {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG => {}
                Errno::EACCES => refused = refused.or_else(|| Some(failed(&file, Errno::EACCES))),
                error => return failed(&file, error),
            }
        }
        refused.unwrap_or_else(|| {
            let present = candidates(name, path).find(|file| access(file.as_c_str(), AccessFlags::F_OK).is_ok());
            present.map_or_else(
                || ExecError::NotInPath { command: quoted(name), path: quoted(path) },
                |file| ExecError::NoInterpreter(quoted(file.to_bytes())),
            )
        })
    }

    fn try_execute(&self, file: &CStr) -> Errno {
        let Err(error) = execve(file, &self.arguments, &self.environment);
        error
    }

    /// The value of the first variable that starts with `prefix` (its name and `=`).
    fn variable(&self, prefix: &[u8]) -> Option<&[u8]> {
        self.environment.iter().find_map(|variable| variable.to_bytes().strip_prefix(prefix))
    }
}

/// `name` in each directory of `path`; an empty directory is the current one, as POSIX has it.
fn candidates(name: &[u8], path: &[u8]) -> impl Iterator<Item = CString> {
    path.split(|byte| *byte == b':').filter_map(move |directory| {
        let separator: &[u8] = if directory.is_empty() { b"./" } else { b"/" };
        CString::new([directory, separator, name].concat()).ok()
    })
}

/// What the `error` of an `execve` of `file` means.
fn failed(file: &CStr, error: Errno) -> ExecError {
    let command = quoted(file.to_bytes());
    match error {
        Errno::ENOENT if !file.is_empty() && access(file, AccessFlags::F_OK).is_ok() => {
            ExecError::NoInterpreter(command)
        }
        Errno::ENOENT | Errno::ENOTDIR => ExecError::NotThere(command),
        Errno::ENOEXEC => ExecError::Format(command),
        Errno::EACCES if is_directory(file) => {
            ExecError::Refused { command, source: std::io::Error::from_raw_os_error(libc::EISDIR) }
        }
        error => ExecError::Refused { command, source: error.into() },
    }
}

fn is_directory(file: &CStr) -> bool {
    std::path::Path::new(std::ffi::OsStr::from_bytes(file.to_bytes())).is_dir()
}

fn strings(bytes: &[Vec<u8>]) -> Result<Vec<CString>, ExecError> {
    bytes.iter().map(|one| CString::new(one.as_slice()).map_err(|_| ExecError::Nul(quoted(one)))).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn command(argv0: &str, path: &Path) -> Command {
        Command::new(&[argv0.into()], &[format!("PATH={}", path.display()).into_bytes()]).unwrap()
    }

    fn error(command: &Command) -> (FailureKind, String) {
        let Err(error) = command.execute();
        (error.kind(), crate::failure::sentence(&error))
    }

    /// A directory with files that are executable by mode and not by content, and one that isn't executable at all.
    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8], mode| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("plain", b"text\n", 0o644);
        write("no-header", b"echo hello\n", 0o755);
        write("no-interpreter", b"#!/nowhere/sh\n", 0o755);
        write("arm", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0", 0o755);
        fs::create_dir(directory.path().join("folder")).unwrap();
        directory
    }

    #[test]
    fn errors_by_path_have_the_kinds_that_docker_gives() {
        let directory = directory();
        let kind = |name: &str| {
            let path = directory.path().join(name);
            error(&command(path.to_str().unwrap(), directory.path()))
        };
        assert_eq!(kind("missing").0, FailureKind::NotFound);
        assert_eq!(kind("plain/x").0, FailureKind::NotFound);
        assert_eq!(kind("plain").0, FailureKind::NotExecutable);
        assert!(kind("plain").1.contains("Permission denied"));
        assert!(kind("folder").1.contains("Is a directory"));
        assert_eq!(kind("folder").0, FailureKind::NotExecutable);
        assert!(kind("no-header").1.contains("exec format error"));
        assert!(kind("arm").1.contains("exec format error"));
        assert_eq!(kind("no-interpreter").0, FailureKind::NotFound);
        assert!(kind("no-interpreter").1.contains("interpreter"));
    }

    #[test]
    fn errors_by_name_say_what_path_had() {
        let directory = directory();
        let kind = |name: &str| error(&command(name, directory.path()));
        assert_eq!(kind("missing").0, FailureKind::NotFound);
        assert!(kind("missing").1.starts_with("The command \"missing\" was not found in the image's PATH "));
        assert_eq!(kind("plain").0, FailureKind::NotExecutable);
        assert!(kind("no-interpreter").1.contains("interpreter"));
        assert!(kind("no-header").1.contains("exec format error"));
        assert_eq!(kind("").0, FailureKind::NotFound);
    }

    #[test]
    fn an_empty_entry_of_path_is_the_current_directory() {
        let found: Vec<_> = candidates(b"x", b"/bin::/usr/bin/").map(|file| file.into_bytes()).collect();
        assert_eq!(found, [b"/bin/x".to_vec(), b"./x".to_vec(), b"/usr/bin//x".to_vec()]);
    }

    #[test]
    fn home_is_added_only_where_it_is_absent() {
        let mut bare = command("x", Path::new("/bin"));
        bare.set_default_home(b"/root");
        assert_eq!(bare.variable(b"HOME="), Some(&b"/root"[..]));
        bare.set_default_home(b"/other");
        assert_eq!(bare.environment.len(), 2);
    }

    #[test]
    fn a_nul_byte_in_an_argument_is_a_setting_that_is_wrong() {
        let error = Command::new(&[b"a\0b".to_vec()], &[]).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Settings);
    }
}
