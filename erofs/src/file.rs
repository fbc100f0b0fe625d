//! The content of one regular file, as it streams to the output.

use crate::error::Error;
use crate::format::BLOCK;
use crate::inode::{Extent, InodeId, Kind};
use crate::output::Output;
use crate::writer::Writer;

const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Takes the content of a file. When it is dropped without [`Self::finish`], what it wrote is discarded.
#[derive(Debug)]
#[must_use = "the file is there only when it is finished"]
pub struct FileWriter<'a, O> {
    writer: &'a mut Writer<O>,
    id: InodeId,
    /// Bytes so far. Those after the last full block are in [`Writer::partial`].
    size: u64,
}

impl<'a, O: Output> FileWriter<'a, O> {
    pub(crate) fn new(writer: &'a mut Writer<O>, id: InodeId) -> Self {
        Self { writer, id, size: 0 }
    }

    /// Adds `bytes` at the end. Blocks that are all zeros aren't written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let grown = self.grown(bytes.len() as u64)?;
        let (head, bytes) = bytes.split_at(bytes.len().min(self.room()));
        self.writer.partial.extend_from_slice(head);
        self.flush_full()?;
        let (blocks, tail) = bytes.as_chunks::<BLOCK>();
        let mut block = grown.saturating_sub(bytes.len() as u64) / BLOCK as u64;
        for run in blocks.chunk_by(|a, b| (*a == ZEROS) == (*b == ZEROS)) {
            self.write_blocks(block, run)?;
            block = block.saturating_add(run.len() as u64);
        }
        self.writer.partial.extend_from_slice(tail);
        self.size = grown;
        Ok(())
    }

    /// Adds zeros at the end. However many they are, this takes no time, and no room on a sparse output.
    pub fn skip(&mut self, zeros: u64) -> Result<(), Error> {
        let grown = self.grown(zeros)?;
        let head = self.room().min(usize::try_from(zeros).unwrap_or(usize::MAX));
        let filled = self.writer.partial.len().saturating_add(head);
        self.writer.partial.resize(filled, 0);
        self.flush_full()?;
        if zeros > head as u64 {
            let tail = usize::try_from(grown % BLOCK as u64).unwrap_or_default();
            self.writer.partial.resize(tail, 0);
        }
        self.size = grown;
        Ok(())
    }

    /// Ends the file. It still needs a name: see [`Writer::link`].
    pub fn finish(mut self) -> Result<InodeId, Error> {
        if !self.writer.partial.is_empty() {
            self.writer.partial.resize(BLOCK, 0);
            self.flush_full()?;
        }
        let Self { writer, id, size } = self;
        let extent = Extent { block: writer.next_block, size };
        writer.next_block = writer.next_block.saturating_add(extent.blocks());
        writer.written = writer.next_block;
        if let Some(inode) = writer.inodes.get_mut(id.index()) {
            inode.kind = Kind::File(extent);
        }
        Ok(id)
    }

    /// The size with `more` bytes, if that fits into the image. It needs a block for metadata too.
    fn grown(&self, more: u64) -> Result<u64, Error> {
        let full = || self.writer.options.full();
        let size = self.size.checked_add(more).ok_or_else(full)?;
        let end = self.writer.next_block.saturating_add(size.div_ceil(BLOCK as u64));
        if end < self.writer.options.block_limit() { Ok(size) } else { Err(full()) }
    }

    /// How many bytes complete the block that was begun, if one was.
    fn room(&self) -> usize {
        match self.writer.partial.len() {
            0 => 0,
            begun => BLOCK.saturating_sub(begun),
        }
    }

    /// Writes the block that was begun, once it is complete.
    fn flush_full(&mut self) -> Result<(), Error> {
        let partial = std::mem::take(&mut self.writer.partial);
        self.write_blocks(self.size / BLOCK as u64, partial.as_chunks().0)?;
        self.writer.partial = partial;
        if self.writer.partial.len() == BLOCK {
            self.writer.partial.clear();
        }
        Ok(())
    }

    /// Writes blocks at the block `index` of the file, which are all zeros if the first is.
    fn write_blocks(&mut self, index: u64, blocks: &[[u8; BLOCK]]) -> Result<(), Error> {
        if blocks.first().is_none_or(|block| *block == ZEROS) {
            return Ok(());
        }
        let block = self.writer.next_block.saturating_add(index);
        self.writer.written = block.saturating_add(blocks.len() as u64);
        self.writer.sink.write(block.saturating_mul(BLOCK as u64), blocks.as_flattened())
    }
}
