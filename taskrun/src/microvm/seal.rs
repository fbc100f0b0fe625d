//! Keeping this process's descriptors from the programs that it starts.
//!
//! What this process opens itself is closed to them already; this is for what its own caller left open, or another part of a
//! program that runs tasks. Those stay as they are for that: they are sealed between fork and exec.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;

/// Has every descriptor above standard error closed to the program that is started.
#[expect(unsafe_code, reason = "code between fork and exec")]
pub fn at_start(command: &mut Command) {
    let first = libc::c_uint::try_from(libc::STDERR_FILENO).unwrap_or(2).saturating_add(1);
    // SAFETY: between fork and exec there is one system call, which is safe there: it takes no lock and no memory.
    unsafe { command.pre_exec(move || close_on_exec(first).map_err(io::Error::from)) };
}

/// Whether this kernel can do that. Changes nothing.
///
/// # Errors
/// The system call's, of one that can't.
pub fn check() -> Result<(), Errno> {
    // There is no such descriptor.
    close_on_exec(libc::c_uint::MAX)
}

/// Marks every descriptor from `first` on as closed for programs that this process starts.
#[expect(unsafe_code, reason = "nix has no close_range(2)")]
fn close_on_exec(first: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC no descriptor is closed in this process and no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}
