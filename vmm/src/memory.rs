//! Guest memory: the runtime's memfd, mapped shared into this process.
//!
//! The guest's physical memory starts at 0 and leaves out the hole below 4 GiB in which devices sit; what does not fit
//! below the hole continues at 4 GiB. In the memfd both parts lie one behind the other.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::arch::layout;

/// Why guest memory could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The descriptor can't be examined.
    #[error("The size of the guest memory can't be read")]
    Size(#[source] io::Error),
    /// The descriptor is not as long as the description says.
    #[error("The guest memory is {actual} bytes long instead of {expected}")]
    WrongSize {
        /// What the description says.
        expected: u64,
        /// What the descriptor has.
        actual: u64,
    },
    /// It can't be mapped.
    #[error("The guest memory can't be mapped")]
    Map(#[from] vm_memory::mmap::FromRangesError),
}

/// Maps `mib` MiB of guest memory.
///
/// # Errors
/// When the memfd is not `mib` MiB long or can't be mapped.
pub fn map(memory: OwnedFd, mib: u32) -> Result<GuestMemoryMmap, MemoryError> {
    let file = Arc::new(File::from(memory));
    let actual = file.metadata().map_err(MemoryError::Size)?.len();
    let expected = u64::from(mib) << 20;
    if actual != expected {
        return Err(MemoryError::WrongSize { expected, actual });
    }
    let mut offset = 0;
    let mut parts = Vec::new();
    for (start, length) in ranges(expected) {
        let bytes = usize::try_from(length).map_err(|_| MemoryError::WrongSize { expected, actual })?;
        parts.push((start, bytes, Some(FileOffset::from_arc(Arc::clone(&file), offset))));
        offset = offset.saturating_add(length);
    }
    Ok(GuestMemoryMmap::from_ranges_with_files(parts)?)
}

/// The parts of `size` bytes of guest memory, each with its address and length: one below the hole, one above it.
fn ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(layout::HOLE_START);
    let mut ranges = vec![(GuestAddress(0), low)];
    if size > low {
        ranges.push((GuestAddress(layout::HOLE_END), size.saturating_sub(low)));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;
    use crate::config::create_guest_memory;

    #[test]
    fn memory_leaves_out_the_hole() {
        const GIB: u64 = 1 << 30;
        assert_eq!(ranges(64 << 20), [(GuestAddress(0), 64 << 20)]);
        assert_eq!(ranges(3 * GIB), [(GuestAddress(0), 3 * GIB)]);
        assert_eq!(ranges(5 * GIB), [(GuestAddress(0), 3 * GIB), (GuestAddress(4 * GIB), 2 * GIB)]);
    }

    #[test]
    fn the_part_above_the_hole_follows_in_the_file() {
        let fd = create_guest_memory(3073).unwrap();
        let file = File::from(fd.try_clone().unwrap());
        let memory = map(fd, 3073).unwrap();
        memory.write_slice(b"above", GuestAddress(4 << 30)).unwrap();
        let mut bytes = [0; 5];
        file.read_exact_at(&mut bytes, 3 << 30).unwrap();
        assert_eq!(&bytes, b"above");
        assert!(!memory.address_in_range(GuestAddress(3 << 30)));
        assert!(!memory.address_in_range(GuestAddress((4 << 30) + (1 << 20))));
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let error = map(create_guest_memory(64).unwrap(), 65).unwrap_err();
        assert!(matches!(error, MemoryError::WrongSize { .. }), "{error}");
        assert!(map(File::open("/dev/null").unwrap().into(), 64).is_err());
    }
}
