//! Writes the hard image and the tree that `umoci unpack` makes of it: `make-hard-image DIR` leaves `DIR/hard` (an OCI
//! layout) and `DIR/hard.tree`. Run on the host, whose file system holds every attribute; needs root.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use e2e::image::{Image, Stored};
use e2e::{hard, place};

fn main() -> Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from).context("usage: make-hard-image DIR")?;
    let [lowest, middle, highest] = hard::layers();
    let layout = directory.join("hard");
    Image::with_shell()?
        .layer(&lowest, Stored::Gzip)
        .layer(&middle, Stored::Zstd)
        .layer(&highest, Stored::Plain)
        .write(&layout)?;
    // umoci 0.4 does not know zstd: it gets the same layers stored in another way.
    let for_umoci = tempfile::tempdir_in(&directory)?;
    let same = for_umoci.path().join("same");
    Image::with_shell()?
        .layer(&lowest, Stored::Gzip)
        .layer(&middle, Stored::Gzip)
        .layer(&highest, Stored::Plain)
        .write(&same)?;
    let bundle = for_umoci.path().join("bundle");
    let image = format!("{}:latest", same.display());
    let umoci =
        Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).output().context("Can't run umoci")?;
    ensure!(umoci.status.success(), "umoci failed: {}", String::from_utf8_lossy(&umoci.stderr));
    let tree =
        Command::new(place::probe()).arg("tree").arg(bundle.join("rootfs")).output().context("Can't run the probe")?;
    ensure!(tree.status.success(), "the probe failed: {}", String::from_utf8_lossy(&tree.stderr));
    fs::write(directory.join("hard.tree"), tree.stdout).context("Can't write the tree")
}
