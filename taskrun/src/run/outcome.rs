//! How a task ended: docker's exit codes, and the sentence that the user and the ledger get.

use protocol::message::{ExitHow, ExitStatus, Failure, FailureKind};
use vmm::end::EndReason;

use crate::errors::{EXIT_TASKRUN_FAILED, harmless};
use crate::ledger::StopCode;
use crate::size::Memory;

/// Added to a signal's number.
const EXIT_SIGNAL: u8 = 128;

/// SIGKILL.
const KILL: i32 = 9;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ran and ended.
    Exited(ExitStatus),
    /// The command could not be started.
    NotStarted(Failure),
    /// The guest ended before the command did.
    GuestEnded(EndReason),
    /// The agent can't be believed any more; why, as a sentence.
    AgentFailed(String),
    /// A signal ended the task before its command ran.
    Aborted(i32),
    /// The time was over before the command ran.
    TimedOut,
    /// The microVM was ended because the task did not stop.
    Killed(KillCause),
}

/// Why a microVM was ended under a running command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillCause {
    /// The caller insisted.
    Insisted,
    /// Not even SIGKILL ended the command in time.
    DidNotStop,
}

impl Outcome {
    /// The exit code of taskrun.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exited(ExitStatus { how: ExitHow::Code(code), .. }) => *code,
            Self::Exited(ExitStatus { how: ExitHow::Signal(signal), .. }) => of_signal((*signal).into()),
            Self::NotStarted(failure) => match failure.kind {
                FailureKind::NotFound => 127,
                FailureKind::NotExecutable => 126,
                FailureKind::Image | FailureKind::Settings | FailureKind::Internal => EXIT_TASKRUN_FAILED,
            },
            Self::GuestEnded(_) | Self::AgentFailed(_) => EXIT_TASKRUN_FAILED,
            Self::Aborted(signal) => of_signal(*signal),
            // As the stop request would have ended it.
            Self::TimedOut => of_signal(15),
            Self::Killed(_) => of_signal(KILL),
        }
    }

    /// Who or what ended the task, as ECS says it.
    #[must_use]
    pub fn stop_code(&self) -> StopCode {
        match self {
            Self::Exited(_) | Self::GuestEnded(_) | Self::AgentFailed(_) => StopCode::EssentialContainerExited,
            Self::NotStarted(_) | Self::TimedOut => StopCode::TaskFailedToStart,
            Self::Aborted(_) | Self::Killed(_) => StopCode::UserInitiated,
        }
    }

    /// Why the task ended, as one sentence for the ledger.
    #[must_use]
    pub fn reason(&self, memory: Memory) -> String {
        let plain = match self {
            Self::Exited(ExitStatus { how: ExitHow::Code(code), .. }) => format!("The command exited with code {code}"),
            Self::Exited(ExitStatus { how: ExitHow::Signal(signal), .. }) => {
                format!("The command was ended by signal {signal}")
            }
            _ => String::new(),
        };
        self.sentence(memory).unwrap_or(plain)
    }

    /// What to tell the user besides the exit code; nothing when the command's own end says it all.
    #[must_use]
    pub fn sentence(&self, memory: Memory) -> Option<String> {
        match self {
            Self::Exited(status) => {
                let killed = status.out_of_memory.as_ref()?;
                let process =
                    killed.process.as_deref().map_or("a process".to_owned(), |name| format!("{:?}", harmless(name)));
                let more = if killed.kills > 1 { format!(" (the last of {})", killed.kills) } else { String::new() };
                Some(format!(
                    "OutOfMemoryError: The task used up its {memory} of memory and the guest's kernel killed \
                     {process}{more}; more can be given with --memory"
                ))
            }
            Self::NotStarted(failure) => Some(failure.message.clone()),
            Self::GuestEnded(reason) => {
                let sentence = harmless(&reason.to_string());
                Some(match reason {
                    EndReason::VmmError { .. } => sentence,
                    EndReason::Killed { .. } => format!("{sentence} before the command ended"),
                    _ => {
                        format!("{sentence} before the command ended (the kernel's log, with --console, may say more)")
                    }
                })
            }
            Self::AgentFailed(sentence) => Some(sentence.clone()),
            Self::Aborted(signal) => Some(format!("Signal {signal} ended the task before its command ran")),
            Self::TimedOut => Some("The task timed out before its command ran".to_owned()),
            Self::Killed(KillCause::Insisted) => Some("The microVM was ended at the third signal".to_owned()),
            Self::Killed(KillCause::DidNotStop) => {
                Some("The microVM was ended since the task did not stop when it was killed".to_owned())
            }
        }
    }
}

/// `128 + signal`.
fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal).unwrap_or(0).saturating_add(EXIT_SIGNAL)
}

#[cfg(test)]
mod tests {
    use protocol::message::OutOfMemory;

    use super::*;

    fn exited(how: ExitHow) -> Outcome {
        Outcome::Exited(ExitStatus { how, out_of_memory: None, peak_memory: None })
    }

    fn failed(kind: FailureKind) -> Outcome {
        Outcome::NotStarted(Failure { kind, message: "Sentence".into() })
    }

    #[test]
    fn exit_codes_are_dockers() {
        for (outcome, code) in [
            (exited(ExitHow::Code(42)), 42),
            (exited(ExitHow::Signal(9)), 137),
            (exited(ExitHow::Signal(64)), 192),
            (failed(FailureKind::NotFound), 127),
            (failed(FailureKind::NotExecutable), 126),
            (failed(FailureKind::Image), 125),
            (failed(FailureKind::Settings), 125),
            (failed(FailureKind::Internal), 125),
            (Outcome::GuestEnded(EndReason::TripleFault(vmm::end::TripleFault::default())), 125),
            (Outcome::AgentFailed(String::new()), 125),
            (Outcome::Aborted(2), 130),
            (Outcome::Aborted(15), 143),
            (Outcome::TimedOut, 143),
            (Outcome::Killed(KillCause::Insisted), 137),
        ] {
            assert_eq!(outcome.exit_code(), code, "{outcome:?}");
        }
    }

    #[test]
    fn a_command_that_just_ends_needs_no_sentence() {
        assert_eq!(exited(ExitHow::Code(1)).sentence(Memory::DEFAULT), None);
        assert_eq!(exited(ExitHow::Signal(9)).sentence(Memory::DEFAULT), None);
        assert_eq!(exited(ExitHow::Code(3)).reason(Memory::DEFAULT), "The command exited with code 3");
    }

    #[test]
    fn a_kill_for_memory_names_the_size_and_the_process() {
        let out_of_memory = Some(OutOfMemory { kills: 1, process: Some("py\u{1b}thon3".into()) });
        let outcome = Outcome::Exited(ExitStatus { how: ExitHow::Signal(9), out_of_memory, peak_memory: None });
        let sentence = outcome.sentence("1GB".parse().unwrap()).unwrap();
        assert!(sentence.starts_with("OutOfMemoryError: The task used up its 1 GB of memory"), "{sentence}");
        assert!(sentence.contains("thon3") && !sentence.contains('\u{1b}'), "{sentence}");
    }

    #[test]
    fn a_guest_that_ends_early_points_to_its_log() {
        let outcome = Outcome::GuestEnded(EndReason::Panic { message: "no init".into() });
        let sentence = outcome.sentence(Memory::DEFAULT).unwrap();
        assert!(sentence.starts_with("The guest's kernel panicked: no init before"), "{sentence}");
        assert!(sentence.contains("--console"), "{sentence}");
    }
}
