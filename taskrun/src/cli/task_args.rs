//! The command line of the commands that look after tasks: `ps`, `inspect`, `logs`, `wait`, `stop`, `kill`, `rm`.

use clap::Args;
use jiff::Timestamp;

use crate::bytes::Bytes;
use crate::run::signals;
use crate::task::log::Limits;
use crate::usage::period::{self, NotATime};

/// The options of `taskrun ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also list tasks that have ended
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only
    #[arg(short, long, conflicts_with = "format")]
    pub quiet: bool,
    /// Only tasks with this name=…, id=…, label=KEY[=VALUE], status=…, image=… or exited=CODE; may be given again
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Only the tasks that were begun last, also those that have ended
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub last: Option<usize>,
    /// The same as --last 1
    #[arg(short, long, conflicts_with = "last")]
    pub latest: bool,
    /// table, json, or a template: '{{.ID}} {{.Status}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Print whole ids
    #[arg(long)]
    pub no_trunc: bool,
}

/// The options of `taskrun inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A template instead of JSON: '{{.ExitCode}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// The tasks, by name, id or the start of an id
    #[arg(required = true, value_name = "TASK")]
    pub tasks: Vec<String>,
}

/// The options of `taskrun logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on with what the task writes, until it ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only from this time on: 2026-11-24T08:00:00Z, 2026-11-24 (its start in UTC), seconds since 1970, or how long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Timestamp>,
    /// Only what was written before this time; a time that has passed ends --follow
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<Timestamp>,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = lines)]
    pub tail: Lines,
    /// Put the time in front of each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// The task, by name, id or the start of its id
    #[arg(value_name = "TASK")]
    pub task: String,
}

/// How many lines: all, or the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines(pub Option<usize>);

/// The options of `taskrun wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The tasks, by name, id or the start of an id
    #[arg(required = true, value_name = "TASK")]
    pub tasks: Vec<String>,
}

/// The options of `taskrun stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds until a task that doesn't stop is killed [default: its --stop-timeout]
    #[arg(short, long, value_name = "SECONDS")]
    pub time: Option<u32>,
    /// The tasks, by name, id or the start of an id
    #[arg(required = true, value_name = "TASK")]
    pub tasks: Vec<String>,
}

/// The options of `taskrun kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    pub signal: i32,
    /// The tasks, by name, id or the start of an id
    #[arg(required = true, value_name = "TASK")]
    pub tasks: Vec<String>,
}

/// The options of `taskrun rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Also tasks that run: they are killed first
    #[arg(short, long)]
    pub force: bool,
    /// The tasks, by name, id or the start of an id
    #[arg(required = true, value_name = "TASK")]
    pub tasks: Vec<String>,
}

/// One of the settings of `--log-opt`, as docker's `json-file` driver has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOption {
    /// The size of a file, in bytes.
    MaxSize(u64),
    /// How many files are kept.
    MaxFile(u32),
}

impl LogOption {
    /// These limits, with this setting.
    #[must_use]
    pub fn apply(self, limits: Limits) -> Limits {
        match self {
            Self::MaxSize(file) => Limits { file, ..limits },
            Self::MaxFile(files) => Limits { files, ..limits },
        }
    }
}

/// Reads a setting of the log.
pub(super) fn log_option(text: &str) -> Result<LogOption, String> {
    let refused = || "Write max-size=SIZE, at least 4k, or max-file=COUNT, at least 1".to_owned();
    let (key, value) = text.split_once('=').ok_or_else(refused)?;
    match key {
        "max-size" => match value.parse::<Bytes>() {
            Ok(Bytes(size)) if size >= 4096 => Ok(LogOption::MaxSize(size)),
            _ => Err(refused()),
        },
        "max-file" => value.parse().ok().filter(|count| *count > 0).map(LogOption::MaxFile).ok_or_else(refused),
        _ => Err(refused()),
    }
}

/// Reads a task's name, as docker has them.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest && text.len() <= 128 {
        Ok(text.to_owned())
    } else {
        Err("A name has up to 128 letters, digits, points, hyphens and underscores, and starts with one of the first two".to_owned())
    }
}

/// Reads a label.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() { Err("A label has a key".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

fn signal(text: &str) -> Result<i32, String> {
    signals::number(text)
        .filter(|signal| *signal > 0)
        .ok_or_else(|| "Write a signal's name or number, such as TERM, SIGHUP or 9".to_owned())
}

fn lines(text: &str) -> Result<Lines, String> {
    match text {
        "all" => Ok(Lines(None)),
        text => text.parse().map(|count| Lines(Some(count))).map_err(|_| "Write a number, or all".to_owned()),
    }
}

/// Reads a time as `usage` does.
fn time(text: &str) -> Result<Timestamp, NotATime> {
    period::time(text, Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_logs_are_checked() {
        assert!(["a", "web-1.x_y", "9"].iter().all(|text| name(text).is_ok()));
        assert!(["", "-a", "a b", "ä", &"x".repeat(129)].iter().all(|text| name(text).is_err()));
        assert_eq!(label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(label("a").unwrap(), ("a".into(), String::new()));
        assert!(label("=x").is_err());
        assert_eq!(log_option("max-file=3"), Ok(LogOption::MaxFile(3)));
        assert_eq!(log_option("max-size=1m"), Ok(LogOption::MaxSize(1 << 20)));
        assert!(["max-file=0", "max-size=1", "max-age=3", "x"].iter().all(|text| log_option(text).is_err()));
    }

    #[test]
    fn lines_are_counted_or_all() {
        assert_eq!((lines("all"), lines("3")), (Ok(Lines(None)), Ok(Lines(Some(3)))));
        assert!(lines("-1").is_err());
    }
}
