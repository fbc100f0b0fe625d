//! What PID 1 owes the machine: its file systems, its console, its end.
//!
//! The kernel starts the agent on the initramfs, from which `pivot_root` is impossible, so the first thing is a small tmpfs
//! that takes its place:
//!
//! ```text
//! /          tmpfs, 1 MiB: nothing but mount points
//! /dev       devtmpfs: /dev/vda with the layers, /dev/kmsg, /dev/console
//! /proc      procfs
//! /sys       sysfs
//! /cgroup    cgroup2
//! /rootfs    tmpfs of nearly all memory: the image; becomes the command's root
//! ```
//!
//! A failure before the host is reached goes to the kernel's log. PID 1 must not end, since the kernel would panic: every way
//! leads to [`power_off`].

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::stat::Mode;
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{chdir, chroot, mkdir, sync};
use protocol::message::{AgentMessage, Failure, FailureKind, UnpackProgress, UnpackReport};
use protocol::spec::{TaskSpec, UnpackSpec};
use protocol::{LAYER_DEVICE, OUTPUT_DEVICE, frame, port};

use crate::control::{Control, ControlError};
use crate::failure::sentence;
use crate::sys;
use crate::task::{self, Guest, Unpacked};
use crate::unpack::{Limits, unpack_to_device};
use crate::vsock::{Host, VsockHost};

/// Where the tmpfs is mounted that becomes the root; the initramfs has it.
const NEW_ROOT: &str = "/newroot";

/// Where the image is unpacked.
const IMAGE_ROOT: &str = "/rootfs";

/// Where cgroup2 is mounted.
const CGROUPS: &str = "/cgroup";

/// Memory that the image cannot take: this much and a 64th of the guest's.
const RESERVE: u64 = 16 << 20;

/// One file for each so many bytes of memory: a file costs about 1 KiB of the kernel's memory and more of the agent's.
const BYTES_PER_FILE: u64 = 4096;

/// The control connection, for a panic to report itself; -1 before there is one.
static CONTROL: AtomicI32 = AtomicI32::new(-1);

