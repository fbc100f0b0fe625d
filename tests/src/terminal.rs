//! A person at a pseudo-terminal: types, reads the screen, changes the window's size.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

/// How long to wait for something on the screen, in milliseconds.
const PATIENCE: u16 = 60_000;

/// A pseudo-terminal of which the test holds the screen's side.
#[derive(Debug)]
pub struct Terminal {
    screen: File,
    /// The side that a program gets as its terminal.
    pub device: OwnedFd,
    seen: String,
}

#[expect(clippy::expect_used, reason = "tests can't go on without it")]
impl Terminal {
    /// A terminal of this size.
    ///
    /// # Panics
    /// When the host gives none.
    #[must_use]
    pub fn new(rows: u16, columns: u16) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).expect("a pseudo-terminal");
        let terminal = Self { screen: File::from(master), device: slave, seen: String::new() };
        terminal.resize(rows, columns);
        terminal
    }

    /// Changes the window's size; the kernel tells the foreground process.
    ///
    /// # Panics
    /// When `stty` can't be run.
    pub fn resize(&self, rows: u16, columns: u16) {
        let device = std::process::Stdio::from(self.device.try_clone().expect("a descriptor"));
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let words = ["rows", &rows, "cols", &columns];
        let status = std::process::Command::new("stty").args(words).stdin(device).status().expect("stty");
        assert!(status.success());
    }

    /// The terminal's settings.
    ///
    /// # Panics
    /// When they can't be read.
    #[must_use]
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.device).expect("a terminal")
    }

    /// Changes the settings at once.
    ///
    /// # Panics
    /// When they can't be changed.
    pub fn set(&self, settings: &Termios) {
        tcsetattr(&self.device, SetArg::TCSANOW, settings).expect("a terminal");
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn type_keys(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Waits until `text` is on the screen, and takes everything up to it.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let end = at.saturating_add(text.len());
                return self.seen.drain(..end).collect();
            }
            let mut fds = [PollFd::new(self.screen.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(PATIENCE)).expect("poll");
            assert_ne!(ready, 0, "no {text:?} on the screen (fd {}): {:?}", self.screen.as_raw_fd(), self.seen);
            let mut buffer = [0; 4096];
            let count = self.screen.read(&mut buffer).expect("a terminal");
            self.seen += &String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
        }
    }
}
