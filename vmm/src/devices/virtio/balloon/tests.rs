//! Reports, true and false ones, and a balloon that doesn't grow.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::*;
use crate::config::create_guest_memory;
use crate::devices::virtio::slot::Slot;
use crate::devices::virtio::test_driver::{Buffer, Driver, MEMORY, readable, writable};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const FREE: u64 = 0x10_0000;
const PAGE: u32 = 4096;

/// A driver whose guest has bytes from [`FREE`] on for as long as the rings leave room.
fn start() -> Driver {
    let driver = Driver::start(Balloon::default());
    driver.memory.write_slice(&[0xee; 0x20_0000], GuestAddress(FREE)).unwrap();
    driver
}

/// Makes a request and returns the length that came back with it.
fn request(driver: &mut Driver, queue: usize, buffers: &[Buffer]) -> u32 {
    let head = driver.rings[queue].add(&driver.memory, buffers);
    assert_eq!(driver.run(queue).unwrap(), Progress::Done);
    let (back, length) = driver.rings[queue].take(&driver.memory).unwrap();
    assert_eq!(back, head);
    length
}

/// Whether the pages from `start` on are zeros, each.
fn zeros(driver: &Driver, start: u64, pages: u64) -> Vec<bool> {
    let page = |page: u64| {
        let bytes = driver.bytes(start + page * u64::from(PAGE), 4096);
        assert!(bytes == [0; 4096] || bytes == [0xee; 4096], "a page is cut");
        bytes == [0; 4096]
    };
    (0..pages).map(page).collect()
}

#[test]
fn a_balloon_is_not_asked_to_grow() {
    let driver = start();
    assert_eq!(driver.read(virtio_bindings::virtio_mmio::VIRTIO_MMIO_DEVICE_ID), 5);
    assert_eq!((driver.read(0x100), driver.read(0x104)), (0, 0));
    driver.write(0x104, 7);
    assert_eq!(driver.read(0x104), 0);
}

