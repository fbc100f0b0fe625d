//! A VM of KVM: its memory, its buses, its interrupt lines.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::arch::{self, VmSetupError, layout};
use crate::bus::{BusDevice, BusError};
use crate::devices::virtio::placeholder::Placeholder;
use crate::devices::virtio::slot::Slot;
use crate::exits::Buses;
use crate::memory::GuestMemory;

/// Why there is no VM.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The descriptor isn't KVM's.
    #[error("The descriptor for KVM isn't /dev/kvm")]
    NotKvm,
    /// There are no descriptors left.
    #[error("The descriptor for KVM can't be duplicated")]
    Descriptor(#[source] io::Error),
    /// KVM is of another kind.
    #[error("This host's KVM has API version {0}, not {expected}", expected = kvm_bindings::KVM_API_VERSION)]
    ApiVersion(i32),
    /// KVM lacks something.
    #[error("This host's KVM lacks {0:?}, without which a microVM can't be run")]
    Lacks(Cap),
    /// KVM refuses.
    #[error("KVM can't create a VM")]
    Create(#[source] kvm_ioctls::Error),
    /// The architecture's part.
    #[error(transparent)]
    SetUp(#[from] VmSetupError),
    /// KVM refuses the memory.
    #[error("KVM can't take the guest memory")]
    Memory(#[source] kvm_ioctls::Error),
    /// KVM can't keep a guest from writing.
    #[error("This host's KVM lacks ReadonlyMem, without which a microVM can't have persistent memory")]
    NoReadOnlyMemory,
    /// KVM refuses a file.
    #[error("KVM can't take persistent memory")]
    Files(#[source] kvm_ioctls::Error),
    /// KVM refuses an interrupt line.
    #[error("KVM can't connect interrupt line {gsi}")]
    Line {
        /// The line.
        gsi: u32,
        /// KVM's reason.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// There is no room for a device.
    #[error("There is no virtio slot {0}")]
    NoSlot(usize),
    /// A device can't be placed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// KVM refuses a vCPU.
    #[error("KVM can't create a vCPU")]
    Vcpu(#[source] kvm_ioctls::Error),
}

/// Where a driver notifies a virtio device, in its window (`QueueNotify`; virtio 1.2, section 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// Whether the KVM behind this descriptor of `/dev/kvm` can give a guest memory that it only reads, so that it can have
/// persistent memory.
#[must_use]
pub fn supports_pmem(kvm: BorrowedFd<'_>) -> bool {
    borrow(kvm).is_ok_and(|kvm| kvm.check_extension(Cap::ReadonlyMem))
}

/// KVM behind a descriptor of another owner.
pub(crate) fn borrow(kvm: BorrowedFd<'_>) -> Result<Kvm, VmError> {
    open(kvm.try_clone_to_owned().map_err(VmError::Descriptor)?)
}

/// KVM, if the descriptor is that.
#[expect(unsafe_code, reason = "kvm-ioctls takes KVM's descriptor as a number")]
fn open(kvm: OwnedFd) -> Result<Kvm, VmError> {
    // SAFETY: the descriptor is open and nothing else owns it.
    let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
    match u32::try_from(kvm.get_api_version()) {
        Ok(kvm_bindings::KVM_API_VERSION) => Ok(kvm),
        Ok(_) => Err(VmError::ApiVersion(kvm.get_api_version())),
        Err(_) => Err(VmError::NotKvm),
    }
}

/// A VM. `memory` stays mapped at least as long as the VM's descriptor is open here; vCPUs, which keep KVM's VM alive,
/// hold the memory too. Dropping it disconnects the interrupt lines, also of vCPUs that still run.
#[derive(Debug)]
pub struct Vm {
    kvm: Kvm,
    fd: VmFd,
    memory: GuestMemory,
    /// The devices, until the vCPUs take them.
    pub buses: Buses,
}

impl Vm {
    /// A VM with this memory, and neither interrupt controllers nor devices.
    ///
    /// # Errors
    /// When KVM is missing, too old, or refuses.
    pub fn new(kvm: OwnedFd, ram: GuestMemoryMmap) -> Result<Self, VmError> {
        let kvm = open(kvm)?;
        let needed = [Cap::UserMemory, Cap::Irqfd];
        if let Some(missing) = needed.into_iter().find(|cap| !kvm.check_extension(*cap)) {
            return Err(VmError::Lacks(missing));
        }
        let fd = create(&kvm).map_err(VmError::Create)?;
        let vm = Self { kvm, fd, memory: ram.into(), buses: Buses::default() };
        vm.register(&vm.memory, 0, 0).map_err(VmError::Memory)?;
        Ok(vm)
    }

    /// Adds files that the guest can read and not write. A write of the guest's comes back as an access to an address
    /// where no device is.
    ///
    /// # Errors
    /// When KVM can't do that, or refuses them.
    pub fn add_files(&mut self, files: GuestMemoryMmap) -> Result<(), VmError> {
        if files.num_regions() > 0 && !self.kvm.check_extension(Cap::ReadonlyMem) {
            return Err(VmError::NoReadOnlyMemory);
        }
        self.memory = GuestMemory::new((*self.memory).clone(), files);
        let first = u32::try_from(self.memory.num_regions()).unwrap_or(u32::MAX);
        self.register(self.memory.files(), first, KVM_MEM_READONLY).map_err(VmError::Files)
    }

    /// Adds the interrupt controllers, when all memory is there: in a VM that has these, KVM waits a few
    /// milliseconds for each memory that is added.
    ///
    /// # Errors
    /// When KVM lacks a part.
    pub fn add_interrupt_controllers(&self) -> Result<(), VmError> {
        Ok(arch::set_up_vm(&self.fd)?)
    }

    /// What the guest sees as memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    #[expect(unsafe_code, reason = "KVM is given memory by its address")]
    fn register(&self, memory: &GuestMemoryMmap, first: u32, flags: u32) -> Result<(), kvm_ioctls::Error> {
        for (slot, region) in (first..).zip(memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr().addr() as u64,
            };
            // SAFETY: the region is mapped as long as `self.memory` or a clone of it exists (see `Vm`), it is memory that
            // no Rust reference points into, and regions of guest memory do not overlap.
            unsafe { self.fd.set_user_memory_region(region) }?;
        }
        Ok(())
    }

    /// KVM itself.
    #[must_use]
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// KVM's VM.
    #[must_use]
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Makes each write to `event` an edge of the interrupt line `gsi`.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn connect_line(&self, event: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.fd.register_irqfd(event, gsi).map_err(|source| VmError::Line { gsi, source })
    }

    /// Puts a device behind ports.
    ///
    /// # Errors
    /// When another device is there.
    pub fn add_ports(&mut self, start: u64, length: u64, device: impl BusDevice + 'static) -> Result<(), VmError> {
        Ok(self.buses.ports.insert(start, length, Arc::new(Mutex::new(device)))?)
    }

    /// Puts a virtio device into the slot with this index.
    ///
    /// # Errors
    /// When there is no such slot, or KVM refuses its interrupt line.
    pub fn add_slot(&mut self, index: usize, slot: &Slot) -> Result<(), VmError> {
        let (address, gsi) = layout::slot(index).ok_or(VmError::NoSlot(index))?;
        self.connect_line(&slot.irq, gsi)?;
        self.buses.memory.insert(address, layout::SLOT_SIZE, slot.transport.clone())?;
        let notify = IoEventAddress::Mmio(address.saturating_add(QUEUE_NOTIFY));
        for (queue, event) in (0_u32..).zip(&slot.queue_events) {
            // Where KVM can't do this, the write reaches the transport, which signals the event itself.
            let _ = self.fd.register_ioevent(event, &notify, queue);
        }
        Ok(())
    }

    /// Leaves the slot with this index without a device.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn add_placeholder(&mut self, index: usize) -> Result<(), VmError> {
        let (address, _) = layout::slot(index).ok_or(VmError::NoSlot(index))?;
        Ok(self.buses.memory.insert(address, layout::SLOT_SIZE, Arc::new(Mutex::new(Placeholder)))?)
    }

    /// Creates the vCPU with this index.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu(&self, index: u8) -> Result<VcpuFd, VmError> {
        self.fd.create_vcpu(u64::from(index)).map_err(VmError::Vcpu)
    }
}

/// Creates a VM; a signal can interrupt that.
fn create(kvm: &Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}
