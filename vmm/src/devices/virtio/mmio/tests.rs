//! Drivers that follow the rules, and drivers that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use proptest::prelude::*;
use virtio_bindings::virtio_mmio as abi;

use super::*;
use crate::devices::virtio::test_driver::Driver;
use crate::devices::virtio::{DeviceError, Event, Progress, VirtioDevice, copy_config};

mod saved;

/// What the test sees of a device.
#[derive(Debug, Default)]
struct Seen {
    active: AtomicBool,
    features: AtomicU32,
    ready_queues: AtomicU32,
}

struct Fake(Arc<Seen>);

impl VirtioDevice for Fake {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        1 << 3 | 1 << 29
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 16]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&[1, 2, 3, 4, 5, 6, 7, 8], offset, data);
    }

    fn activate(&mut self, context: ActivationContext) {
        assert!(!self.0.active.swap(true, Ordering::SeqCst), "activated twice");
        assert_eq!(context.queues.len(), 2);
        let ready = context.queues.iter().filter(|queue| queue.ready());
        assert!(ready.clone().all(|queue| queue.is_valid(&*context.memory)));
        self.0.ready_queues.store(u32::try_from(ready.count()).unwrap(), Ordering::SeqCst);
        self.0.features.store(u32::try_from(context.features & 0xffff_ffff).unwrap(), Ordering::SeqCst);
    }

    fn reset(&mut self) {
        self.0.active.store(false, Ordering::SeqCst);
    }

    fn process(&mut self, _event: Event) -> Result<Progress, DeviceError> {
        Ok(Progress::Done)
    }
}

fn fake() -> (Driver, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    (Driver::new(Fake(Arc::clone(&seen))), seen)
}

#[test]
fn a_driver_that_follows_the_rules_gets_its_device() {
    let (mut driver, seen) = fake();
    assert_eq!(driver.read(abi::VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_DEVICE_ID), 42);
    assert_ne!(driver.read(abi::VIRTIO_MMIO_VENDOR_ID), 0);
    driver.bring_up(u64::MAX);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 15);
    assert!(seen.active.load(Ordering::SeqCst));
    assert_eq!(seen.ready_queues.load(Ordering::SeqCst), 2);
    assert_eq!(seen.features.load(Ordering::SeqCst), 1 << 3 | 1 << 29);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_QUEUE_READY), 1);
}

#[test]
fn queue_sizes_are_per_queue_and_none_beyond_the_last() {
    let (driver, _) = fake();
    for (queue, size) in [(0, 64), (1, 16), (2, 0), (u32::MAX, 0)] {
        driver.write(abi::VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_eq!(driver.read(abi::VIRTIO_MMIO_QUEUE_NUM_MAX), size);
    }
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let (driver, seen) = fake();
    for status in [1, 3] {
        driver.write(abi::VIRTIO_MMIO_STATUS, status);
    }
    driver.write(abi::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.write(abi::VIRTIO_MMIO_DRIVER_FEATURES, 1);
    driver.write(abi::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    driver.write(abi::VIRTIO_MMIO_DRIVER_FEATURES, 1 << 4);
    driver.write(abi::VIRTIO_MMIO_STATUS, 11);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 3);
    driver.write(abi::VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 3);
    assert!(!seen.active.load(Ordering::SeqCst));
    // Having thought better of it, the driver goes on.
    driver.write(abi::VIRTIO_MMIO_DRIVER_FEATURES, 1 << 3);
    driver.write(abi::VIRTIO_MMIO_STATUS, 11);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 11);
}

#[test]
fn a_legacy_driver_is_refused() {
    let (driver, _) = fake();
    for status in [1, 3, 11] {
        driver.write(abi::VIRTIO_MMIO_STATUS, status);
    }
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 3);
}

