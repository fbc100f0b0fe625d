//! Randomness of the host, for a guest that was restored: everything that its own generator knows, other guests of the
//! same template know too.
//!
//! The ports from [`BASE`] have a byte each. They are drawn at the first read, by this process, so that they are in no
//! file; each is given out once and is 0 after that, so that nothing in the guest can read them later. A machine that is
//! to be saved gives none. When all have been read, the runtime is told.

use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::random;

/// The first port.
pub const BASE: u64 = 0x520;

/// The number of ports, and of bytes.
pub const LENGTH: u64 = 32;

const BYTES: usize = 32;

/// The device behind the ports.
#[derive(Debug)]
pub struct SeedPorts {
    /// What has not been read yet; `None` before the first read.
    bytes: Option<[Option<u8>; BYTES]>,
    /// Told once, when all have been read.
    read: Option<EventFd>,
}

impl SeedPorts {
    /// Ports with 32 random bytes, which write to `read` when all of them have been read.
    #[must_use]
    pub const fn new(read: EventFd) -> Self {
        Self { bytes: None, read: Some(read) }
    }

    /// The byte at `place`, which is 0 from then on. A host without randomness gives none, and the runtime is not told.
    fn take(&mut self, place: usize) -> u8 {
        if self.bytes.is_none() {
            self.bytes = random::bytes().ok().map(|bytes: [u8; BYTES]| bytes.map(Some));
        }
        let Some(bytes) = &mut self.bytes else { return 0 };
        let byte = bytes.get_mut(place).and_then(Option::take).unwrap_or(0);
        if bytes.iter().all(Option::is_none)
            && let Some(read) = self.read.take()
        {
            // Can't fail: nothing was written to it before.
            let _ = read.write(1);
        }
        byte
    }
}

impl BusDevice for SeedPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let first = usize::try_from(offset).unwrap_or(BYTES).min(BYTES);
        for (place, byte) in (first..BYTES).zip(data) {
            *byte = self.take(place);
        }
    }

    /// The ports are for reading.
    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn read(ports: &mut SeedPorts, offset: u64) -> u8 {
        let mut byte = [0xff];
        ports.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn each_byte_is_given_out_once_and_the_last_is_told() {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut ports = SeedPorts::new(event.try_clone().unwrap());
        let first: Vec<u8> = (0..LENGTH - 1).map(|offset| read(&mut ports, offset)).collect();
        assert!(first.iter().any(|byte| *byte != 0));
        assert!((0..LENGTH - 1).all(|offset| read(&mut ports, offset) == 0));
        assert!(event.read().is_err());
        read(&mut ports, LENGTH - 1);
        assert_eq!(event.read().unwrap(), 1);
        assert!((0..LENGTH).all(|offset| read(&mut ports, offset) == 0));
        assert!(event.read().is_err());
    }

    #[test]
    fn wide_and_odd_reads_take_what_there_is() {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut ports = SeedPorts::new(event.try_clone().unwrap());
        for offset in [LENGTH, u64::MAX] {
            assert_eq!(read(&mut ports, offset), 0xff);
        }
        let mut data = [0xaa; 40];
        ports.read(4, &mut data);
        assert_eq!(data[28..], [0xaa; 12]);
        ports.read(4, &mut data);
        assert_eq!(data[..28], [0; 28]);
        ports.read(0, &mut data);
        assert_eq!(event.read().unwrap(), 1);
    }

    #[test]
    fn each_machine_has_its_own() {
        let [one, other] = [(); 2].map(|()| {
            let mut ports = SeedPorts::new(EventFd::new(0).unwrap());
            let mut data = [0; BYTES];
            ports.read(0, &mut data);
            data
        });
        assert_ne!(one, other);
    }
}
