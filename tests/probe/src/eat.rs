//! Touches memory, until there is none left or it is to be given back.

use std::io::{Error, Write, stdin, stdout};

use anyhow::{Context, Result, ensure};

/// The size of a huge page, in bytes: fewer page faults where those are dear.
const BLOCK: usize = 2 << 20;

/// Allocates `mebibytes` of memory, page by page, and prints `ate` when all of it was there.
pub fn run(mebibytes: u64) -> Result<()> {
    take(mebibytes)?;
    writeln!(stdout(), "ate {mebibytes} MiB").context("Can't print")
}

/// Does the same, gives the memory back to the kernel at a line of input, says so, and stays until the input's end.
pub fn give(mebibytes: u64) -> Result<()> {
    let blocks = take(mebibytes)?;
    writeln!(stdout(), "ate {mebibytes} MiB")?;
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    blocks.into_iter().try_for_each(give_back)?;
    writeln!(stdout(), "gave it back")?;
    while stdin().read_line(&mut line)? > 0 {}
    Ok(())
}

fn take(mebibytes: u64) -> Result<Vec<&'static mut [u8]>> {
    let mut blocks = Vec::new();
    while blocks.len() * BLOCK < usize::try_from(mebibytes << 20)? {
        let block = block()?;
        touch(block);
        blocks.push(block);
    }
    Ok(blocks)
}

/// A block of memory of its own.
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

/// Takes a block's pages away; it is zeros then.
fn give_back(block: &mut [u8]) -> Result<()> {
    #[expect(unsafe_code, reason = "libc")]
    // SAFETY: the block is whole pages of a mapping of this program's, and may be written here.
    let result = unsafe { libc::madvise(block.as_mut_ptr().cast(), block.len(), libc::MADV_DONTNEED) };
    ensure!(result == 0, "can't give memory back: {}", Error::last_os_error());
    Ok(())
}

fn touch(block: &mut [u8]) {
    for page in block.chunks_mut(4096) {
        page.fill(1);
    }
    std::hint::black_box(block);
}
