//! `taskrun doctor`: what this host can do, one line each, with a remedy for what it can't.
//!
//! ```text
//! ok    KVM: /dev/kvm has API version 12 and everything that is needed
//! slow  Hardware virtualisation: neither VMX nor SVM …
//! FAIL  Guest kernel: The guest kernel "/…/vmlinux" can't be read (build one with …): No such file or directory
//! ```

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use kvm_ioctls::{Cap, Kvm};
use nix::unistd::{AccessFlags, access};

use crate::config::Config;
use crate::cpu;
use crate::errors::chain;
use crate::image::Images;
use crate::install::{InstallError, Installation};
use crate::ledger::{self, Filter, Ledger};
use crate::size::Memory;
use crate::template::Templates;

/// The API version that KVM has had since 2007.
const KVM_API_VERSION: i32 = 12;

/// What the VMM asks of KVM.
const CAPABILITIES: [Cap; 7] = [
    Cap::UserMemory,
    Cap::Irqfd,
    Cap::ImmediateExit,
    Cap::Irqchip,
    Cap::TscDeadlineTimer,
    Cap::SetTssAddr,
    Cap::ExtCpuid,
];

/// Making a VM takes a fraction of this where nothing is waited for.
const LONG_FOR_A_VM: Duration = Duration::from_millis(2);

/// What a look at one thing showed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    /// As it should be.
    Good(String),
    /// Tasks run, with a drawback.
    Slow(String),
    /// No task can run.
    Bad(String),
}

use Finding::{Bad, Good, Slow};

/// Prints the report to `out` and gives the exit code: 0 when tasks can run, 1 otherwise. A reader that has seen enough
/// is no error.
///
/// # Errors
/// Those of `out`.
pub fn run(kernel: Option<&Path>, out: &mut impl Write) -> io::Result<u8> {
    let checks: [(&str, &dyn Fn() -> Finding); 14] = [
        ("KVM", &kvm),
        ("Hardware virtualisation", &hardware),
        ("VMM", &|| installed(kernel, vmm)),
        ("Guest kernel", &|| installed(kernel, guest_kernel)),
        ("Initramfs", &|| installed(kernel, initramfs)),
        ("Ledger", &home),
        ("Images", &store),
        ("Templates", &templates),
        ("Image device", &image_device),
        ("Scratch disks", &scratch_disks),
        ("Memory", &|| memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())),
        ("CPUs", &processors),
        ("CPU shares", &shares),
        ("Version", &|| Good(format!("taskrun {}", env!("CARGO_PKG_VERSION")))),
    ];
    let mut findings = Vec::new();
    for (name, look) in checks {
        let finding = look();
        match write_line(name, &finding, out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result?,
        }
        findings.push(finding);
    }
    Ok(u8::from(findings.iter().any(|finding| matches!(finding, Bad(_)))))
}

fn write_line(name: &str, finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    let (word, text) = match finding {
        Good(text) => ("ok", text),
        Slow(text) => ("slow", text),
        Bad(text) => ("FAIL", text),
    };
    writeln!(out, "{word:<5} {name}: {text}")
}

/// Whether KVM is there and can make a VM.
fn kvm() -> Finding {
    if let Err(error) = crate::kvm::open() {
        return Bad(chain(&error));
    }
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return Bad(format!("/dev/kvm can't be opened: {error}")),
    };
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION {
        return Bad(format!("/dev/kvm has API version {version} instead of {KVM_API_VERSION}: install another kernel"));
    }
    if let Some(missing) = CAPABILITIES.into_iter().find(|capability| !kvm.check_extension(*capability)) {
        return Bad(format!("/dev/kvm lacks {missing:?}: install a newer kernel"));
    }
    let begun = Instant::now();
    let made = kvm.create_vm();
    let took = begun.elapsed();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    match made {
        Ok(_) => delay(took, &mounts)
            .map_or_else(|| Good(format!("/dev/kvm has API version {version} and everything that is needed")), Slow),
        Err(error) => Bad(format!(
            "/dev/kvm can't make a VM (does another hypervisor hold the CPU, or is virtualisation off in the \
             firmware?): {error}"
        )),
    }
}

