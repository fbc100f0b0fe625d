//! A microVM as the runtime sees it: a process, the descriptors it is given, and the agent at the other end.
//!
//! Two kinds are started: one that runs a task ([`crate::run`]) and one that unpacks an image ([`crate::image::unpack`]).
//! What differs is in the [`Plan`]; both have an agent that speaks [`protocol`].
//!
//! # Layout
//! - [`launch`]: from a plan to a VMM's process. [`process`]: that; [`seal`]: what it doesn't get; [`meter`]: what it uses.
//! - [`control`]: the connection to the agent. [`job`]: when the agent gets its job.

pub mod control;
pub mod job;
pub mod launch;
pub mod meter;
mod process;
mod seal;

use std::os::fd::BorrowedFd;

use vmm::end::EndReason;

use crate::cpu::CpuError;

pub use self::control::{AgentConnection, ControlError};
pub use self::job::{Job, NotSeeded};
pub use self::launch::{Disk, Extent, Host, LaunchError, Launched, Plan, Pmem, Start, TemplateFiles};
pub use self::meter::Meter;
pub use self::process::Vmm;

/// A machine that runs a guest. A VMM's process, or what plays one in a test.
pub trait Machine {
    /// The socket on which it reports; at end of file the machine is gone.
    fn events(&self) -> BorrowedFd<'_>;

    /// Holds it to its share of processors from now on. One that has none is left as it is.
    ///
    /// # Errors
    /// When it can't be held to it; it must not run on then.
    fn limit(&mut self) -> Result<(), CpuError> {
        Ok(())
    }

    /// Ends it at once. It may be gone already.
    fn kill(&mut self);

    /// Waits for the process, whose socket is closed, and gives the reason for its end as far as the process tells it.
    fn wait(&mut self) -> EndReason;
}
