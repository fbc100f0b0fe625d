//! Memory files: written from a guest's memory, mapped as a guest's memory.
//!
//! A guest that is restored has one mapping without a file for each part of its memory, and the extents of the memory file
//! privately over it. So a page that it never touches costs nothing; one that it only reads is the file's, shared by all
//! guests of the template; one that it writes is its own. KVM sees the same addresses as in a guest that boots.
//!
//! A page that the guest reads and then writes takes two faults, and the second takes the page out of the guest's page tables
//! first. So what it is known to write is copied before it runs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use sha2::{Digest, Sha256};
use vm_memory::{GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::TemplateError;
use super::extents::{Collector, Extent, PAGE};
use crate::memory::{Part, map_over, populate, ranges};

/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// Writes the content of `memory`, a memfd of `size` bytes, to a file that is as long and sparse. Returns what it holds, and
/// the digest of that.
///
/// # Errors
/// Those of the files.
pub fn write(memory: &File, size: u64, to: &File) -> Result<(Vec<Extent>, [u8; 32]), TemplateError> {
    let extents = scan(memory, size).map_err(TemplateError::ReadMemory)?;
    let empty = || -> io::Result<()> {
        to.set_len(0)?;
        to.set_len(size)
    };
    empty().map_err(TemplateError::WriteMemory)?;
    let mut hash = Sha256::new();
    each_chunk(memory, &extents, |offset, chunk| {
        hash.update(chunk);
        to.write_all_at(chunk, offset).map_err(TemplateError::WriteMemory)
    })?;
    Ok((extents, hash.finalize().into()))
}

/// The digest of a memory file's extents.
pub(super) fn digest(file: &File, extents: &[Extent]) -> Result<[u8; 32], TemplateError> {
    let mut hash = Sha256::new();
    each_chunk(file, extents, |_, chunk| {
        hash.update(chunk);
        Ok(())
    })?;
    Ok(hash.finalize().into())
}

/// Checks that a memory file is as long as the memory.
///
/// # Errors
/// When it isn't.
pub fn check_length(file: &File, expected: u64) -> Result<(), TemplateError> {
    let actual = file.metadata().map_err(TemplateError::ReadMemory)?.len();
    if actual == expected { Ok(()) } else { Err(TemplateError::MemoryLength { expected, actual }) }
}

/// Reads the extents, chunk by chunk.
fn each_chunk(
    file: &File,
    extents: &[Extent],
    mut take: impl FnMut(u64, &[u8]) -> Result<(), TemplateError>,
) -> Result<(), TemplateError> {
    let mut buffer = vec![0; CHUNK];
    for extent in extents {
        let mut offset = extent.start;
        while offset < extent.end() {
            let chunk = chunk(&mut buffer, extent.end().saturating_sub(offset));
            file.read_exact_at(chunk, offset).map_err(TemplateError::ReadMemory)?;
            take(offset, chunk)?;
            offset = offset.saturating_add(chunk.len() as u64);
        }
    }
    Ok(())
}

/// As much of `buffer` as `left` fills.
fn chunk(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    buffer.get_mut(..length).unwrap_or_default()
}

/// The extents of a memfd's pages that aren't all zeros.
fn scan(memory: &File, size: u64) -> io::Result<Vec<Extent>> {
    const ZEROS: [u8; 4096] = [0; 4096];
    const _: () = assert!(ZEROS.len() as u64 == PAGE);
    let mut collector = Collector::default();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while let Some(start) = seek(memory, offset, Whence::SeekData)?.filter(|start| *start < size) {
        offset = start / PAGE * PAGE;
        let end = seek(memory, start, Whence::SeekHole)?.unwrap_or(size).min(size);
        while offset < end {
            let chunk = chunk(&mut buffer, size.saturating_sub(offset).min(end.saturating_sub(offset)));
            memory.read_exact_at(chunk, offset)?;
            for (page, place) in chunk.chunks(ZEROS.len()).zip((offset..).step_by(ZEROS.len())) {
                if ZEROS.get(..page.len()) != Some(page) {
                    collector.add(place);
                }
            }
            offset = offset.saturating_add(chunk.len() as u64);
        }
    }
    Ok(collector.finish())
}

/// The next place with data, or without; `None` when there is none.
fn seek(file: &File, offset: u64, whence: Whence) -> io::Result<Option<u64>> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    match lseek64(file, offset, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Maps a memory file of `size` bytes, of which `extents` hold something, as a guest's memory, and copies what is known to be
/// `written`. The extents are right ([`super::extents::are_right`]), which is checked when a state is decoded, and those that
/// are written with the description.
///
/// # Errors
/// When the file isn't as long, or can't be mapped.
pub fn map(file: &File, size: u64, extents: &[Extent], written: &[Extent]) -> Result<GuestMemoryMmap, TemplateError> {
    check_length(file, size)?;
    let mut offset = 0_u64;
    let mut regions = Vec::new();
    for (address, length) in ranges(size) {
        let end = offset.saturating_add(length);
        let bytes = usize::try_from(length).map_err(|error| TemplateError::Map(io::Error::other(error)))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let region = MmapRegion::build(None, bytes, libc::PROT_READ | libc::PROT_WRITE, flags);
        let region = region.map_err(|error| TemplateError::Map(io::Error::other(error)))?;
        for part in extents.iter().filter_map(|extent| extent.within(offset, end)) {
            let part = Part { place: part.start.saturating_sub(offset), length: part.length, offset: part.start };
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            map_over(&region, file, part, protection, libc::MAP_PRIVATE).map_err(TemplateError::Map)?;
        }
        for part in written.iter().filter_map(|part| part.within(offset, end)) {
            // The guest's own faults do the same, later.
            if populate(&region, part.start.saturating_sub(offset), part.length).is_err() {
                break;
            }
        }
        let region = GuestRegionMmap::new(region, address);
        regions.push(region.ok_or_else(|| TemplateError::Map(Errno::EINVAL.into()))?);
        offset = end;
    }
    GuestMemoryMmap::from_regions(regions).map_err(|error| TemplateError::Map(io::Error::other(error)))
}
