//! The task's standard streams: threads that copy between the caller's descriptors and the VMM's channels.
//!
//! Nothing is buffered beyond one [`CHUNK`] a stream: a caller that stops reading stops the thread, then the VMM, then
//! the guest. A caller that closes its end closes the channel, so that the command's next write fails as in a pipe.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::task::log::writer::LogStream;
use crate::voice::Voice;

/// Bytes copied at once: enough that the number of system calls does not matter.
const CHUNK: usize = 256 << 10;

/// A stream can't be copied.
#[derive(Debug, thiserror::Error)]
#[error("The task's standard streams can't be set up")]
pub struct StdioError(#[from] io::Error);

impl From<Errno> for StdioError {
    fn from(error: Errno) -> Self {
        Self(error.into())
    }
}

/// The copying threads of a task.
#[derive(Debug)]
pub struct Streams {
    outputs: Vec<Arc<Progress>>,
    /// Bytes that were given to the command.
    input: Arc<AtomicU64>,
    /// Readable when an output has ended.
    ended: Arc<EventFd>,
    /// Readable when the input should end.
    stop_input: Arc<EventFd>,
    /// Hears of outputs that can't be written.
    voice: Voice,
}

/// How far an output is.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes written so far.
    bytes: AtomicU64,
    /// Whether the thread waits for the caller to take bytes.
    writing: AtomicBool,
    ended: AtomicBool,
}

impl Streams {
    /// No stream yet. `voice` is told of outputs that can't be written.
    ///
    /// # Errors
    /// [`StdioError`].
    pub fn new(voice: Voice) -> Result<Self, StdioError> {
        let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(Arc::new);
        Ok(Self { outputs: Vec::new(), input: Arc::default(), ended: event()?, stop_input: event()?, voice })
    }

    /// Starts to copy `channel` to `output` until one of them ends. `name` is for messages.
    ///
    /// # Errors
    /// [`StdioError`].
    pub fn add_output(&mut self, name: &'static str, channel: UnixStream, output: impl AsFd) -> Result<(), StdioError> {
        let output = File::from(output.as_fd().try_clone_to_owned()?);
        self.add(name, channel, Sink::File(output))
    }

    /// Starts to copy `channel` into a log until it ends. `name` is for messages.
    ///
    /// # Errors
    /// [`StdioError`].
    pub fn add_log(&mut self, name: &'static str, channel: UnixStream, log: LogStream) -> Result<(), StdioError> {
        self.add(name, channel, Sink::Log(log))
    }

