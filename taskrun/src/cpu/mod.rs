//! A task's share of the host's processors, and who holds its microVM to it.
//!
//! A microVM has whole vCPUs. A share that is less than those is enforced, in this order, by a cgroup of version 2, a cgroup
//! of version 1 ([`cgroup`]), or the VMM itself ([`vmm::pace`]): the first that this host lets taskrun have. The
//! configuration can want one of them.
//!
//! The VMM is put in its place before it has anything to run, and the limit begins with the task's command: a small
//! task starts as fast as a large one.
//!
//! Invariant: no VMM leaves a cgroup in which its caller has a limit of processor time or memory ([`hierarchy`]).

pub mod cgroup;
mod hierarchy;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vmm::control::{self, ControlError, Request};

pub use self::cgroup::Cgroup;
use crate::size::{Cpu, UNITS_PER_VCPU};

/// Why a share can't be enforced.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The configuration wants a cgroup, and there is none to be had.
    #[error(
        "No {0} can be had that enforces a task's share of processors, and `enforce` in the configuration wants it"
    )]
    NotToBeHad(Enforcement, #[source] io::Error),
    /// The limit of a cgroup can't be set.
    #[error("The limit of the task's cgroup can't be set")]
    Limit(#[source] io::Error),
    /// The VMM can't be told.
    #[error("The VMM can't be told to hold itself to the task's share of processors")]
    Vmm(#[source] ControlError),
    /// The control socket can't be kept.
    #[error("The VMM's control socket can't be kept")]
    Socket(#[source] io::Error),
}

/// What the configuration wants: `[cpu]` of `config.toml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// What this host has.
    #[default]
    Auto,
    /// A cgroup of version 2, or no task.
    Cgroup2,
    /// A cgroup of version 1, or no task.
    Cgroup1,
    /// The VMM.
    Vmm,
}

/// Who holds a microVM to its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Nobody need: the share is all of its vCPUs.
    WholeVcpus,
    /// A cgroup of version 2.
    Cgroup2,
    /// A cgroup of version 1.
    Cgroup1,
    /// The VMM.
    Vmm,
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WholeVcpus => "none: whole vCPUs",
            Self::Cgroup2 => "cgroup v2",
            Self::Cgroup1 => "cgroup v1",
            Self::Vmm => "VMM",
        })
    }
}

/// A task's share, to be enforced.
#[derive(Clone, Debug)]
pub struct Share {
    /// How much.
    pub cpu: Cpu,
    /// By whom.
    pub wanted: Wanted,
    /// Taskrun's home, where cgroups are noted until they are gone.
    pub home: PathBuf,
    /// The task.
    pub id: String,
}

impl Share {
    /// Puts the VMM with this process id, which has nothing to run yet, under whom this host lets enforce the share.
    /// `socket` is the VMM's control socket.
    ///
    /// # Errors
    /// When what the configuration wants can't be had.
    pub fn hold(&self, vmm: u32, socket: &OwnedFd) -> Result<Hold, CpuError> {
        let whole = self.cpu.units().is_multiple_of(UNITS_PER_VCPU);
        let by = if whole { By::Nobody } else { self.by(vmm, socket)? };
        Ok(Hold { units: self.cpu.units(), by })
    }

    fn by(&self, vmm: u32, socket: &OwnedFd) -> Result<By, CpuError> {
        for version in candidates(self.wanted) {
            match Cgroup::create(&self.home, &self.id, version, self.cpu).and_then(|cgroup| cgroup.enter(vmm)) {
                Ok(cgroup) => return Ok(By::Cgroup(cgroup)),
                Err(error) if self.wanted != Wanted::Auto => {
                    return Err(CpuError::NotToBeHad(version.enforcement(), error));
                }
                Err(_) => {}
            }
        }
        Ok(By::Vmm(socket.try_clone().map_err(CpuError::Socket)?))
    }
}

/// The versions of cgroups to be tried.
fn candidates(wanted: Wanted) -> impl Iterator<Item = Version> {
    let versions: &[_] = match wanted {
        Wanted::Auto => &[Version::V2, Version::V1],
        Wanted::Cgroup2 => &[Version::V2],
        Wanted::Cgroup1 => &[Version::V1],
        Wanted::Vmm => &[],
    };
    versions.iter().copied()
}

/// Which cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for all controllers.
    V2,
    /// A hierarchy for the controller of processor time.
    V1,
}

impl Version {
    fn enforcement(self) -> Enforcement {
        match self {
            Self::V2 => Enforcement::Cgroup2,
            Self::V1 => Enforcement::Cgroup1,
        }
    }
}

/// A microVM that somebody can hold to its share. What that needs is gone when this is dropped, which is when the VMM's
/// process is gone.
#[derive(Debug)]
pub struct Hold {
    units: u32,
    by: By,
}

#[derive(Debug)]
enum By {
    Nobody,
    Cgroup(Cgroup),
    /// Its control socket.
    Vmm(OwnedFd),
}

impl Hold {
    /// By whom.
    #[must_use]
    pub fn enforcement(&self) -> Enforcement {
        match &self.by {
            By::Nobody => Enforcement::WholeVcpus,
            By::Cgroup(cgroup) => cgroup.version().enforcement(),
            By::Vmm(_) => Enforcement::Vmm,
        }
    }

    /// The share for the VMM's own description, if it is the VMM that enforces it.
    #[must_use]
    pub fn own_units(&self) -> Option<u32> {
        matches!(self.by, By::Vmm(_)).then_some(self.units)
    }

    /// The limit begins.
    ///
    /// # Errors
    /// [`CpuError::Limit`] and [`CpuError::Vmm`].
    pub fn begin(&self) -> Result<(), CpuError> {
        match &self.by {
            By::Nobody => Ok(()),
            By::Cgroup(cgroup) => cgroup.limit().map_err(CpuError::Limit),
            By::Vmm(socket) => match control::send_request(socket.as_fd(), Request::Pace) {
                // It needs none any more.
                Err(ControlError::Closed) => Ok(()),
                result => result.map_err(CpuError::Vmm),
            },
        }
    }
}

/// Who would enforce shares here, and where. Leaves nothing behind.
///
/// # Errors
/// When what the configuration wants can't be had.
pub fn probe(wanted: Wanted, home: &Path) -> Result<(Enforcement, Option<PathBuf>), CpuError> {
    for version in candidates(wanted) {
        let id = format!("probe-{}", std::process::id());
        match Cgroup::create(home, &id, version, Cpu::DEFAULT) {
            Ok(cgroup) => return Ok((version.enforcement(), cgroup.path().parent().map(Path::to_owned))),
            Err(error) if wanted != Wanted::Auto => return Err(CpuError::NotToBeHad(version.enforcement(), error)),
            Err(_) => {}
        }
    }
    Ok((Enforcement::Vmm, None))
}
