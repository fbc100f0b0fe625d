//! System calls straight on slices of guest memory, without a copy on the way, and cutting rows of slices.
#![expect(unsafe_code, reason = "the kernel is given pointers into guest memory, which no safe interface does")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use vm_memory::VolatileSlice;

/// The most slices that one system call takes (`IOV_MAX`, `UIO_MAXIOV`).
const MAX_SLICES: usize = 1024;
/// The size of a page, in bytes.
const PAGE: usize = 4096;

/// Reads from `file` at `offset` into `slices`; 0 is the end of the file.
///
/// # Errors
/// Those of `preadv`, except `EINTR`.
pub fn read_at(file: &File, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let row = iovecs(slices);
    // SAFETY: Each element of `row` is memory of the guest that stays mapped as long as `slices` lives, and that is only
    // ever accessed volatile: the kernel writes no more than the lengths given.
    retry(|| unsafe { libc::preadv(file.as_raw_fd(), row.as_ptr(), count(&row), offset) })
}

/// Writes `slices` to `file` at `offset`.
///
/// # Errors
/// Those of `pwritev`, except `EINTR`.
pub fn write_at(file: &File, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let row = iovecs(slices);
    // SAFETY: Each element of `row` is memory of the guest that stays mapped as long as `slices` lives.
    retry(|| unsafe { libc::pwritev(file.as_raw_fd(), row.as_ptr(), count(&row), offset) })
}

/// Receives what a stream has into `slices`, without waiting; 0 is the end of the stream.
///
/// # Errors
/// Those of `recvmsg`, except `EINTR`.
pub fn receive(stream: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut row = iovecs(slices);
    let mut message = header(&mut row);
    // SAFETY: `message` names `row` alone, whose elements are memory of the guest that stays mapped as long as `slices`
    // lives and is only ever accessed volatile: the kernel writes no more than the lengths given.
    retry(|| unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
}

/// Sends as much of `slices` as a stream takes, without waiting and without `SIGPIPE`.
///
/// # Errors
/// Those of `sendmsg`, except `EINTR`.
pub fn send(stream: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut row = iovecs(slices);
    let message = header(&mut row);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` names `row` alone, whose elements are memory of the guest that stays mapped as long as `slices`
    // lives.
    retry(|| unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, flags) })
}

/// Closes the directions of a stream that `how` names, for this end and for the peer.
///
/// # Errors
/// Those of `shutdown`.
pub fn shut_down(stream: BorrowedFd<'_>, how: std::net::Shutdown) -> io::Result<()> {
    let how = match how {
        std::net::Shutdown::Read => libc::SHUT_RD,
        std::net::Shutdown::Write => libc::SHUT_WR,
        std::net::Shutdown::Both => libc::SHUT_RDWR,
    };
    let fd: RawFd = stream.as_raw_fd();
    // SAFETY: The call takes no pointers.
    if unsafe { libc::shutdown(fd, how) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the pages of a slice back to the host. In memory that is a mapping of its own (`private`) they then hold what they
/// held when it was mapped; in a file that is mapped they become a hole.
///
/// # Errors
/// When it isn't whole pages, and those of `madvise`.
pub fn discard(slice: &VolatileSlice<'_>, private: bool) -> io::Result<()> {
    let start = slice.ptr_guard_mut().as_ptr();
    if !start.addr().is_multiple_of(PAGE) || !slice.len().is_multiple_of(PAGE) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let advice = if private { libc::MADV_DONTNEED } else { libc::MADV_REMOVE };
    // SAFETY: the range is memory of the guest, which stays mapped and is only ever accessed volatile: its content may
    // change at any time. As it is whole pages, nothing beside it changes.
    let result = unsafe { libc::madvise(start.cast(), slice.len(), advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The bytes in a row of slices.
#[must_use]
pub fn length(slices: &[VolatileSlice<'_>]) -> usize {
    slices.iter().fold(0, |sum, slice| sum.saturating_add(slice.len()))
}

/// The part of a row of slices from byte `start` on, at most `length` bytes; shorter where the row is.
#[must_use]
pub fn part<'m>(slices: &[VolatileSlice<'m>], start: usize, length: usize) -> Vec<VolatileSlice<'m>> {
    let (mut skip, mut left) = (start, length);
    let mut part = Vec::with_capacity(slices.len());
    for slice in slices {
        let offset = skip.min(slice.len());
        let taken = left.min(slice.len().saturating_sub(offset));
        skip = skip.saturating_sub(offset);
        left = left.saturating_sub(taken);
        if let Some(slice) = slice.subslice(offset, taken).ok().filter(|slice| !slice.is_empty()) {
            part.push(slice);
        }
    }
    part
}

/// Copies the start of a row of slices into `bytes`; returns how many there were.
pub fn copy_out(slices: &[VolatileSlice<'_>], bytes: &mut [u8]) -> usize {
    let mut copied = 0_usize;
    for slice in slices {
        let rest = bytes.get_mut(copied..).unwrap_or_default();
        copied = copied.saturating_add(slice.copy_to(rest));
    }
    copied
}

/// Copies `bytes` to the start of a row of slices, as far as it reaches; returns how many were copied.
pub fn copy_in(slices: &[VolatileSlice<'_>], bytes: &[u8]) -> usize {
    let mut copied = 0_usize;
    for slice in slices {
        let rest = bytes.get(copied..).unwrap_or_default();
        slice.copy_from(rest);
        copied = copied.saturating_add(rest.len().min(slice.len()));
    }
    copied
}

/// The slices as the kernel takes them; those beyond what one call takes are left out.
fn iovecs(slices: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    let iovec = |slice: &VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    slices.iter().take(MAX_SLICES).map(iovec).collect()
}

/// The number of elements, which [`iovecs`] keeps small.
fn count(row: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(row.len()).unwrap_or(0)
}

fn header(row: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: All zeros is a valid `msghdr`: it has integers and pointers only.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = row.as_mut_ptr();
    message.msg_iovlen = row.len();
    message
}

fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        let result = call();
        if let Ok(length) = usize::try_from(result) {
            return Ok(length);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_part_of_a_row_is_cut_anywhere() {
        let (mut a, mut b) = (*b"abc", *b"defg");
        let row = [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..])];
        for start in 0..9 {
            for length in 0..9 {
                let mut got = [0; 9];
                let copied = copy_out(&part(&row, start, length), &mut got);
                let want = b"abcdefg".get(start..).unwrap_or_default();
                assert_eq!(got[..copied], want[..length.min(want.len())]);
            }
        }
    }

    #[test]
    fn streams_are_read_and_written_in_place() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut a, mut b) = (*b"hello ", *b"world");
        let row = [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..])];
        assert_eq!(send(one.as_fd(), &row).unwrap(), 11);
        let (mut c, mut d) = ([0; 2], [0; 20]);
        let row = [VolatileSlice::from(&mut c[..]), VolatileSlice::from(&mut d[..])];
        assert_eq!(receive(other.as_fd(), &row).unwrap(), 11);
        assert_eq!(receive(other.as_fd(), &row).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert_eq!(receive(other.as_fd(), &row).unwrap(), 0);
        assert_eq!(send(other.as_fd(), &row).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!((&c, &d[..9]), (b"he", &b"llo world"[..]));
    }
}
