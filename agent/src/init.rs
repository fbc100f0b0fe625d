//! What PID 1 owes the machine: its file systems, its console, its end.
//!
//! The kernel starts the agent on the initramfs, from which `pivot_root` is impossible, so the first thing is a small tmpfs
//! that takes its place:
//!
//! ```text
//! /          tmpfs, 1 MiB: nothing but mount points
//! /dev       devtmpfs: the disks, /dev/kmsg, /dev/console
//! /proc      procfs
//! /sys       sysfs
//! /cgroup    cgroup2
//! /container the container's own file systems until they are in its root (see [`crate::container::skeleton`])
//! /image, /upper, /rootfs    in the container only: its image, what it writes, and its root (see [`crate::root`])
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

use crate::container::Container;
use crate::container::skeleton::Skeleton;
use crate::control::{Control, ControlError};
use crate::failure::{internal, report, sentence};
use crate::ports::Ports;
use crate::renewal::{self, RenewalError};
use crate::root::{self, Places};
use crate::slots;
use crate::sys;
use crate::task::{self, Guest, Unpacked};
use crate::unpack::{Limits, unpack_to_device};
use crate::vsock::{Host, VsockHost};

/// Where the tmpfs is mounted that becomes the root; the initramfs has it.
const NEW_ROOT: &str = "/newroot";

/// The VMM's ports. A kernel without this file can't be saved; it has randomness of its own then, and the right time.
const PORTS: &str = "/dev/port";

/// Where cgroup2 is mounted.
const CGROUPS: &str = "/cgroup";

/// Where the container's own file systems are mounted first.
const CONTAINER: &str = "/container";

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
    let_idle_guests_sleep();
    prepare_network();
    let container = Container::prepare(Path::new(CONTAINER), Path::new(CGROUPS));
    let own = become_a_tasks_own();
    let socket = VsockHost.connect(port::CONTROL).map_err(InitError::Connect)?;
    CONTROL.store(socket.as_raw_fd(), Ordering::Relaxed);
    let control = Control::new(socket);
    match own {
        Ok(()) => task::serve(control, &VsockHost, &Machine { places: Places::new(Path::new("/")) }, container)?,
        Err(error) => task::refuse(control, internal(&error))?,
    }
    Ok(())
}

/// Here a guest is saved for a template, and here a task's guest goes on from one: what is before this is the same for all
/// tasks, what is behind it is a task's own.
fn become_a_tasks_own() -> Result<(), RenewalError> {
    let Some(ports) = Ports::open(Path::new(PORTS)).map_err(RenewalError::Ports)? else { return Ok(()) };
    if ports.will_be_saved().map_err(RenewalError::Ports)? {
        slots::wait_for_pmem();
        sys::touch_own_memory();
    }
    ports.ready().map_err(RenewalError::Ports)?;
    renewal::renew(&ports)
}

/// This guest.
#[derive(Debug)]
struct Machine {
    places: Places,
}

impl Guest for Machine {
    fn attach(&self, slots: &[u8]) -> Result<(), Failure> {
        slots::bind(slots).map_err(|error| internal(&error))
    }

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

    fn mount_root(&self, spec: &TaskSpec, skeleton: &Skeleton) -> Result<Vec<String>, Failure> {
        root::mount_root(&self.places, spec, memory(), skeleton).map_err(|error| report(&error))
    }

    fn root(&self) -> &Path {
        self.places.root()
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

/// Has the kernel wake for its own housekeeping more rarely: every half second it looks whether memory is fragmented,
/// which few tasks live long enough for, and every second it adds up statistics. A guest whose task waits should take no time.
fn let_idle_guests_sleep() {
    for (setting, value) in [("compaction_proactiveness", "0"), ("stat_interval", "30")] {
        // A kernel without the setting hasn't got what it is about.
        let _ = fs::write(Path::new("/proc/sys/vm").join(setting), value);
    }
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
