//! What every container has, whatever its image: `/dev`, `/proc` and `/sys`, as Docker lays them out. They are mounted aside,
//! when neither the image nor the task is known yet, and moved into the root later: a template has them already.
//!
//! ```text
//! BASE/dev    tmpfs with the device nodes; devpts, shm and mqueue in it
//! BASE/proc   procfs of the container's process namespace
//! BASE/sys    sysfs, read-only; the container's cgroup in it
//! ```
//!
//! Nothing of the image is looked up but the three directories on which they end: these are made where they are missing and
//! refused where they are something else, a symbolic link above all.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{fchdir, mkdir};

use super::devices;
use super::mounts::{MountError, at};

const NONE: Option<&str> = None;
const NO_SUID_DEV_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// A file system of the container.
struct FileSystem {
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    data: Option<&'static str>,
    /// Whether a kernel without it will do.
    optional: bool,
}

/// The directories of the image that something ends on.
const TOP: [&str; 3] = [PROC, SYS, DEV];
const PROC: &str = "/proc";
const SYS: &str = "/sys";
const DEV: &str = "/dev";

/// Parents first.
const FILE_SYSTEMS: [FileSystem; 7] = [
    FileSystem { target: PROC, kind: "proc", flags: NO_SUID_DEV_EXEC, data: None, optional: false },
    FileSystem {
        target: SYS,
        kind: "sysfs",
        flags: NO_SUID_DEV_EXEC.union(MsFlags::MS_RDONLY),
        data: None,
        optional: false,
    },
    FileSystem {
        target: DEV,
        kind: "tmpfs",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_STRICTATIME),
        data: Some("mode=755,size=65536k"),
        optional: false,
    },
    FileSystem {
        target: "/dev/pts",
        kind: "devpts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        data: Some("newinstance,ptmxmode=0666,mode=0620,gid=5"),
        optional: false,
    },
    FileSystem {
        target: SHARED_MEMORY,
        kind: "tmpfs",
        flags: NO_SUID_DEV_EXEC,
        data: Some("mode=1777,size=65536k"),
        optional: false,
    },
    FileSystem { target: "/dev/mqueue", kind: "mqueue", flags: NO_SUID_DEV_EXEC, data: None, optional: true },
    FileSystem {
        target: "/sys/fs/cgroup",
        kind: "cgroup2",
        flags: NO_SUID_DEV_EXEC.union(MsFlags::MS_RDONLY),
        data: None,
        optional: true,
    },
];

const SHARED_MEMORY: &str = "/dev/shm";

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

/// The file systems before they are in a root, in the mount namespace of the process that made them.
#[derive(Debug)]
pub struct Skeleton {
    base: PathBuf,
    /// Whether `/dev` has been moved ahead of the others.
    dev_is_moved: Cell<bool>,
}

impl Skeleton {
    /// Mounts everything below `base`, an empty directory. The process's mount namespace, which it has to itself, is cut off from
    /// others; its umask must be 0.
    ///
    /// # Errors
    /// [`MountError::Mount`]
    pub fn build(base: &Path) -> Result<Self, MountError> {
        at("/", mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE))?;
        let skeleton = Self { base: base.to_owned(), dev_is_moved: Cell::new(false) };
        for file_system in &FILE_SYSTEMS {
            skeleton.attach(file_system)?;
        }
        at(DEV, devices::create(&skeleton.place(DEV)))?;
        skeleton.mask()?;
        Ok(skeleton)
    }

    /// Moves everything into `root`.
    ///
    /// # Errors
    /// All of [`MountError`].
    pub fn move_into(&self, root: &Path) -> Result<(), MountError> {
        TOP.iter()
            .filter(|target| **target != DEV || !self.dev_is_moved.get())
            .try_for_each(|target| self.put(target, root))
    }

    /// Moves `/dev` ahead of the others, so that something can be mounted in its `/dev/shm`.
    ///
    /// # Errors
    /// All of [`MountError`].
    pub fn move_dev(&self, root: &Path) -> Result<(), MountError> {
        self.put(DEV, root)?;
        self.dev_is_moved.set(true);
        Ok(())
    }

    /// Takes the file system away that `root` has at `/dev/shm` since [`Self::move_dev`], for another to be mounted there.
    ///
    /// # Errors
    /// [`MountError::Mount`]
    pub fn remove_shared_memory(&self, root: &Path) -> Result<(), MountError> {
        at(SHARED_MEMORY, umount2(&below(root, SHARED_MEMORY), MntFlags::UMOUNT_NOFOLLOW))
    }

    fn put(&self, target: &'static str, root: &Path) -> Result<(), MountError> {
        let directory = image_directory(root, target)?;
        // By the directory that was checked, not by its name.
        at(target, fchdir(directory))?;
        at(target, mount(Some(&self.place(target)), ".", NONE, MsFlags::MS_MOVE, NONE))
    }

    fn place(&self, target: &str) -> PathBuf {
        below(&self.base, target)
    }

    fn attach(&self, file_system: &FileSystem) -> Result<(), MountError> {
        let FileSystem { target, kind, flags, data, optional } = *file_system;
        let path = self.place(target);
        // The mount says it better when the directory is not there: sysfs makes its own.
        let _ = mkdir(&path, Mode::from_bits_truncate(0o755));
        match mount(Some(kind), &path, Some(kind), flags, data) {
            Err(Errno::ENODEV | Errno::ENOENT) if optional => Ok(()),
            result => at(target, result),
        }
    }

    /// Hides and protects parts of `/proc` and `/sys`. Needs `/dev/null`.
    fn mask(&self) -> Result<(), MountError> {
        let null = self.place("/dev/null");
        for target in MASKED {
            let path = self.place(target);
            match mount(Some(&null), &path, NONE, MsFlags::MS_BIND, NONE) {
                Err(Errno::ENOENT) => {}
                Err(Errno::ENOTDIR) => {
                    let flags = NO_SUID_DEV_EXEC | MsFlags::MS_RDONLY;
                    at(target, mount(Some("tmpfs"), &path, Some("tmpfs"), flags, NONE))?;
                }
                result => at(target, result)?,
            }
        }
        for target in READ_ONLY {
            let path = self.place(target);
            match mount(Some(&path), &path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE) {
                Err(Errno::ENOENT) => continue,
                result => at(target, result)?,
            }
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | NO_SUID_DEV_EXEC;
            at(target, mount(NONE, &path, NONE, flags, NONE))?;
        }
        Ok(())
    }
}

/// The directory `target` of the image in `root`; made when there is nothing.
fn image_directory(root: &Path, target: &'static str) -> Result<OwnedFd, MountError> {
    let path = below(root, target);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let look = || open(&path, flags, Mode::empty());
    let found = match look() {
        Err(Errno::ENOENT) => {
            at(target, mkdir(&path, Mode::from_bits_truncate(0o755)))?;
            look()
        }
        found => found,
    };
    match found {
        Err(Errno::ENOTDIR | Errno::ELOOP) => Err(MountError::NotADirectory { target }),
        found => at(target, found),
    }
}

/// `target`, an absolute path, below `base`.
fn below(base: &Path, target: &str) -> PathBuf {
    base.join(target.trim_start_matches('/'))
}
