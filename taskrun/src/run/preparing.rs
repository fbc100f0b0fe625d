//! Getting a task's image, which can take as long as a registry wants, and be ended at any time.
//!
//! Pulling and unpacking run in a thread of their own, while signals and requests are read here. A task that is ended doesn't
//! wait for that thread. In `taskrun` it ends with the process, and with it the microVM that unpacks; in a program that runs
//! other tasks it goes on, and the image is there for the next task.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;

use super::RunError;
use super::deadlines::{Deadlines, after, passed};
use super::outcome::Outcome;
use super::request::RunRequest;
use super::signals::Signals;
use super::supervise::START;
use crate::image::{Images, Prepared};
use crate::task::control::{Control, Request};
use crate::timings::Timings;
use crate::voice::Voice;

/// What came of it.
#[derive(Debug)]
pub(super) enum Preparation {
    /// The image is there.
    Ready(Box<Prepared>),
    /// The task was ended.
    Ended(Outcome),
}

/// Who may end it.
pub(super) struct Enders<'a> {
    /// The signals of this process, where they are the task's.
    pub(super) signals: Option<&'a Signals>,
    /// Where other processes ask for the task's end.
    pub(super) control: &'a mut Control,
}

/// Gets the image, unless the task is ended first.
///
/// # Errors
/// [`RunError`].
pub(super) fn prepare(
    request: &RunRequest,
    home: &Path,
    voice: &Voice,
    mut enders: Enders<'_>,
    timings: &mut Timings,
) -> Result<Preparation, RunError> {
    let (image, home, voice, start) = (request.image.clone(), home.to_owned(), voice.clone(), timings.start_time());
    let (send, receive) = mpsc::channel();
    // Its end is what says that the thread has ended, in whatever way.
    let (done, doing) = io::pipe().map_err(RunError::Prepare)?;
    let get = move || {
        let mut timings = Timings::started_at(start);
        let prepared = Images::open_in(&home, voice).and_then(|images| images.prepare(&image, &mut timings));
        // Nobody waits for it where the task was ended.
        let _ = send.send((prepared, timings.into_reached()));
        drop(doing);
    };
    let thread = thread::Builder::new().name("image".to_owned()).spawn(get).map_err(RunError::Prepare)?;
    let limit = request.timeout.and_then(|timeout| after(timeout.saturating_add(START)));
    if let Some(outcome) = enders.wait(done.as_fd(), Deadlines { timeout: limit, ..Deadlines::default() })? {
        return Ok(Preparation::Ended(outcome));
    }
    let Ok((prepared, reached)) = receive.recv() else {
        // A panic of that thread is a bug of ours, and goes on as one.
        let panic = thread.join().err().unwrap_or_else(|| Box::new("the thread said nothing"));
        std::panic::resume_unwind(panic);
    };
    timings.take_over(reached);
    Ok(Preparation::Ready(Box::new(prepared?)))
}

impl Enders<'_> {
    /// Waits until `done` is at its end, or somebody ends the task.
    fn wait(&mut self, done: BorrowedFd<'_>, mut deadlines: Deadlines) -> Result<Option<Outcome>, RunError> {
        loop {
            let mut descriptors = vec![PollFd::new(done, PollFlags::POLLIN)];
            let signals = self.signals.iter().map(|signals| signals.as_fd());
            descriptors.extend(signals.chain(self.control.descriptors()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            match poll(&mut descriptors, deadlines.poll_timeout()) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(RunError::Prepare(error.into())),
            }
            let is_done = descriptors.first().and_then(PollFd::any).unwrap_or(false);
            drop(descriptors);
            if is_done {
                return Ok(None);
            }
            if let Some(signal) = self.ended_by()? {
                return Ok(Some(Outcome::Aborted(signal)));
            }
            if passed(&mut deadlines.timeout) {
                return Ok(Some(Outcome::TimedOut));
            }
        }
    }

    /// The signal that ends the task, if somebody has sent one. Others have nobody to reach yet.
    fn ended_by(&mut self) -> Result<Option<i32>, RunError> {
        while let Some(signal) = self.signals.map(Signals::next).transpose()?.flatten() {
            if ends(signal as i32) {
                return Ok(Some(signal as i32));
            }
        }
        let requests = self.control.requests().into_iter();
        Ok(requests
            .map(|request| match request {
                Request::Stop { .. } => Signal::SIGTERM as i32,
                Request::Signal(signal) => signal,
            })
            .find(|signal| ends(*signal)))
    }
}

/// Whether a signal ends what has not begun.
fn ends(signal: i32) -> bool {
    let ends = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGKILL];
    ends.iter().any(|end| *end as i32 == signal)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::task::control::Connection;

    fn wait(ask: Option<&Request>, deadlines: Deadlines, is_done: bool) -> Option<Outcome> {
        let folder = tempfile::tempdir().unwrap();
        let mut control = Control::bind(folder.path()).unwrap();
        let (done, doing) = io::pipe().unwrap();
        let mut connection = Connection::open(folder.path()).unwrap().unwrap();
        if let Some(request) = ask {
            connection.tell(request).unwrap();
        }
        let doing = (!is_done).then_some(doing);
        let ended = Enders { signals: None, control: &mut control }.wait(done.as_fd(), deadlines).unwrap();
        drop(doing);
        ended
    }

    #[test]
    fn a_stop_and_a_kill_end_it_and_other_signals_do_not() {
        let never = || Deadlines::default();
        let soon = || Deadlines { timeout: after(Duration::from_millis(100)), ..Deadlines::default() };
        assert_eq!(wait(Some(&Request::Stop { timeout: None }), never(), false), Some(Outcome::Aborted(15)));
        assert_eq!(wait(Some(&Request::Signal(9)), never(), false), Some(Outcome::Aborted(9)));
        assert_eq!(wait(Some(&Request::Signal(10)), soon(), false), Some(Outcome::TimedOut));
        assert_eq!(wait(None, never(), true), None);
    }
}
