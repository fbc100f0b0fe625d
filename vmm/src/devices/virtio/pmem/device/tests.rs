//! Flushes, and requests that are none.

use super::*;
use crate::devices::virtio::lock;
use crate::devices::virtio::slot::Slot;
use crate::devices::virtio::test_driver::{Buffer, Driver, readable, writable};

const REQUEST_ADDRESS: u64 = 0x1000;
const ANSWER_ADDRESS: u64 = 0x2000;
/// What no request has written.
const UNTOUCHED: [u8; 5] = [0xee; 5];

fn start() -> Driver {
    Driver::start(Pmem::new(GuestAddress(4 << 30), 6 << 20))
}

/// Makes a request of this type and returns the answer's place after it and the length given back.
fn request(driver: &mut Driver, kind: u32, buffers: &[Buffer]) -> (Vec<u8>, u32) {
    driver.put(REQUEST_ADDRESS, &kind.to_le_bytes());
    driver.put(ANSWER_ADDRESS, &UNTOUCHED);
    let head = driver.rings[0].add(&driver.memory, buffers);
    assert_eq!(driver.run(0).unwrap(), Progress::Done);
    let (back, length) = driver.rings[0].take(&driver.memory).unwrap();
    assert_eq!(back, head);
    (driver.bytes(ANSWER_ADDRESS, UNTOUCHED.len()), length)
}

#[test]
fn the_configuration_tells_where_the_memory_is() {
    let driver = start();
    assert_eq!(driver.read(virtio_bindings::virtio_mmio::VIRTIO_MMIO_DEVICE_ID), 27);
    let mut config = [0xaa; 24];
    crate::bus::BusDevice::read(&mut *lock(&driver.slot.transport), 0x100, &mut config);
    assert_eq!(config[..8], (4_u64 << 30).to_le_bytes());
    assert_eq!(config[8..16], (6_u64 << 20).to_le_bytes());
    assert_eq!(config[16..], [0; 8]);
}

#[test]
fn a_flush_succeeds_and_tells_the_guest() {
    let mut driver = start();
    let buffers = [readable(REQUEST_ADDRESS, 4), writable(ANSWER_ADDRESS, 4)];
    assert_eq!(request(&mut driver, FLUSH, &buffers), (vec![0, 0, 0, 0, 0xee], 4));
    assert_eq!(driver.interrupts(), 1);
    // Buffers may begin and end anywhere.
    let buffers = [
        readable(REQUEST_ADDRESS, 1),
        readable(REQUEST_ADDRESS + 1, 3),
        writable(ANSWER_ADDRESS, 3),
        writable(ANSWER_ADDRESS + 3, 9),
    ];
    assert_eq!(request(&mut driver, FLUSH, &buffers), (vec![0, 0, 0, 0, 0xee], 4));
}

#[test]
fn what_is_no_flush_fails() {
    let mut driver = start();
    let buffers = [readable(REQUEST_ADDRESS, 4), writable(ANSWER_ADDRESS, 4)];
    assert_eq!(request(&mut driver, 1, &buffers), (vec![1, 0, 0, 0, 0xee], 4));
    let short = [readable(REQUEST_ADDRESS, 3), writable(ANSWER_ADDRESS, 4)];
    assert_eq!(request(&mut driver, FLUSH, &short), (vec![1, 0, 0, 0, 0xee], 4));
}

#[test]
fn a_request_without_room_for_an_answer_is_given_back_untouched() {
    let mut driver = start();
    for room in [&[][..], &[writable(ANSWER_ADDRESS, 3)]] {
        let buffers = [&[readable(REQUEST_ADDRESS, 4)], room].concat();
        assert_eq!(request(&mut driver, FLUSH, &buffers), (UNTOUCHED.to_vec(), 0));
    }
    // The memory itself is no place for an answer, as it isn't memory that devices can write.
    let buffers = [readable(REQUEST_ADDRESS, 4), writable(4 << 30, 4)];
    assert_eq!(request(&mut driver, FLUSH, &buffers), (UNTOUCHED.to_vec(), 0));
}

#[test]
fn a_ring_that_lies_breaks_the_device() {
    let mut driver = start();
    driver.rings[0].offer(&driver.memory, QUEUE_SIZE);
    assert!(matches!(driver.run(0), Err(DeviceError::Queue(_))));
}

#[test]
fn a_reset_or_the_end_takes_the_queue_away() {
    let mut driver = start();
    driver.write(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0);
    driver.rings[0].add(&driver.memory, &[readable(REQUEST_ADDRESS, 4), writable(ANSWER_ADDRESS, 4)]);
    assert_eq!(driver.run(0).unwrap(), Progress::Done);
    assert!(driver.rings[0].take(&driver.memory).is_none());
    let mut driver = start();
    driver.rings[0].add(&driver.memory, &[readable(REQUEST_ADDRESS, 4), writable(ANSWER_ADDRESS, 4)]);
    assert_eq!(driver.process(Event::Drain).unwrap(), Progress::Done);
    assert!(driver.rings[0].take(&driver.memory).is_none());
}

#[test]
fn a_restored_device_answers_what_was_asked_before() {
    let mut driver = start();
    let buffers = [readable(REQUEST_ADDRESS, 4), writable(ANSWER_ADDRESS, 4)];
    assert_eq!(request(&mut driver, FLUSH, &buffers), (vec![0, 0, 0, 0, 0xee], 4));
    driver.put(ANSWER_ADDRESS, &UNTOUCHED);
    driver.rings[0].add(&driver.memory, &buffers);
    let state = driver.slot.save().unwrap();
    driver.slot = Slot::new(Box::new(Pmem::new(GuestAddress(4 << 30), 6 << 20)), driver.memory.clone()).unwrap();
    driver.slot.restore(&state).unwrap();
    driver.slot.wake().unwrap();
    assert_eq!(driver.run(0).unwrap(), Progress::Done);
    assert_eq!(driver.bytes(ANSWER_ADDRESS, UNTOUCHED.len()), [0, 0, 0, 0, 0xee]);
    assert!(driver.rings[0].take(&driver.memory).is_some());
}