    fn add(&mut self, name: &'static str, channel: UnixStream, mut output: Sink) -> Result<(), StdioError> {
        let (progress, ended) = (Arc::new(Progress::default()), Arc::clone(&self.ended));
        let voice = self.voice.clone();
        self.outputs.push(Arc::clone(&progress));
        let copy = move || {
            if let Err(error) = copy_output(&channel, &mut output, &progress)
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                let error = crate::errors::chain(&error);
                voice.say(&format!("The {name} of the task can't be written: {error}"));
            }
            // Closed before the end is told, so that the guest's writer is not left waiting.
            drop(channel);
            progress.ended.store(true, Ordering::Release);
            let _ = ended.write(1);
        };
        thread::Builder::new().name(name.to_owned()).spawn(copy)?;
        Ok(())
    }

    /// Starts to copy `input` to `channel` until one of them ends.
    ///
    /// # Errors
    /// [`StdioError`].
    pub fn add_input(&self, channel: UnixStream, input: impl AsFd) -> Result<(), StdioError> {
        let input = File::from(input.as_fd().try_clone_to_owned()?);
        let (stop, taken) = (Arc::clone(&self.stop_input), Arc::clone(&self.input));
        let copy = move || {
            // An input that can't be read ends, as it does for a command that reads it itself.
            let _ = copy_input(&input, &channel, &stop, &taken);
            let _ = channel.shutdown(Shutdown::Write);
        };
        thread::Builder::new().name("standard input".to_owned()).spawn(copy)?;
        Ok(())
    }

    /// Whether every output has ended and is written.
    #[must_use]
    pub fn outputs_ended(&self) -> bool {
        let _ = self.ended.read();
        self.outputs.iter().all(|output| output.ended.load(Ordering::Acquire))
    }

    /// Whether an output waits for the caller to take bytes.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.outputs.iter().any(|output| output.writing.load(Ordering::Relaxed))
    }

    /// How many bytes of output were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.counter().bytes()
    }

    /// Counts them also when the streams are gone.
    #[must_use]
    pub fn counter(&self) -> Counter {
        Counter { outputs: self.outputs.clone(), input: Arc::clone(&self.input) }
    }

    /// Readable after an output has ended, until [`Self::outputs_ended`] looks.
    #[must_use]
    pub fn event(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

/// Counts the bytes of a task's streams.
#[derive(Clone, Debug)]
pub struct Counter {
    outputs: Vec<Arc<Progress>>,
    input: Arc<AtomicU64>,
}

impl Counter {
    /// How many of input were given to the command.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.input.load(Ordering::Relaxed)
    }

    /// How many of output were written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(|output| output.bytes.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

impl Drop for Streams {
    /// Ends the input. An output ends when its channel does, or with the process when its caller does not read.
    fn drop(&mut self) {
        let _ = self.stop_input.write(1);
    }
}

/// Where an output goes.
#[derive(Debug)]
enum Sink {
    File(File),
    Log(LogStream),
}

impl Sink {
    /// Takes a part of `bytes`. Gives how many.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => write_some(&mut &*file, bytes),
            Self::Log(log) => log.take(bytes).map(|()| bytes.len()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::File(_) => Ok(()),
            Self::Log(log) => log.finish(),
        }
    }
}

fn copy_output(channel: &UnixStream, output: &mut Sink, progress: &Progress) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match { channel }.read(&mut chunk) {
            Ok(0) => return output.finish(),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The VMM is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return output.finish(),
            Err(error) => return Err(error),
        };
        progress.writing.store(true, Ordering::Relaxed);
        let mut rest = chunk.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let written = output.take(rest)?;
            progress.bytes.fetch_add(u64::try_from(written).unwrap_or(0), Ordering::Relaxed);
            rest = rest.get(written..).unwrap_or_default();
        }
        progress.writing.store(false, Ordering::Relaxed);
    }
}

