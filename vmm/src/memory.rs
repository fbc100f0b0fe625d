//! Guest memory: the runtime's memfd, and files that the guest reads as memory, mapped shared into this process.
//!
//! The guest's physical memory starts at 0 and leaves out the hole below 4 GiB in which devices sit; what does not fit
//! below the hole continues at 4 GiB. In the memfd both parts lie one behind the other.
//!
//! Files (persistent memory, [`crate::devices::virtio::pmem`]) follow at the next multiples of 1 GiB. They are mapped
//! read-only: neither the guest nor this process can write them, and all microVMs with one file share its pages. A page
//! of a mapping that its file no longer has is fatal for who touches it, so the runtime gives only files that never
//! shrink; their length is checked here once.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionCollectionError,
    GuestRegionMmap, MmapRegion, VolatileSlice,
};

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
    /// A file for persistent memory is none that can be mapped.
    #[error("The file of persistent memory {0:?} isn't a regular file")]
    NotRegular(String),
    /// A file for persistent memory is too short.
    #[error("The file of persistent memory {id:?} is {actual} bytes long instead of at least {expected}")]
    TooShort {
        /// The device.
        id: String,
        /// What the description says.
        expected: u64,
        /// What the file has.
        actual: u64,
    },
    /// There are no addresses left.
    #[error(
        "This CPU's physical addresses ({bits} bits) don't reach over persistent memory {id:?}, which would end at {end:#x}: use less memory"
    )]
    TooFar {
        /// The device.
        id: String,
        /// Where it would end.
        end: u64,
        /// How many bits an address has.
        bits: u8,
    },
    /// A file for persistent memory can't be mapped.
    #[error("The file of persistent memory {id:?} can't be mapped")]
    MapFile {
        /// The device.
        id: String,
        /// The reason.
        #[source]
        source: MmapRegionError,
    },
    /// The window for an image can't be mapped.
    #[error("The window for an image can't be mapped")]
    MapWindow(#[source] io::Error),
    /// The mappings are in each other's way.
    #[error("Persistent memory can't be placed")]
    Place(#[from] GuestRegionCollectionError),
}

/// All that a guest sees as memory. Dereferences to what it may write; a device that reads what the guest points to looks
/// into the files too ([`Self::readable_slices`]), and a device that writes can't hit them.
#[derive(Clone, Debug)]
pub struct GuestMemory {
    ram: GuestMemoryMmap,
    files: GuestMemoryMmap,
}

impl GuestMemory {
    /// Memory, and files that can be read as such; the files come from [`Files::place`].
    #[must_use]
    pub fn new(ram: GuestMemoryMmap, files: GuestMemoryMmap) -> Self {
        Self { ram, files }
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &GuestMemoryMmap {
        &self.files
    }

    /// Whether what the guest may write is mapped privately, and not a file that has its pages.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.ram.iter().all(|region| region.flags() & libc::MAP_PRIVATE != 0)
    }

    /// Adds the slices of a buffer that a device writes. `None` when it isn't memory, or a file.
    pub fn writable_slices<'m>(
        &'m self,
        start: GuestAddress,
        length: usize,
        to: &mut Vec<VolatileSlice<'m>>,
    ) -> Option<()> {
        slices(&self.ram, start, length, to)
    }

    /// Adds the slices of a buffer that a device reads, for which a part of a file will do: a program can write a file
    /// that it has mapped. `None` when it is neither.
    pub fn readable_slices<'m>(
        &'m self,
        start: GuestAddress,
        length: usize,
        to: &mut Vec<VolatileSlice<'m>>,
    ) -> Option<()> {
        slices(&self.ram, start, length, to).or_else(|| slices(&self.files, start, length, to))
    }
}

impl From<GuestMemoryMmap> for GuestMemory {
    fn from(ram: GuestMemoryMmap) -> Self {
        Self { ram, files: GuestMemoryMmap::default() }
    }
}

