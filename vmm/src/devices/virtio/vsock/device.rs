//! The vsock device: its queues and its place in the device thread.

use super::Channel;
use crate::devices::virtio::{ActivationContext, DeviceError, Event, Progress, VirtioDevice, copy_config};

/// A vsock device.
#[derive(Debug)]
pub struct Vsock {
    guest_cid: u64,
    _channels: Vec<Channel>,
}

impl Vsock {
    /// A device that gives the guest the context id `guest_cid` and connects it to `channels`.
    #[must_use]
    pub fn new(guest_cid: u64, channels: Vec<Channel>) -> Self {
        Self { guest_cid, _channels: channels }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 256, 16]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, _context: ActivationContext) {}

    fn reset(&mut self) {}

    fn process(&mut self, _event: Event) -> Result<Progress, DeviceError> {
        Ok(Progress::Done)
    }
}
