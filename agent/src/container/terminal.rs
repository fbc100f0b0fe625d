//! The command's terminal: the first of the container's own `/dev/pts`, so that it is `/dev/pts/0` to the command.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use protocol::spec::WindowSize;

use crate::sys;

/// The path of the terminal in the container.
pub const PATH: &str = "/dev/pts/0";

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The agent's end, non-blocking.
    pub master: OwnedFd,
    /// The command's end.
    pub peer: OwnedFd,
}

impl Terminal {
    /// Opens a terminal of `size` in this process's mount namespace.
    ///
    /// # Errors
    /// Those of `open(2)` and the terminal's ioctls.
    pub fn open(size: WindowSize) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let master = open("/dev/pts/ptmx", flags, Mode::empty())?;
        let peer = sys::open_terminal_peer(master.as_fd())?;
        sys::set_window_size(&master, size.rows, size.columns)?;
        Ok(Self { master, peer })
    }
}
