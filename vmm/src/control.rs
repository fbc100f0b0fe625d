//! The control socket between the runtime and its VMM: `AF_UNIX`, `SOCK_SEQPACKET`, the VMM's standard input.
//!
//! One packet is one JSON message. The runtime's first is the [`VmConfig`](crate::config::VmConfig) with the descriptors;
//! after that only the VMM speaks. When the runtime is gone the VMM sees end of file and ends at once.

use serde::{Deserialize, Serialize};

use crate::end::EndReason;

/// What a VMM says to the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmmEvent {
    /// The machine is built; the guest's first instruction is next.
    Running,
    /// The machine has ended; the last message.
    Ended(EndReason),
}
