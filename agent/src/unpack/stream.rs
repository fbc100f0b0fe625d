//! The uncompressed tar stream of a layer: blocks and file contents are lent from the chunks without copying, hashed as they
//! come.
//!
//! Invariant: every byte of a chunk passes the verifier exactly once, if there is one, and is counted against the limit.

use super::digest::Verifier;
use super::error::Cause;
use super::feed::{Chunk, Feed};
use super::limits::Allowance;

/// The unit of a tar archive, in bytes.
pub const BLOCK: usize = 512;

/// A tar stream that is being read.
pub struct Stream<'a, 's> {
    feed: &'a mut Feed<'s>,
    chunk: Option<Chunk>,
    /// How much of the chunk has been lent.
    start: usize,
    verifier: Option<Verifier>,
    allowance: &'a mut Allowance,
    /// Called when a chunk has come.
    tick: &'a mut dyn FnMut(),
}

impl<'a, 's> Stream<'a, 's> {
    /// The stream of the feed's current layer; `verifier` gets all bytes.
    pub fn new(
        feed: &'a mut Feed<'s>,
        verifier: Option<Verifier>,
        allowance: &'a mut Allowance,
        tick: &'a mut dyn FnMut(),
    ) -> Self {
        Self { feed, chunk: None, start: 0, verifier, allowance, tick }
    }

    /// The next block, or `None` at the end of the stream.
    pub fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Cause> {
        if self.available().is_empty() && !self.fill()? {
            return Ok(None);
        }
        // Chunks hold whole blocks, unless the stream ends in the middle of one.
        let block = self.available().first_chunk::<BLOCK>().copied().ok_or(Cause::Truncated("a block"))?;
        self.start = self.start.saturating_add(BLOCK);
        Ok(Some(block))
    }

    /// Lends at least one and at most `length` of the next bytes; an empty slice at the end of the stream or when
    /// `length` is 0. They are consumed.
    pub fn lend(&mut self, length: u64) -> Result<&[u8], Cause> {
        if length > 0 && self.available().is_empty() {
            self.fill()?;
        }
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(self.available().len());
        let from = self.start;
        self.start = self.start.saturating_add(count);
        let bytes = self.chunk.as_ref().map(Chunk::bytes).unwrap_or_default();
        Ok(bytes.get(from..self.start).unwrap_or_default())
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
        self.verifier.take().map_or(Ok(()), Verifier::finish)
    }

    fn available(&self) -> &[u8] {
        self.chunk.as_ref().and_then(|chunk| chunk.bytes().get(self.start..)).unwrap_or_default()
    }

    /// Takes the next chunk and says whether there was anything in it.
    fn fill(&mut self) -> Result<bool, Cause> {
        if let Some(used) = self.chunk.take() {
            self.feed.release(used);
        }
        self.start = 0;
        let Some(chunk) = self.feed.next()? else { return Ok(false) };
        (self.tick)();
        let bytes = chunk.bytes();
        self.allowance.take_bytes(bytes.len())?;
        if let Some(verifier) = &mut self.verifier {
            verifier.update(bytes);
        }
        let any = !bytes.is_empty();
        self.chunk = Some(chunk);
        Ok(any)
    }
}
