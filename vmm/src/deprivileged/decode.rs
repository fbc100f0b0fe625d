//! Instruction bytes to an operation and its memory operand, in 64-bit mode (Intel SDM volume 2, chapter 2).
//!
//! Only the operations that are completed are known; every other instruction, and every form of these that is not
//! understood, is `None`. The bytes come from the guest: nothing here assumes that there are enough of them.

use kvm_bindings::{kvm_regs, kvm_sregs};

/// What an instruction does, as far as it is completed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `int3`: in a kernel, an assertion that failed.
    Breakpoint,
    /// `fwait`: waits for x87 exceptions, which the kernel leaves masked.
    Wait,
    /// `xsave64`.
    Save,
    /// `xrstor64`.
    Restore,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub operation: Operation,
    /// How many bytes it has.
    pub length: u8,
    /// The linear address of its memory operand; 0 without one.
    pub address: u64,
}

/// The prefixes of an instruction.
#[derive(Clone, Copy, Debug, Default)]
struct Prefixes {
    rex: u8,
    address_32: bool,
    segment_base: u64,
}

/// The bytes of an instruction, and how many were taken.
struct Cursor<'a> {
    bytes: &'a [u8],
    taken: u8,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(usize::from(self.taken))?;
        self.taken = self.taken.checked_add(1)?;
        Some(byte)
    }

    fn displacement_8(&mut self) -> Option<u64> {
        Some(i64::from(self.byte()?.cast_signed()).cast_unsigned())
    }

    fn displacement_32(&mut self) -> Option<u64> {
        let bytes = [self.byte()?, self.byte()?, self.byte()?, self.byte()?];
        Some(i64::from(i32::from_le_bytes(bytes)).cast_unsigned())
    }
}

/// Decodes the instruction at `regs.rip`, of which `bytes` are known.
pub fn decode(bytes: &[u8], regs: &kvm_regs, sregs: &kvm_sregs) -> Option<Instruction> {
    let mut cursor = Cursor { bytes, taken: 0 };
    let (prefixes, opcode) = prefixes(&mut cursor, sregs)?;
    match opcode {
        0xcc => Some(without_operand(Operation::Breakpoint, &cursor)),
        0x9b => Some(without_operand(Operation::Wait, &cursor)),
        0x0f if cursor.byte()? == 0xae => extended_state(&mut cursor, prefixes, regs),
        _ => None,
    }
}

fn without_operand(operation: Operation, cursor: &Cursor<'_>) -> Instruction {
    Instruction { operation, length: cursor.taken, address: 0 }
}

/// Takes the prefixes and the first byte of the opcode. `66`, `f2` and `f3` make other instructions of `0f ae`, and
/// `lock` is not allowed there, so they end the decoding.
fn prefixes(cursor: &mut Cursor<'_>, sregs: &kvm_sregs) -> Option<(Prefixes, u8)> {
    let mut prefixes = Prefixes::default();
    loop {
        match cursor.byte()? {
            0x67 => prefixes.address_32 = true,
            0x64 => prefixes.segment_base = sregs.fs.base,
            0x65 => prefixes.segment_base = sregs.gs.base,
            // Segment overrides without effect in 64-bit mode.
            0x26 | 0x2e | 0x36 | 0x3e => {}
            // REX must come last: the next byte is the opcode.
            rex @ 0x40..=0x4f => {
                prefixes.rex = rex;
                return Some((prefixes, cursor.byte()?));
            }
            opcode => return Some((prefixes, opcode)),
        }
    }
}

/// The group `0f ae` with a memory operand: `/4` is `xsave64`, `/5` is `xrstor64`.
fn extended_state(cursor: &mut Cursor<'_>, prefixes: Prefixes, regs: &kvm_regs) -> Option<Instruction> {
    let modrm = cursor.byte()?;
    let operation = match (modrm >> 3) & 7 {
        // Without REX.W the x87 pointers have another form, which no 64-bit kernel uses.
        _ if prefixes.rex & 0b1000 == 0 => return None,
        4 => Operation::Save,
        5 => Operation::Restore,
        _ => return None,
    };
    let offset = effective_address(cursor, modrm, prefixes.rex, regs)?;
    let offset = if prefixes.address_32 { offset & 0xffff_ffff } else { offset };
    Some(Instruction { operation, length: cursor.taken, address: prefixes.segment_base.wrapping_add(offset) })
}

/// The effective address of a ModRM memory operand; these instructions have no immediate bytes behind it.
fn effective_address(cursor: &mut Cursor<'_>, modrm: u8, rex: u8, regs: &kvm_regs) -> Option<u64> {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let base = match (mode, rm) {
        (3, _) => return None,
        (0, 5) => {
            let displacement = cursor.displacement_32()?;
            return Some(regs.rip.wrapping_add(u64::from(cursor.taken)).wrapping_add(displacement));
        }
        (_, 4) => scaled_address(cursor, mode, rex, regs)?,
        (_, rm) => register(regs, rm | (rex & 1) << 3),
    };
    let displacement = match mode {
        1 => cursor.displacement_8()?,
        2 => cursor.displacement_32()?,
        _ => 0,
    };
    Some(base.wrapping_add(displacement))
}

/// Base and scaled index of a SIB byte.
fn scaled_address(cursor: &mut Cursor<'_>, mode: u8, rex: u8, regs: &kvm_regs) -> Option<u64> {
    let sib = cursor.byte()?;
    let (scale, index, base) = (sib >> 6, (sib >> 3) & 7 | (rex & 2) << 2, sib & 7);
    let index = if index == 4 { 0 } else { register(regs, index) << scale };
    let base = match (base, mode) {
        (5, 0) => cursor.displacement_32()?,
        (base, _) => register(regs, base | (rex & 1) << 3),
    };
    Some(base.wrapping_add(index))
}

