//! Touches memory until there is none left.

use std::io::Write;

use anyhow::{Context, Result};

/// Allocates `mebibytes` of memory, page by page, and prints `ate` when all of it was there.
pub fn run(mebibytes: u64) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..mebibytes {
        let mut block = vec![0_u8; 1 << 20];
        for page in block.chunks_mut(4096) {
            *page.first_mut().context("an empty page")? = 1;
        }
        held.push(block);
    }
    std::hint::black_box(&held);
    writeln!(std::io::stdout(), "ate {mebibytes} MiB").context("Can't print")
}
