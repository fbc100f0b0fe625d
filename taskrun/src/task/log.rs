//! The output of a detached task: rotating files of JSON lines in the task's folder, in docker's `json-file` form.
//!
//! ```text
//! tasks/ID/log.1   {"log":"first line\n","stream":"stdout","time":"2026-11-24T01:02:03.456789012Z"}
//!          log.2   …
//! ```
//!
//! The files are numbered; the one with the highest number grows. Reaching [`Limits::file`] bytes it is ended and the
//! next begins; of them the last [`Limits::files`] are kept. So a task that writes without end takes a bounded room, and who
//! follows finds the next file by its number.
//!
//! Each line of output is one JSON line, in the order in which the runtime read them; a line longer than [`LINE`] is cut
//! into several, of which only the last ends in `\n`. Bytes that aren't UTF-8 become U+FFFD, as docker writes them.
//!
//! # Layout
//! - [`writer`]: from the task's streams to the files. [`reader`]: back again, also while they grow.

pub mod reader;
pub mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The longest line that is kept whole, in bytes: docker's.
pub const LINE: usize = 16 << 10;

/// The start of a log file's name.
const PREFIX: &str = "log.";

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The size at which a file is ended, in bytes.
    pub file: u64,
    /// How many files are kept.
    pub files: u32,
}

impl Default for Limits {
    /// 5 files of 10 MiB.
    fn default() -> Self {
        Self { file: 10 << 20, files: 5 }
    }
}

/// One of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line in a log file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The text, with its line feed if it had one.
    pub log: String,
    /// Where the task wrote it.
    pub stream: Stream,
    /// When the runtime read it: RFC 3339 with nanoseconds, UTC.
    pub time: jiff::Timestamp,
}

/// The file with this number.
fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{number}"))
}

/// The numbers of the files that are there, in order; none of a folder that was removed.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(numbers),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
