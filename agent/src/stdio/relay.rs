//! One direction of a standard stream: bytes from one descriptor to another.
//!
//! Both descriptors are non-blocking and watched edge-triggered, so a relay remembers which of them is ready. It reads only when
//! everything it has read is written: it holds at most [`CAPACITY`] bytes, and who writes faster than the other side reads is made to
//! wait.
//!
//! ```text
//!           end of the source                     everything written
//! Flowing ─────────────────────▶ (buffer drained) ──────────────────▶ done: AtEnd is applied to the sink
//!    └── the sink is gone ─────────────────────────────────────────▶ done: both are closed
//! ```

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{read, write};

/// The most bytes that a relay holds: what a pipe holds.
const CAPACITY: usize = 64 << 10;

/// What the end of the source does to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// A pipe: closed, which is end of file to its reader.
    Close,
    /// A socket: no more is sent; it stays open so that what was sent is delivered.
    ShutDown,
    /// A terminal: nothing, as with Docker; what it prints has an end of its own.
    Nothing,
}

/// What a step of a relay did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes moved; there may be more.
    Moved,
    /// Nothing to do until a descriptor is ready.
    Waiting,
    /// It is over.
    Done,
}

/// A relay.
#[derive(Debug)]
pub struct Relay {
    source: Option<OwnedFd>,
    sink: Option<OwnedFd>,
    at_end: AtEnd,
    readable: bool,
    writable: bool,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Relay {
    /// A relay between two non-blocking descriptors.
    pub fn new(source: OwnedFd, sink: OwnedFd, at_end: AtEnd) -> Self {
        let buffer = vec![0; CAPACITY].into_boxed_slice();
        Self {
            source: Some(source),
            sink: Some(sink),
            at_end,
            readable: true,
            writable: true,
            buffer,
            start: 0,
            end: 0,
        }
    }

    /// The descriptor to watch for input, until the source's end.
    pub fn source(&self) -> Option<&OwnedFd> {
        self.source.as_ref()
    }

    /// The descriptor to watch for output.
    pub fn sink(&self) -> Option<&OwnedFd> {
        self.sink.as_ref()
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        self.source.is_none() && self.start == self.end
    }

    /// Whether it ended because nobody takes its bytes any more.
    pub fn is_broken(&self) -> bool {
        self.is_done() && self.sink.is_none() && self.at_end != AtEnd::Close
    }

    /// Notes an event of the source.
    pub fn source_event(&mut self) {
        self.readable = true;
    }

    /// Notes an event of the sink.
    pub fn sink_event(&mut self, flags: EpollFlags) {
        self.writable = true;
        // A terminal that nobody has open can be opened again.
        if self.at_end != AtEnd::Nothing && flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            self.abandon();
        }
    }

    /// Stops at once and closes both descriptors.
    pub fn abandon(&mut self) {
        self.source = None;
        self.sink = None;
        (self.start, self.end) = (0, 0);
    }

    /// Makes one read or one write.
    pub fn step(&mut self) -> Step {
        if self.start < self.end {
            return self.drain();
        }
        match &self.source {
            None => Step::Done,
            Some(_) if !self.readable => Step::Waiting,
            Some(source) => match read(source, &mut self.buffer) {
                Ok(0) => self.finish(),
                Ok(count) => {
                    (self.start, self.end) = (0, count);
                    Step::Moved
                }
                Err(Errno::EINTR) => Step::Moved,
                Err(Errno::EAGAIN) => {
                    self.readable = false;
                    Step::Waiting
                }
                // A terminal whose other end is closed says EIO; a connection may be reset. Nothing follows either.
                Err(_) => self.finish(),
            },
        }
    }

    fn drain(&mut self) -> Step {
        let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
        match &self.sink {
            Some(_) if !self.writable => Step::Waiting,
            Some(sink) => match write(sink, bytes) {
                Ok(count) => {
                    self.start = self.start.saturating_add(count);
                    Step::Moved
                }
                Err(Errno::EINTR) => Step::Moved,
                Err(Errno::EAGAIN) => {
                    self.writable = false;
                    Step::Waiting
                }
                Err(_) => {
                    self.abandon();
                    Step::Done
                }
            },
            None => Step::Done,
        }
    }

