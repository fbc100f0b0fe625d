//! Calls of taskrun, and when they reached their phases (`--timings`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;

use crate::task::Task;

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
    /// When the first byte of the command's output was there, if there was one.
    first_byte: Option<u64>,
    /// When taskrun's process had ended.
    ended: u64,
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

    /// The folder of what belongs to it: VMM, kernel and initramfs.
    pub fn libexec(&self) -> Result<PathBuf> {
        let program = self.program.canonicalize().with_context(|| format!("{} isn't there", self.program.display()))?;
        let tree = program.parent().and_then(Path::parent).context("taskrun is in no tree")?;
        Ok(tree.join("libexec/taskrun"))
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
        self.run_with(home, image, options, &["true"])
    }

    /// Runs a command in a task of an image.
    pub fn run_with(&self, home: &Path, image: &str, options: &[&str], arguments: &[&str]) -> Result<Timings> {
        let file = home.join("timings.json");
        let mut command = self.command(home);
        command.args(["run", "--quiet", "--timings"]).arg(&file).args(options).arg(image).args(arguments);
        let started = monotonic_ns()?;
        let mut task = Task::start(&mut command)?;
        let first_byte = task.wait_for_output()?.then(monotonic_ns).transpose()?;
        task.end()?;
        let ended = monotonic_ns()?;
        let json = fs::read(&file).context("taskrun wrote no timings")?;
        Ok(Timings { first_byte, ended, ..Timings::parse(started, &json)? })
    }
}

impl Timings {
    pub fn parse(started: u64, json: &[u8]) -> Result<Self> {
        let document: Document = serde_json::from_slice(json).context("The timings can't be read")?;
        Ok(Self { started, first_byte: None, ended: started, phases: document.phases })
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

    /// Milliseconds from the start of the process to the first byte of the command's output.
    pub fn until_output(&self) -> Result<f64> {
        Ok(milliseconds(self.started, self.first_byte.context("The command printed nothing")?))
    }

    /// Milliseconds from a phase to the end of taskrun's process.
    pub fn to_the_end(&self, from: &str) -> Option<f64> {
        Some(milliseconds(self.at(from)?, self.ended))
    }

    /// Milliseconds from the start of the process to its end.
    pub fn whole(&self) -> f64 {
        milliseconds(self.started, self.ended)
    }

    /// When a phase was reached, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn at(&self, name: &str) -> Option<u64> {
        self.phases.iter().find(|phase| phase.name == name).map(|phase| phase.at_ns)
    }
}

fn milliseconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// The clock that the timings are read from.
pub fn monotonic_ns() -> Result<u64> {
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
        assert!(timings.until_output().is_err());
        let timings = Timings { first_byte: Some(2_000_000), ended: 7_000_000, ..timings };
        assert_eq!(timings.until("root-mounted").unwrap(), 3.5);
        assert_eq!(timings.between("agent-ready", "root-mounted"), Some(1.5));
        assert_eq!(timings.between("agent-ready", "warp"), None);
        assert_eq!(timings.until_output().unwrap(), 1.0);
        assert_eq!((timings.to_the_end("root-mounted"), timings.to_the_end("warp")), (Some(2.5), None));
        assert_eq!(timings.whole(), 6.0);
        assert!(timings.until("warp").unwrap_err().to_string().contains("\"warp\""));
    }
}
