//! `taskrun logs`: what a detached task wrote, and with `--follow` what it goes on to write until it ends.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd as _;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{CommandError, Tasks};
use crate::cli::task_args::LogsArgs;
use crate::task::control::Connection;
use crate::task::log::reader::Reader;
use crate::task::log::{Entry, Stream};

/// `taskrun logs`. What went to standard error comes from standard error. Gives the exit code.
///
/// # Errors
/// [`CommandError`].
pub fn logs(args: &LogsArgs, out: &mut impl Write, err: &mut impl Write) -> Result<u8, CommandError> {
    let tasks = Tasks::open()?;
    let record = tasks.ledger.find(&args.task)?;
    if !record.detached {
        return Err(CommandError::NoLog(record.name.unwrap_or(record.id)));
    }
    let folder = tasks.folder(&record);
    let failed = |source| CommandError::Log { task: record.id.clone(), source };
    let mut printer = Printer { args, out, err, stream: Stream::Stdout, held: Vec::new() };
    // Before the first look at the log, so that nothing comes between it and the waiting.
    let watch = match args.follow.then(|| Watch::new(folder.path())).transpose() {
        // A task that was removed, or never ran, has nothing more to say.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        watch => watch.map_err(failed)?,
    };
    let mut reader = Reader::new(folder.path());
    match printed(printer.last_lines(&mut reader), failed)? {
        Flow::Stop => return Ok(0),
        Flow::Go => {}
    }
    // What comes now is behind that time.
    let over = args.until.is_some_and(|until| until <= Timestamp::now());
    let Some(watch) = watch.filter(|_| !over) else { return Ok(0) };
    loop {
        let ended = watch.wait().map_err(failed)?;
        if let Flow::Stop = printed(printer.lines(&mut reader), failed)? {
            return Ok(0);
        }
        if ended {
            return Ok(0);
        }
    }
}

/// Whether the reader of the output wants more.
enum Flow {
    Go,
    Stop,
}

/// Who closes the output has read enough.
fn printed(result: io::Result<()>, failed: impl Fn(io::Error) -> CommandError) -> Result<Flow, CommandError> {
    match result {
        Ok(()) => Ok(Flow::Go),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Flow::Stop),
        Err(error) => Err(failed(error)),
    }
}

/// How much is held back at most before it is printed.
const BUFFER: usize = 64 << 10;

struct Printer<'a, O, E> {
    args: &'a LogsArgs,
    out: &'a mut O,
    err: &'a mut E,
    /// What is held back, and where it goes: one write for many lines.
    held: Vec<u8>,
    stream: Stream,
}

impl<O: Write, E: Write> Printer<'_, O, E> {
    /// Prints what is there, at most the last lines that are wanted.
    fn last_lines(&mut self, reader: &mut Reader) -> io::Result<()> {
        let Some(count) = self.args.tail.0 else { return self.lines(reader) };
        let mut kept: VecDeque<Entry> = VecDeque::new();
        while let Some(entry) = reader.read()? {
            if kept.len() >= count {
                kept.pop_front();
            }
            if count > 0 {
                kept.push_back(entry);
            }
        }
        kept.iter().try_for_each(|entry| self.print(entry))?;
        self.flush()
    }

    /// Prints what is there.
    fn lines(&mut self, reader: &mut Reader) -> io::Result<()> {
        while let Some(entry) = reader.read()? {
            self.print(&entry)?;
        }
        self.flush()
    }

    fn print(&mut self, entry: &Entry) -> io::Result<()> {
        let before = self.args.since.is_some_and(|since| entry.time < since);
        let behind = self.args.until.is_some_and(|until| entry.time >= until);
        if before || behind {
            return Ok(());
        }
        // Both may end on one terminal, where their order counts.
        if entry.stream != self.stream || self.held.len() >= BUFFER {
            self.flush()?;
            self.stream = entry.stream;
        }
        if self.args.timestamps {
            write!(self.held, "{:.9} ", entry.time)?;
        }
        self.held.extend_from_slice(entry.log.as_bytes());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let out: &mut dyn Write = match self.stream {
            Stream::Stdout => self.out,
            Stream::Stderr => self.err,
        };
        out.write_all(&self.held)?;
        self.held.clear();
        out.flush()
    }
}

/// Waits for news in a task's folder.
struct Watch {
    changes: Inotify,
    /// At its end when the task is; `None` when that is over already.
    supervisor: Option<Connection>,
}

impl Watch {
    fn new(folder: &std::path::Path) -> io::Result<Self> {
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        changes.add_watch(folder, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
        Ok(Self { changes, supervisor: Connection::open(folder)? })
    }

    /// Waits. `true` when the task is over, so that there is nothing to come but what is there.
    fn wait(&self) -> io::Result<bool> {
        let Some(supervisor) = &self.supervisor else { return Ok(true) };
        let mut ready =
            [PollFd::new(self.changes.as_fd(), PollFlags::POLLIN), PollFd::new(supervisor.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok(false),
            result => result?,
        };
        let [changed, ended] = ready.map(|fd| fd.any().unwrap_or(true));
        if changed {
            match self.changes.read_events() {
                Ok(_) | Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ended)
    }
}
