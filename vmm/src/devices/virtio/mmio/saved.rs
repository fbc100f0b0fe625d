//! The state of a transport and the queues behind it, to be saved and restored.
//!
//! It comes from a file, so it is checked like a driver's writes: what the transport holds to be true always (see
//! [`super`]) is true of a transport that was restored.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};

use super::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, MmioTransport, QueueSlot};
use crate::devices::virtio::{SuspendError, lock};

/// The bits that a driver sets in their order.
const STEPS: [u32; 4] = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];

/// A transport that has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
pub struct TransportState {
    device_type: u32,
    offered: u64,
    pub(super) status: u32,
    pub(super) accepted: u64,
    device_features_page: u32,
    driver_features_page: u32,
    pub(super) selected_queue: u32,
    interrupts: u32,
    pub(super) queues: Vec<SavedQueue>,
}

/// A queue, as the driver described it and as far as the device got with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedQueue {
    pub(super) size: u16,
    pub(super) ready: bool,
    pub(super) next_avail: u16,
    pub(super) next_used: u16,
    pub(super) descriptors: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
}

/// Why a transport can't be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The saved device was another.
    #[error(
        "A saved device of type {saved} with features {saved_features:#x} isn't the one of type {here} with features {features:#x}"
    )]
    Device {
        /// Its type.
        saved: u32,
        /// What it offered.
        saved_features: u64,
        /// The type of the device in its place.
        here: u32,
        /// What that offers.
        features: u64,
    },
    /// It is in a state that a driver can't bring it into.
    #[error("A saved device of type {0} is in a state that there isn't")]
    Status(u32),
    /// A queue is none that the device can have.
    #[error("Queue {queue} of a saved device of type {device} isn't one that it can have")]
    Queue {
        /// The device's type.
        device: u32,
        /// The queue.
        queue: usize,
    },
}

impl MmioTransport {
    /// Stops the device and tells what it and the driver have agreed on. The device thread must have ended.
    ///
    /// # Errors
    /// When the device can't be saved now.
    pub fn save(&mut self) -> Result<TransportState, SuspendError> {
        if self.interrupt.needs_reset() {
            return Err(SuspendError::Broken);
        }
        let states: Vec<(QueueState, bool)> = if self.has(DRIVER_OK) {
            let queues = lock(&self.device).suspend()?;
            queues.iter().map(|queue| (queue.state(), queue.ready())).collect()
        } else {
            self.queues.iter().map(|slot| (slot.queue.state(), slot.ready)).collect()
        };
        Ok(TransportState {
            device_type: self.device_type,
            offered: self.offered,
            status: self.status,
            accepted: self.accepted,
            device_features_page: self.device_features_page,
            driver_features_page: self.driver_features_page,
            selected_queue: self.selected_queue,
            // After the device has stopped: it can interrupt when it does.
            interrupts: self.interrupt.status(),
            queues: states.into_iter().map(|(state, ready)| SavedQueue::new(&state, ready)).collect(),
        })
    }

    /// Brings a transport that nobody has used yet into a saved state, and starts the device if it had been.
    ///
    /// # Errors
    /// When the state is none that this device can have.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), RestoreError> {
        if (state.device_type, state.offered) != (self.device_type, self.offered) {
            return Err(RestoreError::Device {
                saved: state.device_type,
                saved_features: state.offered,
                here: self.device_type,
                features: self.offered,
            });
        }
        self.accepted = state.accepted;
        let steps = STEPS.iter().take_while(|bit| state.status & **bit != 0).fold(0, |bits, bit| bits | bit);
        let agreed = steps & FEATURES_OK == 0 || self.features_are_good();
        let count = state.queues.len() == self.queues.len();
        if state.status & !FAILED != steps || !agreed || !count {
            return Err(RestoreError::Status(self.device_type));
        }
        let described = steps & FEATURES_OK != 0;
        for (place, (slot, saved)) in self.queues.iter_mut().zip(&state.queues).enumerate() {
            let queue = saved
                .queue(slot.queue.max_size())
                .filter(|queue| !saved.ready || (described && queue.is_valid(&*self.memory)));
            let queue = queue.ok_or(RestoreError::Queue { device: state.device_type, queue: place })?;
            *slot = QueueSlot { queue, ready: saved.ready };
        }
        self.status = state.status;
        self.device_features_page = state.device_features_page;
        self.driver_features_page = state.driver_features_page;
        self.selected_queue = state.selected_queue;
        self.interrupt.restore(state.interrupts);
        if self.has(DRIVER_OK) {
            self.activate();
        }
        Ok(())
    }
}

impl SavedQueue {
    fn new(state: &QueueState, ready: bool) -> Self {
        Self {
            size: state.size,
            ready,
            next_avail: state.next_avail,
            next_used: state.next_used,
            descriptors: state.desc_table,
            avail: state.avail_ring,
            used: state.used_ring,
        }
    }

    /// The queue, if it is one.
    fn queue(&self, max_size: u16) -> Option<Queue> {
        let state = QueueState {
            max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            // Set when the device is started, from the features.
            event_idx_enabled: false,
            size: self.size,
            ready: self.ready,
            desc_table: self.descriptors,
            avail_ring: self.avail,
            used_ring: self.used,
        };
        Queue::try_from(state).ok()
    }
}
