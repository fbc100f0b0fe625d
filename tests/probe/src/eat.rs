//! Touches memory until there is none left.

use std::io::{Error, Write};

use anyhow::{Context, Result, ensure};

/// The size of a huge page, in bytes: fewer page faults where those are dear.
const BLOCK: usize = 2 << 20;

/// Allocates `mebibytes` of memory, page by page, and prints `ate` when all of it was there.
pub fn run(mebibytes: u64) -> Result<()> {
    let mut blocks = 0;
    while blocks * BLOCK < usize::try_from(mebibytes << 20)? {
        touch(block()?);
        blocks += 1;
    }
    writeln!(std::io::stdout(), "ate {mebibytes} MiB").context("Can't print")
}

/// A block of memory that is never given back.
#[expect(unsafe_code, reason = "the standard library cannot ask for huge pages")]
fn block() -> Result<&'static mut [u8]> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, twice as long as needed so that an aligned block lies in it. The advice changes only how the
    // kernel fills it, and nothing else refers to it.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), 2 * BLOCK, protection, flags, -1, 0);
        ensure!(start != libc::MAP_FAILED, "can't map memory: {}", Error::last_os_error());
        let aligned = start.byte_add(start.align_offset(BLOCK));
        // A kernel without huge pages fills it with small ones.
        libc::madvise(aligned, BLOCK, libc::MADV_HUGEPAGE);
        Ok(std::slice::from_raw_parts_mut(aligned.cast(), BLOCK))
    }
}

fn touch(block: &mut [u8]) {
    for page in block.chunks_mut(4096) {
        page.fill(1);
    }
    std::hint::black_box(block);
}
