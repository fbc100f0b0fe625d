//! What the user typed, as clap reads it. Values are checked one by one here; what they mean together is
//! [`super::resolve`]'s.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use protocol::spec::TmpfsMount;

use super::image_args::{ImageCommand, PullArgs, RegistryArgs};
use super::mounts;
use super::task_args::{self, InspectArgs, KillArgs, LogOption, LogsArgs, PsArgs, RmArgs, StopArgs, WaitArgs};
use super::template_args::TemplateCommand;
use super::usage_args::{MetricsArgs, UsageArgs};
use crate::bytes::DiskSize;
use crate::image::{PullPolicy, Transport};
use crate::size::{Cpu, Memory};

/// Runs an OCI image as a task in a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "taskrun", version, about, long_about = None)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(disable_help_subcommand = false, max_term_width = 120, after_help = EXAMPLES)]
#[command(override_usage = "taskrun run [OPTIONS] IMAGE [COMMAND [ARG]...]\n       \
                            taskrun [OPTIONS] IMAGE [COMMAND [ARG]...]\n       \
                            taskrun ps | inspect | logs | wait | stop | kill | rm\n       \
                            taskrun pull | image | template | usage | metrics | doctor")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a new task
    Run(Box<RunArgs>),
    /// Download an image and unpack it, so that its tasks start at once
    Pull(PullArgs),
    /// Look after the images in the store
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look after the templates that tasks start from
    #[command(subcommand)]
    Template(TemplateCommand),
    /// List tasks
    Ps(PsArgs),
    /// Print everything that is known of tasks
    Inspect(InspectArgs),
    /// Print what a detached task has written
    Logs(LogsArgs),
    /// Wait until tasks have ended, and print their exit codes
    Wait(WaitArgs),
    /// Ask tasks to stop, and kill those that don't
    Stop(StopArgs),
    /// Send a signal to tasks
    Kill(KillArgs),
    /// Remove tasks that have ended; their usage stays
    Rm(RmArgs),
    /// Print what the tasks of this user have used
    Usage(UsageArgs),
    /// Print the ledger for Prometheus
    Metrics(MetricsArgs),
    /// Say what this host can do, line by line, with a remedy for what it can't
    Doctor(DoctorArgs),
}

const EXAMPLES: &str = "Examples:
  taskrun run docker.io/library/python:3.13 python3 -c 'print(2**64)'
  taskrun -it oci-archive:debian.tar bash
  taskrun --cpu 2 --memory 4GB docker-archive:build.tar make -j2
  tar c src | taskrun run -i oci:./tools sh -c 'tar x && ./check'

