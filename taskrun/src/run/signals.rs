//! The signals that taskrun passes on, read from a descriptor instead of interrupting it; and the names of signals.
//!
//! Invariant: the signals are blocked in every thread, since [`Signals::block`] runs before the first thread is
//! started. A VMM inherits that, so that what is sent to the whole process group, or to everything called taskrun,
//! reaches the task through its runtime alone.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that are read here.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Linux' first and last real-time signals as programs with glibc and musl see them.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The signals can't be read.
#[derive(Debug, thiserror::Error)]
#[error("Signals can't be received")]
pub struct SignalError(#[from] Errno);

/// The signals of this process.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks the signals and reads them from now on; for the rest of this process's life. SIGHUP stays ignored where
    /// the caller ignores it (`nohup`).
    ///
    /// # Errors
    /// [`SignalError`].
    pub fn block() -> Result<Self, SignalError> {
        let ignored = ignored_signals(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let set: SigSet = PASSED_ON
            .into_iter()
            .filter(|signal| *signal != Signal::SIGHUP || ignored & (1 << (*signal as i32 - 1)) == 0)
            .collect();
        set.thread_block()?;
        Ok(Self { descriptor: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)? })
    }

    /// The next signal that has arrived.
    ///
    /// # Errors
    /// [`SignalError`].
    pub fn next(&self) -> Result<Option<Signal>, SignalError> {
        loop {
            match self.descriptor.read_signal() {
                Ok(Some(info)) => {
                    let number = i32::try_from(info.ssi_signo).ok();
                    if let Some(signal) = number.and_then(|number| Signal::try_from(number).ok()) {
                        return Ok(Some(signal));
                    }
                }
                Ok(None) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The mask of ignored signals in the text of proc_pid_status(5).
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The Linux x86-64 number of a signal as an image names it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
#[must_use]
pub fn number(name: &str) -> Option<i32> {
    let name = name.trim().to_ascii_uppercase();
    if let Ok(number) = name.parse::<i32>() {
        return (1..=*REAL_TIME.end()).contains(&number).then_some(number);
    }
    let short = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = if let Some(offset) = short.strip_prefix("RTMIN") {
        Some(REAL_TIME.start().saturating_add(offset_of(offset, '+')?))
    } else if let Some(offset) = short.strip_prefix("RTMAX") {
        Some(REAL_TIME.end().saturating_sub(offset_of(offset, '-')?))
    } else {
        None
    };
    match real_time {
        Some(number) => REAL_TIME.contains(&number).then_some(number),
        None => format!("SIG{short}").parse::<Signal>().ok().map(|signal| signal as i32),
    }
}

/// The number behind `sign`, or 0 when there is nothing.
fn offset_of(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() { Some(0) } else { text.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (name, expected) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGQUIT", 3),
            ("SIGWINCH", 28),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        for name in ["", "0", "-1", "65", "SIG", "SIGNO", "SIGRTMIN+31", "SIGRTMIN-1", "SIGRTMIN+-1", "RTMAX-31", "15x"]
        {
            assert_eq!(number(name), None, "{name}");
        }
    }

    #[test]
    fn the_ignored_signals_are_read() {
        assert_eq!(ignored_signals("Name:\tx\nSigBlk:\t0\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored_signals("nothing"), 0);
    }

    proptest! {
        #[test]
        fn any_name_is_a_real_signal_or_none(name in "\\PC{0,16}") {
            prop_assert!(number(&name).is_none_or(|number| (1..=64).contains(&number)));
        }
    }
}
