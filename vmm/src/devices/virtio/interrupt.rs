//! How a device reaches the guest: the interrupt status register and the interrupt line (virtio 1.2, section 4.2.2).
//!
//! Shared by the transport (vCPU threads) and the device (device thread) without a lock.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

/// A device's interrupt.
#[derive(Debug)]
pub struct Interrupt {
    /// The bits of `InterruptStatus` that the driver has not acknowledged.
    status: AtomicU32,
    /// Whether the device is broken until the driver resets it (`DEVICE_NEEDS_RESET`).
    needs_reset: AtomicBool,
    /// Each write is one edge of the interrupt line.
    line: EventFd,
}

impl Interrupt {
    /// An interrupt with nothing pending whose line is `line`.
    #[must_use]
    pub const fn new(line: EventFd) -> Self {
        Self { status: AtomicU32::new(0), needs_reset: AtomicBool::new(false), line }
    }

    /// Tells the driver that a queue has used buffers.
    ///
    /// # Errors
    /// Those of the event descriptor.
    pub fn used(&self) -> io::Result<()> {
        self.raise(VIRTIO_MMIO_INT_VRING)
    }

    /// Tells the driver that the device cannot go on until it is reset.
    ///
    /// # Errors
    /// Those of the event descriptor.
    pub fn request_reset(&self) -> io::Result<()> {
        self.needs_reset.store(true, Ordering::Release);
        self.raise(VIRTIO_MMIO_INT_CONFIG)
    }

    /// Whether [`Self::request_reset`] was called since the last [`Self::reset`].
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// The value of `InterruptStatus`.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// Clears the bits that the driver writes to `InterruptACK`.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Makes this the value of `InterruptStatus`, of a device that has not started yet.
    pub fn restore(&self, status: u32) {
        self.status.store(status, Ordering::Release);
    }

    /// Interrupts again for what the driver has not acknowledged: the edge may have got lost while a machine was saved,
    /// and one too many does no harm.
    ///
    /// # Errors
    /// Those of the event descriptor.
    pub fn repeat(&self) -> io::Result<()> {
        if self.status() == 0 { Ok(()) } else { self.line.write(1) }
    }

    /// Forgets everything; the device must be inactive.
    pub fn reset(&self) {
        self.status.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    fn raise(&self, bit: u32) -> io::Result<()> {
        self.status.fetch_or(bit, Ordering::AcqRel);
        self.line.write(1)
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn bits_stay_until_they_are_acknowledged() {
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupt = Interrupt::new(line.try_clone().unwrap());
        interrupt.used().unwrap();
        interrupt.request_reset().unwrap();
        assert_eq!(line.read().unwrap(), 2);
        assert_eq!(interrupt.status(), 3);
        interrupt.acknowledge(1);
        assert_eq!(interrupt.status(), 2);
        assert!(interrupt.needs_reset());
        interrupt.reset();
        assert_eq!(interrupt.status(), 0);
        assert!(!interrupt.needs_reset());
    }
}
