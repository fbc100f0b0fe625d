//! Running a vCPU until it needs something: KVM's exits, parsed once.
//!
//! Accesses to ports and memory-mapped devices are answered here; everything else comes back as an [`Exit`], and nothing
//! beyond this module sees `struct kvm_run`.

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::bus::Bus;

/// The devices that a vCPU reaches.
#[derive(Debug, Default)]
pub struct Buses {
    /// Behind port I/O instructions.
    pub ports: Bus,
    /// At physical addresses that aren't memory.
    pub memory: Bus,
}

/// Why a vCPU came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// For an access that has been answered: run it on.
    Again,
    /// For a signal, or since it was told to come back at once: nothing of an instruction is left to be done.
    Interrupted,
    /// It took a fault for which it has no handler left.
    TripleFault,
    /// It met an instruction that KVM cannot execute; its bytes, as far as KVM gave them.
    EmulationFailure(Vec<u8>),
    /// The guest asked KVM for its power-off.
    PowerOff,
    /// The guest asked KVM for its reset.
    Reset,
    /// The guest told KVM of its crash.
    Crash,
}

/// Why a vCPU can't be run on.
#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    /// `KVM_RUN` failed.
    #[error("KVM can't run a vCPU")]
    Run(#[source] kvm_ioctls::Error),
    /// The CPU refused the vCPU's state.
    #[error("The CPU refused to enter the guest (hardware reason {reason:#x}, on CPU {cpu})")]
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The host's CPU.
        cpu: u32,
    },
    /// KVM failed in a way that isn't the emulator's.
    #[error("KVM met an internal error (suberror {0})")]
    Internal(u32),
    /// A system event of a kind that isn't known.
    #[error("KVM reported a system event of the unknown type {0}")]
    SystemEvent(u32),
    /// Any other exit.
    #[error("KVM ended a vCPU's run with an unexpected exit: {0}")]
    Unexpected(String),
}

/// What the first look at an exit leaves to be done while the borrow of `struct kvm_run` has ended.
enum Pending {
    PortRead(u16, *mut [u8]),
    PortWrite(u16, *const [u8]),
    InternalError,
}

/// Runs `vcpu` until its next exit.
///
/// # Errors
/// When the exit is none that a microVM can have.
pub fn run(vcpu: &mut VcpuFd, buses: &Buses) -> Result<Exit, ExitError> {
    let pending = match vcpu.run() {
        Ok(VcpuExit::MmioRead(address, data)) => {
            buses.memory.read(address, data);
            return Ok(Exit::Again);
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            buses.memory.write(address, data);
            return Ok(Exit::Again);
        }
        Ok(VcpuExit::IoIn(port, data)) => Pending::PortRead(port, data),
        Ok(VcpuExit::IoOut(port, data)) => Pending::PortWrite(port, data),
        Ok(VcpuExit::InternalError) => Pending::InternalError,
        Ok(VcpuExit::Shutdown) => return Ok(Exit::TripleFault),
        Ok(VcpuExit::Intr | VcpuExit::Nmi) => return Ok(Exit::Interrupted),
        Ok(VcpuExit::SystemEvent(kind, _)) => return system_event(kind),
        Ok(VcpuExit::FailEntry(reason, cpu)) => return Err(ExitError::FailEntry { reason, cpu }),
        Ok(other) => return Err(ExitError::Unexpected(format!("{other:?}"))),
        Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => return Ok(Exit::Interrupted),
        Err(error) => return Err(ExitError::Run(error)),
    };
    match pending {
        Pending::PortRead(port, data) => port_read(vcpu, buses, port, data),
        Pending::PortWrite(port, data) => port_write(vcpu, buses, port, data),
        Pending::InternalError => return internal_error(vcpu),
    }
    Ok(Exit::Again)
}

/// The most accesses of one instruction that are answered when it is completed.
const MAX_FRAGMENTS: usize = 64;

