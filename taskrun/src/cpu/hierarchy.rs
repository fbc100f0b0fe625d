//! Where among the cgroups this process is, and below which of them tasks' cgroups can be made.
//!
//! Version 1: below this process's own. Version 2 keeps processes out of the cgroups that give controllers to their children
//! ("no internal processes"), the hierarchy's root aside, so tasks' cgroups are made beside this process's own, where
//! that has no limit of its own that a VMM would escape; or below it, where it is the root.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Version;

/// The controller of processor time.
const CONTROLLER: &str = "cpu";

/// The limits that no VMM is taken out of, and what they say when there is none.
const LIMITS: [(&str, &str); 3] = [("cpu.max", "max"), ("memory.max", "max"), ("memory.high", "max")];

/// The cgroups below which those of tasks can be made, as far as can be seen without trying; the best first.
pub(super) fn parents(version: Version) -> Vec<PathBuf> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let Some(own) = own(version, &read("/proc/self/cgroup"), &read("/proc/self/mountinfo")) else { return Vec::new() };
    match version {
        Version::V1 => vec![own],
        Version::V2 => candidates(&own).into_iter().filter(|parent| gives_controller(parent)).collect(),
    }
}

/// The folder of this process's cgroup, by the texts of cgroups(7)'s `/proc/self/cgroup` and of proc_pid_mountinfo(5).
fn own(version: Version, cgroups: &str, mounts: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let found = match version {
            Version::V1 => controllers.split(',').any(|name| name == CONTROLLER),
            Version::V2 => number == "0" && controllers.is_empty(),
        };
        found.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let [kind, _, options] = words(system)?;
        let found = match version {
            Version::V1 => kind == "cgroup" && options.split(',').any(|name| name == CONTROLLER),
            Version::V2 => kind == "cgroup2",
        };
        let [_, _, _, root, at] = words(mount)?;
        let below = Path::new(path).strip_prefix(root).ok().filter(|_| found)?;
        // A process that was moved out of its cgroup namespace is in `/../…`.
        let inside = !below.components().any(|part| part == std::path::Component::ParentDir);
        // A path that ends with a slash is another to who compares paths' parents.
        inside.then(|| if below.as_os_str().is_empty() { at.into() } else { Path::new(at).join(below) })
    })
}

/// The first words of a line.
fn words<const N: usize>(line: &str) -> Option<[&str; N]> {
    let words: Vec<_> = line.split(' ').take(N).collect();
    words.try_into().ok()
}

/// The cgroups of version 2 that may be divided for tasks of a process in the cgroup `own`.
fn candidates(own: &Path) -> Vec<PathBuf> {
    // The root alone has no type.
    if !own.join("cgroup.type").exists() {
        return vec![own.to_owned()];
    }
    let unlimited = LIMITS.iter().all(|(file, none)| {
        // A controller that isn't there limits nothing.
        fs::read_to_string(own.join(file)).map_or(true, |limit| limit.split_whitespace().next() == Some(none))
    });
    let beside = own.parent().filter(|parent| unlimited && parent.join("cgroup.controllers").exists());
    beside.map(Path::to_owned).into_iter().collect()
}

/// Whether a cgroup gives the controller to its children, or does now.
fn gives_controller(parent: &Path) -> bool {
    let has = |file: &str| {
        let controllers = fs::read_to_string(parent.join(file)).unwrap_or_default();
        controllers.split_whitespace().any(|name| name == CONTROLLER)
    };
    let give = || {
        let mut control = OpenOptions::new().write(true).open(parent.join("cgroup.subtree_control"))?;
        control.write_all(format!("+{CONTROLLER}").as_bytes())
    };
    has("cgroup.subtree_control") || has("cgroup.controllers") && give().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "24 20 0:22 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
        31 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct\n\
        32 24 0:29 / /sys/fs/cgroup/cpuset rw shared:16 - cgroup cgroup rw,cpuset\n\
        25 24 0:23 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_own_cgroup_is_found_in_both_hierarchies() {
        let cgroups = "5:cpuset:/c\n4:cpu,cpuacct:/a/b\n0::/user.slice\n";
        assert_eq!(own(Version::V1, cgroups, MOUNTS), Some("/sys/fs/cgroup/cpu,cpuacct/a/b".into()));
        assert_eq!(own(Version::V2, cgroups, MOUNTS), Some("/sys/fs/cgroup/unified/user.slice".into()));
        assert_eq!(own(Version::V2, "0::/\n", MOUNTS), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(own(Version::V1, "0::/\n", MOUNTS), None);
        assert_eq!(own(Version::V2, cgroups, ""), None);
        assert_eq!(own(Version::V2, "nonsense\n0:\n", "nonsense - x\n"), None);
    }

    #[test]
    fn a_part_of_a_hierarchy_and_a_foreign_one_are_told_apart() {
        let mounts = "1 2 0:3 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(own(Version::V2, "0::/docker/x/y\n", mounts), Some("/sys/fs/cgroup/y".into()));
        assert_eq!(own(Version::V2, "0::/elsewhere\n", mounts), None);
        assert_eq!(own(Version::V2, "0::/docker/x/../y\n", mounts), None);
    }

    #[test]
    fn a_limit_of_ones_own_is_not_escaped() {
        let folder = tempfile::tempdir().unwrap();
        let (parent, own) = (folder.path().to_owned(), folder.path().join("own"));
        fs::create_dir(&own).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(candidates(&own), std::slice::from_ref(&own), "the root");
        write("own/cgroup.type", "domain\n");
        assert!(candidates(&own).is_empty(), "a namespace's root");
        write("cgroup.controllers", "cpu memory\n");
        write("own/cpu.max", "max 100000\n");
        write("own/memory.max", "max\n");
        assert_eq!(candidates(&own), std::slice::from_ref(&parent));
        write("own/memory.max", "1073741824\n");
        assert!(candidates(&own).is_empty());
        write("own/memory.max", "max\n");
        write("own/cpu.max", "50000 100000\n");
        assert!(candidates(&own).is_empty());
    }

    #[test]
    fn a_controller_is_given_where_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("cgroup.subtree_control");
        fs::write(&control, "").unwrap();
        assert!(!gives_controller(folder.path()));
        fs::write(folder.path().join("cgroup.controllers"), "cpuset cpu\n").unwrap();
        assert!(gives_controller(folder.path()));
        assert_eq!(fs::read_to_string(&control).unwrap(), "+cpu");
        fs::remove_file(&control).unwrap();
        assert!(!gives_controller(folder.path()));
    }
}
