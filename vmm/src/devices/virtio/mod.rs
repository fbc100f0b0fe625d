//! Virtio over MMIO (virtio 1.2, section 4.2), and the devices behind it.
//!
//! ```text
//!   vCPU thread ──registers──▶ MmioTransport ──activate, reset, config──▶ VirtioDevice ◀──process── device thread
//!                                    │                                        │
//!                                    └───────── Interrupt (atomics) ◀─────────┘
//! ```
//!
//! A device owns its queues, and can reach guest memory, only between [`VirtioDevice::activate`] and
//! [`VirtioDevice::reset`]. The device thread never takes the transport's lock, so that a guest's access to a register
//! (other than reset and configuration) does not wait for a request in progress. Lock order: transport, then device.
//!
//! # Layout
//! - [`mmio`]: the registers that the guest sees; [`interrupt`]: how a device reaches the guest.
//! - [`queue`]: virtqueues and descriptor chains, checked; [`iovec`]: system calls straight on guest memory.
//! - [`slot`]: a device with its transport and descriptors; [`placeholder`]: a window without one.
//! - [`thread`]: the one thread that serves all slots.
//! - [`balloon`], [`blk`], [`pmem`], [`vsock`]: the devices.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::Queue;
use vmm_sys_util::epoll::EventSet;

use self::interrupt::Interrupt;
use self::sources::Sources;
use crate::memory::GuestMemory;

pub mod balloon;
pub mod blk;
pub mod interrupt;
pub mod iovec;
pub mod mmio;
pub mod placeholder;
pub mod pmem;
pub mod queue;
pub mod slot;
pub mod sources;
#[cfg(test)]
mod test_driver;
pub mod thread;
pub mod vsock;

/// What a device needs to work, from the moment the driver sets `DRIVER_OK`.
#[derive(Debug)]
pub struct ActivationContext {
    /// Guest memory.
    pub memory: GuestMemory,
    /// The queues, as many as [`VirtioDevice::queue_sizes`]. One that the driver did not set up is not ready.
    pub queues: Vec<Queue>,
    /// Tells the guest of used buffers.
    pub interrupt: Arc<Interrupt>,
    /// The negotiated features, a subset of those offered.
    pub features: u64,
}

/// Why the device thread calls a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest notified this queue.
    Queue(usize),
    /// A descriptor of the device's own, registered with [`Sources`] under this token, is ready.
    Source(u32, EventSet),
    /// The device's last answer was [`Progress::More`], or [`Progress::Later`] a while ago.
    Resume,
    /// The guest has stopped for good: finish what it handed over ([`VirtioDevice::is_drained`]), expect no more.
    Drain,
}

/// Whether a device is done for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left to do until the next event.
    Done,
    /// There is more to do, and it is another device's turn.
    More,
    /// There is something to do that can wait a while ([`thread::WHILE`]): the next event may make it cheaper.
    Later,
}

/// Why a device stopped.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The guest broke the rules of a queue. The device is reset and the guest told so.
    #[error("The guest broke a virtqueue")]
    Queue(#[from] virtio_queue::Error),
    /// The VMM's own descriptors failed: the machine cannot go on.
    #[error("A device's event descriptor failed")]
    Host(#[from] io::Error),
}

/// Why a device can't be saved.
#[derive(Debug, thiserror::Error)]
pub enum SuspendError {
    /// Devices of this type never are.
    #[error("A device of type {0} can't be part of a template")]
    Unsupported(u32),
    /// Something is under way.
    #[error("The guest has a connection to the host, which can't be part of a template")]
    Connected,
    /// It waits for a reset.
    #[error("A device of the guest waits for a reset, so that the guest can't become a template")]
    Broken,
    /// It stopped with an error.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A virtio device, independent of its transport.
///
/// ```text
///             activate                     process
///  inactive ────────────▶ active ─────────────────────┐
///     ▲                     │ ▲                        │
///     └────── reset ────────┘ └────────────────────────┘
/// ```
///
/// `process` can be called while inactive too (its own descriptors are ready whenever they like) and must then do
/// nothing with the guest.
pub trait VirtioDevice: Send {
    /// The device's type (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// The features offered, without `VIRTIO_F_VERSION_1`, which the transport adds.
    fn features(&self) -> u64;

    /// The largest size of each queue; powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space. Bytes outside of it stay as they are.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. No device here has a writable one so far.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Gives the device the place where it registers its own descriptors, once, before it is ever activated.
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    fn attach(&mut self, _sources: Sources) -> io::Result<()> {
        Ok(())
    }

    /// Starts the device. Called only while inactive; the queues that are ready lie within guest memory.
    fn activate(&mut self, context: ActivationContext);

    /// Stops the device and forgets its queues and guest memory. May be called at any time.
    fn reset(&mut self);

    /// Stops the active device, gives everything back to the driver that it holds, and returns the queues, so that a device
    /// that is activated with them goes on. For a machine that is saved.
    ///
    /// # Errors
    /// When it can't be saved, by its type or now.
    fn suspend(&mut self) -> Result<Vec<Queue>, SuspendError> {
        Err(SuspendError::Unsupported(self.device_type()))
    }

    /// Does what `event` asks for, a bounded amount of it.
    ///
    /// # Errors
    /// [`DeviceError::Queue`] ends in a reset of this device, [`DeviceError::Host`] in the end of the machine.
    fn process(&mut self, event: Event) -> Result<Progress, DeviceError>;

    /// Whether everything that the guest handed over has reached its destination, or cannot.
    fn is_drained(&self) -> bool {
        true
    }
}

/// Locks, also after a panic of another holder: devices keep no invariants across calls that a panic could break half.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies what `space` has at `offset` into `data`.
fn copy_config(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or_default();
    data.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_reads_fill_what_there_is() {
        let mut data = [0xaa; 4];
        copy_config(&[1, 2, 3], 1, &mut data);
        assert_eq!(data, [2, 3, 0xaa, 0xaa]);
        copy_config(&[1, 2, 3], u64::MAX, &mut data);
        assert_eq!(data, [2, 3, 0xaa, 0xaa]);
    }
}
