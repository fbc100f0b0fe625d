//! A container on the host, by crun, as scale: what starting a program costs that shares the host's kernel.
//!
//! Containers get no cgroup. Where the host has cgroups of both versions, which crun refuses, it runs where none are to be seen: in a
//! mount namespace that is made once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command;
use crate::task::Task;

/// An image unpacked for crun, and a folder for crun's state.
#[derive(Debug)]
pub struct Containers {
    folder: TempDir,
    count: AtomicU32,
    /// A process in the mount namespace without cgroups.
    without_cgroups: Option<Task>,
}

impl Containers {
    /// Unpacks an image (`oci:DIR:TAG`) into `folder`, whose containers will run `arguments`, and runs one.
    pub fn new(folder: TempDir, image: &str, arguments: &[&str]) -> Result<Self> {
        let layout = image.strip_prefix("oci:").unwrap_or(image);
        let bundle = folder.path().join("bundle");
        let mut umoci = Command::new("umoci");
        umoci.args(["raw", "unpack", "--image", layout]).arg(bundle.join("rootfs"));
        fs::create_dir(&bundle).context("A bundle can't be made")?;
        command::run(&mut umoci)?;
        let mut umoci = Command::new("umoci");
        umoci.args(["raw", "runtime-config", "--image", layout, "--rootfs"]).arg(bundle.join("rootfs"));
        command::run(umoci.arg(bundle.join("config.json")))?;
        adapt(&bundle.join("config.json"), arguments)?;
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts can't be read")?;
        let without_cgroups = is_hybrid(&mounts).then(hide_cgroups).transpose()?;
        let containers = Self { folder, count: AtomicU32::new(0), without_cgroups };
        command::run(&mut containers.command())?;
        Ok(containers)
    }

    /// A call that runs one to its end.
    pub fn command(&self) -> Command {
        let id = format!("taskrun-bench-{}-{}", std::process::id(), self.count.fetch_add(1, Ordering::Relaxed));
        let mut crun = match &self.without_cgroups {
            None => Command::new("crun"),
            Some(holder) => {
                let mut nsenter = Command::new("nsenter");
                nsenter.args(["--mount", "--target", &holder.pid().to_string(), "crun"]);
                nsenter
            }
        };
        crun.args(["--cgroup-manager=disabled", "--root"]).arg(self.path("state"));
        crun.arg("run").arg("--bundle").arg(self.path("bundle")).arg(id);
        crun
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Why there are no containers, as a sentence; empty when there are.
pub fn absence(containers: &Result<Containers>) -> String {
    containers.as_ref().err().map(|error| format!("Containers are left out: {error:#}.")).unwrap_or_default()
}

/// Whether there is a hierarchy of version 2 beside those of version 1.
fn is_hybrid(mounts: &str) -> bool {
    mounts.lines().any(|line| line.contains(" /sys/fs/cgroup/unified cgroup2 "))
}

fn hide_cgroups() -> Result<Task> {
    let script = "mount -t tmpfs none /sys/fs/cgroup && echo ready && read -r line";
    let mut holder = Task::start(Command::new("unshare").args(["--mount", "sh", "-c", script]))?;
    holder.wait_for("ready").context("crun can't be kept from cgroups of both versions")?;
    Ok(holder)
}

/// Sets the command, and takes the terminal away.
fn adapt(config: &Path, arguments: &[&str]) -> Result<()> {
    let text = fs::read(config).context("umoci wrote no config.json")?;
    let mut document: Value = serde_json::from_slice(&text).context("config.json can't be read")?;
    let process = document.get_mut("process").and_then(Value::as_object_mut).context("config.json has no process")?;
    process.insert("args".to_owned(), json!(arguments));
    process.insert("terminal".to_owned(), json!(false));
    fs::write(config, document.to_string()).context("config.json can't be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_of_both_versions_are_noticed() {
        assert!(is_hybrid("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"));
        assert!(!is_hybrid("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"));
    }

    #[test]
    fn only_the_command_and_the_terminal_change() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"process": {"args": ["sh"], "terminal": true, "cwd": "/"}, "root": {}}"#).unwrap();
        adapt(file.path(), &["echo", "x"]).unwrap();
        let found: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
        let process = json!({"args": ["echo", "x"], "terminal": false, "cwd": "/"});
        assert_eq!(found, json!({"process": process, "root": {}}));
        fs::write(file.path(), "{}").unwrap();
        assert!(adapt(file.path(), &[]).is_err());
    }
}
