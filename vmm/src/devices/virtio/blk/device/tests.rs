//! Requests of all kinds against files.

use std::fs::File;
use std::io::{Read, Seek, Write};

use virtio_queue::desc::split::Descriptor;

use super::*;
use crate::devices::virtio::test_driver::{Buffer, Driver, NO_EVENT_IDX, pattern, readable, writable};

const HEADER: u64 = 0x1000;
const STATUS: u64 = 0x2000;
const DATA: u64 = 0x10_0000;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// What no request has written.
const UNTOUCHED: u8 = 0xee;

fn file(content: &[u8]) -> Arc<File> {
    let mut file = tempfile();
    file.write_all(content).unwrap();
    Arc::new(file)
}

fn tempfile() -> File {
    let name = c"block";
    nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap().into()
}

fn extent(file: &Arc<File>, offset: u64, length: u64) -> Extent {
    Extent { file: Arc::clone(file), offset, length }
}

fn start(read_only: bool, extents: Vec<Extent>) -> Driver {
    Driver::start(Block::new("disk", read_only, extents).unwrap())
}

fn put_header(driver: &Driver, kind: u32, sector: u64) {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    driver.put(HEADER, &header);
    driver.put(STATUS, &[UNTOUCHED]);
}

/// Executes a request and returns its status and the length given back.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
    put_header(driver, kind, sector);
    let chain = [&[readable(HEADER, 16)], data, &[writable(STATUS, 1)]].concat();
    let head = driver.rings[0].add(&driver.memory, &chain);
    driver.run(0).unwrap();
    let (back, length) = driver.rings[0].take(&driver.memory).unwrap();
    assert_eq!(back, head);
    (driver.bytes(STATUS, 1)[0], length)
}

fn read(driver: &mut Driver, sector: u64, length: u32) -> (u8, Vec<u8>) {
    driver.put(DATA, &vec![UNTOUCHED; usize::try_from(length).unwrap()]);
    let (status, _) = request(driver, abi::VIRTIO_BLK_T_IN, sector, &[writable(DATA, length)]);
    (status, driver.bytes(DATA, usize::try_from(length).unwrap()))
}

#[test]
fn the_configuration_tells_size_and_alignment() {
    let content = file(&pattern(5000));
    let driver = start(true, vec![extent(&content, 0, 5000)]);
    let mut config = [0; 36];
    crate::bus::BusDevice::read(&mut *super::super::super::lock(&driver.slot.transport), 0x100, &mut config);
    assert_eq!(config[..8], 16_u64.to_le_bytes());
    assert_eq!(config[12..16], 254_u32.to_le_bytes());
    assert_eq!(config[20..24], 512_u32.to_le_bytes());
    assert_eq!(config[24..28], [3, 0, 8, 0]);
    assert_eq!(config[32..], [0; 4]);
}

#[test]
fn the_configuration_of_a_writable_disk_tells_what_can_be_discarded() {
    let driver = start(false, vec![extent(&file(&pattern(4096)), 0, 4096)]);
    let mut config = [0xaa; 62];
    crate::bus::BusDevice::read(&mut *super::super::super::lock(&driver.slot.transport), 0x100, &mut config);
    let fields = [1 << 21, 64, 8, 1 << 21, 64, 1].map(u32::to_le_bytes);
    assert_eq!(&config[36..60], fields.as_flattened());
}

/// Discards or zeroes ranges, each of (sector, sectors, flags), and returns the status.
fn clear(driver: &mut Driver, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
    let mut bytes = Vec::new();
    for (sector, sectors, flags) in ranges {
        bytes.extend(sector.to_le_bytes());
        bytes.extend([*sectors, *flags].map(u32::to_le_bytes).as_flattened());
    }
    driver.put(DATA, &bytes);
    request(driver, kind, 0, &[readable(DATA, u32::try_from(bytes.len()).unwrap())]).0
}

