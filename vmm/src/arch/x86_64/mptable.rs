//! The MP table (Intel MultiProcessor Specification 1.4): the processors and the interrupt lines, for a kernel that has no
//! ACPI tables to learn them from.
//!
//! All lines are those of an ISA bus, so edge-triggered, and line n is pin n of the IO-APIC, as KVM routes it. Only lines
//! that a device may have are there: a kernel sets up each that it is told of.

use super::layout;

const VERSION_1_4: u8 = 4;
/// A local APIC that is integrated into its CPU and has 8-bit ids.
const APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;

/// Types of entries (section 4.3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;
/// Features of a processor that has an FPU and a local APIC.
const FEATURES: u32 = 0x201;
/// Family 6; a kernel asks the CPU itself.
const SIGNATURE: u32 = 0x600;

const INTERRUPT: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
const ALL_APICS: u8 = 0xff;
const ISA_BUS: u8 = 0;

/// The sizes of the floating pointer and of the table's header.
const POINTER_SIZE: usize = 16;
const HEADER_SIZE: usize = 44;

/// The floating pointer and, behind it, the table for `vcpus` processors and the first `lines` lines, at most
/// [`layout::IO_APIC_PINS`]; it belongs at [`layout::MP_TABLE`].
pub(super) fn table(vcpus: u8, lines: u8) -> Vec<u8> {
    let lines = lines.min(layout::IO_APIC_PINS);
    let entries = entries(vcpus, lines);
    let count: u16 = u16::from(vcpus).saturating_add(u16::from(lines)).saturating_add(4);
    let length = HEADER_SIZE.saturating_add(entries.len());

    let mut table = Vec::with_capacity(layout::MP_TABLE_SIZE);
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&u16::try_from(length).unwrap_or_default().to_le_bytes());
    table.extend_from_slice(&[VERSION_1_4, 0]);
    table.extend_from_slice(b"TASKRUN MICROVM     "); // OEM (8) and product (12)
    table.extend_from_slice(&[0; 6]); // no OEM table
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]); // no extended table
    table.extend_from_slice(&entries);
    set_checksum(&mut table, 7);

    let mut pointer = Vec::with_capacity(POINTER_SIZE);
    pointer.extend_from_slice(b"_MP_");
    let address = u32::try_from(layout::MP_TABLE).unwrap_or_default().saturating_add(16);
    pointer.extend_from_slice(&address.to_le_bytes());
    pointer.extend_from_slice(&[1, VERSION_1_4, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut pointer, 10);
    pointer.append(&mut table);
    pointer
}

/// The entries of the table, in the order of their types, as the specification wants.
fn entries(vcpus: u8, lines: u8) -> Vec<u8> {
    let mut entries = Vec::new();
    for id in 0..vcpus {
        let flags = if id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        entries.extend_from_slice(&[PROCESSOR, id, APIC_VERSION, flags]);
        entries.extend_from_slice(&SIGNATURE.to_le_bytes());
        entries.extend_from_slice(&FEATURES.to_le_bytes());
        entries.extend_from_slice(&[0; 8]);
    }
    entries.extend_from_slice(&[BUS, ISA_BUS]);
    entries.extend_from_slice(b"ISA   ");
    // An id of its own, behind those of the processors.
    let io_apic = vcpus;
    entries.extend_from_slice(&[IO_APIC, io_apic, IO_APIC_VERSION, ENABLED]);
    entries.extend_from_slice(&layout::IO_APIC.to_le_bytes());
    for line in 0..lines {
        entries.extend_from_slice(&[IO_INTERRUPT, INTERRUPT, 0, 0, ISA_BUS, line, io_apic, line]);
    }
    // The boot processor hears the old interrupt controller on LINT0, and every processor an NMI on LINT1.
    entries.extend_from_slice(&[LOCAL_INTERRUPT, EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.extend_from_slice(&[LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_APICS, 1]);
    entries
}

/// Makes the sum of all bytes 0 by setting the one at `place`, which is still 0.
fn set_checksum(bytes: &mut [u8], place: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = bytes.get_mut(place) {
        *checksum = sum.wrapping_neg();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_VCPUS;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// The entries of a table: the type and the bytes of each.
    fn parse(table: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut rest = &table[POINTER_SIZE + HEADER_SIZE..];
        let mut entries = Vec::new();
        while let [kind, ..] = *rest {
            let (entry, behind) = rest.split_at(if kind == PROCESSOR { 20 } else { 8 });
            entries.push((kind, entry.to_vec()));
            rest = behind;
        }
        entries
    }

    #[test]
    fn both_structures_are_whole_and_fit() {
        for vcpus in 1..=MAX_VCPUS {
            let table = table(vcpus, layout::IO_APIC_PINS);
            assert!(table.len() <= layout::MP_TABLE_SIZE);
            assert_eq!(&table[..4], b"_MP_");
            assert_eq!(sum(&table[..POINTER_SIZE]), 0);
            assert_eq!(table[4..8], 0x9_fc10_u32.to_le_bytes());
            let configuration = &table[POINTER_SIZE..];
            assert_eq!(&configuration[..4], b"PCMP");
            assert_eq!(sum(configuration), 0);
            assert_eq!(usize::from(u16::from_le_bytes([configuration[4], configuration[5]])), configuration.len());
            let count = u16::from_le_bytes([configuration[34], configuration[35]]);
            assert_eq!(usize::from(count), parse(&table).len());
        }
    }

    #[test]
    fn each_processor_is_there_and_the_first_boots() {
        let table = table(3, 8);
        let processors: Vec<_> = parse(&table).into_iter().filter(|(kind, _)| *kind == PROCESSOR).collect();
        let ids_and_flags: Vec<_> = processors.iter().map(|(_, entry)| (entry[1], entry[3])).collect();
        assert_eq!(ids_and_flags, [(0, 3), (1, 1), (2, 1)]);
    }

    #[test]
    fn every_line_is_the_pin_of_its_number() {
        for (lines, there) in [(0, 0), (7, 7), (24, 24), (255, 24)] {
            let lines = parse(&table(2, lines)).into_iter().filter(|(kind, _)| *kind == IO_INTERRUPT);
            let lines: Vec<_> = lines.map(|(_, entry)| (entry[5], entry[6], entry[7])).collect();
            assert_eq!(lines, (0..there).map(|line| (line, 2, line)).collect::<Vec<_>>());
        }
    }
}
