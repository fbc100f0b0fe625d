//! Boots a kernel and an initramfs in a microVM, with the kernel's log on standard error, and says how it ended.
//!
//! ```text
//! cargo run -p vmm --example boot -- KERNEL INITRAMFS [OPTION...] [-- WORD...]
//! cargo run -p vmm --example boot -- --restore DIR [OPTION...]
//!
//! --cpus N, --memory MIB
//! --block FILE, --disk FILE, --pmem FILE   a disk that can't be written, one that can, persistent memory; also several
//! --save DIR                               saves the guest there as a template when it is ready; there is no log then
//! --restore DIR                            starts from that template, of a guest of the same size
//! --channel PORT                           what the guest sends to this vsock port goes to standard output
//! ```

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{Read, stderr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm::config::{
    BlockConfig, Boot, ChannelConfig, ExtentConfig, FdIndex, PmemConfig, Start, TemplateFiles, VmConfig,
    create_guest_memory,
};
use vmm::control::{self, VmmEvent};
use vmm::end::EndReason;

const USAGE: &str = "usage: boot KERNEL INITRAMFS [--cpus N] [--memory MIB] [--block FILE] [--disk FILE] [--pmem FILE] \
     [--save DIR] [--channel PORT] [-- WORD...] | --restore DIR [OPTION...]";

fn main() -> anyhow::Result<ExitCode> {
    let (config, descriptors, streams) = launch(Options::parse(env::args().skip(1))?)?;
    let (control, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context("No socket pair")?;
    let program = env::current_exe()?.with_file_name("../taskrun-vmm");
    let started = Instant::now();
    let mut child = Command::new(&program)
        .stdin(Stdio::from(theirs))
        .spawn()
        .with_context(|| format!("{} can't be started", program.display()))?;
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    control::send_config(control.as_fd(), &config, &borrowed)?;
    drop(descriptors);
    let printers: Vec<_> = streams.into_iter().map(|stream| thread::spawn(move || print(stream, started))).collect();
    let mut end = None;
    while let Some(event) = control::receive_event(control.as_fd())? {
        println!("{:9.6} s  {event:?}", started.elapsed().as_secs_f64());
        if let VmmEvent::Ended(reason) = event {
            end = Some(reason);
        }
    }
    let status = child.wait()?;
    printers.into_iter().for_each(|printer| drop(printer.join()));
    match end {
        Some(EndReason::PowerOff | EndReason::Ready) => Ok(ExitCode::SUCCESS),
        Some(reason) => bail!("{reason}"),
        None => bail!("The VMM ended: {status}"),
    }
}

/// Prints what the guest sends.
fn print(mut stream: UnixStream, started: Instant) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        println!("{:9.6} s  {}", started.elapsed().as_secs_f64(), text.trim_end());
    }
}

/// What the command line says.
#[derive(Default)]
struct Options {
    vcpus: u8,
    memory_mib: u32,
    words: String,
    files: Vec<File>,
    blocks: Vec<(File, bool)>,
    pmems: Vec<File>,
    save: Option<PathBuf>,
    restore: Option<PathBuf>,
    ports: Vec<u32>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self { vcpus: 1, memory_mib: 256, ..Self::default() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().context(USAGE);
            match argument.as_str() {
                "--cpus" => options.vcpus = value()?.parse()?,
                "--memory" => options.memory_mib = value()?.parse()?,
                "--block" => options.blocks.push((open(&value()?)?, true)),
                "--disk" => {
                    let path = value()?;
                    let disk = File::options().read(true).write(true).open(&path);
                    options.blocks.push((disk.with_context(|| format!("{path} can't be opened"))?, false));
                }
                "--pmem" => options.pmems.push(open(&value()?)?),
                "--save" => options.save = Some(value()?.into()),
                "--restore" => options.restore = Some(value()?.into()),
                "--channel" => options.ports.push(value()?.parse()?),
                "--" => options.words = arguments.by_ref().collect::<Vec<_>>().join(" "),
                path => options.files.push(open(path)?),
            }
        }
        Ok(options)
    }
}

/// The descriptors that go with the description.
#[derive(Default)]
struct Given(Vec<OwnedFd>);

impl Given {
    fn add(&mut self, descriptor: impl Into<OwnedFd>) -> FdIndex {
        self.0.push(descriptor.into());
        FdIndex(self.0.len().saturating_sub(1))
    }

    fn template(&mut self, folder: &Path, options: &OpenOptions) -> anyhow::Result<TemplateFiles> {
        let mut open = |name| -> anyhow::Result<FdIndex> {
            let path = folder.join(name);
            Ok(self.add(options.open(&path).with_context(|| format!("{} can't be opened", path.display()))?))
        };
        Ok(TemplateFiles { state: open("state")?, memory: open("memory")? })
    }
}

/// The machine that the command line describes, its descriptors, and our ends of its channels.
fn launch(options: Options) -> anyhow::Result<(VmConfig, Vec<OwnedFd>, Vec<UnixStream>)> {
    let Options { vcpus, memory_mib, words, files, blocks, pmems, save, restore, ports } = options;
    let mut given = Given::default();
    let kvm = File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm can't be opened")?;
    let kvm = given.add(kvm);
    let with_log = save.is_none() && restore.is_none();
    let start = if let Some(folder) = restore {
        Start::Restore(given.template(&folder, OpenOptions::new().read(true))?)
    } else {
        let [kernel, initramfs] = <[File; 2]>::try_from(files).ok().context(USAGE)?;
        let writable = File::options().read(true).write(true).create(true).truncate(true).clone();
        Start::Boot(Boot {
            memory: given.add(create_guest_memory(memory_mib)?),
            kernel: given.add(kernel),
            initramfs: given.add(initramfs),
            extra_command_line: words,
            save: save.map(|folder| given.template(&folder, &writable)).transpose()?,
        })
    };
    let console = if with_log { Some(given.add(stderr().as_fd().try_clone_to_owned()?)) } else { None };
    let mut block_configs = Vec::new();
    for (index, (file, read_only)) in blocks.into_iter().enumerate() {
        let length = file.metadata()?.len();
        let extent = ExtentConfig { file: given.add(file), offset: 0, length };
        block_configs.push(BlockConfig { id: format!("block{index}"), read_only, extents: vec![extent] });
    }
    let mut pmem_configs = Vec::new();
    for (index, file) in pmems.into_iter().enumerate() {
        let length = file.metadata()?.len();
        pmem_configs.push(PmemConfig { id: format!("pmem{index}"), file: given.add(file), length });
    }
    let (mut channels, mut streams) = (Vec::new(), Vec::new());
    for port in ports {
        let (ours, theirs) = UnixStream::pair()?;
        channels.push(ChannelConfig { port, stream: given.add(theirs) });
        streams.push(ours);
    }
    let config = VmConfig {
        vcpus,
        cpu_units: None,
        memory_mib,
        kvm,
        start,
        console,
        blocks: block_configs,
        pmems: pmem_configs,
        channels,
        written: Vec::new(),
    };
    Ok((config, given.0, streams))
}

fn open(path: &str) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("{path} can't be opened"))
}
