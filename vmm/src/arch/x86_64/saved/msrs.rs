//! Model-specific registers: all that KVM names and lets one read (`KVM_GET_MSR_INDEX_LIST`, `KVM_GET_MSRS`), and the
//! memory types, which it doesn't name.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::StateError;

/// `IA32_TIME_STAMP_COUNTER`.
pub(super) const TSC: u32 = 0x10;
/// `IA32_TSC_DEADLINE`.
pub(super) const TSC_DEADLINE: u32 = 0x6e0;

/// `IA32_MTRR_*`: variable ranges, fixed ranges, and the type of everything else.
const MTRRS: [std::ops::RangeInclusive<u32>; 5] =
    [0x200..=0x20f, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26f, 0x2ff..=0x2ff];

/// The most registers that KVM takes or gives at once are 256; this is less, and enough for all.
const AT_ONCE: usize = 128;

/// The registers to ask for.
pub(super) fn indices(kvm: &Kvm) -> Result<Vec<u32>, StateError> {
    let named = kvm.get_msr_index_list().map_err(|error| StateError::Get("model-specific registers", error))?;
    let mut indices = named.as_slice().to_vec();
    indices.extend(MTRRS.into_iter().flatten());
    indices.sort_unstable();
    indices.dedup();
    Ok(indices)
}

/// Those of `indices` that can be read. KVM names some that a vCPU without the feature doesn't have.
pub(super) fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, StateError> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let entries = rest.iter().take(AT_ONCE).map(|&index| kvm_msr_entry { index, ..kvm_msr_entry::default() });
        let entries: Vec<_> = entries.collect();
        let mut msrs = fam(&entries)?;
        let count = vcpu.get_msrs(&mut msrs).map_err(|error| StateError::Get("model-specific registers", error))?;
        found.extend(msrs.as_slice().iter().take(count));
        // KVM stops at the first that it can't read.
        let skip = usize::from(count < entries.len());
        rest = rest.get(count.saturating_add(skip)..).unwrap_or_default();
    }
    Ok(found)
}

/// Sets registers in this order. One that KVM can't set may stay as it is where it has that value already.
pub(super) fn write(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), StateError> {
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let part = rest.get(..AT_ONCE.min(rest.len())).unwrap_or(rest);
        let count = vcpu.set_msrs(&fam(part)?).map_err(|error| StateError::Set("model-specific registers", error))?;
        rest = rest.get(count..).unwrap_or_default();
        if let Some(refused) = part.get(count) {
            if !has_already(vcpu, refused) {
                return Err(StateError::Msr { index: refused.index, value: refused.data });
            }
            rest = rest.get(1..).unwrap_or_default();
        } else if count == 0 {
            return Err(StateError::Msr { index: first.index, value: first.data });
        }
    }
    Ok(())
}

fn has_already(vcpu: &VcpuFd, entry: &kvm_msr_entry) -> bool {
    read(vcpu, &[entry.index]).is_ok_and(|found| found.first().is_some_and(|found| found.data == entry.data))
}

fn fam(entries: &[kvm_msr_entry]) -> Result<Msrs, StateError> {
    Msrs::from_entries(entries).map_err(|_| StateError::TooMany("model-specific registers"))
}
