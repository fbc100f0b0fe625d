//! The ways a guest can end, each with a reason of its own.

use std::error::Error;
use std::{fmt, iter};

use serde::{Deserialize, Serialize};

/// Why a microVM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum EndReason {
    /// The guest powered itself off: the orderly end.
    PowerOff,
    /// The guest asked for a reset, through the keyboard controller.
    Reset,
    /// The guest's kernel panicked.
    Panic {
        /// The kernel's own words, as far as they were received.
        message: String,
    },
    /// A vCPU took a fault for which the guest had no handler left.
    TripleFault,
    /// KVM met an instruction that it cannot execute and that the VMM does not complete.
    EmulationFailure {
        /// The address of the instruction.
        rip: u64,
        /// Its bytes, as far as KVM gave them.
        bytes: Vec<u8>,
    },
    /// The guest's kernel hit one of its own assertions and could not even report it.
    Crash {
        /// The address of the instruction.
        rip: u64,
    },
    /// The VMM failed.
    VmmError {
        /// What failed and why, as one sentence.
        message: String,
    },
    /// The VMM's process was ended by a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
}

impl EndReason {
    /// A failure of the VMM: `error` and its causes as one sentence.
    #[must_use]
    pub fn vmm_error(error: &dyn Error) -> Self {
        let causes = iter::successors(error.source(), |&cause| cause.source());
        let message = causes.fold(error.to_string(), |message, cause| format!("{message}: {cause}"));
        Self::VmmError { message }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "The guest powered off"),
            Self::Reset => write!(f, "The guest reset itself"),
            Self::Panic { message } if message.is_empty() => write!(f, "The guest's kernel panicked"),
            Self::Panic { message } => write!(f, "The guest's kernel panicked: {}", message.escape_debug()),
            Self::TripleFault => write!(f, "The guest ended in a triple fault"),
            Self::EmulationFailure { rip, bytes } => {
                write!(f, "KVM can't execute the guest's instruction at {rip:#x} (bytes")?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                write!(f, ")")
            }
            Self::Crash { rip } => write!(f, "The guest's kernel crashed at {rip:#x}"),
            Self::VmmError { message } => write!(f, "The VMM failed: {message}"),
            Self::Killed { signal } => write!(f, "The VMM was killed by signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulation_failure_names_the_instruction() {
        let reason = EndReason::EmulationFailure { rip: 0xffff_ffff_8100_0000, bytes: vec![0x0f, 0xae, 0x27] };
        assert_eq!(
            reason.to_string(),
            "KVM can't execute the guest's instruction at 0xffffffff81000000 (bytes 0f ae 27)"
        );
    }

    #[test]
    fn a_panic_message_cannot_write_control_characters() {
        let reason = EndReason::Panic { message: "x\u{1b}[2J".into() };
        assert_eq!(reason.to_string(), "The guest's kernel panicked: x\\u{1b}[2J");
    }

    #[test]
    fn a_failure_names_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("The kernel can't be read")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("bad disk"));
        let message = EndReason::vmm_error(&error).to_string();
        assert_eq!(message, "The VMM failed: The kernel can't be read: bad disk");
    }

    #[test]
    fn reasons_survive_json() {
        for reason in [EndReason::PowerOff, EndReason::Crash { rip: 1 }, EndReason::Killed { signal: 9 }] {
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(serde_json::from_str::<EndReason>(&json).unwrap(), reason);
        }
    }
}