    /// The source has ended and everything is written.
    fn finish(&mut self) -> Step {
        self.source = None;
        match (self.at_end, &self.sink) {
            (AtEnd::Close, _) => self.sink = None,
            (AtEnd::ShutDown, Some(sink)) => {
                // It fails when the other side is gone, which is the same end.
                let _ = shutdown(sink.as_raw_fd(), Shutdown::Write);
            }
            (AtEnd::ShutDown, None) | (AtEnd::Nothing, _) => {}
        }
        Step::Done
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;

    fn nonblocking_pair() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours.into(), theirs)
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap()
    }

    fn run(relay: &mut Relay) -> Step {
        loop {
            match relay.step() {
                Step::Moved => {}
                step => return step,
            }
        }
    }

    #[test]
    fn bytes_pass_and_the_end_of_a_pipe_half_closes_the_socket() {
        let (reader, writer) = pipe();
        let (sink, mut host) = nonblocking_pair();
        let mut relay = Relay::new(reader, sink, AtEnd::ShutDown);
        write(&writer, b"hello").unwrap();
        assert_eq!(run(&mut relay), Step::Waiting);
        drop(writer);
        relay.source_event();
        assert_eq!(run(&mut relay), Step::Done);
        let mut received = Vec::new();
        host.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"hello");
        assert!(relay.is_done() && !relay.is_broken());
    }

    #[test]
    fn the_end_of_a_socket_closes_the_pipe() {
        let (reader, writer) = pipe();
        let (source, mut host) = nonblocking_pair();
        let mut relay = Relay::new(source, writer, AtEnd::Close);
        host.write_all(b"input").unwrap();
        host.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(run(&mut relay), Step::Done);
        let mut received = Vec::new();
        std::fs::File::from(reader).read_to_end(&mut received).unwrap();
        assert_eq!(received, b"input");
    }

    #[test]
    fn a_host_that_does_not_read_stops_the_writer() {
        let (reader, writer) = pipe();
        let (sink, _host) = nonblocking_pair();
        let mut relay = Relay::new(reader, sink, AtEnd::ShutDown);
        let chunk = vec![7; 64 << 10];
        let mut taken = 0;
        while let Ok(count) = write(&writer, &chunk) {
            taken += count;
            relay.source_event();
            run(&mut relay);
            assert!(taken < 8 << 20, "the relay took {taken} bytes that nobody reads");
        }
        assert_eq!(relay.step(), Step::Waiting);
        assert!(!relay.is_done());
    }

    #[test]
    fn a_slow_reader_gets_every_byte_in_order() {
        let (reader, writer) = pipe();
        let (sink, mut host) = nonblocking_pair();
        let mut relay = Relay::new(reader, sink, AtEnd::ShutDown);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut rest = sent.as_slice();
        let mut received = Vec::new();
        let mut part = vec![0; 10_007];
        while received.len() < sent.len() {
            if let Ok(count) = write(&writer, rest) {
                rest = &rest[count..];
            }
            relay.source_event();
            relay.sink_event(EpollFlags::EPOLLOUT);
            run(&mut relay);
            let count = host.read(&mut part).unwrap();
            received.extend_from_slice(&part[..count]);
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn a_host_that_is_gone_breaks_the_writers_pipe() {
        let (reader, writer) = pipe();
        let (sink, host) = nonblocking_pair();
        let mut relay = Relay::new(reader, sink, AtEnd::ShutDown);
        drop(host);
        write(&writer, b"lost").unwrap();
        assert_eq!(run(&mut relay), Step::Done);
        assert!(relay.is_broken());
        assert_eq!(write(&writer, b"more"), Err(Errno::EPIPE));
    }

    #[test]
    fn a_command_that_closes_its_input_closes_the_hosts() {
        let (reader, writer) = pipe();
        let (source, mut host) = nonblocking_pair();
        let mut relay = Relay::new(source, writer, AtEnd::Close);
        drop(reader);
        relay.sink_event(EpollFlags::EPOLLERR);
        assert!(relay.is_done());
        assert_eq!(host.read(&mut [0; 1]).unwrap(), 0);
    }
}