/// What to do about the making of a VM having taken so long. Before Linux 6.13, KVM made a thread for each VM and moved it to the
/// cgroup of the VMM, which waits until every CPU has seen a change (an RCU grace period) unless cgroups are mounted for frequent moves.
fn delay(took: Duration, mounts: &str) -> Option<String> {
    let is_dynamic = mounts.lines().any(|line| line.contains(" cgroup") && line.contains("favordynmods"));
    (took > LONG_FOR_A_VM && !is_dynamic).then(|| {
        format!(
            "/dev/kvm took {:.1} ms to make a VM, and each task waits as long: if it is so again, remount the cgroup file system \
             with favordynmods (Linux 6.0 or later), or load the module kvm with nx_huge_pages=never where the CPU allows it",
            took.as_secs_f64() * 1e3
        )
    })
}

/// Whether KVM has hardware below it.
fn hardware() -> Finding {
    if vmm::deprivileged::is_deprivileged() {
        return Slow(
            "the CPU offers neither VMX nor SVM, so KVM emulates the guest's kernel: a task takes a second or two to \
             start, the first of its size some 10 s, system calls are slow, and the guest's kernel runs without its CPU mitigations; turn on virtualisation in \
             the firmware, or nested virtualisation when this host is a virtual machine"
                .to_owned(),
        );
    }
    Good("the CPU offers VMX or SVM".to_owned())
}

fn installed(kernel: Option<&Path>, look: impl Fn(&Installation) -> Result<String, InstallError>) -> Finding {
    match Installation::locate(kernel).and_then(|installation| look(&installation)) {
        Ok(text) => Good(text),
        Err(error) => Bad(chain(&error)),
    }
}

fn vmm(installation: &Installation) -> Result<String, InstallError> {
    installation.check_vmm()?;
    Ok(installation.vmm.display().to_string())
}

fn guest_kernel(installation: &Installation) -> Result<String, InstallError> {
    installation.open_kernel()?;
    Ok(format!("{} is an x86-64 vmlinux", installation.kernel.display()))
}

fn initramfs(installation: &Installation) -> Result<String, InstallError> {
    installation.open_initramfs()?;
    Ok(installation.initramfs.display().to_string())
}

/// Whether the ledger can be written.
fn home() -> Finding {
    let home = match ledger::home::resolve() {
        Ok(home) => home,
        Err(error) => return Bad(chain(&error)),
    };
    match Ledger::open(&home).and_then(|ledger| ledger.list(&Filter::everything())) {
        Ok(_) if access(&home, AccessFlags::W_OK).is_err() => {
            Bad(format!("{} can't be written: set TASKRUN_HOME to a directory that can", home.display()))
        }
        Ok(tasks) => Good(format!("{} has {} tasks", home.join(ledger::FILE_NAME).display(), tasks.len())),
        Err(error) => Bad(format!("{} (TASKRUN_HOME names another place)", chain(&error))),
    }
}

/// Whether the store of images can be used.
fn store() -> Finding {
    let images = Images::open().and_then(|images| Ok((images.store.images()?, images)));
    match images {
        Ok((list, images)) => Good(format!("{} has {} images", images.store.root().display(), list.len())),
        Err(error) => Bad(chain(&error)),
    }
}

/// Whether tasks can start from templates.
fn templates() -> Finding {
    let home = match ledger::home::resolve() {
        Ok(home) => home,
        Err(error) => return Bad(chain(&error)),
    };
    let templates = Templates::of(&home);
    match templates.check() {
        Ok(count) => Good(format!("{} has {count}; tasks of other sizes make theirs", templates.folder().display())),
        Err(error) => Slow(format!("{}; guests boot without (TASKRUN_TEMPLATES names another place)", chain(&error))),
    }
}

