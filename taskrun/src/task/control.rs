//! The socket of a task's supervisor: how other taskrun processes ask it to stop, and learn of its end.
//!
//! `tasks/ID/control` is an `AF_UNIX` stream socket that only its owner reaches. A request is a line of JSON
//! ([`Request`]); the supervisor answers `{"ok":true}` when it has taken it. It closes its connections when the task is in
//! the ledger with its end, by ending: so who waits for a task waits for the end of its connection, and a supervisor that
//! was killed is noticed in the same way.
//!
//! Nobody else can connect, but a peer may still be broken: requests and peers are bounded, and none is waited for.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

/// The socket's name.
const NAME: &str = "control";

/// The longest request, in bytes.
const LONGEST: usize = 4096;

/// The most peers at once; more are turned away.
const PEERS: usize = 256;

/// The answer to a request.
const TAKEN: &[u8] = b"{\"ok\":true}\n";

/// What a supervisor can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Send the command its stop signal, and kill it when the time is over; without a time, after the task's own stop timeout.
    Stop {
        /// In milliseconds.
        timeout: Option<u64>,
    },
    /// Send the command this signal.
    Signal(i32),
}

/// The supervisor's end.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    peers: Vec<Peer>,
}

#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    input: Vec<u8>,
}

impl Control {
    /// Makes the socket in the task's folder.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn bind(folder: &Path) -> io::Result<Self> {
        let (_folder, short) = short(folder)?;
        let listener = UnixListener::bind(short)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: folder.join(NAME), peers: Vec::new() })
    }

    /// A connection for this process's own requests. See [`Connection::tell`].
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn connect(&mut self) -> io::Result<Connection> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        self.peers.push(Peer { stream: ours, input: Vec::new() });
        Ok(Connection(theirs))
    }

    /// What to wait for: requests are there when one is readable.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.peers.iter().map(|peer| peer.stream.as_fd()))
    }

    /// The requests that have come. Peers that are gone, or say what is none, are let go.
    pub fn requests(&mut self) -> Vec<Request> {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.peers.len() < PEERS && stream.set_nonblocking(true).is_ok() {
                self.peers.push(Peer { stream, input: Vec::new() });
            }
        }
        let mut requests = Vec::new();
        self.peers.retain_mut(|peer| peer.read(&mut requests).is_ok());
        requests
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A socket that stays refuses connections.
        let _ = fs::remove_file(&self.path);
    }
}

impl Peer {
    fn read(&mut self, requests: &mut Vec<Request>) -> io::Result<()> {
        let mut chunk = [0; LONGEST];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.input.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let rest = self.input.split_off(end.saturating_add(1));
                requests.push(serde_json::from_slice(&self.input)?);
                self.input = rest;
                self.stream.write_all(TAKEN)?;
            }
            if self.input.len() > LONGEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

/// A connection to a task's supervisor.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    /// Connects to the supervisor of the task in this folder; `None` when there is none.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn open(folder: &Path) -> io::Result<Option<Self>> {
        let stream = short(folder).and_then(|(_folder, short)| UnixStream::connect(short));
        match stream {
            Ok(stream) => Ok(Some(Self(stream))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks something. `false` when the supervisor ended first.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn ask(&mut self, request: &Request) -> io::Result<bool> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut answer = Vec::new();
        let asked = self.0.write_all(&line).and_then(|()| BufReader::new(&self.0).read_until(b'\n', &mut answer));
        match asked {
            Ok(_) => Ok(answer == TAKEN),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Says something, and doesn't wait until it is taken. `false` when the supervisor ended first.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn tell(&mut self, request: &Request) -> io::Result<bool> {
        // The answers to what was said before: the supervisor lets go of a peer that doesn't read them.
        self.0.set_nonblocking(true)?;
        while matches!(self.0.read(&mut [0; LONGEST]), Ok(length) if length > 0) {}
        self.0.set_nonblocking(false)?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        match self.0.write_all(&line) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for the supervisor's end, at most so long; `false` when the time was over first.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn wait_for_end(&self, limit: Option<Duration>) -> io::Result<bool> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            let timeout = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
                None => PollTimeout::NONE,
                Some(None) => return Ok(false),
                Some(Some(left)) => {
                    PollTimeout::try_from(left.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX)
                }
            };
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                result => result?,
            };
            match (&self.0).read(&mut [0; 64]) {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Connection {
    /// Readable at the supervisor's end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A name for the socket that fits into a socket's address (108 bytes) wherever the folder is, as long as the file is open.
fn short(folder: &Path) -> io::Result<(File, PathBuf)> {
    let open = File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{NAME}", open.as_raw_fd());
    Ok((open, path.into()))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Serves until a request has come.
    fn first(control: &mut Control) -> Request {
        loop {
            if let Some(request) = control.requests().pop() {
                return request;
            }
            let mut ready: Vec<_> = control.descriptors().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            poll(&mut ready, PollTimeout::NONE).unwrap();
        }
    }

    #[test]
    fn requests_are_taken_and_the_end_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a-long-name/".repeat(20));
        fs::create_dir_all(&folder).unwrap();
        assert!(Connection::open(&folder).unwrap().is_none());
        let mut control = Control::bind(&folder).unwrap();
        let mut connection = Connection::open(&folder).unwrap().unwrap();
        let request = Request::Stop { timeout: Some(1500) };
        thread::scope(|scope| {
            let asking = scope.spawn(|| connection.ask(&request).unwrap());
            assert_eq!(first(&mut control), request);
            assert!(asking.join().unwrap());
        });
        assert!(!connection.wait_for_end(Some(Duration::ZERO)).unwrap());
        drop(control);
        assert!(connection.wait_for_end(None).unwrap());
        assert!(!connection.ask(&Request::Signal(15)).unwrap());
        assert!(Connection::open(&folder).unwrap().is_none());
    }

    #[test]
    fn a_peer_that_talks_nonsense_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = Control::bind(folder.path()).unwrap();
        for nonsense in [b"what?\n".as_slice(), &[b'x'; LONGEST + 1]] {
            let connection = Connection::open(folder.path()).unwrap().unwrap();
            (&connection.0).write_all(nonsense).unwrap();
            assert!(control.requests().is_empty());
            assert!(control.peers.is_empty());
            assert!(connection.wait_for_end(None).unwrap());
        }
        // The folder of a supervisor that was killed has a socket that nobody serves.
        fs::rename(folder.path().join(NAME), folder.path().join("kept")).unwrap();
        drop(control);
        fs::rename(folder.path().join("kept"), folder.path().join(NAME)).unwrap();
        assert!(Connection::open(folder.path()).unwrap().is_none());
    }
}
