//! `/dev/kvm`: opening it, with the remedy for a host that has none.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// The device.
pub const DEVICE: &str = "/dev/kvm";

/// Why KVM can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no device.
    #[error(
        "This host has no {DEVICE}: load the module kvm_intel or kvm_amd (`modprobe kvm_intel`), and turn on \
         virtualisation in the firmware, or nested virtualisation when the host is a virtual machine itself"
    )]
    Missing,
    /// The device is somebody else's.
    #[error("{DEVICE} can't be opened by this user: join its group (`usermod -aG kvm USER`) and log in again")]
    NotPermitted,
    /// The device is there and does not work.
    #[error("{DEVICE} can't be opened (is virtualisation turned on in the firmware?)")]
    Open(#[source] io::Error),
}

/// Opens `/dev/kvm`.
///
/// # Errors
/// [`KvmError`], which names the remedy.
pub fn open() -> Result<File, KvmError> {
    open_device(Path::new(DEVICE))
}

fn open_device(path: &Path) -> Result<File, KvmError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KvmError::Missing,
        io::ErrorKind::PermissionDenied => KvmError::NotPermitted,
        // The node is there and the module is not.
        _ if error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) => KvmError::Missing,
        _ if error.raw_os_error() == Some(nix::errno::Errno::ENXIO as i32) => KvmError::Missing,
        _ => KvmError::Open(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_kvm_is_told_what_to_do() {
        let error = open_device(Path::new("/no/such/device")).unwrap_err();
        assert!(error.to_string().contains("modprobe kvm_intel"), "{error}");
        assert!(matches!(open_device(Path::new("/")), Err(KvmError::Open(_))));
    }
}
