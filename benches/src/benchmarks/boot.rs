//! From the start of a VMM's process to its guest's first program: taskrun beside other VMMs.

use anyhow::{Context, Result};

use super::Bench;
use crate::harness::{Contender, Sample, interleave};
use crate::report::{Benchmark, Comparison};
use crate::vmms::taskrun::TaskrunVmm;
use crate::vmms::{Contenders, Payload, Vmm};

/// Left out where time is an instruction count: its time there varies by factors.
const QEMU: &str = crate::vmms::qemu::NAME;

const AGENT: &str = "taskrun with its agent, VMM's process → agent greets";

/// Takes turns: all VMMs with the same guest, and taskrun's with its agent.
pub fn run(bench: &Bench) -> Result<Benchmark> {
    let files = bench.taskrun.libexec()?;
    let contenders = Contenders::find(&files.join("taskrun-vmm"), &bench.guests)?;
    let payload = bench.payload()?;
    let with_agent = Payload { initramfs: files.join("initramfs.cpio"), ..payload.clone() };
    let taskrun = TaskrunVmm::new(files.join("taskrun-vmm"));
    let steady = |vmm: &&dyn Vmm| !(bench.icount && vmm.name() == QEMU);
    let mut turns: Vec<Contender<'_>> = contenders.all().filter(steady).map(|vmm| turn(vmm, &payload)).collect();
    turns.push(Contender::new("taskrun with its agent", || {
        Ok(vec![Sample::milliseconds(AGENT, taskrun.boot_agent(&with_agent)?.first_output()?)])
    }));
    let series = interleave(turns, bench.rounds(15, 3))?;
    let comparisons = [
        Comparison { over: "taskrun", under: QEMU, at_most: Some(0.5) },
        Comparison { over: "taskrun", under: "Firecracker", at_most: Some(0.8) },
        Comparison { over: "taskrun", under: "Cloud Hypervisor", at_most: None },
    ];
    let about = "VMM's process → the guest's first program. All boot the same kernel, uncompressed, with the same words for it and \
                 the same initramfs of a few KB, whose program writes a byte to the serial port; 1 vCPU, 128 MiB, no disk and no \
                 network. taskrun's guests have their vsock and balloon all the same.";
    Ok(Benchmark::new("boot", about.to_owned(), series, &comparisons).with_details(contenders.remarks()))
}

fn turn<'a>(vmm: &'a dyn Vmm, payload: &'a Payload) -> Contender<'a> {
    Contender::new(vmm.name(), move || Ok(vec![Sample::milliseconds(vmm.name(), vmm.boot(payload)?.first_output()?)]))
}

impl Bench {
    /// What all VMMs boot.
    pub(super) fn payload(&self) -> Result<Payload> {
        let initramfs = self.guests.initramfs.clone().context("There is no initramfs to boot: see --initramfs")?;
        Ok(Payload { kernel: self.taskrun.libexec()?.join("vmlinux"), initramfs })
    }
}
