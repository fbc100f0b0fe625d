//! Reads of mapped files, without system calls.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::Done;

/// The size of a page, in bytes.
const PAGE: usize = 4096;

/// A file in memory, to be read.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(file: &File) -> Result<Self> {
        let length = usize::try_from(file.metadata().context("Can't look at a file")?.len())?;
        let fd = file.as_raw_fd();
        #[expect(unsafe_code, reason = "libc")]
        // SAFETY: a new mapping replaces none. A length of 0 is refused.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("Can't map a file");
        }
        Ok(Self { start: NonNull::new(start.cast()).context("A file is mapped at 0")?, length })
    }

    fn bytes(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "a mapping as a slice")]
        // SAFETY: `start` and `length` are those of a mapping that lives as long as this. Nobody writes the files of a
        // benchmark while it runs, and none is shortened.
        unsafe {
            slice::from_raw_parts(self.start.as_ptr(), self.length)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "libc")]
        // SAFETY: the mapping is this one's, and no slice of it outlives it.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.length);
        }
    }
}

/// Maps the files and reads a byte of each page.
pub fn fault(files: &[File]) -> Result<Done> {
    let mut bytes: u64 = 0;
    let start = Instant::now();
    for file in files {
        let mapping = Mapping::new(file)?;
        let sum = mapping.bytes().iter().step_by(PAGE).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        black_box(sum);
        bytes = bytes.saturating_add(mapping.length as u64);
    }
    Ok(Done { bytes, time: start.elapsed() })
}

/// Copies the mapped file into memory.
pub fn copy(file: &File, rounds: u64) -> Result<Done> {
    let mapping = Mapping::new(file)?;
    let mut target = mapping.bytes().to_vec();
    let start = Instant::now();
    for _ in 0..rounds {
        target.copy_from_slice(black_box(mapping.bytes()));
        black_box(&mut target);
    }
    Ok(Done { bytes: rounds.saturating_mul(mapping.length as u64), time: start.elapsed() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_mapping_has_what_the_file_has() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"some bytes").unwrap();
        assert_eq!(Mapping::new(&file).unwrap().bytes(), b"some bytes");
        assert_eq!(fault(&[file.try_clone().unwrap()]).unwrap().bytes, 10);
        assert_eq!(copy(&file, 3).unwrap().bytes, 30);
        assert!(copy(&tempfile::tempfile().unwrap(), 1).is_err(), "nothing can't be mapped");
    }
}
