//! Cloud Hypervisor, driven over its API (`vmm/src/api/openapi/cloud-hypervisor.yaml` in its source).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::api::{Api, SocketFolder};
use super::output::Output;
use super::process::Process;
use super::{Guest, MEMORY_MIB, Payload, Restored, Snapshots, Vmm, command_line, text};

/// The program `cloud-hypervisor`.
#[derive(Clone, Debug)]
pub struct CloudHypervisor {
    program: PathBuf,
}

/// A process whose API answers.
struct Running {
    process: Process,
    output: Output,
    api: Api,
}

impl CloudHypervisor {
    /// The one at this path.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    fn start(&self) -> Result<Running> {
        let folder = SocketFolder::new()?;
        let mut command = Command::new(&self.program);
        command.arg("--api-socket").arg(format!("path={}", text(&folder.socket())?));
        let (mut process, output) = Process::start_with_output(&mut command)?;
        let api = folder.connect().with_context(|| format!("Its last words: {}", process.last_words()))?;
        Ok(Running { process, output, api })
    }
}

impl Vmm for CloudHypervisor {
    fn name(&self) -> &'static str {
        "Cloud Hypervisor"
    }

    fn boot(&self, payload: &Payload) -> Result<Guest> {
        let Running { process, output, mut api } = self.start()?;
        boot(&mut api, payload)?;
        Ok(Guest::new(process, output))
    }
}

impl Snapshots for CloudHypervisor {
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

/// The serial port goes to the process's standard output.
fn boot(api: &mut Api, payload: &Payload) -> Result<()> {
    let machine = json!({
        "payload": { "kernel": payload.kernel, "initramfs": payload.initramfs, "cmdline": command_line()? },
        "cpus": { "boot_vcpus": 1, "max_vcpus": 1 },
        "memory": { "size": u64::from(MEMORY_MIB) << 20 },
        "serial": { "mode": "Tty" },
        "console": { "mode": "Off" },
    });
    api.put("/api/v1/vm.create", &machine)?;
    api.put("/api/v1/vm.boot", &Value::Null)
}

fn save(api: &mut Api, folder: &Path) -> Result<()> {
    api.put("/api/v1/vm.pause", &Value::Null)?;
    api.put("/api/v1/vm.snapshot", &json!({ "destination_url": url(folder)? }))
}

/// In two requests: earlier versions can't resume in the first.
fn restore(api: &mut Api, folder: &Path) -> Result<()> {
    api.put("/api/v1/vm.restore", &json!({ "source_url": url(folder)? }))?;
    api.put("/api/v1/vm.resume", &Value::Null)
}

fn url(folder: &Path) -> Result<String> {
    Ok(format!("file://{}", text(folder)?))
}

#[cfg(test)]
mod tests {
    use super::super::api::fake;
    use super::*;

    const DONE: &str = "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n";

    /// What is asked of the API.
    fn asked(ask: impl Fn(&mut Api) -> Result<()>) -> Vec<(String, Value)> {
        let (mut api, requests) = fake::serve(DONE);
        ask(&mut api).unwrap();
        drop(api);
        requests.iter().map(|(method, path, body)| (format!("{method} {path}"), body)).collect()
    }

    #[test]
    fn a_machine_is_made_and_booted() {
        let payload = Payload { kernel: "/k".into(), initramfs: "/i".into() };
        let requests = asked(|api| boot(api, &payload));
        assert_eq!(requests[0].0, "PUT /api/v1/vm.create");
        let machine = &requests[0].1;
        assert_eq!((&machine["payload"]["kernel"], &machine["payload"]["initramfs"]), (&json!("/k"), &json!("/i")));
        assert_eq!(machine["cpus"], json!({"boot_vcpus": 1, "max_vcpus": 1}));
        assert_eq!(machine["memory"], json!({"size": 134_217_728}));
        assert_eq!(machine["serial"], json!({"mode": "Tty"}));
        assert_eq!(requests[1..], [("PUT /api/v1/vm.boot".to_owned(), Value::Null)]);
    }

    #[test]
    fn a_guest_is_paused_and_saved_and_restored_and_resumed() {
        let requests = asked(|api| {
            save(api, Path::new("/s"))?;
            restore(api, Path::new("/s"))
        });
        let expected = [
            ("PUT /api/v1/vm.pause", Value::Null),
            ("PUT /api/v1/vm.snapshot", json!({"destination_url": "file:///s"})),
            ("PUT /api/v1/vm.restore", json!({"source_url": "file:///s"})),
            ("PUT /api/v1/vm.resume", Value::Null),
        ];
        assert_eq!(requests, expected.map(|(request, body)| (request.to_owned(), body)));
    }
}
