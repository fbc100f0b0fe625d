//! A walk of the guest's page tables in long mode, as the CPU does it for the kernel (Intel SDM volume 3, chapter 4).
//!
//! An access that the CPU would refuse is a [`PageFault`] for the guest, which relies on it: a signal frame is written
//! to a user stack that may not be there yet, or may be shared since a fork. Accessed and dirty bits are set, since the
//! guest decides by them what it may throw away.
//!
//! The tables belong to the guest: an entry can point anywhere, which reads as a failure, and the walk has a fixed depth.

use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::kvm_sregs;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory};

/// Bits of a page-table entry.
mod entry {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITABLE: u64 = 1 << 1;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// Bits of a page fault's error code.
mod fault {
    pub const PROTECTION: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
}

const CR0_WRITE_PROTECT: u64 = 1 << 16;
const CR4_LA57: u64 = 1 << 12;

/// Bytes of the smallest page.
const PAGE_SIZE: u64 = 4096;

/// What is done to the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written.
    Write,
}

/// Why an address has no memory behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The CPU would raise a page fault with this address and error code.
    Fault {
        /// The linear address, for CR2.
        address: u64,
        /// The error code.
        code: u32,
    },
    /// A table or the page is outside the guest's memory.
    NotMemory,
}

/// A run of bytes in guest memory.
pub type Run = (GuestAddress, usize);

/// Translates the `length` bytes at linear address `address` for an access by the guest's kernel.
///
/// # Errors
/// [`WalkError`]; then nothing but accessed bits has changed.
pub fn translate(
    memory: &GuestMemoryMmap,
    sregs: &kvm_sregs,
    address: u64,
    length: usize,
    access: Access,
) -> Result<Vec<Run>, WalkError> {
    let mut runs = Vec::new();
    let mut at = address;
    let mut left = u64::try_from(length).map_err(|_| WalkError::NotMemory)?;
    while left > 0 {
        let physical = walk(memory, sregs, at, access)?;
        let in_page = (PAGE_SIZE - at % PAGE_SIZE).min(left);
        runs.push((GuestAddress(physical), usize::try_from(in_page).map_err(|_| WalkError::NotMemory)?));
        at = at.wrapping_add(in_page);
        left = left.saturating_sub(in_page);
    }
    Ok(runs)
}

/// Walks to the physical address of one byte.
fn walk(memory: &GuestMemoryMmap, sregs: &kvm_sregs, address: u64, access: Access) -> Result<u64, WalkError> {
    let levels: u32 = if sregs.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
    let mut table = sregs.cr3 & entry::ADDRESS;
    let mut writable = true;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let slot = table | ((address >> shift) & 0x1ff) << 3;
        let value = atomic(memory, slot)?.load(Ordering::SeqCst);
        if value & entry::PRESENT == 0 {
            return Err(page_fault(address, access, 0));
        }
        writable &= value & entry::WRITABLE != 0;
        let last = level == 0 || (level <= 2 && value & entry::LARGE != 0);
        if !last {
            set(memory, slot, entry::ACCESSED)?;
            table = value & entry::ADDRESS;
            continue;
        }
        let protected = sregs.cr0 & CR0_WRITE_PROTECT != 0;
        if access == Access::Write && !writable && protected {
            return Err(page_fault(address, access, fault::PROTECTION));
        }
        set(memory, slot, if access == Access::Write { entry::ACCESSED | entry::DIRTY } else { entry::ACCESSED })?;
        let within = (1_u64 << shift) - 1;
        return Ok(value & entry::ADDRESS & !within | address & within);
    }
    Err(WalkError::NotMemory)
}

fn page_fault(address: u64, access: Access, code: u32) -> WalkError {
    let write = if access == Access::Write { fault::WRITE } else { 0 };
    WalkError::Fault { address, code: code | write }
}

/// Sets bits of an entry that another vCPU may be changing.
fn set(memory: &GuestMemoryMmap, slot: u64, bits: u64) -> Result<(), WalkError> {
    let value = atomic(memory, slot)?;
    // Most entries have them already; a locked write would make the page dirty for nothing.
    if value.load(Ordering::SeqCst) & bits != bits {
        value.fetch_or(bits, Ordering::SeqCst);
    }
    Ok(())
}

