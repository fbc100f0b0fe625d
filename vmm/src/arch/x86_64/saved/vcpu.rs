//! The state of a vCPU. The order of its parts is what matters here: each comment says what makes it so.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::xsave::{self, XsaveState};
use super::{StateError, msrs};
use crate::arch::x86_64::cpuid;

/// The local APIC's timer register, and its mode "at a time stamp", not masked (Intel SDM volume 3, section 11.5.1).
const TIMER: usize = 0x320;
const TIMER_MODE: u32 = 3 << 17 | 1 << 16;
const AT_TIME_STAMP: u32 = 2 << 17;

/// How far rates of the time stamp counter may lie apart that count as one, as in KVM: a part of 4000.
const TOLERANCE: u32 = 4000;

/// The state of a vCPU that has stopped between two instructions.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    /// 0 where KVM doesn't tell.
    tsc_khz: u32,
    mp_state: kvm_mp_state,
    general: kvm_regs,
    system: kvm_sregs,
    fpu: XsaveState,
    /// `None` where KVM has none.
    extended_control: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    local_apic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

impl VcpuState {
    /// The state of a vCPU. All vCPUs of its VM must have stopped, with nothing of an instruction left to be done.
    ///
    /// # Errors
    /// When KVM can't tell a part.
    pub fn save(kvm: &Kvm, vm: &VmFd, vcpu: &VcpuFd) -> Result<Self, StateError> {
        let get = |what: &'static str| move |error| StateError::Get(what, error);
        // KVM_GET_MP_STATE first: it takes start-up interrupts that are pending, which changes the registers.
        let mp_state = vcpu.get_mp_state().map_err(get("vCPU's activity"))?;
        let general = vcpu.get_regs().map_err(get("registers"))?;
        let system = vcpu.get_sregs().map_err(get("system registers"))?;
        let fpu = xsave::get(vm, vcpu)?;
        let extended_control = match vm.check_extension(Cap::Xcrs) {
            true => Some(vcpu.get_xcrs().map_err(get("extended control registers"))?),
            false => None,
        };
        let debug = vcpu.get_debug_regs().map_err(get("debug registers"))?;
        // KVM_GET_LAPIC before the registers with the timer's deadline: one that passes between the two is seen as passed.
        let local_apic = vcpu.get_lapic().map_err(get("local APIC"))?;
        let mut msrs = msrs::read(vcpu, &msrs::indices(kvm)?)?;
        order(&mut msrs);
        revive_deadline(&local_apic, &mut msrs);
        let cpuid = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(get("CPUID"))?.as_slice().to_vec();
        // KVM_GET_VCPU_EVENTS last: the others can leave an event pending, or take one.
        let events = vcpu.get_vcpu_events().map_err(get("pending events"))?;
        let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
        Ok(Self { cpuid, tsc_khz, mp_state, general, system, fpu, extended_control, debug, local_apic, msrs, events })
    }

    /// Sets the state of a vCPU that has just been created.
    ///
    /// # Errors
    /// When KVM refuses a part.
    pub fn restore(&self, vm: &VmFd, vcpu: &VcpuFd) -> Result<(), StateError> {
        let set = |what: &'static str| move |error| StateError::Set(what, error);
        // KVM_SET_CPUID2 first: KVM checks everything else against it.
        let cpuid = CpuId::from_entries(&self.cpuid).map_err(|_| StateError::TooMany("CPUID entries"))?;
        vcpu.set_cpuid2(&cpuid).map_err(set("CPUID"))?;
        // KVM_SET_TSC_KHZ before the counter's value, which is meant in this rate.
        self.restore_tsc_rate(vm, vcpu)?;
        // KVM_SET_MP_STATE before the local APIC, whose pending start-up interrupts it would take.
        vcpu.set_mp_state(self.mp_state).map_err(set("vCPU's activity"))?;
        // KVM_SET_SREGS before the local APIC, whose mode is in it (APIC base), and before the FPU: it has CR4.OSXSAVE.
        vcpu.set_sregs(&self.system).map_err(set("system registers"))?;
        vcpu.set_regs(&self.general).map_err(set("registers"))?;
        xsave::set(vm, vcpu, &self.fpu)?;
        if let Some(registers) = &self.extended_control {
            vcpu.set_xcrs(registers).map_err(set("extended control registers"))?;
        }
        vcpu.set_debug_regs(&self.debug).map_err(set("debug registers"))?;
        // KVM_SET_MSRS, the counter first, since the deadline is measured with it; and the deadline after KVM_SET_LAPIC:
        // KVM drops it while the APIC's timer is not in the mode that has one.
        let (before, deadline) =
            self.msrs.split_at(self.msrs.iter().take_while(|msr| msr.index != msrs::TSC_DEADLINE).count());
        msrs::write(vcpu, before)?;
        vcpu.set_lapic(&self.local_apic).map_err(set("local APIC"))?;
        msrs::write(vcpu, deadline)?;
        // KVM_SET_VCPU_EVENTS last: setting registers can drop what is pending.
        vcpu.set_vcpu_events(&self.events).map_err(set("pending events"))?;
        // KVM_KVMCLOCK_CTRL: the guest's watchdog shall not bark at the time that it did not see. It fails for a guest
        // that doesn't use KVM's clock.
        let _ = vcpu.kvmclock_ctrl();
        Ok(())
    }

