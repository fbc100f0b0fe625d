//! Gathers what lies together on the output, so that a million small files don't become a million small writes.

use crate::error::Error;
use crate::output::Output;

/// How much is gathered. It bounds the size of a write too.
const CAPACITY: usize = 1 << 20;

/// A buffer before an output.
#[derive(Debug)]
pub(crate) struct Sink<O> {
    output: O,
    /// Where the buffer belongs.
    offset: u64,
    buffer: Vec<u8>,
}

impl<O: Output> Sink<O> {
    pub(crate) fn new(output: O) -> Self {
        Self { output, offset: 0, buffer: Vec::new() }
    }

    /// Writes `bytes` at `offset`.
    pub(crate) fn write(&mut self, offset: u64, mut bytes: &[u8]) -> Result<(), Error> {
        if offset != self.position() {
            self.flush()?;
            self.offset = offset;
        }
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(CAPACITY - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == CAPACITY {
                self.flush()?;
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Forgets what was written at `offset`.
    pub(crate) fn discard(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.flush()?;
        self.output.discard(offset, length).map_err(|source| Error::Output { offset, source })
    }

    /// Hands over what is gathered.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        if !self.buffer.is_empty() {
            let offset = self.offset;
            self.output.write_at(offset, &self.buffer).map_err(|source| Error::Output { offset, source })?;
            self.offset = self.position();
            self.buffer.clear();
        }
        Ok(())
    }

    pub(crate) fn into_output(self) -> O {
        self.output
    }

    /// Where the next byte joins the buffer.
    fn position(&self) -> u64 {
        self.offset.saturating_add(self.buffer.len() as u64)
    }
}
