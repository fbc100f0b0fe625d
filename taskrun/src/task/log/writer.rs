//! Writing a task's log: lines are cut, stamped and put into the file that grows.
//!
//! Both outputs share one [`Log`] behind a lock, so that their order is that in which they were read. What has no line feed
//! yet is held back, at most [`LINE`](super::LINE) bytes for each output. All lines of what was read at once are written by one
//! system call, and have one time: a task that writes short lines would cost the host one for each.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::{LINE, Limits, Stream, numbers, path};

/// How much is collected at most before it is written.
const BUFFER: usize = 256 << 10;

/// The log of a task, open for writing.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    limits: Limits,
    number: u64,
    file: File,
    /// The size of the file, with what is collected for it.
    size: u64,
    /// Whole lines that are not written yet; empty while nobody writes.
    buffer: Vec<u8>,
}

/// An [`Entry`] that is written.
#[derive(Serialize)]
struct Line<'a> {
    log: &'a str,
    stream: Stream,
    time: Timestamp,
}

impl Log {
    /// Begins a new file behind those that are in `folder`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(folder: &Path, limits: Limits) -> io::Result<Self> {
        let number = numbers(folder)?.last().map_or(1, |last| last.saturating_add(1));
        let file = File::options().create_new(true).append(true).open(path(folder, number))?;
        Ok(Self { folder: folder.to_owned(), limits, number, file, size: 0, buffer: Vec::new() })
    }

    /// Adds a line to the file, or to the next one where it has no room.
    fn add(&mut self, line: &Line<'_>) -> io::Result<()> {
        let start = self.buffer.len();
        serde_json::to_writer(&mut self.buffer, line)?;
        self.buffer.push(b'\n');
        let length = u64::try_from(self.buffer.len().saturating_sub(start)).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length) > self.limits.file {
            let line = self.buffer.split_off(start);
            self.flush()?;
            self.rotate()?;
            self.buffer = line;
        }
        self.size = self.size.saturating_add(length);
        if self.buffer.len() < BUFFER { Ok(()) } else { self.flush() }
    }

    /// Writes what is collected. Where that fails it is lost, and not written again with what comes later.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let next = self.number.saturating_add(1);
        self.file = File::options().create_new(true).append(true).open(path(&self.folder, next))?;
        (self.number, self.size) = (next, 0);
        let kept = next.saturating_sub(u64::from(self.limits.files.max(1)));
        for number in numbers(&self.folder)?.into_iter().filter(|number| *number <= kept) {
            fs::remove_file(path(&self.folder, number))?;
        }
        Ok(())
    }
}

/// One output's way into the log.
#[derive(Debug)]
pub struct LogStream {
    log: Arc<Mutex<Log>>,
    stream: Stream,
    /// What came since the last line feed.
    held: Vec<u8>,
}

impl LogStream {
    /// The way of this output.
    #[must_use]
    pub fn new(log: &Arc<Mutex<Log>>, stream: Stream) -> Self {
        Self { log: Arc::clone(log), stream, held: Vec::new() }
    }

    /// Takes bytes that the task wrote. The lines among them are in the file when this returns.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let log = Arc::clone(&self.log);
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let time = Timestamp::now();
        while !bytes.is_empty() {
            let room = LINE.saturating_sub(self.held.len());
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n').map(|at| at.saturating_add(1));
            let (part, rest) = bytes.split_at_checked(end.unwrap_or(room)).unwrap_or((bytes, &[]));
            self.held.extend_from_slice(part);
            bytes = rest;
            if end.is_some() {
                self.add(&mut log, time, self.held.len())?;
            } else if self.held.len() >= LINE {
                // A character may go on in what has not come yet.
                self.add(&mut log, time, whole_characters(&self.held))?;
            }
        }
        log.flush()
    }

    /// Writes what is held back. To be called at the output's end.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let log = Arc::clone(&self.log);
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        self.add(&mut log, Timestamp::now(), self.held.len())?;
        log.flush()
    }

    /// Adds so many of the bytes that are held back as a line.
    fn add(&mut self, log: &mut Log, time: Timestamp, length: usize) -> io::Result<()> {
        let text = String::from_utf8_lossy(self.held.get(..length).unwrap_or(&self.held));
        let added = log.add(&Line { log: &text, stream: self.stream, time });
        self.held.drain(..length.min(self.held.len()));
        added
    }
}