/// Why the agent could not serve a task.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("{path} can't be mounted in the guest")]
    Mount {
        path: &'static str,
        #[source]
        source: Errno,
    },
    #[error("The guest's /dev/null can't be opened")]
    Null(#[source] Errno),
    #[error("The host can't be reached over vsock")]
    Connect(#[source] std::io::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Runs the guest's one task and powers the guest off.
pub fn run() -> ! {
    panic::set_hook(Box::new(report_panic));
    sys::ignore_broken_pipes();
    if let Err(error) = serve() {
        say(&sentence(&error));
    }
    power_off()
}

fn serve() -> Result<(), InitError> {
    replace_root()?;
    open_standard_streams().map_err(InitError::Null)?;
    allow_huge_pages();
    prepare_network();
    let socket = VsockHost.connect(port::CONTROL).map_err(InitError::Connect)?;
    CONTROL.store(socket.as_raw_fd(), Ordering::Relaxed);
    Ok(task::serve(Control::new(socket), &VsockHost, &Machine)?)
}

/// This guest.
#[derive(Debug)]
struct Machine;

impl Guest for Machine {
    fn unpack(&self, spec: &UnpackSpec, progress: &mut dyn FnMut(UnpackProgress)) -> Result<Unpacked, Failure> {
        let limits = Limits::new(spec.limits, memory());
        let (from, to) = (Path::new(LAYER_DEVICE), Path::new(OUTPUT_DEVICE));
        let summary = unpack_to_device(from, &spec.layers, to, &limits, progress).map_err(|error| {
            let kind = if error.is_image_fault() { FailureKind::Image } else { FailureKind::Internal };
            Failure { kind, message: sentence(&error) }
        })?;
        let diff_ids = spec.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let report = UnpackReport { image_size: summary.image_size, entries: summary.entries, diff_ids };
        Ok(Unpacked { report, warnings: summary.warnings })
    }

    fn mount_root(&self, _: &TaskSpec) -> Result<Vec<String>, Failure> {
        mount_image_root(memory())
            .map_err(|error| Failure { kind: FailureKind::Internal, message: sentence(&error) })?;
        Ok(Vec::new())
    }

    fn root(&self) -> &Path {
        Path::new(IMAGE_ROOT)
    }

    fn cgroups(&self) -> &Path {
        Path::new(CGROUPS)
    }
}

/// The guest's memory, in bytes.
fn memory() -> u64 {
    sysinfo().map(|info| info.ram_total()).unwrap_or_default()
}

/// Mounts the agent's own file systems and makes them the root.
fn replace_root() -> Result<(), InitError> {
    let failed = |path| move |source| InitError::Mount { path, source };
    let tmpfs = "mode=755,size=1m";
    make_directory(NEW_ROOT);
    mount(Some("tmpfs"), NEW_ROOT, Some("tmpfs"), MsFlags::empty(), Some(tmpfs)).map_err(failed("/"))?;
    chdir(NEW_ROOT).map_err(failed("/"))?;
    for (path, kind) in [("/dev", "devtmpfs"), ("/proc", "proc"), ("/sys", "sysfs"), (CGROUPS, "cgroup2")] {
        let relative = path.trim_start_matches('/');
        make_directory(relative);
        mount(Some(kind), relative, Some(kind), MsFlags::empty(), None::<&str>).map_err(failed(path))?;
    }
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(failed("/"))?;
    chroot(".").and_then(|()| chdir("/")).map_err(failed("/"))
}

/// Makes a mount point. That it is not there is for the mount to say.
fn make_directory(path: &str) {
    let _ = mkdir(path, Mode::from_bits_truncate(0o755));
}

/// A tmpfs for the image in a guest with `memory` bytes.
fn mount_image_root(memory: u64) -> Result<(), InitError> {
    let data = image_root_options(memory);
    make_directory(IMAGE_ROOT);
    mount(Some("tmpfs"), IMAGE_ROOT, Some("tmpfs"), MsFlags::empty(), Some(data.as_str()))
        .map_err(|source| InitError::Mount { path: IMAGE_ROOT, source })
}

/// As much as the image may take, so that one that is too large is refused and does not use up the kernel's own memory.
fn image_root_options(memory: u64) -> String {
    // Zero would mean no limit.
    let size = memory.saturating_sub(RESERVE).saturating_sub(memory / 64).max(BYTES_PER_FILE);
    let files = (memory / BYTES_PER_FILE).max(1);
    format!("mode=755,size={size},nr_inodes={files}")
}

/// Descriptors 0 to 2 are closed when the kernel has no console. Nothing else may get their numbers.
fn open_standard_streams() -> Result<(), Errno> {
    loop {
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        // Stays open as long as the agent.
        let _ = null.into_raw_fd();
    }
}

/// Has huge pages for who asks for them. Linux turns them off in guests of less than 512 MiB; there the agent's buffers for
/// layers would be pinned page by page, which takes up to 25 times as long on a host whose KVM is deprivileged.
fn allow_huge_pages() {
    // A kernel without them does without.
    let _ = fs::write("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
}

/// Gives the network namespace what Docker gives a container's. A kernel without a network is no failure.
fn prepare_network() {
    let _ = sys::raise_loopback();
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
}

/// Says `text` in the kernel's log, which goes to the console at once; what is written to the console itself could be lost when
/// the guest is powered off. Where there is no log yet, to the console nevertheless.
fn say(text: &str) {
    let line = format!("<3>taskrun-agent: {text}\n");
    let write = |path| fs::OpenOptions::new().write(true).open(path)?.write_all(line.as_bytes());
    if write("/dev/kmsg").is_err() {
        let _ = write("/dev/console");
    }
}

/// Tells the host, or else the console, of a mistake of the agent, and ends.
fn report_panic(panic: &panic::PanicHookInfo<'_>) {
    let message = format!("The agent has a bug and stopped: {panic}");
    let socket = CONTROL.load(Ordering::Relaxed);
    let failure = Failure { kind: FailureKind::Internal, message: message.clone() };
    let told = frame::encode(&AgentMessage::Failed(failure)).is_ok_and(|bytes| sys::send_to(socket, &bytes).is_ok());
    if !told {
        say(&message);
    }
    power_off()
}

/// Ends the guest.
fn power_off() -> ! {
    sync();
    loop {
        // It returns only where it is not permitted, which PID 1 always is.
        let _ = reboot(RebootMode::RB_POWER_OFF);
        nix::unistd::pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_may_take_all_memory_but_a_reserve() {
        assert_eq!(image_root_options(1 << 30), "mode=755,size=1040187392,nr_inodes=262144");
        assert_eq!(image_root_options(0), "mode=755,size=4096,nr_inodes=1");
    }
}
