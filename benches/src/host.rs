//! Where the figures come from: figures of different hosts, kernels or versions can't be compared.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use crate::command;

/// The host and the versions of what runs on it.
#[derive(Debug, Default, Serialize)]
pub struct Host {
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
    pub umoci: String,
    pub skopeo: String,
    pub registry: String,
}

impl Host {
    /// Looks at this host.
    pub fn look(taskrun: &Path, place: &str, commit: &str) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let version = |program: &Path| command::first_line(Command::new(program).arg("--version"));
        Ok(Self {
            place: place.to_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            memory: field(&read("/proc/meminfo"), "MemTotal").unwrap_or("unknown").to_owned(),
            kvm: doctor(taskrun),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit.to_owned(),
            taskrun: version(taskrun)?,
            umoci: version(Path::new("umoci"))?,
            skopeo: version(Path::new("skopeo"))?,
            registry: version(Path::new("docker-registry"))?,
        })
    }

    /// All of it, for a table.
    pub fn facts(&self) -> [(&'static str, String); 7] {
        [
            ("where", self.place.clone()),
            ("CPU", format!("{}, {} CPUs", self.cpu, self.cpus)),
            ("memory", self.memory.clone()),
            ("KVM", self.kvm.clone()),
            ("kernel", self.kernel.clone()),
            ("taskrun", format!("{}, commit {}", self.taskrun, self.commit)),
            ("others", [&self.umoci, &self.skopeo, &self.registry].map(String::as_str).join("; ")),
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
