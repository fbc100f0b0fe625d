//! Where the figures come from: figures of different hosts, kernels or versions can't be compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::command;

/// The host and the versions of what runs on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The name of the machine, of the real one also in the lab.
    #[serde(default)]
    pub name: String,
    /// This host or the lab.
    pub place: String,
    pub cpu: String,
    pub cpus: usize,
    pub memory: String,
    /// What KVM has below it.
    pub kvm: String,
    pub kernel: String,
    pub commit: String,
    pub taskrun: String,
    /// What contenders and tools of theirs say of themselves.
    #[serde(default)]
    pub tools: Vec<String>,
}

/// The tools that benchmarks use, as far as they are here.
const TOOLS: [&str; 5] = ["umoci", "skopeo", "docker-registry", "crun", "qemu-system-x86_64"];

impl Host {
    /// Looks at this host. Its name is not known in the lab.
    pub fn look(taskrun: &Path, place: &str, commit: &str, further_tools: &[PathBuf]) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let version = |program: &Path| command::first_line(Command::new(program).arg("--version"));
        let tools = TOOLS.iter().map(Path::new).chain(further_tools.iter().map(PathBuf::as_path));
        Ok(Self {
            name: String::new(),
            place: place.to_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            memory: field(&read("/proc/meminfo"), "MemTotal").unwrap_or("unknown").to_owned(),
            kvm: doctor(taskrun),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit.to_owned(),
            taskrun: version(taskrun)?,
            tools: tools.filter_map(|program| version(program).ok()).collect(),
        })
    }

    /// All of it, for a table.
    pub fn facts(&self) -> [(&'static str, String); 8] {
        [
            ("host", self.name.clone()),
            ("where", self.place.clone()),
            ("CPU", format!("{}, {} CPUs", self.cpu, self.cpus)),
            ("memory", self.memory.clone()),
            ("KVM", self.kvm.clone()),
            ("kernel", self.kernel.clone()),
            ("taskrun", format!("{}, commit {}", self.taskrun, self.commit)),
            ("others", self.tools.join("; ")),
        ]
    }
}

/// What `taskrun doctor` says of the hardware. A host that can't run tasks can still pull.
fn doctor(taskrun: &Path) -> String {
    let output = Command::new(taskrun).arg("doctor").output().map(|output| output.stdout).unwrap_or_default();
    kvm_kind(&String::from_utf8_lossy(&output)).to_owned()
}

fn kvm_kind(report: &str) -> &'static str {
    let verdict = |name: &str| {
        let line =
            report.lines().find(|line| line.split_once(' ').is_some_and(|(_, rest)| rest.trim().starts_with(name)));
        line.and_then(|line| line.split_whitespace().next())
    };
    match (verdict("KVM:"), verdict("Hardware virtualisation:")) {
        (Some("ok"), Some("ok")) => "hardware (VMX or SVM)",
        (Some("ok"), Some("slow")) => "deprivileged (neither VMX nor SVM)",
        (Some("FAIL"), _) => "none",
        _ => "unknown",
    }
}

/// The value of the first `name: value` line in a file of `/proc`.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doctors_lines_tell_the_kind_of_kvm() {
        let report = |kvm: &str, hardware: &str| format!("{kvm:<5} KVM: x\n{hardware:<5} Hardware virtualisation: y\n");
        assert_eq!(kvm_kind(&report("ok", "ok")), "hardware (VMX or SVM)");
        assert_eq!(kvm_kind(&report("ok", "slow")), "deprivileged (neither VMX nor SVM)");
        assert_eq!(kvm_kind(&report("FAIL", "ok")), "none");
        assert_eq!(kvm_kind("something else"), "unknown");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: EPYC: fast\n";
        assert_eq!(field(text, "model name"), Some("EPYC: fast"));
        assert_eq!(field(text, "name"), None);
    }
}
