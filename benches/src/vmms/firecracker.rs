//! Firecracker, driven over its API (`src/firecracker/swagger/firecracker.yaml` in its source) as its users do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use super::api::{Api, SocketFolder};
use super::output::Output;
use super::process::Process;
use super::{Guest, MEMORY_MIB, Payload, Restored, Snapshots, Vmm, command_line};

/// The program `firecracker`.
#[derive(Clone, Debug)]
pub struct Firecracker {
    program: PathBuf,
}

/// A process whose API answers.
struct Running {
    process: Process,
    output: Output,
    api: Api,
}

impl Firecracker {
    /// The one at this path.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    fn start(&self) -> Result<Running> {
        let folder = SocketFolder::new()?;
        let mut command = Command::new(&self.program);
        command.arg("--api-sock").arg(folder.socket());
        let (mut process, output) = Process::start_with_output(&mut command)?;
        let api = folder.connect().with_context(|| format!("Firecracker's last words: {}", process.last_words()))?;
        Ok(Running { process, output, api })
    }
}

impl Vmm for Firecracker {
    fn name(&self) -> &'static str {
        "Firecracker"
    }

    fn boot(&self, payload: &Payload) -> Result<Guest> {
        let Running { process, output, mut api } = self.start()?;
        boot(&mut api, payload)?;
        Ok(Guest::new(process, output))
    }
}

impl Snapshots for Firecracker {
    fn save(&self, payload: &Payload, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let Running { process, output, mut api } = self.start()?;
        boot(&mut api, payload)?;
        Guest::new(process, output).first_output()?;
        save(&mut api, folder)
    }

    fn restore(&self, folder: &Path) -> Result<Restored> {
        let Running { process, output, mut api } = self.start()?;
        restore(&mut api, folder)?;
        let resumed = process.until(Instant::now());
        Ok(Restored { guest: Guest::new(process, output), resumed })
    }
}

fn boot(api: &mut Api, payload: &Payload) -> Result<()> {
    api.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": MEMORY_MIB }))?;
    let source = json!({
        "kernel_image_path": payload.kernel,
        "initrd_path": payload.initramfs,
        "boot_args": command_line()?,
    });
    api.put("/boot-source", &source)?;
    api.put("/actions", &json!({ "action_type": "InstanceStart" }))
}

fn save(api: &mut Api, folder: &Path) -> Result<()> {
    api.patch("/vm", &json!({ "state": "Paused" }))?;
    let files = json!({
        "snapshot_type": "Full",
        "snapshot_path": folder.join("state"),
        "mem_file_path": folder.join("memory"),
    });
    api.put("/snapshot/create", &files)
}

fn restore(api: &mut Api, folder: &Path) -> Result<()> {
    let files = json!({
        "snapshot_path": folder.join("state"),
        "mem_backend": { "backend_type": "File", "backend_path": folder.join("memory") },
        "resume_vm": true,
    });
    api.put("/snapshot/load", &files)
}

#[cfg(test)]
mod tests {
    use super::super::api::fake;
    use super::*;

    const DONE: &str = "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";

    /// What is asked of the API.
    fn asked(ask: impl Fn(&mut Api) -> Result<()>) -> Vec<fake::Request> {
        let (mut api, requests) = fake::serve(DONE);
        ask(&mut api).unwrap();
        drop(api);
        requests.iter().collect()
    }

    #[test]
    fn a_boot_is_three_requests() {
        let payload = Payload { kernel: "/k".into(), initramfs: "/i".into() };
        let requests = asked(|api| boot(api, &payload));
        let paths: Vec<_> = requests.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
        assert_eq!(paths, ["PUT /machine-config", "PUT /boot-source", "PUT /actions"]);
        assert_eq!(requests[0].2, json!({"vcpu_count": 1, "mem_size_mib": 128}));
        assert_eq!(requests[1].2["kernel_image_path"], "/k");
        assert_eq!(requests[1].2["initrd_path"], "/i");
        let words = requests[1].2["boot_args"].as_str().unwrap();
        assert!(words.contains("reboot=k") && words.contains("quiet"), "{words}");
        assert_eq!(requests[2].2, json!({"action_type": "InstanceStart"}));
    }

    #[test]
    fn a_snapshot_is_taken_of_a_guest_that_stands_still() {
        let requests = asked(|api| save(api, Path::new("/s")));
        let files = json!({"snapshot_type": "Full", "snapshot_path": "/s/state", "mem_file_path": "/s/memory"});
        let pause = ("PATCH".to_owned(), "/vm".to_owned(), json!({"state": "Paused"}));
        assert_eq!(requests, [pause, ("PUT".to_owned(), "/snapshot/create".to_owned(), files)]);
    }

    #[test]
    fn a_guest_is_restored_and_resumed_in_one_request() {
        let requests = asked(|api| restore(api, Path::new("/s")));
        let memory = json!({"backend_type": "File", "backend_path": "/s/memory"});
        let body = json!({"snapshot_path": "/s/state", "mem_backend": memory, "resume_vm": true});
        assert_eq!(requests, [("PUT".to_owned(), "/snapshot/load".to_owned(), body)]);
    }
}
