//! Reads one layer's bytes from the block device, hashing them on the way.
//!
//! The device is read with `O_DIRECT` in aligned pieces of 1 MiB: on hosts that execute guest kernel code in software, a
//! read through the page cache costs 0.4 ms for every 4 KiB that the kernel copies. Where `O_DIRECT` is refused (a file on
//! tmpfs) ordinary reads take its place. Bytes behind the layer's end are read only to fill its last 4096-byte block and
//! are never passed on.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::digest::Verifier;
use super::error::Cause;

/// How much is read at once; a multiple of [`ALIGNMENT`].
const PIECE: usize = 1 << 20;

/// The alignment of offsets, lengths and memory that satisfies `O_DIRECT` on every common block device.
const ALIGNMENT: usize = 4096;

/// The open layer device and the buffer for reading it.
#[derive(Debug)]
pub struct Device {
    file: File,
    direct: bool,
    /// Larger than a piece by an alignment, so that an aligned piece lies in it.
    memory: Vec<u8>,
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
        Ok(Self { file, direct, memory: vec![0; PIECE.saturating_add(ALIGNMENT)] })
    }

    /// Reads up to `length` bytes at `offset` into the aligned piece of the buffer, and says how many there were.
    fn read(&mut self, offset: u64, length: usize) -> io::Result<usize> {
        // The last piece of a layer is rounded up to its block; the device has zeros there.
        let rounded = length.next_multiple_of(ALIGNMENT).min(PIECE);
        loop {
            let direct = self.direct;
            let file = &self.file;
            let Some(piece) = piece_mut(&mut self.memory).get_mut(..rounded) else { return Ok(0) };
            match file.read_at(piece, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if direct && error.raw_os_error() == Some(libc::EINVAL) => self.stop_direct()?,
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

/// The part of `memory` that starts at an aligned address.
fn piece_mut(memory: &mut [u8]) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    memory.get_mut(start..).unwrap_or_default()
}

fn piece(memory: &[u8]) -> &[u8] {
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    memory.get(start..).unwrap_or_default()
}

/// The bytes of one layer as they are stored.
#[derive(Debug)]
pub struct Source<'a> {
    device: &'a mut Device,
    /// Where the next piece starts on the device.
    offset: u64,
    /// Bytes of the layer that have not been read from the device.
    remaining: u64,
    /// The part of the buffer's piece that has been read and not consumed.
    start: usize,
    end: usize,
    verifier: Option<Verifier>,
    failure: Option<Cause>,
}

impl<'a> Source<'a> {
    /// The `length` bytes at `offset` of the device. `verifier` gets all of them.
    pub fn new(device: &'a mut Device, offset: u64, length: u64, verifier: Option<Verifier>) -> Self {
        Self { device, offset, remaining: length, start: 0, end: 0, verifier, failure: None }
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
        let length = usize::try_from(self.remaining).unwrap_or(PIECE).min(PIECE);
        let got = self.device.read(self.offset, length).map_err(Cause::Device)?.min(length);
        if got == 0 {
            return Err(Cause::DeviceTooShort { missing: self.remaining });
        }
        if let (Some(verifier), Some(bytes)) = (&mut self.verifier, piece(&self.device.memory).get(..got)) {
            verifier.update(bytes);
        }
        self.offset = self.offset.saturating_add(got as u64);
        self.remaining = self.remaining.saturating_sub(got as u64);
        (self.start, self.end) = (0, got);
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
        Ok(piece(&self.device.memory).get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }
}
