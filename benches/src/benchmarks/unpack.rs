//! Layers to a file system, by taskrun in a microVM and by umoci on the host.

use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use crate::command;
use crate::harness::{Contender, Sample, interleave};
use crate::report::{Benchmark, Comparison};
use crate::taskrun::Timings;

pub const IMAGE: &str = "debian";

const UMOCI: &str = "umoci unpack";
const UMOCI_RAW: &str = "umoci raw unpack";
const WHOLE: &str = "taskrun, whole";
const WORK: &str = "taskrun, without the guest's start";
const COLD: &str = "taskrun --cold, whole";

/// Parts of the whole, as far as this taskrun has the phases.
const PARTS: [(&str, &str, &str); 4] = [
    (WORK, "unpack-agent-ready", "image-unpacked"),
    ("taskrun, part: the guest starts", "image-opened", "unpack-agent-ready"),
    ("taskrun, part: the guest unpacks", "unpack-agent-ready", "unpack-reported"),
    ("taskrun, part: the guest ends, the host puts it into the store", "unpack-reported", "image-unpacked"),
];

const ABOUT: &str = "Debian packages as an image: about 100 MB of gzip in three layers. `umoci unpack` runs as root on the \
    host and also hashes what it wrote, for a later repack; `umoci raw unpack` doesn't. taskrun's time counts from the \
    start of the process, with an empty store and a template for the microVM (with --cold it boots): a microVM inflates, verifies both digests of each layer and writes \
    an EROFS image, which the host fingerprints and syncs to the disk. umoci syncs nothing.";

/// Takes turns: umoci, umoci raw, taskrun, taskrun without a template.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let image = bench.image(IMAGE)?;
    let path = image.strip_prefix("oci:").unwrap_or(&image);
    // Makes the template.
    bench.taskrun.run_true(bench.folder()?.path(), &image)?;
    let contenders = vec![
        Contender::new(UMOCI, || umoci(bench, &["unpack"], path, UMOCI)),
        Contender::new(UMOCI_RAW, || umoci(bench, &["raw", "unpack"], path, UMOCI_RAW)),
        Contender::new("taskrun", || {
            let home = bench.folder()?;
            samples(&bench.taskrun.run_true(home.path(), &image)?)
        }),
        Contender::new(COLD, || {
            let home = bench.folder()?;
            let timings = bench.taskrun.run_true_with(home.path(), &image, &["--cold"])?;
            Ok(vec![Sample::milliseconds(COLD, timings.until("image-unpacked")?)])
        }),
    ];
    let series = interleave(contenders, bench.rounds(9, 3))?;
    let comparisons = [
        Comparison { over: WHOLE, under: UMOCI, at_most: Some(2.0) },
        Comparison { over: WORK, under: UMOCI, at_most: None },
        Comparison { over: COLD, under: UMOCI, at_most: None },
        Comparison { over: WHOLE, under: UMOCI_RAW, at_most: None },
        Comparison { over: WORK, under: UMOCI_RAW, at_most: None },
    ];
    Ok(Benchmark::new("unpack", ABOUT.to_owned(), series, &comparisons))
}

fn umoci(bench: &Bench, command: &[&str], image: &str, series: &str) -> Result<Vec<Sample>> {
    let folder = bench.folder()?;
    let target = folder.path().join("bundle");
    let mut umoci = Command::new("umoci");
    umoci.args(command).args(["--image", image]);
    if !nix::unistd::geteuid().is_root() {
        umoci.arg("--rootless");
    }
    let milliseconds = command::time(umoci.arg(&target))?;
    Ok(vec![Sample::milliseconds(series, milliseconds)])
}

/// What a task that had to unpack its image first says of that. The task itself isn't counted.
fn samples(timings: &Timings) -> Result<Vec<Sample>> {
    let whole = timings.until("image-unpacked").context("The image was not unpacked")?;
    let part =
        |&(series, from, to): &(&str, &str, &str)| Some(Sample::milliseconds(series, timings.between(from, to)?));
    Ok(std::iter::once(Sample::milliseconds(WHOLE, whole)).chain(PARTS.iter().filter_map(part)).collect())
}
