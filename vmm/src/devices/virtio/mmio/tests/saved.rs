//! States from a file, which can hold anything.

use super::*;
use crate::devices::virtio::SuspendError;
use crate::devices::virtio::mmio::saved::SavedQueue;

/// What is true of every transport, whatever it was given.
fn check(driver: &Driver, seen: &Seen) {
    let status = driver.read(abi::VIRTIO_MMIO_STATUS);
    for (bit, after) in [(DRIVER, ACKNOWLEDGE), (FEATURES_OK, DRIVER), (DRIVER_OK, FEATURES_OK)] {
        assert!(status & bit == 0 || status & after != 0, "{status:#x}");
    }
    assert_eq!(seen.active.load(Ordering::SeqCst), status & DRIVER_OK != 0);
}

#[test]
fn a_transport_that_is_being_set_up_goes_on() {
    let (mut driver, _) = fake();
    for status in [0, 1, 3] {
        driver.write(abi::VIRTIO_MMIO_STATUS, status);
    }
    driver.write(abi::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.write(abi::VIRTIO_MMIO_DRIVER_FEATURES, 1);
    driver.write(abi::VIRTIO_MMIO_STATUS, 11);
    driver.describe_queue(1);
    driver.write(abi::VIRTIO_MMIO_QUEUE_READY, 1);
    let state = driver.slot.save().unwrap();

    let (other, seen) = fake();
    driver.slot = other.slot;
    driver.slot.restore(&state).unwrap();
    assert_eq!(driver.slot.save().unwrap(), state);
    assert_eq!(driver.read(abi::VIRTIO_MMIO_QUEUE_READY), 1);
    driver.write(abi::VIRTIO_MMIO_STATUS, 15);
    assert_eq!(seen.ready_queues.load(Ordering::SeqCst), 1);
    check(&driver, &seen);
}

#[test]
fn a_device_that_waits_for_a_reset_is_not_saved() {
    let (mut driver, _) = fake();
    driver.bring_up(u64::MAX);
    driver.slot.interrupt.request_reset().unwrap();
    assert!(matches!(driver.slot.save(), Err(SuspendError::Broken)));
}

prop_compose! {
    fn queue()(
        size in prop_oneof![Just(16), any::<u16>()],
        ready: bool,
        next_avail: u16,
        next_used: u16,
        places in prop::array::uniform3(prop_oneof![(0_u64..0x900).prop_map(|page| page << 12), any::<u64>()]),
    ) -> SavedQueue {
        let [descriptors, avail, used] = places;
        SavedQueue { size, ready, next_avail, next_used, descriptors, avail, used }
    }
}

proptest! {
    #[test]
    fn no_state_breaks_what_always_holds(
        status in prop_oneof![Just(15), Just(11), 0_u32..0x100, any::<u32>()],
        accepted in prop_oneof![Just(1_u64 << 32), any::<u64>()],
        selected_queue: u32,
        queues in prop::collection::vec(queue(), 0..4),
    ) {
        let (driver, seen) = fake();
        let mut state = driver.slot.save().unwrap();
        (state.status, state.accepted, state.selected_queue, state.queues) = (status, accepted, selected_queue, queues);
        let restored = driver.slot.restore(&state);
        if restored.is_ok() {
            check(&driver, &seen);
            prop_assert_eq!(driver.read(abi::VIRTIO_MMIO_STATUS), status);
        } else {
            prop_assert!(!seen.active.load(Ordering::SeqCst));
        }
    }
}
