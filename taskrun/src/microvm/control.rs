//! The control connection to the agent: frames of [`protocol::message`] over a stream that never blocks.
//!
//! The agent is a guest and hostile. It can make this side hold one unfinished frame, and by not reading it can make
//! this side hold the task and [`MAX_QUEUED`] bytes more; what comes on top is dropped.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use protocol::frame::{self, Decoder, FrameError};
use protocol::message::{AgentMessage, HostMessage};

/// How many bytes of signals and resizes wait for an agent that does not read.
const MAX_QUEUED: usize = 64 << 10;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Why the connection can't be used any more.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The agent broke the protocol.
    #[error("The agent in the guest sent what isn't a message")]
    Frame(#[from] FrameError),
    /// The stream failed.
    #[error("The connection to the agent failed")]
    Stream(#[source] io::Error),
}

/// The runtime's end of the connection.
#[derive(Debug)]
pub struct AgentConnection {
    stream: UnixStream,
    decoder: Decoder,
    outgoing: Vec<u8>,
    open: bool,
}

impl AgentConnection {
    /// Takes over the stream that the VMM joined to [`protocol::port::CONTROL`].
    ///
    /// # Errors
    /// [`ControlError::Stream`] when it can't be made non-blocking.
    pub fn new(stream: UnixStream) -> Result<Self, ControlError> {
        stream.set_nonblocking(true).map_err(ControlError::Stream)?;
        Ok(Self { stream, decoder: Decoder::default(), outgoing: Vec::new(), open: true })
    }

    /// Whether the agent may still say something.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Listens to the agent no more.
    pub fn close(&mut self) {
        self.open = false;
        // The agent waits for this before it powers the guest off.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Whether bytes wait until the stream can be written.
    #[must_use]
    pub fn has_outgoing(&self) -> bool {
        self.open && !self.outgoing.is_empty()
    }

    /// Sends the task. Waits for nothing; [`Self::flush`] goes on when the stream can be written.
    ///
    /// # Errors
    /// [`ControlError::Frame`] when the task is too long.
    pub fn send_task(&mut self, task: &HostMessage) -> Result<(), ControlError> {
        let bytes = frame::encode(task)?;
        self.outgoing.extend_from_slice(&bytes);
        self.flush()
    }

    /// Sends a signal or a resize, or drops it when the agent has not read for long.
    ///
    /// # Errors
    /// Those of [`Self::flush`].
    pub fn send(&mut self, message: &HostMessage) -> Result<(), ControlError> {
        let bytes = frame::encode(message)?;
        if self.outgoing.len().saturating_add(bytes.len()) <= frame::MAX_FRAME.saturating_add(MAX_QUEUED) {
            self.outgoing.extend_from_slice(&bytes);
        }
        self.flush()
    }

    /// Writes what waits, as far as the stream takes it. An agent that is gone takes everything.
    ///
    /// # Errors
    /// [`ControlError::Stream`].
    pub fn flush(&mut self) -> Result<(), ControlError> {
        while self.has_outgoing() {
            match self.stream.write(&self.outgoing) {
                Ok(written) => drop(self.outgoing.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_end(&error) => self.outgoing.clear(),
                Err(error) => return Err(ControlError::Stream(error)),
            }
        }
        Ok(())
    }

    /// Reads once and gives the messages that are whole now. At the end of the stream [`Self::is_open`] turns false; a
    /// message that was cut off there is lost, as the guest is.
    ///
    /// # Errors
    /// When the agent broke the protocol or the stream failed.
    pub fn receive(&mut self) -> Result<Vec<AgentMessage>, ControlError> {
        let mut chunk = vec![0; CHUNK];
        let length = match self.stream.read(&mut chunk) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(Vec::new());
            }
            Err(error) if is_end(&error) => 0,
            Err(error) => return Err(ControlError::Stream(error)),
        };
        if length == 0 {
            self.close();
        }
        self.decoder.extend(chunk.get(..length).unwrap_or_default());
        let mut messages = Vec::new();
        while let Some(message) = self.decoder.next()? {
            messages.push(message);
        }
        Ok(messages)
    }
}

impl AsFd for AgentConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Whether the error says only that the other side is gone.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use protocol::spec::TaskSpec;

    use super::*;

    fn pair() -> (AgentConnection, UnixStream) {
        let (ours, agents) = UnixStream::pair().unwrap();
        (AgentConnection::new(ours).unwrap(), agents)
    }

    #[test]
    fn messages_arrive_and_the_end_is_seen() {
        let (mut connection, mut agent) = pair();
        assert_eq!(connection.receive().unwrap(), []);
        frame::write(&mut agent, &AgentMessage::Started).unwrap();
        assert_eq!(connection.receive().unwrap(), [AgentMessage::Started]);
        assert!(connection.is_open());
        agent.shutdown(Shutdown::Write).unwrap();
        assert_eq!(connection.receive().unwrap(), []);
        assert!(!connection.is_open());
        assert_eq!(agent.read(&mut [0; 1]).unwrap(), 0, "the agent waits for this");
        connection.send(&HostMessage::Signal(15)).unwrap();
        assert!(!connection.has_outgoing());
    }

    #[test]
    fn an_agent_that_does_not_read_holds_a_bounded_queue() {
        let (mut connection, mut agent) = pair();
        let mut spec = TaskSpec::default();
        spec.process.env = vec![vec![b'x'; 3 << 20]];
        let task = HostMessage::Run(Box::new(spec));
        connection.send_task(&task).unwrap();
        assert!(connection.has_outgoing());
        for _ in 0..200_000 {
            connection.send(&HostMessage::Signal(10)).unwrap();
        }
        assert!(connection.outgoing.len() <= frame::MAX_FRAME + MAX_QUEUED);

        // What was queued still arrives whole.
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 4 << 20];
            let mut decoder = Decoder::default();
            loop {
                let length = agent.read(&mut bytes).unwrap();
                decoder.extend(&bytes[..length]);
                if let Some(message) = decoder.next::<HostMessage>().unwrap() {
                    return message;
                }
            }
        });
        while !reader.is_finished() {
            connection.flush().unwrap();
        }
        assert_eq!(reader.join().unwrap(), task);
    }

    #[test]
    fn what_is_no_message_ends_the_connection() {
        let (mut connection, mut agent) = pair();
        agent.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(connection.receive(), Err(ControlError::Frame(FrameError::TooLong { .. }))));
    }
}
