//! `--creds`: who the user is to a registry, and the password, which is asked for where it was not given.
//!
//! It is read from the terminal that is the standard input, key by key: what comes behind it belongs to others. The
//! terminal is raw meanwhile, so that no key shows, and as it was on every way out ([`RawMode`]).

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd;

use images::registry::Credentials;
use nix::errno::Errno;
use nix::unistd::read;

use crate::terminal::{RawMode, RawModeError};

/// A longer password is a paste that went wrong.
const LONGEST: usize = 4096;

/// What `--creds` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// All that is needed.
    Given(Credentials),
    /// A user, whose password is to be asked for.
    Ask {
        /// The user's name.
        user: String,
    },
}

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Nobody to ask.
    #[error("There is no terminal to ask for the password of {user:?}: give it with --creds USER:PASSWORD")]
    NoTerminal {
        /// The user's name.
        user: String,
    },
    /// The terminal.
    #[error(transparent)]
    Terminal(#[from] RawModeError),
    /// The terminal can't be read, or has ended.
    #[error("The password can't be read from the terminal")]
    Read(#[source] io::Error),
    /// The user does not want to.
    #[error("No password was given")]
    Declined,
    /// What was typed can't be one.
    #[error("What was typed is not a password: it is no text in UTF-8, or longer than {LONGEST} bytes")]
    NotText,
}

impl Login {
    /// Reads `USER[:PASSWORD]`; `None` without a user.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(_) => Credentials::parse(text).map(Self::Given),
            None => (!text.is_empty()).then(|| Self::Ask { user: text.into() }),
        }
    }

    /// What proves it; asks for what is missing.
    ///
    /// # Errors
    /// [`PasswordError`]
    pub fn credentials(&self) -> Result<Credentials, PasswordError> {
        let user = match self {
            Self::Given(credentials) => return Ok(credentials.clone()),
            Self::Ask { user } => user.clone(),
        };
        let terminal = io::stdin();
        if !terminal.is_terminal() {
            return Err(PasswordError::NoTerminal { user });
        }
        let password = ask(terminal, &format!("Password of {user:?}: "))?;
        Ok(Credentials { user, password })
    }
}

fn ask(terminal: impl AsFd, question: &str) -> Result<String, PasswordError> {
    // Raw before the question: what answers it must not show.
    let raw = RawMode::enter(&terminal)?;
    // An answer can be given all the same where nothing is written.
    let _ = io::stderr().write_all(question.as_bytes());
    let answer = line(terminal);
    drop(raw);
    let _ = io::stderr().write_all(b"\n");
    answer
}

/// Reads keys up to the one that ends the line, as a terminal that isn't raw would.
fn line(terminal: impl AsFd) -> Result<String, PasswordError> {
    let mut typed = Vec::new();
    loop {
        match key(&terminal).map_err(PasswordError::Read)? {
            b'\r' | b'\n' => return String::from_utf8(typed).map_err(|_| PasswordError::NotText),
            // ^C, and ^D at the start.
            0x03 => return Err(PasswordError::Declined),
            0x04 if typed.is_empty() => return Err(PasswordError::Declined),
            // Backspace takes a character, which ends before the bytes that go on with it.
            0x08 | 0x7f => while typed.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {},
            // ^U
            0x15 => typed.clear(),
            _ if typed.len() >= LONGEST => return Err(PasswordError::NotText),
            byte => typed.push(byte),
        }
    }
}

fn key(terminal: impl AsFd) -> io::Result<u8> {
    let mut byte = [0];
    loop {
        match read(&terminal, &mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(byte[0]),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_user_without_a_colon_is_asked() {
        let given = |user: &str, password: &str| {
            Some(Login::Given(Credentials { user: user.into(), password: password.into() }))
        };
        assert_eq!(Login::parse("me:a:b"), given("me", "a:b"));
        assert_eq!(Login::parse("me:"), given("me", ""));
        assert_eq!(Login::parse("me"), Some(Login::Ask { user: "me".into() }));
        assert_eq!((Login::parse(""), Login::parse(":x")), (None, None));
    }

    /// What comes of these keys, and what is left of them.
    fn typed(keys: &[u8]) -> (Result<String, PasswordError>, Vec<u8>) {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(keys).unwrap();
        drop(writer);
        let line = line(&reader);
        let mut left = Vec::new();
        io::Read::read_to_end(&mut &reader, &mut left).unwrap();
        (line, left)
    }

    #[test]
    fn keys_edit_the_line_and_what_follows_is_left() {
        let (line, left) = typed(b"not this\x15sec\xc3\xa4\x7fret!\x08\rthe rest");
        assert_eq!((line.unwrap().as_str(), left.as_slice()), ("secret", &b"the rest"[..]));
        assert_eq!(typed(b"\x7f\x7fa\n").0.unwrap(), "a");
    }

    #[test]
    fn an_end_and_what_is_no_text_are_told_apart() {
        assert!(matches!(typed(b"abc\x03").0, Err(PasswordError::Declined)));
        assert!(matches!(typed(b"\x04").0, Err(PasswordError::Declined)));
        assert!(matches!(typed(b"abc").0, Err(PasswordError::Read(_))));
        assert!(matches!(typed(b"\xff\r").0, Err(PasswordError::NotText)));
        assert!(matches!(typed(&[b'a'; LONGEST + 1]).0, Err(PasswordError::NotText)));
    }
}
