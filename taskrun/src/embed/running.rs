//! A task that was started.

use std::io::{self, PipeReader, PipeWriter, Read as _};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::TaskError;
use crate::errors::EXIT_TASKRUN_FAILED;
use crate::ledger::{DesiredStatus, Ledger, LedgerError, Record, StopCode};
use crate::run::life;
use crate::task::control::{Connection, Request};

/// SIGKILL.
const KILL: i32 = 9;

/// How a task ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The task's id.
    pub id: String,
    /// The command's exit code; 128 and a signal's number when that ended it; 125 when the task could not be run, 126 or 127 when its
    /// command could not.
    pub exit_code: u8,
    /// Who or what ended it.
    pub stop_code: StopCode,
    /// Why it ended, as one sentence.
    pub reason: String,
    /// The same where the exit code doesn't say it all: that it ran out of memory, that its image can't be pulled.
    pub message: Option<String>,
    /// What the ledger has of it: sizes, times, what is billed and what was used. `None` when the ledger couldn't be written.
    pub record: Option<Record>,
}

impl From<life::Ended> for Ended {
    fn from(ended: life::Ended) -> Self {
        let life::Ended { id, exit_code, stop_code, reason, sentence, record } = ended;
        Self { id, exit_code, stop_code, reason, message: sentence, record }
    }
}

/// How a task ended and what it wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// Asks for a task's end, from any thread.
#[derive(Clone, Debug)]
pub struct TaskHandle {
    id: Arc<str>,
    home: Arc<PathBuf>,
    requests: Arc<Mutex<Connection>>,
}

impl TaskHandle {
    /// The task's id: 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Asks the task to stop: its command gets the stop signal of its image, and SIGKILL after this time; without a time, after the task's
    /// stop timeout. Doesn't wait for that. Of a task that has ended nothing is asked.
    ///
    /// # Errors
    /// [`TaskError::Ledger`] and [`TaskError::Ask`].
    pub fn stop(&self, timeout: Option<Duration>) -> Result<(), TaskError> {
        let timeout = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self.ask(&Request::Stop { timeout })
    }

    /// Sends the task's command this signal, a number of Linux's; 9 kills it. Of a task that has ended nothing is asked.
    ///
    /// # Errors
    /// [`TaskError::Ledger`] and [`TaskError::Ask`].
    pub fn kill(&self, signal: i32) -> Result<(), TaskError> {
        self.ask(&Request::Signal(signal))
    }

    fn ask(&self, request: &Request) -> Result<(), TaskError> {
        if matches!(request, Request::Stop { .. } | Request::Signal(KILL)) {
            match Ledger::open(&self.home)?.desire(&self.id, DesiredStatus::Stopped) {
                Err(LedgerError::NotOpen { .. }) => return Ok(()),
                result => result?,
            }
        }
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.tell(request).map(|_| ()).map_err(TaskError::Ask)
    }
}

/// A task that was started. When this is dropped the task runs on, until it ends or this process does.
#[derive(Debug)]
pub struct RunningTask {
    /// What the command reads, where that was [piped](crate::Stdio::piped). Its input ends when this is dropped.
    pub stdin: Option<PipeWriter>,
    /// What the command writes, where that was piped.
    pub stdout: Option<PipeReader>,
    /// What the command writes to standard error, where that was piped.
    pub stderr: Option<PipeReader>,
    handle: TaskHandle,
    end: Receiver<Ended>,
    ended: Option<Ended>,
}

impl RunningTask {
    pub(super) fn new(id: String, home: PathBuf, requests: Connection, end: Receiver<Ended>) -> Self {
        let handle = TaskHandle { id: id.into(), home: Arc::new(home), requests: Arc::new(Mutex::new(requests)) };
        Self { stdin: None, stdout: None, stderr: None, handle, end, ended: None }
    }

    /// The task's id: 32 hexadecimal digits, by which `taskrun inspect` and the others know it too.
    #[must_use]
    pub fn id(&self) -> &str {
        self.handle.id()
    }

    /// What other threads ask for its end by.
    #[must_use]
    pub fn handle(&self) -> TaskHandle {
        self.handle.clone()
    }

    /// Asks it to stop, see [`TaskHandle::stop`].
    ///
    /// # Errors
    /// As there.
    pub fn stop(&self, timeout: Option<Duration>) -> Result<(), TaskError> {
        self.handle.stop(timeout)
    }

    /// Sends its command a signal, see [`TaskHandle::kill`].
    ///
    /// # Errors
    /// As there.
    pub fn kill(&self, signal: i32) -> Result<(), TaskError> {
        self.handle.kill(signal)
    }

    /// Waits until it has ended and the ledger has its end. Ends its input first, so that a command that reads it to its end
    /// ends; but output that is piped must be read by somebody.
    pub fn wait(&mut self) -> Ended {
        self.stdin = None;
        let ended = self.ended.take().or_else(|| self.end.recv().ok()).unwrap_or_else(|| self.lost());
        self.ended.insert(ended).clone()
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<Ended> {
        if self.ended.is_none() {
            self.ended = match self.end.try_recv() {
                Ok(ended) => Some(ended),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(self.lost()),
            };
        }
        self.ended.clone()
    }

    /// Waits until it has ended, and collects what is piped meanwhile.
    ///
    /// # Errors
    /// Those of reading.
    pub fn wait_with_output(mut self) -> io::Result<Output> {
        self.stdin = None;
        let read = |pipe: Option<PipeReader>| {
            let mut bytes = Vec::new();
            pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes)).map(|_| bytes)
        };
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let (stdout, stderr) = thread::scope(|scope| {
            let stderr = scope.spawn(move || read(stderr));
            // A panic of that thread is a bug of ours, and goes on as one.
            (read(stdout), stderr.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        Ok(Output { ended: self.wait(), stdout: stdout?, stderr: stderr? })
    }

    /// The end of a task whose thread panicked. The ledger has it as running until this process ends.
    fn lost(&self) -> Ended {
        Ended {
            id: self.id().to_owned(),
            exit_code: EXIT_TASKRUN_FAILED,
            stop_code: StopCode::EssentialContainerExited,
            reason: "The task's thread panicked".to_owned(),
            message: Some("The task's thread panicked".to_owned()),
            record: None,
        }
    }
}

/// The two ends of what tells how a task ended.
pub(super) fn end() -> (mpsc::Sender<Ended>, Receiver<Ended>) {
    mpsc::channel()
}
