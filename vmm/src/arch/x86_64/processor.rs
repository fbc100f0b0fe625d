//! A vCPU's state before its first instruction. The first vCPU starts in the kernel; the others wait for its start-up
//! interrupt, which KVM handles.

use std::fmt;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_lapic_state, kvm_msr_entry, kvm_xcr, kvm_xcrs};
use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::GuestAddress;

use super::{cpuid, registers};

/// What could not be read from or given to a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// CPUID.
    Cpuid,
    /// Model-specific registers.
    Msrs,
    /// General registers.
    Registers,
    /// Segment and control registers.
    SystemRegisters,
    /// The FPU.
    Fpu,
    /// The local APIC.
    LocalApic,
    /// The extended control registers.
    ExtendedControl,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpuid => "CPUID",
            Self::Msrs => "model-specific registers",
            Self::Registers => "registers",
            Self::SystemRegisters => "system registers",
            Self::Fpu => "FPU",
            Self::LocalApic => "local APIC",
            Self::ExtendedControl => "extended control registers",
        })
    }
}

/// Why a vCPU can't be prepared.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// KVM refused.
    #[error("KVM refused to get or set a vCPU's {0}")]
    Refused(State, #[source] kvm_ioctls::Error),
    /// KVM took a part of the model-specific registers.
    #[error("KVM refused to set a vCPU's model-specific register {0:#x}")]
    Msr(u32),
    /// CPUID is longer than KVM takes.
    #[error("The CPUID of a vCPU has too many entries")]
    CpuidLength,
}

/// `IA32_MISC_ENABLE`: string instructions may be fast.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// `IA32_MTRR_DEF_TYPE`: memory is write-back where no range says otherwise, as firmware would leave it.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// XCR0 with the states of x87, SSE and AVX. After a reset it has the first only, and a kernel sets what it uses; but an
/// SVM without the intercept for that (QEMU's TCG up to 7.2 at least) lets KVM put back, at the next exit, what it had
/// before. A kernel that sets this value, as most do where there is no AVX-512, gets to keep it even there.
const XCR0: u32 = 0b111;

/// CPUID leaf with the parts of XCR0 that can be set (sub-leaf 0, EAX).
const STATE_LEAF: u32 = 0xd;

/// Offsets of the local APIC's registers for its two pins, and delivery modes (Intel SDM volume 3, section 11.5.1).
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
const DELIVER_EXTERNAL: u32 = 7 << 8;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVERY_MODE: u32 = 7 << 8;
const MASKED: u32 = 1 << 16;

/// What all vCPUs of a VM have in common.
#[derive(Debug)]
pub struct Processors {
    supported: CpuId,
    count: u8,
}

impl Processors {
    /// Asks KVM what CPUs it offers.
    ///
    /// # Errors
    /// When KVM does not answer.
    pub fn new(kvm: &Kvm, count: u8) -> Result<Self, CpuError> {
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        Ok(Self { supported: supported.map_err(|error| CpuError::Refused(State::Cpuid, error))?, count })
    }

    /// How many bits the physical addresses of these CPUs have.
    #[must_use]
    pub fn address_bits(&self) -> u8 {
        cpuid::address_bits(self.supported.as_slice())
    }

    /// Prepares vCPU `index`; the first one to start at `entry`.
    ///
    /// # Errors
    /// When KVM refuses a part of the state.
    pub fn set_up(&self, vcpu: &VcpuFd, index: u8, entry: GuestAddress) -> Result<(), CpuError> {
        let refused = |state: State| move |error| CpuError::Refused(state, error);
        let entries = cpuid::of_vcpu(&self.supported, index, self.count);
        let entries = CpuId::from_entries(&entries).map_err(|_| CpuError::CpuidLength)?;
        vcpu.set_cpuid2(&entries).map_err(refused(State::Cpuid))?;
        set_msrs(vcpu, &[MISC_ENABLE, MTRR_DEF_TYPE])?;

        if has_avx_state(&self.supported) {
            let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
            xcrs.xcrs[0] = kvm_xcr { value: u64::from(XCR0), ..kvm_xcr::default() };
            vcpu.set_xcrs(&xcrs).map_err(refused(State::ExtendedControl))?;
        }

        let mut apic = vcpu.get_lapic().map_err(refused(State::LocalApic))?;
        connect_pins(&mut apic);
        vcpu.set_lapic(&apic).map_err(refused(State::LocalApic))?;
        if index > 0 {
            return Ok(());
        }

        let mut system = vcpu.get_sregs().map_err(refused(State::SystemRegisters))?;
        registers::set_system_registers(&mut system);
        vcpu.set_sregs(&system).map_err(refused(State::SystemRegisters))?;
        vcpu.set_regs(&registers::general(entry)).map_err(refused(State::Registers))?;
        vcpu.set_fpu(&registers::fpu()).map_err(refused(State::Fpu))
    }
}

fn has_avx_state(supported: &CpuId) -> bool {
    let mut entries = supported.as_slice().iter();
    entries.any(|entry| (entry.function, entry.index) == (STATE_LEAF, 0) && entry.eax & XCR0 == XCR0)
}

fn set_msrs(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), CpuError> {
    let entries = values.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() });
    let msrs = Msrs::from_entries(&entries.collect::<Vec<_>>()).map_err(|_| CpuError::CpuidLength)?;
    let taken = vcpu.set_msrs(&msrs).map_err(|error| CpuError::Refused(State::Msrs, error))?;
    values.get(taken).map_or(Ok(()), |(index, _)| Err(CpuError::Msr(*index)))
}

/// LINT0 delivers what the old interrupt controller has, LINT1 an NMI, as the MP table says.
fn connect_pins(apic: &mut kvm_lapic_state) {
    for (offset, mode) in [(LINT0, DELIVER_EXTERNAL), (LINT1, DELIVER_NMI)] {
        let register = apic.regs.get_mut(offset..).and_then(|rest| rest.first_chunk_mut::<4>());
        let Some(register) = register else { continue };
        let bytes = register.map(|byte| byte.to_ne_bytes()[0]);
        let value = u32::from_le_bytes(bytes) & !(DELIVERY_MODE | MASKED) | mode;
        *register = value.to_le_bytes().map(|byte| std::ffi::c_char::from_ne_bytes([byte]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_of_the_local_apic_are_connected() {
        let mut apic = kvm_lapic_state::default();
        apic.regs[LINT0 + 2] = 1;
        connect_pins(&mut apic);
        let register = |offset: usize| [0, 1, 2, 3].map(|byte| apic.regs[offset + byte]);
        assert_eq!(register(LINT0), [0, 7, 0, 0]);
        assert_eq!(register(LINT1), [0, 4, 0, 0]);
    }
}
