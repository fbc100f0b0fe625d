//! The options of `taskrun template`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::image_args::Format;
use crate::size::{Cpu, Memory};

/// The subcommands of `taskrun template`.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Make the template for a size, so that even the first task of that size starts from it
    Build(BuildArgs),
    /// List the templates
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove templates; tasks that have started from them go on
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove templates that no task can start from any more
    Prune(PruneArgs),
}

/// The options of `taskrun template build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// vCPUs: 0.25 to 16
    #[arg(long, value_name = "VCPUS", default_value = "0.25", allow_negative_numbers = true)]
    pub cpu: Cpu,
    /// Memory of the microVM in MiB, or with a unit: 512, 1GB
    #[arg(long, value_name = "SIZE", default_value = "512", allow_negative_numbers = true)]
    pub memory: Memory,
    /// Boot this guest kernel [env: TASKRUN_KERNEL]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,
}

/// The options of `taskrun template ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
    /// Print only the names
    #[arg(short, long)]
    pub quiet: bool,
}

/// The options of `taskrun template rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Names, whole or their start
    #[arg(value_name = "TEMPLATE", required = true)]
    pub templates: Vec<String>,
}

/// The options of `taskrun template prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Remove all templates
    #[arg(short, long)]
    pub all: bool,
}
