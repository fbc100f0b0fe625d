//! System calls that neither std nor nix offers in the form needed here, each behind a safe function.
//!
//! The calls that change a process's identity are made directly and not through libc, because libc passes them on to every
//! thread it knows, and a [`crate::companion::Companion`] shares that list with its parent.
#![expect(unsafe_code, reason = "the safe face of raw system calls")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::raw::{c_int, c_long, c_uint};

use nix::unistd::Pid;
use protocol::message::ExitHow;

/// A child process, not waited for yet.
#[derive(Debug)]
pub struct Child {
    /// Its process id here.
    pub pid: Pid,
    /// Becomes readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Waits for `child`, which has ended or is about to.
///
/// # Errors
/// Those of `waitpid(2)`.
pub fn wait(child: &Child) -> io::Result<ExitHow> {
    let mut status = 0;
    loop {
        // SAFETY: the call writes one int.
        match check(unsafe { libc::waitpid(child.pid.as_raw(), &raw mut status, 0) }.into()) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if libc::WIFSIGNALED(status) {
        return Ok(ExitHow::Signal(u8::try_from(libc::WTERMSIG(status)).unwrap_or(u8::MAX)));
    }
    Ok(ExitHow::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX)))
}

/// Sends the signal with this number to `child`.
///
/// # Errors
/// Those of `pidfd_send_signal(2)`.
pub fn send_signal(child: &Child, number: i32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes numbers and no structure.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, child.pidfd.as_raw_fd(), number, info, 0) }).map(drop)
}

/// Closes all descriptors from `first` on.
///
/// # Errors
/// Those of `close_range(2)`.
pub fn close_from(first: RawFd) -> io::Result<()> {
    let first = c_uint::try_from(first).map_err(io::Error::other)?;
    // SAFETY: only used in a companion with a descriptor table of its own, whose later code owns none of them.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) }).map(drop)
}

/// Makes `target` (0, 1 or 2) a copy of `fd` that survives `execve`.
///
/// # Errors
/// Those of `dup2(2)`.
pub fn duplicate_onto(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: the standard streams are owned by nobody in this program.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into()).map(drop)
}

/// Sets the groups, the group id and the user id of this process, in this order.
///
/// # Errors
/// Those of `setgroups(2)`, `setresgid(2)` and `setresuid(2)`.
pub fn set_identity(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the count describe `groups`; the other calls take numbers only.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Takes `capability` out of the bounding set. `Ok(false)`: this kernel does not know that capability.
///
/// # Errors
/// Those of `PR_CAPBSET_DROP`.
pub fn drop_bounding(capability: u32) -> io::Result<bool> {
    // SAFETY: takes numbers only.
    match check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes `set` the effective and permitted capabilities of this process and empties the inheritable ones.
///
/// # Errors
/// Those of `capset(2)`.
pub fn set_capabilities(set: u64) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities, in two halves.
    const VERSION: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    struct Half {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let half = |bits: u64| {
        let bits = u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
        Half { effective: bits, permitted: bits, inheritable: 0 }
    };
    let mut header = Header { version: VERSION, pid: 0 };
    let halves = [half(set), half(set >> 32)];
    // SAFETY: both pointers are to structures of the layout that version 3 asks for.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) }).map(drop)
}

/// Takes back a `SIG_IGN` that `execve` would pass on, ours and those that nohup(1) and shells leave, and unblocks all signals.
pub fn reset_signals() {
    // SAFETY: SIG_DFL runs no code of ours; the empty set is initialised before it is used.
    unsafe {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Makes a write to a closed pipe an error, as std's own start-up code does.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Unlocks the terminal of `master` and opens it, without making it the controlling one.
///
/// # Errors
/// Those of `TIOCSPTLCK` and `TIOCGPTPEER`.
pub fn open_terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlocked: c_int = 0;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the first call reads one int, the second takes a number and returns a new descriptor.
    unsafe {
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked).into())?;
        let peer = libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags);
        check(peer.into())?;
        Ok(OwnedFd::from_raw_fd(peer))
    }
}