#[test]
fn what_is_discarded_reads_as_zeros_and_takes_no_space() {
    use std::os::unix::fs::MetadataExt;
    for (kind, flags) in
        [(abi::VIRTIO_BLK_T_DISCARD, 0), (abi::VIRTIO_BLK_T_WRITE_ZEROES, 0), (abi::VIRTIO_BLK_T_WRITE_ZEROES, 1)]
    {
        let (one, other) = (file(&pattern(20480)), file(&pattern(20480)));
        let blocks = [&one, &other].map(|file| file.metadata().unwrap().blocks());
        let mut driver = start(false, vec![extent(&one, 0, 20480), extent(&other, 4096, 12000)]);
        // Over the end of the first extent, then one sector alone.
        assert_eq!(clear(&mut driver, kind, &[(16, 32, flags), (0, 1, flags)]), OK);
        let mut want = pattern(20480);
        want[8192..].fill(0);
        want[..512].fill(0);
        assert_eq!(read(&mut driver, 0, 20480), (OK, want));
        let mut want = pattern(20480)[4096..16096].to_vec();
        want[..4096].fill(0);
        want.resize(12288, 0);
        assert_eq!(read(&mut driver, 40, 12288), (OK, want));
        let after = [&one, &other].map(|file| file.metadata().unwrap().blocks());
        assert_eq!([one.metadata().unwrap().len(), other.metadata().unwrap().len()], [20480, 20480]);
        assert_eq!(after, [blocks[0] - 24, blocks[1] - 8]);
    }
}

#[test]
fn discards_that_lie_change_nothing() {
    let content = file(&pattern(8192));
    let mut driver = start(false, vec![extent(&content, 0, 8192)]);
    for kind in [abi::VIRTIO_BLK_T_DISCARD, abi::VIRTIO_BLK_T_WRITE_ZEROES] {
        for range in [(0, 17, 0), (16, 1, 0), (u64::MAX, 1, 0), (u64::MAX / 512, 1, 0), (0, u32::MAX, 0)] {
            assert_eq!(clear(&mut driver, kind, &[(0, 1, 0), range]), IO_ERROR, "{range:?}");
        }
        assert_eq!(clear(&mut driver, kind, &[(0, 1, 2)]), UNSUPPORTED);
        assert_eq!(clear(&mut driver, kind, &[(0, 1, 0); 65]), IO_ERROR);
        assert_eq!(request(&mut driver, kind, 0, &[readable(DATA, 15)]).0, IO_ERROR);
        assert_eq!(request(&mut driver, kind, 0, &[]).0, IO_ERROR);
    }
    assert_eq!(clear(&mut driver, abi::VIRTIO_BLK_T_DISCARD, &[(0, 1, 1)]), UNSUPPORTED);
    assert_eq!(read(&mut driver, 0, 8192), (OK, pattern(8192)));
    let mut driver = start(true, vec![extent(&content, 0, 8192)]);
    assert_eq!(clear(&mut driver, abi::VIRTIO_BLK_T_DISCARD, &[(0, 1, 0)]), UNSUPPORTED);
    assert_eq!(read(&mut driver, 0, 8192), (OK, pattern(8192)));
}

#[test]
fn a_file_that_can_have_no_holes_says_so() {
    let pipe = File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut driver = start(false, vec![extent(&Arc::new(pipe), 0, 8192)]);
    let status = clear(&mut driver, abi::VIRTIO_BLK_T_DISCARD, &[(0, 1, 0)]);
    assert!([UNSUPPORTED, IO_ERROR].contains(&status), "{status}");
}

