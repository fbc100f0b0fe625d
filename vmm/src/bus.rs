//! Devices at addresses.
//!
//! A device does not know where it is: it is given offsets into its own window. An access outside every window reads as
//! all ones and is otherwise ignored, as on a PC.
//!
//! A [`Bus`] is filled before the guest runs and shared read-only after that, so looking a device up takes no lock. An
//! access locks the one device that it is for and nothing else while it holds it: a device must not access a bus.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A device that answers reads and writes of a window of port or memory addresses.
///
/// `data` is 1, 2, 4 or 8 bytes long and `offset + data.len()` may reach past the window's end: the guest chooses both.
/// A device fills what it has and ignores what it does not know; it never panics.
pub trait BusDevice: Send {
    /// Reads `data.len()` bytes at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a device can't be put at an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The window is empty or reaches past the last address.
    #[error("A device can't have {length:#x} addresses from {start:#x}")]
    Range {
        /// The window's first address.
        start: u64,
        /// Its number of addresses.
        length: u64,
    },
    /// Another device is there.
    #[error("The addresses from {start:#x} belong to another device")]
    Overlap {
        /// The window's first address.
        start: u64,
    },
}

/// A space of addresses and the devices in it.
#[derive(Default)]
pub struct Bus {
    /// Sorted by address, without overlaps.
    windows: Vec<Window>,
}

struct Window {
    first: u64,
    last: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.windows.iter().map(|window| window.first..=window.last)).finish()
    }
}

impl Bus {
    /// Puts `device` at the `length` addresses from `start`.
    ///
    /// # Errors
    /// When the window is not one, or overlaps another.
    pub fn insert(&mut self, start: u64, length: u64, device: Arc<Mutex<dyn BusDevice>>) -> Result<(), BusError> {
        let last = length.checked_sub(1).and_then(|rest| start.checked_add(rest));
        let last = last.ok_or(BusError::Range { start, length })?;
        let place = self.windows.partition_point(|window| window.last < start);
        if self.windows.get(place).is_some_and(|next| next.first <= last) {
            return Err(BusError::Overlap { start });
        }
        self.windows.insert(place, Window { first: start, last, device });
        Ok(())
    }

    /// Reads at `address`; all ones where no device is.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.find(address) {
            device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
        }
    }

    /// Writes at `address`; nothing happens where no device is.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }

    /// The device at `address`, and the offset of the address in the device's window.
    fn find(&self, address: u64) -> Option<(&Mutex<dyn BusDevice>, u64)> {
        let place = self.windows.partition_point(|window| window.last < address);
        let window = self.windows.get(place)?;
        Some((&*window.device, address.checked_sub(window.first)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers the last write and reads as its offset.
    #[derive(Default)]
    struct Probe {
        written: Option<(u64, Vec<u8>)>,
    }

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = u8::try_from(offset).unwrap();
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.written = Some((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_device_of_their_window() {
        let [low, high] = [(); 2].map(|()| Arc::new(Mutex::new(Probe::default())));
        let mut bus = Bus::default();
        bus.insert(0x20, 0x10, high.clone()).unwrap();
        bus.insert(0x10, 0x10, low.clone()).unwrap();
        let read = |address| {
            let mut data = [0; 2];
            bus.read(address, &mut data);
            data
        };
        assert_eq!(read(0x0f), [0xff, 0xff]);
        assert_eq!(read(0x10), [0, 0xff]);
        assert_eq!(read(0x1f), [0x0f, 0xff]);
        assert_eq!(read(0x20), [0, 0xff]);
        assert_eq!(read(0x30), [0xff, 0xff]);
        bus.write(0x2f, &[1, 2]);
        bus.write(0x30, &[3]);
        assert_eq!(high.lock().unwrap().written, Some((0x0f, vec![1, 2])));
        assert_eq!(low.lock().unwrap().written, None);
    }

    #[test]
    fn windows_do_not_overlap() {
        let mut bus = Bus::default();
        let mut insert = |start, length| bus.insert(start, length, Arc::new(Mutex::new(Probe::default())));
        insert(0x10, 0x10).unwrap();
        insert(u64::MAX, 1).unwrap();
        for (start, length) in [(0x0f, 2), (0x10, 1), (0x1f, 1), (0, 0x100), (0x18, 2)] {
            assert_eq!(insert(start, length), Err(BusError::Overlap { start }));
        }
        for (start, length) in [(0, 0), (u64::MAX, 2), (1, u64::MAX)] {
            assert!(insert(start, length).is_err());
        }
        insert(0, 0x10).unwrap();
        insert(0x20, 1).unwrap();
    }
}
