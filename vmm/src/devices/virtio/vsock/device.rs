//! The vsock device: its queues and its place in the device thread.
//!
//! Interrupts are what is dear: on a host whose KVM is deprivileged the guest needs milliseconds for each. So one round
//! handles everything that is there in both directions and ends in at most one interrupt, and what the guest sent is not
//! given back for its own sake: Linux only frees memory then. It is given back with the next packet to the guest, when it
//! has become much, or after a while.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::Queue;

use super::Channel;
use super::mux::{Filled, Mux};
use crate::devices::virtio::interrupt::Interrupt;
use crate::devices::virtio::queue::{Chain, EVENT_IDX, VirtQueue};
use crate::devices::virtio::sources::Sources;
use crate::devices::virtio::{
    ActivationContext, DeviceError, Event, Progress, SuspendError, VirtioDevice, copy_config, iovec,
};
use crate::memory::GuestMemory;

/// The size of the rx queue. Linux fills it with buffers of about 4 KiB when it boots, some 850 instructions each.
const RX_QUEUE_SIZE: u16 = 64;
/// The size of the tx queue.
const TX_QUEUE_SIZE: u16 = 256;
/// The size of the event queue.
const EVENT_QUEUE_SIZE: u16 = 16;
/// How much of what was sent is given back late: a part of the queue's descriptors, and of its bytes.
const KEPT_DESCRIPTORS: usize = 64;
const KEPT_BYTES: usize = 128 << 10;
/// How often a round starts over, when the guest was faster, before other devices have their turn.
const ROUNDS: usize = 4;

/// A vsock device.
#[derive(Debug)]
pub struct Vsock {
    guest_cid: u64,
    mux: Mux,
    active: Option<Active>,
    /// The vCPUs have stopped: nothing more will be received, and what was sent is still delivered.
    draining: bool,
}

/// What the device has while it is active.
#[derive(Debug)]
struct Active {
    memory: GuestMemory,
    rx: VirtQueue,
    tx: VirtQueue,
    /// For `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, by which a guest would learn that its connections are gone. A guest has
    /// none when it is saved, so that it need not.
    event: VirtQueue,
    interrupt: Arc<Interrupt>,
    kept: Kept,
}

/// Chains of the tx queue that are done and not given back.
#[derive(Debug, Default)]
struct Kept {
    heads: Vec<u16>,
    descriptors: usize,
    bytes: usize,
}

impl Kept {
    fn keep(&mut self, chain: &Chain<'_>) {
        self.heads.push(chain.head);
        // A chain that lied counts too.
        self.descriptors = self.descriptors.saturating_add(chain.readable.len().max(1));
        self.bytes = self.bytes.saturating_add(iovec::length(&chain.readable));
    }

    /// Whether the guest may soon miss what is kept of a queue of this size.
    fn is_much(&self, size: u16) -> bool {
        self.bytes >= KEPT_BYTES || self.descriptors >= KEPT_DESCRIPTORS.min(usize::from(size) / 4)
    }
}

impl Vsock {
    /// A device that gives the guest the context id `guest_cid` and joins its connections to `channels`.
    #[must_use]
    pub fn new(guest_cid: u64, channels: Vec<Channel>) -> Self {
        Self { guest_cid, mux: Mux::new(guest_cid, channels), active: None, draining: false }
    }

    /// Moves what there is, then tells the guest once.
    fn serve(&mut self, event: Event) -> Result<Progress, DeviceError> {
        let Some(mut active) = self.active.take() else {
            self.mux.flush()?;
            return Ok(Progress::Done);
        };
        let result = self.serve_queues(event, &mut active);
        self.active = Some(active);
        result
    }

    fn serve_queues(&mut self, event: Event, active: &mut Active) -> Result<Progress, DeviceError> {
        active.tx.silence(&active.memory)?;
        active.rx.silence(&active.memory)?;
        let mut progress = Progress::More;
        for _ in 0..ROUNDS {
            self.transmit(active)?;
            self.mux.flush()?;
            self.fill(active)?;
            self.mux.flush()?;
            if !self.listen(active)? {
                progress = Progress::Done;
                break;
            }
        }
        let rx = active.rx.needs_interrupt(&active.memory)?;
        let late = event == Event::Resume || self.draining;
        if rx || late || active.kept.is_much(active.tx.size()) {
            Self::give_back(active)?;
        }
        let tx = active.tx.needs_interrupt(&active.memory)?;
        if rx || tx {
            active.interrupt.used()?;
        }
        let keeps = !active.kept.heads.is_empty();
        Ok(if progress == Progress::Done && keeps { Progress::Later } else { progress })
    }

