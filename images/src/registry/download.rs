//! Blobs: several at a time, each from where it stopped, until its bytes are what its digest says.

use std::cell::Cell;
use std::io;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::oneshot;
use tokio::task::{JoinError, spawn_blocking};

use super::PullOptions;
use super::endpoint::{self, Endpoint};
use super::error::PullError;
use super::sources::{Hope, Sources};
use crate::document::Descriptor;
use crate::store::{Blob, Download, Partial, Store, StoreError};

/// Downloads blobs into a store.
pub(super) struct Downloads<'a> {
    pub(super) store: &'a Store,
    pub(super) sources: &'a Sources<'a>,
    pub(super) options: &'a PullOptions<'a>,
    /// How many bytes came over the network.
    pub(super) received: Cell<u64>,
}

impl Downloads<'_> {
    /// Gets `blobs`, each once even when it is there twice. The blobs of the result are locked.
    pub(super) async fn all(&self, blobs: &[Descriptor]) -> Result<Vec<Blob>, PullError> {
        let mut blobs: Vec<&Descriptor> = blobs.iter().collect();
        let mut seen = std::collections::BTreeSet::new();
        blobs.retain(|blob| seen.insert(blob.digest));
        let downloads = blobs.into_iter().map(|blob| self.one(blob));
        stream::iter(downloads).buffer_unordered(self.options.parallel.max(1)).try_collect().await
    }

    async fn one(&self, blob: &Descriptor) -> Result<Blob, PullError> {
        let progress = self.options.progress;
        let done = if let Some(present) = self.store.blob(&blob.digest)? {
            progress.layer_started(&blob.digest, blob.size, blob.size);
            present
        } else {
            self.sources.ask(async |endpoint| self.from(endpoint, blob).await).await?.1
        };
        progress.layer_done(&blob.digest);
        Ok(done)
    }

    /// Gets a blob from one source.
    async fn from(&self, endpoint: &Endpoint, blob: &Descriptor) -> Result<Blob, PullError> {
        let mut again = true;
        loop {
            let mut partial = match self.claim(blob).await? {
                Download::Present(present) => {
                    self.options.progress.layer_started(&blob.digest, blob.size, blob.size);
                    return Ok(present);
                }
                Download::Partial(partial) => partial,
            };
            self.options.progress.layer_started(&blob.digest, blob.size, partial.position());
            let whole = self.fill(endpoint, &mut partial, blob).await?;
            match spawn_blocking(move || partial.commit()).await.map_err(broken_thread)? {
                Ok(done) => return Ok(done),
                // Pieces of different times or sources may not belong together: once more in one piece.
                Err(StoreError::Digest { .. }) if !whole && again => again = false,
                Err(StoreError::Digest { .. }) => return Err(self.lie(endpoint, blob)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Starts the download, which another process may have to end first. That is waited for on a thread of its own: two
    /// processes may wait for each other's blobs, and have to go on with their own meanwhile.
    async fn claim(&self, blob: &Descriptor) -> Result<Download, PullError> {
        let (store, digest, length) = (self.store.clone(), blob.digest, blob.size);
        let (tell, mut told) = oneshot::channel();
        let mut tell = Some(tell);
        let mut work = spawn_blocking(move || {
            store.download(&digest, length, &mut || {
                // Who asks may have given up.
                let _ = tell.take().map(|tell| tell.send(()));
            })
        });
        let waits = tokio::select! {
            result = &mut work => return Ok(result.map_err(broken_thread)??),
            told = &mut told => told.is_ok(),
        };
        if waits {
            self.options.progress.waiting(&digest);
        }
        Ok(work.await.map_err(broken_thread)??)
    }

    /// Gets the bytes that are missing, in as many attempts as it takes. Returns whether all came in one piece.
    async fn fill(&self, endpoint: &Endpoint, partial: &mut Partial, blob: &Descriptor) -> Result<bool, PullError> {
        let mut hope = Hope::new(self.options.timing.backoff);
        let mut farthest = partial.position();
        let mut whole = true;
        while partial.position() < blob.size {
            whole = partial.position() == 0;
            if let Err(error) = self.piece(endpoint, partial, blob, &mut whole).await {
                if partial.position() > farthest {
                    farthest = partial.position();
                    hope.renew();
                }
                hope.after(endpoint, error).await?;
            }
        }
        Ok(whole)
    }

    /// Gets one piece: what one request gives. `whole` becomes true when it is the blob from its start.
    async fn piece(
        &self,
        endpoint: &Endpoint,
        partial: &mut Partial,
        blob: &Descriptor,
        whole: &mut bool,
    ) -> Result<(), PullError> {
        let what = endpoint::what(blob);
        let asked = endpoint.asked(&what, Some(blob.digest));
        let progress = self.options.progress;
        let mut body = endpoint.blob(blob, partial.position()).await?;
        if !body.continued && partial.position() > 0 {
            *whole = true;
            partial.restart()?;
            progress.layer_progress(&blob.digest, 0);
        }
        while let Some(bytes) = body.stream.next().await {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                // The library's own check of the digest, which ours repeats.
                Err(_) if partial.position() == blob.size => return Ok(()),
                Err(error) => return Err(asked.broken(error)),
            };
            match partial.write(&bytes) {
                Ok(()) => {}
                Err(StoreError::Length { .. }) => {
                    partial.restart()?;
                    return Err(self.lie(endpoint, blob));
                }
                Err(error) => return Err(error.into()),
            }
            let received = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.received.set(self.received.get().saturating_add(received));
            progress.layer_progress(&blob.digest, partial.position());
        }
        if partial.position() < blob.size {
            return Err(asked.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn lie(&self, endpoint: &Endpoint, blob: &Descriptor) -> PullError {
        PullError::Lies { registry: endpoint.host.shown.clone(), digest: blob.digest }
    }
}

/// A thread that did not end well: it panicked, and so does this one.
fn broken_thread(error: JoinError) -> PullError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => PullError::Setup { source: error.into() },
    }
}