impl Deref for GuestMemory {
    type Target = GuestMemoryMmap;

    fn deref(&self) -> &GuestMemoryMmap {
        &self.ram
    }
}

/// Adds the slices of a buffer in `memory` to `to`, or none of them.
fn slices<'m>(
    memory: &'m GuestMemoryMmap,
    start: GuestAddress,
    length: usize,
    to: &mut Vec<VolatileSlice<'m>>,
) -> Option<()> {
    let before = to.len();
    for slice in memory.get_slices(start, length) {
        let Ok(slice) = slice else {
            to.truncate(before);
            return None;
        };
        to.push(slice);
    }
    Some(())
}

/// Files that a guest reads as memory, in the order of their addresses.
#[derive(Debug)]
pub struct Files {
    /// Where the next file may start.
    next: u64,
    /// How many bits the CPU's physical addresses have.
    address_bits: u8,
    regions: Vec<GuestRegionMmap>,
}

impl Files {
    /// Files behind `ram`, on a CPU with this many bits of physical address.
    #[must_use]
    pub fn behind(ram: &GuestMemoryMmap, address_bits: u8) -> Self {
        let end = ram.last_addr().raw_value().saturating_add(1);
        Self { next: end.max(layout::HOLE_END), address_bits, regions: Vec::new() }
    }

    /// Maps the first `length` bytes of `file` and says where the guest finds them.
    ///
    /// # Errors
    /// When the file is not regular or too short, there are no addresses left, or it can't be mapped.
    pub fn place(&mut self, id: &str, file: File, length: u64) -> Result<GuestAddress, MemoryError> {
        let metadata = file.metadata().map_err(MemoryError::Size)?;
        if !metadata.is_file() {
            return Err(MemoryError::NotRegular(id.into()));
        }
        let too_short = || MemoryError::TooShort { id: id.into(), expected: length, actual: metadata.len() };
        let size = usize::try_from(length).ok().filter(|_| metadata.len() >= length).ok_or_else(too_short)?;
        let start = self.reserve(id, length)?;
        let offset = Some(FileOffset::new(file, 0));
        let mapping = MmapRegion::build(offset, size, libc::PROT_READ, libc::MAP_SHARED | libc::MAP_NORESERVE);
        let mapping = mapping.map_err(|source| MemoryError::MapFile { id: id.into(), source })?;
        self.add(id, start, mapping)
    }

    /// Has a range of `length` bytes that holds the first bytes of a file, if there is one, and zeros behind them. Says where the
    /// guest finds it.
    ///
    /// # Errors
    /// As [`Self::place`]; also when the file's part is longer than the range.
    pub fn place_window(&mut self, length: u64, file: Option<(File, u64)>) -> Result<GuestAddress, MemoryError> {
        let id = "window";
        let failed = |source: io::Error| MemoryError::MapWindow(source);
        let size = usize::try_from(length).map_err(|_| failed(Errno::EOVERFLOW.into()))?;
        let start = self.reserve(id, length)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let mapping = MmapRegion::build(None, size, libc::PROT_READ, flags);
        let mapping = mapping.map_err(|source| MemoryError::MapFile { id: id.into(), source })?;
        if let Some((file, part)) = file {
            let metadata = file.metadata().map_err(MemoryError::Size)?;
            if !metadata.is_file() {
                return Err(MemoryError::NotRegular(id.into()));
            }
            if metadata.len() < part || part > length {
                let actual = metadata.len().min(length);
                return Err(MemoryError::TooShort { id: id.into(), expected: part, actual });
            }
            let part = Part { place: 0, length: part, offset: 0 };
            map_over(&mapping, &file, part, libc::PROT_READ, libc::MAP_SHARED).map_err(failed)?;
        }
        self.add(id, start, mapping)
    }

