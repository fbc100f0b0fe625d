//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2.2).
//!
//! The registers are 32 bits wide and aligned; any other access to them reads as zero and is otherwise ignored. The
//! driver can do anything in any order. What the specification forbids it is ignored here, so these hold always:
//! - status bits come in their order, one that is set stays until a reset, and `FEATURES_OK` means that the driver
//!   accepted `VIRTIO_F_VERSION_1` and nothing that was not offered;
//! - a queue is described only between `FEATURES_OK` and `DRIVER_OK`, and is ready only when it lies in guest memory;
//! - the device is active, and holds the queues, exactly while `DRIVER_OK` is set.

use std::fmt;
use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use self::registers::{CONFIG_SPACE, Register};
use super::interrupt::Interrupt;
use super::slot::SharedDevice;
use super::{ActivationContext, lock};
use crate::bus::BusDevice;
use crate::memory::GuestMemory;

mod registers;
mod saved;

pub use saved::{RestoreError, TransportState};

/// "virt", in little-endian order.
const MAGIC: u32 = 0x7472_6976;
/// The version of the transport.
const VERSION: u32 = 2;
/// "tkrn"; any number but zero will do.
const VENDOR: u32 = 0x6e72_6b74;
/// What the length and base of a shared memory region read as when there is none.
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// The registers of a device.
pub struct MmioTransport {
    device: SharedDevice,
    memory: GuestMemory,
    interrupt: Arc<Interrupt>,
    /// Wake the device thread for each queue, when the notification did not go through `KVM_IOEVENTFD`.
    kicks: Vec<EventFd>,
    device_type: u32,
    offered: u64,
    status: u32,
    accepted: u64,
    device_features_page: u32,
    driver_features_page: u32,
    selected_queue: u32,
    queues: Vec<QueueSlot>,
}

/// A queue, as the driver describes it. While the device is active it holds the queue itself.
struct QueueSlot {
    queue: Queue,
    ready: bool,
}

impl MmioTransport {
    /// The transport of `device`. `kicks` has an event per queue.
    pub(super) fn new(
        device: SharedDevice,
        memory: GuestMemory,
        interrupt: Arc<Interrupt>,
        kicks: Vec<EventFd>,
    ) -> Self {
        let (device_type, offered) = {
            let device = lock(&device);
            (device.device_type(), device.features() | 1 << VIRTIO_F_VERSION_1)
        };
        let mut transport = Self {
            device,
            memory,
            interrupt,
            kicks,
            device_type,
            offered,
            status: 0,
            accepted: 0,
            device_features_page: 0,
            driver_features_page: 0,
            selected_queue: 0,
            queues: Vec::new(),
        };
        transport.reset();
        transport
    }

    fn read_register(&self, register: Register) -> u32 {
        match register {
            Register::Magic => MAGIC,
            Register::Version => VERSION,
            Register::DeviceId => self.device_type,
            Register::VendorId => VENDOR,
            Register::DeviceFeatures => page_of(self.offered, self.device_features_page),
            Register::QueueNumMax => self.selected().map_or(0, |slot| slot.queue.max_size().into()),
            Register::QueueReady => self.selected().map_or(0, |slot| slot.ready.into()),
            Register::InterruptStatus => self.interrupt.status(),
            Register::Status if self.interrupt.needs_reset() => self.status | NEEDS_RESET,
            Register::Status => self.status,
            Register::SharedMemory => NO_SHARED_MEMORY,
            // The configuration of no device here ever changes.
            Register::ConfigGeneration => 0,
            Register::DeviceFeaturesSel
            | Register::DriverFeatures
            | Register::DriverFeaturesSel
            | Register::QueueSel
            | Register::QueueNum
            | Register::QueueNotify
            | Register::InterruptAck
            | Register::QueueDesc(_)
            | Register::QueueDriver(_)
            | Register::QueueDevice(_) => 0,
        }
    }

    fn write_register(&mut self, register: Register, value: u32) {
        match register {
            Register::DeviceFeaturesSel => self.device_features_page = value,
            Register::DriverFeaturesSel => self.driver_features_page = value,
            Register::DriverFeatures => self.accept_features(value),
            Register::QueueSel => self.selected_queue = value,
            Register::QueueNotify => self.notify(value),
            Register::InterruptAck => self.interrupt.acknowledge(value),
            Register::Status if value == 0 => self.reset(),
            Register::Status => self.advance_status(value),
            Register::QueueReady => self.set_queue_ready(value),
            Register::QueueNum => {
                self.describe_queue(|queue| u16::try_from(value).into_iter().for_each(|size| queue.set_size(size)));
            }
            Register::QueueDesc(half) => {
                let (low, high) = half.place(value);
                self.describe_queue(|queue| queue.set_desc_table_address(low, high));
            }
            Register::QueueDriver(half) => {
                let (low, high) = half.place(value);
                self.describe_queue(|queue| queue.set_avail_ring_address(low, high));
            }
            Register::QueueDevice(half) => {
                let (low, high) = half.place(value);
                self.describe_queue(|queue| queue.set_used_ring_address(low, high));
            }
            Register::Magic
            | Register::Version
            | Register::DeviceId
            | Register::VendorId
            | Register::DeviceFeatures
            | Register::QueueNumMax
            | Register::InterruptStatus
            | Register::SharedMemory
            | Register::ConfigGeneration => {}
        }
    }

