//! A task's cgroup: `taskrun-ID`, with the VMM's process in it.
//!
//! It is noted in taskrun's home, as a link `cgroups/ID` to it, from before it is made until it is gone. A task removes its
//! own at its end; what is left of a supervisor that was killed, any later command removes ([`sweep`]).
//!
//! Source of the files: `cgroup-v2.rst` and `scheduler/sched-bwc.rst` of the kernel's documentation.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use super::{Version, hierarchy};
use crate::ledger::heartbeat;
use crate::size::{Cpu, UNITS_PER_VCPU};
use crate::task::folder::TaskFolder;

/// How the names of tasks' cgroups start.
const PREFIX: &str = "taskrun-";

/// The folder of links in taskrun's home.
const LINKS: &str = "cgroups";

/// Over how long a share is counted, in microseconds; the kernel's own.
const PERIOD_US: u64 = 100_000;

/// A cgroup. It is removed when this is dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    link: PathBuf,
    version: Version,
    /// Microseconds of processor time in each period.
    quota_us: u64,
}

impl Cgroup {
    /// Makes the cgroup of a task, without a limit as yet, where one can be limited.
    ///
    /// # Errors
    /// When there is no place for it; nothing is left of it then.
    pub fn create(home: &Path, id: &str, version: Version, cpu: Cpu) -> io::Result<Self> {
        let quota_us = u64::from(cpu.units()).saturating_mul(PERIOD_US) / u64::from(UNITS_PER_VCPU);
        let mut failed = io::Error::new(io::ErrorKind::Unsupported, "this process is in none that it may divide");
        for parent in hierarchy::parents(version) {
            match Self::create_in(&parent, home, id, version, quota_us) {
                Ok(cgroup) => return Ok(cgroup),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn create_in(parent: &Path, home: &Path, id: &str, version: Version, quota_us: u64) -> io::Result<Self> {
        let links = home.join(LINKS);
        DirBuilder::new().recursive(true).mode(0o700).create(&links)?;
        let path = parent.join(format!("{PREFIX}{id}"));
        let link = links.join(id);
        symlink(&path, &link)?;
        // From here on it is removed again when something fails.
        let cgroup = Self { path, link, version, quota_us };
        fs::create_dir(&cgroup.path)?;
        // What would fail at the task's start fails now.
        cgroup.limit()?;
        cgroup.set(None)?;
        Ok(cgroup)
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// When it may not be moved; the cgroup is gone then.
    pub fn enter(self, process: u32) -> io::Result<Self> {
        write(&self.path.join("cgroup.procs"), &process.to_string())?;
        Ok(self)
    }

    /// Limits what is in it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn limit(&self) -> io::Result<()> {
        self.set(Some(self.quota_us))
    }

    fn set(&self, quota_us: Option<u64>) -> io::Result<()> {
        match self.version {
            Version::V2 => {
                let quota = quota_us.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                write(&self.path.join("cpu.max"), &format!("{quota} {PERIOD_US}"))
            }
            Version::V1 => {
                write(&self.path.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                let quota = quota_us.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
                write(&self.path.join("cpu.cfs_quota_us"), &quota)
            }
        }
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path, &self.link);
    }
}

/// Removes a cgroup and then its link. What still holds a process stays, to be removed later.
fn remove(path: &Path, link: &Path) {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {}
        _ => drop(fs::remove_file(link)),
    }
}

/// Removes the cgroups that supervisors left which were killed.
pub fn sweep(home: &Path) {
    let Ok(links) = fs::read_dir(home.join(LINKS)) else { return };
    for link in links.flatten() {
        let name = link.file_name();
        let Some(id) = name.to_str() else { continue };
        let Ok(path) = fs::read_link(link.path()) else { continue };
        let ours = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)) == Some(id);
        if ours && !heartbeat::is_held(&TaskFolder::of(home, id).heartbeat()) {
            remove(&path, &link.path());
        }
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Heartbeat;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn nothing_is_left_of_a_cgroup_that_cannot_be_limited() {
        let [home, parent] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        // A folder that is no cgroup has no file for a limit.
        assert!(Cgroup::create_in(parent.path(), home.path(), "id", Version::V2, 25_000).is_err());
        assert!(names(parent.path()).is_empty() && names(&home.path().join(LINKS)).is_empty());
    }

    #[test]
    fn what_a_dead_supervisor_left_is_removed_and_a_living_ones_is_not() {
        let [home, parent] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        let links = home.path().join(LINKS);
        fs::create_dir(&links).unwrap();
        for id in ["dead", "living", "busy", "gone"] {
            symlink(parent.path().join(format!("{PREFIX}{id}")), links.join(id)).unwrap();
        }
        for name in ["taskrun-dead", "taskrun-living", "taskrun-busy/process", "other"] {
            fs::create_dir_all(parent.path().join(name)).unwrap();
        }
        symlink(parent.path().join("other"), links.join("other")).unwrap();
        let heart = Heartbeat::start(&TaskFolder::of(home.path(), "living").heartbeat()).unwrap();
        let left = || {
            let [mut kept, mut noted] = [names(parent.path()), names(&links)];
            kept.sort();
            noted.sort();
            (kept.join(" "), noted.join(" "))
        };
        sweep(home.path());
        assert_eq!(left(), ("other taskrun-busy taskrun-living".into(), "busy living other".into()));
        drop(heart);
        fs::remove_dir(parent.path().join("taskrun-busy/process")).unwrap();
        sweep(home.path());
        assert_eq!(left(), ("other".into(), "other".into()));
    }
}