/// Writes a part of `bytes`, and waits for that even where the descriptor does not block.
///
/// # Errors
/// Those of the descriptor.
pub fn write_some(output: &mut &File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(&mut [PollFd::new(output.as_fd(), PollFlags::POLLOUT)])?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn copy_input(mut input: &File, mut channel: &UnixStream, stop: &EventFd, taken: &AtomicU64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut ready = [
            PollFd::new(input.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            // Nothing is asked for: only the end of the channel is reported.
            PollFd::new(channel.as_fd(), PollFlags::empty()),
        ];
        wait(&mut ready)?;
        let [from, stopped, to] = ready.map(|fd| fd.any().unwrap_or(true));
        if stopped || to {
            return Ok(());
        }
        if !from {
            continue;
        }
        match input.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                channel.write_all(chunk.get(..length).unwrap_or_default())?;
                taken.fetch_add(u64::try_from(length).unwrap_or(0), Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait(descriptors: &mut [PollFd<'_>]) -> io::Result<()> {
    match poll(descriptors, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::pipe;

    use super::*;

    /// Waits until every output of `streams` has ended.
    fn finish(streams: &Streams) {
        while !streams.outputs_ended() {
            wait(&mut [PollFd::new(streams.event(), PollFlags::POLLIN)]).unwrap();
        }
    }

    #[test]
    fn output_arrives_whole_and_apart() {
        let (mut streams, bytes) = (Streams::new(Voice::stderr()).unwrap(), vec![7; 3 << 20]);
        let outputs: Vec<_> = ["standard output", "standard error"]
            .map(|name| {
                let (channel, mut guest) = UnixStream::pair().unwrap();
                let (mut reader, writer) = pipe().unwrap();
                streams.add_output(name, channel, &writer).unwrap();
                let sent = bytes.clone();
                let guest = thread::spawn(move || guest.write_all(&sent).unwrap());
                let reader = thread::spawn(move || {
                    let mut got = Vec::new();
                    reader.read_to_end(&mut got).unwrap();
                    got
                });
                drop(writer);
                (guest, reader)
            })
            .into_iter()
            .collect();
        for (guest, reader) in outputs {
            guest.join().unwrap();
            assert!(reader.join().unwrap() == bytes);
        }
        finish(&streams);
        assert_eq!(streams.written(), 6 << 20);
        assert!(!streams.is_held_up());
    }

    #[test]
    fn a_caller_that_closes_its_end_closes_the_guests() {
        let mut streams = Streams::new(Voice::stderr()).unwrap();
        let (channel, mut guest) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        streams.add_output("standard output", channel, &writer).unwrap();
        drop(reader);
        guest.write_all(b"x").unwrap();
        finish(&streams);
        assert_eq!(guest.write(b"y").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_caller_that_does_not_read_stops_the_guest() {
        let mut streams = Streams::new(Voice::stderr()).unwrap();
        let (channel, guest) = UnixStream::pair().unwrap();
        let (mut reader, writer) = pipe().unwrap();
        streams.add_output("standard output", channel, &writer).unwrap();
        guest.set_nonblocking(true).unwrap();
        // Until the sockets' buffers are full and stay so while the thread waits for the pipe.
        let mut sent: usize = 0;
        while !streams.is_held_up() || wait_writable(&guest) {
            sent += { &guest }.write(&[0; 4096]).unwrap_or(0);
        }
        assert!(sent < 8 << 20, "{sent} bytes went somewhere");
        drop(writer);
        drop(guest);
        let read = thread::spawn(move || io::copy(&mut reader, &mut io::sink()).unwrap());
        finish(&streams);
        drop(streams);
        assert_eq!(read.join().unwrap(), u64::try_from(sent).unwrap());
    }

    fn wait_writable(stream: &UnixStream) -> bool {
        let mut ready = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
        poll(&mut ready, PollTimeout::from(200_u16)).unwrap() > 0
    }

    #[test]
    fn output_to_a_descriptor_that_does_not_block_is_whole() {
        let mut streams = Streams::new(Voice::stderr()).unwrap();
        let (channel, mut guest) = UnixStream::pair().unwrap();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        streams.add_output("standard output", channel, &writer).unwrap();
        let guest = thread::spawn(move || guest.write_all(&vec![1; 2 << 20]).unwrap());
        let mut got = vec![0; 2 << 20];
        reader.read_exact(&mut got).unwrap();
        guest.join().unwrap();
        assert!(got.iter().all(|byte| *byte == 1));
    }

    #[test]
    fn input_arrives_whole_and_its_end_too() {
        let streams = Streams::new(Voice::stderr()).unwrap();
        let (channel, mut guest) = UnixStream::pair().unwrap();
        let (reader, mut writer) = pipe().unwrap();
        streams.add_input(channel, &reader).unwrap();
        let caller = thread::spawn(move || writer.write_all(&vec![3; 1 << 20]).unwrap());
        let mut got = Vec::new();
        guest.read_to_end(&mut got).unwrap();
        caller.join().unwrap();
        assert!(got == vec![3; 1 << 20]);
    }

    #[test]
    fn input_ends_with_the_task_and_takes_nothing_more() {
        let streams = Streams::new(Voice::stderr()).unwrap();
        let (channel, mut guest) = UnixStream::pair().unwrap();
        let (mut reader, mut writer) = pipe().unwrap();
        streams.add_input(channel, &reader).unwrap();
        drop(streams);
        assert_eq!(guest.read(&mut [0; 8]).unwrap(), 0);
        writer.write_all(b"rest").unwrap();
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "rest");
    }
}
