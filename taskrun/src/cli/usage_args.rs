//! The options of `taskrun usage` and `taskrun metrics`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use jiff::Timestamp;

use crate::usage::period::{self, NotATime};
use crate::usage::totals::By;
use crate::usage::{Format, Query};

/// The options of `taskrun usage`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = HELP)]
pub struct UsageArgs {
    /// What else to do with it.
    #[command(subcommand)]
    pub command: Option<UsageCommand>,
    /// Add up tasks: task (each by itself), image, day, or label:KEY
    #[arg(long, value_name = "WHAT", default_value = "task", value_parser = str::parse::<By>)]
    pub by: By,
    /// Only tasks that are billed from this time on, or from later
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Timestamp>,
    /// Only tasks that are billed from before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<Timestamp>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// What else can be done with the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum UsageCommand {
    /// Recompute every row from its events; exit with 1 and say which when some disagree
    Verify,
}

/// The options of `taskrun metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Put the metrics into this file, all at once, for node_exporter's textfile collector; its name should end with .prom
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub textfile: Option<PathBuf>,
}

const HELP: &str = "A TIME is 2026-11-24T08:00:00Z, 2026-11-24 (its start in UTC), or how long ago: 24h, 7d.
What time is billed, and the prices, are in the [billing] section of config.toml.";

impl UsageArgs {
    /// What to print.
    #[must_use]
    pub fn query(&self) -> Query {
        Query { by: self.by.clone(), since: self.since, until: self.until, format: self.format }
    }
}

fn time(text: &str) -> Result<Timestamp, NotATime> {
    period::time(text, Timestamp::now())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::args::Command;

    fn usage(words: &[&str]) -> Option<UsageArgs> {
        let words = ["taskrun", "usage"].iter().chain(words).map(OsString::from);
        match crate::cli::parse(words) {
            Ok(Command::Usage(args)) => Some(args),
            _ => None,
        }
    }

    #[test]
    fn the_options_make_a_query() {
        assert_eq!(usage(&[]).unwrap().query(), Query::default());
        let words =
            ["--by", "label:team", "--since", "2026-11-24", "--until", "2026-11-25T00:00:00Z", "--format", "csv"];
        let query = usage(&words).unwrap().query();
        assert_eq!((query.by, query.format), (By::Label("team".into()), Format::Csv));
        assert_eq!(query.since.map(|time| time.to_string()).as_deref(), Some("2026-11-24T00:00:00Z"));
        assert_eq!(query.until.map(|time| time.to_string()).as_deref(), Some("2026-11-25T00:00:00Z"));
        for wrong in [["--by", "colour"], ["--by", "label:"], ["--since", "soon"], ["--format", "xml"]] {
            assert!(usage(&wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn verifying_takes_no_options_of_printing() {
        assert_eq!(usage(&["verify"]).unwrap().command, Some(UsageCommand::Verify));
        assert!(usage(&["--format", "json", "verify"]).is_none());
    }
}
