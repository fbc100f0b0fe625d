//! What guests send to their serial ports: marks that say that they run.
//!
//! A thread reads them all, so that no VMM ever waits for room in a pipe, and keeps when the first came.

use std::io::Read;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The byte that `bench-init` sends.
pub const MARK: u8 = 0xa5;

/// After this long nothing is going to come any more, on any host.
const LIMIT: Duration = Duration::from_mins(5);

/// A guest's output.
#[derive(Debug)]
pub struct Output(Receiver<Instant>);

impl Output {
    /// Looks for a mark in what comes here, until its end.
    pub fn of_marks(from: impl Read + Send + 'static) -> Self {
        Self::watch(from, |bytes| bytes.contains(&MARK))
    }

    /// Takes anything that comes here for a sign.
    pub fn of_anything(from: impl Read + Send + 'static) -> Self {
        Self::watch(from, |_| true)
    }

    /// Waits in a thread for what isn't read from a stream.
    pub fn of_moment(wait: impl FnOnce() -> Option<Instant> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || wait().map(|moment| sender.send(moment)));
        Self(receiver)
    }

    fn watch(mut from: impl Read + Send + 'static, is_sign: fn(&[u8]) -> bool) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut waiting = true;
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let now = Instant::now();
                if waiting && is_sign(buffer.get(..length).unwrap_or_default()) {
                    waiting = false;
                    let _ = sender.send(now);
                }
            }
        });
        Self(receiver)
    }

    /// Waits for the first sign. `Err` when there was none until the end, or for very long.
    pub fn first(&self) -> Result<Instant> {
        match self.0.recv_timeout(LIMIT) {
            Ok(at) => Ok(at),
            Err(RecvTimeoutError::Disconnected) => bail!("The VMM ended before its guest came to its first program"),
            Err(RecvTimeoutError::Timeout) => bail!("The guest didn't come to its first program in {LIMIT:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};

    use super::*;

    #[test]
    fn a_mark_is_found_among_a_vmms_own_words_and_all_is_read() {
        let (reader, mut writer) = pipe().unwrap();
        let output = Output::of_marks(reader);
        let before = Instant::now();
        writer.write_all(b"Running Firecracker\n").unwrap();
        writer.write_all(&[b'x', MARK]).unwrap();
        assert!(output.first().unwrap() >= before);
        // More than a pipe holds.
        writer.write_all(&vec![MARK; 1 << 20]).unwrap();
    }

    #[test]
    fn an_end_without_a_mark_is_an_error() {
        let (reader, mut writer) = pipe().unwrap();
        let output = Output::of_marks(reader);
        writer.write_all(b"no such kernel\n").unwrap();
        drop(writer);
        assert!(output.first().unwrap_err().to_string().contains("ended before"));
    }
}
