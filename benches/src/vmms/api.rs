//! Requests to a VMM's API: HTTP with JSON over a Unix socket, one request at a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;
use tempfile::TempDir;

/// A VMM that hasn't opened its socket by then never will.
const LIMIT: Duration = Duration::from_secs(60);

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: u64 = 1 << 20;

/// A folder in which a VMM is going to make its socket.
#[derive(Debug)]
pub struct SocketFolder {
    folder: TempDir,
    changes: Inotify,
}

impl SocketFolder {
    /// A new folder.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("A folder for a VMM's socket can't be made")?;
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        changes.add_watch(folder.path(), AddWatchFlags::IN_CREATE)?;
        Ok(Self { folder, changes })
    }

    /// Where the socket is to be.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.socket")
    }

    /// Connects as soon as the VMM listens.
    pub fn connect(&self) -> Result<Api> {
        loop {
            match UnixStream::connect(self.socket()) {
                Ok(stream) => return Ok(Api::new(stream)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.wait_for_a_file()?,
                // It is there, and the VMM is about to listen.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => thread::yield_now(),
                Err(error) => return Err(error).context("The VMM's socket can't be used"),
            }
        }
    }

    fn wait_for_a_file(&self) -> Result<()> {
        let mut changed = [PollFd::new(self.changes.as_fd(), PollFlags::POLLIN)];
        if poll(&mut changed, PollTimeout::try_from(LIMIT)?)? == 0 {
            bail!("The VMM opened no socket in {LIMIT:?}");
        }
        self.changes.read_events()?;
        Ok(())
    }
}

/// A connection to a VMM's API.
#[derive(Debug)]
pub struct Api(BufReader<UnixStream>);

impl Api {
    /// Talks over this stream.
    pub fn new(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// Makes a request that must succeed.
    pub fn put(&mut self, path: &str, body: &Value) -> Result<()> {
        self.request("PUT", path, body)
    }

    /// Makes a request that must succeed.
    pub fn patch(&mut self, path: &str, body: &Value) -> Result<()> {
        self.request("PATCH", path, body)
    }

    /// `Value::Null` is no body.
    fn request(&mut self, method: &str, path: &str, body: &Value) -> Result<()> {
        let what = || format!("{method} {path} failed");
        self.send(method, path, body).with_context(what)?;
        let (status, answer) = self.answer().with_context(what)?;
        if !(200..300).contains(&status) {
            bail!("{method} {path} was refused with {status}: {}", answer.trim());
        }
        Ok(())
    }

    fn send(&mut self, method: &str, path: &str, body: &Value) -> io::Result<()> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let request = format!("{head}{kind}Content-Length: {length}\r\n\r\n{body}");
        self.0.get_mut().write_all(request.as_bytes())
    }

    /// The status and the body of an answer.
    fn answer(&mut self) -> Result<(u16, String)> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.context("The VMM's answer isn't HTTP")?;
        let mut length = 0_u64;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().context("The VMM's answer has no length")?;
            }
        }
        if length > LONGEST_ANSWER {
            bail!("The VMM's answer is {length} bytes long");
        }
        let mut body = Vec::new();
        self.0.by_ref().take(length).read_to_end(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.0.by_ref().take(LONGEST_ANSWER).read_line(&mut line)? == 0 {
            bail!("The VMM closed the connection");
        }
        Ok(line.trim_end().to_owned())
    }
}

/// A VMM's API for tests, which remembers what it was asked.
#[cfg(test)]
pub mod fake {
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::sync::mpsc::{self, Receiver};

    use super::*;

    /// A request: method, path, and body, `Null` when there is none.
    pub type Request = (String, String, Value);

    /// Serves one connection. Every request is answered with this.
    pub fn serve(answer: &'static str) -> (Api, Receiver<Request>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || answer_all(theirs, answer, &sender));
        (Api::new(ours), requests)
    }

    /// The same at a path.
    pub fn listen(path: &Path, answer: &'static str) -> Receiver<Request> {
        let listener = UnixListener::bind(path).unwrap();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || answer_all(listener.accept().unwrap().0, answer, &sender));
        requests
    }

    fn answer_all(stream: UnixStream, answer: &str, sender: &mpsc::Sender<Request>) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = read(&mut stream) {
            let _ = sender.send(request);
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    }

    fn read(stream: &mut BufReader<UnixStream>) -> Option<Request> {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        Some((method, path, body))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_made_one_after_the_other_over_one_connection() {
        let (mut api, requests) = fake::serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        api.put("/one", &json!({"a": 1})).unwrap();
        api.patch("/two", &Value::Null).unwrap();
        drop(api);
        let requests: Vec<_> = requests.iter().collect();
        let expected = [("PUT", "/one", json!({"a": 1})), ("PATCH", "/two", Value::Null)];
        assert_eq!(requests, expected.map(|(method, path, body)| (method.to_owned(), path.to_owned(), body)));
    }

    #[test]
    fn a_refusal_is_an_error_with_the_vmms_words() {
        let (mut api, _requests) = fake::serve("HTTP/1.1 400 Bad Request\r\nContent-Length: 7\r\n\r\nno room");
        let error = api.put("/boot-source", &json!({})).unwrap_err();
        assert_eq!(error.to_string(), "PUT /boot-source was refused with 400: no room");
    }

    #[test]
    fn a_socket_is_found_when_it_comes() {
        let folder = SocketFolder::new().unwrap();
        let socket = folder.socket();
        let server = thread::spawn(move || fake::listen(&socket, "HTTP/1.1 204 No Content\r\n\r\n"));
        folder.connect().unwrap().put("/x", &Value::Null).unwrap();
        assert_eq!(server.join().unwrap().recv().unwrap().1, "/x");
    }
}