/// How an image reaches its tasks.
fn image_device() -> Finding {
    match crate::kvm::open() {
        Ok(kvm) if vmm::vm::supports_pmem(kvm.as_fd()) => {
            Good("virtio-pmem with DAX: tasks of an image share its pages".to_owned())
        }
        Ok(_) => Slow(
            "virtio-blk, so each task reads its image into memory of its own: /dev/kvm has no read-only memory \
             (KVM_CAP_READONLY_MEM); a newer kernel has"
                .to_owned(),
        ),
        Err(_) => Slow("unknown without /dev/kvm".to_owned()),
    }
}

/// Whether `--disk` can be had.
fn scratch_disks() -> Finding {
    match crate::scratch::available() {
        Ok(()) => Good("mkfs.ext4 makes them for --disk".to_owned()),
        Err(error) => Slow(format!("{}; tasks without --disk need none", chain(&error))),
    }
}

/// Whether a task of the default size fits, by the text of proc_meminfo(5).
fn memory(meminfo: &str) -> Finding {
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB"));
    let Some(mib) = available.and_then(|kib| kib.trim().parse::<u64>().ok()).map(|kib| kib / 1024) else {
        return Slow("/proc/meminfo doesn't say how much is available".to_owned());
    };
    let needed = Memory::DEFAULT;
    if mib < vmm::config::MIN_MEMORY_MIB.into() {
        Bad(format!("{mib} MiB are available, too little for any task: end other programs"))
    } else if mib < needed.mib().into() {
        Slow(format!(
            "{mib} MiB are available, less than a task's default of {needed}: use --memory or end other programs"
        ))
    } else {
        Good(format!("{mib} MiB are available"))
    }
}

fn processors() -> Finding {
    match thread::available_parallelism() {
        Ok(count) => Good(format!("{count} for tasks; one with more vCPUs than that runs, but not faster")),
        Err(error) => Slow(format!("their number is unknown: {error}")),
    }
}

/// Who holds tasks to shares that are less than whole vCPUs.
fn shares() -> Finding {
    let home = match ledger::home::resolve() {
        Ok(home) => home,
        Err(error) => return Bad(chain(&error)),
    };
    let wanted = match Config::load(&home) {
        Ok(config) => config.cpu.enforce,
        Err(error) => return Bad(chain(&error)),
    };
    match cpu::probe(wanted, &home) {
        Ok((enforcement, Some(place))) => Good(format!("{enforcement} holds tasks to theirs, in {}", place.display())),
        Ok((_, None)) => Good("each VMM holds itself to its task's; no cgroup can be had for it".to_owned()),
        Err(error) => Bad(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_a_line_for_each_thing_and_fails_for_a_missing_kernel() {
        let mut out = Vec::new();
        let code = run(Some(Path::new("/no/such/kernel")), &mut out).unwrap();
        let report = String::from_utf8(out).unwrap();
        assert_eq!(code, 1);
        assert_eq!(report.lines().count(), 14);
        let kernel = report.lines().find(|line| line.contains("Guest kernel")).unwrap();
        assert!(kernel.starts_with("FAIL ") && kernel.contains("/no/such/kernel") && kernel.contains("--kernel"));
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(run(None, &mut Closed).is_ok());
    }

    #[test]
    fn a_vm_that_took_long_is_slow_unless_cgroups_are_mounted_for_it() {
        let (short, long) = (Duration::from_micros(300), Duration::from_micros(5_200));
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid";
        assert_eq!(delay(short, mounts), None);
        assert!(delay(long, mounts).unwrap().starts_with("/dev/kvm took 5.2 ms"));
        assert_eq!(delay(long, &format!("{mounts},favordynmods 0 0")), None);
    }

    #[test]
    fn available_memory_decides() {
        let finding = |kib: u64| memory(&format!("MemTotal: 9 kB\nMemAvailable:   {kib} kB\n"));
        assert!(matches!(finding(1 << 20), Good(_)));
        assert!(matches!(finding(256 << 10), Slow(_)));
        assert!(matches!(finding(32 << 10), Bad(_)));
        assert!(matches!(memory(""), Slow(_)));
    }
}
