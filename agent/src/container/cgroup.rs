//! The command's cgroup (version 2): a little less memory than the guest has left, so that a command that wants more meets the
//! out-of-memory killer of its own cgroup, and the agent and the kernel keep what they need.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::sysinfo::sysinfo;
use protocol::message::FailureKind;

use crate::failure::Kind;

/// The controllers that a container sees in its own cgroup.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// The most processes and threads: below the 32768 that process ids allow, so that the agent's own needs are met.
const MOST_PROCESSES: u32 = 30_000;

/// Memory kept for the kernel and the agent: this much and a 64th of the guest's.
const RESERVE: u64 = 8 << 20;

/// The least memory that a command is started with.
const LEAST: u64 = 4 << 20;

/// The largest file of the cgroup file system that is read.
const LARGEST_FILE: u64 = 64 << 10;

/// Why the command's cgroup could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file of the cgroup file system refused.
    #[error("The task's cgroup can't be set up at {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest has used the memory up.
    #[error(
        "The guest's kernel and agent leave {left} MiB of the task's {total} MiB of memory, which is too little to start a command: \
         give the task more memory"
    )]
    TooLittleMemory {
        /// What is left, in MiB.
        left: u64,
        /// What the guest has, in MiB.
        total: u64,
    },
}

impl Kind for CgroupError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::File { .. } => FailureKind::Internal,
            Self::TooLittleMemory { .. } => FailureKind::Settings,
        }
    }
}

/// The command's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
    processes: File,
    limits_memory: bool,
    /// A controller that this kernel does not have, as a sentence.
    pub warning: Option<String>,
}

impl Cgroup {
    /// Makes the cgroup `name` below `root`, a mounted cgroup2 file system. Its memory isn't limited yet.
    ///
    /// # Errors
    /// All of [`CgroupError`].
    pub fn create(root: &Path, name: &str) -> Result<Self, CgroupError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| CgroupError::File { path, source }
        };
        let missing = enable_controllers(root).map_err(at(root))?;
        let directory = root.join(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&directory)(error)),
            _ => {}
        }
        if !missing.contains(&"pids") {
            set(&directory, "pids.max", MOST_PROCESSES.into())?;
        }
        let path = directory.join("cgroup.procs");
        let processes = OpenOptions::new().write(true).open(&path).map_err(at(&path))?;
        let warning = (!missing.is_empty()).then(|| {
            format!("The guest's kernel has no cgroup controllers {}; nothing is limited by them", missing.join(", "))
        });
        let limits_memory = !missing.contains(&"memory");
        Ok(Self { directory, processes, limits_memory, warning })
    }

    /// Makes the memory that is left now the limit of what its processes hold.
    ///
    /// # Errors
    /// All of [`CgroupError`].
    pub fn limit_memory(&self) -> Result<(), CgroupError> {
        if self.limits_memory { set(&self.directory, "memory.max", memory_limit()?) } else { Ok(()) }
    }

    /// The file to which a process writes `0` to enter the cgroup.
    pub fn entrance(&self) -> BorrowedFd<'_> {
        self.processes.as_fd()
    }

    /// The most memory that its processes have held at once, in bytes; `None` where the kernel doesn't count it.
    pub fn peak_memory(&self) -> Option<u64> {
        read(&self.directory.join("memory.peak")).ok()?.trim().parse().ok()
    }

    /// How many of its processes the out-of-memory killer has killed.
    pub fn out_of_memory_kills(&self) -> u64 {
        read(&self.directory.join("memory.events")).map(|events| kills_in(&events)).unwrap_or_default()
    }
}

fn set(directory: &Path, file: &str, value: u64) -> Result<(), CgroupError> {
    let path = directory.join(file);
    write(&path, &value.to_string()).map_err(|source| CgroupError::File { path, source })
}

/// Lets children of `root` use the controllers; returns those that the kernel does not have.
fn enable_controllers(root: &Path) -> io::Result<Vec<&'static str>> {
    let control = root.join("cgroup.subtree_control");
    let all = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
    if write(&control, &all).is_ok() {
        return Ok(Vec::new());
    }
    let available = read(&root.join("cgroup.controllers"))?;
    let (present, missing): (Vec<_>, Vec<_>) =
        CONTROLLERS.iter().partition(|name| available.split_whitespace().any(|one| one == **name));
    if !present.is_empty() {
        write(&control, &present.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" "))?;
    }
    Ok(missing)
}

/// What is left of the guest's memory, less the reserve.
fn memory_limit() -> Result<u64, CgroupError> {
    let info = sysinfo().map_err(|error| CgroupError::File { path: "memory.max".into(), source: error.into() })?;
    limit_of(info.ram_total(), info.ram_unused())
}

fn limit_of(total: u64, unused: u64) -> Result<u64, CgroupError> {
    let limit = unused.saturating_sub(RESERVE).saturating_sub(total / 64);
    if limit < LEAST {
        return Err(CgroupError::TooLittleMemory { left: unused >> 20, total: total >> 20 });
    }
    Ok(limit)
}

/// The count of `oom_kill` in a `memory.events` file.
fn kills_in(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_killers_count_is_told_from_its_neighbours() {
        assert_eq!(kills_in("low 0\nhigh 7\nmax 12\noom 3\noom_kill 2\noom_group_kill 5\n"), 2);
        assert_eq!(kills_in("low 0\n"), 0);
        assert_eq!(kills_in("oom_kill many\n"), 0);
    }

    #[test]
    fn the_limit_leaves_a_reserve() {
        let total = 1024 << 20;
        assert_eq!(limit_of(total, 900 << 20).unwrap(), (900 - 8 - 16) << 20);
    }

    #[test]
    fn too_little_memory_says_how_much_there_is() {
        let error = limit_of(256 << 20, 10 << 20).unwrap_err();
        assert!(error.to_string().starts_with("The guest's kernel and agent leave 10 MiB of the task's 256 MiB"));
        assert_eq!(error.kind(), FailureKind::Settings);
    }

    #[test]
    fn missing_controllers_are_named_and_the_others_enabled() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu memory hugetlb\n").unwrap();
        // The first write of a real kernel fails; this file does not exist for it.
        assert!(enable_controllers(root.path()).is_err());
        fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
        assert_eq!(enable_controllers(root.path()).unwrap(), Vec::<&str>::new());
    }
}
