//! The microVM for a task: its size, its root file system's device and its channels.
//!
//! The image's file system is mapped into the guest (virtio-pmem): what the guest reads of it are the pages of the host's
//! own cache, so that all tasks of an image share them. That needs a KVM with read-only memory, and in the guest 64 bytes
//! for each 4 KiB page of the image; where either can't be had, the image is a block device.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use images::store::Rootfs;
use protocol::port;
use protocol::spec::{ImageDevice, Root};

use super::request::RunRequest;
use crate::image::Transport;
use crate::microvm::{Disk, Extent, LaunchError, Plan, Pmem};

/// The names of the devices.
const IMAGE: &str = "image";
const SCRATCH: &str = "scratch";

/// What a guest's kernel keeps of each byte of persistent memory: `sizeof(struct page)` of each page, as a divisor.
const PAGES_DIVISOR: u64 = 64;

/// The most of a guest's memory that this may take, as a divisor.
const MOST_OF_MEMORY: u64 = 16;

/// A task's microVM, and what the agent has to know of it.
#[derive(Debug)]
pub struct TaskPlan {
    /// The microVM.
    pub machine: Plan,
    /// Where the agent finds the root file system.
    pub root: Root,
}

/// Why an image is not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMapped {
    /// The caller wants it so.
    Wanted,
    /// This host's KVM has no read-only memory.
    NoReadOnlyMemory,
    /// The image is too large for the guest's memory.
    TooLarge,
}

/// Why an image of `length` bytes would not be mapped into a guest with `memory_mib` MiB; `None` when it is.
#[must_use]
pub fn not_mapped(transport: Transport, supported: bool, length: u64, memory_mib: u32) -> Option<NotMapped> {
    let most = (u64::from(memory_mib) << 20) / MOST_OF_MEMORY;
    match transport {
        Transport::Pmem => None,
        Transport::Blk => Some(NotMapped::Wanted),
        Transport::Auto if !supported => Some(NotMapped::NoReadOnlyMemory),
        Transport::Auto => (length / PAGES_DIVISOR > most).then_some(NotMapped::TooLarge),
    }
}

/// Plans the microVM of a task.
#[must_use]
pub fn plan(request: &RunRequest, rootfs: &Rootfs, scratch: Option<File>, kvm: &File) -> TaskPlan {
    let memory_mib = request.memory.mib();
    let whole = |file: Arc<File>, length| vec![Extent { file, offset: 0, length }];
    let supported = vmm::vm::supports_pmem(kvm.as_fd());
    let mut disks = Vec::new();
    let mut pmems = Vec::new();
    let image = if not_mapped(request.transport, supported, rootfs.length, memory_mib).is_some() {
        disks.push(Disk { id: IMAGE, read_only: true, extents: whole(Arc::clone(&rootfs.file), rootfs.length) });
        ImageDevice { path: disk_path(0), dax: false }
    } else {
        pmems.push(Pmem { id: IMAGE, file: Arc::clone(&rootfs.file), length: rootfs.length });
        ImageDevice { path: protocol::IMAGE_PMEM.to_owned(), dax: true }
    };
    let scratch = scratch.zip(request.disk).map(|(file, size)| {
        let path = disk_path(disks.len());
        disks.push(Disk { id: SCRATCH, read_only: false, extents: whole(Arc::new(file), size.bytes()) });
        path
    });
    let machine = Plan {
        vcpus: request.cpu.vcpus(),
        share: None,
        memory_mib,
        console: request.image.console,
        cold: request.image.cold,
        disks,
        pmems,
        ports: ports(request),
    };
    TaskPlan { machine, root: Root { image, scratch, read_only: request.read_only } }
}

/// The guest's name for its block device `index`, of which there are at most two.
fn disk_path(index: usize) -> String {
    format!("/dev/vd{}", if index == 0 { 'a' } else { 'b' })
}

/// The ports of a task, in the order in which [`Channels::of`] takes their other ends.
fn ports(request: &RunRequest) -> Vec<u32> {
    let stdin = request.stdin.then_some(port::STDIN);
    let stderr = (!request.terminal).then_some(port::STDERR);
    [port::CONTROL, port::STDOUT].into_iter().chain(stdin).chain(stderr).collect()
}

/// The runtime's ends of a task's channels.
#[derive(Debug)]
pub struct Channels {
    /// To the agent.
    pub control: UnixStream,
    /// To the command's standard input.
    pub stdin: Option<UnixStream>,
    /// From its standard output, or its terminal.
    pub stdout: UnixStream,
    /// From its standard error.
    pub stderr: Option<UnixStream>,
}

impl Channels {
    /// The ends, in the order of [`ports`].
    ///
    /// # Errors
    /// [`LaunchError::Socket`] when there are too few.
    pub fn of(request: &RunRequest, ends: Vec<UnixStream>) -> Result<Self, LaunchError> {
        let mut ends = ends.into_iter();
        let mut next = || ends.next().ok_or_else(|| LaunchError::Socket(std::io::ErrorKind::NotConnected.into()));
        Ok(Self {
            control: next()?,
            stdout: next()?,
            stdin: request.stdin.then(&mut next).transpose()?,
            stderr: (!request.terminal).then(&mut next).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(change: impl FnOnce(&mut RunRequest), length: u64) -> TaskPlan {
        let mut request = RunRequest::of_image("oci:x").unwrap();
        change(&mut request);
        let file = || File::open("/dev/null").unwrap();
        let scratch = request.disk.map(|_| file());
        plan(&request, &Rootfs { file: Arc::new(file()), length }, scratch, &file())
    }

    #[test]
    fn an_image_is_mapped_unless_that_cannot_be() {
        let reason = |supported, length, memory| not_mapped(Transport::Auto, supported, length, memory);
        assert_eq!(reason(true, 2 << 30, 512), None);
        assert_eq!(reason(true, 16 << 30, 512), Some(NotMapped::TooLarge));
        assert_eq!(reason(false, 2 << 20, 512), Some(NotMapped::NoReadOnlyMemory));
        assert_eq!(not_mapped(Transport::Blk, true, 0, 512), Some(NotMapped::Wanted));
        assert_eq!(not_mapped(Transport::Pmem, true, 16 << 30, 64), None);
    }

    #[test]
    fn disks_are_named_in_the_guests_order() {
        let disk = |request: &mut RunRequest| request.disk = Some("1GB".parse().unwrap());
        let mapped = plan_of(
            |request| {
                disk(request);
                request.transport = Transport::Pmem;
            },
            2 << 20,
        );
        assert_eq!((mapped.root.image.path.as_str(), mapped.root.image.dax), ("/dev/pmem0", true));
        assert_eq!(mapped.root.scratch.as_deref(), Some("/dev/vda"));
        let block = plan_of(
            |request| {
                disk(request);
                request.transport = Transport::Blk;
            },
            2 << 20,
        );
        assert_eq!((block.root.image.path.as_str(), block.root.image.dax), ("/dev/vda", false));
        assert_eq!(block.root.scratch.as_deref(), Some("/dev/vdb"));
        assert_eq!(block.machine.disks[1].extents[0].length, 1 << 30);
    }

    #[test]
    fn a_terminal_has_no_standard_error() {
        let ports = |change: &dyn Fn(&mut RunRequest)| plan_of(change, 0).machine.ports;
        assert_eq!(ports(&|_| ()), [port::CONTROL, port::STDOUT, port::STDERR]);
        let typed = |request: &mut RunRequest| (request.stdin, request.terminal) = (true, true);
        assert_eq!(ports(&typed), [port::CONTROL, port::STDOUT, port::STDIN]);
    }
}
