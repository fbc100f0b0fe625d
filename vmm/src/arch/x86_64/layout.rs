//! Where things are in the guest's physical memory, and on which interrupt lines.
//!
//! ```text
//! 0x0000_0500  GDT
//! 0x0000_7000  boot parameters ("zero page")
//! 0x0000_8000  setup data: the seed of the random number generator
//! 0x0000_9000  page tables: PML4, PDPT, PD
//! 0x0002_0000  command line
//! 0x0009_fc00  MP table; from here to 1 MiB the kernel is told of no memory
//! 0x0010_0000  memory: the kernel where its ELF file says, the initramfs at the end below the hole
//! 0xc000_0000  the hole: virtio slots from 0xd000_0000, IO-APIC, KVM's own pages, local APIC
//! 0x1_0000_0000 the rest of the memory; behind it, at multiples of 1 GiB, files that are read as memory
//! ```

/// Start of the hole in memory.
pub const HOLE_START: u64 = 0xc000_0000;

/// End of the hole in memory.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// The alignment of a file that is read as memory: the largest page of the guest's linear map, and more than the
/// 128 MiB in which Linux keeps its books of memory.
pub const FILE_ALIGNMENT: u64 = 1 << 30;

/// The GDT with which a guest starts.
pub(super) const GDT: u64 = 0x500;

/// The boot parameters (`struct boot_params`), one page.
pub(super) const BOOT_PARAMS: u64 = 0x7000;

/// The setup data, one page.
pub(super) const SETUP_DATA: u64 = 0x8000;

/// The page tables with which a guest starts: three pages.
pub(super) const PAGE_TABLES: u64 = 0x9000;

/// How much memory those page tables map, from address 0; the kernel's image must lie within it.
pub(super) const MAPPED: u64 = 1 << 30;

/// The kernel's command line.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;

/// The longest command line, in bytes, without the zero that ends it (the kernel's `COMMAND_LINE_SIZE` is 2048).
pub const COMMAND_LINE_MAX: usize = 2047;

/// The MP table, in the last KiB of the 640 KiB of base memory, where a kernel looks for it; also where memory ends.
pub(super) const MP_TABLE: u64 = 0x9_fc00;

/// The room for the MP table, in bytes.
pub(super) const MP_TABLE_SIZE: usize = 0x400;

/// Where memory goes on after the hole that PCs have below 1 MiB.
pub(super) const HIGH_MEMORY: u64 = 0x10_0000;

/// The IO-APIC, where KVM has it.
pub(super) const IO_APIC: u32 = 0xfec0_0000;

/// The number of the IO-APIC's pins, which KVM fixes; each is the GSI of the same number.
pub(super) const IO_APIC_PINS: u8 = 24;

/// The local APICs, where KVM has them.
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;

/// Three pages that KVM needs for itself on Intel CPUs; the page before them becomes its identity map.
pub(super) const KVM_TSS: usize = 0xfffb_d000;

/// The size of a virtio slot's window.
pub const SLOT_SIZE: u64 = 0x1000;

const SLOTS: u64 = 0xd000_0000;
const FIRST_SLOT_GSI: u32 = 5;

/// The address and the GSI of a virtio slot; `None` when there are no lines left.
#[must_use]
pub fn slot(index: usize) -> Option<(u64, u32)> {
    let index = u32::try_from(index).ok()?;
    let gsi = FIRST_SLOT_GSI.checked_add(index).filter(|gsi| *gsi < u32::from(IO_APIC_PINS))?;
    let address = u64::from(index).checked_mul(SLOT_SIZE)?.checked_add(SLOTS)?;
    Some((address, gsi))
}

/// How many interrupt lines there are, from line 0 to that of the last of `slots` virtio slots.
pub(super) fn lines(slots: usize) -> u8 {
    let before = FIRST_SLOT_GSI.saturating_add(u32::try_from(slots).unwrap_or(u32::MAX));
    u8::try_from(before).map_or(IO_APIC_PINS, |lines| lines.min(IO_APIC_PINS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_DEVICES;

    #[test]
    fn there_is_a_slot_for_vsock_the_balloon_and_each_other_device_and_no_more() {
        assert_eq!(slot(0), Some((0xd000_0000, 5)));
        assert_eq!(slot(MAX_DEVICES + 1), Some((0xd001_2000, 23)));
        assert_eq!(slot(MAX_DEVICES + 2), None);
        assert_eq!(slot(usize::MAX), None);
    }

    #[test]
    fn the_lines_are_those_of_the_slots_and_the_ones_before() {
        assert_eq!([lines(0), lines(1), lines(MAX_DEVICES + 2), lines(usize::MAX)], [5, 6, 24, 24]);
        assert_eq!(slot(2).map(|(_, line)| line + 1), Some(u32::from(lines(3))));
    }
}
