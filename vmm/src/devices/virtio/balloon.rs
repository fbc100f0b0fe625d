//! Memory balloon (virtio 1.2, section 5.5), for what it can do beside a balloon: the guest reports the memory that it has no
//! use for (`VIRTIO_BALLOON_F_REPORTING`, section 5.5.6.6), and the host has it back.
//!
//! The balloon itself is never asked to grow: how much memory a guest has is what was asked for. What a driver puts into it, or
//! takes out, is taken note of and no more.
//!
//! A report is a row of buffers that the device may write: free memory, which the guest doesn't touch until it has the report
//! back. In a guest that booted it becomes a hole in the memory's file and is zeros from then on. In one from a template it is
//! again what the template has there; the guest doesn't know the difference, as it expects nothing of free memory.
//!
//! A guest can report what it likes. Only whole pages of its own memory are given back, which it might as well have filled
//! with zeros itself; files that it reads as memory are none of them. Memory that it takes into use again costs it the time
//! in which the host finds some, so that there is nothing to gain from reporting the same again and again.

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::Queue;

use super::interrupt::Interrupt;
use super::queue::{Chain, VirtQueue};
use super::{ActivationContext, DeviceError, Event, Progress, SuspendError, VirtioDevice, copy_config, iovec};
use crate::memory::GuestMemory;

/// The feature bit `VIRTIO_BALLOON_F_REPORTING`.
const REPORTING: u64 = 1 << 5;
/// The size of each queue: the least with which Linux reports, and the most buffers in a report.
const QUEUE_SIZE: u16 = 32;
/// Requests of a queue that are served before other devices have their turn.
const BUDGET: usize = QUEUE_SIZE as usize;
/// The queues: inflate, deflate, reporting. A driver that doesn't have the features between leaves no gap for their queues.
const QUEUES: [u16; 3] = [QUEUE_SIZE; 3];
/// The queue of reports.
const REPORTS: usize = 2;
/// The configuration space: the pages that the balloon should have, and those that it has.
const CONFIG: [u8; 8] = [0; 8];

/// A balloon.
#[derive(Debug, Default)]
pub struct Balloon {
    active: Option<Active>,
}

/// What the device has while it is active.
#[derive(Debug)]
struct Active {
    memory: GuestMemory,
    queues: Vec<VirtQueue>,
    interrupt: Arc<Interrupt>,
    /// Whether the driver knows of reports.
    reporting: bool,
}

impl Active {
    fn serve(&mut self) -> Result<Progress, DeviceError> {
        let Self { memory, queues, interrupt, reporting } = self;
        let (private, mut progress, mut tell) = (memory.is_private(), Progress::Done, false);
        for (place, queue) in queues.iter_mut().enumerate() {
            let reports = place == REPORTS && *reporting;
            let request = |chain: &Chain<'_>| {
                if reports {
                    release(chain, private);
                }
            };
            if serve_queue(queue, memory, request)? == Progress::More {
                progress = Progress::More;
            }
            tell |= queue.needs_interrupt(memory)?;
        }
        if tell {
            interrupt.used()?;
        }
        Ok(progress)
    }
}

/// Takes requests, as many as the budget allows, and gives each back when it is done.
fn serve_queue(
    queue: &mut VirtQueue,
    memory: &GuestMemory,
    mut request: impl FnMut(&Chain<'_>),
) -> Result<Progress, DeviceError> {
    queue.silence(memory)?;
    for _ in 0..BUDGET {
        let Some(chain) = queue.pop(memory)? else {
            if queue.listen(memory)? {
                continue;
            }
            return Ok(Progress::Done);
        };
        request(&chain);
        queue.push(memory, chain.head, 0)?;
    }
    Ok(Progress::More)
}

/// Gives reported memory back to the host. What can't be had, such as parts of pages, the guest keeps.
fn release(report: &Chain<'_>, private: bool) {
    for range in &report.writable {
        let _ = iovec::discard(range, private);
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&CONFIG, offset, data);
    }

    fn activate(&mut self, context: ActivationContext) {
        let ActivationContext { memory, queues, interrupt, features } = context;
        let queues = queues.into_iter().map(VirtQueue::new).collect();
        self.active = Some(Active { memory, queues, interrupt, reporting: features & REPORTING != 0 });
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn suspend(&mut self) -> Result<Vec<Queue>, SuspendError> {
        let active = self.active.take();
        Ok(active.map(|active| active.queues.into_iter().map(VirtQueue::into_inner).collect()).unwrap_or_default())
    }

    fn process(&mut self, event: Event) -> Result<Progress, DeviceError> {
        if event == Event::Drain {
            // The memory goes as a whole, soon.
            self.active = None;
        }
        self.active.as_mut().map_or(Ok(Progress::Done), Active::serve)
    }
}

#[cfg(test)]
mod tests;
