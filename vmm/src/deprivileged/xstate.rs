//! `XSAVE` and `XRSTOR` on byte images, in the standard format (Intel SDM volume 1, sections 13.4 to 13.8).
//!
//! The image on the host's side is KVM's (`KVM_GET_XSAVE`): 4096 bytes in the same format, whose header says which
//! components are in use. The image on the guest's side is hostile: what the CPU would answer with a general-protection
//! fault is [`GeneralProtection`].

use std::ops::Range;

/// The length of KVM's image, in bytes.
pub const IMAGE: usize = 4096;

/// The legacy area and the header, which every image has.
pub const FIXED: usize = 576;

/// The x87 and SSE components, whose places are fixed.
const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;

const FCW: Range<usize> = 0..2;
const MXCSR: Range<usize> = 24..28;
const MXCSR_MASK: Range<usize> = 28..32;
const X87_PARTS: [Range<usize>; 2] = [0..24, 32..160];
const XMM: Range<usize> = 160..416;
const XSTATE_BV: Range<usize> = 512..520;
const HEADER_RESERVED: Range<usize> = 520..576;

/// The control word of an x87 unit in its initial state.
const FCW_INITIAL: u16 = 0x037f;
/// The MXCSR bits that every CPU with SSE2 and denormals-are-zeros has.
const MXCSR_MASK_DEFAULT: u32 = 0xffff;

/// The CPU would raise a general-protection fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// Where the components beyond x87 and SSE are in the standard format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Components(Vec<(u64, Range<usize>)>);

impl Components {
    /// The places on this CPU (CPUID leaf 0xd), as far as they lie in KVM's image.
    #[must_use]
    pub fn of_this_cpu() -> Self {
        use std::arch::x86_64::__cpuid_count;
        let known = (2..63_u32).filter_map(|number| {
            let leaf = __cpuid_count(0xd, number);
            let (start, size) = (usize::try_from(leaf.ebx).ok()?, usize::try_from(leaf.eax).ok()?);
            let end = start.checked_add(size)?;
            (start >= FIXED && size > 0 && end <= IMAGE).then_some((1 << number, start..end))
        });
        Self(known.collect())
    }

    /// The bits of all components that are known, x87 and SSE among them.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.0.iter().fold(X87 | SSE, |bits, (bit, _)| bits | bit)
    }

    /// The length of an image that holds `components`, in bytes.
    #[must_use]
    pub fn length(&self, components: u64) -> usize {
        let ends = self.0.iter().filter(|(bit, _)| components & bit != 0).map(|(_, range)| range.end);
        ends.max().unwrap_or(FIXED)
    }

    /// The byte ranges of `components`, without MXCSR and the header.
    fn ranges(&self, components: u64) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        if components & X87 != 0 {
            ranges.extend(X87_PARTS);
        }
        if components & SSE != 0 {
            ranges.push(XMM);
        }
        ranges.extend(self.0.iter().filter(|(bit, _)| components & bit != 0).map(|(_, range)| range.clone()));
        ranges
    }
}

