//! Devices that came into a guest's virtio windows after its kernel looked into them: the guest was saved with the windows
//! empty, and goes on in a machine that has devices there.
//!
//! Linux keeps an empty window as a platform device without a driver (`virtio_mmio` gives a device id of 0 back as
//! `ENODEV`). Binding the driver makes it look again.

use std::fs;
use std::io::{self, Write as _};

/// Where drivers are bound.
const BIND: &str = "/sys/bus/platform/drivers/virtio-mmio/bind";

/// Where the buses of persistent memory are. Their devices are probed in a thread of the kernel's; reading a bus's
/// `wait_probe` waits for that.
const PMEM_BUSES: &str = "/sys/bus/nd/devices";

/// A device can't be had.
#[derive(Debug, thiserror::Error)]
#[error("The guest's kernel can't use the device in window {slot}")]
pub struct SlotError {
    slot: u8,
    #[source]
    source: io::Error,
}

/// Makes the kernel use the devices in these windows, in this order. They are there when this returns.
///
/// # Errors
/// [`SlotError`], of the first one that it can't use.
pub fn bind(slots: &[u8]) -> Result<(), SlotError> {
    for &slot in slots {
        let bind =
            || fs::OpenOptions::new().write(true).open(BIND)?.write_all(format!("virtio-mmio.{slot}").as_bytes());
        bind().map_err(|source| SlotError { slot, source })?;
    }
    if !slots.is_empty() {
        wait_for_pmem();
    }
    Ok(())
}

/// Waits until persistent memory is probed. Whether that succeeded, the mount of it will tell.
pub fn wait_for_pmem() {
    let Ok(devices) = fs::read_dir(PMEM_BUSES) else { return };
    for bus in devices.flatten().filter(|device| device.file_name().as_encoded_bytes().starts_with(b"ndbus")) {
        let _ = fs::read(bus.path().join("wait_probe"));
    }
}
