//! A device in its place: with the registers the guest sees and the descriptors that connect it to KVM and to the
//! device thread.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::interrupt::Interrupt;
use super::mmio::{MmioTransport, RestoreError, TransportState};
use super::{SuspendError, VirtioDevice, lock};
use crate::memory::GuestMemory;

/// A device shared between its transport and the device thread.
pub(super) type SharedDevice = Arc<Mutex<Box<dyn VirtioDevice>>>;

/// A device in an MMIO window.
pub struct Slot {
    /// The registers, for the MMIO bus.
    pub transport: Arc<Mutex<MmioTransport>>,
    /// Each write is an edge of the slot's interrupt line: for `KVM_IRQFD`.
    pub irq: EventFd,
    /// Notifications of each queue: for `KVM_IOEVENTFD` at `QueueNotify`, with the queue's index as the value.
    pub queue_events: Vec<EventFd>,
    pub(super) device: SharedDevice,
    pub(super) interrupt: Arc<Interrupt>,
}

impl Slot {
    /// Puts `device` into a slot of a machine with this memory.
    ///
    /// # Errors
    /// Those of creating event descriptors.
    pub fn new(device: Box<dyn VirtioDevice>, memory: impl Into<GuestMemory>) -> io::Result<Self> {
        let irq = EventFd::new(EFD_NONBLOCK)?;
        let interrupt = Arc::new(Interrupt::new(irq.try_clone()?));
        let new_event = |_: &u16| EventFd::new(EFD_NONBLOCK);
        let queue_events = device.queue_sizes().iter().map(new_event).collect::<io::Result<Vec<_>>>()?;
        let kicks = queue_events.iter().map(EventFd::try_clone).collect::<io::Result<Vec<_>>>()?;
        let device: SharedDevice = Arc::new(Mutex::new(device));
        let transport = MmioTransport::new(Arc::clone(&device), memory.into(), Arc::clone(&interrupt), kicks);
        Ok(Self { transport: Arc::new(Mutex::new(transport)), irq, queue_events, device, interrupt })
    }

    /// Stops the device and tells its state. The device thread must have ended.
    ///
    /// # Errors
    /// When the device can't be saved now.
    pub fn save(&self) -> Result<TransportState, SuspendError> {
        lock(&self.transport).save()
    }

    /// Gives the device a saved state.
    ///
    /// # Errors
    /// When the device can't have it.
    pub fn restore(&self, state: &TransportState) -> Result<(), RestoreError> {
        lock(&self.transport).restore(state)
    }

    /// Lets a device that was restored look at its queues, and the driver at the device: notifications of either may have
    /// got lost when the machine was saved. For when everything is connected.
    ///
    /// # Errors
    /// Those of event descriptors.
    pub fn wake(&self) -> io::Result<()> {
        self.queue_events.iter().try_for_each(|event| event.write(1))?;
        self.interrupt.repeat()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("irq", &self.irq).field("queue_events", &self.queue_events).finish_non_exhaustive()
    }
}
