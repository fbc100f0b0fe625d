//! What a guest's CPUID instruction says: the host's CPU as far as KVM supports it, as one socket with a core per vCPU.
//!
//! Leaves are those of the Intel SDM (volume 2, CPUID) and the AMD APM (volume 3, appendix E). A vCPU's APIC id is its
//! index. KVM's own leaves (0x4000_0000 and up) pass through.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 1, ECX.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: the logical processors are cores.
const CMP_LEGACY: u32 = 1 << 1;

/// Leaf 0x8000_0007, EDX: the TSC's rate never changes. Not so for a guest that goes on, from a snapshot, on another
/// host: without this bit a kernel keeps time by KVM's clock, which follows.
const INVARIANT_TSC: u32 = 1 << 8;

/// Leaf 0, EBX: the first letters of "AuthenticAMD" and "HygonGenuine".
const AMD: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// Topology leaves that are replaced by our own leaf 0xb.
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const TOPOLOGY_AMD: u32 = 0x8000_0026;

/// The bits of a physical address on a CPU that doesn't say.
const FEWEST_ADDRESS_BITS: u8 = 36;

/// Level types in leaf 0xb, ECX bits 15:8.
const SMT_LEVEL: u32 = 1 << 8;
const CORE_LEVEL: u32 = 2 << 8;

/// The CPUID of vCPU `index` of `vcpus`, from what KVM supports.
pub(super) fn of_vcpu(supported: &CpuId, index: u8, vcpus: u8) -> Vec<kvm_cpuid_entry2> {
    let is_amd = supported.as_slice().iter().any(|entry| entry.function == 0 && AMD.contains(&entry.ebx));
    let topology = Topology { is_amd, ..Topology::new(index, vcpus) };
    let replaced = [TOPOLOGY, TOPOLOGY_V2, TOPOLOGY_AMD];
    let mut entries: Vec<_> = supported.as_slice().to_vec();
    let has_topology = entries.iter().any(|entry| entry.function == 0 && entry.eax >= TOPOLOGY);
    entries.retain(|entry| !replaced.contains(&entry.function));
    for entry in &mut entries {
        topology.adapt(entry);
        match entry.function {
            // Without it there would be no VM, see `set_up_vm`.
            1 => entry.ecx |= TSC_DEADLINE,
            0x8000_0007 => entry.edx &= !INVARIANT_TSC,
            _ => {}
        }
    }
    if has_topology {
        entries.extend(topology.levels());
    }
    entries
}

/// How many bits a guest-physical address has (leaf 0x8000_0008, EAX): as many as the CPU has, or as its nested page
/// tables take where those are named and fewer.
pub(super) fn address_bits(entries: &[kvm_cpuid_entry2]) -> u8 {
    let entry = entries.iter().find(|entry| entry.function == 0x8000_0008);
    let [physical, _, guest, _] = entry.map_or([FEWEST_ADDRESS_BITS, 0, 0, 0], |entry| entry.eax.to_le_bytes());
    if guest == 0 { physical } else { physical.min(guest) }
}

/// The place of a vCPU among the others.
#[derive(Clone, Copy)]
struct Topology {
    id: u32,
    count: u32,
    /// How many bits of an APIC id tell the cores apart.
    bits: u32,
    is_amd: bool,
}

impl Topology {
    fn new(index: u8, vcpus: u8) -> Self {
        let count = u32::from(vcpus.max(1));
        Self { id: u32::from(index), count, bits: count.next_power_of_two().trailing_zeros(), is_amd: false }
    }

    /// One less than the number of ids that the cores take.
    fn last_id(self) -> u32 {
        (1_u32 << self.bits).saturating_sub(1)
    }