An image is [docker://]NAME[:TAG][@DIGEST] in a registry, oci:DIR[:TAG], oci-archive:FILE or docker-archive:FILE. What
follows it is the command's.

Exit codes:
  the command's own; 128+n when signal n ended it
  125  taskrun itself failed
  126  the command can't be executed
  127  the command was not found";

/// The options of `taskrun run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, override_usage = "taskrun run [OPTIONS] IMAGE [COMMAND [ARG]...]")]
pub struct RunArgs {
    /// The image, and the command with its arguments instead of the image's own
    #[arg(value_name = "IMAGE [COMMAND [ARG]...]", required = true, num_args = 1.., trailing_var_arg = true)]
    pub image_and_command: Vec<OsString>,

    /// When to pull the image
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = "Image")]
    pub pull: PullPolicy,
    /// What pulling it needs to know.
    #[command(flatten)]
    pub registry: RegistryArgs,

    /// Set an environment variable; NAME alone takes the caller's value
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Process")]
    pub env: Vec<OsString>,
    /// Read environment variables from a file, one NAME[=VALUE] a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Process")]
    pub env_file: Vec<PathBuf>,
    /// The working directory in the task
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub workdir: Option<OsString>,
    /// The user, and the group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Process")]
    pub user: Option<String>,
    /// The program instead of the image's ENTRYPOINT; an empty one takes it away
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub entrypoint: Option<OsString>,
    /// The task's hostname [default: the start of the task's id]
    #[arg(long, value_name = "NAME", value_parser = hostname, help_heading = "Process")]
    pub hostname: Option<String>,

    /// Add a name to /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = mounts::host, help_heading = "Process")]
    pub add_host: Vec<(String, IpAddr)>,
    /// A name server for /etc/resolv.conf, instead of the host's
    #[arg(long, value_name = "ADDRESS", help_heading = "Process")]
    pub dns: Vec<IpAddr>,

    /// Mount the root file system read-only
    #[arg(long, help_heading = "Files")]
    pub read_only: bool,
    /// Mount an empty file system in memory; the options are docker's (size=64m, mode=1770, exec, …) or a size
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = mounts::tmpfs, help_heading = "Files")]
    pub tmpfs: Vec<TmpfsMount>,
    /// Keep what the task writes on a scratch disk of this size, and not in its memory
    #[arg(long, value_name = "SIZE", help_heading = "Files")]
    pub disk: Option<DiskSize>,

    /// Pass standard input to the command
    #[arg(short, long, help_heading = "Streams")]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long, help_heading = "Streams")]
    pub tty: bool,

    /// vCPUs (0.25 to 16), or cpu units (256 to 16384)
    #[arg(long, value_name = "VCPUS", default_value = "0.25", allow_negative_numbers = true, help_heading = "Size")]
    pub cpu: Cpu,
    /// Memory of the microVM in MiB, or with a unit: 512, 1GB
    #[arg(long, value_name = "SIZE", default_value = "512", allow_negative_numbers = true, help_heading = "Size")]
    pub memory: Memory,
    /// Only take sizes that AWS Fargate has
    #[arg(long, help_heading = "Size")]
    pub strict_sizes: bool,

    /// Run the task in the background and print its id
    #[arg(short, long, conflicts_with = "interactive", help_heading = "Life")]
    pub detach: bool,
    /// A name for the task, by which other commands find it
    #[arg(long, value_name = "NAME", value_parser = task_args::name, help_heading = "Life")]
    pub name: Option<String>,
    /// A label, by which lists and usage can be filtered
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = task_args::label, help_heading = "Life")]
    pub label: Vec<(String, String)>,
    /// Keep nothing but the usage of the task when it has ended
    #[arg(long, help_heading = "Life")]
    pub rm: bool,
    /// How much of a detached task's output is kept: max-size=SIZE of a file (10m), max-file=COUNT of them (5)
    #[arg(long, value_name = "KEY=VALUE", value_parser = task_args::log_option, help_heading = "Life")]
    pub log_opt: Vec<LogOption>,
    /// Stop the task when its command has run this long (90s, 5m, 1h30m; a plain number is seconds)
    #[arg(long, value_name = "DURATION", value_parser = timeout, help_heading = "Life")]
    pub timeout: Option<Duration>,
    /// How long a task that was asked to stop may take before it is killed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, help_heading = "Life")]
    pub stop_timeout: Duration,

    /// Boot this guest kernel, an uncompressed vmlinux [env: TASKRUN_KERNEL]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Machine")]
    pub kernel: Option<PathBuf>,
    /// Write the guest kernel's log to standard error; the guest boots then
    #[arg(long, help_heading = "Machine")]
    pub console: bool,
    /// Boot the guest instead of starting it from a template
    #[arg(long, help_heading = "Machine")]
    pub cold: bool,
    /// How the image reaches the guest: pmem is shared by all tasks of the image
    #[arg(long, value_name = "DEVICE", value_enum, default_value_t, help_heading = "Machine")]
    pub image_device: Transport,
    /// Write what happens to the task to this open descriptor, as lines of JSON (docs/events.md)
    #[arg(long, value_name = "FD", help_heading = "Machine")]
    pub events: Option<i32>,
    /// Write when each phase of the task was reached to a JSON file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Machine")]
    pub timings: Option<PathBuf>,
}

/// The options of `taskrun doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Look at this guest kernel [env: TASKRUN_KERNEL]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,
}

