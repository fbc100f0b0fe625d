//! A static program that end-to-end tests put into images.
//!
//! ```text
//! probe tree DIR        lists every entry below DIR, one line each, with everything that unpacking decides
//! probe vectors ROUNDS  two processes on one vCPU keep patterns in their vector registers across switches
//! probe eat MIB         touches so much memory, then says so
//! probe stream CHUNKS   writes chunks of 64 KiB, and counts them on standard error
//! ```

mod eat;
mod stream;
mod tree;
mod vectors;

use std::ffi::OsString;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [name, value] = arguments.as_slice() else { bail!("usage: probe tree|vectors|eat|stream VALUE") };
    let number = || value.to_str().and_then(|text| text.parse::<u64>().ok()).context("not a number");
    match name.to_str() {
        Some("tree") => tree::print(value.as_ref()),
        Some("vectors") => vectors::run(number()?),
        Some("eat") => eat::run(number()?),
        Some("stream") => stream::run(number()?),
        _ => bail!("usage: probe tree|vectors|eat|stream VALUE"),
    }
}
