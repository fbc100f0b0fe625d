//! A server with fixed answers, for what the real registry does not do.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::proxy;

/// An answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers, `Name: value` each.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// What answers a request: its method and path, its head's lines and its body.
type Answers = dyn Fn(&str, &[String], &str) -> Answer + Send + Sync;

/// A running server.
#[derive(Debug)]
pub struct Stub {
    address: SocketAddr,
    ended: Arc<Mutex<bool>>,
}

impl Answer {
    /// An answer with a JSON document.
    #[must_use]
    pub fn json(status: u16, body: &str) -> Self {
        Self { status, headers: vec!["Content-Type: application/json".into()], body: body.into() }
    }
}

impl Stub {
    /// Starts a server that answers what `answers` says to the first line of a request, all its lines and its body.
    #[must_use]
    pub fn start(answers: impl Fn(&str, &[String], &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(Mutex::new(false));
        let (end, answers): (_, Arc<Answers>) = (Arc::clone(&ended), Arc::new(answers));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if *end.lock().unwrap() {
                    break;
                }
                let answers = Arc::clone(&answers);
                thread::spawn(move || drop(serve(&client, &*answers)));
            }
        });
        Self { address, ended }
    }

    /// Where it is, `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        *self.ended.lock().unwrap() = true;
        drop(TcpStream::connect(self.address));
    }
}

fn serve(mut client: &TcpStream, answers: &Answers) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let head = proxy::head(&mut reader)?;
    let Some(first) = head.first() else { return client.shutdown(std::net::Shutdown::Both) };
    let length = head.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse().ok() } else { None }
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let request = first.trim_end_matches(" HTTP/1.1");
    let Answer { status, headers, body } = answers(request, &head, &String::from_utf8_lossy(&body));
    write!(client, "HTTP/1.1 {status} Stub\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    for header in headers {
        write!(client, "{header}\r\n")?;
    }
    client.write_all(b"\r\n")?;
    client.write_all(&body)
}
