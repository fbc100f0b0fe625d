//! Reads one layer's bytes from the block device, hashing them on the way.
//!
//! The device is read with `O_DIRECT` in large aligned pieces: on hosts that execute guest kernel code in software, a
//! read through the page cache costs 0.4 ms for every 4 KiB that the kernel copies. Where `O_DIRECT` is refused (a file on
//! tmpfs) ordinary reads take its place. Bytes behind the layer's end are read only to fill its last 4096-byte block and
//! are never passed on.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::digest::Verifier;
use super::error::Cause;

/// The alignment of offsets, lengths and memory that satisfies `O_DIRECT` on every common block device.
const ALIGNMENT: usize = 4096;

/// The open layer device.
#[derive(Debug)]
pub struct Device {
    file: File,
    direct: bool,
}

impl Device {
    /// Opens the device, or a file that stands for it.
    pub fn open(path: &Path) -> Result<Self, Cause> {
        let mut options = File::options();
        options.read(true);
        let direct = options.clone().custom_flags(libc::O_DIRECT).open(path);
        let (file, direct) = match direct {
            Ok(file) => (file, true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (options.open(path).map_err(Cause::Device)?, false)
            }
            Err(error) => return Err(Cause::Device(error)),
        };
        Ok(Self { file, direct })
    }

    /// Fills the buffer from `offset` on, and says how far it came.
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.direct && error.raw_os_error() == Some(libc::EINVAL) => self.stop_direct()?,
                other => return other,
            }
        }
    }

    /// Turns `O_DIRECT` off for a file that lets it be set and refuses the read.
    fn stop_direct(&mut self) -> io::Result<()> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        self.direct = false;
        let flags = OFlag::from_bits_truncate(fcntl(&self.file, FcntlArg::F_GETFL)?);
        fcntl(&self.file, FcntlArg::F_SETFL(flags.difference(OFlag::O_DIRECT)))?;
        Ok(())
    }
}

/// The bytes of one layer as they are stored.
#[derive(Debug)]
pub struct Source<'a> {
    device: &'a mut Device,
    buffer: &'a mut [u8],
    /// Where the next piece starts on the device.
    offset: u64,
    /// Bytes of the layer that have not been read from the device.
    remaining: u64,
    /// The part of the buffer that has been read and not consumed.
    start: usize,
    end: usize,
    verifier: Option<Verifier>,
    failure: Option<Cause>,
    /// Counts what has been read.
    read: &'a AtomicU64,
}

/// Where a layer is on the device.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Its first byte.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

impl<'a> Source<'a> {
    /// The bytes of an extent. `buffer` is aligned to [`ALIGNMENT`], in memory and in length; `verifier` gets all bytes,
    /// `read` is told their number.
    pub fn new(
        device: &'a mut Device,
        buffer: &'a mut [u8],
        extent: Extent,
        verifier: Option<Verifier>,
        read: &'a AtomicU64,
    ) -> Self {
        let Extent { offset, length } = extent;
        Self { device, buffer, offset, remaining: length, start: 0, end: 0, verifier, failure: None, read }
    }

    /// Reads what is left and checks the digest.
    pub fn verify(mut self) -> Result<(), Cause> {
        if self.verifier.is_some() {
            while self.remaining > 0 {
                self.start = self.end;
                self.refill()?;
            }
        }
        self.verifier.take().map_or(Ok(()), Verifier::finish)
    }

    /// Why the last read failed, if it was the device: a decoder in between does not pass this on as it is.
    pub fn take_failure(&mut self) -> Option<Cause> {
        self.failure.take()
    }

    fn refill(&mut self) -> Result<(), Cause> {
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(self.buffer.len());
        // The last piece of a layer is rounded up to its block; the device has zeros there.
        let rounded = wanted.next_multiple_of(ALIGNMENT).min(self.buffer.len());
        let room = self.buffer.get_mut(..rounded).unwrap_or_default();
        let got = self.device.read(room, self.offset).map_err(Cause::Device)?.min(wanted);
        if got == 0 {
            return Err(Cause::DeviceTooShort { missing: self.remaining });
        }
        if let (Some(verifier), Some(bytes)) = (&mut self.verifier, self.buffer.get(..got)) {
            verifier.update(bytes);
        }
        self.offset = self.offset.saturating_add(got as u64);
        self.remaining = self.remaining.saturating_sub(got as u64);
        (self.start, self.end) = (0, got);
        self.read.fetch_add(got as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), available.get(..count)) {
            to.copy_from_slice(from);
        }
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start >= self.end && self.remaining > 0 {
            self.refill().map_err(|cause| {
                self.failure = Some(cause);
                io::Error::other("the layer device can't be read")
            })?;
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }
}
