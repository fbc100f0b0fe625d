//! virtio-blk (virtio 1.2, section 5.2): a disk whose content is a row of extents of files.
//!
//! A disk that can be written gives back to the host what the guest discards: its files are sparse.
//!
//! One queue, one request after the other: each is a few system calls straight on guest memory. A request that the guest
//! made wrong, or that the host's file refuses, fails for the guest; nothing here fails for the host.

pub use self::device::Block;
pub use self::extents::{Extent, LayoutError};

mod device;
mod extents;
mod request;
