//! The command's root: how it becomes the root, and what is done in it then.
//!
//! What was outside is not there any more after `pivot_root`, so no path of the image leads out of it.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};
use protocol::message::FailureKind;

use crate::failure::Kind;

const NONE: Option<&str> = None;

/// Why the container's file systems could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The image has something else there.
    #[error("The image's {target} is not a directory, so nothing can be mounted there")]
    NotADirectory {
        /// The path.
        target: &'static str,
    },
    /// The image's root could not become the root.
    #[error("The image's root file system can't be made the command's root")]
    Root(#[source] Errno),
    /// A mount failed.
    #[error("The container's {target} can't be mounted")]
    Mount {
        /// The path.
        target: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
}

impl Kind for MountError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::NotADirectory { .. } => FailureKind::Image,
            Self::Root(_) | Self::Mount { .. } => FailureKind::Internal,
        }
    }
}

/// Makes `root`, a directory that is a mount point, the root directory of this process's mount namespace, and lets go of
/// everything else. (A descriptor would not do: it would lead to the mount in the namespace in which it was opened.)
///
/// # Errors
/// [`MountError::Root`]
pub fn enter_root(root: &Path) -> Result<(), MountError> {
    let enter = || {
        chdir(root)?;
        // The old root ends up on top of the new one, from where it is taken away (pivot_root(2), "pivot_root(".", ".")").
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")
    };
    enter().map_err(MountError::Root)
}

/// Makes the root read-only; what is mounted in it stays as it is.
///
/// # Errors
/// [`MountError::Mount`]
pub fn seal_root() -> Result<(), MountError> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    at("/", mount(NONE, "/", NONE, flags, NONE))
}

/// Puts the file or device `source` over the file `target`.
///
/// # Errors
/// [`MountError::Mount`]
pub fn bind(source: &Path, target: &'static str) -> Result<(), MountError> {
    at(target, mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE))
}

pub(super) fn at<T>(target: &'static str, result: Result<T, Errno>) -> Result<T, MountError> {
    result.map_err(|source| MountError::Mount { target, source })
}
