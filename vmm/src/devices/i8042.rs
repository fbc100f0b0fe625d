//! The one thing that a PC's keyboard controller does for a guest here: pulse the CPU's reset line.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::end::EndReason;
use crate::ending::Ending;

/// The port of the controller's status (read) and command (write).
pub const PORT: u64 = 0x64;

/// The number of ports.
pub const LENGTH: u64 = 1;

/// The command that pulses the reset line.
const RESET: u8 = 0xfe;

/// The status of a controller that has nothing to be read and is ready for a command.
const READY: u8 = 0;

/// A keyboard controller without a keyboard.
#[derive(Debug)]
pub struct I8042 {
    ending: Arc<Ending>,
}

impl I8042 {
    /// A controller whose reset ends the guest through `ending`.
    #[must_use]
    pub fn new(ending: Arc<Ending>) -> Self {
        Self { ending }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        if let [status] = data {
            *status = READY;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data == [RESET] {
            self.ending.end(EndReason::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let ending = Arc::new(Ending::new().unwrap());
        let mut controller = I8042::new(Arc::clone(&ending));
        for data in [&[0xff][..], &[0xfe, 0xfe], &[]] {
            controller.write(0, data);
        }
        assert_eq!(ending.reason(), None);
        controller.write(0, &[0xfe]);
        assert_eq!(ending.reason(), Some(&EndReason::Reset));
    }

    #[test]
    fn the_controller_is_always_ready() {
        let mut status = [0xff];
        I8042::new(Arc::new(Ending::new().unwrap())).read(0, &mut status);
        assert_eq!(status, [0]);
    }
}
