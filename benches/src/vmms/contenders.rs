//! Which VMMs there are on this host, and why others aren't.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::cloud_hypervisor::CloudHypervisor;
use super::firecracker::Firecracker;
use super::qemu::{self, Qemu};
use super::taskrun::TaskrunVmm;
use super::{GuestArgs, Snapshots, Vmm};
use crate::command;

/// Those that are there, and what to say of each.
pub struct Contenders {
    with_snapshots: Vec<Box<dyn Snapshots>>,
    without: Vec<Box<dyn Vmm>>,
    remarks: Vec<String>,
}

impl Contenders {
    /// Looks for them. `taskrun` is the program of taskrun's VMM.
    pub fn find(taskrun: &Path, args: &GuestArgs) -> Result<Self> {
        let mut found = Self {
            with_snapshots: vec![Box::new(TaskrunVmm::new(taskrun.to_owned()))],
            without: Vec::new(),
            remarks: Vec::new(),
        };
        match version(Path::new(qemu::PROGRAM)) {
            Ok(version) => {
                found.without.push(Box::new(Qemu));
                found.remarks.push(format!("QEMU microvm: {version}."));
            }
            Err(error) => found.remarks.push(format!("QEMU microvm is absent: {error:#}.")),
        }
        if let Some(program) = found.named("Firecracker", "FIRECRACKER", args.firecracker.as_ref())? {
            found.with_snapshots.push(Box::new(Firecracker::new(program)));
        }
        if let Some(program) = found.named("Cloud Hypervisor", "CLOUD_HYPERVISOR", args.cloud_hypervisor.as_ref())? {
            found.with_snapshots.push(Box::new(CloudHypervisor::new(program)));
        }
        Ok(found)
    }

    /// A VMM that a variable names. One that is named must work.
    fn named(&mut self, name: &str, variable: &str, program: Option<&PathBuf>) -> Result<Option<PathBuf>> {
        let Some(program) = program else {
            self.remarks.push(format!("{name} is absent: {variable} names no binary."));
            return Ok(None);
        };
        self.remarks.push(format!("{name}: {}.", version(program)?));
        Ok(Some(program.clone()))
    }

    /// All.
    pub fn all(&self) -> impl Iterator<Item = &dyn Vmm> {
        let with = self.with_snapshots.iter().map(|vmm| -> &dyn Vmm { &**vmm });
        let (first, others) = (with.clone().take(1), with.skip(1));
        first.chain(self.without.iter().map(|vmm| &**vmm)).chain(others)
    }

    /// Those that save guests.
    pub fn with_snapshots(&self) -> impl Iterator<Item = &dyn Snapshots> {
        self.with_snapshots.iter().map(|vmm| &**vmm)
    }

    /// Versions, and who is absent and why, in a paragraph.
    pub fn remarks(&self) -> String {
        self.remarks.join(" ")
    }
}

impl std::fmt::Debug for Contenders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all().map(Vmm::name)).finish()
    }
}

fn version(program: &Path) -> Result<String> {
    command::first_line(Command::new(program).arg("--version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_there_is_named_with_the_reason() {
        let contenders = Contenders::find(Path::new("/taskrun-vmm"), &GuestArgs::default()).unwrap();
        let remarks = contenders.remarks();
        assert!(remarks.contains("Firecracker is absent: FIRECRACKER names no binary."), "{remarks}");
        assert!(remarks.contains("Cloud Hypervisor is absent: CLOUD_HYPERVISOR names no binary."), "{remarks}");
        assert_eq!(contenders.all().next().map(Vmm::name), Some("taskrun"));
        assert_eq!(contenders.with_snapshots().count(), 1);
    }

    #[test]
    fn one_that_is_named_must_be_there() {
        let args = GuestArgs { firecracker: Some("/no/such/firecracker".into()), ..GuestArgs::default() };
        let error = Contenders::find(Path::new("/taskrun-vmm"), &args).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/firecracker"), "{error:#}");
    }

    #[test]
    fn one_that_is_named_and_there_takes_part() {
        let args = GuestArgs { firecracker: Some("/bin/bash".into()), ..GuestArgs::default() };
        let contenders = Contenders::find(Path::new("/taskrun-vmm"), &args).unwrap();
        assert_eq!(contenders.all().last().map(Vmm::name), Some("Firecracker"));
        assert!(contenders.remarks().contains("Firecracker: GNU bash"), "{}", contenders.remarks());
    }
}
