//! virtio-vsock (virtio 1.2, section 5.10), served in this process.
//!
//! The host's side of a connection is a *channel*: a port, and a stream that the runtime connected beforehand. The first
//! connection of the guest to a channel's port is joined to its stream; every other one is refused.
//!
//! ```text
//!  guest ──tx queue──▶ Vsock ──packet──▶ Mux ──▶ Endpoint ──send──▶ stream     what the stream does not take at once
//!                                                  │  ▲                        waits in the endpoint's backlog
//!                                             Connection                       (state, credit; does no I/O)
//!                                                  │  ▼
//!  guest ◀──rx queue── Vsock ◀──packet── Mux ◀── Endpoint ◀─receive─ stream    straight into the guest's buffers
//! ```
//!
//! Invariants, whatever guest and host do:
//! - memory is bounded: a backlog by [`connection::BUF_ALLOC`], refusals that wait for an rx buffer by a constant;
//! - the bytes of a direction arrive in order, and before its end does; what the guest sent before it closed is delivered
//!   for as long as somebody reads;
//! - a stream is read only when the guest has credit and a buffer for it, so that it is the writer who waits.
//!
//! # Layout
//! - [`packet`]: the header; [`connection`]: the state machine and its credit, without I/O.
//! - [`endpoint`]: a connection's stream; [`mux`]: which packet belongs where, and who is next.
//! - [`device`]: the queues.

use std::os::fd::OwnedFd;

pub use self::device::Vsock;

mod connection;
mod device;
mod endpoint;
mod mux;
mod packet;

/// A host port, and the stream that the guest's one connection to it is joined to.
#[derive(Debug)]
pub struct Channel {
    /// The port, on the host's context id.
    pub port: u32,
    /// One end of an `AF_UNIX` stream socket pair.
    pub stream: OwnedFd,
}
