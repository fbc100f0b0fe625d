//! The device: its configuration space and its queue.

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;
use virtio_queue::Queue;
use vm_memory::GuestAddress;

use crate::devices::virtio::interrupt::Interrupt;
use crate::devices::virtio::queue::{Chain, EVENT_IDX, INDIRECT_DESC, VirtQueue};
use crate::devices::virtio::{
    ActivationContext, DeviceError, Event, Progress, SuspendError, VirtioDevice, copy_config, iovec,
};
use crate::memory::GuestMemory;

/// The size of the queue.
const QUEUE_SIZE: u16 = 64;
/// Requests served before other devices have their turn.
const BUDGET: usize = QUEUE_SIZE as usize;
/// A request: its type, of which there is one (`VIRTIO_PMEM_REQ_TYPE_FLUSH`).
const REQUEST: usize = 4;
const FLUSH: u32 = 0;
/// An answer: 0, or anything else for a failure.
const OK: u32 = 0;
const FAILED: u32 = 1;
const ANSWER: usize = 4;

/// Persistent memory that can't be written.
#[derive(Debug)]
pub struct Pmem {
    start: u64,
    length: u64,
    active: Option<Active>,
}

/// What the device has while it is active.
#[derive(Debug)]
struct Active {
    memory: GuestMemory,
    queue: VirtQueue,
    interrupt: Arc<Interrupt>,
}

impl Pmem {
    /// The device of `length` bytes of memory at `start`.
    #[must_use]
    pub const fn new(start: GuestAddress, length: u64) -> Self {
        Self { start: start.0, length, active: None }
    }
}

impl Active {
    fn serve(&mut self) -> Result<Progress, DeviceError> {
        let Self { memory, queue, interrupt } = self;
        queue.silence(memory)?;
        let mut progress = Progress::More;
        for _ in 0..BUDGET {
            let Some(chain) = queue.pop(memory)? else {
                if queue.listen(memory)? {
                    continue;
                }
                progress = Progress::Done;
                break;
            };
            queue.push(memory, chain.head, answer(&chain))?;
        }
        if queue.needs_interrupt(memory)? {
            interrupt.used()?;
        }
        Ok(progress)
    }
}

/// Answers a request and returns how many bytes that took: none when there is no room for the answer.
fn answer(chain: &Chain<'_>) -> u32 {
    let mut request = [0; REQUEST];
    let whole = iovec::copy_out(&chain.readable, &mut request) == REQUEST;
    // Nothing was written, so everything is durable.
    let answer = if whole && u32::from_le_bytes(request) == FLUSH { OK } else { FAILED };
    if iovec::length(&chain.writable) < ANSWER {
        return 0;
    }
    u32::try_from(iovec::copy_in(&chain.writable, &answer.to_le_bytes())).unwrap_or(0)
}

impl VirtioDevice for Pmem {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_PMEM
    }

    fn features(&self) -> u64 {
        EVENT_IDX | INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = [self.start, self.length].map(u64::to_le_bytes);
        copy_config(config.as_flattened(), offset, data);
    }

    fn activate(&mut self, context: ActivationContext) {
        let ActivationContext { memory, queues, interrupt, features: _ } = context;
        let queue = queues.into_iter().next().map(VirtQueue::new);
        self.active = queue.map(|queue| Active { memory, queue, interrupt });
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn suspend(&mut self) -> Result<Vec<Queue>, SuspendError> {
        // Each request is answered as it is taken, so none is held.
        let active = self.active.take();
        Ok(active.map(|active| vec![active.queue.into_inner()]).unwrap_or_default())
    }

    fn process(&mut self, event: Event) -> Result<Progress, DeviceError> {
        if event == Event::Drain {
            self.active = None;
        }
        self.active.as_mut().map_or(Ok(Progress::Done), Active::serve)
    }
}

#[cfg(test)]
mod tests;
