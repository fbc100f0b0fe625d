//! Unpacks the layers of an OCI image (OCI image specification 1.1, "Image Layer Filesystem Changeset") into an EROFS image.
//!
//! ```text
//! reader thread (feed):  block device ─source─▶ stored bytes ─decompress─▶ chunks of the tar stream
//!                                        │ digest: blob
//! this thread:           chunks ─stream─▶ archive ─▶ entries ─merge─▶ tree (memory)
//!                                 │ digest: diff_id             └──▶ image ─erofs─▶ blocks
//! writer thread (output): blocks ─▶ windows of 2 MiB ─▶ block device
//! ```
//!
//! A layer is hostile. Its names and links are resolved against a [`tree`] in memory that holds nothing but what the
//! layers made, and no file system is ever asked. The layers are read once, in order, and contents go straight from the
//! decompressed stream to the output. Nothing else but names and metadata is kept: about 500 bytes for each file, within
//! [`Limits::memory`]. All of this happens in user mode. When unpacking fails, the output holds no file system, since its
//! superblock comes last.
//!
//! The merge knows nothing of images: [`merge::Sink`] is where another kind of target plugs in.
//!
//! # Where tools differ
//! The result is that of `umoci unpack` (0.4.7, run as root), entry by entry, and what it refuses is refused; what the
//! specification leaves open and umoci decides is said in the modules. Deliberate differences:
//! - A directory that no entry describes gets the epoch as its time, and no directory's time depends on when it was unpacked.
//!   With umoci those that it had to make, those it made them in, and those below a whiteout have the time of unpacking.
//! - There are no access times.
//! - Extended attributes named `trusted.overlay.*` are left out, since a task's root is an overlay on this image.
//! - Global PAX headers, and the names that AUFS kept for itself, are passed over as by podman and Docker.
//! - PAX sparse files are refused, as umoci refuses GNU's.
//! - Owners and device numbers that Linux cannot hold are refused; umoci cuts them to what fits.
//! - Zero bytes behind a gzip stream are accepted, as by gzip itself.
//!
//! Tar has no type for sockets, so there are none.

mod archive;
mod buffers;
mod decompress;
mod digest;
mod entry;
mod error;
mod feed;
mod header;
mod image;
mod limits;
mod merge;
mod output;
mod path;
mod pax;
mod source;
mod stream;
mod tree;
mod whiteout;
mod xattr;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use erofs::Output;
use protocol::message::UnpackProgress;
use protocol::spec::{Compression, Layer};

use archive::Archive;
use digest::Verifier;
use feed::{Feed, Shared};
use image::Image;
use merge::Merger;
use output::DeviceOutput;
use source::Device;
use stream::Stream;

pub use error::{Cause, UnpackError};
pub use limits::{Allowance, Limits};

/// How often progress is reported at most.
const REPORT_EVERY: Duration = Duration::from_millis(150);

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The size of the image, in bytes.
    pub image_size: u64,
    /// Entries of all layers, whiteouts included.
    pub entries: u64,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Unpacks `layers`, the lowest first, from the block device `layer_device` to the block device `output_device`, which must
/// read as zeros, and makes sure that it has arrived there.
///
/// # Errors
/// What is wrong with which layer and entry; the output then holds no file system.
pub fn unpack_to_device(
    layer_device: &Path,
    layers: &[Layer],
    output_device: &Path,
    limits: &Limits,
    report: &mut dyn FnMut(UnpackProgress),
) -> Result<Summary, UnpackError> {
    let failed = |layer: usize| {
        move |error: io::Error| UnpackError { layer, layers: layers.len(), entry: None, cause: Cause::Output(error) }
    };
    let output = DeviceOutput::open(output_device).map_err(failed(1))?;
    let (output, summary) = unpack_layers(layer_device, layers, output, limits, report)?;
    output.finish().map_err(failed(layers.len()))?;
    Ok(summary)
}