/// How many of these bytes come before a character of UTF-8 that is cut off at the end; all where none is.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Entry;
    use super::*;

    fn log(limits: Limits) -> (tempfile::TempDir, Arc<Mutex<Log>>) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path(), limits).unwrap();
        (folder, Arc::new(Mutex::new(log)))
    }

    fn entries(folder: &Path) -> Vec<Entry> {
        let files =
            numbers(folder).unwrap().into_iter().map(|number| fs::read_to_string(path(folder, number)).unwrap());
        files
            .flat_map(|text| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn lines_are_kept_in_order_with_their_stream() {
        let (folder, log) = log(Limits::default());
        let (mut out, mut err) = (LogStream::new(&log, Stream::Stdout), LogStream::new(&log, Stream::Stderr));
        out.take(b"one\ntw").unwrap();
        err.take(b"oops\n").unwrap();
        out.take(b"o\nthree").unwrap();
        out.finish().unwrap();
        err.finish().unwrap();
        let entries = entries(folder.path());
        let seen: Vec<_> = entries.iter().map(|entry| (entry.log.as_str(), entry.stream)).collect();
        let expected = [("one\n", Stream::Stdout), ("oops\n", Stream::Stderr), ("two\n", Stream::Stdout)];
        assert_eq!(seen, [expected.as_slice(), &[("three", Stream::Stdout)]].concat());
        assert!(entries.is_sorted_by_key(|entry| entry.time));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let limits = Limits { file: 1000, files: 3 };
        let (folder, log) = log(limits);
        let mut out = LogStream::new(&log, Stream::Stdout);
        for line in 0..500 {
            out.take(format!("line {line}\n").as_bytes()).unwrap();
        }
        let numbers = numbers(folder.path()).unwrap();
        assert_eq!(numbers.len(), 3);
        assert!(numbers.iter().all(|number| fs::metadata(path(folder.path(), *number)).unwrap().len() <= 1000));
        assert_eq!(entries(folder.path()).last().unwrap().log, "line 499\n");
        // A new log goes on behind them.
        drop(Log::create(folder.path(), limits).unwrap());
        assert_eq!(super::numbers(folder.path()).unwrap().last(), Some(&(numbers[2] + 1)));
    }

    #[test]
    fn many_lines_at_once_are_parted_among_files_as_one_by_one() {
        let text: String = (0..500).map(|line| format!("line {line}\n")).collect();
        for piece in [text.len(), 7] {
            let (folder, log) = log(Limits { file: 1000, files: 1000 });
            let mut out = LogStream::new(&log, Stream::Stdout);
            text.as_bytes().chunks(piece).for_each(|bytes| out.take(bytes).unwrap());
            let written: String = entries(folder.path()).into_iter().map(|entry| entry.log).collect();
            assert_eq!(written, text);
            let numbers = numbers(folder.path()).unwrap();
            let size = |number: &u64| fs::metadata(path(folder.path(), *number)).unwrap().len();
            assert!(numbers.len() > 10 && numbers.iter().all(|number| size(number) <= 1000), "{numbers:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut_between_characters() {
        let (folder, log) = log(Limits::default());
        let mut out = LogStream::new(&log, Stream::Stdout);
        let text = format!("x{}", "ä".repeat(LINE));
        out.take(text.as_bytes()).unwrap();
        out.finish().unwrap();
        let entries = entries(folder.path());
        assert_eq!(entries.len(), 3);
        assert_eq!(entries.iter().map(|entry| entry.log.as_str()).collect::<String>(), text);
    }

    proptest! {
        // Each case writes files.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn no_text_is_lost(parts in prop::collection::vec("[a-zä\n]{0,9000}", 0..12)) {
            let (folder, log) = log(Limits { file: u64::MAX, files: 1 });
            let mut out = LogStream::new(&log, Stream::Stderr);
            parts.iter().for_each(|part| out.take(part.as_bytes()).unwrap());
            out.finish().unwrap();
            let written: String = entries(folder.path()).into_iter().map(|entry| entry.log).collect();
            prop_assert_eq!(written, parts.concat());
        }
    }
}