    /// The next free range of so many bytes.
    fn reserve(&mut self, id: &str, length: u64) -> Result<u64, MemoryError> {
        let too_far = |end| MemoryError::TooFar { id: id.into(), end, bits: self.address_bits };
        let start = self.next.checked_next_multiple_of(layout::FILE_ALIGNMENT).ok_or_else(|| too_far(u64::MAX))?;
        let end = start.checked_add(length).ok_or_else(|| too_far(u64::MAX))?;
        let last = end.saturating_sub(1);
        if last.checked_shr(self.address_bits.into()).unwrap_or(0) > 0 {
            return Err(too_far(end));
        }
        self.next = end;
        Ok(start)
    }

    fn add(&mut self, id: &str, start: u64, mapping: MmapRegion) -> Result<GuestAddress, MemoryError> {
        let too_far = || MemoryError::TooFar { id: id.into(), end: u64::MAX, bits: self.address_bits };
        self.regions.push(GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or_else(too_far)?);
        Ok(GuestAddress(start))
    }

    /// The files that were placed.
    ///
    /// # Errors
    /// When they overlap.
    pub fn finish(self) -> Result<GuestMemoryMmap, MemoryError> {
        if self.regions.is_empty() {
            return Ok(GuestMemoryMmap::default());
        }
        Ok(GuestMemoryMmap::from_regions(self.regions)?)
    }
}

/// A part of a file, and its place in a mapping, all in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Where it goes, from the start of the mapping.
    pub place: u64,
    /// How long it is.
    pub length: u64,
    /// Where it is in the file.
    pub offset: u64,
}

/// Where a part of `region` is, and how long; refused where it isn't within the region.
fn range(region: &MmapRegion, place: u64, length: u64) -> io::Result<(*mut libc::c_void, usize)> {
    let (Ok(place), Ok(length)) = (usize::try_from(place), usize::try_from(length)) else {
        return Err(Errno::EOVERFLOW.into());
    };
    if place.checked_add(length).is_none_or(|end| end > region.size()) {
        return Err(Errno::EINVAL.into());
    }
    Ok((region.as_ptr().wrapping_add(place).cast(), length))
}

