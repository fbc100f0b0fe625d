//! A serial port (16550A), for the kernel's log; only there when a console is wanted.
//!
//! It is for debugging: what the guest prints is written by the vCPU's own thread, so a reader of the console that stops
//! reading stops the guest. Nothing is received.

use std::fs::File;
use std::io;

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// The first port of a PC's first serial port.
pub const BASE: u64 = 0x3f8;

/// The number of ports.
pub const LENGTH: u64 = 8;

/// The interrupt line of a PC's first serial port.
pub const GSI: u32 = 4;

/// A serial port that prints to a file.
pub struct SerialPort(Serial<Line, NoEvents, File>);

/// An interrupt line of the guest.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl std::fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SerialPort").field(self.0.writer()).finish()
    }
}

impl SerialPort {
    /// A serial port that prints to `console` and interrupts through `line`.
    #[must_use]
    pub fn new(line: EventFd, console: File) -> Self {
        Self(Serial::new(Line(line), console))
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (Ok(offset), [byte]) = (u8::try_from(offset), data) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), &[byte]) = (u8::try_from(offset), data) {
            // A console that nobody reads any more is no reason to stop the guest.
            drop(self.0.write(offset, byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn what_is_sent_is_printed() {
        let (mut reader, writer) = pipe().unwrap();
        let mut port = SerialPort::new(EventFd::new(0).unwrap(), File::from(OwnedFd::from(writer)));
        for byte in b"Hi\n" {
            port.write(0, &[*byte]);
        }
        let mut line_status = [0];
        port.read(5, &mut line_status);
        assert_eq!(line_status[0] & 0x60, 0x60, "the transmitter is empty");
        drop(port);
        let mut printed = String::new();
        reader.read_to_string(&mut printed).unwrap();
        assert_eq!(printed, "Hi\n");
    }

    #[test]
    fn a_console_that_is_gone_and_odd_accesses_do_no_harm() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut port = SerialPort::new(EventFd::new(0).unwrap(), File::from(OwnedFd::from(writer)));
        for (offset, data) in [(0, &b"x"[..]), (0, b"xy"), (0, b""), (256, b"x"), (u64::MAX, b"xyzw")] {
            port.write(offset, data);
            port.read(offset, &mut data.to_vec());
        }
    }

    #[test]
    fn an_empty_transmitter_interrupts_when_asked() {
        let line = EventFd::new(0).unwrap();
        let console = File::options().write(true).open("/dev/null").unwrap();
        let mut port = SerialPort::new(line.try_clone().unwrap(), console);
        port.write(1, &[0x02]);
        assert_eq!(line.read().unwrap(), 1);
    }
}
