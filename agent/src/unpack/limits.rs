//! Bounds on what an image may make the agent do, so that a hostile archive ends in a sentence and not in a guest
//! without memory or time.

use protocol::spec::UnpackLimits;

use super::error::Cause;

/// The longest name of a file, in bytes: Linux's `NAME_MAX`.
pub const NAME_MAX: usize = 255;

/// The longest text of a symbolic link, in bytes: Linux's `PATH_MAX` without its terminator.
pub const TARGET_MAX: usize = 4095;

/// How many symbolic links one path may lead through, as in Linux's own look-up.
pub const LINKS_MAX: usize = 40;

/// Bounds over all layers of an image together. The defaults are far above what real images hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries in the archives, and directories made for entries that have none, together.
    pub entries: u64,
    /// Bytes of the uncompressed archives.
    pub bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes of memory for names and metadata.
    pub memory: u64,
    /// Bytes of memory for the window of a Zstandard stream.
    pub zstd_window: u64,
    /// Length of a path inside the image, in bytes.
    pub path_length: usize,
    /// Components of a path inside the image.
    pub path_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2 << 20,
            bytes: 64 << 30,
            image_bytes: 64 << 30,
            memory: 4 << 30,
            zstd_window: 128 << 20,
            path_length: 4000,
            path_depth: 1000,
        }
    }
}

impl Limits {
    /// What the host sets, in a guest with `memory` bytes: nine sixteenths of them may hold names and metadata (with 1 GiB those of
    /// more than a million files), a quarter the window of a decoder. The rest is the kernel's and for what flows through.
    #[must_use]
    pub fn new(limits: UnpackLimits, memory: u64) -> Self {
        let UnpackLimits { entries, bytes, image_bytes } = limits;
        Self { entries, bytes, image_bytes, memory: memory / 16 * 9, zstd_window: memory / 4, ..Self::default() }
    }

    /// Checks the length in bytes and the number of components of a path.
    pub(super) fn check_path(&self, length: usize, depth: usize) -> Result<(), Cause> {
        if length > self.path_length {
            return Err(Cause::PathTooLong { length, limit: self.path_length });
        }
        if depth > self.path_depth {
            return Err(Cause::PathTooDeep { limit: self.path_depth });
        }
        Ok(())
    }
}

/// What is left of one of the [`Limits`].
#[derive(Debug)]
pub struct Allowance {
    left: u64,
    limit: u64,
}

impl Allowance {
    /// The whole of `limit`.
    pub fn new(limit: u64) -> Self {
        Self { left: limit, limit }
    }

    /// Takes one entry or implied directory.
    pub fn take_entry(&mut self) -> Result<(), Cause> {
        self.left = self.left.checked_sub(1).ok_or(Cause::TooManyEntries { limit: self.limit })?;
        Ok(())
    }

    /// Takes `count` bytes of an uncompressed archive.
    pub fn take_bytes(&mut self, count: usize) -> Result<(), Cause> {
        self.left = self.left.checked_sub(count as u64).ok_or(Cause::TooManyBytes { limit: self.limit })?;
        Ok(())
    }

    /// Takes `count` bytes of memory.
    pub fn take_memory(&mut self, count: u64) -> Result<(), Cause> {
        self.left = self.left.checked_sub(count).ok_or(Cause::TooMuchMemory { limit: self.limit })?;
        Ok(())
    }
}
