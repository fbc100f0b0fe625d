//! The FPU (`KVM_GET_XSAVE2`, `KVM_SET_XSAVE`): 4096 bytes, and more where the CPU has components that are larger.

use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::StateError;

/// What every image has.
const FIXED: usize = size_of::<kvm_xsave>();

/// The most words behind that; all components that CPUs have take less than 12 KiB.
const MAX_REST: usize = 16 << 10;

/// An image of the FPU.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
pub(super) struct XsaveState {
    fixed: kvm_xsave,
    rest: Vec<u32>,
}

/// The words behind the fixed part that KVM reads and writes on this host.
fn words(vm: &VmFd) -> usize {
    // KVM_CHECK_EXTENSION gives the size of the image, or 0 where it is the fixed one.
    let size = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
    size.saturating_sub(FIXED).div_ceil(size_of::<u32>())
}

#[expect(unsafe_code, reason = "KVM writes as much as it says beforehand")]
pub(super) fn get(vm: &VmFd, vcpu: &VcpuFd) -> Result<XsaveState, StateError> {
    let got = |error| StateError::Get("FPU", error);
    let words = words(vm);
    if words == 0 {
        // Also where KVM_GET_XSAVE2 is unknown.
        return Ok(XsaveState { fixed: vcpu.get_xsave().map_err(got)?, rest: Vec::new() });
    }
    let mut image = Xsave::new(words).map_err(|_| StateError::TooMany("components of the FPU"))?;
    // SAFETY: the image has room for as many bytes as KVM writes.
    unsafe { vcpu.get_xsave2(&mut image) }.map_err(got)?;
    Ok(XsaveState {
        fixed: kvm_xsave { region: image.as_fam_struct_ref().xsave.region, ..kvm_xsave::default() },
        rest: image.as_slice().to_vec(),
    })
}

#[expect(unsafe_code, reason = "KVM reads as much as it says beforehand")]
pub(super) fn set(vm: &VmFd, vcpu: &VcpuFd, state: &XsaveState) -> Result<(), StateError> {
    let words = words(vm);
    if state.rest.len() > words.min(MAX_REST) {
        let bytes = |words: usize| FIXED.saturating_add(words.saturating_mul(size_of::<u32>()));
        return Err(StateError::Fpu { saved: bytes(state.rest.len()), room: bytes(words) });
    }
    let mut image = Xsave::new(words).map_err(|_| StateError::TooMany("components of the FPU"))?;
    image.as_mut_slice().iter_mut().zip(&state.rest).for_each(|(to, from)| *to = *from);
    // SAFETY: the length of the variable part stays as it is.
    unsafe { image.as_mut_fam_struct() }.xsave.region = state.fixed.region;
    // SAFETY: the image has as many bytes as KVM reads.
    unsafe { vcpu.set_xsave2(&image) }.map_err(|error| StateError::Set("FPU", error))
}