#[test]
fn reads_cross_extents_and_gaps() {
    let (first, second) = (pattern(5000), pattern(9000));
    let extents = vec![extent(&file(&first), 1, 4500), extent(&file(&[]), 0, 0), extent(&file(&second), 100, 600)];
    let mut driver = start(true, extents);
    let mut want = first[1..4501].to_vec();
    want.resize(8192, 0);
    want.extend(&second[100..700]);
    want.resize(12288, 0);
    assert_eq!(read(&mut driver, 0, 12288), (OK, want.clone()));
    assert_eq!(read(&mut driver, 8, 1024), (OK, want[4096..5120].to_vec()));
    assert_eq!(read(&mut driver, 23, 512), (OK, want[11776..].to_vec()));
    assert_eq!(driver.interrupts(), 3);
}

#[test]
fn requests_outside_the_disk_fail() {
    let mut driver = start(false, vec![extent(&file(&pattern(4096)), 0, 4096)]);
    for sector in [8, 7, u64::MAX / 512, u64::MAX] {
        assert_eq!(read(&mut driver, sector, 1024), (IO_ERROR, vec![UNTOUCHED; 1024]), "{sector}");
        let (status, _) = request(&mut driver, abi::VIRTIO_BLK_T_OUT, sector, &[readable(DATA, 1024)]);
        assert_eq!(status, IO_ERROR);
    }
    assert_eq!(read(&mut driver, 7, 512).0, OK);
    assert_eq!(read(&mut driver, 0, 511).0, IO_ERROR);
}

#[test]
fn buffers_may_begin_and_end_anywhere() {
    let content = pattern(1 << 16);
    let mut driver = start(true, vec![extent(&file(&content), 0, 1 << 16)]);
    driver.put(HEADER, &[0; 16]);
    // The header in three parts, the status behind the data in one buffer, empty buffers between.
    let chain = [
        readable(HEADER, 3),
        readable(HEADER + 3, 12),
        readable(HEADER, 0),
        readable(HEADER + 15, 1),
        writable(DATA, 1),
        writable(DATA + 1, 4094),
        writable(DATA + 4095, 0),
        writable(DATA + 4095, 61442),
    ];
    driver.rings[0].add(&driver.memory, &chain);
    driver.run(0).unwrap();
    assert_eq!(driver.rings[0].take(&driver.memory).unwrap().1, (1 << 16) + 1);
    assert_eq!(driver.bytes(DATA, 1 << 16), content);
    assert_eq!(driver.bytes(DATA + (1 << 16), 1), [OK]);
}

#[test]
fn large_requests_of_many_buffers_are_read_at_once() {
    let content = pattern(2 << 20);
    let mut driver = start(true, vec![extent(&file(&content), 0, 2 << 20)]);
    let step = 2 << 20 >> 8;
    let buffers: Vec<_> = (0..252).map(|n| writable(DATA + n * step, u32::try_from(step).unwrap())).collect();
    let (status, _) = request(&mut driver, abi::VIRTIO_BLK_T_IN, 0, &buffers);
    assert_eq!(status, OK);
    let length = 252 * usize::try_from(step).unwrap();
    assert!(driver.bytes(DATA, length) == content[..length]);
}

