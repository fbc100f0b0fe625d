//! What the VMM offers behind I/O ports, through `/dev/port`, which reads one port for each byte, with rising numbers.
//!
//! ```text
//! 0x512         read 1: this guest is going to be saved; write 1: the guest is ready; a VMM that makes a template saves it here, and a task's guest goes on from here
//! 0x518 … 0x51f read: the host's CLOCK_REALTIME in nanoseconds, little-endian; reading the first port takes the value
//! 0x520 … 0x53f read: 32 bytes of the host's randomness, each given out once
//! ```
//!
//! A kernel without `/dev/port` boots all the same; only a template can't be made of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

const READY: u64 = 0x512;
const CLOCK: u64 = 0x518;
const SEED: u64 = 0x520;

/// How many bytes of randomness a guest gets.
pub const SEED_LENGTH: usize = 32;

/// The ports.
#[derive(Debug)]
pub struct Ports(File);

impl Ports {
    /// Opens the ports; `None` where the kernel has no way to them.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(Some(Self(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether this guest is going to be saved.
    ///
    /// # Errors
    /// Those of `pread(2)`.
    pub fn will_be_saved(&self) -> io::Result<bool> {
        let mut byte = [0];
        self.0.read_exact_at(&mut byte, READY)?;
        Ok(byte == [1])
    }

    /// Says that this guest can be saved. What follows may happen in any number of guests, at any time.
    ///
    /// # Errors
    /// Those of `pwrite(2)`.
    pub fn ready(&self) -> io::Result<()> {
        self.0.write_all_at(&[1], READY)
    }

    /// The host's randomness for this guest.
    ///
    /// # Errors
    /// Those of `pread(2)`, and [`io::ErrorKind::InvalidData`] when nothing answers at the ports or they have been read.
    pub fn seed(&self) -> io::Result<[u8; SEED_LENGTH]> {
        let mut seed = [0; SEED_LENGTH];
        self.0.read_exact_at(&mut seed, SEED)?;
        // A port that nobody decodes reads as all ones, one that was read as zero.
        let answered = seed.iter().any(|byte| ![0, u8::MAX].contains(byte));
        if answered { Ok(seed) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// The host's clock: the time since 1970.
    ///
    /// # Errors
    /// Those of `pread(2)`, and [`io::ErrorKind::InvalidData`] when nothing answers.
    pub fn now(&self) -> io::Result<Duration> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, CLOCK)?;
        match u64::from_le_bytes(bytes) {
            0 | u64::MAX => Err(io::ErrorKind::InvalidData.into()),
            nanoseconds => Ok(Duration::from_nanos(nanoseconds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports that read as this file does.
    fn ports(content: &[(u64, &[u8])]) -> (tempfile::NamedTempFile, Ports) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(0x1000).unwrap();
        for (offset, bytes) in content {
            file.as_file().write_all_at(bytes, *offset).unwrap();
        }
        let ports = Ports::open(file.path()).unwrap().unwrap();
        (file, ports)
    }

    #[test]
    fn seed_and_clock_are_read_and_ready_is_written_where_they_belong() {
        let seed: [u8; SEED_LENGTH] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let (file, ports) = ports(&[(0x518, &1_700_000_000_000_000_001_u64.to_le_bytes()), (0x520, &seed)]);
        assert_eq!(ports.seed().unwrap(), seed);
        assert_eq!(ports.now().unwrap(), Duration::new(1_700_000_000, 1));
        assert!(!ports.will_be_saved().unwrap());
        ports.ready().unwrap();
        assert!(ports.will_be_saved().unwrap());
        let mut byte = [0];
        file.as_file().read_exact_at(&mut byte, 0x512).unwrap();
        assert_eq!(byte, [1]);
    }

    #[test]
    fn silence_is_no_randomness_and_no_time() {
        for silence in [0, u8::MAX] {
            let (_file, ports) = ports(&[(0x518, &[silence; 8 + SEED_LENGTH])]);
            assert_eq!(ports.seed().unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert_eq!(ports.now().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_kernel_without_the_file_has_no_ports() {
        assert!(Ports::open(Path::new("/no/such/port")).unwrap().is_none());
    }
}
