//! A window that waits for a device (virtio 1.2, section 4.2.3.1.1: a driver ignores a device whose ID is 0).
//!
//! A kernel that boots with one leaves the platform device unbound. When the guest is restored there can be a device
//! in the window, and binding the driver looks anew.

use crate::bus::BusDevice;

/// The registers that say that this is virtio, version 2; all others, the device's ID among them, are 0.
const MAGIC: (u64, u32) = (0, 0x7472_6976);
const VERSION: (u64, u32) = (4, 2);

/// A window without a device.
#[derive(Clone, Copy, Debug)]
pub struct Placeholder;

impl BusDevice for Placeholder {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let register = [MAGIC, VERSION].into_iter().find(|(at, _)| *at == offset);
        if let (Some((_, value)), Ok(data)) = (register, <&mut [u8; 4]>::try_from(data)) {
            *data = value.to_le_bytes();
        }
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_virtio_without_a_device() {
        let read = |offset| {
            let mut data = [0xff; 4];
            Placeholder.read(offset, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!([0, 4, 8, 12, 0x70, 0x100].map(read), [0x7472_6976, 2, 0, 0, 0, 0]);
        let mut byte = [0xff];
        Placeholder.read(0, &mut byte);
        assert_eq!(byte, [0]);
    }
}
