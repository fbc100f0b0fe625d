//! Reads with system calls.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{BLOCK, Done};

/// The size of a page, in bytes.
const PAGE: u64 = 4096;

/// How far the next page is: a prime number, far enough that nobody reads ahead to there.
const STRIDE: u64 = 7919;

/// Reads the files, one after the other.
pub fn sequential(files: &[File]) -> Result<Done> {
    let mut block = vec![0; BLOCK];
    let mut bytes: u64 = 0;
    let start = Instant::now();
    for mut file in files {
        loop {
            match file.read(&mut block).context("Can't read")? {
                0 => break,
                count => bytes = bytes.saturating_add(count as u64),
            }
        }
    }
    Ok(Done { bytes, time: start.elapsed() })
}

/// Reads single pages of the files.
pub fn random(files: &[File], pages: u64) -> Result<Done> {
    let places = places(files)?;
    if !(1..=places.len() as u64).contains(&pages) {
        bail!("The files have {} whole pages, not {pages}", places.len());
    }
    let count = places.len() as u64;
    let stride = (STRIDE..).find(|stride| coprime(*stride, count)).context("no stride")?;
    let mut page = vec![0; usize::try_from(PAGE)?];
    let start = Instant::now();
    for number in 0..pages {
        let index = usize::try_from(number.wrapping_mul(stride) % count)?;
        let (file, offset) = places.get(index).context("no such page")?;
        file.read_exact_at(&mut page, *offset).context("Can't read")?;
    }
    Ok(Done { bytes: pages.saturating_mul(PAGE), time: start.elapsed() })
}

/// All whole pages of the files.
fn places(files: &[File]) -> Result<Vec<(&File, u64)>> {
    let mut places = Vec::new();
    for file in files {
        let pages = file.metadata().context("Can't look at a file")?.len() / PAGE;
        places.extend((0..pages).map(|page| (file, page.saturating_mul(PAGE))));
    }
    Ok(places)
}

fn coprime(a: u64, b: u64) -> bool {
    let (mut a, mut b) = (a, b);
    while let Some(rest) = a.checked_rem(b) {
        (a, b) = (b, rest);
    }
    a == 1
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(length: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; length]).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file
    }

    #[test]
    fn all_is_read() {
        assert_eq!(sequential(&[file(5), file(BLOCK + 1)]).unwrap().bytes, BLOCK as u64 + 6);
        let files = [file(3 * 4096), file(4096 + 5)];
        assert_eq!(places(&files).unwrap().len(), 4);
        assert_eq!(random(&files, 4).unwrap().bytes, 4 * PAGE);
        assert!(random(&files, 5).is_err());
        assert!(random(&[], 1).is_err());
    }

    #[test]
    fn a_stride_reaches_every_page() {
        for count in [1, 2, STRIDE, 2 * STRIDE, 12_210] {
            let stride = (STRIDE..).find(|stride| coprime(*stride, count)).unwrap();
            let mut seen: Vec<u64> = (0..count).map(|number| number * stride % count).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len() as u64, count);
        }
    }
}
