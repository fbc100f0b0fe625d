//! What a task must not leave behind: a process, a mount, a cgroup, a socket or a temporary file.
//!
//! Each run of taskrun carries an identifier in its environment, which its children inherit, so that runs of other
//! tests at the same time are told apart.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The environment variable that marks the processes of one run.
pub const MARK: &str = "TASKRUN_TEST_RUN";

/// The name of a directory on which a test itself mounts something, while others run.
pub const TEST_MOUNT: &str = "mounted-by-a-test";

/// The host's state that a run must not change. On a host that others use too, only what bears taskrun's name: what they mount
/// and make meanwhile is theirs.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

impl Snapshot {
    /// Looks at the host.
    #[must_use]
    pub fn take() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut cgroups = BTreeSet::new();
        directories(Path::new("/sys/fs/cgroup"), &mut cgroups);
        let is_ours = |name: &str| crate::place::owns_the_host() || name.contains("taskrun");
        cgroups.retain(|path| is_ours(&path.to_string_lossy()));
        let mounts = mounts.lines().filter(|line| !line.contains(TEST_MOUNT) && is_ours(line));
        Self { mounts: mounts.map(str::to_owned).collect(), cgroups }
    }

    /// Fails the test when the host has changed since.
    ///
    /// # Panics
    /// When it has.
    pub fn assert_unchanged(&self) {
        let now = Self::take();
        let mounts: Vec<_> = now.mounts.difference(&self.mounts).collect();
        // A cgroup in use is another test's: of a run that is looked at, no process is left.
        let is_free = |path: &&PathBuf| fs::read(path.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty());
        let cgroups: Vec<_> = now.cgroups.difference(&self.cgroups).filter(is_free).collect();
        assert!(mounts.is_empty() && cgroups.is_empty(), "left behind: mounts {mounts:?}, cgroups {cgroups:?}");
    }
}

fn directories(path: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories(&entry.path(), found);
            found.insert(entry.path());
        }
    }
}

/// The living processes of the run with this mark: process id and command line.
#[must_use]
pub fn processes(mark: &str) -> Vec<(i32, String)> {
    let needle = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == needle.as_bytes()) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

/// Every file below a directory.
#[must_use]
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
