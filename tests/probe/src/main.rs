//! A static program that end-to-end tests put into images.
//!
//! ```text
//! probe tree DIR        lists every entry below DIR, one line each, with everything that unpacking decides
//! probe vectors ROUNDS  two processes on one vCPU keep patterns in their vector registers across switches
//! probe eat MIB         touches so much memory, then says so
//! probe give MIB        does the same, gives it back at a line of input, and stays until the input's end
//! probe own ROUNDS      prints what no two guests may have in common: random bytes, addresses, ids
//! probe clock 0         answers each line of input with the time
//! probe peek FILE       lets another process read the file through mappings of it
//! probe stream CHUNKS   writes chunks of 64 KiB, and counts them on standard error
//! ```

mod eat;
mod own;
mod peek;
mod stream;
mod tree;
mod vectors;

use std::ffi::OsString;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [name, value] = arguments.as_slice() else {
        bail!("usage: probe tree|vectors|eat|give|own|clock|peek|stream VALUE")
    };
    let number = || value.to_str().and_then(|text| text.parse::<u64>().ok()).context("not a number");
    match name.to_str() {
        Some("tree") => tree::print(value.as_ref()),
        Some("vectors") => vectors::run(number()?),
        Some("eat") => eat::run(number()?),
        Some("give") => eat::give(number()?),
        Some("own") => own::print(number()?),
        Some("clock") => own::clock(),
        Some("peek") => peek::run(value),
        Some("peek-at") => peek::at(value),
        Some("stream") => stream::run(number()?),
        _ => bail!("usage: probe tree|vectors|eat|give|own|clock|peek|stream VALUE"),
    }
}
