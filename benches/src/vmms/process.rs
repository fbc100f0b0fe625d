//! A VMM's process and the guest in it.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::output::Output;
use crate::command;

/// A process that is ended when this is dropped. Its standard error is kept, for the case that it fails.
#[derive(Debug)]
pub struct Process {
    child: Child,
    started: Instant,
    errors: File,
}

impl Process {
    /// Starts it. Its standard input is empty unless the command says otherwise.
    pub fn start(command: &mut Command) -> Result<Self> {
        let errors = tempfile::tempfile().context("A file for a VMM's messages can't be made")?;
        command.stderr(errors.try_clone()?);
        let started = Instant::now();
        let child =
            command.spawn().with_context(|| format!("{} can't be started", command.get_program().to_string_lossy()))?;
        Ok(Self { child, started, errors })
    }

    /// Starts it with an empty standard input; what it prints is its guest's output.
    pub fn start_with_output(command: &mut Command) -> Result<(Self, Output)> {
        let mut process = Self::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let stdout = process.child.stdout.take().context("A VMM has no standard output")?;
        Ok((process, Output::of_marks(stdout)))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Milliseconds from its start to a moment.
    pub fn until(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.started).as_secs_f64() * 1e3
    }

    /// Waits for its end, which must be a good one.
    pub fn wait(mut self) -> Result<()> {
        let status = self.child.wait().context("A VMM can't be waited for")?;
        if !status.success() {
            bail!("The VMM ended with {status}: {}", self.last_words());
        }
        Ok(())
    }

    /// The end of what it printed on standard error.
    pub fn last_words(&self) -> String {
        command::last_words(&self.errors)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A guest in a VMM's process; both end when this is dropped.
#[derive(Debug)]
pub struct Guest {
    pub process: Process,
    output: Output,
}

impl Guest {
    /// A guest and what it sends.
    pub fn new(process: Process, output: Output) -> Self {
        Self { process, output }
    }

    /// Waits for its first sign of life, in milliseconds from the start of the VMM's process.
    pub fn first_output(&self) -> Result<f64> {
        let first = self.output.first();
        let at = first.with_context(|| format!("The VMM's last words: {}", self.process.last_words()))?;
        Ok(self.process.until(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::sh;

    #[test]
    fn a_guest_that_comes_is_timed_from_the_start_and_one_that_does_not_is_explained() {
        let (process, output) = Process::start_with_output(&mut sh("printf 'x\\245'; cat")).unwrap();
        let before = process.started.elapsed();
        let guest = Guest::new(process, output);
        assert!(guest.first_output().unwrap() > 0.0, "{before:?}");

        let (process, output) = Process::start_with_output(&mut sh("echo 'no /dev/kvm' >&2; exit 1")).unwrap();
        let error = Guest::new(process, output).first_output().unwrap_err();
        assert!(format!("{error:#}").contains("no /dev/kvm"), "{error:#}");
    }

    #[test]
    fn a_bad_end_is_an_error_with_its_reason() {
        let error = Process::start(&mut sh("echo broken >&2; exit 4")).unwrap().wait().unwrap_err();
        assert!(error.to_string().ends_with("exit status: 4: broken"), "{error}");
        Process::start(&mut sh("exit 0")).unwrap().wait().unwrap();
    }
}
