//! The memory through which layers and images flow: huge pages, where the kernel has them.
//!
//! On hosts that execute guest kernel code in software a page fault costs milliseconds, and so does each separate page of
//! a direct read. One huge page takes one fault and is one segment to the device.
#![expect(unsafe_code, reason = "advice to the kernel is given by address")]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// The size of a [`Pages`], and its alignment where it can be had: that of a huge page.
pub const SIZE: usize = 2 << 20;

/// [`SIZE`] bytes of zeros at first, aligned for direct reads and writes.
#[derive(Debug)]
pub struct Pages {
    /// Twice as large as needed, so that an aligned part lies in it. What is not used is never touched and costs nothing.
    memory: Box<[u8]>,
    start: usize,
}

impl Pages {
    /// Fresh memory.
    pub fn new() -> Self {
        let memory = vec![0; SIZE.saturating_mul(2)].into_boxed_slice();
        // `align_offset` may give up in theory; then any part serves, and O_DIRECT is not used.
        let start = memory.as_ptr().align_offset(SIZE).min(SIZE);
        let mut pages = Self { memory, start };
        let address = NonNull::from(&mut *pages).cast();
        // SAFETY: the range is part of `memory`, and this advice does not change what is in it.
        let advised = unsafe { madvise(address, SIZE, MmapAdvise::MADV_HUGEPAGE) };
        // A kernel without huge pages does it with small ones.
        let _ = advised;
        pages
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..self.start.saturating_add(SIZE)).unwrap_or_default()
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start.saturating_add(SIZE)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_whole_and_aligned_for_direct_access() {
        let pages = Pages::new();
        assert_eq!((pages.len(), pages.as_ptr().addr() % SIZE), (SIZE, 0));
    }
}
