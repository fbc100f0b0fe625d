//! taskrun's own VMM, driven over its control socket as the runtime does.

use std::fs::{self, File, OpenOptions};
use std::io::pipe;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm::config::{Boot, ChannelConfig, FdIndex, Start, TemplateFiles, VmConfig, create_guest_memory};
use vmm::control::{self, VmmEvent};
use vmm::end::EndReason;

use super::output::Output;
use super::process::Process;
use super::{Guest, MEMORY_MIB, Payload, Restored, Snapshots, Vmm};

/// The program `taskrun-vmm`.
#[derive(Clone, Debug)]
pub struct TaskrunVmm {
    program: PathBuf,
}

/// Its process, and what it says of its machine.
struct Running {
    process: Process,
    events: Receiver<(Instant, VmmEvent)>,
    /// The VMM ends when this does.
    control: OwnedFd,
}

impl TaskrunVmm {
    /// The VMM at this path.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Boots a guest with an agent, which has come to its first program when it has sent its greeting.
    pub fn boot_agent(&self, payload: &Payload) -> Result<Guest> {
        let mut given = Given::open()?;
        let start = given.boot(payload, "", None)?;
        let (ours, theirs) = UnixStream::pair()?;
        let channel = ChannelConfig { port: protocol::port::CONTROL, stream: given.add(theirs) };
        let Running { process, control, .. } = self.start(given.config(start, None, vec![channel]), given)?;
        // The agent's stream lives as long as the guest, and the VMM as long as its control socket.
        Ok(Guest::new(process, Output::of_anything(Held { stream: ours, _held: control })))
    }

    fn start(&self, config: VmConfig, given: Given) -> Result<Running> {
        let (control, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let process = Process::start(Command::new(&self.program).stdin(Stdio::from(theirs)).stdout(Stdio::null()))?;
        let descriptors: Vec<_> = given.0.iter().map(AsFd::as_fd).collect();
        control::send_config(control.as_fd(), &config, &descriptors)?;
        let (sender, events) = mpsc::channel();
        let socket = control.try_clone()?;
        thread::spawn(move || {
            while let Ok(Some(event)) = control::receive_event(socket.as_fd()) {
                let _ = sender.send((Instant::now(), event));
            }
        });
        Ok(Running { process, events, control })
    }
}

impl Running {
    /// Waits for an event, in milliseconds from the start of the process.
    fn until(&mut self, wanted: &VmmEvent) -> Result<f64> {
        loop {
            match self.events.recv() {
                Ok((at, event)) if event == *wanted => return Ok(self.process.until(at)),
                Ok((_, VmmEvent::Ended(reason))) => bail!("The guest ended: {reason}"),
                Ok(_) => {}
                Err(_) => bail!("The VMM ended without a reason: {}", self.process.last_words()),
            }
        }
    }
}

impl Vmm for TaskrunVmm {
    fn name(&self) -> &'static str {
        "taskrun"
    }

    fn boot(&self, payload: &Payload) -> Result<Guest> {
        let mut given = Given::open()?;
        // The serial port is for the guest's mark. The kernel has no driver for it, as with a task.
        let start = given.boot(payload, "8250.nr_uarts=0 quiet loglevel=0", None)?;
        let (reader, writer) = pipe()?;
        let console = given.add(writer);
        let Running { process, control, .. } = self.start(given.config(start, Some(console), Vec::new()), given)?;
        Ok(Guest::new(process, Output::of_marks(Held { stream: reader, _held: control })))
    }
}

impl Snapshots for TaskrunVmm {
    fn save(&self, payload: &Payload, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut given = Given::open()?;
        let writable = File::options().read(true).write(true).create(true).truncate(true).clone();
        let save = given.template(folder, &writable)?;
        let start = given.boot(payload, "loglevel=0", Some(save))?;
        let mut running = self.start(given.config(start, None, Vec::new()), given)?;
        running.until(&VmmEvent::Ended(EndReason::Ready))?;
        running.process.wait()
    }

    fn restore(&self, folder: &Path) -> Result<Restored> {
        let mut given = Given::open()?;
        let files = given.template(folder, File::options().read(true))?;
        let mut running = self.start(given.config(Start::Restore(files), None, Vec::new()), given)?;
        let resumed = running.until(&VmmEvent::Running)?;
        // A restored guest has no serial port; it reads its randomness, and the VMM tells.
        let Running { process, events, control } = running;
        let output = Output::of_moment(move || {
            let _control = control;
            events.iter().find(|(_, event)| *event == VmmEvent::Seeded).map(|(at, _)| at)
        });
        Ok(Restored { guest: Guest::new(process, output), resumed })
    }
}

/// The descriptors that go with a description; the first is KVM's.
struct Given(Vec<OwnedFd>);

impl Given {
    fn open() -> Result<Self> {
        let kvm = File::options().read(true).write(true).open("/dev/kvm").context("/dev/kvm can't be opened")?;
        Ok(Self(vec![kvm.into()]))
    }

    fn add(&mut self, descriptor: impl Into<OwnedFd>) -> FdIndex {
        self.0.push(descriptor.into());
        FdIndex(self.0.len().saturating_sub(1))
    }

    fn open_file(&mut self, path: &Path, options: &OpenOptions) -> Result<FdIndex> {
        Ok(self.add(options.open(path).with_context(|| format!("{} can't be opened", path.display()))?))
    }

    fn template(&mut self, folder: &Path, options: &OpenOptions) -> Result<TemplateFiles> {
        let state = self.open_file(&folder.join("state"), options)?;
        Ok(TemplateFiles { state, memory: self.open_file(&folder.join("memory"), options)? })
    }

    fn boot(&mut self, payload: &Payload, words: &str, save: Option<TemplateFiles>) -> Result<Start> {
        let read = File::options().read(true).clone();
        Ok(Start::Boot(Boot {
            memory: self.add(create_guest_memory(MEMORY_MIB)?),
            kernel: self.open_file(&payload.kernel, &read)?,
            initramfs: self.open_file(&payload.initramfs, &read)?,
            extra_command_line: words.to_owned(),
            save,
        }))
    }

    fn config(&self, start: Start, console: Option<FdIndex>, channels: Vec<ChannelConfig>) -> VmConfig {
        VmConfig {
            vcpus: 1,
            cpu_units: None,
            memory_mib: MEMORY_MIB,
            kvm: FdIndex(0),
            start,
            console,
            blocks: Vec::new(),
            pmems: Vec::new(),
            channels,
            written: Vec::new(),
        }
    }
}

/// A stream, and what must live as long as somebody reads it.
struct Held<S> {
    stream: S,
    _held: OwnedFd,
}

impl<S: std::io::Read> std::io::Read for Held<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(buffer)
    }
}
