//! The file systems of the container, as Docker lays them out.
//!
//! Everything happens after `pivot_root`, so no path of the image can lead out of it: what was outside is not there any more.
//! Only `/proc`, `/sys` and `/dev` are directories of the image; they are made where they are missing and refused where they are
//! something else. All others lie in file systems that this module mounted itself. What the task asked for is mounted in the
//! root already ([`crate::root`]) and comes along; with it, where the task asked for something in `/dev/shm`, that and `/dev`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, stat};
use nix::unistd::{chdir, fchdir, mkdir, pivot_root};
use protocol::message::FailureKind;

use crate::failure::Kind;

const NONE: Option<&str> = None;
const NO_SUID_DEV_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

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

/// A file system of the container.
struct FileSystem {
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    data: Option<&'static str>,
    /// Whether a kernel without it will do.
    optional: bool,
}

const DEV: FileSystem = FileSystem {
    target: "/dev",
    kind: "tmpfs",
    flags: MsFlags::MS_NOSUID.union(MsFlags::MS_STRICTATIME),
    data: Some("mode=755,size=65536k"),
    optional: false,
};

const SHARED_MEMORY: FileSystem = FileSystem {
    target: "/dev/shm",
    kind: "tmpfs",
    flags: NO_SUID_DEV_EXEC,
    data: Some("mode=1777,size=65536k"),
    optional: false,
};

/// What is mounted on directories of the image.
const TOP: [FileSystem; 3] = [
    FileSystem { target: "/proc", kind: "proc", flags: NO_SUID_DEV_EXEC, data: None, optional: false },
    FileSystem {
        target: "/sys",
        kind: "sysfs",
        flags: NO_SUID_DEV_EXEC.union(MsFlags::MS_RDONLY),
        data: None,
        optional: false,
    },
    DEV,
];

/// What is mounted on directories of our own file systems.
const BELOW: [FileSystem; 4] = [
    FileSystem {
        target: "/dev/pts",
        kind: "devpts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        data: Some("newinstance,ptmxmode=0666,mode=0620,gid=5"),
        optional: false,
    },
    SHARED_MEMORY,
    FileSystem { target: "/dev/mqueue", kind: "mqueue", flags: NO_SUID_DEV_EXEC, data: None, optional: true },
    FileSystem {
        target: "/sys/fs/cgroup",
        kind: "cgroup2",
        flags: NO_SUID_DEV_EXEC.union(MsFlags::MS_RDONLY),
        data: None,
        optional: true,
    },
];

/// What a container must not see. A directory becomes an empty one, a file becomes `/dev/null`.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What a container must not change.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Makes `root`, a directory that is a mount point, the root directory of this process's mount namespace, and lets go of
/// everything else. (A descriptor would not do: it would lead to the mount in the namespace in which it was opened.)
///
/// # Errors
/// [`MountError::Root`]
pub fn enter_root(root: &Path) -> Result<(), MountError> {
    let enter = || {
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        chdir(root)?;
        // The old root ends up on top of the new one, from where it is taken away (pivot_root(2), "pivot_root(".", ".")").
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")
    };
    enter().map_err(MountError::Root)
}

/// Mounts everything but what [`mask`] covers.
///
/// # Errors
/// [`MountError::NotADirectory`] and [`MountError::Mount`]
pub fn mount_all() -> Result<(), MountError> {
    for file_system in &TOP {
        let directory = image_directory(file_system.target)?;
        if is_mounted(file_system, "/")? {
            continue;
        }
        // By the directory that was checked, not by its name.
        at(file_system.target, fchdir(directory.as_fd()))?;
        attach(file_system, ".")?;
    }
    at("/", chdir("/"))?;
    for file_system in &BELOW {
        // The mount says it better when the directory is not there: sysfs makes its own.
        let _ = mkdir(file_system.target, Mode::from_bits_truncate(0o755));
        if file_system.target == SHARED_MEMORY.target && is_mounted(file_system, DEV.target)? {
            continue;
        }
        attach(file_system, file_system.target)?;
    }
    Ok(())
}

/// Mounts the container's `/dev` on `directory` before the root is entered, so that something can be mounted in its
/// `/dev/shm`.
///
/// # Errors
/// Of mount(2).
pub fn mount_dev(directory: &Path) -> Result<(), Errno> {
    mount(Some(DEV.kind), directory, Some(DEV.kind), DEV.flags, DEV.data)
}

/// The same for `/dev/shm`.
///
/// # Errors
/// Of mount(2).
pub fn mount_shared_memory(directory: &Path) -> Result<(), Errno> {
    let FileSystem { kind, flags, data, .. } = SHARED_MEMORY;
    mount(Some(kind), directory, Some(kind), flags, data)
}

/// Whether [`crate::root`] has mounted something there: a tmpfs is a device of its own.
fn is_mounted(file_system: &FileSystem, parent: &str) -> Result<bool, MountError> {
    let device = |path| at(file_system.target, stat(path)).map(|stat| stat.st_dev);
    Ok(device(file_system.target)? != device(parent)?)
}

fn attach(file_system: &FileSystem, path: &str) -> Result<(), MountError> {
    let FileSystem { target, kind, flags, data, optional } = *file_system;
    match mount(Some(kind), path, Some(kind), flags, data) {
        Err(Errno::ENODEV | Errno::ENOENT) if optional => Ok(()),
        result => at(target, result),
    }
}

/// The directory `target` of the image; made when there is nothing.
fn image_directory(target: &'static str) -> Result<OwnedFd, MountError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let look = || open(target, flags, Mode::empty());
    let found = match look() {
        Err(Errno::ENOENT) => {
            at(target, mkdir(target, Mode::from_bits_truncate(0o755)))?;
            look()
        }
        found => found,
    };
    match found {
        Err(Errno::ENOTDIR | Errno::ELOOP) => Err(MountError::NotADirectory { target }),
        found => at(target, found),
    }
}

/// Hides and protects parts of `/proc` and `/sys`. Needs `/dev/null`.
///
/// # Errors
/// [`MountError::Mount`]
pub fn mask() -> Result<(), MountError> {
    for path in MASKED {
        match mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE) {
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTDIR) => {
                let flags = NO_SUID_DEV_EXEC | MsFlags::MS_RDONLY;
                at(path, mount(Some("tmpfs"), path, Some("tmpfs"), flags, NONE))?;
            }
            result => at(path, result)?,
        }
    }
    for path in READ_ONLY {
        match mount(Some(path), path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE) {
            Err(Errno::ENOENT) => continue,
            result => at(path, result)?,
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | NO_SUID_DEV_EXEC;
        at(path, mount(NONE, path, NONE, flags, NONE))?;
    }
    Ok(())
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

fn at<T>(target: &'static str, result: Result<T, Errno>) -> Result<T, MountError> {
    result.map_err(|source| MountError::Mount { target, source })
}