/// Unpacks `layers`, the lowest first, from `device` to `output`, which must read as zeros. Calls `report` now and then.
///
/// # Errors
/// What is wrong with which layer and entry; the output then holds no file system.
pub fn unpack_layers<O: Output>(
    device: &Path,
    layers: &[Layer],
    output: O,
    limits: &Limits,
    report: &mut dyn FnMut(UnpackProgress),
) -> Result<(O, Summary), UnpackError> {
    let error = |layer, entry, cause| UnpackError { layer, layers: layers.len(), entry, cause };
    let device = Device::open(device).map_err(|cause| error(1, None, cause))?;
    let (shared, written) = (Shared::default(), AtomicU64::new(0));
    thread::scope(|scope| {
        let image = Image::new(output, limits.image_bytes, &written).map_err(|cause| error(1, None, cause))?;
        let feed = Feed::start(scope, device, layers, limits.zstd_window, &shared);
        let meter = Meter { read: &shared.read, written: &written, last: Instant::now(), report };
        let bytes = Allowance::new(limits.bytes);
        let mut unpacking =
            Unpacking { feed, meter, merger: Merger::new(image, limits), bytes, entries: 0, entry: None };
        for (number, layer) in (1..).zip(layers) {
            if let Err(cause) = unpacking.layer(layer) {
                let entry = unpacking.entry.map(|name| path::escape(&name));
                return Err(error(number, entry, cause));
            }
        }
        let Unpacking { merger, entries, .. } = unpacking;
        let mut image = merger.finish();
        let warnings = image.left_out().map(|(attribute, file)| {
            let (attribute, file) = (path::escape(&attribute), path::escape(&file));
            format!("Extended attributes such as {attribute} of {file} can't be held and were left out")
        });
        let (output, image_size) = image.finish().map_err(|cause| error(layers.len(), None, cause))?;
        Ok((output, Summary { image_size, entries, warnings: warnings.into_iter().collect() }))
    })
}

/// Tells how far it went.
struct Meter<'a> {
    read: &'a AtomicU64,
    written: &'a AtomicU64,
    last: Instant,
    report: &'a mut dyn FnMut(UnpackProgress),
}

impl Meter<'_> {
    fn tick(&mut self) {
        if self.last.elapsed() >= REPORT_EVERY {
            let [read, written] = [self.read, self.written].map(|count| count.load(Ordering::Relaxed));
            (self.report)(UnpackProgress { read, written });
            self.last = Instant::now();
        }
    }
}

/// Everything that lasts from layer to layer.
struct Unpacking<'a, O> {
    feed: Feed<'a>,
    meter: Meter<'a>,
    merger: Merger<Image<'a, O>>,
    bytes: Allowance,
    entries: u64,
    /// The name of the entry at which it stopped.
    entry: Option<Vec<u8>>,
}

impl<O: Output> Unpacking<'_, O> {
    /// Unpacks a layer and verifies its digests.
    fn layer(&mut self, layer: &Layer) -> Result<(), Cause> {
        let content = Verifier::new("uncompressed archive", &layer.diff_id)?;
        // The same bytes need not be hashed twice for the same digest.
        let same = layer.compression == Compression::None && layer.digest.as_ref() == Some(&layer.diff_id);
        let content = (!same).then_some(content);
        self.feed.start_layer();
        self.merger.start_layer();
        let Err(cause) = self.merge(content) else { return Ok(()) };
        // When the blob is damaged, that explains more than what came of it.
        let damage = if cause.may_be_damage() { self.feed.settle().err() } else { None };
        let cause = damage.filter(|damage| matches!(damage, Cause::Digest { .. })).unwrap_or(cause);
        if matches!(cause, Cause::Digest { .. }) {
            self.entry = None;
        }
        Err(cause)
    }

    /// Merges all entries of the feed's current layer.
    fn merge(&mut self, content: Option<Verifier>) -> Result<(), Cause> {
        let mut tick = || self.meter.tick();
        let mut archive = Archive::new(Stream::new(&mut self.feed, content, &mut self.bytes, &mut tick));
        loop {
            let result = archive.next().and_then(|entry| match entry {
                Some(entry) => self.merger.entry(&entry, &mut archive).map(|()| true),
                None => Ok(false),
            });
            match result {
                Ok(true) => self.entries = self.entries.saturating_add(1),
                Ok(false) => return archive.finish(),
                Err(cause) => {
                    self.entry = archive.name().map(<[u8]>::to_vec);
                    return Err(cause);
                }
            }
        }
    }
}
