//! Where the streams of a task end, as in [`std::process::Stdio`].

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};

/// Where a stream of a task ends.
#[derive(Debug)]
pub struct Stdio(End);

#[derive(Debug)]
enum End {
    Null,
    Inherit,
    Piped,
    Descriptor(OwnedFd),
}

impl Stdio {
    /// Nowhere: an input is at its end, an output is thrown away.
    #[must_use]
    pub fn null() -> Self {
        Self(End::Null)
    }

    /// Where this process's own does.
    #[must_use]
    pub fn inherit() -> Self {
        Self(End::Inherit)
    }

    /// In a pipe, whose other end the [`RunningTask`](crate::RunningTask) has. A task whose output nobody reads waits when the pipe
    /// is full.
    #[must_use]
    pub fn piped() -> Self {
        Self(End::Piped)
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.0, End::Null)
    }

    /// The end for the task, and the other when it is a pipe.
    pub(super) fn output(self, own: impl AsFd) -> io::Result<(OwnedFd, Option<PipeReader>)> {
        Ok(match self.0 {
            End::Null => (File::options().write(true).open("/dev/null")?.into(), None),
            End::Inherit => (own.as_fd().try_clone_to_owned()?, None),
            End::Descriptor(descriptor) => (descriptor, None),
            End::Piped => {
                let (reader, writer) = io::pipe()?;
                (writer.into(), Some(reader))
            }
        })
    }

    /// The end for the task where it has one, and the other when it is a pipe.
    pub(super) fn input(self) -> io::Result<(Option<OwnedFd>, Option<PipeWriter>)> {
        Ok(match self.0 {
            End::Null => (None, None),
            End::Inherit => (Some(io::stdin().as_fd().try_clone_to_owned()?), None),
            End::Descriptor(descriptor) => (Some(descriptor), None),
            End::Piped => {
                let (reader, writer) = io::pipe()?;
                (Some(reader.into()), Some(writer))
            }
        })
    }
}

/// At this descriptor: a file, a pipe, a socket.
impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(descriptor: T) -> Self {
        Self(End::Descriptor(descriptor.into()))
    }
}
