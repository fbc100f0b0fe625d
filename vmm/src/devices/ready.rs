//! The port by which a guest says that it is ready to become a template.
//!
//! A write of 1 to port [`PORT`] ends a machine that was started to be saved ([`crate::template`]); the guest that is
//! restored goes on behind that `out`. Everywhere else the write is ignored, so that a guest that boots for a task and one
//! that is saved do the same.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::end::EndReason;
use crate::ending::Ending;

/// The port.
pub const PORT: u64 = 0x512;

/// The number of ports.
pub const LENGTH: u64 = 1;

const READY: u8 = 1;

/// The device behind the port.
#[derive(Debug)]
pub struct ReadyPort {
    ending: Arc<Ending>,
}

impl ReadyPort {
    /// The port of a machine that is saved, by an end through `ending`. Other machines have no such port.
    #[must_use]
    pub fn new(ending: Arc<Ending>) -> Self {
        Self { ending }
    }
}

impl BusDevice for ReadyPort {
    /// A read tells the guest that it is going to be saved, so that it may prepare; elsewhere the bus gives all ones.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        data.iter_mut().take(1).for_each(|byte| *byte = READY);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data == [READY] {
            self.ending.end(EndReason::Ready);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_byte_says_ready() {
        let ending = Arc::new(Ending::new().unwrap());
        let mut port = ReadyPort::new(Arc::clone(&ending));
        for data in [&[0][..], &[2], &[1, 0], &[]] {
            port.write(0, data);
        }
        assert_eq!(ending.reason(), None);
        let mut data = [0xff; 2];
        port.read(0, &mut data);
        assert_eq!(data, [1, 0]);
        port.write(0, &[1]);
        assert_eq!(ending.reason(), Some(&EndReason::Ready));
    }
}