/// Reads a duration as `humantime` writes it, or a plain number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Duration::from_secs).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|_| "Write a duration, such as 90s, 5m or 1h30m".to_owned())
}

/// As [`duration`], but not 0.
fn timeout(text: &str) -> Result<Duration, String> {
    duration(text)
        .and_then(|duration| if duration.is_zero() { Err("Write more than 0".to_owned()) } else { Ok(duration) })
}

/// A hostname as Linux allows it and others can read it: 1 to 64 letters, digits, hyphens and points.
fn hostname(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("A hostname has 1 to 64 letters, digits, hyphens and points".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn run(words: &[&str]) -> RunArgs {
        let words = ["taskrun"].iter().chain(words).map(OsString::from);
        match crate::cli::parse(words).unwrap() {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_behind_the_image_are_the_commands() {
        let args = run(&["run", "-i", "oci:x", "-e", "--cpu", "2", "--", "-t", "--help"]);
        assert_eq!(args.image_and_command, ["oci:x", "-e", "--cpu", "2", "--", "-t", "--help"]);
        assert!(args.interactive && !args.tty && args.env.is_empty());
        assert_eq!(args.cpu, Cpu::DEFAULT);
    }

    #[test]
    fn the_short_form_takes_the_same_options() {
        let args = run(&["-it", "--cpu", "2", "--memory=1GB", "oci:x", "run", "-x"]);
        assert_eq!(args.image_and_command, ["oci:x", "run", "-x"]);
        assert!(args.interactive && args.tty);
        assert_eq!((args.cpu.units(), args.memory.mib()), (2048, 1024));
    }

    #[test]
    fn two_hyphens_end_the_options() {
        assert_eq!(run(&["run", "-t", "--", "oci:x", "-t"]).image_and_command, ["oci:x", "-t"]);
    }

    #[test]
    fn defaults_are_fargates_smallest_task_and_its_stop_timeout() {
        let args = run(&["oci:x"]);
        assert_eq!((args.cpu.units(), args.memory.mib()), (256, 512));
        assert_eq!(args.memory, Memory::DEFAULT);
        assert_eq!((args.timeout, args.stop_timeout), (None, Duration::from_secs(30)));
    }

    #[test]
    fn repeated_options_keep_their_order() {
        let args = run(&["-e", "A=1", "--env", "B", "-eC=3", "--env-file", "f", "--env-file=g", "oci:x"]);
        assert_eq!(args.env, ["A=1", "B", "C=3"]);
        assert_eq!(args.env_file, [PathBuf::from("f"), PathBuf::from("g")]);
    }

    #[test]
    fn arguments_that_are_not_text_pass_through() {
        let odd = OsString::from_vec(b"\xff-\xfe".to_vec());
        let words = ["taskrun".into(), "oci:x".into(), odd.clone()];
        let Command::Run(args) = crate::cli::parse(words).unwrap() else { panic!() };
        assert_eq!(args.image_and_command, ["oci:x".into(), odd]);
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("").is_err() && duration("-1").is_err() && duration("soon").is_err());
        assert!(timeout("0").is_err() && timeout("0s").is_err() && timeout("1s").is_ok());
    }

    #[test]
    fn hostnames_are_checked() {
        assert!(hostname("a-1.example").is_ok());
        for bad in ["", "a b", "a_b", "ä", &"x".repeat(65)] {
            assert!(hostname(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_follows_the_image_is_untouched(command in prop::collection::vec("\\PC{0,8}", 0..8)) {
            let words = ["taskrun", "run", "-i", "oci:x"].iter().map(OsString::from);
            let parsed = crate::cli::parse(words.chain(command.iter().map(OsString::from)));
            let Ok(Command::Run(args)) = parsed else { panic!("{parsed:?}") };
            prop_assert_eq!(&args.image_and_command[1..], command.iter().map(OsString::from).collect::<Vec<_>>());
        }

        #[test]
        fn durations_never_panic(text in "\\PC{0,24}") {
            let _ = duration(&text);
        }
    }
}
