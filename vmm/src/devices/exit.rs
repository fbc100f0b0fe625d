//! The exit ports, by which our guest kernel's `taskrun-exit` driver says how it ended.
//!
//! Port [`BASE`] takes the end: 1 is power-off, 2 is panic. Before a panic the driver writes the panic's text to the port
//! behind it, byte by byte. The text is the guest's: at most [`MAX_TEXT`] bytes of it are kept, and bytes that aren't
//! UTF-8 are replaced.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::end::EndReason;
use crate::ending::Ending;

/// The first port.
pub const BASE: u64 = 0x510;

/// The number of ports.
pub const LENGTH: u64 = 2;

/// The most bytes of a panic's text that are kept.
pub const MAX_TEXT: usize = 512;

const POWER_OFF: u8 = 1;
const PANIC: u8 = 2;

/// The device behind the exit ports.
#[derive(Debug)]
pub struct ExitPorts {
    ending: Arc<Ending>,
    text: Vec<u8>,
}

impl ExitPorts {
    /// Exit ports that end the guest through `ending`.
    #[must_use]
    pub fn new(ending: Arc<Ending>) -> Self {
        Self { ending, text: Vec::new() }
    }

    fn end(&self, how: u8) {
        match how {
            POWER_OFF => self.ending.end(EndReason::PowerOff),
            PANIC => {
                let message = String::from_utf8_lossy(&self.text).trim_end().to_owned();
                self.ending.end(EndReason::Panic { message });
            }
            _ => {}
        }
    }
}

impl BusDevice for ExitPorts {
    /// The ports are for writing; a read gives the bus's all ones.
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[how]) => self.end(how),
            (1, &[byte]) if self.text.len() < MAX_TEXT => self.text.push(byte),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reason after these writes to offsets.
    fn reason_after(writes: &[(u64, &[u8])]) -> Option<EndReason> {
        let ending = Arc::new(Ending::new().unwrap());
        let mut ports = ExitPorts::new(Arc::clone(&ending));
        for (offset, bytes) in writes {
            ports.write(*offset, bytes);
        }
        ending.reason().cloned()
    }

    #[test]
    fn one_is_power_off_and_two_is_panic() {
        assert_eq!(reason_after(&[(0, &[1])]), Some(EndReason::PowerOff));
        assert_eq!(reason_after(&[(0, &[2])]), Some(EndReason::Panic { message: String::new() }));
    }

    #[test]
    fn anything_else_is_ignored() {
        assert_eq!(reason_after(&[(0, &[0]), (0, &[3]), (0, &[1, 0]), (2, &[1]), (u64::MAX, &[1]), (0, &[])]), None);
    }

    #[test]
    fn the_text_of_a_panic_is_kept_up_to_its_limit() {
        let mut writes: Vec<(u64, &[u8])> = vec![(1, b"O"), (1, b"h"), (1, b"\xff"), (1, b"\n"), (0, &[2])];
        assert_eq!(reason_after(&writes), Some(EndReason::Panic { message: "Oh\u{fffd}".into() }));

        writes = vec![(1, b"x"); MAX_TEXT + 1];
        writes.push((0, &[2]));
        assert_eq!(reason_after(&writes), Some(EndReason::Panic { message: "x".repeat(MAX_TEXT) }));
    }
}
