//! The host's clock, for a guest that was restored and whose own stood still.
//!
//! The ports from [`BASE`] give the nanoseconds since 1970 (`CLOCK_REALTIME`), little endian, a byte each. A read of the
//! first takes the time that all of them give until it is read again, so bytes that are read with rising port numbers
//! belong together.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;

/// The first port.
pub const BASE: u64 = 0x518;

/// The number of ports.
pub const LENGTH: u64 = 8;

/// The device behind the ports.
#[derive(Debug, Default)]
pub struct ClockPorts {
    taken: [u8; 8],
}

impl BusDevice for ClockPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.taken = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).to_le_bytes();
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| self.taken.get(offset..)).unwrap_or_default();
        data.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    }

    /// The guest can't set the host's clock.
    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(ports: &mut ClockPorts) -> Duration {
        let bytes = [0, 1, 2, 3, 4, 5, 6, 7].map(|offset| {
            let mut byte = [0];
            ports.read(offset, &mut byte);
            byte[0]
        });
        Duration::from_nanos(u64::from_le_bytes(bytes))
    }

    #[test]
    fn bytes_of_one_reading_belong_together() {
        let mut ports = ClockPorts::default();
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let first = read(&mut ports);
        let second = read(&mut ports);
        let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(before <= first && first <= second && second <= after, "{before:?} {first:?} {second:?} {after:?}");

        let mut low = [0; 4];
        ports.read(4, &mut low);
        assert_eq!(low, second_half(second));
        let mut far = [7; 4];
        for offset in [8, u64::MAX] {
            ports.read(offset, &mut far);
        }
        assert_eq!(far, [7; 4]);
    }

    fn second_half(time: Duration) -> [u8; 4] {
        let [.., a, b, c, d] = u64::try_from(time.as_nanos()).unwrap().to_le_bytes();
        [a, b, c, d]
    }
}
