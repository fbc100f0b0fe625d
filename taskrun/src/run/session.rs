//! What an agent may say, and when.
//!
//! ```text
//!   Connecting ──Hello──▶ Starting ──Started──▶ Running ──Exited──▶ Over
//!                             └──────────Failed───────────────────────┘
//! ```
//!
//! Phases and warnings may come while the task is starting or running. Everything else, and everything behind the last
//! message, breaks the protocol: the agent is a guest, and a guest may have been taken over.

use protocol::message::{AgentMessage, ExitStatus, Failure};

use crate::errors::harmless;
use crate::timings::Phase;

/// How many warnings are shown; a guest must not fill the caller's terminal.
const MAX_WARNINGS: u32 = 32;

/// How far the task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The guest boots.
    Connecting,
    /// The agent has the task and prepares the command.
    Starting,
    /// The command runs.
    Running,
    /// The agent has said its last word.
    Over,
}

/// What a message means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The agent waits for the task.
    Ready,
    /// A point was passed.
    Reached(Phase),
    /// The user should know this.
    Warning(String),
    /// Nothing to do.
    Nothing,
    /// The command ended.
    Exited(ExitStatus),
    /// The command did not start.
    Failed(Failure),
}

/// How the agent broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The agent is from another taskrun.
    #[error(
        "The agent in the guest speaks version {theirs} of the protocol instead of {}: taskrun and its \
         initramfs don't belong together, install both anew",
        protocol::VERSION
    )]
    Version {
        /// The agent's version.
        theirs: u32,
    },
    /// A message at the wrong time.
    #[error("The agent in the guest sent a message that doesn't belong there, while {0:?}")]
    Unexpected(Stage),
}

/// The conversation with an agent.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    warnings: u32,
}

impl Default for Session {
    fn default() -> Self {
        Self { stage: Stage::Connecting, warnings: 0 }
    }
}

impl Session {
    /// How far the task is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Takes the agent's next message.
    ///
    /// # Errors
    /// [`Violation`]; nothing the agent says after that can be believed.
    pub fn take(&mut self, message: AgentMessage) -> Result<Progress, Violation> {
        match (self.stage, message) {
            (Stage::Connecting, AgentMessage::Hello { version, .. }) if version == protocol::VERSION => {
                self.stage = Stage::Starting;
                Ok(Progress::Ready)
            }
            (Stage::Connecting, AgentMessage::Hello { version, .. }) => Err(Violation::Version { theirs: version }),
            (Stage::Starting, AgentMessage::Phase(phase)) => Ok(Progress::Reached(match phase {
                protocol::message::Phase::RootMounted => Phase::RootMounted,
                protocol::message::Phase::Prepared => Phase::CommandPrepared,
            })),
            (Stage::Starting, AgentMessage::Started) => {
                self.stage = Stage::Running;
                Ok(Progress::Reached(Phase::CommandStarted))
            }
            (Stage::Starting, AgentMessage::Failed(failure)) => {
                self.stage = Stage::Over;
                Ok(Progress::Failed(Failure { kind: failure.kind, message: harmless(&failure.message) }))
            }
            (Stage::Running, AgentMessage::Exited(status)) => {
                self.stage = Stage::Over;
                Ok(Progress::Exited(status))
            }
            (Stage::Starting | Stage::Running, AgentMessage::Warning(text)) => Ok(self.warning(&text)),
            (stage, _) => Err(Violation::Unexpected(stage)),
        }
    }

    fn warning(&mut self, text: &str) -> Progress {
        self.warnings = self.warnings.saturating_add(1);
        if self.warnings > MAX_WARNINGS { Progress::Nothing } else { Progress::Warning(harmless(text)) }
    }
}

#[cfg(test)]
mod tests {
    use protocol::message::{ExitHow, FailureKind};

    use super::*;

    fn hello() -> AgentMessage {
        AgentMessage::Hello { version: protocol::VERSION, kernel: "6.12".into() }
    }

    fn exited() -> AgentMessage {
        AgentMessage::Exited(ExitStatus { how: ExitHow::Code(3), out_of_memory: None, peak_memory: None })
    }

    /// A session that took these messages.
    fn after(messages: impl IntoIterator<Item = AgentMessage>) -> Session {
        let mut session = Session::default();
        for message in messages {
            session.take(message).unwrap();
        }
        session
    }

    #[test]
    fn a_task_goes_through_its_stages() {
        let mut session = Session::default();
        assert_eq!(session.take(hello()), Ok(Progress::Ready));
        let mounted = AgentMessage::Phase(protocol::message::Phase::RootMounted);
        assert_eq!(session.take(mounted), Ok(Progress::Reached(Phase::RootMounted)));
        assert_eq!(session.take(AgentMessage::Started), Ok(Progress::Reached(Phase::CommandStarted)));
        assert!(matches!(session.take(exited()), Ok(Progress::Exited(_))));
        assert_eq!(session.stage(), Stage::Over);
    }

    #[test]
    fn another_version_is_refused() {
        let message = AgentMessage::Hello { version: protocol::VERSION + 1, kernel: String::new() };
        let theirs = protocol::VERSION + 1;
        assert_eq!(Session::default().take(message), Err(Violation::Version { theirs }));
    }

    #[test]
    fn messages_at_the_wrong_time_are_refused() {
        let refused = |mut session: Session, message| session.take(message).is_err();
        assert!(refused(Session::default(), AgentMessage::Started));
        assert!(refused(Session::default(), exited()));
        assert!(refused(Session::default(), AgentMessage::Warning(String::new())));
        assert!(refused(after([hello()]), hello()));
        assert!(refused(after([hello()]), exited()));
        assert!(refused(after([hello(), AgentMessage::Started]), AgentMessage::Started));
        assert!(refused(after([hello(), AgentMessage::Started, exited()]), exited()));
        assert!(refused(after([hello(), AgentMessage::Started, exited()]), AgentMessage::Warning(String::new())));
        let failed = AgentMessage::Failed(Failure { kind: FailureKind::Image, message: String::new() });
        assert!(refused(after([hello(), AgentMessage::Started]), failed.clone()));
        assert!(refused(after([hello(), failed]), AgentMessage::Started));
    }

    #[test]
    fn a_guest_cannot_fill_the_terminal_with_warnings() {
        let mut session = after([hello()]);
        let shown = (0..1000).filter(|_| {
            session.take(AgentMessage::Warning("\u{1b}".into())) == Ok(Progress::Warning("\\u{1b}".into()))
        });
        assert_eq!(shown.count(), 32);
    }
}
