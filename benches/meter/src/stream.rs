//! Writes to a disk, and bytes through standard input and output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{BLOCK, Done};

/// Writes a new file; it is on the disk when the time ends.
pub fn write(path: &Path, mebibytes: u64) -> Result<Done> {
    // Not zeros, which a disk might not keep.
    let block: Vec<u8> = (0..=u8::MAX).cycle().take(BLOCK).collect();
    let mut file = File::create_new(path).with_context(|| format!("Can't make {}", path.display()))?;
    let start = Instant::now();
    for _ in 0..mebibytes {
        file.write_all(&block).context("Can't write")?;
    }
    file.sync_all().context("Can't write to the disk")?;
    Ok(Done { bytes: mebibytes.saturating_mul(BLOCK as u64), time: start.elapsed() })
}

/// Writes zeros to standard output. Who reads them takes the time.
pub fn pour(mebibytes: u64) -> Result<()> {
    let block = vec![0; BLOCK];
    for _ in 0..mebibytes {
        io::stdout().write_all(&block).context("Can't write")?;
    }
    Ok(())
}

/// Reads standard input to its end.
pub fn drain() -> Result<Done> {
    let mut block = vec![0; BLOCK];
    let mut input = io::stdin().lock();
    let mut bytes = input.read(&mut block).context("Can't read")? as u64;
    let start = Instant::now();
    loop {
        match input.read(&mut block).context("Can't read")? {
            0 => return Ok(Done { bytes, time: start.elapsed() }),
            count => bytes = bytes.saturating_add(count as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_long_as_said_and_none_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(write(&path, 2).unwrap().bytes, 2 << 20);
        assert_eq!(path.metadata().unwrap().len(), 2 << 20);
        assert!(write(&path, 1).is_err());
    }
}
