//! The container's `/dev`: the device nodes and links that Docker gives, in the tmpfs that [`super::mounts`] mounted.

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::symlinkat;

/// Character devices: name, major and minor number.
const NODES: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Symbolic links: name and target.
const LINKS: [(&str, &str); 6] = [
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

/// Where a terminal is found as well.
pub const CONSOLE: &str = "/dev/console";

/// Makes nodes and links. The umask must be 0.
///
/// # Errors
/// Those of `mknod(2)` and `symlink(2)`.
pub fn create() -> Result<(), Errno> {
    let mode = Mode::from_bits_truncate(0o666);
    for (path, major, minor) in NODES {
        mknod(path, SFlag::S_IFCHR, mode, makedev(major, minor))?;
    }
    for (path, target) in LINKS {
        symlinkat(target, nix::fcntl::AT_FDCWD, path)?;
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