/// The entry at a physical address, as an atomic.
fn atomic(memory: &GuestMemoryMmap, slot: u64) -> Result<&AtomicU64, WalkError> {
    let (region, offset) = memory.to_region_addr(GuestAddress(slot)).ok_or(WalkError::NotMemory)?;
    let offset = usize::try_from(offset.raw_value()).map_err(|_| WalkError::NotMemory)?;
    region.get_atomic_ref::<AtomicU64>(offset).map_err(|_| WalkError::NotMemory)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::Bytes;

    use super::*;

    const TABLES: u64 = 0x1000;
    const LINEAR: u64 = 0xffff_8880_0000_3ff0;

    /// 1 MiB of memory in which `LINEAR` is mapped by four tables at 0x1000, 0x2000, 0x3000, 0x4000: its page to 0x8000
    /// and the next to 0x6000, both with `flags`.
    fn mapped(flags: u64) -> (GuestMemoryMmap, kvm_sregs) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        for level in 0..3_u64 {
            let index = (LINEAR >> (39 - 9 * level)) & 0x1ff;
            let next = TABLES + (level + 1) * 0x1000;
            let value = next | entry::PRESENT | entry::WRITABLE;
            memory.write_obj(value, GuestAddress(TABLES + level * 0x1000 + index * 8)).unwrap();
        }
        for (page, target) in [(3_u64, 0x8000_u64), (4, 0x6000)] {
            memory.write_obj(target | flags, GuestAddress(0x4000 + page * 8)).unwrap();
        }
        let sregs = kvm_sregs { cr3: TABLES, cr0: CR0_WRITE_PROTECT, ..kvm_sregs::default() };
        (memory, sregs)
    }

    #[test]
    fn an_area_across_two_pages_is_two_runs() {
        let (memory, sregs) = mapped(entry::PRESENT | entry::WRITABLE);
        let runs = translate(&memory, &sregs, LINEAR, 0x40, Access::Write).unwrap();
        assert_eq!(runs, [(GuestAddress(0x8ff0), 0x10), (GuestAddress(0x6000), 0x30)]);
        let leaf: u64 = memory.read_obj(GuestAddress(0x4018)).unwrap();
        assert_eq!(leaf & (entry::ACCESSED | entry::DIRTY), entry::ACCESSED | entry::DIRTY);
    }

    #[test]
    fn reading_does_not_make_a_page_dirty() {
        let (memory, sregs) = mapped(entry::PRESENT);
        translate(&memory, &sregs, LINEAR, 8, Access::Read).unwrap();
        let leaf: u64 = memory.read_obj(GuestAddress(0x4018)).unwrap();
        assert_eq!(leaf & (entry::ACCESSED | entry::DIRTY), entry::ACCESSED);
    }

    #[test]
    fn faults_are_those_of_the_cpu() {
        let (memory, sregs) = mapped(0);
        let missing = translate(&memory, &sregs, LINEAR, 8, Access::Write);
        assert_eq!(missing, Err(WalkError::Fault { address: LINEAR, code: fault::WRITE }));
        let (memory, mut sregs) = mapped(entry::PRESENT);
        let shared = translate(&memory, &sregs, LINEAR, 8, Access::Write);
        assert_eq!(shared, Err(WalkError::Fault { address: LINEAR, code: fault::WRITE | fault::PROTECTION }));
        sregs.cr0 = 0;
        assert!(translate(&memory, &sregs, LINEAR, 8, Access::Write).is_ok(), "the kernel may write without CR0.WP");
    }

    #[test]
    fn the_second_page_of_an_area_can_fault() {
        let (memory, sregs) = mapped(entry::PRESENT | entry::WRITABLE);
        memory.write_obj(0_u64, GuestAddress(0x4020)).unwrap();
        let result = translate(&memory, &sregs, LINEAR, 0x40, Access::Read);
        assert_eq!(result, Err(WalkError::Fault { address: LINEAR + 0x10, code: 0 }));
    }

    #[test]
    fn large_pages_end_the_walk() {
        let (memory, sregs) = mapped(entry::PRESENT);
        let large = 0x20_0000 | entry::PRESENT | entry::LARGE;
        memory.write_obj(large, GuestAddress(0x3000)).unwrap();
        let runs = translate(&memory, &sregs, LINEAR, 0x10, Access::Read).unwrap();
        assert_eq!(runs, [(GuestAddress(0x20_3ff0), 0x10)]);
    }

    #[test]
    fn tables_outside_memory_are_no_memory() {
        let (memory, mut sregs) = mapped(entry::PRESENT);
        sregs.cr3 = 1 << 40;
        assert_eq!(translate(&memory, &sregs, LINEAR, 8, Access::Read), Err(WalkError::NotMemory));
    }

    proptest! {
        #[test]
        fn random_tables_never_panic(words in prop::collection::vec(any::<u64>(), 512), address in any::<u64>(), length in 0_usize..8192) {
            let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
            for (index, word) in words.iter().enumerate() {
                // Keep half of the pointers inside the memory, so that walks get deep.
                let word = if index % 2 == 0 { *word & 0xffff } else { *word };
                memory.write_obj(word, GuestAddress(index as u64 * 128 % (1 << 16))).unwrap();
            }
            let sregs = kvm_sregs { cr3: address & 0xf000, ..kvm_sregs::default() };
            let _ = translate(&memory, &sregs, address, length, Access::Write);
        }
    }
}