/// A general register by its number in an instruction (only the low four bits are looked at).
fn register(regs: &kvm_regs, number: u8) -> u64 {
    match number & 15 {
        0 => regs.rax,
        1 => regs.rcx,
        2 => regs.rdx,
        3 => regs.rbx,
        4 => regs.rsp,
        5 => regs.rbp,
        6 => regs.rsi,
        7 => regs.rdi,
        8 => regs.r8,
        9 => regs.r9,
        10 => regs.r10,
        11 => regs.r11,
        12 => regs.r12,
        13 => regs.r13,
        14 => regs.r14,
        _ => regs.r15,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> (kvm_regs, kvm_sregs) {
        let regs = kvm_regs {
            rax: 0x1000,
            rbx: 0x2_0000,
            rbp: 0x30_0000,
            rsp: 0x400_0000,
            rdi: 0x5000_0000,
            r12: 0x6_0000_0000,
            r13: 0x70_0000_0000,
            rip: 0xffff_ffff_8100_0000,
            ..kvm_regs::default()
        };
        let mut sregs = kvm_sregs::default();
        sregs.gs.base = 0xffff_8880_0000_0000;
        (regs, sregs)
    }

    fn decoded(bytes: &[u8]) -> Option<(Operation, u8, u64)> {
        let (regs, sregs) = state();
        decode(bytes, &regs, &sregs).map(|i| (i.operation, i.length, i.address))
    }

    // The byte strings below were assembled with binutils.
    #[test]
    fn every_form_of_memory_operand_is_understood() {
        use Operation::{Restore, Save};
        let cases: [(&[u8], Operation, u64); 10] = [
            (&[0x48, 0x0f, 0xae, 0x27], Save, 0x5000_0000),          // xsave64 [rdi]
            (&[0x48, 0x0f, 0xae, 0x2f], Restore, 0x5000_0000),       // xrstor64 [rdi]
            (&[0x48, 0x0f, 0xae, 0x60, 0x40], Save, 0x1040),         // xsave64 [rax+0x40]
            (&[0x48, 0x0f, 0xae, 0x65, 0xc0], Save, 0x2f_ffc0),      // xsave64 [rbp-0x40]
            (&[0x48, 0x0f, 0xae, 0xa3, 0, 0, 1, 0], Save, 0x3_0000), // xsave64 [rbx+0x10000]
            (&[0x48, 0x0f, 0xae, 0x24, 0x24], Save, 0x400_0000),     // xsave64 [rsp]
            (&[0x49, 0x0f, 0xae, 0x24, 0x24], Save, 0x6_0000_0000),  // xsave64 [r12]
            (&[0x49, 0x0f, 0xae, 0x65, 0x00], Save, 0x70_0000_0000), // xsave64 [r13]
            (&[0x48, 0x0f, 0xae, 0x64, 0xc3, 0x08], Save, 0x2_8008), // xsave64 [rbx+rax*8+8]
            (&[0x4a, 0x0f, 0xae, 0x24, 0x63], Save, 0xc_0002_0000),  // xsave64 [rbx+r12*2]
        ];
        for (bytes, operation, address) in cases {
            let length = u8::try_from(bytes.len()).unwrap();
            assert_eq!(decoded(bytes), Some((operation, length, address)), "{bytes:02x?}");
        }
    }

    #[test]
    fn rip_relative_addresses_count_from_the_next_instruction() {
        let bytes = [0x48, 0x0f, 0xae, 0x25, 0x10, 0, 0, 0];
        assert_eq!(decoded(&bytes), Some((Operation::Save, 8, 0xffff_ffff_8100_0018)));
    }

    #[test]
    fn segment_and_address_size_prefixes_are_honoured() {
        let gs = decoded(&[0x65, 0x48, 0x0f, 0xae, 0x20]);
        assert_eq!(gs, Some((Operation::Save, 5, 0xffff_8880_0000_1000)));
        let narrow = decoded(&[0x67, 0x49, 0x0f, 0xae, 0x24, 0x24]);
        assert_eq!(narrow, Some((Operation::Save, 6, 0)));
    }

    #[test]
    fn absolute_addresses_without_base_or_index() {
        let bytes = [0x48, 0x0f, 0xae, 0x24, 0x25, 0x00, 0x10, 0x00, 0x80];
        assert_eq!(decoded(&bytes), Some((Operation::Save, 9, 0xffff_ffff_8000_1000)));
    }

    #[test]
    fn other_instructions_are_refused() {
        let others: [&[u8]; 9] = [
            &[0x0f, 0xae, 0x27],             // xsave [rdi]
            &[0x48, 0x0f, 0xc7, 0x27],       // xsavec64 [rdi]
            &[0x48, 0x0f, 0xae, 0x37],       // xsaveopt64 [rdi]
            &[0x0f, 0xae, 0xe8],             // lfence
            &[0x66, 0x0f, 0xae, 0x27],       // another instruction by its prefix
            &[0xf0, 0x48, 0x0f, 0xae, 0x27], // lock is not allowed
            &[0x48, 0x0f, 0xae],             // cut
            &[0x48, 0x0f, 0xae, 0xa3, 0, 0], // cut
            &[],
        ];
        for bytes in others {
            assert_eq!(decoded(bytes), None, "{bytes:02x?}");
        }
    }

    #[test]
    fn breakpoint_and_wait() {
        assert_eq!(decoded(&[0xcc, 0x90]), Some((Operation::Breakpoint, 1, 0)));
        assert_eq!(decoded(&[0x9b]), Some((Operation::Wait, 1, 0)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            if let Some((_, length, _)) = decoded(&bytes) {
                prop_assert!(length >= 1 && usize::from(length) <= bytes.len());
            }
        }
    }
}
