//! The thread that reads and decompresses the layers, so that this happens while what came before is hashed, merged and
//! written.
//!
//! ```text
//! reader thread                              this thread
//!   device ─▶ blob digest ─▶ decoder ─ Chunk ─▶ diff_id, archive, merge
//!                              ◀── free pages ─┘
//!                                    … End(blob is right, or why not) of each layer
//! ```
//!
//! Invariants: all chunks of a layer but its last are full, so that tar blocks never cross them; each layer has one end; the
//! reader is at most [`CHUNKS`] chunks ahead, and stops decoding when it is told that the rest of the layer does not
//! matter ([`Feed::settle`]), which a decompression bomb must not outlive.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

use protocol::spec::Layer;

use super::buffers::Pages;
use super::decompress;
use super::digest::Verifier;
use super::error::Cause;
use super::source::{Device, Extent, Source};

/// How many chunks there are: one is filled, one waits, one is used.
const CHUNKS: usize = 3;

/// What both threads look at.
#[derive(Debug, Default)]
pub struct Shared {
    /// Stored bytes of all layers that have been read.
    pub read: AtomicU64,
    /// Whether the rest of the current layer is not wanted.
    stop: AtomicBool,
}

/// Bytes of a layer, uncompressed.
#[derive(Debug)]
pub struct Chunk {
    pages: Pages,
    length: usize,
}

impl Chunk {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.pages.get(..self.length).unwrap_or_default()
    }
}

enum Item {
    Chunk(Chunk),
    /// The layer ends, and its stored bytes were as the image says; or why it ends early.
    End(Result<(), Cause>),
}

/// The receiving end.
#[derive(Debug)]
pub struct Feed<'s> {
    items: Receiver<Item>,
    free: Sender<Pages>,
    shared: &'s Shared,
    ended: bool,
}

impl<'s> Feed<'s> {
    /// Starts the thread.
    pub fn start<'env>(
        scope: &'s Scope<'s, 'env>,
        device: Device,
        layers: &'env [Layer],
        zstd_window: u64,
        shared: &'env Shared,
    ) -> Self {
        let (items_in, items) = sync_channel(CHUNKS);
        let (free, free_out) = channel();
        for _ in 0..CHUNKS {
            // The other end is right here.
            let _ = free.send(Pages::new());
        }
        let reader = Reader { device, stored: Pages::new(), zstd_window, items: items_in, free: free_out, shared };
        scope.spawn(move || reader.run(layers));
        Self { items, free, shared, ended: false }
    }

    /// The chunks that follow belong to the next layer.
    pub fn start_layer(&mut self) {
        self.ended = false;
    }

    /// The next chunk, or `None` at the end of the layer.
    pub fn next(&mut self) -> Result<Option<Chunk>, Cause> {
        if self.ended {
            return Ok(None);
        }
        match self.items.recv() {
            Ok(Item::Chunk(chunk)) => Ok(Some(chunk)),
            Ok(Item::End(result)) => {
                self.ended = true;
                result.map(|()| None)
            }
            Err(_) => Err(Cause::Device(io::Error::other("its reader has stopped"))),
        }
    }

    /// Gives a chunk's memory back.
    pub fn release(&self, chunk: Chunk) {
        // A reader that has read everything needs no memory.
        let _ = self.free.send(chunk.pages);
    }

    /// Gives up on the layer and says whether its stored bytes were as the image says.
    pub fn settle(&mut self) -> Result<(), Cause> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(chunk) = self.next()? {
            self.release(chunk);
        }
        Ok(())
    }
}

/// Why no more chunks are sent.
enum Stop {
    /// Nobody takes them.
    Alone,
    Failed(Cause),
}

struct Reader<'s> {
    device: Device,
    stored: Pages,
    zstd_window: u64,
    items: SyncSender<Item>,
    free: Receiver<Pages>,
    shared: &'s Shared,
}

impl Reader<'_> {
    fn run(mut self, layers: &[Layer]) {
        for layer in layers {
            let result = match self.layer(layer) {
                Ok(()) => Ok(()),
                Err(Stop::Failed(cause)) => Err(cause),
                Err(Stop::Alone) => return,
            };
            let failed = result.is_err();
            if self.items.send(Item::End(result)).is_err() || failed {
                return;
            }
        }
    }

    fn layer(&mut self, layer: &Layer) -> Result<(), Stop> {
        let blob = layer.digest.as_deref().map(|digest| Verifier::new("blob", digest)).transpose();
        let blob = blob.map_err(Stop::Failed)?;
        let extent = Extent { offset: layer.offset, length: layer.length };
        let mut source = Source::new(&mut self.device, &mut self.stored, extent, blob, &self.shared.read);
        let decoder = decompress::decoder(layer.compression, &mut source, self.zstd_window);
        let decoded = pass_on(decoder, &self.items, &self.free, &self.shared.stop);
        let decoded = decoded.map_err(|stop| match stop {
            Interrupted::Alone => Stop::Alone,
            Interrupted::Broken(error) => {
                Stop::Failed(Cause::Compression { format: decompress::name(layer.compression), error })
            }
        });
        if let Some(failure) = source.take_failure() {
            return Err(Stop::Failed(failure));
        }
        match decoded {
            Err(Stop::Alone) => Err(Stop::Alone),
            // When the blob is damaged, that explains more than what came of it.
            decoded => source.verify().map_err(Stop::Failed).and(decoded),
        }
    }
}

/// Why decoding ended early.
enum Interrupted {
    Alone,
    Broken(io::Error),
}

fn pass_on(
    mut decoder: Box<dyn Read + '_>,
    items: &SyncSender<Item>,
    free: &Receiver<Pages>,
    stop: &AtomicBool,
) -> Result<(), Interrupted> {
    loop {
        let mut pages = free.recv().map_err(|_| Interrupted::Alone)?;
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let length = fill(&mut decoder, &mut pages).map_err(Interrupted::Broken)?;
        let last = length < pages.len();
        items.send(Item::Chunk(Chunk { pages, length })).map_err(|_| Interrupted::Alone)?;
        if last {
            return Ok(());
        }
    }
}

/// Reads until the buffer is full or nothing comes, and says how much came.
fn fill(decoder: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0_usize;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        match decoder.read(room) {
            Ok(0) => break,
            Ok(count) => length = length.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
