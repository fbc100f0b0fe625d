//! Hosts whose KVM is deprivileged: a KVM with no hardware virtualisation (VMX, SVM) below it, which runs guest user
//! mode natively and emulates guest kernel mode one instruction at a time.
//!
//! Everything that such a host needs is here, and nothing of it is used elsewhere:
//!
//! - [`is_deprivileged`] detects the host.
//! - [`command_line`] keeps the guest kernel from instructions that the emulator lacks, and turns off what cannot work.
//! - [`complete`] finishes the instructions that cannot be kept from it. `XSAVE` and `XRSTOR` are about correctness:
//!   user mode sees the real CPU's vector registers, so the kernel must save them whole when it switches processes, or
//!   processes corrupt each other.
//!
//! # Layout
//! - `decode`: instruction bytes to an operation and a memory operand.
//! - `paging`: a walk of the guest's page tables, with the faults that the CPU would raise.
//! - `xstate`: `XSAVE` and `XRSTOR` on byte images (Intel SDM volume 1, chapter 13).
//! - `complete`: the three joined, on a vCPU.

mod complete;
mod decode;
mod paging;
mod xstate;

pub use complete::{Completion, CompletionError, complete};

/// Whether this host's CPU has neither VMX nor SVM, so that a KVM on it must be a deprivileged one.
///
/// The CPU itself is asked, not `/proc/cpuinfo`: the VMM opens no files.
#[must_use]
pub fn is_deprivileged() -> bool {
    use std::arch::x86_64::__cpuid;
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    const EXTENDED: u32 = 0x8000_0000;
    let vmx = __cpuid(1).ecx & VMX != 0;
    let svm = __cpuid(EXTENDED).eax > EXTENDED && __cpuid(EXTENDED | 1).ecx & SVM != 0;
    !(vmx || svm)
}

/// The words that a guest kernel needs on its command line on a deprivileged host; `kernel/patches` has what they do.
///
/// `taskrun.deprivileged` also takes features from the kernel whose instructions the emulator lacks (masking them in CPUID does
/// not reach the guest on such a KVM). `xsave` stays: see [`complete`]. `noreplace-smp` and `rodata=off` spare a kernel whose
/// every instruction is emulated the patching of its own code and the splitting of its own pages. A tick of a busy CPU is
/// several thousand instructions, so there it comes ten times a second instead of a hundred times.
#[must_use]
pub fn command_line() -> &'static str {
    "taskrun.deprivileged taskrun.tick=10 mitigations=off noreplace-smp rodata=off"
}
