//! Writes images with the tree that `umoci unpack` makes of each, entry by entry: `make-trees DIR` leaves `DIR/hard` (an
//! OCI layout) and `DIR/hard.tree`, and of the fixture `DIR/python` the layout `DIR/python-probe`, which has the probe
//! in a layer more, and `DIR/python.tree`. Run on the host, whose file system holds every attribute; needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use e2e::image::{Image, Stored};
use e2e::layer::{Layer, mode};
use e2e::{hard, place};

fn main() -> Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from).context("usage: make-trees DIR")?;
    hard_image(&directory)?;
    python_image(&directory)
}

fn hard_image(directory: &Path) -> Result<()> {
    let [lowest, middle, highest] = hard::layers();
    Image::with_shell()?
        .layer(&lowest, Stored::Gzip)
        .layer(&middle, Stored::Zstd)
        .layer(&highest, Stored::Plain)
        .write(&directory.join("hard"))?;
    // umoci 0.4 does not know zstd: it gets the same layers stored in another way.
    let for_umoci = tempfile::tempdir_in(directory)?;
    let same = for_umoci.path().join("same");
    Image::with_shell()?
        .layer(&lowest, Stored::Gzip)
        .layer(&middle, Stored::Gzip)
        .layer(&highest, Stored::Plain)
        .write(&same)?;
    write_tree(&same, &directory.join("hard.tree"))
}

fn python_image(directory: &Path) -> Result<()> {
    let layout = directory.join("python-probe");
    run(Command::new("cp").args(["--recursive", "--dereference"]).arg(directory.join("python")).arg(&layout))?;
    // Every directory is an entry of its own, since tools differ in what they give to those that are only implied.
    let probe = fs::read(place::probe()).context("Can't read the probe")?;
    let layer = Layer::new().directory("usr/", mode(0o755)).directory("usr/bin/", mode(0o755)).file(
        "usr/bin/probe",
        mode(0o755),
        probe,
    );
    let archive = tempfile::NamedTempFile::new_in(directory)?;
    fs::write(archive.path(), layer.tar()).context("Can't write a layer")?;
    run(Command::new("umoci").args(["raw", "add-layer", "--image"]).arg(latest(&layout)).arg(archive.path()))?;
    write_tree(&layout, &directory.join("python.tree"))
}

/// Unpacks a layout's image with umoci and writes what came of it.
fn write_tree(layout: &Path, file: &Path) -> Result<()> {
    let directory = layout.parent().context("a layout in a directory")?;
    let temporary = tempfile::tempdir_in(directory)?;
    let bundle = temporary.path().join("bundle");
    run(Command::new("umoci").args(["unpack", "--image"]).arg(latest(layout)).arg(&bundle))?;
    let tree = run(Command::new(place::probe()).arg("tree").arg(bundle.join("rootfs")))?;
    fs::write(file, tree).context("Can't write the tree")
}

/// How umoci is told of a layout's image.
fn latest(layout: &Path) -> String {
    format!("{}:latest", layout.display())
}

/// Runs a program that must succeed and gives its output.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("Can't run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