#[test]
fn what_is_reported_is_given_back() {
    let mut driver = start();
    let report = [writable(FREE + 0x1000, 2 * PAGE), writable(FREE + 0x5000, PAGE)];
    assert_eq!(request(&mut driver, REPORTS, &report), 0);
    assert_eq!(zeros(&driver, FREE, 7), [false, true, true, false, false, true, false]);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn parts_of_pages_are_kept_and_the_report_is_done() {
    let mut driver = start();
    let report = [writable(FREE + 1, PAGE), writable(FREE, PAGE - 1), writable(FREE + 0x3000, 0)];
    request(&mut driver, REPORTS, &report);
    request(&mut driver, REPORTS, &[writable(FREE + 0x1000, PAGE + 1), writable(FREE + 0x3000, PAGE)]);
    assert_eq!(zeros(&driver, FREE, 4), [false, false, false, true]);
}

#[test]
fn what_is_not_the_guests_memory_is_not_given_back() {
    let mut driver = start();
    for wrong in [
        writable(MEMORY, PAGE),
        writable(MEMORY - u64::from(PAGE), 2 * PAGE),
        writable(u64::MAX - 0xfff, PAGE),
        writable(FREE, u32::MAX),
        // Nor is what the driver says that only it writes.
        readable(FREE + 0x1000, PAGE),
    ] {
        request(&mut driver, REPORTS, &[wrong, writable(FREE, PAGE)]);
        let kept = wrong.writable;
        assert_eq!(zeros(&driver, FREE, 2), [!kept, false], "{wrong:?}");
    }
}

#[test]
fn files_are_not_given_back() {
    let driver = start();
    let file = MmapRegion::new(2 << 20).unwrap();
    let file = GuestRegionMmap::new(file, GuestAddress(4 << 30)).unwrap();
    let files = GuestMemoryMmap::from_regions(vec![file]).unwrap();
    files.write_slice(&[0xee; 4096], GuestAddress(4 << 30)).unwrap();
    let slot = Slot::new(Box::new(Balloon::default()), GuestMemory::new(driver.memory.clone(), files.clone())).unwrap();
    let mut driver = Driver { slot, ..driver };
    driver.bring_up(u64::MAX);
    request(&mut driver, REPORTS, &[writable(4 << 30, PAGE)]);
    let mut bytes = [0; 4096];
    files.read_slice(&mut bytes, GuestAddress(4 << 30)).unwrap();
    assert_eq!(bytes, [0xee; 4096]);
}

#[test]
fn the_balloon_takes_and_gives_nothing() {
    let mut driver = start();
    let pages: Vec<u8> = (0_u32..16).flat_map(|page| (0x100 + page).to_le_bytes()).collect();
    driver.put(0x1000, &pages);
    for queue in [INFLATE, DEFLATE] {
        assert_eq!(request(&mut driver, queue, &[readable(0x1000, 64)]), 0);
        // Nor would a report here.
        assert_eq!(request(&mut driver, queue, &[writable(FREE, PAGE)]), 0);
    }
    assert_eq!(zeros(&driver, FREE, 16), [false; 16]);
    assert_eq!(driver.interrupts(), 4);
}

#[test]
fn a_driver_that_knows_of_no_reports_makes_none() {
    let mut driver = Driver::start_with(Balloon::default(), !REPORTING);
    driver.put(FREE, &[0xee; 4096]);
    request(&mut driver, REPORTS, &[writable(FREE, PAGE)]);
    assert_eq!(zeros(&driver, FREE, 1), [false]);
}

#[test]
fn a_ring_that_lies_breaks_the_device() {
    let mut driver = start();
    driver.rings[REPORTS].offer(&driver.memory, QUEUE_SIZE);
    assert!(matches!(driver.run(REPORTS), Err(DeviceError::Queue(_))));
}

#[test]
fn a_full_queue_is_a_turn_and_no_more() {
    let mut driver = start();
    for page in 0..QUEUE_SIZE {
        driver.rings[REPORTS].add(&driver.memory, &[writable(FREE + u64::from(page) * 4096, PAGE)]);
    }
    assert_eq!(driver.run(REPORTS).unwrap(), Progress::More);
    assert_eq!(driver.process(Event::Resume).unwrap(), Progress::Done);
    assert_eq!(zeros(&driver, FREE, 33), [[true; 32].as_slice(), &[false]].concat());
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn after_the_end_nothing_is_given_back() {
    let mut driver = start();
    driver.rings[REPORTS].add(&driver.memory, &[writable(FREE, PAGE)]);
    assert_eq!(driver.process(Event::Drain).unwrap(), Progress::Done);
    assert_eq!(zeros(&driver, FREE, 1), [false]);
}

#[test]
fn a_restored_device_sees_what_was_reported_before() {
    let mut driver = start();
    request(&mut driver, REPORTS, &[writable(FREE, PAGE)]);
    driver.rings[REPORTS].add(&driver.memory, &[writable(FREE + 0x1000, PAGE)]);
    let state = driver.slot.save().unwrap();
    driver.slot = Slot::new(Box::new(Balloon::default()), driver.memory.clone()).unwrap();
    driver.slot.restore(&state).unwrap();
    driver.slot.wake().unwrap();
    assert_eq!(driver.slot.queue_events[REPORTS].read().unwrap(), 1, "it is told to look");
    assert_eq!(driver.run(REPORTS).unwrap(), Progress::Done);
    assert_eq!(zeros(&driver, FREE, 3), [true, true, false]);
    assert!(driver.rings[REPORTS].take(&driver.memory).is_some());
}

/// A memory of the runtime's, as a guest that boots has it: what it reported is a hole in the file.
#[test]
fn memory_in_a_file_becomes_a_hole() {
    use std::os::unix::fs::MetadataExt;

    let file = std::fs::File::from(create_guest_memory(64).unwrap());
    let memory = GuestMemory::from(crate::memory::map(file.try_clone().unwrap().into(), 64).unwrap());
    assert!(!memory.is_private());
    memory.write_slice(&[0xee; 8 << 20], GuestAddress(0)).unwrap();
    let blocks = || file.metadata().unwrap().blocks() * 512;
    assert!(blocks() >= 8 << 20, "{}", blocks());
    let mut slices = Vec::new();
    memory.writable_slices(GuestAddress(2 << 20), 4 << 20, &mut slices).unwrap();
    iovec::discard(&slices[0], memory.is_private()).unwrap();
    assert!(blocks() <= 4 << 20, "{}", blocks());
    let mut bytes = [0xaa; 2];
    memory.read_slice(&mut bytes, GuestAddress((2 << 20) - 1)).unwrap();
    assert_eq!(bytes, [0xee, 0]);
    assert_eq!(file.metadata().unwrap().len(), 64 << 20);
}
