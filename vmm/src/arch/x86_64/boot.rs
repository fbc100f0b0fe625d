//! Kernel, initramfs, command line and boot parameters in guest memory (Linux `Documentation/arch/x86/boot.rst`, "64-bit
//! Boot Protocol", and `zero-page.rst`).

use std::fs::File;
use std::io::{self, Seek};

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
};

use super::kernel::{self, KernelError};
use super::{layout, mptable, registers};
use crate::random;

/// Why a guest can't be prepared for its first instruction.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initramfs can't be read.
    #[error("The initramfs can't be read")]
    ReadInitramfs(#[source] io::Error),
    /// The initramfs is empty.
    #[error("The initramfs is empty")]
    EmptyInitramfs,
    /// The initramfs has no room.
    #[error(
        "The initramfs ({length} bytes) doesn't fit between the kernel's end at {start:#x} and the memory's at {end:#x}"
    )]
    InitramfsTooBig {
        /// Its length.
        length: u64,
        /// Where it could start.
        start: u64,
        /// Where it has to end.
        end: u64,
    },
    /// The initramfs can't be copied.
    #[error("The initramfs can't be loaded")]
    LoadInitramfs(#[source] GuestMemoryError),
    /// There are no random numbers for the guest.
    #[error("The host's random number generator failed")]
    Random(#[source] io::Error),
    /// Guest memory can't be written.
    #[error("What the kernel reads at boot can't be written to guest memory")]
    Write(#[from] GuestMemoryError),
}

/// `boot_params.hdr`: the magic numbers of a boot sector, and "a boot loader without an id".
const BOOT_FLAG: u16 = 0xaa55;
const HEADER: u32 = u32::from_le_bytes(*b"HdrS");
const UNKNOWN_LOADER: u8 = 0xff;
/// The version of the boot protocol with the fields that are used here.
const VERSION: u16 = 0x20f;

const E820_RAM: u32 = 1;

/// `struct setup_data` with `SETUP_RNG_SEED`, and its header's length.
const SETUP_RNG_SEED: u32 = 9;
const SEED_LENGTH: usize = 32;

const PAGE: u64 = 4096;

/// Puts everything that a guest needs to start into `memory` and returns the address of its first instruction. `slots` is the
/// number of virtio slots whose interrupt lines the guest is told of.
///
/// # Errors
/// When kernel or initramfs are not what they should be, or there is too little memory.
pub fn load(
    memory: &GuestMemoryMmap,
    vcpus: u8,
    slots: usize,
    kernel: &mut File,
    initramfs: &mut File,
    command_line: &str,
) -> Result<GuestAddress, BootError> {
    let low_end = low_memory_end(memory);
    let (entry, kernel_end) = kernel::load(memory, kernel, low_end)?;
    let ramdisk = load_initramfs(memory, initramfs, kernel_end, low_end)?;

    memory.write_slice(command_line.as_bytes(), GuestAddress(layout::COMMAND_LINE))?;
    write_seed(memory)?;
    memory.write_slice(&mptable::table(vcpus, layout::lines(slots)), GuestAddress(layout::MP_TABLE))?;
    registers::write_tables(memory)?;
    memory.write_obj(parameters(memory, ramdisk, command_line), GuestAddress(layout::BOOT_PARAMS))?;
    Ok(entry)
}

/// Where the memory below the hole ends.
fn low_memory_end(memory: &GuestMemoryMmap) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len)
}

/// Where the initramfs is: its address and its length.
#[derive(Clone, Copy)]
struct Ramdisk {
    address: u32,
    length: u32,
}

/// Copies the initramfs to the end of the low memory, where it is in nobody's way.
fn load_initramfs(memory: &GuestMemoryMmap, file: &mut File, start: u64, end: u64) -> Result<Ramdisk, BootError> {
    let length = file.metadata().map_err(BootError::ReadInitramfs)?.len();
    if length == 0 {
        return Err(BootError::EmptyInitramfs);
    }
    let too_big = || BootError::InitramfsTooBig { length, start, end };
    let address = end.checked_sub(length).map(|address| address & !(PAGE - 1)).filter(|address| *address >= start);
    let address = address.and_then(|address| u32::try_from(address).ok()).ok_or_else(too_big)?;
    let ramdisk = Ramdisk { address, length: u32::try_from(length).map_err(|_| too_big())? };

    file.rewind().map_err(BootError::ReadInitramfs)?;
    let bytes = usize::try_from(length).map_err(|_| too_big())?;
    memory.read_exact_volatile_from(GuestAddress(u64::from(address)), file, bytes).map_err(BootError::LoadInitramfs)?;
    Ok(ramdisk)
}

/// Writes the seed of the guest's random number generator: a `struct setup_data` (next, type, length) and the seed.
fn write_seed(memory: &GuestMemoryMmap) -> Result<(), BootError> {
    let mut entry = Vec::with_capacity(16 + SEED_LENGTH);
    entry.extend_from_slice(&0_u64.to_le_bytes());
    entry.extend_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    entry.extend_from_slice(&u32::try_from(SEED_LENGTH).unwrap_or_default().to_le_bytes());
    entry.extend_from_slice(&random::bytes::<SEED_LENGTH>().map_err(BootError::Random)?);
    Ok(memory.write_slice(&entry, GuestAddress(layout::SETUP_DATA))?)
}

