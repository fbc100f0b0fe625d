//! Finishes an instruction that KVM could not emulate, on the vCPU that met it.
//!
//! The instruction ran in the guest's kernel; its operand may still be a user address (signal frames). It either takes
//! effect whole, RIP behind it, or raises the exception that the CPU would raise, RIP on it.

use std::sync::LazyLock;

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xsave};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestMemoryMmap};

use super::decode::{Instruction, Operation, decode};
use super::paging::{self, Access, Run, WalkError};
use super::xstate::{self, Components, GeneralProtection};

const CR0_TASK_SWITCHED: u64 = 1 << 3;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It is done, or its exception is on its way: run the vCPU on.
    Completed,
    /// It says that the guest's kernel hit one of its own assertions.
    GuestCrash,
    /// It is none of those that are completed.
    NotUnderstood,
}

/// KVM refused to give or take a vCPU's state.
#[derive(Debug, thiserror::Error)]
#[error("The {what} of a vCPU can't be read or written")]
pub struct CompletionError {
    what: &'static str,
    #[source]
    source: kvm_ioctls::Error,
}

fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> CompletionError {
    move |source| CompletionError { what, source }
}

/// How an operand could not be used.
enum Refused {
    Exception { vector: u8, code: u32, address: Option<u64> },
    NotMemory,
}

impl From<WalkError> for Refused {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Fault { address, code } => Self::Exception { vector: PAGE_FAULT, code, address: Some(address) },
            WalkError::NotMemory => Self::NotMemory,
        }
    }
}

impl From<GeneralProtection> for Refused {
    fn from(GeneralProtection: GeneralProtection) -> Self {
        Self::Exception { vector: GENERAL_PROTECTION, code: 0, address: None }
    }
}

impl From<vm_memory::GuestMemoryError> for Refused {
    fn from(_: vm_memory::GuestMemoryError) -> Self {
        Self::NotMemory
    }
}

/// Finishes the instruction at the vCPU's RIP, whose first bytes are `bytes`, after `KVM_RUN` reported that it cannot
/// be emulated.
///
/// # Errors
/// [`CompletionError`] when KVM does not give or take the vCPU's state.
pub fn complete(vcpu: &mut VcpuFd, memory: &GuestMemoryMmap, bytes: &[u8]) -> Result<Completion, CompletionError> {
    let mut regs = vcpu.get_regs().map_err(failed("registers"))?;
    let mut sregs = vcpu.get_sregs().map_err(failed("system registers"))?;
    let kernel_64 = sregs.efer & EFER_LONG_MODE_ACTIVE != 0 && sregs.cs.l == 1 && sregs.ss.dpl == 0;
    let Some(instruction) = decode(bytes, &regs, &sregs).filter(|_| kernel_64) else {
        return Ok(Completion::NotUnderstood);
    };
    let pending = Pending { vcpu, memory, regs: &regs, sregs: &sregs, address: instruction.address };
    let outcome = match instruction.operation {
        Operation::Breakpoint => return Ok(Completion::GuestCrash),
        Operation::Wait => Ok(()),
        Operation::Save | Operation::Restore if !usable(&sregs, instruction) => {
            return Ok(Completion::NotUnderstood);
        }
        Operation::Save => pending.save()?,
        Operation::Restore => pending.restore()?,
    };
    match outcome {
        Ok(()) => {
            regs.rip = regs.rip.wrapping_add(u64::from(instruction.length));
            vcpu.set_regs(&regs).map_err(failed("registers"))?;
        }
        Err(Refused::Exception { vector, code, address }) => {
            if let Some(address) = address {
                sregs.cr2 = address;
                vcpu.set_sregs(&sregs).map_err(failed("system registers"))?;
            }
            raise(vcpu, vector, code)?;
        }
        Err(Refused::NotMemory) => return Ok(Completion::NotUnderstood),
    }
    Ok(Completion::Completed)
}

/// Whether the CPU would execute `XSAVE` and `XRSTOR` here: enabled, the FPU at hand, the area aligned.
fn usable(sregs: &kvm_sregs, instruction: Instruction) -> bool {
    sregs.cr4 & CR4_OSXSAVE != 0 && sregs.cr0 & CR0_TASK_SWITCHED == 0 && instruction.address.is_multiple_of(64)
}

fn components() -> &'static Components {
    static COMPONENTS: LazyLock<Components> = LazyLock::new(Components::of_this_cpu);
    &COMPONENTS
}

