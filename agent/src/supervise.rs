//! The loop from the command's start to its end: its streams, its signals, its window, its exit.
//!
//! One thread waits in one place (`epoll`, edge-triggered, so that readiness costs no system call to ask for). The loop ends when
//! the command has ended and its output is delivered; nothing can keep the output open after the command, because the
//! kernel ends all processes of its PID namespace with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use protocol::message::{ExitHow, HostMessage};
use protocol::spec::WindowSize;

use crate::control::{Control, ControlError};
use crate::stdio::Relays;
use crate::stdio::relay::{Relay, Step};
use crate::sys::{self, Child};

/// The highest signal number.
const LAST_SIGNAL: i32 = 64;

/// Why a running command could not be watched any more.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The host is gone or talks nonsense.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The kernel refused.
    #[error("The command can't be watched")]
    System(#[from] io::Error),
}

impl From<Errno> for SuperviseError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// Signals that wait for the command's start: as in the kernel, each at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(u64);

impl SignalSet {
    /// Adds the signal `number`; a number that is no signal is ignored.
    pub fn add(&mut self, number: i32) {
        if (1..=LAST_SIGNAL).contains(&number) {
            self.0 |= 1_u64.wrapping_shl(number.unsigned_abs().wrapping_sub(1));
        }
    }

    /// The numbers, the smallest first.
    pub fn iter(self) -> impl Iterator<Item = i32> {
        (1..=LAST_SIGNAL).filter(move |number| self.0 & 1_u64.wrapping_shl(number.unsigned_abs().wrapping_sub(1)) != 0)
    }
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Control,
    Child,
    Source(usize),
    Sink(usize),
}

impl Subject {
    fn token(self) -> u64 {
        let relay = |index: usize, side| u64::try_from(index).unwrap_or(u64::MAX >> 2).wrapping_shl(2) | side;
        match self {
            Self::Control => 0,
            Self::Child => 1,
            Self::Source(index) => relay(index, 2),
            Self::Sink(index) => relay(index, 3),
        }
    }

    fn of(token: u64) -> Self {
        let index = usize::try_from(token.wrapping_shr(2)).unwrap_or(usize::MAX);
        match token & 3 {
            0 => Self::Control,
            1 => Self::Child,
            2 => Self::Source(index),
            _ => Self::Sink(index),
        }
    }
}

/// The command and everything that is connected to it.
#[derive(Debug)]
pub struct Supervisor<'a> {
    epoll: Epoll,
    control: &'a mut Control,
    child: &'a Child,
    terminal: Option<OwnedFd>,
    /// Standard input, where there is one, is the last.
    relays: Vec<Relay>,
    outputs: usize,
    exited: Option<ExitHow>,
}

impl<'a> Supervisor<'a> {
    /// Takes the command over.
    ///
    /// # Errors
    /// [`SuperviseError::System`]
    pub fn new(
        control: &'a mut Control,
        child: &'a Child,
        relays: Relays,
        terminal: Option<OwnedFd>,
    ) -> Result<Self, SuperviseError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watch = |fd: BorrowedFd<'_>, flags: EpollFlags, subject: Subject| {
            epoll.add(fd, EpollEvent::new(flags | EpollFlags::EPOLLET, subject.token()))
        };
        let input = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        watch(control.as_fd(), input, Subject::Control)?;
        watch(child.pidfd.as_fd(), EpollFlags::EPOLLIN, Subject::Child)?;
        let outputs = relays.outputs.len();
        let relays: Vec<Relay> = relays.outputs.into_iter().chain(relays.input).collect();
        for (index, relay) in relays.iter().enumerate() {
            relay.source().map_or(Ok(()), |source| watch(source.as_fd(), input, Subject::Source(index)))?;
            relay.sink().map_or(Ok(()), |sink| watch(sink.as_fd(), EpollFlags::EPOLLOUT, Subject::Sink(index)))?;
        }
        Ok(Self { epoll, control, child, terminal, relays, outputs, exited: None })
    }

    /// Sends the signals that came before the start.
    pub fn deliver(&self, signals: SignalSet) {
        signals.iter().for_each(|number| self.signal(number));
    }

    /// Serves the command until it has ended and its output is delivered.
    ///
    /// # Errors
    /// All of [`SuperviseError`]. The command may still run then; powering off ends it.
    pub fn run(mut self) -> Result<ExitHow, SuperviseError> {
        let mut events = [EpollEvent::empty(); 16];
        loop {
            let mut moved = false;
            for relay in &mut self.relays {
                moved |= relay.step() == Step::Moved;
            }
            self.hang_up_broken_terminal();
            if let Some(how) = self.exited.filter(|_| self.is_delivered()) {
                return Ok(how);
            }
            let timeout = if moved { EpollTimeout::ZERO } else { EpollTimeout::NONE };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in events.iter().take(count) {
                self.handle(Subject::of(event.data()), event.events())?;
            }
        }
    }

    fn handle(&mut self, subject: Subject, flags: EpollFlags) -> Result<(), SuperviseError> {
        match subject {
            Subject::Control => self.obey()?,
            Subject::Child => self.reap()?,
            Subject::Source(index) => self.relays.get_mut(index).map_or((), Relay::source_event),
            Subject::Sink(index) => self.relays.get_mut(index).map_or((), |relay| relay.sink_event(flags)),
        }
        Ok(())
    }

    fn obey(&mut self) -> Result<(), SuperviseError> {
        while let Some(message) = self.control.try_receive()? {
            match message {
                HostMessage::Signal(number) => self.signal(number),
                HostMessage::Resize(size) => self.resize(size),
                // There is one job to a guest.
                HostMessage::Attach(_) | HostMessage::Run(_) | HostMessage::Unpack(_) => {}
            }
        }
        Ok(())
    }

    fn signal(&self, number: i32) {
        if self.exited.is_none() && (1..=LAST_SIGNAL).contains(&number) {
            // It fails when the command has just ended: then it has nobody to reach.
            let _ = sys::send_signal(self.child, number);
        }
    }

    fn resize(&self, size: WindowSize) {
        if let Some(terminal) = &self.terminal {
            // A terminal that the command has closed has no size.
            let _ = sys::set_window_size(terminal, size.rows, size.columns);
        }
    }

    fn reap(&mut self) -> Result<(), SuperviseError> {
        if self.exited.is_none() {
            self.exited = Some(sys::wait(self.child)?);
            self.relays.iter_mut().skip(self.outputs).for_each(Relay::abandon);
        }
        Ok(())
    }

    fn is_delivered(&self) -> bool {
        self.relays.iter().take(self.outputs).all(Relay::is_done)
    }

    /// When nobody takes what the terminal prints, the session is hung up, as when a terminal window is closed.
    fn hang_up_broken_terminal(&mut self) {
        if self.terminal.is_some() && self.relays.iter().take(self.outputs).any(Relay::is_broken) {
            self.terminal = None;
            self.relays.iter_mut().for_each(Relay::abandon);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_signal_waits_once_and_no_number_but_a_signals_does() {
        let mut signals = SignalSet::default();
        for number in [15, 64, 15, 1, 0, -9, 65, i32::MAX, i32::MIN] {
            signals.add(number);
        }
        assert_eq!(signals.iter().collect::<Vec<_>>(), [1, 15, 64]);
    }

    proptest! {
        #[test]
        fn a_token_tells_its_subject(index in 0..1000_usize) {
            for subject in [Subject::Control, Subject::Child, Subject::Source(index), Subject::Sink(index)] {
                prop_assert_eq!(Subject::of(subject.token()), subject);
            }
        }
    }
}
