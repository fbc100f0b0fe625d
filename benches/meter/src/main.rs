//! A static program that times its own reads, writes and copies, in a task and, for comparison, on the host.
//!
//! ```text
//! meter sequential FILE...     reads the files with read(2), in blocks of 1 MiB
//! meter random PAGES FILE...   reads so many pages of 4 KiB with pread(2), in any order, none twice
//! meter fault FILE...          maps the files and reads a byte of each page
//! meter copy ROUNDS FILE       maps the file and copies it into memory; a copy before, with the page faults, doesn't count
//! meter write MIB FILE         writes a new file in blocks of 1 MiB, to the disk
//! meter pour MIB               writes zeros to standard output, and nothing else
//! meter drain                  reads standard input to its end; the time starts with the first byte
//! ```
//!
//! The result is a line of JSON on standard output: `{"bytes": 1048576, "ns": 81726}`. The clock is CLOCK_MONOTONIC.

mod mapping;
mod read;
mod stream;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The size of a block, in bytes.
const BLOCK: usize = 1 << 20;

/// What was done, and how long it took.
#[derive(Clone, Copy, Debug)]
struct Done {
    bytes: u64,
    time: Duration,
}

fn main() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else { bail!("usage: meter WORK [ARG...]") };
    let done = match (name.to_str(), rest) {
        (Some("sequential"), files) => read::sequential(&open(files)?)?,
        (Some("random"), [pages, files @ ..]) => read::random(&open(files)?, number(pages)?)?,
        (Some("fault"), files) => mapping::fault(&open(files)?)?,
        (Some("copy"), [rounds, file]) => mapping::copy(&open_one(file.as_ref())?, number(rounds)?)?,
        (Some("write"), [mebibytes, file]) => stream::write(file.as_ref(), number(mebibytes)?)?,
        (Some("pour"), [mebibytes]) => return stream::pour(number(mebibytes)?),
        (Some("drain"), []) => stream::drain()?,
        _ => bail!("usage: meter sequential|random|fault|copy|write|pour|drain [ARG...]"),
    };
    let Done { bytes, time } = done;
    writeln!(std::io::stdout(), "{{\"bytes\": {bytes}, \"ns\": {}}}", time.as_nanos()).context("Can't print")
}

fn number(text: &OsString) -> Result<u64> {
    text.to_str().and_then(|text| text.parse().ok()).with_context(|| format!("{} is not a number", text.display()))
}

fn open(paths: &[OsString]) -> Result<Vec<File>> {
    paths.iter().map(|path| open_one(path.as_ref())).collect()
}

fn open_one(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("Can't open {}", path.display()))
}
