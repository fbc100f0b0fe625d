//! Randomness of the host, for a guest that was restored: everything that its own generator knows, other guests of the
//! same template know too.
//!
//! The ports from [`BASE`] have a byte each. They are drawn at the first read, by this process, so that they are in no
//! file; each is given out once and is 0 after that, so that nothing in the guest can read them later. A machine that is
//! to be saved gives none. When all have been read the runtime is told, before the guest goes on: so it knows of it when it hears
//! from the guest.

use std::fmt;

use crate::bus::BusDevice;
use crate::random;

/// The first port.
pub const BASE: u64 = 0x520;

/// The number of ports, and of bytes.
pub const LENGTH: u64 = 32;

const BYTES: usize = 32;

/// The device behind the ports.
pub struct SeedPorts {
    /// What has not been read yet; `None` before the first read.
    bytes: Option<[Option<u8>; BYTES]>,
    /// Told once, when all have been read.
    tell: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for SeedPorts {
    /// Without the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeedPorts").finish_non_exhaustive()
    }
}

impl SeedPorts {
    /// Ports with 32 random bytes, which call `tell` when all of them have been read.
    #[must_use]
    pub fn new(tell: impl FnOnce() + Send + 'static) -> Self {
        Self { bytes: None, tell: Some(Box::new(tell)) }
    }

    /// The byte at `place`, which is 0 from then on. A host without randomness gives none, and the runtime is not told.
    fn take(&mut self, place: usize) -> u8 {
        if self.bytes.is_none() {
            self.bytes = random::bytes().ok().map(|bytes: [u8; BYTES]| bytes.map(Some));
        }
        let Some(bytes) = &mut self.bytes else { return 0 };
        let byte = bytes.get_mut(place).and_then(Option::take).unwrap_or(0);
        if bytes.iter().all(Option::is_none)
            && let Some(tell) = self.tell.take()
        {
            tell();
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Ports, and how often they have told.
    fn ports() -> (SeedPorts, Arc<AtomicUsize>) {
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let tell = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        (SeedPorts::new(tell), told)
    }

    fn read(ports: &mut SeedPorts, offset: u64) -> u8 {
        let mut byte = [0xff];
        ports.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn each_byte_is_given_out_once_and_the_last_is_told() {
        let (mut ports, told) = ports();
        let first: Vec<u8> = (0..LENGTH - 1).map(|offset| read(&mut ports, offset)).collect();
        assert!(first.iter().any(|byte| *byte != 0));
        assert!((0..LENGTH - 1).all(|offset| read(&mut ports, offset) == 0));
        assert_eq!(told.load(Ordering::SeqCst), 0);
        read(&mut ports, LENGTH - 1);
        assert_eq!(told.load(Ordering::SeqCst), 1);
        assert!((0..LENGTH).all(|offset| read(&mut ports, offset) == 0));
        assert_eq!(told.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn wide_and_odd_reads_take_what_there_is() {
        let (mut ports, told) = ports();
        for offset in [LENGTH, u64::MAX] {
            assert_eq!(read(&mut ports, offset), 0xff);
        }
        let mut data = [0xaa; 40];
        ports.read(4, &mut data);
        assert_eq!(data[28..], [0xaa; 12]);
        ports.read(4, &mut data);
        assert_eq!(data[..28], [0; 28]);
        ports.read(0, &mut data);
        assert_eq!(told.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn each_machine_has_its_own() {
        let [one, other] = [(); 2].map(|()| {
            let (mut ports, _) = ports();
            let mut data = [0; BYTES];
            ports.read(0, &mut data);
            data
        });
        assert_ne!(one, other);
    }
}
