//! Where an image goes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where the image goes: a file, a block device, memory.
///
/// At first it must read as zeros everywhere, since blocks of zeros are not written. The calls, of which each is about
/// whole blocks: content in ascending order, in between [`Self::discard`] for what was removed again, then the metadata
/// in ascending order, last block 0.
pub trait Output {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Forgets `length` bytes at `offset`, which must read as zeros afterwards. They aren't written again.
    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()>;
}

/// A new, empty file. What is discarded is overwritten with zeros, so it takes room.
impl Output for File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        let end = offset.saturating_add(length);
        let mut position = offset;
        while position < end {
            let part = ZEROS.get(..usize::try_from(end - position).unwrap_or(usize::MAX)).unwrap_or(ZEROS);
            self.write_all_at(part, position)?;
            position += part.len() as u64;
        }
        Ok(())
    }
}

/// An image in memory, from an empty vector.
impl Output for Vec<u8> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let start = usize::try_from(offset).map_err(|_| too_large())?;
        let end = start.checked_add(bytes.len()).ok_or_else(too_large)?;
        if self.len() < end {
            self.try_reserve(end - self.len()).map_err(|_| too_large())?;
            self.resize(end, 0);
        }
        if let Some(place) = self.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let position = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let range = position(offset)..position(offset.saturating_add(length));
        if let Some(place) = self.get_mut(range) {
            place.fill(0);
        }
        Ok(())
    }
}

impl<O: Output + ?Sized> Output for &mut O {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, bytes)
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        (**self).discard(offset, length)
    }
}
