//! Processes that print a line when they run and then wait for the end of their input.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

/// A process that is under way; killed when it is dropped.
#[derive(Debug)]
pub struct Task {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Task {
    /// Starts a command with pipes.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().to_owned();
        let mut process = command.spawn().with_context(|| format!("{} can't be started", name.display()))?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().context("A process has no standard output")?;
        Ok(Self { process, stdin, stdout: BufReader::new(stdout) })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the line that it prints first.
    pub fn wait_for(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("A process's output can't be read")?;
        if line.trim_end() != wanted {
            bail!("A process said {:?} instead of {wanted:?}: {}", line.trim_end(), self.errors());
        }
        Ok(())
    }

    /// Waits for the first byte that it prints, and leaves it there; `false` when its output ends without one.
    pub fn wait_for_output(&mut self) -> Result<bool> {
        Ok(!self.stdout.fill_buf().context("A process's output can't be read")?.is_empty())
    }

    /// Closes its input and waits until it is gone. Gives what else it printed.
    pub fn end(mut self) -> Result<String> {
        drop(self.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).context("A process's output can't be read")?;
        let status = self.process.wait().context("A process can't be waited for")?;
        if !status.success() {
            bail!("A process ended with {status}: {}", self.errors());
        }
        Ok(rest)
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.process.stderr {
            let _ = stderr.read_to_string(&mut text);
        }
        text.trim().to_owned()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ends all at once.
pub fn end_all(tasks: Vec<Task>) -> Result<()> {
    thread::scope(|scope| {
        let ends: Vec<_> = tasks.into_iter().map(|task| scope.spawn(move || task.end())).collect();
        ends.into_iter().try_for_each(|end| end.join().map_err(|_| anyhow!("A thread failed"))?.map(drop))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Task {
        Task::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn it_runs_until_its_input_ends() {
        let mut task = sh("echo ready; cat; echo rest");
        task.wait_for("ready").unwrap();
        assert_eq!(task.end().unwrap(), "rest\n");
        end_all(vec![sh("cat"), sh("cat")]).unwrap();
    }

    #[test]
    fn a_failure_is_told_with_its_words() {
        let mut task = sh("echo no room >&2; exit 3");
        let error = task.wait_for("ready").unwrap_err().to_string();
        assert_eq!(error, "A process said \"\" instead of \"ready\": no room");
        assert!(end_all(vec![sh("exit 0"), sh("exit 3")]).unwrap_err().to_string().contains("exit status: 3"));
    }
}
