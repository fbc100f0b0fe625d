//! From what the user typed to what to run: the steps that need the caller's environment, files and terminal.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::args::RunArgs;
use super::environment::{self, EnvironmentError};
use super::image_args::{PullArgs, RegistryArgs};
use crate::events::lines::{self, LinesError};
use crate::image::{ImageRequest, PullPolicy};
use crate::run::etc::{Network, RESOLV_CONF};
use crate::run::request::RunRequest;
use crate::size::{self, SizeError};
use crate::task::log::Limits;

/// The variable that names a guest kernel where `--kernel` does not.
const KERNEL_VARIABLE: &str = "TASKRUN_KERNEL";

/// Why a command line that clap accepted makes no task.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Fargate has no such size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The image's name is wrong.
    #[error(transparent)]
    Reference(#[from] images::reference::ReferenceError),
    /// The image's name is not text.
    #[error("The image reference {0:?} is not UTF-8")]
    ReferenceBytes(OsString),
    /// A variable is wrong.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The working directory is relative.
    #[error("The working directory {0:?} must be an absolute path")]
    RelativeWorkdir(OsString),
    /// Events can't be written there.
    #[error(transparent)]
    Events(#[from] LinesError),
    /// `-it` without a terminal.
    #[error("The input device is not a TTY: leave out -t to pipe into a task")]
    NotATerminal,
}

/// What the caller's process has.
#[derive(Debug)]
pub struct Caller<F> {
    /// Looks up an environment variable.
    pub variable: F,
    /// Whether standard input is a terminal.
    pub stdin_is_terminal: bool,
}

/// The real caller.
#[must_use]
pub fn caller() -> Caller<impl Fn(&OsStr) -> Option<OsString>> {
    Caller { variable: |name: &OsStr| std::env::var_os(name), stdin_is_terminal: std::io::stdin().is_terminal() }
}

/// The guest kernel that `--kernel` or else the environment names.
pub fn kernel(option: Option<PathBuf>, variable: environment::Lookup<'_>) -> Option<PathBuf> {
    option.or_else(|| variable(OsStr::new(KERNEL_VARIABLE)).filter(|value| !value.is_empty()).map(PathBuf::from))
}

/// Resolves the options of `taskrun run`.
///
/// # Errors
/// [`ResolveError`], the first one.
pub fn run<F>(args: RunArgs, caller: &Caller<F>) -> Result<RunRequest, ResolveError>
where
    F: Fn(&OsStr) -> Option<OsString>,
{
    if args.tty && args.interactive && !caller.stdin_is_terminal {
        return Err(ResolveError::NotATerminal);
    }
    if args.strict_sizes {
        size::strict(args.cpu, args.memory)?;
    }
    if let Some(workdir) = args.workdir.as_ref().filter(|workdir| !workdir.as_bytes().starts_with(b"/")) {
        return Err(ResolveError::RelativeWorkdir(workdir.clone()));
    }
    args.events.map(lines::check).transpose()?;
    let mut words = args.image_and_command.into_iter();
    let image = words.next().unwrap_or_default();
    let image = images::Reference::parse(image.to_str().ok_or_else(|| ResolveError::ReferenceBytes(image.clone()))?)?;
    let kernel = kernel(args.kernel, &caller.variable);
    Ok(RunRequest {
        image: ImageRequest {
            policy: args.pull,
            kernel,
            console: args.console,
            cold: args.cold,
            ..image_request(image, args.registry)
        },
        arguments: words.collect(),
        entrypoint: args.entrypoint,
        env: environment::collect(&args.env_file, &args.env, &caller.variable)?,
        workdir: args.workdir,
        user: args.user,
        hostname: args.hostname,
        stdin: args.interactive,
        terminal: args.tty,
        cpu: args.cpu,
        memory: args.memory,
        timeout: args.timeout,
        stop_timeout: args.stop_timeout,
        network: Network {
            hosts: args.add_host,
            name_servers: args.dns,
            // A host without the file has no name servers.
            resolv_conf: std::fs::read_to_string(RESOLV_CONF).unwrap_or_default(),
        },
        read_only: args.read_only,
        tmpfs: args.tmpfs,
        disk: args.disk,
        transport: args.image_device,
        timings: args.timings,
        events: args.events,
        name: args.name,
        labels: args.label.into_iter().collect(),
        detach: args.detach,
        remove: args.rm,
        log: args.log_opt.into_iter().fold(Limits::default(), |limits, change| change.apply(limits)),
    })
}

/// Resolves the options of `taskrun pull`.
///
/// # Errors
/// [`ResolveError::Reference`].
pub fn pull(args: PullArgs, variable: environment::Lookup<'_>) -> Result<ImageRequest, ResolveError> {
    let image = images::Reference::parse(&args.image)?;
    let kernel = kernel(args.kernel, variable);
    Ok(ImageRequest { policy: PullPolicy::Always, kernel, cold: args.cold, ..image_request(image, args.registry) })
}

fn image_request(image: images::Reference, args: RegistryArgs) -> ImageRequest {
    let RegistryArgs { platform, creds, quiet } = args;
    ImageRequest { platform, login: creds, quiet, ..ImageRequest::new(image) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Command;

    fn resolve(words: &[&str], stdin_is_terminal: bool) -> Result<RunRequest, ResolveError> {
        let words = ["taskrun", "run"].iter().chain(words).map(OsString::from);
        let Ok(Command::Run(args)) = crate::cli::parse(words) else { panic!("not a run") };
        let variable = |name: &OsStr| (name == KERNEL_VARIABLE).then(|| "/boot/guest".into());
        run(*args, &Caller { variable, stdin_is_terminal })
    }

    #[test]
    fn the_first_word_is_the_image_and_the_rest_its_arguments() {
        let request = resolve(&["oci:/images/x", "ls", "-l"], false).unwrap();
        assert_eq!(request.arguments, ["ls", "-l"]);
    }

    #[test]
    fn an_option_goes_before_the_environment() {
        assert_eq!(resolve(&["oci:x"], false).unwrap().image.kernel, Some("/boot/guest".into()));
        assert_eq!(resolve(&["--kernel", "/k", "oci:x"], false).unwrap().image.kernel, Some("/k".into()));
        assert_eq!(kernel(None, &|_: &OsStr| Some(OsString::new())), None);
    }

    #[test]
    fn a_terminal_needs_a_terminal_when_it_is_typed_into() {
        assert!(matches!(resolve(&["-it", "oci:x"], false), Err(ResolveError::NotATerminal)));
        assert!(resolve(&["-t", "oci:x"], false).is_ok());
        assert!(resolve(&["-it", "oci:x"], true).is_ok());
    }

    #[test]
    fn strict_sizes_are_checked_only_when_asked_for() {
        assert!(resolve(&["--cpu", "256", "--memory", "3GB", "oci:x"], false).is_ok());
        let strict = |memory| resolve(&["--strict-sizes", "--cpu", "256", "--memory", memory, "oci:x"], false);
        assert!(strict("2GB").is_ok());
        assert!(matches!(strict("3GB"), Err(ResolveError::Size(_))));
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        assert!(matches!(resolve(&["-w", "src", "oci:x"], false), Err(ResolveError::RelativeWorkdir(_))));
        assert_eq!(resolve(&["-w", "/src", "oci:x"], false).unwrap().workdir, Some("/src".into()));
    }
}