/// Sets the size of a terminal.
///
/// # Errors
/// Those of `TIOCSWINSZ`.
pub fn set_window_size(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into()).map(drop)
}

/// Makes standard input the controlling terminal of this session.
///
/// # Errors
/// Those of `TIOCSCTTY`.
pub fn take_controlling_terminal() -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Adds `seed` to the kernel's randomness behind `generator` (`/dev/urandom`), and counts all its bits.
///
/// # Errors
/// Those of `RNDADDENTROPY`.
pub fn credit_entropy(generator: BorrowedFd<'_>, seed: &[u8; 32]) -> io::Result<()> {
    /// `struct rand_pool_info`, whose buffer is of any length.
    #[repr(C)]
    struct PoolInfo {
        entropy_count: c_int,
        buf_size: c_int,
        buf: [u8; 32],
    }
    /// `_IOW('R', 0x03, int[2])`
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    let info = PoolInfo { entropy_count: 256, buf_size: 32, buf: *seed };
    // SAFETY: the call reads the two numbers and as many bytes of the buffer as the second one says.
    check(unsafe { libc::ioctl(generator.as_raw_fd(), RNDADDENTROPY, &raw const info) }.into()).map(drop)
}

/// Has the kernel's generator behind `generator` make its keys anew, at once, from all the randomness that it has.
///
/// # Errors
/// Those of `RNDRESEEDCRNG`.
pub fn reseed_generator(generator: BorrowedFd<'_>) -> io::Result<()> {
    /// `_IO('R', 0x07)`
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    // SAFETY: takes numbers only.
    check(unsafe { libc::ioctl(generator.as_raw_fd(), RNDRESEEDCRNG) }.into()).map(drop)
}

/// Has the kernel forget what it has read of a block device.
///
/// # Errors
/// Those of `BLKFLSBUF`.
pub fn forget_cached(device: BorrowedFd<'_>) -> io::Result<()> {
    /// `_IO(0x12, 97)`
    const BLKFLSBUF: libc::Ioctl = 0x1261;
    // SAFETY: takes numbers only.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF, 0) }.into()).map(drop)
}

/// Has all of this program's pages in memory and mapped, so that no guest that starts from this one faults for them again.
pub fn touch_own_memory() {
    // SAFETY: the calls change where pages are and nothing in them. Without memory to lock, the faults come later.
    unsafe {
        libc::mlockall(libc::MCL_CURRENT);
        libc::munlockall();
    }
}

/// Brings the loopback interface up.
///
/// # Errors
/// Those of `socket(2)` and `SIOCSIFFLAGS`.
pub fn raise_loopback() -> io::Result<()> {
    // SAFETY: a new descriptor that nothing else owns.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(fd.into())?;
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: an ifreq of zeros is valid; the call reads the name and the flags of it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = i8::try_from(*from).unwrap_or_default();
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into()).map(drop)
    }
}

/// Lets a connect on the vsock `socket` take up to `seconds`; Linux gives it 2 otherwise.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn set_vsock_connect_timeout(socket: BorrowedFd<'_>, seconds: i64) -> io::Result<()> {
    /// `SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD` of `linux/vm_sockets.h`; the one for a 64-bit `timeval`.
    const CONNECT_TIMEOUT: c_int = 6;
    let timeout = libc::timeval { tv_sec: seconds, tv_usec: 0 };
    let size = libc::socklen_t::try_from(size_of_val(&timeout)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the size describe `timeout`.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::AF_VSOCK, CONNECT_TIMEOUT, (&raw const timeout).cast(), size)
    };
    check(result.into()).map(drop)
}

/// Sends `bytes` on the socket with this number without waiting. For a panic, when nothing can be borrowed any more.
///
/// # Errors
/// Those of `send(2)`.
pub fn send_to(socket: RawFd, bytes: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the pointer and the length describe `bytes`; a number that is no socket is an error.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) };
    if usize::try_from(sent) == Ok(bytes.len()) { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
