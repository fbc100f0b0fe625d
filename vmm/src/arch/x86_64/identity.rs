//! What a saved guest needs to find again: the host's CPU as KVM supports it, KVM's registers, the kernel behind it.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use nix::sys::utsname::uname;
use sha2::{Digest, Sha256};

use super::saved::StateError;
use crate::deprivileged;

/// A digest, in hexadecimal digits, of all that a saved state depends on, but for the rate of the time stamp counter: that
/// takes a vCPU to be known, and is compared when one is restored.
///
/// # Errors
/// When KVM doesn't tell what it supports.
pub fn host_identity(kvm: &Kvm) -> Result<String, StateError> {
    let mut hash = Sha256::new();
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|error| StateError::Get("CPUID", error))?;
    for entry in cpuid.as_slice() {
        let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding: _ } = without_place(entry);
        [function, index, flags, eax, ebx, ecx, edx].into_iter().for_each(|word| hash.update(word.to_le_bytes()));
    }
    let msrs = kvm.get_msr_index_list().map_err(|error| StateError::Get("model-specific registers", error))?;
    msrs.as_slice().iter().for_each(|index| hash.update(index.to_le_bytes()));
    hash.update([u8::from(deprivileged::is_deprivileged())]);
    if let Ok(system) = uname() {
        for text in [system.release(), system.version()] {
            hash.update(text.as_encoded_bytes());
            hash.update([0]);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether this host's processor is QEMU's emulation of one (TCG), by the name that it gives itself (CPUID leaf 0x4000_0000).
///
/// Guests have no balloon there: with one, restored guests found their page tables empty between two instructions now and then
/// (QEMU 7.2: 5 of 13 runs of 100 guests, none of 10 without it), also when they reported nothing to it. No other host has shown that.
#[must_use]
pub fn is_emulated() -> bool {
    use std::arch::x86_64::__cpuid;
    const HYPERVISOR: u32 = 1 << 31;
    let name = __cpuid(0x4000_0000);
    __cpuid(1).ecx & HYPERVISOR != 0 && [name.ebx, name.ecx, name.edx].map(u32::to_le_bytes).concat() == b"TCGTCGTCGTCG"
}

/// An entry without what says on which CPU it was read: APIC ids, and the size of the state that is enabled there.
fn without_place(entry: &kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
    let mut entry = *entry;
    match (entry.function, entry.index) {
        (1, _) => entry.ebx &= 0x00ff_ffff,
        (0xb | 0x1f | 0x8000_0026, _) => entry.edx = 0,
        (0xd, 0 | 1) => entry.ebx = 0,
        (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (0, 0, 0),
        _ => {}
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_on_which_one_asks_is_no_part_of_it() {
        let entry = |function, ebx, edx| kvm_cpuid_entry2 { function, ebx, edx, ..kvm_cpuid_entry2::default() };
        assert_eq!(without_place(&entry(1, 0x0510_0800, 7)), entry(1, 0x0010_0800, 7));
        assert_eq!(without_place(&entry(0xb, 2, 5)), entry(0xb, 2, 0));
        assert_eq!(without_place(&entry(7, 2, 5)), entry(7, 2, 5));
    }
}
