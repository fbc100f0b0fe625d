//! Writes much, and says on standard error how much it has got rid of.

use std::io::Write;

use anyhow::{Context, Result};

/// The size of a chunk, in bytes.
const CHUNK: usize = 64 << 10;

/// Writes `chunks` chunks to standard output; after each, its number to standard error.
pub fn run(chunks: u64) -> Result<()> {
    let chunk = vec![0; CHUNK];
    for number in 1..=chunks {
        std::io::stdout().write_all(&chunk).context("Can't write")?;
        writeln!(std::io::stderr(), "{number}").context("Can't count")?;
    }
    Ok(())
}