/// Maps a part of a file into `region`, which has just been mapped and nobody uses.
///
/// # Errors
/// When it doesn't fit into the region, or can't be mapped.
#[expect(unsafe_code, reason = "mmap over a mapping of ours")]
pub(crate) fn map_over(region: &MmapRegion, file: &File, part: Part, protection: i32, sharing: i32) -> io::Result<()> {
    let offset = libc::off_t::try_from(part.offset).map_err(|_| Errno::EOVERFLOW)?;
    let (address, length) = range(region, part.place, part.length)?;
    let flags = sharing | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the range lies within `region`, a mapping that belongs to it alone and that nothing refers into yet, and is
    // unmapped with it.
    let mapped = unsafe { libc::mmap(address, length, protection, flags, file.as_raw_fd(), offset) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has a part of `region` at hand for writing: of what is mapped privately this process gets copies of its own.
///
/// # Errors
/// When it isn't within the region, or the kernel can't (Linux before 5.14).
#[expect(unsafe_code, reason = "madvise of a mapping of ours")]
pub(crate) fn populate(region: &MmapRegion, place: u64, length: u64) -> io::Result<()> {
    let (address, length) = range(region, place, length)?;
    // SAFETY: the range lies within `region`, which is mapped. The advice changes no content.
    let advised = unsafe { libc::madvise(address, length, libc::MADV_POPULATE_WRITE) };
    Ok(Errno::result(advised).map(drop)?)
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
pub(crate) fn ranges(size: u64) -> Vec<(GuestAddress, u64)> {
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

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use vm_memory::Bytes;

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
    fn a_window_holds_a_file_and_zeros_behind_it() {
        let ram = ram(64);
        let mut files = Files::behind(&ram, 39);
        let start = files.place_window(8 << 20, Some((image(4 << 20), 2 << 20))).unwrap();
        let other = files.place("other", image(2 << 20), 2 << 20).unwrap();
        let empty = files.place_window(2 << 20, None).unwrap();
        assert!(start < other && other < empty && other.0 >= start.0 + (8 << 20));
        let files = files.finish().unwrap();
        let read = |at: GuestAddress| files.read_obj::<[u8; 5]>(at).unwrap();
        assert_eq!((&read(start), &read(other), read(empty)), (b"image", b"image", [0; 5]));
        assert_eq!(read(GuestAddress(start.0 + (8 << 20) - 5)), [0; 5]);
        let mut files = Files::behind(&ram, 39);
        assert!(matches!(
            files.place_window(2 << 20, Some((image(4 << 20), 4 << 20))),
            Err(MemoryError::TooShort { .. })
        ));
    }

    /// A file of this length that begins with "image".
    fn image(length: u64) -> File {
        let file = File::from(memfd_create(c"image", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all_at(b"image", 0).unwrap();
        file.set_len(length).unwrap();
        file
    }

    fn ram(mib: u32) -> GuestMemoryMmap {
        map(create_guest_memory(mib).unwrap(), mib).unwrap()
    }

    #[test]
    fn files_follow_the_memory_at_whole_gibibytes() {
        let mut files = Files::behind(&ram(64), 40);
        assert_eq!(files.place("a", image(4 << 20), 2 << 20).unwrap(), GuestAddress(4 << 30));
        assert_eq!(files.place("b", image(2 << 20), 2 << 20).unwrap(), GuestAddress(5 << 30));
        let files = files.finish().unwrap();
        let mut bytes = [0; 5];
        files.read_slice(&mut bytes, GuestAddress(5 << 30)).unwrap();
        assert_eq!(&bytes, b"image");
        assert!(!files.address_in_range(GuestAddress((4 << 30) + (2 << 20))));

        let mut files = Files::behind(&ram(3073), 40);
        assert_eq!(files.place("a", image(2 << 20), 2 << 20).unwrap(), GuestAddress(5 << 30));
        assert_eq!(Files::behind(&ram(64), 40).finish().unwrap().num_regions(), 0);
    }

    #[test]
    fn files_that_cannot_be_memory_are_refused() {
        let refusal = |bits, file, length| Files::behind(&ram(64), bits).place("a", file, length).unwrap_err();
        let error = refusal(40, File::open("/dev/zero").unwrap(), 2 << 20);
        assert!(matches!(error, MemoryError::NotRegular(_)), "{error}");
        let error = refusal(40, image((2 << 20) - 1), 2 << 20);
        assert!(matches!(error, MemoryError::TooShort { .. }), "{error}");
        let error = refusal(32, image(2 << 20), 2 << 20);
        assert!(matches!(error, MemoryError::TooFar { bits: 32, .. }), "{error}");
        assert!(Files::behind(&ram(64), 33).place("a", image(2 << 20), 2 << 20).is_ok());
    }

    #[test]
    fn a_device_reads_files_and_never_writes_them() {
        let mut files = Files::behind(&ram(64), 40);
        let start = files.place("a", image(2 << 20), 2 << 20).unwrap();
        let memory = GuestMemory::new(ram(64), files.finish().unwrap());
        let mut found = Vec::new();
        assert_eq!(memory.readable_slices(start, 5, &mut found), Some(()));
        let mut bytes = [0; 5];
        assert_eq!(found[0].copy_to(&mut bytes), 5);
        assert_eq!(&bytes, b"image");
        found.clear();
        assert_eq!(memory.writable_slices(start, 5, &mut found), None);
        assert_eq!(memory.readable_slices(start.unchecked_add((2 << 20) - 4), 5, &mut found), None);
        assert!(found.is_empty());
        assert_eq!(memory.writable_slices(GuestAddress(0), 5, &mut found), Some(()));
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let error = map(create_guest_memory(64).unwrap(), 65).unwrap_err();
        assert!(matches!(error, MemoryError::WrongSize { .. }), "{error}");
        assert!(map(File::open("/dev/null").unwrap().into(), 64).is_err());
    }
}
