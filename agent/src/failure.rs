//! How errors become what the user reads: a kind, which decides the exit code, and one sentence.

use std::error::Error;
use std::fmt::Write;

use protocol::message::{Failure, FailureKind};

/// An error that knows what it means for the task.
pub trait Kind: Error {
    /// Its kind.
    fn kind(&self) -> FailureKind;
}

/// `error` and its sources as the failure of the task.
pub fn report(error: &(impl Kind + 'static)) -> Failure {
    Failure { kind: error.kind(), message: sentence(error) }
}

/// A failure of the agent or the guest itself.
pub fn internal(error: &(dyn Error + 'static)) -> Failure {
    Failure { kind: FailureKind::Internal, message: sentence(error) }
}

/// `error` and its sources on one line.
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {source}");
        next = source.source();
    }
    text
}

/// Bytes of the image or the caller, fit for a sentence: quoted, control characters escaped, at most 200 bytes.
pub fn quoted(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let (head, dots) = bytes.get(..LONGEST).map_or((bytes, ""), |head| (head, "…"));
    format!("{:?}{dots}", String::from_utf8_lossy(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("The outer thing failed")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_sentence_names_every_source_once() {
        let error = Outer(std::io::Error::other("the inner reason"));
        assert_eq!(sentence(&error), "The outer thing failed: the inner reason");
    }

    #[test]
    fn hostile_bytes_are_quoted_and_cut() {
        assert_eq!(quoted(b"a\x1b[2J\xff"), "\"a\\u{1b}[2J\u{fffd}\"");
        assert!(quoted(&[b'x'; 5000]).len() < 300);
    }
}
