//! A guest's driver, for tests: it brings a device up through its registers and uses split queues in guest memory.

use std::os::fd::AsRawFd;

use virtio_bindings::virtio_mmio as abi;
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::{Descriptor, VirtqUsedElem};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::queue::EVENT_IDX;
use super::slot::Slot;
use super::{DeviceError, Event, Progress, VirtioDevice, lock};
use crate::bus::BusDevice;

/// The size of a test guest's memory; the rings are at its end.
pub(super) const MEMORY: u64 = 8 << 20;
const RING_BYTES: u64 = 0x4000;
/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) writable: bool,
}

pub(super) const fn readable(address: u64, length: u32) -> Buffer {
    Buffer { address, length, writable: false }
}

pub(super) const fn writable(address: u64, length: u32) -> Buffer {
    Buffer { address, length, writable: true }
}

/// The driver's side of a queue.
#[derive(Debug)]
pub(super) struct Ring {
    base: u64,
    size: u16,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    avail: u16,
    used: u16,
}

impl Ring {
    fn new(base: u64, size: u16) -> Self {
        let chains = vec![Vec::new(); size.into()];
        Self { base, size, free: (0..size).rev().collect(), chains, avail: 0, used: 0 }
    }

    pub(super) fn avail_address(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    pub(super) fn used_address(&self) -> u64 {
        self.base + RING_BYTES / 2
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Writes a descriptor as it is.
    pub(super) fn describe(&self, memory: &GuestMemoryMmap, index: u16, descriptor: Descriptor) {
        let address = GuestAddress(self.base + 16 * u64::from(index));
        memory.write_obj(RawDescriptor::from(descriptor), address).unwrap();
    }

    /// Makes the chain that starts at `head` available.
    pub(super) fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = u64::from(self.avail % self.size);
        memory.write_obj(head, GuestAddress(self.avail_address() + 4 + 2 * slot)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        memory.store(self.avail, GuestAddress(self.avail_address() + 2), std::sync::atomic::Ordering::SeqCst).unwrap();
    }

    /// Makes a chain of `buffers` available and returns its head.
    pub(super) fn add(&mut self, memory: &GuestMemoryMmap, buffers: &[Buffer]) -> u16 {
        let indices: Vec<u16> = buffers.iter().map(|_| self.free.pop().unwrap()).collect();
        for (place, (buffer, &index)) in buffers.iter().zip(&indices).enumerate() {
            let next = indices.get(place + 1).copied();
            let flags = if buffer.writable { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            let descriptor = Descriptor::new(buffer.address, buffer.length, flags, next.unwrap_or(0));
            self.describe(memory, index, descriptor);
        }
        let head = indices[0];
        self.chains[usize::from(head)] = indices;
        self.offer(memory, head);
        head
    }

    /// The next chain that the device gave back, and the bytes written. Asks to be interrupted by the one after it.
    pub(super) fn take(&mut self, memory: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let index: u16 =
            memory.load(GuestAddress(self.used_address() + 2), std::sync::atomic::Ordering::SeqCst).unwrap();
        if index == self.used {
            return None;
        }
        let place = self.used_address() + 4 + 8 * u64::from(self.used % self.size);
        let element: VirtqUsedElem = memory.read_obj(GuestAddress(place)).unwrap();
        self.used = self.used.wrapping_add(1);
        let used_event = self.avail_address() + 4 + 2 * u64::from(self.size);
        memory.store(self.used, GuestAddress(used_event), std::sync::atomic::Ordering::SeqCst).unwrap();
        let head = u16::try_from(element.id()).unwrap();
        self.free.append(&mut self.chains[usize::from(head)]);
        Some((head, element.len()))
    }
}

/// A device in a slot, and its driver.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) slot: Slot,
    pub(super) memory: GuestMemoryMmap,
    pub(super) rings: Vec<Ring>,
}

impl Driver {
    /// A driver that has not touched the device yet.
    pub(super) fn new(device: impl VirtioDevice + 'static) -> Self {
        let size = usize::try_from(MEMORY).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
        let sizes = device.queue_sizes().to_vec();
        let slot = Slot::new(Box::new(device), memory.clone()).unwrap();
        let rings = (1..).zip(sizes).map(|(place, size)| Ring::new(MEMORY - place * RING_BYTES, size)).collect();
        Self { slot, memory, rings }
    }

    /// A driver that has brought the device up with all its features.
    pub(super) fn start(device: impl VirtioDevice + 'static) -> Self {
        Self::start_with(device, u64::MAX)
    }

    /// A driver that has brought the device up with those of its features that are in `features`.
    pub(super) fn start_with(device: impl VirtioDevice + 'static, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.bring_up(features);
        assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 15);
        driver
    }

    pub(super) fn bring_up(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.write(abi::VIRTIO_MMIO_STATUS, status);
        }
        for page in [0, 1] {
            self.write(abi::VIRTIO_MMIO_DEVICE_FEATURES_SEL, page);
            let offered = self.read(abi::VIRTIO_MMIO_DEVICE_FEATURES);
            let wanted = u32::try_from(features >> (32 * page) & u64::from(u32::MAX)).unwrap();
            self.write(abi::VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
            self.write(abi::VIRTIO_MMIO_DRIVER_FEATURES, offered & (wanted | if page == 1 { 1 } else { 0 }));
        }
        self.write(abi::VIRTIO_MMIO_STATUS, 11);
        for queue in 0..self.rings.len() {
            self.describe_queue(queue);
            self.write(abi::VIRTIO_MMIO_QUEUE_READY, 1);
        }
        self.write(abi::VIRTIO_MMIO_STATUS, 15);
    }

    pub(super) fn describe_queue(&self, queue: usize) {
        let ring = &self.rings[queue];
        let low = |address: u64| u32::try_from(address).unwrap();
        self.write(abi::VIRTIO_MMIO_QUEUE_SEL, u32::try_from(queue).unwrap());
        self.write(abi::VIRTIO_MMIO_QUEUE_NUM, ring.size.into());
        self.write(abi::VIRTIO_MMIO_QUEUE_DESC_LOW, low(ring.base));
        self.write(abi::VIRTIO_MMIO_QUEUE_AVAIL_LOW, low(ring.avail_address()));
        self.write(abi::VIRTIO_MMIO_QUEUE_USED_LOW, low(ring.used_address()));
    }

    pub(super) fn read(&self, register: u32) -> u32 {
        let mut data = [0xaa; 4];
        lock(&self.slot.transport).read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn write(&self, register: u32, value: u32) {
        lock(&self.slot.transport).write(register.into(), &value.to_le_bytes());
    }

    /// Lets the device work on `queue` in this thread.
    pub(super) fn run(&self, queue: usize) -> Result<Progress, DeviceError> {
        self.process(Event::Queue(queue))
    }

    /// Gives the device an event in this thread.
    pub(super) fn process(&self, event: Event) -> Result<Progress, DeviceError> {
        lock(&self.slot.device).process(event)
    }

    /// Notifies the device's thread.
    pub(super) fn notify(&self, queue: usize) {
        self.write(abi::VIRTIO_MMIO_QUEUE_NOTIFY, u32::try_from(queue).unwrap());
    }

    /// Waits for an interrupt, acknowledges it and returns its reasons; 0 when there was none for ten seconds.
    pub(super) fn wait_for_interrupt(&self) -> u32 {
        let epoll = Epoll::new().unwrap();
        let irq = self.slot.irq.as_raw_fd();
        epoll.ctl(ControlOperation::Add, irq, EpollEvent::new(EventSet::IN, 0)).unwrap();
        if epoll.wait(10_000, &mut [EpollEvent::default()]).unwrap() == 0 {
            return 0;
        }
        self.slot.irq.read().unwrap();
        let reasons = self.read(abi::VIRTIO_MMIO_INTERRUPT_STATUS);
        self.write(abi::VIRTIO_MMIO_INTERRUPT_ACK, reasons);
        reasons
    }

    /// The interrupts since the last call.
    pub(super) fn interrupts(&self) -> u64 {
        self.slot.irq.read().unwrap_or(0)
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }
}

/// Bytes that differ from place to place.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| u8::try_from((place * 7 + place / 251) % 256).unwrap()).collect()
}

/// The features without `VIRTIO_F_EVENT_IDX`.
pub(super) const NO_EVENT_IDX: u64 = !EVENT_IDX;
