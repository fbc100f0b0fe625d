//! Unpacks the layers of an OCI image (OCI image specification 1.1, "Image Layer Filesystem Changeset") into a directory.
//!
//! ```text
//! block device ─source─▶ stored bytes ─decompress─▶ tar stream ─archive─▶ entries ─merge─▶ tree (memory)
//!                  │ digest: blob            │ digest: diff_id                       └──▶ sink ─apply─▶ files
//! ```
//!
//! A layer is hostile. Its names and links are resolved against a [`tree`] in memory that holds nothing but what the
//! layers made; only then are files written, by single names in directories that [`root`] opens beneath the target. The
//! layers are read once, in order, and contents go straight from the decompressed stream to their file. Nothing else but
//! the tree is kept: about 200 bytes for each file. When unpacking fails, the target holds a part of the image and is
//! to be thrown away.
//!
//! The merge knows nothing of file systems: [`merge::Sink`] is where another kind of target, such as a file-system image,
//! plugs in.
//!
//! # Where tools differ
//! The result is that of `umoci unpack` (0.4.7, run as root), entry by entry, and what it refuses is refused; what the
//! specification leaves open and umoci decides is said in the modules. Deliberate differences:
//! - A directory that no entry describes gets the epoch as its time, and no directory's time depends on when it was unpacked.
//!   With umoci those that it had to make, those it made them in, and those below a whiteout have the time of unpacking.
//! - Access times are set to the modification times.
//! - Global PAX headers, and the names that AUFS kept for itself, are passed over as by podman and Docker.
//! - PAX sparse files are refused, as umoci refuses GNU's.
//! - Owners and device numbers that Linux cannot hold are refused; umoci cuts them to what fits.
//! - Zero bytes behind a gzip stream are accepted, as by gzip itself.
//!
//! Tar has no type for sockets, so there are none.

mod apply;
mod archive;
mod buffers;
mod decompress;
mod digest;
mod entry;
mod error;
mod header;
mod limits;
mod merge;
mod path;
mod pax;
mod root;
mod source;
mod stream;
mod tree;
mod whiteout;
mod xattr;

#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::path::Path;

use protocol::spec::{Compression, Layer};

use apply::Files;
use archive::Archive;
use buffers::Buffers;
use digest::Verifier;
use merge::Merger;
use source::{Device, Extent, Source};
use stream::Stream;

pub use error::{Cause, UnpackError};
pub use limits::{Allowance, Limits};

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries of all layers, whiteouts included.
    pub entries: u64,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Unpacks `layers`, the lowest first, from `device` into the directory `target`, which must be empty.
///
/// Needs root, and /proc for extended attributes of links and device nodes. Sets the process's umask to 022.
///
/// # Errors
/// What is wrong with which layer and entry; the target then holds a part of the image.
pub fn unpack_layers(
    device: &Path,
    layers: &[Layer],
    target: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Summary, UnpackError> {
    let error = |layer, entry, cause| UnpackError { layer, layers: layers.len(), entry, cause };
    let mut unpacking = Unpacking::new(device, target, limits).map_err(|cause| error(1, None, cause))?;
    for (number, layer) in (1..).zip(layers) {
        if let Err(cause) = unpacking.layer(layer) {
            let entry = unpacking.progress.entry.map(|name| path::escape(&name));
            return Err(error(number, entry, cause));
        }
    }
    let files = unpacking.merger.finish().map_err(|cause| error(layers.len(), None, cause))?;
    let warnings = files.unsupported().map(|(attribute, file)| {
        let (attribute, file) = (path::escape(&attribute), path::escape(&file));
        format!("The guest's file system can't hold extended attributes such as {attribute} of {file}")
    });
    Ok(Summary { entries: unpacking.progress.entries, warnings: warnings.into_iter().collect() })
}

/// Everything that lasts from layer to layer.
struct Unpacking {
    device: Device,
    buffers: Buffers,
    merger: Merger<Files>,
    bytes: Allowance,
    progress: Progress,
}

/// How far it went.
#[derive(Default)]
struct Progress {
    entries: u64,
    /// The name of the entry at which it stopped.
    entry: Option<Vec<u8>>,
}

impl Unpacking {
    fn new(device: &Path, target: BorrowedFd<'_>, limits: &Limits) -> Result<Self, Cause> {
        Ok(Self {
            device: Device::open(device)?,
            buffers: Buffers::new(),
            merger: Merger::new(Files::new(target)?, limits),
            bytes: Allowance::new(limits.bytes),
            progress: Progress::default(),
        })
    }

    /// Unpacks a layer and verifies its digests.
    fn layer(&mut self, layer: &Layer) -> Result<(), Cause> {
        let blob = layer.digest.as_deref().map(|digest| Verifier::new("blob", digest)).transpose()?;
        let content = Verifier::new("uncompressed archive", &layer.diff_id)?;
        // The same bytes need not be hashed twice for the same digest.
        let same = layer.compression == Compression::None && layer.digest.as_ref() == Some(&layer.diff_id);
        let content = (!same).then_some(content);
        let (stored, plain) = self.buffers.split();
        let extent = Extent { offset: layer.offset, length: layer.length };
        let mut source = Source::new(&mut self.device, stored, extent, blob);
        let reader = decompress::decoder(layer.compression, &mut source);
        let stream = Stream::new(reader, decompress::name(layer.compression), plain, content, &mut self.bytes);
        self.merger.start_layer();
        let result = merge(Archive::new(stream), &mut self.merger, &mut self.progress);
        if let Some(failure) = source.take_failure() {
            return Err(failure);
        }
        match result {
            // When the blob is damaged, that explains more than what came of it.
            Err(cause) if cause.may_be_damage() => match source.verify() {
                Err(damage) => {
                    self.progress.entry = None;
                    Err(damage)
                }
                Ok(()) => Err(cause),
            },
            Err(cause) => Err(cause),
            Ok(()) => source.verify(),
        }
    }
}

/// Merges all entries of an archive.
fn merge(mut archive: Archive<'_>, merger: &mut Merger<Files>, progress: &mut Progress) -> Result<(), Cause> {
    loop {
        let result = archive.next().and_then(|entry| match entry {
            Some(entry) => merger.entry(&entry, &mut archive).map(|()| true),
            None => Ok(false),
        });
        match result {
            Ok(true) => progress.entries = progress.entries.saturating_add(1),
            Ok(false) => return archive.finish(),
            Err(cause) => {
                progress.entry = archive.name().map(<[u8]>::to_vec);
                return Err(cause);
            }
        }
    }
}