    fn adapt(self, entry: &mut kvm_cpuid_entry2) {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | self.last_id().saturating_add(1) << 16 | self.id << 24;
                entry.ecx |= HYPERVISOR | X2APIC;
                entry.edx = if self.count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
            }
            // Caches: the first two levels belong to a core, the third to all.
            4 if entry.eax & 0x1f != 0 => {
                let sharing = if entry.eax >> 5 & 7 >= 3 { self.last_id() } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14 | self.last_id() << 26;
            }
            _ if self.is_amd => self.adapt_amd(entry),
            _ => {}
        }
    }

    fn adapt_amd(self, entry: &mut kvm_cpuid_entry2) {
        match entry.function {
            0x8000_001d if entry.eax & 0x1f != 0 => {
                let sharing = if entry.eax >> 5 & 7 >= 3 { self.last_id() } else { 0 };
                entry.eax = entry.eax & !(0xfff << 14) | sharing << 14;
            }
            0x8000_0001 => {
                entry.ecx = if self.count > 1 { entry.ecx | CMP_LEGACY } else { entry.ecx & !CMP_LEGACY };
            }
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | self.bits << 12 | self.count.saturating_sub(1),
            // One thread per core, one node.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (self.id, self.id, 0),
            _ => {}
        }
    }

    /// The sub-leaves of leaf 0xb: threads of a core (one), cores of the socket, and the end.
    fn levels(self) -> [kvm_cpuid_entry2; 3] {
        let level = |index: u32, eax: u32, ebx: u32, kind: u32| kvm_cpuid_entry2 {
            function: TOPOLOGY,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx: kind | index,
            edx: self.id,
            ..kvm_cpuid_entry2::default()
        };
        [level(0, 0, 1, SMT_LEVEL), level(1, self.bits, self.count, CORE_LEVEL), level(2, 0, 0, 0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ..kvm_cpuid_entry2::default() }
    }

    fn of(supported: &[kvm_cpuid_entry2], index: u8, vcpus: u8) -> Vec<kvm_cpuid_entry2> {
        of_vcpu(&CpuId::from_entries(supported).unwrap(), index, vcpus)
    }

    #[test]
    fn each_vcpu_is_a_core_with_its_own_id() {
        let entries = of(&[entry(0, 0x1f), entry(1, 0), entry(0x1f, 7), entry(0xb, 7)], 2, 3);
        let leaf_1 = entries.iter().find(|entry| entry.function == 1).unwrap();
        assert_eq!(leaf_1.ebx, 2 << 24 | 4 << 16);
        assert_eq!(leaf_1.ecx, X2APIC | TSC_DEADLINE | HYPERVISOR);
        assert_eq!(leaf_1.edx, HTT);
        let levels = entries.iter().filter(|entry| entry.function == 0xb);
        let levels: Vec<_> = levels.map(|entry| (entry.index, entry.eax, entry.ebx, entry.ecx, entry.edx)).collect();
        assert_eq!(levels, [(0, 0, 1, 0x100, 2), (1, 2, 3, 0x201, 2), (2, 0, 0, 2, 2)]);
        assert!(!entries.iter().any(|entry| entry.function == 0x1f));
    }

    #[test]
    fn amd_has_leaves_of_its_own() {
        let leaf_0 = kvm_cpuid_entry2 { ebx: AMD[0], ..entry(0, 0xb) };
        let cache = entry(0x8000_001d, 0x163);
        let leaves = [leaf_0, entry(0x8000_0001, 0), entry(0x8000_0008, 0), cache, entry(0x8000_001e, 9)];
        let entries = of(&leaves, 2, 3);
        assert_eq!(entries[1].ecx, CMP_LEGACY);
        assert_eq!(entries[2].ecx, 2 << 12 | 2);
        assert_eq!(entries[3].eax, 0x163 | 3 << 14);
        assert_eq!((entries[4].eax, entries[4].ebx), (2, 2));
        let intel = of(&leaves.map(|leaf| kvm_cpuid_entry2 { ebx: 0, ..leaf }), 2, 3);
        assert_eq!(intel[2].ecx, 0);
    }

    #[test]
    fn a_single_vcpu_has_no_siblings() {
        let entries = of(&[entry(0, 0xb), entry(1, 0), entry(4, 0x7c00_4121)], 0, 1);
        assert_eq!(entries[1].ebx, 1 << 16);
        assert_eq!(entries[1].edx & HTT, 0);
        assert_eq!(entries[2].eax, 0x121);
    }

    #[test]
    fn the_third_level_cache_is_shared_by_all() {
        let entries = of(&[entry(0, 4), entry(4, 0x143), entry(4, 0x163), entry(4, 0)], 0, 16);
        assert_eq!(entries[1].eax, 0x143 | 15 << 26);
        assert_eq!(entries[2].eax, 0x163 | 15 << 26 | 15 << 14);
        assert_eq!(entries[3].eax, 0);
        assert!(!entries.iter().any(|entry| entry.function == 0xb), "the CPU has no such leaf");
    }

    #[test]
    fn the_tsc_is_not_promised_to_be_the_same_for_ever() {
        let leaf = kvm_cpuid_entry2 { edx: 0x1ff, ..entry(0x8000_0007, 0) };
        assert_eq!(of(&[leaf], 0, 1)[0].edx, 0xff);
    }

    #[test]
    fn leaves_of_the_hypervisor_pass_through() {
        let kvm = entry(0x4000_0000, 0x4000_0001);
        assert!(of(&[entry(0, 0xb), kvm], 0, 2).contains(&kvm));
    }
}
