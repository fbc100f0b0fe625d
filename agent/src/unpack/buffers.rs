//! The memory through which layers flow: one huge page, where the kernel has them.
//!
//! On hosts that execute guest kernel code in software a page fault costs milliseconds, and so does each separate page of
//! a direct read. One huge page takes one fault and is one segment to the device.
#![expect(unsafe_code, reason = "advice to the kernel is given by address")]

use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// The size and alignment of the memory: that of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// The size of each half, in bytes. Both start on a page.
pub const HALF: usize = HUGE_PAGE / 2;

/// Two buffers of [`HALF`] bytes.
#[derive(Debug)]
pub struct Buffers {
    /// Twice as large as needed, so that an aligned part lies in it. What is not used is never touched and costs nothing.
    memory: Vec<u8>,
}

impl Buffers {
    /// Fresh buffers.
    pub fn new() -> Self {
        let mut buffers = Self { memory: vec![0; HUGE_PAGE.saturating_mul(2)] };
        let page = NonNull::from(buffers.page()).cast();
        // SAFETY: the range is part of `memory`, and this advice does not change what is in it.
        let advised = unsafe { madvise(page, HUGE_PAGE, MmapAdvise::MADV_HUGEPAGE) };
        // A kernel without huge pages does it with small ones.
        let _ = advised;
        buffers
    }

    /// The two buffers.
    pub fn split(&mut self) -> (&mut [u8], &mut [u8]) {
        self.page().split_at_mut(HALF)
    }

    fn page(&mut self) -> &mut [u8] {
        let start = self.memory.as_ptr().align_offset(HUGE_PAGE);
        // `align_offset` may give up in theory; then any part serves, and reads fall back from O_DIRECT.
        let start = start.min(HUGE_PAGE);
        self.memory.get_mut(start..start.saturating_add(HUGE_PAGE)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_are_whole_and_aligned_for_direct_reads() {
        let mut buffers = Buffers::new();
        let (first, second) = buffers.split();
        assert_eq!((first.len(), second.len()), (HALF, HALF));
        assert_eq!((first.as_ptr().addr() % 4096, second.as_ptr().addr() % 4096), (0, 0));
    }
}
