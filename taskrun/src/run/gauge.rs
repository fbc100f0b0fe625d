//! What a task has used so far, for its heartbeat, and in the end.
//!
//! Processor time is that of its microVM. Memory is what the command and its children held at most, as the guest's kernel
//! counted it; until the agent has said that, and where it never does, what the microVM was seen to hold on the host. Bytes
//! are those of the standard streams.

use std::sync::{Arc, OnceLock};

use super::stdio::Counter;
use crate::ledger::Used;
use crate::microvm::Meter;

/// The gauge. Its clones measure the same task.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sources: OnceLock<(Arc<Meter>, Counter)>,
    peak_memory: OnceLock<u64>,
}

impl Gauge {
    /// The task has a microVM, and streams.
    pub fn begin(&self, meter: Arc<Meter>, streams: Counter) {
        // A task has one.
        let _ = self.0.sources.set((meter, streams));
    }

    /// The agent has said how much memory the command has had, in bytes.
    pub fn peak_memory(&self, bytes: u64) {
        // And said it once.
        let _ = self.0.peak_memory.set(bytes);
    }

    /// What was used until now. Nothing is known before there is a microVM.
    #[must_use]
    pub fn read(&self) -> Used {
        let Some((meter, streams)) = self.0.sources.get() else { return Used::default() };
        let measured = meter.measure();
        Used {
            cpu_ns: measured.cpu_ns,
            peak_memory_bytes: self.0.peak_memory.get().copied().or(measured.peak_memory_bytes),
            bytes_in: Some(streams.bytes_in()),
            bytes_out: Some(streams.bytes()),
        }
    }
}
