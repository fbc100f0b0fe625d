//! What a pull tells while it goes on.

use crate::digest::Digest;

/// Who wants to know how a pull goes. The calls come from the thread that pulls.
pub trait Progress: Sync {
    /// A blob of `length` bytes is about to come, of which `already` bytes are there from an earlier time. All of them,
    /// when there is nothing to download.
    fn layer_started(&self, digest: &Digest, length: u64, already: u64);

    /// `bytes` of the blob are there now. It may go down: a registry that can't continue starts again.
    fn layer_progress(&self, digest: &Digest, bytes: u64);

    /// The blob is there, and its content is what its digest says.
    fn layer_done(&self, digest: &Digest);

    /// Another process downloads the blob: it is waited for.
    fn waiting(&self, digest: &Digest);

    /// Something that did not stop the pull but that the user may want to know, as a sentence.
    fn note(&self, text: &str);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn layer_started(&self, _: &Digest, _: u64, _: u64) {}

    fn layer_progress(&self, _: &Digest, _: u64) {}

    fn layer_done(&self, _: &Digest) {}

    fn waiting(&self, _: &Digest) {}

    fn note(&self, _: &str) {}
}
