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
    /// The guest said that it is ready to be saved, and was: both files of the template are written.
    Ready,
    /// The guest asked for a reset, through the keyboard controller.
    Reset,
    /// The guest's kernel panicked.
    Panic {
        /// The kernel's own words, as far as they were received.
        message: String,
    },
    /// A vCPU took a fault for which the guest had no handler left.
    TripleFault(TripleFault),
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

/// Where a vCPU was when it took a triple fault, as far as KVM tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TripleFault {
    /// The vCPU.
    pub vcpu: u8,
    /// The address of the instruction.
    pub rip: u64,
    /// CR0: the mode.
    pub cr0: u64,
    /// CR2: the last address whose access was refused.
    pub cr2: u64,
    /// CR3: the page tables.
    pub cr3: u64,
}

impl TripleFault {
    /// Whether these are the registers of a vCPU that KVM has reset since, as it does on AMD: they say nothing then.
    fn is_reset(&self) -> bool {
        const RESET_RIP: u64 = 0xfff0;
        self.rip == RESET_RIP && self.cr3 == 0
    }
}

impl fmt::Display for TripleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vcpu, rip, cr0, cr2, cr3 } = self;
        if self.is_reset() {
            write!(f, "of vCPU {vcpu} (KVM has reset its registers)")
        } else {
            write!(f, "of vCPU {vcpu} at {rip:#x} (CR0 {cr0:#x}, CR2 {cr2:#x}, CR3 {cr3:#x})")
        }
    }
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
            Self::Ready => write!(f, "The guest was saved as a template"),
            Self::Reset => write!(f, "The guest reset itself"),
            Self::Panic { message } if message.is_empty() => write!(f, "The guest's kernel panicked"),
            Self::Panic { message } => write!(f, "The guest's kernel panicked: {}", message.escape_debug()),
            Self::TripleFault(fault) => write!(f, "The guest ended in a triple fault {fault}"),
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
    fn a_triple_fault_says_where_unless_the_registers_are_reset() {
        let fault = TripleFault { vcpu: 3, rip: 0x1234, cr0: 0x11, cr2: 0x8000, cr3: 0x9000 };
        assert_eq!(
            EndReason::TripleFault(fault).to_string(),
            "The guest ended in a triple fault of vCPU 3 at 0x1234 (CR0 0x11, CR2 0x8000, CR3 0x9000)"
        );
        let fault = TripleFault { vcpu: 3, rip: 0xfff0, cr0: 0x6000_0010, ..TripleFault::default() };
        assert_eq!(
            EndReason::TripleFault(fault).to_string(),
            "The guest ended in a triple fault of vCPU 3 (KVM has reset its registers)"
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
        for reason in
            [EndReason::PowerOff, EndReason::Ready, EndReason::Crash { rip: 1 }, EndReason::Killed { signal: 9 }]
        {
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(serde_json::from_str::<EndReason>(&json).unwrap(), reason);
        }
    }
}