    fn restore_tsc_rate(&self, vm: &VmFd, vcpu: &VcpuFd) -> Result<(), StateError> {
        let here = vcpu.get_tsc_khz().unwrap_or(0);
        let saved = self.tsc_khz;
        if saved.abs_diff(here) <= here / TOLERANCE || saved == 0 || here == 0 {
            return Ok(());
        }
        if vm.check_extension(Cap::TscControl) && vcpu.set_tsc_khz(saved).is_ok() {
            return Ok(());
        }
        Err(StateError::TscRate { saved, here })
    }

    /// How many bits the physical addresses of this CPU have.
    #[must_use]
    pub fn address_bits(&self) -> u8 {
        cpuid::address_bits(&self.cpuid)
    }
}

/// Puts the time stamp counter first and the deadline last.
fn order(msrs: &mut [kvm_msr_entry]) {
    msrs.sort_by_key(|msr| match msr.index {
        msrs::TSC => (0, 0),
        msrs::TSC_DEADLINE => (2, 0),
        index => (1, index),
    });
}

/// A deadline that has passed, but whose interrupt was not delivered yet, reads as 0 and would be lost. It becomes one that
/// passes at once: a kernel that didn't wait for one only looks whether there is something to do.
fn revive_deadline(local_apic: &kvm_lapic_state, msrs: &mut [kvm_msr_entry]) {
    let register = local_apic.regs.get(TIMER..).and_then(|rest| rest.first_chunk::<4>());
    let register = register.map_or(0, |bytes| u32::from_le_bytes(bytes.map(|byte| byte.to_ne_bytes()[0])));
    let now = msrs.iter().find(|msr| msr.index == msrs::TSC).map(|msr| msr.data);
    let deadline = msrs.iter_mut().find(|msr| msr.index == msrs::TSC_DEADLINE && msr.data == 0);
    if let (AT_TIME_STAMP, Some(now), Some(deadline)) = (register & TIMER_MODE, now, deadline) {
        deadline.data = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msr(index: u32, data: u64) -> kvm_msr_entry {
        kvm_msr_entry { index, data, ..kvm_msr_entry::default() }
    }

    #[test]
    fn the_counter_comes_first_and_the_deadline_last() {
        let mut msrs = [msr(msrs::TSC_DEADLINE, 0), msr(0x174, 0), msr(msrs::TSC, 0), msr(0xc000_0080, 0)];
        order(&mut msrs);
        assert_eq!(msrs.map(|msr| msr.index), [msrs::TSC, 0x174, 0xc000_0080, msrs::TSC_DEADLINE]);
    }

    #[test]
    fn a_deadline_that_passed_unseen_passes_again() {
        let deadline_after = |timer: [i8; 3], deadline| {
            let mut apic = kvm_lapic_state::default();
            apic.regs[TIMER..TIMER + 3]
                .copy_from_slice(&timer.map(|byte| std::ffi::c_char::from_ne_bytes(byte.to_ne_bytes())));
            let mut msrs = [msr(msrs::TSC, 1000), msr(msrs::TSC_DEADLINE, deadline)];
            revive_deadline(&apic, &mut msrs);
            msrs[1].data
        };
        assert_eq!(deadline_after([0x20, 0, 4], 0), 1000);
        assert_eq!(deadline_after([0x20, 0, 4], 2000), 2000);
        assert_eq!(deadline_after([0x20, 0, 5], 0), 0, "masked");
        assert_eq!(deadline_after([0x20, 0, 2], 0), 0, "periodic");
    }
}
