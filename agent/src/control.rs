//! The control connection: messages to and from the runtime.
//!
//! The socket stays in blocking mode. Sending waits until the host takes the message; receiving waits
//! ([`Control::receive`]) or does not ([`Control::try_receive`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use protocol::frame::{self, Decoder, FrameError};
use protocol::message::{AgentMessage, HostMessage};

/// The most that is read at once.
const CHUNK: usize = 8 << 10;

/// How long the host may take to close its end after the last message, in milliseconds.
const GOODBYE: u16 = 5000;

/// Why the runtime could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The host closed the connection.
    #[error("The host closed the control connection")]
    Closed,
    /// A message was wrong.
    #[error("The host sent what is no message")]
    Frame(#[source] FrameError),
    /// The connection failed.
    #[error("The control connection failed")]
    Connection(#[source] io::Error),
}

/// The agent's end of the control connection.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    decoder: Decoder,
}

impl Control {
    /// Takes over a connected stream socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, decoder: Decoder::default() }
    }

    /// Sends `message`.
    ///
    /// # Errors
    /// [`ControlError::Connection`]
    pub fn send(&self, message: &AgentMessage) -> Result<(), ControlError> {
        let bytes = frame::encode(message).map_err(ControlError::Frame)?;
        send_all(self.socket.as_fd(), &bytes).map_err(|error| ControlError::Connection(error.into()))
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// All of [`ControlError`].
    pub fn receive(&mut self) -> Result<HostMessage, ControlError> {
        loop {
            if let Some(message) = self.next(MsgFlags::empty())? {
                return Ok(message);
            }
        }
    }

    /// The next message if one has arrived.
    ///
    /// # Errors
    /// All of [`ControlError`].
    pub fn try_receive(&mut self) -> Result<Option<HostMessage>, ControlError> {
        self.next(MsgFlags::MSG_DONTWAIT)
    }

    fn next(&mut self, flags: MsgFlags) -> Result<Option<HostMessage>, ControlError> {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(message) = self.decoder.next().map_err(ControlError::Frame)? {
                return Ok(Some(message));
            }
            match recv(self.socket.as_raw_fd(), &mut chunk, flags) {
                Ok(0) | Err(Errno::ECONNRESET) => return Err(ControlError::Closed),
                Ok(count) => self.decoder.extend(chunk.get(..count).unwrap_or_default()),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(ControlError::Connection(error.into())),
            }
        }
    }

    /// Says that nothing follows and waits until the host has closed its end too, so that what was sent is not lost when the
    /// guest is powered off.
    pub fn finish(self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        let mut rest = [0; CHUNK];
        loop {
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(GOODBYE)) {
                Ok(0) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            match recv(self.socket.as_raw_fd(), &mut rest, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return,
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Control, UnixStream) {
        let (agent, host) = UnixStream::pair().unwrap();
        (Control::new(agent.into()), host)
    }

    #[test]
    fn messages_arrive_in_order_and_then_the_end() {
        let (mut control, mut host) = pair();
        frame::write(&mut host, &HostMessage::Signal(15)).unwrap();
        frame::write(&mut host, &HostMessage::Signal(9)).unwrap();
        assert_eq!(control.receive().unwrap(), HostMessage::Signal(15));
        assert_eq!(control.try_receive().unwrap(), Some(HostMessage::Signal(9)));
        assert_eq!(control.try_receive().unwrap(), None);
        drop(host);
        assert!(matches!(control.try_receive(), Err(ControlError::Closed)));
    }

    #[test]
    fn half_a_message_is_not_a_message() {
        let (mut control, mut host) = pair();
        let bytes = frame::encode(&HostMessage::Signal(15)).unwrap();
        host.write_all(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(control.try_receive().unwrap(), None);
        host.write_all(&bytes[bytes.len() - 1..]).unwrap();
        assert_eq!(control.try_receive().unwrap(), Some(HostMessage::Signal(15)));
    }

    #[test]
    fn finish_says_the_end_and_waits_for_the_hosts() {
        let (control, mut host) = pair();
        control.send(&AgentMessage::Started).unwrap();
        let waiting = std::thread::spawn(move || control.finish());
        let mut received = Vec::new();
        host.read_to_end(&mut received).unwrap();
        assert_eq!(received, frame::encode(&AgentMessage::Started).unwrap());
        drop(host);
        waiting.join().unwrap();
    }
}
