//! The benchmarks, one module each: which contenders there are, what a turn of each does, which figures are compared.

mod boot;
mod idle;
mod instructions;
mod io;
mod ledger;
mod mount;
mod pull;
mod restore;
mod share;
mod start;
mod starts;
mod teardown;
mod unpack;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::report::Benchmark;
use crate::taskrun::Taskrun;
use crate::vmms::GuestArgs;

/// The smallest guest that every benchmark can use, with all of a processor: how long a share takes is the share's doing.
const SIZE: [&str; 4] = ["--cpu", "1", "--memory", "128"];

/// Counts of instructions repeat, and take long.
const ROUNDS_OF_INSTRUCTIONS: u32 = 5;

/// The benchmarks by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// An image of about 100 MB made a file system: taskrun's microVM beside umoci on the host
    Unpack,
    /// The same image from a registry on loopback: taskrun beside skopeo
    Pull,
    /// From the guest's start to its mounted root, for a small and a large image
    Mount,
    /// Ten tasks of one image at once: who holds its pages
    Share,
    /// A whole task: from a template, with an image that isn't unpacked yet, with a boot; beside a container
    Start,
    /// Tasks per second, one after the other and many at once; beside containers
    Starts,
    /// The memory of tasks that wait: VMM and guest
    Idle,
    /// Reads of the image, a scratch disk, and the streams of a task; beside the host
    Io,
    /// Changes of the ledger per second by 16 processes, beside a plain SQLite table
    Ledger,
    /// From the command's exit to the end of taskrun's process
    Teardown,
    /// From a VMM's process to its guest's first program, with a boot: taskrun beside QEMU's microvm and others
    Boot,
    /// From a VMM's process to a restored guest that runs: taskrun beside Firecracker and others
    Restore,
    /// Instructions of the guest's kernel in a boot and in a task, where the host emulates them
    Instructions,
}

/// What a benchmark is given.
#[derive(Debug)]
pub struct Bench {
    pub taskrun: Taskrun,
    /// The folder of images, OCI layouts.
    pub images: PathBuf,
    /// Where everything is kept that a run makes.
    pub work: PathBuf,
    /// The program that is in the image of `io`, for the host.
    pub meter: PathBuf,
    pub quick: bool,
    /// Whether time is an instruction count: it repeats, and is slow to measure.
    pub icount: bool,
    /// What guests boot, and other VMMs.
    pub guests: GuestArgs,
}

impl Name {
    /// As on the command line.
    pub fn as_str(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The images that it uses: names in the folder of images.
    pub fn images(self, quick: bool) -> Vec<&'static str> {
        match self {
            Self::Unpack => vec![unpack::IMAGE],
            Self::Pull => vec![pull::IMAGE],
            Self::Mount => vec![mount::SMALL, mount::large(quick)],
            Self::Share => vec![share::IMAGE],
            Self::Start => vec![start::IMAGE],
            Self::Starts => vec![starts::IMAGE],
            Self::Idle => vec![idle::IMAGE],
            Self::Io => vec![io::image(quick)],
            Self::Ledger => vec![],
            Self::Teardown => vec![teardown::IMAGE],
            Self::Boot | Self::Restore => Vec::new(),
            Self::Instructions => vec![instructions::IMAGE],
        }
    }

    /// Why it can't be measured where time is an instruction count; `None` when it can.
    pub fn without_icount(self) -> Option<&'static str> {
        match self {
            Self::Starts => Some("there is one processor, so nothing happens at once"),
            Self::Share | Self::Idle => Some("it measures memory, which is the same in the lab without it"),
            Self::Ledger => Some("the disk, for which writers wait, takes no instructions"),
            Self::Instructions => Some("all times are such counts there"),
            _ => None,
        }
    }

    /// Measures.
    pub fn run(self, bench: &Bench) -> Result<Benchmark> {
        match self {
            Self::Unpack => unpack::run(bench),
            Self::Pull => pull::run(bench),
            Self::Mount => mount::run(bench),
            Self::Share => share::run(bench),
            Self::Start => start::run(bench),
            Self::Starts => starts::run(bench),
            Self::Idle => idle::run(bench),
            Self::Io => io::run(bench),
            Self::Ledger => ledger::run(bench),
            Self::Teardown => teardown::run(bench),
            Self::Boot => boot::run(bench),
            Self::Restore => restore::run(bench),
            Self::Instructions => instructions::run(bench),
        }
    }
}

impl Bench {
    /// The reference of one of the images. Reads it once, so that no contender pays for the disk.
    fn image(&self, name: &str) -> Result<String> {
        let folder = self.images.join(name);
        read_all(&folder.join("blobs/sha256")).with_context(|| format!("The image {name} can't be read"))?;
        Ok(format!("oci:{}:latest", folder.display()))
    }

    /// A new folder, gone when the turn is over.
    fn folder(&self) -> Result<TempDir> {
        tempfile::tempdir_in(&self.work).context("A folder can't be made")
    }

    fn rounds(&self, full: u32, quick: u32) -> u32 {
        match (self.quick, self.icount) {
            (true, _) => quick,
            (false, true) => full.min(ROUNDS_OF_INSTRUCTIONS),
            (false, false) => full,
        }
    }
}

/// The only root file system in the store of a state directory.
fn rootfs(home: &Path) -> Result<PathBuf> {
    let folder = home.join("images/rootfs");
    let entries = fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let found = paths.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "erofs"));
    found.with_context(|| format!("{} has no root file system", folder.display()))
}

fn read_all(folder: &Path) -> std::io::Result<()> {
    fs::read_dir(folder)?.try_for_each(|entry| read(&entry?.path()))
}

/// Reads a file once, so that it is in the page cache.
fn read(path: &Path) -> std::io::Result<()> {
    std::io::copy(&mut fs::File::open(path)?, &mut std::io::sink()).map(drop)
}
