//! The uncompressed tar stream: a buffer from which blocks and file contents are lent without copying, hashed as it
//! fills.
//!
//! Invariant: every byte that the reader gives passes the verifier exactly once, if there is one, and is counted against
//! the limit.

use std::io::{self, Read};

use super::digest::Verifier;
use super::error::Cause;
use super::limits::Allowance;

/// The unit of a tar archive, in bytes.
pub const BLOCK: usize = 512;

/// A tar stream that is being read.
pub struct Stream<'a> {
    reader: Box<dyn Read + 'a>,
    /// The name of the format that `reader` decodes, for errors.
    format: &'static str,
    /// Large, so that most files are written with one system call.
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    verifier: Option<Verifier>,
    allowance: &'a mut Allowance,
}

impl<'a> Stream<'a> {
    /// A stream of the bytes of `reader`. `buffer` holds several blocks; `verifier` gets all bytes.
    pub fn new(
        reader: Box<dyn Read + 'a>,
        format: &'static str,
        buffer: &'a mut [u8],
        verifier: Option<Verifier>,
        allowance: &'a mut Allowance,
    ) -> Self {
        Self { reader, format, buffer, start: 0, end: 0, verifier, allowance }
    }

    /// The next block, or `None` at the end of the stream.
    pub fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Cause> {
        while self.available().len() < BLOCK {
            if !self.fill()? {
                return if self.available().is_empty() { Ok(None) } else { Err(Cause::Truncated("a block")) };
            }
        }
        let block = self.available().first_chunk::<BLOCK>().copied();
        self.start = self.start.saturating_add(BLOCK);
        Ok(block)
    }

    /// Lends at least one and at most `length` of the next bytes; an empty slice at the end of the stream or when
    /// `length` is 0. They are consumed.
    pub fn lend(&mut self, length: u64) -> Result<&[u8], Cause> {
        if self.start == self.end && length > 0 {
            self.fill()?;
        }
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(self.available().len());
        let from = self.start;
        self.start = self.start.saturating_add(count);
        Ok(self.buffer.get(from..self.start).unwrap_or_default())
    }

    /// Passes over `length` bytes and says how many there were.
    pub fn skip(&mut self, length: u64) -> Result<u64, Cause> {
        let mut left = length;
        while left > 0 {
            match self.lend(left)?.len() {
                0 => break,
                count => left = left.saturating_sub(count as u64),
            }
        }
        Ok(length.saturating_sub(left))
    }

    /// Reads to the end, whatever is there, and checks the digest of all of it.
    pub fn finish(mut self) -> Result<(), Cause> {
        while !self.lend(u64::MAX)?.is_empty() {}
        self.verifier.map_or(Ok(()), Verifier::finish)
    }

    fn available(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Adds bytes to the buffer and says whether there were any.
    fn fill(&mut self) -> Result<bool, Cause> {
        // What is left of the buffer is less than a block here, so this moves little.
        self.buffer.copy_within(self.start..self.end, 0);
        self.end = self.end.saturating_sub(self.start);
        self.start = 0;
        let first = self.end;
        while let Some(room) = self.buffer.get_mut(self.end..).filter(|room| !room.is_empty()) {
            match self.reader.read(room) {
                Ok(0) => break,
                Ok(count) => self.end = self.end.saturating_add(count).min(self.buffer.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Cause::Compression { format: self.format, error }),
            }
        }
        let fresh = self.buffer.get(first..self.end).unwrap_or_default();
        if let Some(verifier) = &mut self.verifier {
            verifier.update(fresh);
        }
        self.allowance.take_bytes(fresh.len())?;
        Ok(!fresh.is_empty())
    }
}
