//! virtio-pmem (virtio 1.2, section 5.19): a file that the guest reads as memory, without a copy and without a request.
//!
//! The device itself says where the memory is and answers flushes. The memory is a mapping of the file
//! ([`crate::memory::Files`]) that KVM lets the guest read and not write, so there is nothing to flush. A guest that writes
//! all the same changes nothing: the access ends where no device is.

pub use self::device::Pmem;

mod device;