/// Finishes the instruction whose access was answered last: KVM does so at the next `KVM_RUN`, before the guest goes on
/// (`KVM_RUN` in the kernel's `api.rst`, with `immediate_exit`).
///
/// # Errors
/// When KVM doesn't come back, or with something else.
pub fn complete(vcpu: &mut VcpuFd, buses: &Buses) -> Result<(), ExitError> {
    vcpu.set_kvm_immediate_exit(1);
    // A large access comes in parts, and each wants an answer.
    let exits = (0..MAX_FRAGMENTS).map(|_| run(vcpu, buses));
    let last = exits.into_iter().find(|exit| !matches!(exit, Ok(Exit::Again)));
    vcpu.set_kvm_immediate_exit(0);
    match last {
        Some(Ok(Exit::Interrupted)) => Ok(()),
        Some(Ok(other)) => Err(ExitError::Unexpected(format!("{other:?}"))),
        Some(Err(error)) => Err(error),
        None => Err(ExitError::Unexpected("an access without end".into())),
    }
}

fn system_event(kind: u32) -> Result<Exit, ExitError> {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Ok(Exit::PowerOff),
        KVM_SYSTEM_EVENT_RESET => Ok(Exit::Reset),
        KVM_SYSTEM_EVENT_CRASH => Ok(Exit::Crash),
        other => Err(ExitError::SystemEvent(other)),
    }
}

/// Answers an `in`, or each of the accesses of an `ins`, which all go to the same port.
#[expect(unsafe_code, reason = "kvm-ioctls tells the size of an access only through struct kvm_run")]
fn port_read(vcpu: &mut VcpuFd, buses: &Buses, port: u16, data: *mut [u8]) {
    let size = access_size(vcpu);
    // SAFETY: `data` is what `VcpuFd::run` gave for this exit: it lies in the mapping that `vcpu` owns, behind the part
    // that is `struct kvm_run`, and nothing else refers to it until the vCPU, borrowed here, is run again.
    let data = unsafe { &mut *data };
    data.chunks_mut(size).for_each(|data| buses.ports.read(u64::from(port), data));
}

/// Answers an `out`, or each of the accesses of an `outs`.
#[expect(unsafe_code, reason = "kvm-ioctls tells the size of an access only through struct kvm_run")]
fn port_write(vcpu: &mut VcpuFd, buses: &Buses, port: u16, data: *const [u8]) {
    let size = access_size(vcpu);
    // SAFETY: as in `port_read`.
    let data = unsafe { &*data };
    data.chunks(size).for_each(|data| buses.ports.write(u64::from(port), data));
}

/// The size in bytes of the accesses of a port exit: 1, 2 or 4.
#[expect(unsafe_code, reason = "struct kvm_run is a union")]
fn access_size(vcpu: &mut VcpuFd) -> usize {
    // SAFETY: all bits are valid in this union's fields, and after an exit for a port KVM has filled this one.
    let io = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.io };
    usize::from(io.size).max(1)
}

#[expect(unsafe_code, reason = "struct kvm_run is a union")]
fn internal_error(vcpu: &mut VcpuFd) -> Result<Exit, ExitError> {
    // SAFETY: all bits are valid in this union's fields, and after an internal error KVM has filled this one or
    // `internal`, which begins with the same two fields.
    let failure = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.emulation_failure };
    if failure.suberror != KVM_INTERNAL_ERROR_EMULATION {
        return Err(ExitError::Internal(failure.suberror));
    }
    let has_bytes = failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if failure.ndata == 0 || !has_bytes {
        return Ok(Exit::EmulationFailure(Vec::new()));
    }
    // SAFETY: all bits are valid, and the flag says that KVM has filled this.
    let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let bytes = instruction.insn_bytes.get(..usize::from(instruction.insn_size));
    Ok(Exit::EmulationFailure(bytes.unwrap_or(&instruction.insn_bytes).to_vec()))
}