/// Which components an image says it holds.
#[must_use]
pub fn in_use(image: &[u8]) -> u64 {
    image.get(XSTATE_BV).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// `XSAVE`: writes the `requested` components of the vCPU's image into the guest's, which has
/// [`Components::length`] bytes; everything else in it stays as it is.
pub fn save(components: &Components, vcpu: &[u8; IMAGE], requested: u64, guest: &mut [u8]) {
    for range in components.ranges(requested) {
        copy(vcpu, guest, range);
    }
    if requested & (SSE | AVX) != 0 {
        copy(vcpu, guest, MXCSR);
        copy(vcpu, guest, MXCSR_MASK);
    }
    let held = in_use(guest) & !requested | in_use(vcpu) & requested;
    put(guest, XSTATE_BV, &held.to_le_bytes());
}

/// Checks the fixed part of a guest's image before `XRSTOR`, and gives the components that are read from it.
///
/// `allowed` is XCR0.
///
/// # Errors
/// [`GeneralProtection`] for a header that the CPU refuses: the compacted form among them, which belongs to `XSAVEC`.
pub fn check(guest: &[u8], allowed: u64, requested: u64) -> Result<u64, GeneralProtection> {
    let held = in_use(guest);
    let reserved = guest.get(HEADER_RESERVED).ok_or(GeneralProtection)?;
    // XCOMP_BV and the bytes behind it: the first 16 of them must be zero; the CPU ignores the rest.
    let clear = reserved.iter().take(16).all(|byte| *byte == 0);
    if clear && held & !allowed == 0 { Ok(held & requested) } else { Err(GeneralProtection) }
}

/// `XRSTOR`: loads the `requested` components from the guest's image, already checked by [`check`], into the vCPU's.
/// Components that the guest's image does not hold go to their initial state.
///
/// # Errors
/// [`GeneralProtection`] for reserved bits in MXCSR; the vCPU's image has not changed then.
pub fn restore(
    components: &Components,
    guest: &[u8],
    requested: u64,
    vcpu: &mut [u8; IMAGE],
) -> Result<(), GeneralProtection> {
    let held = in_use(guest) & requested;
    if requested & (SSE | AVX) != 0 {
        if word(guest, MXCSR) & !mxcsr_mask(vcpu) != 0 {
            return Err(GeneralProtection);
        }
        copy(guest, vcpu, MXCSR);
    }
    for range in components.ranges(requested & !held) {
        if let Some(bytes) = vcpu.get_mut(range) {
            bytes.fill(0);
        }
    }
    if requested & !held & X87 != 0 {
        put(vcpu, FCW, &FCW_INITIAL.to_le_bytes());
    }
    for range in components.ranges(held) {
        copy(guest, vcpu, range);
    }
    // KVM takes MXCSR only from an image that holds x87 or SSE state. Their initial states are written out above, so
    // saying that both are held changes nothing else.
    let now_held = in_use(vcpu) & !requested | held | X87 | SSE;
    put(vcpu, XSTATE_BV, &now_held.to_le_bytes());
    Ok(())
}

fn mxcsr_mask(vcpu: &[u8; IMAGE]) -> u32 {
    match word(vcpu, MXCSR_MASK) {
        0 => MXCSR_MASK_DEFAULT,
        mask => mask,
    }
}

fn word(image: &[u8], range: Range<usize>) -> u32 {
    image.get(range).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn put(image: &mut [u8], range: Range<usize>, bytes: &[u8]) {
    if let Some(target) = image.get_mut(range).filter(|target| target.len() == bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

fn copy(from: &[u8], to: &mut [u8], range: Range<usize>) {
    if let Some(bytes) = from.get(range.clone()) {
        put(to, range, bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u64 = X87 | SSE | AVX;

    /// The place of AVX on every CPU that has it.
    fn components() -> Components {
        Components(vec![(AVX, 576..832)])
    }

    /// A vCPU whose every component byte is `fill`, all in use.
    fn vcpu(fill: u8) -> [u8; IMAGE] {
        let mut image = [fill; IMAGE];
        put(&mut image, MXCSR, &0x1f80_u32.to_le_bytes());
        put(&mut image, MXCSR_MASK, &0xffff_u32.to_le_bytes());
        image[512..576].fill(0);
        put(&mut image, XSTATE_BV, &ALL.to_le_bytes());
        image
    }

    #[test]
    fn what_is_saved_is_restored() {
        let mut guest = vec![0; components().length(ALL)];
        save(&components(), &vcpu(0x5a), ALL, &mut guest);
        assert_eq!(check(&guest, ALL, ALL), Ok(ALL));
        let mut other = vcpu(0xa5);
        restore(&components(), &guest, ALL, &mut other).unwrap();
        assert_eq!(other[..416], vcpu(0x5a)[..416]);
        assert_eq!(other[576..832], [0x5a; 256]);
        assert_eq!(other[832..], vcpu(0xa5)[832..], "nothing behind the last component");
    }

    #[test]
    fn saving_leaves_the_components_that_were_not_asked_for() {
        let mut guest = vec![0x11; components().length(ALL)];
        put(&mut guest, XSTATE_BV, &X87.to_le_bytes());
        save(&components(), &vcpu(0x5a), AVX, &mut guest);
        assert_eq!(guest[..24], [0x11; 24]);
        assert_eq!(guest[160..416], [0x11; 256]);
        assert_eq!(word(&guest, MXCSR), 0x1f80, "MXCSR goes with AVX as well");
        assert_eq!(guest[576..832], [0x5a; 256]);
        assert_eq!(in_use(&guest), X87 | AVX);
    }

    #[test]
    fn a_component_in_its_initial_state_is_saved_as_unused() {
        let mut source = vcpu(0x5a);
        put(&mut source, XSTATE_BV, &(X87 | SSE).to_le_bytes());
        let mut guest = vec![0xff; components().length(ALL)];
        save(&components(), &source, ALL, &mut guest);
        assert_eq!(in_use(&guest) & ALL, X87 | SSE);
    }

    #[test]
    fn components_that_the_image_lacks_go_to_their_initial_state() {
        let mut guest = vec![0x77; components().length(ALL)];
        guest[512..576].fill(0);
        put(&mut guest, MXCSR, &0x1fa0_u32.to_le_bytes());
        let mut image = vcpu(0xa5);
        restore(&components(), &guest, ALL, &mut image).unwrap();
        assert_eq!(image[..2], FCW_INITIAL.to_le_bytes());
        assert_eq!(image[2..24], [0; 22]);
        assert_eq!(image[160..416], [0; 256]);
        assert_eq!(image[576..832], [0; 256]);
        assert_eq!(word(&image, MXCSR), 0x1fa0, "MXCSR is loaded from any image");
        assert_eq!(in_use(&image), X87 | SSE);
    }

    #[test]
    fn components_that_were_not_asked_for_stay() {
        let guest = vec![0; FIXED];
        let mut image = vcpu(0xa5);
        restore(&components(), &guest, X87, &mut image).unwrap();
        assert_eq!(image[160..416], [0xa5; 256]);
        assert_eq!(image[576..832], [0xa5; 256]);
        assert_eq!(word(&image, MXCSR), 0x1f80);
        assert_eq!(in_use(&image), ALL);
    }

    #[test]
    fn headers_that_the_cpu_refuses() {
        let clean = vec![0_u8; FIXED];
        assert_eq!(check(&clean, ALL, ALL), Ok(0));
        let mut beyond_xcr0 = clean.clone();
        put(&mut beyond_xcr0, XSTATE_BV, &(1_u64 << 9).to_le_bytes());
        assert_eq!(check(&beyond_xcr0, ALL, ALL), Err(GeneralProtection));
        let mut compacted = clean.clone();
        compacted[527] = 0x80;
        assert_eq!(check(&compacted, ALL, ALL), Err(GeneralProtection));
        let mut mxcsr = clean;
        put(&mut mxcsr, MXCSR, &u32::MAX.to_le_bytes());
        let mut image = vcpu(1);
        assert_eq!(restore(&components(), &mxcsr, ALL, &mut image), Err(GeneralProtection));
        assert_eq!(image, vcpu(1), "a refused image changes nothing");
    }

    #[test]
    fn this_cpu_has_its_components_in_the_image() {
        let here = Components::of_this_cpu();
        assert!(here.length(here.known()) <= IMAGE);
        if std::is_x86_feature_detected!("avx") {
            assert_ne!(here.known() & AVX, 0);
            assert_eq!(here.length(AVX), 832);
        }
    }

    proptest! {
        #[test]
        fn any_guest_image_is_loaded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..1024), requested in any::<u64>()) {
            let mut image = vcpu(3);
            let _ = check(&bytes, ALL, requested);
            let _ = restore(&components(), &bytes, requested, &mut image);
            let mut guest = bytes;
            save(&components(), &image, requested, &mut guest);
        }
    }
}
