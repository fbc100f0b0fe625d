//! Measures taskrun beside the tools that do the same work. `scripts/bench` makes everything that this needs.
//!
//! Figures of shared machines drift, so contenders take turns and their ratios count ([`harness`], [`stats`]). No time is
//! ever a failure here; a contender that doesn't do its work is.

mod benchmarks;
mod command;
mod harness;
mod host;
mod memory;
mod random;
mod registry;
mod report;
mod stats;
mod taskrun;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::benchmarks::{Bench, Name};
use crate::host::Host;
use crate::random::Random;
use crate::report::Report;
use crate::taskrun::Taskrun;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures taskrun beside the tools that do the same work")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run benchmarks, write report.json and report.md, and print the latter
    Run(RunArgs),
    /// Print the names of the images that benchmarks use
    Images(Selection),
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
    /// Where stores and unpacked images are kept while it runs: on a disk, as a user's are
    #[arg(long, default_value = "/var/tmp")]
    work: PathBuf,
    /// What to call this host
    #[arg(long, default_value = "this host")]
    place: String,
    /// The commit that taskrun was built from
    #[arg(long, default_value = "unknown")]
    commit: String,
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
        Command::Random { bytes, seed } => {
            Random::new(seed).write(bytes, &mut io::stdout().lock()).context("The bytes can't be written")
        }
    }
}

fn measure(args: &RunArgs) -> Result<()> {
    let work = tempfile::Builder::new().prefix("taskrun-bench.").tempdir_in(&args.work);
    let work = work.with_context(|| format!("A folder in {} can't be made", args.work.display()))?;
    let bench = Bench {
        taskrun: Taskrun::new(args.taskrun.clone(), work.path().join("templates")),
        images: args.images.clone(),
        work: work.path().to_owned(),
        quick: args.selection.quick,
    };
    let mut report = Report::new(Host::look(&args.taskrun, &args.place, &args.commit)?, bench.quick);
    for name in args.selection.names() {
        report.add(name.run(&bench).with_context(|| format!("The benchmark {name:?} failed"))?, &args.out)?;
    }
    write!(io::stdout(), "{}", report.markdown()).context("The report can't be written")
}
