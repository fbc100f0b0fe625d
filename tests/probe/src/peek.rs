//! Another process reads a file through this one's mappings of it (`process_vm_readv`), as debuggers do.
//!
//! The kernel then takes hold of the mapped pages themselves. Those of an image that is mapped directly (DAX) are not
//! memory of the guest's, which must not matter.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Error, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::ptr;

use anyhow::{Context, Result, bail, ensure};

/// Maps the file in each way, and compares what another process sees of it, before and after this one has looked at it.
pub fn run(path: &OsStr) -> Result<()> {
    let content = std::fs::read(path).context("Can't read the file")?;
    let file = File::open(path).context("Can't open the file")?;
    for (name, flags) in [("shared", libc::MAP_SHARED), ("private", libc::MAP_PRIVATE)] {
        let mapping = map(&file, content.len(), flags)?;
        for touched in ["untouched", "touched"] {
            let seen = ask_another(mapping)?;
            ensure!(seen == content, "{name}, {touched}: {} bytes, not those of the file", seen.len());
            ensure!(mapping == content, "{name}: the mapping is not the file");
        }
        writeln!(std::io::stdout(), "{name} {}", content.len())?;
    }
    Ok(())
}

/// What another process reads at this address of this one.
fn ask_another(mapping: &[u8]) -> Result<Vec<u8>> {
    let place = format!("{} {} {}", std::process::id(), mapping.as_ptr().addr(), mapping.len());
    let output = Command::new("/proc/self/exe").args(["peek-at", &place]).output().context("Can't start a process")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(output.stdout)
}

/// The other process: writes the bytes at `PID ADDRESS LENGTH` to standard output.
pub fn at(place: &OsStr) -> Result<()> {
    let numbers = place.to_str().unwrap_or_default().split(' ').map(str::parse::<usize>);
    let numbers = numbers.collect::<Result<Vec<_>, _>>().context("not three numbers")?;
    let [pid, address, length] = *numbers.as_slice() else { bail!("not three numbers") };
    let mut bytes = vec![0_u8; length];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    let remote = libc::iovec { iov_base: ptr::without_provenance_mut(address), iov_len: length };
    let pid = libc::pid_t::try_from(pid)?;
    #[expect(unsafe_code, reason = "libc")]
    // SAFETY: one element each; the local one describes `bytes`, and the remote one is the kernel's to check.
    let count = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    ensure!(count >= 0, "process_vm_readv: {}", Error::last_os_error());
    let read = bytes.get(..usize::try_from(count)?).context("more than was asked for")?;
    std::io::stdout().write_all(read).context("Can't print")
}

#[expect(unsafe_code, reason = "the standard library cannot map files")]
fn map(file: &File, length: usize, flags: libc::c_int) -> Result<&'static [u8]> {
    ensure!(length > 0, "the file is empty");
    // SAFETY: a new mapping, which is never removed, of a file that nobody changes.
    unsafe {
        let start = libc::mmap(ptr::null_mut(), length, libc::PROT_READ, flags, file.as_raw_fd(), 0);
        ensure!(start != libc::MAP_FAILED, "can't map the file: {}", Error::last_os_error());
        Ok(std::slice::from_raw_parts(start.cast(), length))
    }
}
