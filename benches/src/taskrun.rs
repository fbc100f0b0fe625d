//! Calls of taskrun, and when they reached their phases (`--timings`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;

use crate::command;

/// The `taskrun` under measurement.
#[derive(Clone, Debug)]
pub struct Taskrun {
    program: PathBuf,
    templates: PathBuf,
}

/// What `--timings` wrote about a task, beside the time at which the task was started.
#[derive(Debug)]
pub struct Timings {
    started: u64,
    phases: Vec<Phase>,
}

#[derive(Debug, Deserialize)]
struct Document {
    phases: Vec<Phase>,
}

#[derive(Debug, Deserialize)]
struct Phase {
    name: String,
    at_ns: u64,
}

impl Taskrun {
    /// The program at this path, with a folder for the templates of all calls.
    pub fn new(program: PathBuf, templates: PathBuf) -> Self {
        Self { program, templates }
    }

    /// A call with this state directory.
    pub fn command(&self, home: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("TASKRUN_HOME", home)
            .env("TASKRUN_TEMPLATES", &self.templates)
            .env_remove("TASKRUN_KERNEL")
            .env_remove("TASKRUN_LIBEXEC");
        command
    }

    /// Runs `true` in a task of an image.
    pub fn run_true(&self, home: &Path, image: &str) -> Result<Timings> {
        self.run_true_with(home, image, &[])
    }

    /// The same, with these options.
    pub fn run_true_with(&self, home: &Path, image: &str, options: &[&str]) -> Result<Timings> {
        let file = home.join("timings.json");
        let started = monotonic_ns()?;
        command::run(
            self.command(home).args(["run", "--quiet", "--timings"]).arg(&file).args(options).args([image, "true"]),
        )?;
        let json = fs::read(&file).context("taskrun wrote no timings")?;
        Timings::parse(started, &json)
    }
}

impl Timings {
    fn parse(started: u64, json: &[u8]) -> Result<Self> {
        let document: Document = serde_json::from_slice(json).context("The timings can't be read")?;
        Ok(Self { started, phases: document.phases })
    }

    /// Milliseconds from the start of the process to a phase.
    pub fn until(&self, phase: &str) -> Result<f64> {
        let at = self.at(phase).with_context(|| format!("The timings have no phase {phase:?}"))?;
        Ok(milliseconds(self.started, at))
    }

    /// Milliseconds between two phases; `None` where this taskrun doesn't know one of them.
    pub fn between(&self, from: &str, to: &str) -> Option<f64> {
        Some(milliseconds(self.at(from)?, self.at(to)?))
    }

    fn at(&self, name: &str) -> Option<u64> {
        self.phases.iter().find(|phase| phase.name == name).map(|phase| phase.at_ns)
    }
}

fn milliseconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// The clock that the timings are read from.
fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec())?, u64::try_from(now.tv_nsec())?);
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_the_start_and_between_phases() {
        let json = br#"{"version": 1, "clock": "CLOCK_MONOTONIC", "process_start_ns": 2000000, "exit_code": 0, "phases": [
            {"name": "agent-ready", "at_ns": 3000000, "ms": 1.0}, {"name": "root-mounted", "at_ns": 4500000, "ms": 2.5}]}"#;
        let timings = Timings::parse(1_000_000, json).unwrap();
        assert_eq!(timings.until("root-mounted").unwrap(), 3.5);
        assert_eq!(timings.between("agent-ready", "root-mounted"), Some(1.5));
        assert_eq!(timings.between("agent-ready", "warp"), None);
        assert!(timings.until("warp").unwrap_err().to_string().contains("\"warp\""));
    }
}
