//! Measures taskrun beside the tools that do the same work. `scripts/bench` makes everything that this needs.
//!
//! Figures of shared machines drift, so contenders take turns and their ratios count ([`harness`], [`stats`]). No time is
//! ever a failure here; a contender that doesn't do its work is.

mod against;
mod benchmarks;
mod command;
mod crun;
mod harness;
mod host;
mod instructions;
mod memory;
mod plot;
mod random;
mod registry;
mod report;
mod stats;
mod task;
mod taskrun;
mod vmms;
mod writers;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::against::Run;
use crate::benchmarks::{Bench, Name};
use crate::host::Host;
use crate::random::Random;
use crate::report::Report;
use crate::taskrun::Taskrun;
use crate::vmms::GuestArgs;
use crate::writers::Kind;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures taskrun beside the tools that do the same work")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run benchmarks, write report.json and report.md, and print the latter
    Run(Box<RunArgs>),
    /// Print the names of the images that benchmarks use
    Images(Selection),
    /// Compare the reports in two folders, without measuring anything
    Compare {
        /// The earlier run's
        before: PathBuf,
        /// The later run's
        now: PathBuf,
    },
    /// Write to a ledger, or to a plain table, for the benchmark `ledger`
    #[command(hide = true)]
    Writer {
        /// To what
        kind: Kind,
        /// Where it is
        folder: PathBuf,
        /// How many tasks
        tasks: u32,
    },
    /// Print bytes that can't be compressed, the same for the same seed
    Random {
        /// How many
        bytes: u64,
        /// Which
        seed: u64,
    },
}

#[derive(Debug, Args)]
struct Selection {
    /// The benchmarks; all when none is named
    names: Vec<Name>,
    /// Few rounds, and smaller images
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    selection: Selection,
    /// The taskrun to measure
    #[arg(long)]
    taskrun: PathBuf,
    /// The folder of images
    #[arg(long)]
    images: PathBuf,
    /// Where the reports go
    #[arg(long)]
    out: PathBuf,
    /// The static program that `io` measures with
    #[arg(long)]
    meter: PathBuf,
    /// A further program that takes part, whose version the report names
    #[arg(long, value_name = "PROGRAM")]
    tool: Vec<PathBuf>,
    /// Compare with the report in this folder
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Say that time is an instruction count here, and leave out what can't be measured so
    #[arg(long)]
    icount: bool,
    /// Where stores and unpacked images are kept while it runs: on a disk, as a user's are
    #[arg(long, default_value = "/var/tmp")]
    work: PathBuf,
    /// The name of the machine
    #[arg(long, default_value = "")]
    host: String,
    /// What kind of host it is
    #[arg(long, default_value = "this host")]
    place: String,
    /// The commit that taskrun was built from
    #[arg(long, default_value = "unknown")]
    commit: String,
    #[command(flatten)]
    guests: GuestArgs,
}

impl Selection {
    fn names(&self) -> &[Name] {
        if self.names.is_empty() { Name::value_variants() } else { &self.names }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => measure(&args),
        Command::Images(selection) => {
            let mut images: Vec<_> = selection.names().iter().flat_map(|name| name.images(selection.quick)).collect();
            images.sort_unstable();
            images.dedup();
            writeln!(io::stdout(), "{}", images.join("\n")).context("The names can't be written")
        }
        Command::Compare { before, now } => {
            let (before, now) = (Run::read(&before)?, Run::read(&now)?);
            write!(io::stdout(), "{}", now.against(&before)?).context("The comparison can't be written")
        }
        Command::Writer { kind, folder, tasks } => writers::write(kind, &folder, tasks),
        Command::Random { bytes, seed } => {
            Random::new(seed).write(bytes, &mut io::stdout().lock()).context("The bytes can't be written")
        }
    }
}

fn measure(args: &RunArgs) -> Result<()> {
    let quick = args.selection.quick;
    let host = Host { name: args.host.clone(), ..Host::look(&args.taskrun, &args.place, &args.commit, &args.tool)? };
    let mut report = Report::new(host, quick, args.icount);
    let before = args.against.as_deref().map(Run::read).transpose()?;
    if let Some(before) = &before {
        // Now, not after an hour.
        Run::of(&report)?.against(before)?;
    }
    let work = tempfile::Builder::new().prefix("taskrun-bench.").tempdir_in(&args.work);
    let work = work.with_context(|| format!("A folder in {} can't be made", args.work.display()))?;
    let bench = Bench {
        taskrun: Taskrun::new(args.taskrun.clone(), work.path().join("templates")),
        images: args.images.clone(),
        work: work.path().to_owned(),
        meter: args.meter.clone(),
        quick,
        icount: args.icount,
        guests: args.guests.clone(),
    };
    for name in args.selection.names() {
        if let Some(reason) = name.without_icount().filter(|_| args.icount) {
            let sentence = format!("`{}` is left out with --icount: {reason}.", name.as_str());
            eprintln!("bench: {sentence}");
            report.skip(sentence);
            continue;
        }
        report.add(name.run(&bench).with_context(|| format!("The benchmark {} failed", name.as_str()))?, &args.out)?;
    }
    let comparison = before.map(|before| Run::of(&report)?.against(&before)).transpose()?;
    report.finish(comparison.unwrap_or_default(), &args.out)?;
    write!(io::stdout(), "{}", report.markdown()).context("The report can't be written")
}
