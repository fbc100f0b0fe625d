//! Which pages of its memory a guest from a template has written when its command starts: nearly the same ones with each task,
//! since up to then all do the same.
//!
//! The first task of a template notes them, from what the host's kernel says of the VMM's memory (proc_pid_pagemap(5)); the VMMs
//! of later tasks copy them before the guest runs, instead of in two faults each while it does. A wrong note
//! costs a copy of at most [`MOST`] bytes and changes nothing that a guest sees; without one, guests start as well.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use vmm::template::extents::{Collector, Extent, PAGE, are_right};

use super::{WRITTEN, files};

/// The most that is copied, in bytes. A guest with one vCPU has written some 1.7 MiB.
const MOST: u64 = 4 << 20;

/// How much of a note is read, in bytes: more than it can take.
const LARGEST_NOTE: u64 = 64 << 10;

/// The length of an entry of a pagemap, in bytes.
const ENTRY: u64 = 8;

/// Bits of an entry: the page is there, is in the swap, belongs to a file.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;

/// What is noted of the template in `folder`, whose memory has `size` bytes; `None` when that is nothing, or nonsense.
pub(super) fn read(folder: &Path, size: u64) -> Option<Vec<Extent>> {
    let mut note = Vec::new();
    File::open(folder.join(WRITTEN)).ok()?.take(LARGEST_NOTE).read_to_end(&mut note).ok()?;
    let extents: Vec<Extent> = serde_json::from_slice(&note).ok()?;
    (are_right(&extents, size) && total(&extents) <= MOST).then_some(extents)
}

/// Notes what the process `vmm` has written of `memory`, the memory file of the template in `folder`, which it has mapped
/// privately. Where that is more than [`MOST`], because the command was faster than this, nothing is noted.
///
/// # Errors
/// When the process can't be looked at, or the note not be written.
pub(super) fn note(folder: &Path, vmm: u32, memory: &File) -> io::Result<()> {
    let extents = written(vmm, memory)?;
    if extents.is_empty() || total(&extents) > MOST {
        return Ok(());
    }
    files::replace(&folder.join(WRITTEN), &serde_json::to_vec(&extents)?)
}

fn total(extents: &[Extent]) -> u64 {
    extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.length))
}

/// The pages of its private mappings of `file` that the process has copies of.
fn written(process: u32, file: &File) -> io::Result<Vec<Extent>> {
    let inode = file.metadata()?.ino();
    let maps = BufReader::new(File::open(format!("/proc/{process}/maps"))?);
    let mut mappings = Vec::new();
    for line in maps.lines() {
        mappings.extend(Mapping::parse(&line?).filter(|mapping| mapping.inode == inode));
    }
    mappings.sort_unstable_by_key(|mapping| mapping.offset);
    let pagemap = File::open(format!("/proc/{process}/pagemap"))?;
    let mut pages = Collector::exact();
    for mapping in mappings {
        let count = mapping.length / PAGE;
        let mut entries = vec![0; usize::try_from(count.saturating_mul(ENTRY)).map_err(io::Error::other)?];
        pagemap.read_exact_at(&mut entries, (mapping.address / PAGE).saturating_mul(ENTRY))?;
        let (entries, _) = entries.as_chunks();
        for (entry, page) in entries.iter().zip(mapping.offset / PAGE..) {
            if is_own(u64::from_le_bytes(*entry)) {
                pages.add(page.saturating_mul(PAGE));
            }
        }
    }
    Ok(pages.finish())
}

/// Whether the page of this entry is a copy of the process's own.
const fn is_own(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0
}

/// A private mapping of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    address: u64,
    length: u64,
    offset: u64,
    inode: u64,
}

impl Mapping {
    /// A line of proc_pid_maps(5): `address-end perms offset dev inode path`. `None` for mappings that are shared.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (address, end) = words.next()?.split_once('-')?;
        let private = words.next()?.ends_with('p');
        let hex = |word: &str| u64::from_str_radix(word, 16).ok();
        let (address, end, offset) = (hex(address)?, hex(end)?, hex(words.next()?)?);
        let inode = words.nth(1)?.parse().ok()?;
        private.then_some(Self { address, length: end.checked_sub(address)?, offset, inode })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vm_memory::{Bytes, GuestAddress};
    use vmm::template::memory;