/// XCR0, and the components that EDX:EAX asks for out of it.
fn requested(vcpu: &VcpuFd, regs: &kvm_regs) -> Result<(u64, u64), CompletionError> {
    let xcrs = vcpu.get_xcrs().map_err(failed("extended control registers"))?;
    let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(0);
    let xcr0 = xcrs.xcrs.iter().take(count).find(|register| register.xcr == 0).map_or(1, |register| register.value);
    let mask = (regs.rdx & 0xffff_ffff) << 32 | regs.rax & 0xffff_ffff;
    Ok((xcr0, xcr0 & mask & components().known()))
}

/// An instruction, and the state of the vCPU that met it.
struct Pending<'a> {
    vcpu: &'a VcpuFd,
    memory: &'a GuestMemoryMmap,
    regs: &'a kvm_regs,
    sregs: &'a kvm_sregs,
    address: u64,
}

impl Pending<'_> {
    fn save(&self) -> Result<Result<(), Refused>, CompletionError> {
        let (_, requested) = requested(self.vcpu, self.regs)?;
        let image = image(self.vcpu)?;
        let length = components().length(requested);
        Ok((|| {
            let runs = paging::translate(self.memory, self.sregs, self.address, length, Access::Write)?;
            let mut guest = read(self.memory, &runs)?;
            xstate::save(components(), &image, requested, &mut guest);
            write(self.memory, &runs, &guest)
        })())
    }

    fn restore(&self) -> Result<Result<(), Refused>, CompletionError> {
        let (xcr0, requested) = requested(self.vcpu, self.regs)?;
        let mut image = image(self.vcpu)?;
        let loaded = (|| {
            let fixed = self.area(xstate::FIXED)?;
            let held = xstate::check(&fixed, xcr0, requested)?;
            let mut guest = self.area(components().length(held))?;
            // The guest's other vCPUs can write meanwhile: what was checked is what is used.
            if let Some(start) = guest.get_mut(..fixed.len()) {
                start.copy_from_slice(&fixed);
            }
            Ok(xstate::restore(components(), &guest, requested, &mut image)?)
        })();
        if loaded.is_ok() {
            set_image(self.vcpu, &image)?;
        }
        Ok(loaded)
    }

    /// Reads the first `length` bytes of the operand.
    fn area(&self, length: usize) -> Result<Vec<u8>, Refused> {
        read(self.memory, &paging::translate(self.memory, self.sregs, self.address, length, Access::Read)?)
    }
}

fn read(memory: &GuestMemoryMmap, runs: &[Run]) -> Result<Vec<u8>, Refused> {
    let mut bytes = vec![0; runs.iter().map(|(_, length)| length).sum()];
    let mut rest = bytes.as_mut_slice();
    for (address, length) in runs {
        let (part, behind) = rest.split_at_mut_checked(*length).ok_or(Refused::NotMemory)?;
        memory.read_slice(part, *address)?;
        rest = behind;
    }
    Ok(bytes)
}

fn write(memory: &GuestMemoryMmap, runs: &[Run], bytes: &[u8]) -> Result<(), Refused> {
    let mut rest = bytes;
    for (address, length) in runs {
        let (part, behind) = rest.split_at_checked(*length).ok_or(Refused::NotMemory)?;
        memory.write_slice(part, *address)?;
        rest = behind;
    }
    Ok(())
}

/// The vCPU's extended state as bytes in the standard format.
fn image(vcpu: &VcpuFd) -> Result<[u8; xstate::IMAGE], CompletionError> {
    let xsave = vcpu.get_xsave().map_err(failed("extended state"))?;
    let mut image = [0; xstate::IMAGE];
    for (bytes, word) in image.chunks_exact_mut(4).zip(xsave.region) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Ok(image)
}

#[expect(unsafe_code, reason = "kvm-ioctls marks KVM_SET_XSAVE unsafe because of larger images")]
fn set_image(vcpu: &VcpuFd, image: &[u8; xstate::IMAGE]) -> Result<(), CompletionError> {
    let mut xsave = kvm_xsave::default();
    for (word, bytes) in xsave.region.iter_mut().zip(image.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    // SAFETY: KVM reads more than the 4096 bytes of the structure only when dynamically enabled features (AMX) were
    // permitted for this process, and the VMM never asks for them.
    unsafe { vcpu.set_xsave(&xsave) }.map_err(failed("extended state"))
}

/// Has the vCPU take an exception at its next entry.
fn raise(vcpu: &VcpuFd, vector: u8, code: u32) -> Result<(), CompletionError> {
    let mut events: kvm_vcpu_events = vcpu.get_vcpu_events().map_err(failed("pending events"))?;
    events.exception.injected = 1;
    events.exception.nr = vector;
    events.exception.has_error_code = 1;
    events.exception.error_code = code;
    vcpu.set_vcpu_events(&events).map_err(failed("pending events"))
}
