//! An image from a registry on loopback, by taskrun into its store and by skopeo into a folder.

use std::process::Command;

use anyhow::Result;

use super::Bench;
use crate::command;
use crate::harness::{Contender, Sample, interleave};
use crate::registry::Registry;
use crate::report::{Benchmark, Comparison};

pub const IMAGE: &str = "debian";

const SKOPEO: &str = "skopeo copy";
const TASKRUN: &str = "taskrun pull --download-only";

const ABOUT: &str = "The same image from Debian's `docker-registry` on loopback, into an empty store and into an empty \
    folder (`skopeo copy docker://… dir:…`). Both verify digests; taskrun also syncs what it wrote to the disk.";

/// Takes turns: skopeo, taskrun.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let folder = bench.folder()?;
    let registry = Registry::start(folder.path())?;
    let image = registry.put(&bench.image(IMAGE)?, IMAGE)?;
    let contenders = vec![
        Contender::new(SKOPEO, || {
            let folder = bench.folder()?;
            let target = format!("dir:{}", folder.path().join("image").display());
            let mut skopeo = Command::new("skopeo");
            skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &image, &target]);
            Ok(vec![Sample::milliseconds(SKOPEO, command::time(&mut skopeo)?)])
        }),
        Contender::new(TASKRUN, || {
            let home = bench.folder()?;
            let mut taskrun = bench.taskrun.command(home.path());
            taskrun.args(["pull", "--download-only", "--quiet", &image]);
            Ok(vec![Sample::milliseconds(TASKRUN, command::time(&mut taskrun)?)])
        }),
    ];
    let series = interleave(contenders, bench.rounds(15, 5))?;
    let comparisons = [Comparison { over: TASKRUN, under: SKOPEO, at_most: Some(1.2) }];
    Ok(Benchmark::new("pull", ABOUT.to_owned(), series, &comparisons))
}
