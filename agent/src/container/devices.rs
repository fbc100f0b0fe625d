//! The container's `/dev`: the device nodes and links that Docker gives, in the tmpfs that [`super::skeleton`] mounted.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::symlinkat;

/// Character devices: name, major and minor number.
const NODES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Symbolic links: name and target.
const LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// Where a terminal is found as well.
pub const CONSOLE: &str = "/dev/console";

/// Makes nodes and links in the directory `dev`. The umask must be 0.
///
/// # Errors
/// Those of `mknod(2)` and `symlink(2)`.
pub fn create(dev: &Path) -> Result<(), Errno> {
    let mode = Mode::from_bits_truncate(0o666);
    for (name, major, minor) in NODES {
        mknod(&dev.join(name), SFlag::S_IFCHR, mode, makedev(major, minor))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, nix::fcntl::AT_FDCWD, &dev.join(name))?;
    }
    Ok(())
}

/// Makes the file on which the terminal is mounted.
///
/// # Errors
/// Those of `mknod(2)`.
pub fn create_console() -> Result<(), Errno> {
    mknod(CONSOLE, SFlag::S_IFREG, Mode::from_bits_truncate(0o600), 0)
}
