//! Runs tiny guests in the real `taskrun-vmm`, on the host's real KVM.
//!
//! A guest is a few instructions that start in 64-bit mode at 1 MiB with the first GiB mapped one to one, wrapped into an
//! ELF file that is all that a kernel has to be.

#![allow(dead_code, unused_macros, unused_imports, reason = "each test binary uses a part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first thing that is wrong"
)]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm::config::{Boot, FdIndex, Start, VmConfig, create_guest_memory};
use vmm::control::{self, VmmEvent};
use vmm::end::EndReason;

/// Where a guest's instructions start.
pub const ENTRY: u64 = 0x10_0000;

/// Guest memory in MiB.
pub const MEMORY_MIB: u32 = 64;

/// How long a VMM may take to say something, in milliseconds, before the test fails.
const PATIENCE: u16 = 60_000;

/// Defines a function that gives the machine code of some lines of assembly (Intel syntax).
macro_rules! guest {
    ($(#[$doc:meta])* $name:ident: $($line:literal),+ $(,)?) => {
        $(#[$doc])*
        fn $name() -> Vec<u8> {
            #[expect(unsafe_code, reason = "the assembler's bytes are reached through a function that is never called")]
            mod code {
                #[unsafe(naked)]
                extern "C" fn code() {
                    core::arch::naked_asm!(".quad 9f - 8f", "8:", $($line,)+ "9:");
                }

                pub fn bytes() -> Vec<u8> {
                    let start = (code as extern "C" fn() as *const ()).cast::<u8>();
                    // SAFETY: the function begins with the length, and has that many bytes behind it.
                    unsafe {
                        let length = usize::try_from(start.cast::<u64>().read_unaligned()).unwrap();
                        std::slice::from_raw_parts(start.add(8), length).to_vec()
                    }
                }
            }
            code::bytes()
        }
    };
}
pub(crate) use guest;

/// A kernel of these instructions: an ELF header, one program header, and the code.
pub fn kernel(code: &[u8]) -> Vec<u8> {
    const CODE_OFFSET: u64 = 64 + 56;
    let length = u64::try_from(code.len()).unwrap();
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2_u16, 62].map(u16::to_le_bytes).concat()); // ET_EXEC, EM_X86_64
    elf.extend(1_u32.to_le_bytes());
    elf.extend([ENTRY, 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers, no sections
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    elf.extend([1_u32, 5].map(u32::to_le_bytes).concat()); // PT_LOAD, readable and executable
    elf.extend([CODE_OFFSET, ENTRY, ENTRY, length, length, 4096].map(u64::to_le_bytes).concat());
    elf.extend(code);
    elf
}

/// A file with this content.
pub fn file(content: &[u8]) -> OwnedFd {
    let mut file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all(content).unwrap();
    file.into()
}

/// KVM, which these tests need.
pub fn kvm() -> OwnedFd {
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    kvm.expect("these tests need /dev/kvm").into()
}

/// A description and its descriptors, for a guest with one vCPU; tests change them before they start it.
pub struct Launch {
    pub config: VmConfig,
    pub descriptors: Vec<OwnedFd>,
}

impl Launch {
    /// A guest of these instructions.
    pub fn code(code: &[u8]) -> Self {
        Self::kernel(&kernel(code))
    }

    /// A guest with this kernel file.
    pub fn kernel(kernel: &[u8]) -> Self {
        let config = VmConfig {
            vcpus: 1,
            cpu_units: None,
            memory_mib: MEMORY_MIB,
            kvm: FdIndex(0),
            start: Start::Boot(Boot {
                memory: FdIndex(1),
                kernel: FdIndex(2),
                initramfs: FdIndex(3),
                extra_command_line: String::new(),
                save: None,
            }),
            console: None,
            blocks: Vec::new(),
            pmems: Vec::new(),
            channels: Vec::new(),
            written: Vec::new(),
        };
        let memory = create_guest_memory(MEMORY_MIB).unwrap();
        Self { config, descriptors: vec![kvm(), memory, file(kernel), file(b"x")] }
    }

    /// What it boots from.
    pub fn boot(&mut self) -> &mut Boot {
        match &mut self.config.start {
            Start::Boot(boot) => boot,
            Start::Restore(_) => panic!("it is restored"),
        }
    }

    /// Hands over a file.
    pub fn give(&mut self, file: OwnedFd) -> FdIndex {
        self.descriptors.push(file);
        FdIndex(self.descriptors.len() - 1)
    }

    /// Starts the VMM and gives it the description.
    pub fn start(self) -> Vmm {
        let vmm = Vmm::spawn();
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        control::send_config(vmm.control.as_ref().unwrap().as_fd(), &self.config, &descriptors).unwrap();
        vmm
    }

    /// Runs the guest to its end.
    pub fn run(self) -> EndReason {
        let (reason, status) = self.start().finish();
        assert_eq!(status.code(), Some(i32::from(matches!(reason, EndReason::VmmError { .. }))));
        reason
    }
}

/// A `taskrun-vmm`.
pub struct Vmm {
    pub control: Option<OwnedFd>,
    pub child: Child,
}

impl Vmm {
    /// Starts one that waits for its description.
    pub fn spawn() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_taskrun-vmm"))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { control: Some(ours), child }
    }

    /// The next event; `None` at the end.
    pub fn event(&self) -> Option<VmmEvent> {
        let control = self.control.as_ref().unwrap().as_fd();
        let mut fds = [PollFd::new(control, PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PATIENCE).unwrap(), 1, "the VMM is silent");
        control::receive_event(control).unwrap()
    }

    /// Waits for the end of the machine and of the process.
    pub fn finish(mut self) -> (EndReason, ExitStatus) {
        let mut event = self.event();
        while matches!(event, Some(VmmEvent::Running | VmmEvent::Seeded)) {
            event = self.event();
        }
        let Some(VmmEvent::Ended(reason)) = event else { panic!("the VMM said {event:?}") };
        assert_eq!(self.event(), None, "the end is the last message");
        (reason, self.child.wait().unwrap())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Does nothing when the process has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
