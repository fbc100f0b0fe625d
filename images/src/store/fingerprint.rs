//! The fingerprint of a root file system: what tells whether it changed since it was stored.
//!
//! SHA-256 over the length and, for each chunk of 2 MiB, either a mark that all of it is zeros or its own SHA-256. So
//! the holes of a sparse file need not be read, and yet the fingerprint depends on nothing but the content: a chunk of
//! zeros that are written out is marked as one in a hole is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// The length of a chunk in bytes.
const CHUNK: u64 = 2 << 20;

/// The mark of a chunk of zeros, and that of another one, which its digest follows.
const ZEROS: [u8; 1] = [0];
const DATA: [u8; 1] = [1];

/// The fingerprint of the first `length` bytes of `file`. Moves the file's position.
pub(super) fn fingerprint(file: &File, length: u64) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    hasher.update(length.to_le_bytes());
    let mut buffer = vec![0; usize::try_from(CHUNK.min(length)).unwrap_or_default()];
    let mut offset = 0_u64;
    // Where data starts at or behind the offset.
    let mut data = next_data(file, 0, length)?;
    while offset < length {
        let end = offset.saturating_add(CHUNK).min(length);
        if data < offset {
            data = next_data(file, offset, length)?;
        }
        let size = usize::try_from(end.saturating_sub(offset)).unwrap_or_default();
        let chunk = buffer.get_mut(..size).unwrap_or_default();
        if data < end {
            file.read_exact_at(chunk, offset)?;
        }
        if data >= end || chunk.iter().all(|&byte| byte == 0) {
            hasher.update(ZEROS);
        } else {
            hasher.update(DATA);
            hasher.update(Sha256::digest(chunk));
        }
        offset = end;
    }
    Ok(Digest::finish(hasher))
}

/// Where the data at or behind `offset` starts; `length` when there is none.
fn next_data(file: &File, offset: u64, length: u64) -> io::Result<u64> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    match lseek64(file, offset, Whence::SeekData) {
        Ok(data) => Ok(u64::try_from(data).unwrap_or(0)),
        Err(Errno::ENXIO) => Ok(length),
        // A file system that knows no holes: everything is data.
        Err(Errno::EINVAL) => Ok(u64::try_from(offset).unwrap_or(0)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holes_and_written_zeros_are_the_same_and_data_is_not() {
        let length = 3 * CHUNK + 4096;
        let [sparse, mut written, other] = [(); 3].map(|()| tempfile::tempfile().unwrap());
        for file in [&sparse, &other] {
            file.set_len(length).unwrap();
        }
        written.write_all(&vec![0; usize::try_from(length).unwrap()]).unwrap();
        for file in [&sparse, &written] {
            file.write_all_at(b"data", CHUNK + 7).unwrap();
        }
        other.write_all_at(b"data", CHUNK + 8).unwrap();
        let [sparse, written, other] = [&sparse, &written, &other].map(|file| fingerprint(file, length).unwrap());
        assert_eq!(sparse, written);
        assert_ne!(sparse, other);
    }

    #[test]
    fn the_length_counts() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * CHUNK).unwrap();
        assert_ne!(fingerprint(&file, CHUNK).unwrap(), fingerprint(&file, 2 * CHUNK).unwrap());
        assert!(fingerprint(&file, 2 * CHUNK + 1).is_ok(), "a hole behind the end is a hole");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Every single byte counts.
        #[test]
        fn every_byte_counts(at in 0..2 * CHUNK + 5, byte in 1..=255_u8, base in prop::collection::vec(0..3 * CHUNK, 0..4)) {
            let length = 2 * CHUNK + 5;
            let file = tempfile::tempfile().unwrap();
            file.set_len(length).unwrap();
            for offset in base {
                file.write_all_at(b"x", offset % length).unwrap();
            }
            let before = fingerprint(&file, length).unwrap();
            let mut old = [0];
            file.read_exact_at(&mut old, at).unwrap();
            file.write_all_at(&[old[0] ^ byte], at).unwrap();
            prop_assert_ne!(before, fingerprint(&file, length).unwrap());
            file.write_all_at(&old, at).unwrap();
            prop_assert_eq!(before, fingerprint(&file, length).unwrap());
        }
    }
}
