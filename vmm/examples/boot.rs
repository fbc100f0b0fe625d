//! Boots a kernel and an initramfs in a microVM, with the kernel's log on standard error, and says how it ended.
//!
//! ```text
//! cargo run -p vmm --example boot -- KERNEL INITRAMFS [--cpus N] [--memory MIB] [--block FILE] [--disk FILE] [--pmem FILE] [-- WORD...]
//! ```
//!
//! `--block` is a disk that can't be written, `--disk` one that can, `--pmem` persistent memory; each can be given again.

use std::env;
use std::fs::File;
use std::io::{self, stderr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm::config::{BlockConfig, ExtentConfig, FdIndex, PmemConfig, VmConfig, create_guest_memory};
use vmm::control::{self, VmmEvent};
use vmm::end::EndReason;

const USAGE: &str =
    "usage: boot KERNEL INITRAMFS [--cpus N] [--memory MIB] [--block FILE] [--disk FILE] [--pmem FILE] [-- WORD...]";

fn main() -> anyhow::Result<ExitCode> {
    let (config, descriptors) = launch(env::args().skip(1))?;
    let (control, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context("No socket pair")?;
    let program = env::current_exe()?.with_file_name("../taskrun-vmm");
    let mut child = Command::new(&program)
        .stdin(Stdio::from(theirs))
        .spawn()
        .with_context(|| format!("{} can't be started", program.display()))?;
    let started = Instant::now();
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    control::send_config(control.as_fd(), &config, &borrowed)?;
    let mut end = None;
    while let Some(event) = control::receive_event(control.as_fd())? {
        println!("{:9.3} s  {event:?}", started.elapsed().as_secs_f64());
        if let VmmEvent::Ended(reason) = event {
            end = Some(reason);
        }
    }
    let status = child.wait()?;
    match end {
        Some(EndReason::PowerOff) => Ok(ExitCode::SUCCESS),
        Some(reason) => bail!("{reason}"),
        None => bail!("The VMM ended: {status}"),
    }
}

/// The machine that the command line describes.
fn launch(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<(VmConfig, Vec<OwnedFd>)> {
    let (mut vcpus, mut memory_mib, mut extra_command_line) = (1, 256, String::new());
    let (mut files, mut blocks, mut pmems) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cpus" => vcpus = arguments.next().context(USAGE)?.parse()?,
            "--memory" => memory_mib = arguments.next().context(USAGE)?.parse()?,
            "--block" => blocks.push((open(&arguments.next().context(USAGE)?)?, true)),
            "--disk" => {
                let path = arguments.next().context(USAGE)?;
                let disk = File::options().read(true).write(true).open(&path);
                blocks.push((disk.with_context(|| format!("{path} can't be opened"))?, false));
            }
            "--pmem" => pmems.push(open(&arguments.next().context(USAGE)?)?),
            "--" => extra_command_line = arguments.by_ref().collect::<Vec<_>>().join(" "),
            path => files.push(open(path)?),
        }
    }
    let [kernel, initramfs] = <[File; 2]>::try_from(files).ok().context(USAGE)?;
    let kvm = File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm can't be opened")?;

    let mut descriptors = Vec::new();
    let mut give = |descriptor: OwnedFd| {
        descriptors.push(descriptor);
        FdIndex(descriptors.len() - 1)
    };
    let config = VmConfig {
        vcpus,
        memory_mib,
        kvm: give(kvm.into()),
        memory: give(create_guest_memory(memory_mib)?),
        kernel: give(kernel.into()),
        initramfs: give(initramfs.into()),
        console: Some(give(stderr().as_fd().try_clone_to_owned()?)),
        extra_command_line,
        blocks: blocks
            .into_iter()
            .enumerate()
            .map(|(index, (file, read_only))| {
                let length = file.metadata()?.len();
                let extent = ExtentConfig { file: give(file.into()), offset: 0, length };
                Ok(BlockConfig { id: format!("block{index}"), read_only, extents: vec![extent] })
            })
            .collect::<io::Result<_>>()?,
        pmems: pmems
            .into_iter()
            .enumerate()
            .map(|(index, file)| {
                let length = file.metadata()?.len();
                Ok(PmemConfig { id: format!("pmem{index}"), file: give(file.into()), length })
            })
            .collect::<io::Result<_>>()?,
        channels: Vec::new(),
    };
    Ok((config, descriptors))
}

fn open(path: &str) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("{path} can't be opened"))
}
