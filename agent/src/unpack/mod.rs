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
//! The result is that of `umoci unpack` (0.4.7, run as root), entry by entry; what the specification leaves open and umoci
//! decides is said in the modules. Deliberate differences:
//! - Directories that no entry describes get the epoch as their time; with umoci it is the time of unpacking, and so is
//!   that of a directory in which it made such a directory. Elsewhere directories keep the time of their last entry, with both.
//! - Access times are set to the modification times.
//! - Global PAX headers, and the names that AUFS kept for itself, are passed over as by podman and Docker.
//! - PAX sparse files are refused, as umoci refuses GNU's.
//! - `.wh.`, `.wh..` and `.wh...` are refused; umoci takes them for the directory itself or its parent.
//! - A blob whose compressed stream is broken behind the archive's end is refused.

mod apply;
mod archive;
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
use digest::Verifier;
use merge::Merger;
use source::{Device, Source};
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
    let mut device = Device::open(device).map_err(|cause| error(1, None, cause))?;
    let files = Files::new(target).map_err(|cause| error(1, None, cause))?;
    let mut merger = Merger::new(files, limits);
    let mut bytes = Allowance::new(limits.bytes);
    let mut summary = Summary::default();
    for (number, layer) in (1..).zip(layers) {
        merger.start_layer();
        let mut unpacking = Unpacking { merger: &mut merger, bytes: &mut bytes, entries: 0, entry: None };
        let result = unpacking.layer(&mut device, layer);
        summary.entries = summary.entries.saturating_add(unpacking.entries);
        let entry = unpacking.entry;
        result.map_err(|cause| error(number, entry.map(|name| path::escape(&name)), cause))?;
    }
    let files = merger.finish().map_err(|cause| error(layers.len(), None, cause))?;
    summary.warnings.extend(files.unsupported().map(|(attribute, file)| {
        let (attribute, file) = (path::escape(&attribute), path::escape(&file));
        format!("The guest's file system can't hold extended attributes such as {attribute} of {file}")
    }));
    Ok(summary)
}

/// The unpacking of one layer.
struct Unpacking<'a> {
    merger: &'a mut Merger<Files>,
    bytes: &'a mut Allowance,
    entries: u64,
    /// The name of the entry at which unpacking stopped.
    entry: Option<Vec<u8>>,
}

impl Unpacking<'_> {
    /// Unpacks a layer and verifies its digests.
    fn layer(&mut self, device: &mut Device, layer: &Layer) -> Result<(), Cause> {
        let blob = layer.digest.as_deref().map(|digest| Verifier::new("blob", digest)).transpose()?;
        let content = Verifier::new("uncompressed archive", &layer.diff_id)?;
        // The same bytes need not be hashed twice for the same digest.
        let same = layer.compression == Compression::None && layer.digest.as_ref() == Some(&layer.diff_id);
        let content = (!same).then_some(content);
        let mut source = Source::new(device, layer.offset, layer.length, blob);
        let result = self.archive(&mut source, layer.compression, content);
        if let Some(failure) = source.take_failure() {
            return Err(failure);
        }
        match result {
            // When the blob is damaged, that explains more than what came of it.
            Err(cause) if cause.may_be_damage() => match source.verify() {
                Err(damage) => {
                    self.entry = None;
                    Err(damage)
                }
                Ok(()) => Err(cause),
            },
            Err(cause) => Err(cause),
            Ok(()) => source.verify(),
        }
    }

    fn archive(
        &mut self,
        source: &mut Source<'_>,
        compression: Compression,
        content: Option<Verifier>,
    ) -> Result<(), Cause> {
        let reader = decompress::decoder(compression, source);
        let mut archive = Archive::new(Stream::new(reader, decompress::name(compression), content, self.bytes));
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
