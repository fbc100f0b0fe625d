//! Connections to the host.
//!
//! The host listens before the guest's first instruction, so a connect succeeds at once or never will.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

use crate::sys;

/// How long a connect may take, in seconds. Linux's own 2 are short for an emulated machine on a busy host.
const CONNECT_TIMEOUT: i64 = 30;

/// Where the agent finds the host's channels; the tests have another than vsock.
pub trait Host {
    /// Connects to the channel behind `port` (see [`protocol::port`]).
    ///
    /// # Errors
    /// Those of `connect(2)`; `ConnectionReset` when the host has no such channel.
    fn connect(&self, port: u32) -> io::Result<OwnedFd>;
}

/// The host of this guest.
#[derive(Clone, Copy, Debug)]
pub struct VsockHost;

impl Host for VsockHost {
    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        sys::set_vsock_connect_timeout(socket.as_fd(), CONNECT_TIMEOUT)?;
        connect(socket.as_raw_fd(), &VsockAddr::new(protocol::HOST_CID, port))?;
        Ok(socket)
    }
}