fn parameters(memory: &GuestMemoryMmap, ramdisk: Ramdisk, command_line: &str) -> boot_params {
    let mut parameters = boot_params::default();
    parameters.hdr.boot_flag = BOOT_FLAG;
    parameters.hdr.header = HEADER;
    parameters.hdr.version = VERSION;
    parameters.hdr.type_of_loader = UNKNOWN_LOADER;
    parameters.hdr.cmd_line_ptr = u32::try_from(layout::COMMAND_LINE).unwrap_or_default();
    parameters.hdr.cmdline_size = u32::try_from(command_line.len()).unwrap_or_default();
    parameters.hdr.ramdisk_image = ramdisk.address;
    parameters.hdr.ramdisk_size = ramdisk.length;
    parameters.hdr.setup_data = layout::SETUP_DATA;
    let map = memory_map(memory);
    parameters.e820_entries = u8::try_from(map.len()).unwrap_or_default();
    let mut table = parameters.e820_table;
    for (entry, (start, end)) in table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr: start, size: end.saturating_sub(start), r#type: E820_RAM };
    }
    parameters.e820_table = table;
    parameters
}

/// Where the kernel is told of memory: each guest memory region, except for what lies between 639 KiB and 1 MiB.
fn memory_map(memory: &GuestMemoryMmap) -> Vec<(u64, u64)> {
    let mut map = vec![(0, layout::MP_TABLE)];
    for region in memory.iter() {
        let start = region.start_addr().raw_value();
        map.push((start.max(layout::HIGH_MEMORY), start.saturating_add(region.len())));
    }
    map
}

#[cfg(test)]
mod tests {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use vm_memory::ByteValued;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn file(content: &[u8]) -> File {
        let mut file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        io::Write::write_all(&mut file, content).unwrap();
        file
    }

    fn memory(ranges: &[(u64, u64)]) -> GuestMemoryMmap {
        let ranges = ranges.iter().map(|&(start, length)| (GuestAddress(start), usize::try_from(length).unwrap()));
        GuestMemoryMmap::from_ranges(&ranges.collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_kernel_is_told_of_memory_without_the_holes() {
        let map = memory_map(&memory(&[(0, 64 * MIB)]));
        assert_eq!(map, [(0, 0x9_fc00), (MIB, 64 * MIB)]);
        let map = memory_map(&memory(&[(0, 3072 * MIB), (4096 * MIB, MIB)]));
        assert_eq!(map, [(0, 0x9_fc00), (MIB, 3072 * MIB), (4096 * MIB, 4097 * MIB)]);
    }

    #[test]
    fn the_initramfs_ends_where_low_memory_does() {
        let memory = memory(&[(0, 8 * MIB)]);
        let mut content = file(b"initramfs");
        let ramdisk = load_initramfs(&memory, &mut content, 4 * MIB, 8 * MIB).unwrap();
        assert_eq!((u64::from(ramdisk.address), ramdisk.length), (8 * MIB - PAGE, 9));
        let mut bytes = [0; 9];
        memory.read_slice(&mut bytes, GuestAddress(8 * MIB - PAGE)).unwrap();
        assert_eq!(&bytes, b"initramfs");
    }

    #[test]
    fn an_initramfs_that_would_overwrite_the_kernel_is_refused() {
        let memory = memory(&[(0, 8 * MIB)]);
        let error = load_initramfs(&memory, &mut file(b"x"), 8 * MIB - 1, 8 * MIB).err().unwrap();
        assert!(matches!(error, BootError::InitramfsTooBig { length: 1, .. }), "{error}");
        let huge = file(b"x");
        huge.set_len(1 << 40).unwrap();
        assert!(load_initramfs(&memory, &mut { huge }, MIB, 8 * MIB).is_err());
    }

    #[test]
    fn the_parameters_point_to_everything() {
        let memory = memory(&[(0, 8 * MIB)]);
        let parameters = parameters(&memory, Ramdisk { address: 0x70_0000, length: 5 }, "quiet");
        let bytes = parameters.as_slice();
        let field = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
        assert_eq!(&bytes[0x202..0x206], b"HdrS");
        assert_eq!([0x218, 0x21c, 0x228, 0x238].map(field), [0x70_0000, 5, 0x2_0000, 5]);
        assert_eq!([0x250, 0x254].map(field), [0x8000, 0]);
        assert_eq!((bytes[0x1e8], field(0x2d0 + 20), field(0x2d0 + 36)), (2, 0x10_0000, 1));
    }

    #[test]
    fn each_guest_has_a_seed_of_its_own() {
        let seeds = [(); 2].map(|()| {
            let memory = memory(&[(0, MIB)]);
            write_seed(&memory).unwrap();
            let mut entry = [0; 48];
            memory.read_slice(&mut entry, GuestAddress(layout::SETUP_DATA)).unwrap();
            assert_eq!(entry[..16], [0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0]);
            entry
        });
        assert_ne!(seeds[0], seeds[1]);
    }
}
