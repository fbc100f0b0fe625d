//! `taskrun run --events FD`: a task's events as lines of JSON, written to a descriptor that the caller made.
//!
//! A thread writes, so that a reader that is slow, or stops, holds nobody up: at most [`WAITING`] lines wait for it, those
//! that come then are dropped, and a line of type `dropped` says how many when there is room again. The last line is never
//! dropped. At the end the reader has [`PATIENCE`] to go on reading. A reader that closed its end gets nothing more; the
//! task goes on.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Event, What};
use crate::inherited;
use crate::run::stdio::write_some;

/// How many lines wait for a slow reader.
const WAITING: usize = 1024;

/// How long the reader may take for one line at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// The descriptor can't take events.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// There is none, or it is a standard stream.
    #[error(
        "The descriptor {0} of --events is not open: start taskrun with a pipe there, such as 3>events (not 0, 1 or 2)"
    )]
    NotOpen(RawFd),
    /// It is for reading.
    #[error("The descriptor {0} of --events can't be written to")]
    NotWritable(RawFd),
    /// There is no thread for it.
    #[error("The thread that writes events can't be started")]
    Thread(#[source] io::Error),
}

/// Makes sure that events can be written to the descriptor, and takes nothing.
///
/// # Errors
/// [`LinesError`].
pub fn check(fd: RawFd) -> Result<(), LinesError> {
    match (inherited::is_open(fd), inherited::is_writable(fd)) {
        (false, _) => Err(LinesError::NotOpen(fd)),
        (true, false) => Err(LinesError::NotWritable(fd)),
        (true, true) => Ok(()),
    }
}

/// The lines on their way to the reader.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    /// Events for which there was no room, since the last line.
    dropped: u64,
    /// How many lines the reader has taken.
    taken: u64,
    /// Whether a line is being written.
    writing: bool,
    /// Whether the last line was among them.
    last: bool,
    /// Whether nobody reads any more, or has to.
    gone: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the last line is written, or the reader is gone.
    fn write(&self, mut file: &File) {
        loop {
            let nothing = |state: &mut State| state.waiting.is_empty();
            let mut state = self.changed.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
            let line = state.waiting.pop_front().unwrap_or_default();
            state.writing = true;
            drop(state);
            let written = write_all(&mut file, &line);
            let mut state = self.lock();
            state.writing = false;
            state.taken = state.taken.saturating_add(1);
            state.gone = written.is_err() || (state.last && state.waiting.is_empty());
            let gone = state.gone;
            drop(state);
            self.changed.notify_all();
            if gone {
                return;
            }
        }
    }
}

fn write_all(file: &mut &File, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        let written = write_some(file, line)?;
        line = line.get(written..).unwrap_or_default();
    }
    Ok(())
}

impl Lines {
    /// Takes the descriptor, and starts to write there.
    ///
    /// # Errors
    /// [`LinesError`].
    pub fn adopt(fd: RawFd) -> Result<Self, LinesError> {
        check(fd)?;
        inherited::adopt(fd).ok_or(LinesError::NotOpen(fd)).and_then(Self::to)
    }

    fn to(file: File) -> Result<Self, LinesError> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let write = move || theirs.write(&file);
        thread::Builder::new().name("events".into()).spawn(write).map_err(LinesError::Thread)?;
        Ok(Self(shared))
    }

    /// Has this event written. Doesn't wait.
    pub fn write(&self, event: &Event) {
        let last = matches!(event.what, What::Stopped(_) | What::Failed(_));
        let line = |value: serde_json::Value| format!("{value}\n").into_bytes();
        let mut state = self.0.lock();
        if state.gone {
            return;
        }
        if state.waiting.len() >= WAITING && !last {
            state.dropped = state.dropped.saturating_add(1);
            return;
        }
        if state.dropped > 0 {
            let count = std::mem::take(&mut state.dropped);
            let at = crate::task::view::time(Some(event.at));
            state.waiting.push_back(line(json!({ "type": "dropped", "task": event.task, "at": at, "count": count })));
        }
        state.waiting.push_back(line(event.to_json()));
        state.last = last;
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, as long as the reader reads.
    pub fn finish(&self) {
        let mut state = self.0.lock();
        let mut taken = state.taken;
        let mut deadline = Instant::now().checked_add(PATIENCE);
        while !state.gone && (state.writing || !state.waiting.is_empty()) {
            let left = deadline.and_then(|deadline| deadline.checked_duration_since(Instant::now()));
            let Some(left) = left else { return };
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            if state.taken != taken {
                taken = state.taken;
                deadline = Instant::now().checked_add(PATIENCE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::os::fd::OwnedFd;

    use serde_json::Value;

    use super::*;
    use crate::ledger::Status;

    fn lines() -> (Lines, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (Lines::to(File::from(OwnedFd::from(writer))).unwrap(), reader)
    }

    fn event(what: What) -> Event {
        Event { task: Some("7".repeat(32)), at: "2026-11-24T01:02:03.004Z".parse().unwrap(), what }
    }

    #[test]
    fn an_event_is_a_line() {
        let (lines, reader) = lines();
        lines.write(&event(What::Status(Status::Pending)));
        lines.write(&event(What::Warning("two\nlines".into())));
        lines.finish();
        let mut reader = BufReader::new(reader).lines();
        let mut next = || serde_json::from_str::<Value>(&reader.next().unwrap().unwrap()).unwrap();
        let expected =
            json!({"type": "status", "task": "7".repeat(32), "at": "2026-11-24T01:02:03.004Z", "status": "PENDING"});
        assert_eq!(next(), expected);
        assert_eq!(next()["text"], "two\nlines");
    }

    #[test]
    fn a_reader_that_stops_loses_lines_and_is_told_how_many() {
        let (lines, mut reader) = lines();
        let many = 5000;
        for number in 0..many {
            lines.write(&event(What::Warning(format!("{number:0>100}"))));
        }
        let begun = Instant::now();
        lines.finish();
        assert!(begun.elapsed() >= PATIENCE, "there is a reader to wait for");
        lines.write(&event(What::Failed("over".into())));
        // The thread ends behind the last line, and the descriptor with it.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let values: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (last, before) = values.split_last().unwrap();
        assert_eq!(last["type"], "failed");
        let dropped = before.last().unwrap();
        assert_eq!(dropped["type"], "dropped");
        assert_eq!(dropped["count"].as_u64().unwrap() + u64::try_from(before.len()).unwrap() - 1, many);
    }

    #[test]
    fn a_reader_that_closed_its_end_is_not_waited_for() {
        let (lines, reader) = lines();
        drop(reader);
        lines.write(&event(What::Status(Status::Pending)));
        let begun = Instant::now();
        lines.finish();
        lines.write(&event(What::Failed("over".into())));
        lines.finish();
        assert!(begun.elapsed() < PATIENCE);
    }

    #[test]
    fn a_descriptor_is_checked_before_it_is_taken() {
        use std::os::fd::AsRawFd as _;
        let (reader, writer) = io::pipe().unwrap();
        assert!(check(writer.as_raw_fd()).is_ok());
        assert!(matches!(check(reader.as_raw_fd()), Err(LinesError::NotWritable(_))));
        assert!(matches!(check(1), Err(LinesError::NotOpen(1))));
        assert!(matches!(Lines::adopt(1_000_000), Err(LinesError::NotOpen(_))));
    }
}
