//! The content of a disk: a row of extents of files, with zeros between them.
//!
//! Invariant: extents are sorted by where they start on the disk and do not overlap.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use vm_memory::VolatileSlice;

use crate::config::extent_layout;
use crate::devices::virtio::iovec;

/// A part of a file that is a part of a disk.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The file.
    pub file: Arc<File>,
    /// Where the part starts in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// Why extents do not make a disk.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The sum of the lengths does not fit.
    #[error("The extents of block device {id:?} are too long together")]
    TooLong {
        /// The device.
        id: String,
    },
    /// An extent ends behind the largest offset that a file can have.
    #[error("An extent of block device {id:?} ends behind the end of any file")]
    BadExtent {
        /// The device.
        id: String,
    },
}

/// An extent in its place.
#[derive(Debug)]
struct Placed {
    start: u64,
    extent: Extent,
}

/// Extents, laid out as [`extent_layout`] says.
#[derive(Debug)]
pub(super) struct Extents {
    /// Without the empty ones, so that starts are unique.
    placed: Vec<Placed>,
    size: u64,
}

/// What a piece of the disk consists of.
#[derive(Debug)]
enum Content<'e> {
    /// A part of a file, from this offset on.
    File(&'e File, u64),
    Zeros,
}

impl Extents {
    pub(super) fn new(id: &str, extents: Vec<Extent>) -> Result<Self, LayoutError> {
        let layout = extent_layout(extents.iter().map(|extent| extent.length));
        let (starts, size) = layout.ok_or_else(|| LayoutError::TooLong { id: id.into() })?;
        let ends = extents.iter().map(|extent| extent.offset.checked_add(extent.length));
        if ends.into_iter().any(|end| end.is_none_or(|end| i64::try_from(end).is_err())) {
            return Err(LayoutError::BadExtent { id: id.into() });
        }
        let placed = starts.into_iter().zip(extents).map(|(start, extent)| Placed { start, extent });
        Ok(Self { placed: placed.filter(|placed| placed.extent.length > 0).collect(), size })
    }

    /// The size of the disk in bytes; a multiple of 4096.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Reads the disk from `position` on into all of `slices`.
    pub(super) fn read(&self, position: u64, slices: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.for_each_piece(position, slices, |content, slices| match content {
            Content::File(file, offset) => {
                completely(slices, offset, |rest, offset| iovec::read_at(file, rest, offset))
            }
            Content::Zeros => {
                slices.iter().for_each(|slice| zero(slice));
                Ok(())
            }
        })
    }

    /// Writes all of `slices` to the disk from `position` on. The gaps between extents cannot be written.
    pub(super) fn write(&self, position: u64, slices: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.for_each_piece(position, slices, |content, slices| match content {
            Content::File(file, offset) => {
                completely(slices, offset, |rest, offset| iovec::write_at(file, rest, offset))
            }
            Content::Zeros => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        })
    }

    /// Makes `length` bytes from `position` on read as zeros, and frees what they took in the files. Gaps are zeros.
    pub(super) fn clear(&self, position: u64, length: u64) -> io::Result<()> {
        let end = position.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = position;
        while at < end {
            let (content, range) = self.content_at(at);
            let stop = range.end.min(end);
            if stop <= at {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            if let Content::File(file, offset) = content {
                punch(file, offset, stop.saturating_sub(at))?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        for (index, placed) in self.placed.iter().enumerate() {
            let file = &placed.extent.file;
            let seen = self.placed.iter().take(index).any(|earlier| Arc::ptr_eq(&earlier.extent.file, file));
            if !seen {
                file.sync_data()?;
            }
        }
        Ok(())
    }

    /// Cuts `slices`, laid on the disk at `position`, at the edges of extents.
    fn for_each_piece<'m>(
        &self,
        position: u64,
        slices: &[VolatileSlice<'m>],
        mut each: impl FnMut(Content<'_>, &[VolatileSlice<'m>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let total = iovec::length(slices);
        let mut done = 0_usize;
        while done < total {
            let at = u64::try_from(done)
                .ok()
                .and_then(|done| position.checked_add(done))
                .ok_or(io::ErrorKind::InvalidInput)?;
            let (content, range) = self.content_at(at);
            let available = usize::try_from(range.end.saturating_sub(at)).unwrap_or(usize::MAX);
            let length = available.min(total.saturating_sub(done));
            if length == 0 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            each(content, &iovec::part(slices, done, length))?;
            done = done.saturating_add(length);
        }
        Ok(())
    }

    /// What is at `position`, and the range of the disk over which that goes on.
    fn content_at(&self, position: u64) -> (Content<'_>, Range<u64>) {
        let next = self.placed.partition_point(|placed| placed.start <= position);
        let next_start = self.placed.get(next).map_or(self.size, |placed| placed.start);
        let Some(Placed { start, extent }) = next.checked_sub(1).and_then(|last| self.placed.get(last)) else {
            return (Content::Zeros, position..next_start);
        };
        let into = position.saturating_sub(*start);
        if into < extent.length {
            // Checked in `new`: the extent's end fits.
            let end = start.saturating_add(extent.length);
            (Content::File(&extent.file, extent.offset.saturating_add(into)), position..end)
        } else {
            (Content::Zeros, position..next_start)
        }
    }
}

/// Repeats `call`, which moves bytes between a file and `slices`, until all are moved.
fn completely(
    slices: &[VolatileSlice<'_>],
    offset: u64,
    call: impl Fn(&[VolatileSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let total = iovec::length(slices);
    let mut done = 0_usize;
    while done < total {
        let at =
            u64::try_from(done).ok().and_then(|done| offset.checked_add(done)).ok_or(io::ErrorKind::InvalidInput)?;
        let moved = call(&iovec::part(slices, done, usize::MAX), at)?;
        if moved == 0 {
            // The file is shorter than its extent.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done = done.saturating_add(moved);
    }
    Ok(())
}

/// Makes a hole of a part of a file, whose length stays.
fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let length = libc::off_t::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    loop {
        match fallocate(file, mode, offset, length) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

fn zero(slice: &VolatileSlice<'_>) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut done = 0_usize;
    while let Some(rest) = slice.offset(done).ok().filter(|rest| !rest.is_empty()) {
        rest.copy_from(&ZEROS);
        done = done.saturating_add(rest.len().min(ZEROS.len()));
    }
}