    fn selected(&self) -> Option<&QueueSlot> {
        self.queues.get(usize::try_from(self.selected_queue).ok()?)
    }

    fn has(&self, bits: u32) -> bool {
        self.status & bits == bits
    }

    /// The driver's features are kept as written, offered or not: `FEATURES_OK` judges them.
    fn accept_features(&mut self, value: u32) {
        if !self.has(DRIVER) || self.has(FEATURES_OK) {
            return;
        }
        let shift = match self.driver_features_page {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.accepted = self.accepted & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
    }

    fn features_are_good(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & 1 << VIRTIO_F_VERSION_1 != 0
    }

    /// Applies `change` to the selected queue's description, when it may be described now.
    fn describe_queue(&mut self, change: impl FnOnce(&mut Queue)) {
        if let Some(slot) = self.queue_being_set_up().filter(|slot| !slot.ready) {
            change(&mut slot.queue);
        }
    }

    fn set_queue_ready(&mut self, value: u32) {
        let memory = self.memory.clone();
        if let Some(slot) = self.queue_being_set_up() {
            slot.queue.set_ready(value == 1);
            slot.ready = value == 1 && slot.queue.is_valid(&*memory);
            slot.queue.set_ready(slot.ready);
        }
    }

    fn queue_being_set_up(&mut self) -> Option<&mut QueueSlot> {
        if !self.has(FEATURES_OK) || self.has(DRIVER_OK) {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.selected_queue).ok()?)
    }

    fn notify(&self, queue: u32) {
        let kick = usize::try_from(queue).ok().and_then(|queue| self.kicks.get(queue));
        if let Some(kick) = kick {
            // It can fail only when 2^64 - 2 notifications are pending: then one more changes nothing.
            let _ = kick.write(1);
        }
    }

    /// Sets the status bits that are new in `value`, as far as each may follow those before it.
    fn advance_status(&mut self, value: u32) {
        for (bit, after) in [(ACKNOWLEDGE, 0), (DRIVER, ACKNOWLEDGE), (FEATURES_OK, DRIVER), (DRIVER_OK, FEATURES_OK)] {
            let refused = bit == FEATURES_OK && !self.features_are_good();
            if value & bit == 0 || self.has(bit) || !self.has(after) || refused {
                continue;
            }
            self.status |= bit;
            if bit == DRIVER_OK {
                self.activate();
            }
        }
        self.status |= value & FAILED;
    }

    fn activate(&mut self) {
        let take = |slot: &mut QueueSlot| {
            let mut queue = std::mem::take(&mut slot.queue);
            queue.set_event_idx(self.accepted & super::queue::EVENT_IDX != 0);
            queue
        };
        let queues = self.queues.iter_mut().map(take).collect();
        lock(&self.device).activate(ActivationContext {
            memory: self.memory.clone(),
            queues,
            interrupt: Arc::clone(&self.interrupt),
            features: self.accepted,
        });
    }

    fn reset(&mut self) {
        let mut device = lock(&self.device);
        device.reset();
        self.interrupt.reset();
        self.queues = device.queue_sizes().iter().map(|&size| QueueSlot::new(size)).collect();
        drop(device);
        self.status = 0;
        self.accepted = 0;
        self.device_features_page = 0;
        self.driver_features_page = 0;
        self.selected_queue = 0;
    }
}

impl QueueSlot {
    /// An undescribed queue. A size that `Queue` refuses (a device's mistake, not a driver's) makes one that can never
    /// be ready.
    fn new(max_size: u16) -> Self {
        Self { queue: Queue::new(max_size).unwrap_or_default(), ready: false }
    }
}

/// Page 0 or 1 of a feature set; there are no more.
fn page_of(features: u64, page: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match page {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            lock(&self.device).read_config(offset, data);
        } else if let (Some(register), Ok(data)) = (Register::at(offset), <&mut [u8; 4]>::try_from(data)) {
            *data = self.read_register(register).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            lock(&self.device).write_config(offset, data);
        } else if let (Some(register), Ok(data)) = (Register::at(offset), <[u8; 4]>::try_from(data)) {
            self.write_register(register, u32::from_le_bytes(data));
        }
    }
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device_type)
            .field("status", &self.status)
            .field("accepted", &self.accepted)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
