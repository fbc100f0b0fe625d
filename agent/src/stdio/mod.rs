//! The command's standard streams: the connections to the host on one side, pipes or a terminal on the other.
//!
//! The command gets pipes and not the connections themselves, because programs reopen `/dev/stdout`, which a socket does not
//! allow.

pub mod relay;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use protocol::message::FailureKind;
use protocol::port;
use protocol::spec::{Stdio, WindowSize};

use crate::container::Streams;
use crate::failure::Kind;
use crate::vsock::Host;
use relay::{AtEnd, Relay};

/// Why the streams could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The host has no such channel.
    #[error("The host does not answer on the channel of the command's {stream}")]
    Connect {
        /// Its name.
        stream: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No pipe.
    #[error("A pipe for the command can't be made")]
    Pipe(#[source] io::Error),
}

impl Kind for StdioError {
    fn kind(&self) -> FailureKind {
        FailureKind::Internal
    }
}

/// A pipe whose end at the agent does not block.
#[derive(Debug)]
struct Pipe {
    agent: OwnedFd,
    command: OwnedFd,
}

impl Pipe {
    fn to_command() -> io::Result<Self> {
        let (command, agent) = pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(&agent)?;
        Ok(Self { agent, command })
    }

    fn from_command() -> io::Result<Self> {
        let (agent, command) = pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(&agent)?;
        Ok(Self { agent, command })
    }
}

/// What the command has on its side.
#[derive(Debug)]
enum Inside {
    Pipes { stdin: Option<Pipe>, stdout: Pipe, stderr: Pipe },
    Terminal(WindowSize),
}

/// The streams before the command has been started.
#[derive(Debug)]
pub struct Prepared {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    inside: Inside,
}

/// The relays of a running command.
#[derive(Debug, Default)]
pub struct Relays {
    /// Standard input.
    pub input: Option<Relay>,
    /// Standard output and, without a terminal, standard error.
    pub outputs: Vec<Relay>,
}

impl Prepared {
    /// Connects the channels that `stdio` asks for and makes the pipes.
    ///
    /// # Errors
    /// All of [`StdioError`].
    pub fn connect(stdio: Stdio, host: &dyn Host) -> Result<Self, StdioError> {
        let channel = |stream, port| {
            let connect = || {
                let socket = host.connect(port)?;
                set_nonblocking(&socket)?;
                Ok(socket)
            };
            connect().map_err(|source| StdioError::Connect { stream, source })
        };
        let stdin = stdio.stdin.then(|| channel("standard input", port::STDIN)).transpose()?;
        let stdout = channel("standard output", port::STDOUT)?;
        if let Some(size) = stdio.terminal {
            return Ok(Self { stdin, stdout, stderr: None, inside: Inside::Terminal(size) });
        }
        let stderr = Some(channel("standard error", port::STDERR)?);
        let pipes = || {
            let stdin = stdin.is_some().then(Pipe::to_command).transpose()?;
            Ok(Inside::Pipes { stdin, stdout: Pipe::from_command()?, stderr: Pipe::from_command()? })
        };
        let inside = pipes().map_err(StdioError::Pipe)?;
        Ok(Self { stdin, stdout, stderr, inside })
    }

    /// Changes the size of a terminal that is not open yet.
    pub fn resize(&mut self, new: WindowSize) {
        if let Inside::Terminal(size) = &mut self.inside {
            *size = new;
        }
    }

    /// The command's side.
    pub fn streams(&self) -> Streams<'_> {
        match &self.inside {
            Inside::Pipes { stdin, stdout, stderr } => Streams::Pipes {
                stdin: stdin.as_ref().map(|pipe| pipe.command.as_fd()),
                stdout: stdout.command.as_fd(),
                stderr: stderr.command.as_fd(),
            },
            Inside::Terminal(size) => Streams::Terminal(*size),
        }
    }

    /// The relays, with the agent's end of the `terminal` where there is one. Closes the agent's copies of the command's
    /// side, without which the streams would have no end.
    ///
    /// # Errors
    /// [`StdioError::Pipe`] when no more descriptors can be had.
    pub fn into_relays(self, terminal: Option<&OwnedFd>) -> Result<Relays, StdioError> {
        let Self { stdin, stdout, stderr, inside } = self;
        match (inside, terminal) {
            (Inside::Pipes { stdin: to, stdout: out, stderr: error }, _) => {
                let input = stdin.zip(to).map(|(from, to)| Relay::new(from, to.agent, AtEnd::Close));
                let mut outputs = vec![Relay::new(out.agent, stdout, AtEnd::ShutDown)];
                outputs.extend(stderr.map(|stderr| Relay::new(error.agent, stderr, AtEnd::ShutDown)));
                Ok(Relays { input, outputs })
            }
            (Inside::Terminal(_), Some(terminal)) => {
                let copy = || terminal.try_clone().map_err(StdioError::Pipe);
                let input = match stdin {
                    Some(stdin) => Some(Relay::new(stdin, copy()?, AtEnd::Nothing)),
                    None => None,
                };
                Ok(Relays { input, outputs: vec![Relay::new(copy()?, stdout, AtEnd::ShutDown)] })
            }
            (Inside::Terminal(_), None) => Ok(Relays::default()),
        }
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // Nothing else is ever set on these: no need to ask first.
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}