#[test]
fn status_bits_come_in_order_and_stay() {
    let (driver, _) = fake();
    driver.write(abi::VIRTIO_MMIO_STATUS, 2);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 0);
    driver.write(abi::VIRTIO_MMIO_STATUS, 1);
    driver.write(abi::VIRTIO_MMIO_STATUS, 2);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 3);
    driver.write(abi::VIRTIO_MMIO_STATUS, 128);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 131);
    driver.write(abi::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn a_queue_outside_of_memory_does_not_become_ready() {
    let (mut driver, seen) = fake();
    driver.bring_up(u64::MAX);
    driver.write(abi::VIRTIO_MMIO_STATUS, 0);
    assert!(!seen.active.load(Ordering::SeqCst));
    assert_eq!(driver.read(abi::VIRTIO_MMIO_QUEUE_READY), 0);
    for status in [1, 3] {
        driver.write(abi::VIRTIO_MMIO_STATUS, status);
    }
    driver.write(abi::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.write(abi::VIRTIO_MMIO_DRIVER_FEATURES, 1);
    // Too early to describe a queue.
    driver.describe_queue(0);
    driver.write(abi::VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_QUEUE_READY), 0);
    driver.write(abi::VIRTIO_MMIO_STATUS, 11);
    driver.describe_queue(0);
    driver.write(abi::VIRTIO_MMIO_QUEUE_USED_HIGH, 1);
    driver.write(abi::VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_QUEUE_READY), 0);
    driver.write(abi::VIRTIO_MMIO_QUEUE_USED_HIGH, 0);
    driver.write(abi::VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_QUEUE_READY), 1);
    // A ready queue stays as it is.
    driver.write(abi::VIRTIO_MMIO_QUEUE_USED_HIGH, 1);
    driver.write(abi::VIRTIO_MMIO_STATUS, 15);
    assert_eq!(seen.ready_queues.load(Ordering::SeqCst), 1);
}

#[test]
fn notifications_reach_their_queue_alone() {
    let (driver, _) = fake();
    driver.notify(1);
    driver.write(abi::VIRTIO_MMIO_QUEUE_NOTIFY, 2);
    driver.write(abi::VIRTIO_MMIO_QUEUE_NOTIFY, u32::MAX);
    assert!(driver.slot.queue_events[0].read().is_err());
    assert_eq!(driver.slot.queue_events[1].read().unwrap(), 1);
}

#[test]
fn a_broken_device_says_so_until_it_is_reset() {
    let (mut driver, _) = fake();
    driver.bring_up(u64::MAX);
    driver.slot.interrupt.request_reset().unwrap();
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 15 | 64);
    assert_eq!(driver.wait_for_interrupt(), 2);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    driver.write(abi::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn the_configuration_space_takes_any_width() {
    let (driver, _) = fake();
    let mut transport = lock(&driver.slot.transport);
    let mut data = [0; 8];
    transport.read(0x100, &mut data);
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8]);
    transport.read(0x107, &mut data[..2]);
    assert_eq!(data[..2], [8, 0]);
    transport.read(u64::MAX, &mut data);
    assert_eq!(data, [0; 8]);
    // Registers are 4 bytes wide.
    transport.read(0, &mut data[..2]);
    assert_eq!(data[..2], [0, 0]);
    transport.read(2, &mut data[..4]);
    assert_eq!(data[..4], [0; 4]);
}

/// Offsets that hit registers often, and anything else sometimes.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![8 => (0_u64..0x48).prop_map(|n| n * 4), 1 => 0_u64..0x120, 1 => any::<u64>()]
}

/// Values that drivers write, and anything else sometimes.
fn value() -> impl Strategy<Value = u32> {
    let status = prop::sample::select(vec![0, 1, 2, 3, 4, 8, 11, 15, 16, 64, 128, 0x0070_0000, 0x0070_4000]);
    prop_oneof![8 => status, 1 => any::<u32>()]
}

proptest! {
    #[test]
    fn hostile_accesses_never_break_the_invariants(
        accesses in prop::collection::vec((any::<bool>(), offset(), prop::sample::select(vec![1_usize, 2, 4, 4, 4, 8]), value()), 0..400),
    ) {
        let (driver, seen) = fake();
        for (is_write, offset, width, value) in accesses {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&value.to_le_bytes());
            if is_write {
                lock(&driver.slot.transport).write(offset, &data[..width]);
            } else {
                lock(&driver.slot.transport).read(offset, &mut data[..width]);
            }
            let status = driver.read(abi::VIRTIO_MMIO_STATUS);
            prop_assert_eq!(status & 4 != 0, seen.active.load(Ordering::SeqCst));
            for (bit, after) in [(2, 1), (8, 2), (4, 8)] {
                prop_assert!(status & bit == 0 || status & after != 0);
            }
            prop_assert_eq!(seen.features.load(Ordering::SeqCst) & !(1 << 3 | 1 << 29), 0);
        }
    }
}
