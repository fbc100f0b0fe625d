//! virtio-vsock (virtio 1.2, section 5.10), served in this process.

use std::os::fd::OwnedFd;

pub use self::device::Vsock;

mod device;

/// A host port, and the stream that the guest's one connection to it is joined to.
#[derive(Debug)]
pub struct Channel {
    /// The port, on the host's context id.
    pub port: u32,
    /// One end of an `AF_UNIX` stream socket pair.
    pub stream: OwnedFd,
}
