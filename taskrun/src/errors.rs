//! How an error reaches the user: one sentence, its causes behind colons.

use std::error::Error;
use std::io::{self, Write};

/// The exit code for a failure of taskrun itself, as docker has it.
pub const EXIT_TASKRUN_FAILED: u8 = 125;

/// The error and its causes on one line: `Sentence: cause: cause`.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !repeats(&text, &line) {
            line.push_str(": ");
            line.push_str(without_number(&text));
        }
        source = cause.source();
    }
    line
}

/// Whether a cause is SQLite's number with the words that were said already.
fn repeats(cause: &str, line: &str) -> bool {
    cause
        .strip_prefix("Error code ")
        .and_then(|rest| rest.split_once(": "))
        .is_some_and(|(_, words)| line.ends_with(words))
}

/// The operating system's words without the error's number, which Rust puts behind them.
fn without_number(text: &str) -> &str {
    let number =
        |text: &str| text.strip_suffix(')').is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    text.rsplit_once(" (os error ").filter(|(_, rest)| number(rest)).map_or(text, |(words, _)| words)
}

/// Writes `taskrun: TEXT` to stderr. Nothing is left to do when even that fails.
pub fn say(text: &str) {
    // One write, so that it stays one line among the command's own output. The carriage return is for a terminal in raw
    // mode, which does not add one itself.
    let end = if crate::terminal::is_raw() { "\r\n" } else { "\n" };
    let _ = io::stderr().write_all(format!("taskrun: {text}{end}").as_bytes());
}

/// Text that a guest chose, made harmless for a terminal and cut to a length that can be read.
#[must_use]
pub fn harmless(text: &str) -> String {
    const LONGEST: usize = 1000;
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .flat_map(|c| if c.is_control() { c.escape_debug().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("The kernel can't be opened")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_follow_behind_colons() {
        let error = Outer(io::Error::new(io::ErrorKind::NotFound, "no such file"));
        assert_eq!(chain(&error), "The kernel can't be opened: no such file");
        let error = Outer(io::Error::from_raw_os_error(2));
        assert_eq!(chain(&error), "The kernel can't be opened: No such file or directory");
    }

    #[test]
    fn a_guest_cannot_write_control_characters() {
        assert_eq!(harmless("it's \"é\"\u{1b}[2J\n"), "it's \"é\"\\u{1b}[2J\\n");
    }

    #[test]
    fn a_guest_cannot_write_without_end() {
        assert_eq!(harmless(&"x".repeat(5000)).chars().count(), 1001);
    }
}