#[test]
fn writes_reach_the_file_and_a_flush_succeeds() {
    let (one, other) = (file(&[0; 4096]), file(&[0; 8192]));
    let mut driver = start(false, vec![extent(&one, 0, 4096), extent(&other, 4096, 4096)]);
    let data = pattern(2048);
    driver.put(DATA, &data);
    let (status, length) = request(&mut driver, abi::VIRTIO_BLK_T_OUT, 6, &[readable(DATA, 2048)]);
    assert_eq!((status, length), (OK, 1));
    assert_eq!(request(&mut driver, abi::VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    let mut content = Vec::new();
    for file in [&one, &other] {
        let mut file = file.try_clone().unwrap();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
    }
    assert_eq!(content.len(), 4096 + 8192);
    assert_eq!(content[3072..4096], data[..1024]);
    assert_eq!(content[4096 + 4096..][..1024], data[1024..]);
    assert!(content[..3072].iter().all(|&byte| byte == 0));
}

#[test]
fn writes_to_a_read_only_disk_or_a_gap_fail() {
    let content = file(&pattern(4096));
    let mut driver = start(true, vec![extent(&content, 0, 4096)]);
    driver.put(DATA, &[1; 512]);
    assert_eq!(request(&mut driver, abi::VIRTIO_BLK_T_OUT, 0, &[readable(DATA, 512)]).0, IO_ERROR);
    assert_eq!(request(&mut driver, abi::VIRTIO_BLK_T_FLUSH, 0, &[]).0, OK);
    let mut driver = start(false, vec![extent(&content, 0, 1000)]);
    assert_eq!(request(&mut driver, abi::VIRTIO_BLK_T_OUT, 2, &[readable(DATA, 512)]).0, IO_ERROR);
    assert_eq!(read(&mut driver, 4, 512), (OK, vec![0; 512]));
}

#[test]
fn a_file_shorter_than_its_extent_is_an_error_of_the_disk() {
    let mut driver = start(true, vec![extent(&file(&pattern(1000)), 0, 8192)]);
    assert_eq!(read(&mut driver, 0, 512), (OK, pattern(512)));
    assert_eq!(read(&mut driver, 0, 1024).0, IO_ERROR);
    assert_eq!(read(&mut driver, 8, 512).0, IO_ERROR);
}

#[test]
fn the_name_is_told_as_far_as_there_is_room() {
    let mut driver = start(true, vec![]);
    driver.put(DATA, &[UNTOUCHED; 32]);
    assert_eq!(request(&mut driver, abi::VIRTIO_BLK_T_GET_ID, 0, &[writable(DATA, 20)]), (OK, 21));
    assert_eq!(driver.bytes(DATA, 21), b"disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xee");
    driver.put(DATA, &[UNTOUCHED; 32]);
    assert_eq!(request(&mut driver, abi::VIRTIO_BLK_T_GET_ID, 0, &[writable(DATA, 2)]).0, OK);
    assert_eq!(driver.bytes(DATA, 3), b"di\xee");
}

#[test]
fn what_is_not_offered_is_unsupported() {
    let mut driver = start(false, vec![extent(&file(&pattern(4096)), 0, 4096)]);
    for kind in [abi::VIRTIO_BLK_T_SECURE_ERASE, 2, 0xffff_ffff] {
        assert_eq!(request(&mut driver, kind, u64::MAX, &[]).0, UNSUPPORTED);
    }
}

/// Offers a chain as it is and returns the length given back.
fn offer(driver: &mut Driver, descriptors: &[Descriptor]) -> u32 {
    put_header(driver, 0, 0);
    for (index, descriptor) in (0..).zip(descriptors) {
        driver.rings[0].describe(&driver.memory, index, *descriptor);
    }
    driver.rings[0].offer(&driver.memory, 0);
    driver.run(0).unwrap();
    driver.rings[0].take(&driver.memory).unwrap().1
}

#[test]
fn chains_that_lie_are_given_back_untouched() {
    let mut driver = start(true, vec![extent(&file(&pattern(4096)), 0, 4096)]);
    let header = Descriptor::new(HEADER, 16, 1, 1);
    let lies: [&[Descriptor]; 8] = [
        // It leads to itself.
        &[header, Descriptor::new(STATUS, 1, 3, 1)],
        // It leads out of the table.
        &[header, Descriptor::new(STATUS, 1, 3, 300)],
        // It leads out of memory, or around its end.
        &[header, Descriptor::new(1 << 40, 512, 3, 2), Descriptor::new(STATUS, 1, 2, 0)],
        &[header, Descriptor::new(u64::MAX - 5, 512, 3, 2), Descriptor::new(STATUS, 1, 2, 0)],
        &[header, Descriptor::new(DATA, u32::MAX, 3, 2), Descriptor::new(STATUS, 1, 2, 0)],
        // Readable parts follow writable ones.
        &[Descriptor::new(STATUS, 1, 3, 1), Descriptor::new(HEADER, 16, 0, 0)],
        // No place for the status.
        &[Descriptor::new(HEADER, 16, 0, 0)],
        // An indirect table of a strange size.
        &[Descriptor::new(HEADER, 17, 4, 0)],
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        assert_eq!(offer(&mut driver, lie), 0, "{number}");
        assert_eq!(driver.bytes(STATUS, 1), [UNTOUCHED], "{number}");
    }
    // A header that is too short has a place for its status.
    assert_eq!(offer(&mut driver, &[Descriptor::new(HEADER, 15, 1, 1), Descriptor::new(STATUS, 1, 2, 0)]), 1);
    assert_eq!(driver.bytes(STATUS, 1), [IO_ERROR]);
}

#[test]
fn an_indirect_chain_longer_than_the_queue_is_refused() {
    let mut driver = start(true, vec![extent(&file(&pattern(4096)), 0, 4096)]);
    let table = DATA;
    for index in 0..300_u16 {
        let flags = if index == 0 {
            1
        } else if index == 299 {
            2
        } else {
            3
        };
        let raw = virtio_queue::desc::RawDescriptor::from(Descriptor::new(HEADER, 16, flags, index + 1));
        vm_memory::Bytes::write_obj(&driver.memory, raw, vm_memory::GuestAddress(table + 16 * u64::from(index)))
            .unwrap();
    }
    assert_eq!(offer(&mut driver, &[Descriptor::new(table, 300 * 16, 4, 0)]), 0);
}

#[test]
fn a_ring_that_lies_breaks_the_device() {
    let mut driver = start(true, vec![]);
    driver.rings[0].offer(&driver.memory, 256);
    assert!(matches!(driver.run(0), Err(DeviceError::Queue(_))));
    let driver = start(true, vec![]);
    driver.put(driver.rings[0].avail_address() + 2, &1000_u16.to_le_bytes());
    assert!(matches!(driver.run(0), Err(DeviceError::Queue(_))));
}

#[test]
fn without_event_idx_the_guest_can_ask_for_silence() {
    let block = Block::new("disk", true, vec![extent(&file(&pattern(4096)), 0, 4096)]).unwrap();
    let mut driver = Driver::start_with(block, NO_EVENT_IDX);
    assert_eq!(read(&mut driver, 0, 512).0, OK);
    assert_eq!(driver.interrupts(), 1);
    driver.put(driver.rings[0].avail_address(), &1_u16.to_le_bytes());
    assert_eq!(read(&mut driver, 0, 512).0, OK);
    assert_eq!(driver.interrupts(), 0);
}

#[test]
fn many_requests_make_one_interrupt() {
    let mut driver = start(true, vec![extent(&file(&pattern(4096)), 0, 4096)]);
    put_header(&driver, abi::VIRTIO_BLK_T_IN, 0);
    for _ in 0..80 {
        let chain = [readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)];
        driver.rings[0].add(&driver.memory, &chain);
    }
    assert_eq!(driver.run(0).unwrap(), Progress::Done);
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(std::iter::from_fn(|| driver.rings[0].take(&driver.memory)).count(), 80);
}

#[test]
fn a_reset_takes_the_queue_away() {
    let mut driver = start(true, vec![]);
    driver.write(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0);
    driver.rings[0].add(&driver.memory, &[readable(HEADER, 16), writable(STATUS, 1)]);
    assert_eq!(driver.run(0).unwrap(), Progress::Done);
    assert!(driver.rings[0].take(&driver.memory).is_none());
}

#[test]
fn extents_that_make_no_disk_are_refused() {
    let file = file(&[]);
    assert!(Block::new("x", true, vec![extent(&file, 0, u64::MAX)]).is_err());
    assert!(Block::new("x", true, vec![extent(&file, u64::MAX, 2)]).is_err());
    assert!(Block::new("x", true, vec![extent(&file, i64::MAX.unsigned_abs(), 4096)]).is_err());
}
