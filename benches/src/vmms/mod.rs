//! MicroVMs under different VMMs: the same kernel, the same initramfs, one vCPU, [`MEMORY_MIB`] of memory.
//!
//! A guest says that it runs by a byte on its serial port ([`output`]). The VMMs get the same words for the kernel's command
//! line, which taskrun's VMM composes itself; what a VMM does to its own guests beyond that is its own.
//!
//! # Layout
//! - [`taskrun`], [`qemu`], [`firecracker`], [`cloud_hypervisor`]: one VMM each.
//! - [`process`], [`output`]: a VMM's process, and what its guest sends.
//! - [`served`]: a VMM with an API. [`api`]: requests to it.
//! - [`contenders`]: which of them there are on this host.

pub mod api;
pub mod cloud_hypervisor;
pub mod contenders;
pub mod firecracker;
pub mod output;
pub mod process;
pub mod qemu;
pub mod served;
pub mod taskrun;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use vmm::cmdline::CommandLine;
use vmm::deprivileged;

pub use self::contenders::Contenders;
pub use self::process::Guest;

/// The memory of each guest.
pub const MEMORY_MIB: u32 = 128;

/// What guests boot, and the programs of other VMMs.
#[derive(Clone, Debug, Default, Args)]
pub struct GuestArgs {
    /// The initramfs of guests whose start is measured, with bench-init in it
    #[arg(long)]
    pub initramfs: Option<PathBuf>,
    /// The System.map of taskrun's kernel
    #[arg(long)]
    pub system_map: Option<PathBuf>,
    /// A Firecracker to compare with
    #[arg(long)]
    pub firecracker: Option<PathBuf>,
    /// A Cloud Hypervisor to compare with
    #[arg(long)]
    pub cloud_hypervisor: Option<PathBuf>,
}

/// What a guest boots from.
#[derive(Clone, Debug)]
pub struct Payload {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// Someone who boots guests.
pub trait Vmm {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Starts its process and boots a guest, whose first byte says that it has come to its first program.
    fn boot(&self, payload: &Payload) -> Result<Guest>;
}

/// Someone who also saves guests, and goes on with them in another process.
pub trait Snapshots: Vmm + Sync {
    /// Boots a guest and saves it in this folder.
    fn save(&self, payload: &Payload, folder: &Path) -> Result<()>;

    /// Starts a process with the guest that was saved there.
    fn restore(&self, folder: &Path) -> Result<Restored>;
}

/// A guest that was saved and goes on.
#[derive(Debug)]
pub struct Restored {
    pub guest: Guest,
    /// From the start of the process until the VMM said that the guest runs, in milliseconds.
    pub resumed: f64,
}

/// The kernel's command line for other VMMs than taskrun's. These can't complete the instructions that a deprivileged KVM
/// lacks, so on such a host their kernels do without `XSAVE`.
fn command_line() -> Result<String> {
    let deprivileged = deprivileged::is_deprivileged();
    let extra = if deprivileged { "loglevel=0 noxsave" } else { "loglevel=0" };
    CommandLine { console: false, slots: 0, deprivileged, extra }.compose().context("There is no command line")
}

/// A path as the text that an option or a request has it in.
fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} isn't UTF-8", path.display()))
}
