//! Virtqueues (virtio 1.2, section 2.7) as the devices use them: chains come out checked, as slices of guest memory.
//!
//! A chain that lies (it loops, leads out of guest memory, has a read-only file written, puts device-readable parts after writable ones, or is longer
//! than the queue) comes out empty, so that a device refuses it the way it refuses one that is too short. A ring that
//! lies is an error: nothing behind it can be trusted.

use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_F_NO_INTERRUPT};
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};

use crate::memory::GuestMemory;

/// The feature bit `VIRTIO_F_EVENT_IDX`.
pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// The feature bit `VIRTIO_F_INDIRECT_DESC`.
pub const INDIRECT_DESC: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// The buffers of one request.
#[derive(Debug)]
pub struct Chain<'m> {
    /// The index by which the chain is given back.
    pub head: u16,
    /// What the driver wrote for the device.
    pub readable: Vec<VolatileSlice<'m>>,
    /// What the device may write.
    pub writable: Vec<VolatileSlice<'m>>,
}

/// A queue of an active device.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    /// Whether chains were given back since the guest was last told.
    unannounced: bool,
}

impl VirtQueue {
    /// The device's side of `queue`. One that is not ready stays empty for ever.
    #[must_use]
    pub const fn new(queue: Queue) -> Self {
        Self { queue, unannounced: false }
    }

    /// The next chain that the driver made available.
    ///
    /// # Errors
    /// When the driver broke the ring.
    pub fn pop<'m>(&mut self, memory: &'m GuestMemory) -> Result<Option<Chain<'m>>, Error> {
        if !self.queue.ready() {
            return Ok(None);
        }
        let longest = self.queue.size();
        let next = self.queue.iter(&**memory)?.next();
        Ok(next.map(|chain| {
            let head = chain.head_index();
            let (readable, writable) = collect(memory, chain, longest).unwrap_or_default();
            Chain { head, readable, writable }
        }))
    }

    /// Puts the chain that was popped last back, unused.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back with `written` bytes of its writable part written.
    ///
    /// # Errors
    /// When the driver broke the ring.
    pub fn push(&mut self, memory: &GuestMemoryMmap, head: u16, written: u32) -> Result<(), Error> {
        self.queue.add_used(memory, head, written)?;
        self.unannounced = true;
        Ok(())
    }

    /// Whether the driver wants to be told of the chains given back since this was last asked.
    ///
    /// # Errors
    /// When the driver broke the ring.
    pub fn needs_interrupt(&mut self, memory: &GuestMemoryMmap) -> Result<bool, Error> {
        if !std::mem::take(&mut self.unannounced) {
            return Ok(false);
        }
        if self.queue.event_idx_enabled() {
            return self.queue.needs_notification(memory);
        }
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Acquire)
            .map(u16::from_le)
            .map_err(Error::GuestMemory)?;
        Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Asks the driver for no notifications while the queue is being worked on.
    ///
    /// # Errors
    /// When the driver broke the ring.
    pub fn silence(&mut self, memory: &GuestMemoryMmap) -> Result<(), Error> {
        if self.queue.ready() { self.queue.disable_notification(memory) } else { Ok(()) }
    }

    /// Asks the driver for notifications again. `true` when chains arrived that it may not have notified of.
    ///
    /// # Errors
    /// When the driver broke the ring.
    pub fn listen(&mut self, memory: &GuestMemoryMmap) -> Result<bool, Error> {
        if self.queue.ready() { self.queue.enable_notification(memory) } else { Ok(false) }
    }

    /// The queue, when the device has stopped.
    #[must_use]
    pub fn into_inner(self) -> Queue {
        self.queue
    }

    /// The number of descriptors in the ring, and so of the chains that can be under way.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }
}

type Parts<'m> = (Vec<VolatileSlice<'m>>, Vec<VolatileSlice<'m>>);

/// The readable and the writable part of a chain, or `None` when it lies.
fn collect<'m>(
    memory: &'m GuestMemory,
    chain: DescriptorChain<&'m GuestMemoryMmap>,
    longest: u16,
) -> Option<Parts<'m>> {
    let (mut readable, mut writable) = Parts::default();
    let mut whole = false;
    for (place, descriptor) in chain.enumerate() {
        // An indirect table can be larger than the queue; a chain must not be (section 2.7.5.3.1).
        if place >= usize::from(longest) || (!descriptor.is_write_only() && !writable.is_empty()) {
            return None;
        }
        let (start, length) = (descriptor.addr(), usize::try_from(descriptor.len()).ok()?);
        if descriptor.is_write_only() {
            memory.writable_slices(start, length, &mut writable)?;
        } else {
            memory.readable_slices(start, length, &mut readable)?;
        }
        whole = !descriptor.has_next();
    }
    // The iterator just ends where a chain leads nowhere.
    whole.then_some((readable, writable))
}
