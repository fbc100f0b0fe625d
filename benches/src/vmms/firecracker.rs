//! Firecracker, driven over its API (`src/firecracker/swagger/firecracker.yaml` in its source) as its users do.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::api::Api;
use super::served::{Protocol, Served};
use super::{MEMORY_MIB, Payload, command_line};

/// Firecracker.
pub type Firecracker = Served<FirecrackerApi>;

/// Its API.
#[derive(Debug)]
pub struct FirecrackerApi;

impl Protocol for FirecrackerApi {
    const NAME: &'static str = "Firecracker";

    fn options(socket: &Path) -> Vec<OsString> {
        vec!["--api-sock".into(), socket.into()]
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
}

#[cfg(test)]
mod tests {
    use super::super::served::asked;
    use super::*;

    #[test]
    fn a_boot_is_three_requests() {
        let payload = Payload { kernel: "/k".into(), initramfs: "/i".into() };
        let requests = asked(|api| FirecrackerApi::boot(api, &payload));
        let paths: Vec<_> = requests.iter().map(|(request, _)| request.as_str()).collect();
        assert_eq!(paths, ["PUT /machine-config", "PUT /boot-source", "PUT /actions"]);
        assert_eq!(requests[0].1, json!({"vcpu_count": 1, "mem_size_mib": 128}));
        assert_eq!(requests[1].1["kernel_image_path"], "/k");
        assert_eq!(requests[1].1["initrd_path"], "/i");
        let words = requests[1].1["boot_args"].as_str().unwrap();
        assert!(words.contains("reboot=k") && words.contains("quiet"), "{words}");
        assert_eq!(requests[2].1, json!({"action_type": "InstanceStart"}));
    }

    #[test]
    fn a_snapshot_is_taken_of_a_guest_that_stands_still() {
        let requests = asked(|api| FirecrackerApi::save(api, Path::new("/s")));
        let files = json!({"snapshot_type": "Full", "snapshot_path": "/s/state", "mem_file_path": "/s/memory"});
        let pause = ("PATCH /vm".to_owned(), json!({"state": "Paused"}));
        assert_eq!(requests, [pause, ("PUT /snapshot/create".to_owned(), files)]);
    }

    #[test]
    fn a_guest_is_restored_and_resumed_in_one_request() {
        let requests = asked(|api| FirecrackerApi::restore(api, Path::new("/s")));
        let memory = json!({"backend_type": "File", "backend_path": "/s/memory"});
        let body = json!({"snapshot_path": "/s/state", "mem_backend": memory, "resume_vm": true});
        assert_eq!(requests, [("PUT /snapshot/load".to_owned(), body)]);
    }
}
