use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::extents::{Extent, PAGE};
use super::state::{MachineState, SavedDevice};
use super::*;
use crate::arch::{VcpuState, VmState};
use crate::config::create_guest_memory;
use crate::devices::virtio::mmio::TransportState;

fn state() -> MachineState {
    MachineState {
        host: "here".into(),
        memory_mib: 64,
        extents: vec![Extent { start: PAGE, length: 3 * PAGE }],
        memory_digest: [7; 32],
        vm: VmState::default(),
        vcpus: vec![VcpuState::default(), VcpuState::default()],
        devices: vec![SavedDevice { slot: 0, transport: TransportState::default() }],
    }
}

/// What [`decode`] says to a state after `change`.
fn refusal(change: impl FnOnce(&mut MachineState)) -> Option<String> {
    let mut state = state();
    change(&mut state);
    decode(&encode(&state).unwrap()).err().map(|error| error.to_string())
}

#[test]
fn a_state_comes_back_as_it_was() {
    let bytes = encode(&state()).unwrap();
    let decoded = decode(&bytes).unwrap();
    assert_eq!(encode(&decoded).unwrap(), bytes);
    assert_eq!(decoded.extents, state().extents);
    assert_eq!(decoded.devices, state().devices);
}

#[test]
fn every_truncation_is_noticed() {
    let bytes = encode(&state()).unwrap();
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err(), "{length}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(decode(&longer), Err(TemplateError::Damaged(_))));
}

#[test]
fn states_that_cannot_be_are_refused() {
    assert_eq!(refusal(|_| ()), None);
    for change in [
        |state: &mut MachineState| state.extents[0].length = 1 << 40,
        |state: &mut MachineState| state.extents.push(state.extents[0]),
        |state: &mut MachineState| state.memory_mib = 0,
        |state: &mut MachineState| state.vcpus.clear(),
        |state: &mut MachineState| state.vcpus.resize_with(17, VcpuState::default),
        |state: &mut MachineState| state.devices.push(state.devices[0].clone()),
        |state: &mut MachineState| state.devices[0].slot = 8,
    ] {
        assert!(refusal(change).is_some_and(|message| message.contains("damaged")));
    }
}

#[test]
fn another_format_is_named() {
    let mut bytes = encode(&state()).unwrap();
    bytes[8] += 1;
    assert!(matches!(decode(&bytes), Err(TemplateError::Format(other)) if other == FORMAT + 1));
    bytes[0] += 1;
    assert!(matches!(decode(&bytes), Err(TemplateError::NotState)));
}

#[test]
fn memory_comes_back_as_it_was() {
    let from = File::from(create_guest_memory(64).unwrap());
    let file = tempfile();
    for (place, text) in [(5_u64, &b"low"[..]), (40 << 20, b"middle"), ((64 << 20) - 4, b"high")] {
        from.write_all_at(text, place).unwrap();
    }
    let (extents, digest) = memory::write(&from, 64 << 20, &file).unwrap();
    assert_eq!(extents.len(), 3);
    assert_eq!(memory::digest(&file, &extents).unwrap(), digest);
    let guest = memory::map(&file, 64 << 20, &extents, &[]).unwrap();
    for (place, text) in [(5_u64, "low"), (40 << 20, "middle"), ((64 << 20) - 4, "high"), (20 << 20, "\0\0\0")] {
        let mut bytes = vec![0; text.len()];
        guest.read_slice(&mut bytes, GuestAddress(place)).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }
    // The guest's writes stay its own.
    guest.write_slice(b"mine", GuestAddress(40 << 20)).unwrap();
    assert_eq!(memory::digest(&file, &extents).unwrap(), digest);
    assert!(matches!(memory::map(&file, 65 << 20, &extents, &[]), Err(TemplateError::MemoryLength { .. })));
}

#[test]
fn a_part_on_both_sides_of_the_hole_is_mapped_in_two() {
    let (file, size, hole) = file_over_the_hole();
    file.write_all_at(b"belowabove", hole - 5).unwrap();
    let part = [Extent { start: hole - PAGE, length: 2 * PAGE }];
    let guest = memory::map(&file, size, &part, &[]).unwrap();
    let mut bytes = [0; 5];
    guest.read_slice(&mut bytes, GuestAddress(hole - 5)).unwrap();
    assert_eq!(&bytes, b"below");
    guest.read_slice(&mut bytes, GuestAddress(4 << 30)).unwrap();
    assert_eq!(&bytes, b"above");
}

#[test]
fn what_is_written_is_a_copy_from_the_start() {
    let (file, size, hole) = file_over_the_hole();
    let part = [Extent { start: hole - 2 * PAGE, length: 4 * PAGE }];
    let written = [Extent { start: hole - PAGE, length: 2 * PAGE }];
    let guest = memory::map(&file, size, &part, &written).unwrap();
    // Others see what is put into the file.
    file.write_all_at(&vec![b'x'; 4 << 12], hole - 2 * PAGE).unwrap();
    let places = [hole - 2 * PAGE, hole - PAGE, 4 << 30, (4 << 30) + PAGE];
    let bytes = places.map(|place| guest.read_obj::<u8>(GuestAddress(place)).unwrap());
    assert_eq!(bytes, [b'x', 0, 0, b'x']);
}

/// An empty memory file that goes on above the hole, its size, and where the hole is in it.
fn file_over_the_hole() -> (File, u64, u64) {
    let (file, hole) = (tempfile(), 3 << 30);
    let size = hole + (1 << 20);
    file.set_len(size).unwrap();
    (file, size, hole)
}

fn tempfile() -> File {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    File::from(memfd_create(c"template", MFdFlags::MFD_CLOEXEC).unwrap())
}

proptest! {
    #[test]
    fn no_flipped_bit_is_overlooked(place in 0_usize..1 << 20, bit in 0_u32..8) {
        let mut bytes = encode(&state()).unwrap();
        let place = place % bytes.len();
        bytes[place] ^= 1 << bit;
        prop_assert!(decode(&bytes).is_err());
    }

    /// Whoever can write the checksum can write anything.
    #[test]
    fn nothing_behind_the_checksum_panics(changes in prop::collection::vec((0_usize..1 << 20, any::<u8>()), 1..20)) {
        use twox_hash::XxHash3_128;
        let mut bytes = encode(&state()).unwrap();
        let length = bytes.len() - 36;
        for (place, value) in changes {
            bytes[36 + place % length] = value;
        }
        let checksum = XxHash3_128::oneshot(&bytes[36..]);
        bytes[20..36].copy_from_slice(&checksum.to_le_bytes());
        let _ = decode(&bytes);
    }
}
