//! The registers with which the first processor starts, and the tables in memory that they refer to: long mode, flat
//! segments, the first GiB of memory mapped one to one (Linux `boot.rst`, "64-bit Boot Protocol").

use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;

/// Segment descriptors (Intel SDM volume 3, section 3.4.5): 64-bit code, data, and a task state that nobody uses but
/// that the CPU insists on. The selectors are the ones that the boot protocol fixes (`__BOOT_CS`, `__BOOT_DS`).
const CODE: (u16, u64) = (0x10, 0x00af_9b00_0000_ffff);
const DATA: (u16, u64) = (0x18, 0x00cf_9300_0000_ffff);
const TASK: (u16, u64) = (0x20, 0x008f_8b00_0000_ffff);

/// CR0: protection, extension type, paging; CR4: physical address extension; EFER: long mode enabled and active.
const CR0: u64 = 1 << 31 | 1 << 4 | 1;
const CR4: u64 = 1 << 5;
const EFER: u64 = 1 << 10 | 1 << 8;

/// RFLAGS: the bit that is always set. Interrupts are off.
const RFLAGS: u64 = 1 << 1;

/// Page table entries: present and writable; for the last level, a large page.
const TABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 0b1000_0011;
const LARGE_PAGE_SIZE: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// The reset values of the FPU's control word and of MXCSR.
const FPU_CONTROL: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

/// Writes GDT and page tables.
pub(super) fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    for (selector, descriptor) in [(0, 0), CODE, DATA, TASK] {
        let address = layout::GDT.saturating_add(u64::from(selector));
        memory.write_obj(descriptor.to_le(), GuestAddress(address))?;
    }
    let [top, pointers, directory] = [0, 1, 2].map(|page| layout::PAGE_TABLES.saturating_add(page * PAGE));
    memory.write_obj(pointers | TABLE, GuestAddress(top))?;
    memory.write_obj(directory | TABLE, GuestAddress(pointers))?;
    for index in 0..layout::MAPPED / LARGE_PAGE_SIZE {
        let entry = index.saturating_mul(LARGE_PAGE_SIZE) | LARGE_PAGE;
        memory.write_obj(entry, GuestAddress(directory.saturating_add(index.saturating_mul(8))))?;
    }
    Ok(())
}

/// Changes a vCPU's segment and control registers, as KVM has them after a reset, to those of a start in long mode.
pub(super) fn set_system_registers(registers: &mut kvm_sregs) {
    let data = segment(DATA);
    registers.cs = segment(CODE);
    (registers.ds, registers.es, registers.fs, registers.gs, registers.ss) = (data, data, data, data, data);
    registers.tr = segment(TASK);
    registers.gdt.base = layout::GDT;
    registers.gdt.limit = TASK.0 | 7;
    // There are no handlers: what goes wrong before the kernel has its own is a triple fault.
    registers.idt.base = 0;
    registers.idt.limit = 0;
    registers.cr0 = CR0;
    registers.cr3 = layout::PAGE_TABLES;
    registers.cr4 = CR4;
    registers.efer = EFER;
}

/// The registers of a start at `entry`: RSI holds the address of the boot parameters.
pub(super) fn general(entry: GuestAddress) -> kvm_regs {
    kvm_regs {
        rip: entry.raw_value(),
        rsi: layout::BOOT_PARAMS,
        // The kernel brings its own stack; until then this one, below the boot parameters, is as good as any.
        rsp: layout::BOOT_PARAMS,
        rflags: RFLAGS,
        ..kvm_regs::default()
    }
}

/// The FPU after a reset.
pub(super) fn fpu() -> kvm_fpu {
    kvm_fpu { fcw: FPU_CONTROL, mxcsr: MXCSR, ..kvm_fpu::default() }
}

/// KVM's form of a segment: a selector and its unpacked descriptor.
fn segment((selector, descriptor): (u16, u64)) -> kvm_segment {
    let bit = |place: u32| u8::from(descriptor >> place & 1 == 1);
    let granularity = bit(55);
    let limit = u32::try_from(descriptor & 0xffff | descriptor >> 32 & 0xf_0000).unwrap_or_default();
    kvm_segment {
        base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
        limit: if granularity == 1 { limit << 12 | 0xfff } else { limit },
        selector,
        type_: u8::try_from(descriptor >> 40 & 0xf).unwrap_or_default(),
        s: bit(44),
        dpl: bit(45) | bit(46) << 1,
        present: bit(47),
        avl: bit(52),
        l: bit(53),
        db: bit(54),
        g: granularity,
        unusable: 0,
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_flat_and_code_is_64_bit() {
        let code = segment(CODE);
        assert_eq!((code.base, code.limit, code.l, code.db, code.s, code.present), (0, u32::MAX, 1, 0, 1, 1));
        assert_eq!((code.selector, code.type_, code.dpl), (0x10, 0xb, 0));
        let data = segment(DATA);
        assert_eq!((data.base, data.limit, data.type_, data.s), (0, u32::MAX, 3, 1));
        let task = segment(TASK);
        assert_eq!((task.type_, task.s, task.present), (0xb, 0, 1));
    }

    #[test]
    fn the_first_gib_is_mapped_one_to_one() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&memory).unwrap();
        let read = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        let table = |entry: u64| {
            assert_eq!(entry & 0xfff, TABLE);
            entry & !0xfff
        };
        let directory = table(read(table(read(layout::PAGE_TABLES))));
        assert_eq!(read(directory), LARGE_PAGE);
        assert_eq!(read(directory + 511 * 8), (511 * LARGE_PAGE_SIZE) | LARGE_PAGE);
        assert_eq!(read(layout::GDT + 0x10), CODE.1);
    }
}
