//! Cloud Hypervisor, driven over its API (`vmm/src/api/openapi/cloud-hypervisor.yaml` in its source).

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::api::Api;
use super::served::{Protocol, Served};
use super::{MEMORY_MIB, Payload, command_line, text};

/// Cloud Hypervisor.
pub type CloudHypervisor = Served<CloudHypervisorApi>;

/// Its API.
#[derive(Debug)]
pub struct CloudHypervisorApi;

impl Protocol for CloudHypervisorApi {
    const NAME: &'static str = "Cloud Hypervisor";

    fn options(socket: &Path) -> Vec<OsString> {
        let mut path = OsString::from("path=");
        path.push(socket);
        vec!["--api-socket".into(), path]
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
}

fn url(folder: &Path) -> Result<String> {
    Ok(format!("file://{}", text(folder)?))
}

#[cfg(test)]
mod tests {
    use super::super::served::asked;
    use super::*;

    #[test]
    fn a_machine_is_made_and_booted() {
        let payload = Payload { kernel: "/k".into(), initramfs: "/i".into() };
        let requests = asked(|api| CloudHypervisorApi::boot(api, &payload));
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
            CloudHypervisorApi::save(api, Path::new("/s"))?;
            CloudHypervisorApi::restore(api, Path::new("/s"))
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
