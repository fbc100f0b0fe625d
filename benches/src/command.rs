//! Runs other programs; one that fails is an error with its own words.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Runs a command to its end, with nothing on its standard input.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{} can't be run", name(command)))?;
    if !output.status.success() {
        bail!("{} failed with {}: {}", name(command), output.status, last_lines(&output.stderr));
    }
    Ok(output)
}

/// Runs a command to its end and gives the milliseconds that it took.
pub fn time(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    run(command)?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// The first line that a command prints.
pub fn first_line(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The end of what a program wrote to a file, on one line.
pub fn last_words(mut file: &File) -> String {
    let mut text = Vec::new();
    match file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut text)) {
        Ok(_) => last_lines(&text),
        Err(error) => format!("what it said can't be read: {error}"),
    }
}

/// The end of what a program said, on one line.
fn last_lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join("; ")
}

/// A command for the tests.
#[cfg(test)]
pub fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_who_how_and_why() {
        let error = run(&mut sh("for i in 1 2 3 4; do echo $i >&2; done; exit 3")).unwrap_err();
        assert_eq!(error.to_string(), "sh failed with exit status: 3: 2; 3; 4");
        let error = run(&mut Command::new("/no/such/program")).unwrap_err();
        assert_eq!(error.to_string(), "/no/such/program can't be run");
    }

    #[test]
    fn output_is_given_and_standard_input_is_empty() {
        assert_eq!(first_line(&mut sh("cat; echo one; echo two")).unwrap(), "one");
        assert!(time(&mut sh("exit 0")).unwrap() > 0.0);
    }
}
