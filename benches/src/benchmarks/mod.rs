//! The benchmarks, one module each: which contenders there are, what a turn of each does, which figures are compared.

mod mount;
mod pull;
mod share;
mod start;
mod unpack;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::report::Benchmark;
use crate::taskrun::Taskrun;

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
    /// A whole task, and its guest alone: from a template and with a boot; many in a row and at once; idle guests' memory
    Start,
}

/// What a benchmark is given.
#[derive(Debug)]
pub struct Bench {
    pub taskrun: Taskrun,
    /// The folder of images, OCI layouts.
    pub images: PathBuf,
    /// Where everything is kept that a run makes.
    pub work: PathBuf,
    pub quick: bool,
}

impl Name {
    /// The images that it uses: names in the folder of images.
    pub fn images(self, quick: bool) -> Vec<&'static str> {
        match self {
            Self::Unpack => vec![unpack::IMAGE],
            Self::Pull => vec![pull::IMAGE],
            Self::Mount => vec![mount::SMALL, mount::large(quick)],
            Self::Share => vec![share::IMAGE],
            Self::Start => vec![start::IMAGE],
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
        if self.quick { quick } else { full }
    }
}

fn read_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        io::copy(&mut fs::File::open(entry?.path())?, &mut io::sink())?;
    }
    Ok(())
}
