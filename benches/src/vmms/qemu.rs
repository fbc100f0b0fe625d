//! QEMU's `microvm` machine: no PCI, no ACPI, and the smallest firmware that QEMU has for it, qboot, which enters the kernel
//! by its PVH note.

use std::process::Command;

use anyhow::Result;

use super::process::Process;
use super::{Guest, MEMORY_MIB, Payload, Vmm, command_line, text};

/// Debian's QEMU.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Its name in reports.
pub const NAME: &str = "QEMU microvm";

/// The machine: what our kernel has a use for, and nothing else.
const MACHINE: &str = "microvm,accel=kvm,acpi=off,pit=off,pic=off,rtc=off,usb=off,pcie=off,isa-serial=on,\
    auto-kernel-cmdline=off,x-option-roms=off";

/// QEMU.
#[derive(Clone, Copy, Debug)]
pub struct Qemu;

impl Vmm for Qemu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn boot(&self, payload: &Payload) -> Result<Guest> {
        let mut command = Command::new(PROGRAM);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-bios", "qboot.rom"]);
        command.args(["-M", MACHINE, "-cpu", "host", "-smp", "1", "-m", &format!("{MEMORY_MIB}M")]);
        command.args(["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]);
        command.args(["-kernel", text(&payload.kernel)?, "-initrd", text(&payload.initramfs)?]);
        command.args(["-append", &command_line()?]);
        let (process, output) = Process::start_with_output(&mut command)?;
        Ok(Guest::new(process, output))
    }
}
