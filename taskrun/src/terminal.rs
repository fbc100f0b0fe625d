//! The caller's terminal: raw while a task types into it, and as it was on every way out.
//!
//! Raw mode is state outside this process, so it must outlive neither a return, nor a panic (which aborts a release
//! build), nor a signal: [`RawMode`] restores when it is dropped, a panic hook restores before the message is printed,
//! and the signals that end a process are read from a descriptor by [`crate::run::signals`] instead of ending it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::{io, panic};

use nix::sys::termios::{self, SetArg, Termios};
use protocol::spec::WindowSize;

/// The size that programs assume where there is none.
pub const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };

/// How to undo the one raw mode that a process has.
static BEFORE: Mutex<Option<Saved>> = Mutex::new(None);
/// Whether [`BEFORE`] holds something; readable while it is locked.
static RAW: AtomicBool = AtomicBool::new(false);

struct Saved {
    terminal: OwnedFd,
    settings: Termios,
}

/// The terminal's settings can't be changed.
#[derive(Debug, thiserror::Error)]
#[error("The terminal can't be switched to raw mode")]
pub struct RawModeError(#[source] io::Error);

/// A terminal in raw mode: every key goes to the task. Restores what was before when dropped.
#[derive(Debug)]
#[must_use = "the terminal is restored when this is dropped"]
pub struct RawMode(());

impl RawMode {
    /// Switches `terminal` to raw mode.
    ///
    /// # Errors
    /// [`RawModeError`] when it is no terminal; nothing was changed then.
    pub fn enter(terminal: impl AsFd) -> Result<Self, RawModeError> {
        let enter = || -> io::Result<()> {
            let terminal = terminal.as_fd().try_clone_to_owned()?;
            let settings = termios::tcgetattr(&terminal)?;
            let mut raw = settings.clone();
            termios::cfmakeraw(&mut raw);
            restore_on_panic();
            let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
            termios::tcsetattr(&terminal, SetArg::TCSANOW, &raw)?;
            *before = Some(Saved { terminal, settings });
            RAW.store(true, Ordering::Relaxed);
            Ok(())
        };
        enter().map(|()| Self(())).map_err(RawModeError)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal is raw, so that a line must be ended with a carriage return.
#[must_use]
pub fn is_raw() -> bool {
    RAW.load(Ordering::Relaxed)
}

/// The size of the first of `terminals` that is one.
pub fn window_size<T: AsFd>(terminals: impl IntoIterator<Item = T>) -> Option<WindowSize> {
    terminals.into_iter().find_map(|terminal| {
        let (columns, rows) = terminal_size::terminal_size_of(terminal)?;
        (rows.0 > 0 && columns.0 > 0).then_some(WindowSize { rows: rows.0, columns: columns.0 })
    })
}

fn restore() {
    // The lock is held only for system calls that do not panic; should it be held all the same, there is nothing to
    // wait for in a panic hook.
    let Ok(mut before) = BEFORE.try_lock() else { return };
    if let Some(Saved { terminal, settings }) = before.take() {
        // A terminal that hung up has no settings left to restore.
        let _ = termios::tcsetattr(&terminal, SetArg::TCSANOW, &settings);
        RAW.store(false, Ordering::Relaxed);
    }
}

fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            print(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use nix::pty::{Winsize, openpty};
    use nix::sys::termios::{LocalFlags, OutputFlags};

    use super::*;

    /// One test, since a process has one raw mode.
    #[test]
    fn raw_mode_ends_with_its_guard_and_with_a_panic() {
        let pty = openpty(None, None).unwrap();
        let settings = || {
            let settings = termios::tcgetattr(&pty.slave).unwrap();
            (settings.local_flags, settings.output_flags)
        };
        let before = settings();
        let cooked = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        assert!(before.0.contains(cooked));

        let raw = RawMode::enter(&pty.slave).unwrap();
        assert!(!settings().0.intersects(cooked) && !settings().1.contains(OutputFlags::OPOST));
        assert!(is_raw());
        drop(raw);
        assert_eq!(settings(), before);
        assert!(!is_raw());

        // The hook alone must do it, as where a panic aborts.
        let raw = RawMode::enter(&pty.slave).unwrap();
        std::mem::forget(raw);
        panic::catch_unwind(|| panic!("expected by this test")).unwrap_err();
        assert_eq!(settings(), before);

        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(RawMode::enter(&file).is_err());
        assert!(!is_raw());
    }

    #[test]
    fn the_size_is_the_first_terminals() {
        let size = Winsize { ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert_eq!(window_size([&file, &pty.slave]), Some(WindowSize { rows: 50, columns: 132 }));
        assert_eq!(window_size([&file]), None);
    }
}
