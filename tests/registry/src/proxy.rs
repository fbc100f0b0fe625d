//! A proxy in front of a registry, with the faults that networks and registries have. It speaks enough HTTP/1.1 for
//! that: one request per connection.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// How long a request that has to come may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks after so many bytes of the body.
    Cut(usize),
    /// The answer is the whole body, whatever part was asked for.
    IgnoreRange,
    /// The answer ignores the range that was asked for, and breaks after so many bytes.
    IgnoreRangeAndCut(usize),
    /// A byte of the body is another one.
    Flip,
    /// The body has a byte too many.
    Long,
    /// An answer with this status and no body.
    Status(u16),
    /// After so many bytes of the body nothing comes until [`Proxy::release`].
    Stall(usize),
}

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`.
    pub method: String,
    /// The path, from `/v2/` on.
    pub path: String,
    /// The header `Range`.
    pub range: Option<String>,
    /// Whether there was a header `Authorization`.
    pub authorized: bool,
}

/// A running proxy. Its threads end with their connections; the one that listens ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    /// What goes wrong with paths that contain a text, and how often.
    faults: Vec<(String, Fault, usize)>,
    released: bool,
    ended: bool,
}

impl Proxy {
    /// Starts a proxy in front of the plain registry at `upstream`, `HOST:PORT`.
    #[must_use]
    pub fn start(upstream: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { upstream, state: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.state.lock().unwrap().ended {
                    break;
                }
                let shared = Arc::clone(&accepting);
                // A connection that breaks is what the tests want.
                thread::spawn(move || drop(shared.serve(client)));
            }
        });
        Self { address, shared }
    }

    /// Where it is, `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Lets `fault` happen to the next `times` requests (GET) for paths that contain `part`. Faults for the same path
    /// happen one after the other.
    pub fn fault(&self, part: &str, fault: Fault, times: usize) {
        self.shared.state.lock().unwrap().faults.push((part.into(), fault, times));
    }

    /// Lets the connections that stall end.
    pub fn release(&self) {
        self.shared.state.lock().unwrap().released = true;
        self.shared.changed.notify_all();
    }

    /// The requests so far for paths that contain `part`.
    #[must_use]
    pub fn requests(&self, part: &str) -> Vec<Request> {
        let state = self.shared.state.lock().unwrap();
        state.requests.iter().filter(|request| request.path.contains(part)).cloned().collect()
    }

    /// Waits until a request came for a path that contains `part`. Panics when none comes.
    pub fn wait_for(&self, part: &str) {
        let state = self.shared.state.lock().unwrap();
        let missing = |state: &mut State| !state.requests.iter().any(|request| request.path.contains(part));
        let (_state, waited) = self.shared.changed.wait_timeout_while(state, PATIENCE, missing).unwrap();
        assert!(!waited.timed_out(), "no request for {part}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().ended = true;
        self.release();
        // Wakes the thread that listens.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let head = head(&mut reader)?;
        let Some(request) = parse(&head) else {
            // Not HTTP: a client that tries TLS.
            return client.shutdown(Shutdown::Both);
        };
        let fault = self.note(&request);
        if let Some(Fault::Status(status)) = fault {
            let answer = format!("HTTP/1.1 {status} Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return (&client).write_all(answer.as_bytes());
        }
        let whole = matches!(fault, Some(Fault::IgnoreRange | Fault::IgnoreRangeAndCut(_)));
        let mut upstream = TcpStream::connect(&self.upstream)?;
        for line in &head {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if name != "connection" && !(whole && name == "range") {
                write!(upstream, "{line}\r\n")?;
            }
        }
        upstream.write_all(b"Connection: close\r\n\r\n")?;
        self.answer(BufReader::new(upstream), client, fault.as_ref())
    }

    /// Passes an answer on, with its fault.
    fn answer(&self, mut upstream: impl io::BufRead, mut client: TcpStream, fault: Option<&Fault>) -> io::Result<()> {
        let head = self::head(&mut upstream)?;
        for line in &head {
            match (line.split_once(':'), fault) {
                (Some((name, length)), Some(Fault::Long)) if name.eq_ignore_ascii_case("content-length") => {
                    let length: u64 = length.trim().parse().unwrap();
                    write!(client, "{name}: {}\r\n", length + 1)?;
                }
                _ => write!(client, "{line}\r\n")?,
            }
        }
        client.write_all(b"\r\n")?;
        let end = match fault {
            Some(Fault::Cut(end) | Fault::IgnoreRangeAndCut(end) | Fault::Stall(end)) => *end as u64,
            _ => u64::MAX,
        };
        if fault == Some(&Fault::Flip) {
            let mut byte = [0];
            upstream.read_exact(&mut byte)?;
            client.write_all(&[byte[0] ^ 1])?;
        }
        io::copy(&mut upstream.take(end), &mut client)?;
        match fault {
            Some(Fault::Long) => client.write_all(b"!")?,
            Some(Fault::Stall(_)) => {
                client.flush()?;
                let state = self.state.lock().unwrap();
                drop(self.changed.wait_while(state, |state| !state.released).unwrap());
            }
            _ => {}
        }
        client.shutdown(Shutdown::Both)
    }

    /// Writes the request down, and returns what goes wrong with it.
    fn note(&self, request: &Request) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        state.requests.push(request.clone());
        self.changed.notify_all();
        let meant = |(part, _, times): &&mut (String, Fault, usize)| {
            *times > 0 && request.method == "GET" && request.path.contains(part.as_str())
        };
        let (_, fault, times) = state.faults.iter_mut().find(meant)?;
        *times -= 1;
        Some(fault.clone())
    }
}

/// Reads the lines up to the empty one.
pub(crate) fn head(reader: &mut impl io::BufRead) -> io::Result<Vec<String>> {
    let mut head = Vec::new();
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(1 << 16).read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        // What isn't HTTP has no lines.
        if line.is_empty() || (head.is_empty() && !line.contains(" HTTP/1.") && !line.starts_with("HTTP/1.")) {
            return Ok(head);
        }
        head.push(line);
    }
}

/// Reads the head of a request.
pub(crate) fn parse(head: &[String]) -> Option<Request> {
    let mut words = head.first()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let header = |wanted: &str| {
        let mut headers = head.iter().filter_map(|line| line.split_once(':'));
        headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim().to_owned())
    };
    Some(Request { method, path, range: header("range"), authorized: header("authorization").is_some() })
}