    use super::*;

    const SIZE: u64 = 64 << 20;

    fn extent(first: u64, pages: u64) -> Extent {
        Extent { start: first * PAGE, length: pages * PAGE }
    }

    /// A template's folder and its memory file, of which pages 3 to 42 and the last hold something.
    fn template() -> (tempfile::TempDir, File) {
        let folder = tempfile::tempdir().unwrap();
        let memory =
            File::options().read(true).write(true).create_new(true).open(folder.path().join("memory")).unwrap();
        memory.set_len(SIZE).unwrap();
        memory.write_all_at(&[7; 40 << 12], 3 * PAGE).unwrap();
        memory.write_all_at(&[7; 1 << 12], SIZE - PAGE).unwrap();
        (folder, memory)
    }

    #[test]
    fn what_a_process_wrote_is_noted_and_is_a_copy_in_the_next_from_the_start() {
        let (folder, file) = template();
        let all = [extent(3, 40), extent(SIZE / PAGE - 1, 1)];
        assert_eq!(read(folder.path(), SIZE), None);
        {
            let guest = memory::map(&file, SIZE, &all, &[]).unwrap();
            assert_eq!(guest.read_obj::<u8>(GuestAddress(3 * PAGE)).unwrap(), 7);
            for page in [5, 6, 9, SIZE / PAGE - 1] {
                guest.write_obj(1_u8, GuestAddress(page * PAGE + 9)).unwrap();
            }
            // Memory without a file is no part of a template.
            guest.write_obj(1_u8, GuestAddress(SIZE / 2)).unwrap();
            note(folder.path(), std::process::id(), &file).unwrap();
        }
        let noted = read(folder.path(), SIZE).unwrap();
        assert_eq!(noted, [extent(5, 2), extent(9, 1), extent(SIZE / PAGE - 1, 1)]);
        assert_eq!(read(folder.path(), SIZE - PAGE), None, "a page that isn't there");
        let _guest = memory::map(&file, SIZE, &all, &noted).unwrap();
        assert_eq!(written(std::process::id(), &file).unwrap(), noted);
    }

    #[test]
    fn too_much_is_not_noted_and_nonsense_not_believed() {
        let (folder, file) = template();
        let guest = memory::map(&file, SIZE, &[Extent { start: 0, length: SIZE }], &[]).unwrap();
        for page in 0..=MOST / PAGE {
            guest.write_obj(1_u8, GuestAddress(page * PAGE)).unwrap();
        }
        note(folder.path(), std::process::id(), &file).unwrap();
        assert!(!folder.path().join(WRITTEN).exists());
        for text in [
            r#"[{"start":0,"length":8388608}]"#,
            r#"[{"start":1,"length":4096}]"#,
            r#"[{"start":4096,"length":4096},{"start":0,"length":4096}]"#,
            r#"[{"start":0}]"#,
            "",
            &" ".repeat(usize::try_from(LARGEST_NOTE).unwrap() + 1),
        ] {
            fs::write(folder.path().join(WRITTEN), text).unwrap();
            assert_eq!(read(folder.path(), SIZE), None, "{text}");
        }
        assert!(note(folder.path(), u32::MAX, &file).is_err());
    }

    #[test]
    fn lines_of_maps_are_understood() {
        let line =
            "7f64642a0000-7f64642a3000 rw-p 00100000 fe:00 4711                       /a folder/memory (deleted)";
        let mapping = Mapping { address: 0x7f64_642a_0000, length: 0x3000, offset: 0x10_0000, inode: 4711 };
        assert_eq!(Mapping::parse(line), Some(mapping));
        assert_eq!(Mapping::parse(&line.replace("rw-p", "rw-s")), None);
        for line in ["", "7f-8f rw-p 0 fe:00", "8f-7f rw-p 0 fe:00 1", "x-y rw-p 0 fe:00 1"] {
            assert_eq!(Mapping::parse(line), None, "{line}");
        }
    }
}