    /// Gives back the chains that are done.
    fn give_back(active: &mut Active) -> Result<(), DeviceError> {
        for head in std::mem::take(&mut active.kept).heads {
            active.tx.push(&active.memory, head, 0)?;
        }
        Ok(())
    }

    /// From the guest.
    fn transmit(&mut self, Active { memory, tx, kept, .. }: &mut Active) -> Result<(), DeviceError> {
        for _ in 0..tx.size() {
            if self.draining {
                self.mux.drop_refusals();
            }
            if self.mux.is_choked() {
                break;
            }
            let Some(chain) = tx.pop(memory)? else { break };
            self.mux.receive(&chain.readable);
            kept.keep(&chain);
        }
        Ok(())
    }

    /// To the guest.
    fn fill(&mut self, Active { memory, rx, .. }: &mut Active) -> Result<(), DeviceError> {
        for _ in 0..rx.size() {
            if self.draining || !self.mux.may_have_packets() {
                break;
            }
            let Some(chain) = rx.pop(memory)? else { break };
            match self.mux.fill(&chain.writable) {
                Filled::Packet(length) => rx.push(memory, chain.head, length)?,
                Filled::TooSmall => rx.push(memory, chain.head, 0)?,
                Filled::Nothing => {
                    rx.undo_pop();
                    break;
                }
            }
        }
        Ok(())
    }

    /// Asks for the notifications that matter now; `true` when there is something to do already. New rx buffers matter
    /// only while packets wait for them.
    fn listen(&mut self, Active { memory, rx, tx, .. }: &mut Active) -> Result<bool, DeviceError> {
        let sent = !self.mux.is_choked() && tx.listen(memory)?;
        let room = !self.draining && self.mux.may_have_packets() && rx.listen(memory)?;
        Ok(sent || room)
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    /// Stream sockets need no feature.
    fn features(&self) -> u64 {
        EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[RX_QUEUE_SIZE, TX_QUEUE_SIZE, EVENT_QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn attach(&mut self, sources: Sources) -> io::Result<()> {
        self.mux.attach(&sources)
    }

    fn activate(&mut self, context: ActivationContext) {
        let ActivationContext { memory, queues, interrupt, features: _ } = context;
        let mut queues = queues.into_iter().map(VirtQueue::new);
        if let (Some(rx), Some(tx), Some(event)) = (queues.next(), queues.next(), queues.next()) {
            self.active = Some(Active { memory, rx, tx, event, interrupt, kept: Kept::default() });
        }
    }

    fn reset(&mut self) {
        if self.active.take().is_some() {
            self.mux.abandon();
            // The hosts' ends learn of it now. Should a registration fail here, it fails again at the next event.
            let _ = self.mux.flush();
        }
    }

    fn suspend(&mut self) -> Result<Vec<Queue>, SuspendError> {
        if self.mux.is_connected() {
            return Err(SuspendError::Connected);
        }
        let Some(mut active) = self.active.take() else { return Ok(Vec::new()) };
        Self::give_back(&mut active)?;
        if active.tx.needs_interrupt(&active.memory).map_err(DeviceError::from)? {
            active.interrupt.used().map_err(DeviceError::from)?;
        }
        Ok([active.rx, active.tx, active.event].map(VirtQueue::into_inner).into())
    }

    fn process(&mut self, event: Event) -> Result<Progress, DeviceError> {
        match event {
            Event::Source(token, events) => self.mux.note(token, events),
            Event::Drain => self.draining = true,
            Event::Queue(_) | Event::Resume => {}
        }
        let progress = self.serve(event)?;
        if self.draining {
            // More than a queue can hold was taken. A guest whose rings overlap could feed itself without end.
            self.active = None;
            self.mux.finish()?;
            return Ok(Progress::Done);
        }
        Ok(progress)
    }

    fn is_drained(&self) -> bool {
        self.mux.is_drained()
    }
}

#[cfg(test)]
mod tests;
