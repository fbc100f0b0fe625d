//! From a cached image to a mounted root: it must not matter how large the image is.

use std::path::Path;

use anyhow::{Context, Result};

use super::Bench;
use crate::harness::{Contender, Sample, interleave};
use crate::report::{Benchmark, Comparison};

pub const SMALL: &str = "data-5";

const SMALL_MOUNT: &str = "small, agent ready → root mounted";
const LARGE_MOUNT: &str = "large, agent ready → root mounted";
const SMALL_WHOLE: &str = "small, whole `taskrun run … true`";
const LARGE_WHOLE: &str = "large, whole `taskrun run … true`";

/// The large image; unpacking 500 MB takes too long for a quick run.
pub const fn large(quick: bool) -> &'static str {
    if quick { "data-100" } else { "data-500" }
}

/// Takes turns: small, large. Both images are unpacked before.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let large = large(bench.quick);
    let home = bench.folder()?;
    let images = [bench.image(SMALL)?, bench.image(large)?];
    for image in &images {
        eprintln!("bench: unpacking {image}");
        bench.taskrun.run_true(home.path(), image)?;
    }
    let [small_image, large_image] = &images;
    let contenders = vec![
        Contender::new("small", || turn(bench, home.path(), small_image, [SMALL_MOUNT, SMALL_WHOLE])),
        Contender::new("large", || turn(bench, home.path(), large_image, [LARGE_MOUNT, LARGE_WHOLE])),
    ];
    let series = interleave(contenders, bench.rounds(15, 3))?;
    let comparisons = [
        Comparison { over: LARGE_MOUNT, under: SMALL_MOUNT, at_most: None },
        Comparison { over: LARGE_WHOLE, under: SMALL_WHOLE, at_most: None },
    ];
    let about = format!(
        "Images that are in the store and unpacked: small is {SMALL}, large is {large} (the number is MB of data that \
         can't be compressed). The ratios are meant to be 1: what is mounted must not depend on the size."
    );
    Ok(Benchmark::new("mount", about, series, &comparisons))
}

fn turn(bench: &Bench, home: &Path, image: &str, [mount, whole]: [&str; 2]) -> Result<Vec<Sample>> {
    let timings = bench.taskrun.run_true(home, image)?;
    let mounted =
        timings.between("agent-ready", "root-mounted").context("The timings don't say when the root was mounted")?;
    Ok(vec![Sample::milliseconds(mount, mounted), Sample::milliseconds(whole, timings.until("finished")?)])
}
