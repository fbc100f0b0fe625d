//! Descriptors that this process was started with and that it knows by their numbers alone.

use std::fs::{self, File};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The last of the standard streams, which aren't anybody's to take.
const STANDARD: RawFd = 2;

/// Takes a descriptor of the caller's, for this process alone: programs that it starts don't get it. `None` when there is none
/// of this number. To be called once for each, before anything else was opened.
#[expect(unsafe_code, reason = "a descriptor that is known by its number alone")]
#[must_use]
pub fn adopt(fd: RawFd) -> Option<File> {
    if !is_open(fd) {
        return None;
    }
    // SAFETY: the descriptor is open, and was made by the caller for this use alone: nothing else in this process owns it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok().map(|_| file)
}

/// Whether this is a descriptor of this process, behind its standard streams.
#[must_use]
pub fn is_open(fd: RawFd) -> bool {
    fd > STANDARD && fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok()
}

/// Whether such a descriptor can be written to: its access mode, as proc_pid_fdinfo(5) tells it.
#[must_use]
pub fn is_writable(fd: RawFd) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| libc::c_int::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn what_can_be_written_to_is_known() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(is_open(writer.as_raw_fd()) && is_writable(writer.as_raw_fd()));
        assert!(is_open(reader.as_raw_fd()) && !is_writable(reader.as_raw_fd()));
        assert!(!is_open(2) && !is_open(-1) && !is_open(1_000_000));
        assert!(adopt(1_000_000).is_none());
    }
}
