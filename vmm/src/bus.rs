//! Devices at addresses.
//!
//! A device does not know where it is: it is given offsets into its own window. An access outside every window reads as
//! all ones and is otherwise ignored, as on a PC.

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
