//! The kernel's file: checked to be an uncompressed ELF kernel for x86-64, then copied where its headers say.
//!
//! `linux-loader` copies it; what it would accept or refuse without a word is found here first, so that a user who gives
//! another kind of file is told what it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Address, GuestAddress, GuestMemoryMmap};

use super::layout;

/// Why a kernel can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It can't be read.
    #[error("The kernel can't be read")]
    Read(#[source] io::Error),
    /// It is a compressed kernel image.
    #[error(
        "The kernel is a bzImage, but an uncompressed ELF vmlinux is needed (the kernel's scripts/extract-vmlinux makes one)"
    )]
    BzImage,
    /// It is something else.
    #[error("The kernel isn't an ELF file (it starts with {0}); an uncompressed vmlinux is needed")]
    NotElf(String),
    /// It is an ELF file for something else.
    #[error("The kernel is an ELF file for {0}, not a 64-bit executable for x86-64")]
    WrongMachine(String),
    /// Its headers promise more than there is.
    #[error("The kernel's file is truncated: it is {length} bytes long, but its headers refer to byte {end}")]
    Truncated {
        /// The file's length.
        length: u64,
        /// The end of what the headers refer to.
        end: u64,
    },
    /// It has nothing to load, or no start in what it has.
    #[error("The kernel's ELF headers make no sense: {0}")]
    Headers(&'static str),
    /// It needs addresses that the guest has no memory at.
    #[error("The kernel reaches up to {end:#x}, but the guest's memory for it ends at {limit:#x}")]
    TooBig {
        /// Where the kernel ends.
        end: u64,
        /// Where the memory that it may take ends.
        limit: u64,
    },
    /// It can't be copied.
    #[error("The kernel can't be loaded")]
    Load(#[source] linux_loader::loader::Error),
}

/// The size of an ELF header and of a program header (ELF64).
const HEADER: usize = 64;
const PROGRAM_HEADER: u16 = 56;
/// `e_machine` of x86-64.
const EM_X86_64: u16 = 62;
/// `e_type` of an executable.
const ET_EXEC: u16 = 2;
/// `p_type` of a segment that is loaded.
const PT_LOAD: u32 = 1;
/// Where a bzImage has its magic number, and what it is.
const BZIMAGE_MAGIC: (u64, &[u8; 4]) = (0x202, b"HdrS");

/// Copies the kernel into `memory` and returns its entry point and its end. It must end below `limit`.
pub(super) fn load(memory: &GuestMemoryMmap, file: &mut File, limit: u64) -> Result<(GuestAddress, u64), KernelError> {
    let limit = limit.min(layout::MAPPED);
    let end = check(file, limit)?;
    let loaded = Elf::load(memory, None, file, Some(GuestAddress(layout::HIGH_MEMORY))).map_err(KernelError::Load)?;
    Ok((loaded.kernel_load, end.max(loaded.kernel_load.raw_value())))
}

/// Checks the headers and returns where the kernel ends in memory.
fn check(file: &File, limit: u64) -> Result<u64, KernelError> {
    let length = file.metadata().map_err(KernelError::Read)?.len();
    let header = header(file, length)?;
    let entry = u64_at(&header, 24);
    let (table, size, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    if size != PROGRAM_HEADER {
        return Err(KernelError::Headers("the program headers have an unknown size"));
    }
    let within = |start: u64, size: u64| {
        let end = start.saturating_add(size);
        if end > length { Err(KernelError::Truncated { length, end }) } else { Ok(()) }
    };
    let table_size = u64::from(size).saturating_mul(u64::from(count));
    within(table, table_size)?;

    let (mut kernel_end, mut has_entry) = (0, false);
    let offsets = (0..count).map(|index| table.saturating_add(u64::from(index).saturating_mul(u64::from(size))));
    for offset in offsets {
        let mut segment = [0; PROGRAM_HEADER as usize];
        file.read_exact_at(&mut segment, offset).map_err(KernelError::Read)?;
        let (address, in_file, in_memory) = (u64_at(&segment, 24), u64_at(&segment, 32), u64_at(&segment, 40));
        within(u64_at(&segment, 8), in_file)?;
        if u32_at(&segment, 0) != PT_LOAD || in_file == 0 {
            continue;
        }
        let end = address.saturating_add(in_memory.max(in_file));
        if address < layout::HIGH_MEMORY {
            return Err(KernelError::Headers("a segment lies below 1 MiB"));
        }
        if end > limit {
            return Err(KernelError::TooBig { end, limit });
        }
        kernel_end = end.max(kernel_end);
        has_entry |= (address..end).contains(&entry);
    }
    if has_entry { Ok(kernel_end) } else { Err(KernelError::Headers("the entry point isn't in a loaded segment")) }
}

/// Reads the ELF header of a file that has the right one.
fn header(file: &File, length: u64) -> Result<[u8; HEADER], KernelError> {
    let mut header = [0; HEADER];
    let present = usize::try_from(length).map_or(HEADER, |length| length.min(HEADER));
    let start = header.get_mut(..present).unwrap_or_default();
    file.read_exact_at(start, 0).map_err(KernelError::Read)?;
    if !start.starts_with(b"\x7fELF") {
        let mut magic = [0; 4];
        let is_bzimage = file.read_exact_at(&mut magic, BZIMAGE_MAGIC.0).is_ok() && &magic == BZIMAGE_MAGIC.1;
        let first = start.get(..8.min(present)).unwrap_or_default().escape_ascii().to_string();
        return Err(if is_bzimage { KernelError::BzImage } else { KernelError::NotElf(format!("\"{first}\"")) });
    }
    if present < HEADER {
        return Err(KernelError::Truncated { length, end: HEADER as u64 });
    }
    let (class, order) = (u8_at(&header, 4), u8_at(&header, 5));
    let (kind, machine) = (u16_at(&header, 16), u16_at(&header, 18));
    if (class, order, machine) != (2, 1, EM_X86_64) {
        let machine = machine_name(machine);
        let bits = if class == 1 { "32-bit" } else { "64-bit" };
        return Err(KernelError::WrongMachine(format!("{bits} {machine}")));
    }
    if kind != ET_EXEC {
        return Err(KernelError::WrongMachine("x86-64 that isn't an executable".to_owned()));
    }
    Ok(header)
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "i386".to_owned(),
        EM_X86_64 => "x86-64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("machine {other}"),
    }
}

/// The little-endian number at `offset`; 0 behind the end of `bytes`.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn u8_at(bytes: &[u8], offset: usize) -> u8 {
    u8::from_le_bytes(number(bytes, offset))
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(number(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(number(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(number(bytes, offset))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A file with a loaded segment of 4 bytes at 1 MiB, a note, and 16 bytes behind the headers.
    fn elf() -> Vec<u8> {
        let segment = |kind: u32, offset: u64, address: u64, length: u64| {
            let words = [offset, address, address, length, length, 4];
            [kind.to_le_bytes(), [0; 4]].into_iter().flatten().chain(words.into_iter().flat_map(u64::to_le_bytes))
        };
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        file.extend([MIB, 64, 0].map(u64::to_le_bytes).concat());
        file.extend([0_u16, 0, 64, PROGRAM_HEADER, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
        file.extend(segment(PT_LOAD, 176, MIB, 4).chain(segment(4, 176, 0, 16)));
        file.extend(*b"code\x04\0\0\0\x12\0\0\0Xen\0");
        file
    }

    fn load_bytes(bytes: &[u8]) -> Result<(GuestAddress, u64), KernelError> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let mut file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all(bytes).unwrap();
        load(&memory, &mut file, 2 * MIB)
    }

    #[test]
    fn a_kernel_is_loaded_where_its_headers_say() {
        assert_eq!(load_bytes(&elf()).unwrap(), (GuestAddress(MIB), MIB + 4));
    }

    proptest! {
        #[test]
        fn damaged_headers_never_panic_and_never_reach_beyond_the_limit(
            changes in prop::collection::vec((0_usize..192, any::<u8>()), 0..8),
            words in prop::collection::vec((0_usize..24, any::<u64>()), 0..2),
            length in 0_usize..=192,
        ) {
            let mut file = elf();
            words.iter().for_each(|&(place, word)| file[place * 8..][..8].copy_from_slice(&word.to_le_bytes()));
            changes.iter().for_each(|&(place, byte)| file[place] = byte);
            for bytes in [&file[..], &file[..length]] {
                if let Ok((entry, end)) = load_bytes(bytes) {
                    prop_assert!(entry.raw_value() >= MIB && end <= 2 * MIB);
                }
            }
        }
    }
}
