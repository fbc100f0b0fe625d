//! A guest that writes anything to the registers of its devices and anything into their queues.
#![no_main]

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::bus::BusDevice;
use vmm::devices::virtio::VirtioDevice;
use vmm::devices::virtio::balloon::Balloon;
use vmm::devices::virtio::blk::{Block, Extent};
use vmm::devices::virtio::pmem::Pmem;
use vmm::devices::virtio::slot::Slot;
use vmm::devices::virtio::thread::DeviceThread;
use vmm::devices::virtio::vsock::{Channel, Vsock};

/// Offsets of registers (virtio 1.2, section 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// Where each queue's three parts are: the descriptors, the driver's and the device's ring.
const QUEUES: u64 = 0x1000;

fuzz_target!(|input: (u8, Vec<u8>, Vec<(u16, u32)>)| {
    let (kind, queues, accesses) = input;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory");
    let _ = memory.write(&queues, GuestAddress(QUEUES));
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let device: Box<dyn VirtioDevice> = match kind % 5 {
        0 => Box::new(Vsock::new(3, vec![Channel { port: 1024, stream: theirs.into() }])),
        1 => {
            let file = Arc::new(File::open("/dev/zero").expect("/dev/zero"));
            Box::new(Block::new("fuzz", true, vec![Extent { file, offset: 0, length: 5000 }]).expect("a device"))
        }
        2 => {
            let file = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
            let extents = vec![Extent { file: Arc::new(file), offset: 0, length: 1 << 20 }];
            Box::new(Block::new("fuzz", false, extents).expect("a device"))
        }
        3 => Box::new(Balloon::default()),
        _ => Box::new(Pmem::new(GuestAddress(4 << 30), 2 << 20)),
    };
    let slot = Slot::new(device, memory).expect("a slot");
    let read = |offset: u64| {
        let mut data = [0; 4];
        slot.transport.lock().expect("a lock").read(offset, &mut data);
        u32::from_le_bytes(data)
    };
    let write = |offset: u64, value: u32| slot.transport.lock().expect("a lock").write(offset, &value.to_le_bytes());
    start(&read, &write, slot.queue_events.len(), kind >= 128);
    let thread = DeviceThread::spawn(std::slice::from_ref(&slot), |_| {}).expect("a thread");
    for index in 0..slot.queue_events.len() {
        write(QUEUE_NOTIFY, index as u32);
    }
    for (offset, value) in accesses {
        read(offset.into());
        write(offset.into(), value);
    }
    // Nobody reads what the guest sends to the channel, which must not hold up the end.
    drop(ours);
    thread.drain();
});

/// What a driver does to start a device: acknowledge, take the features of page 1 (version 1) and perhaps those of page 0, set
/// up the queues.
fn start(read: &impl Fn(u64) -> u32, write: &impl Fn(u64, u32), queues: usize, features: bool) {
    write(0x70, 0);
    write(0x70, 1 | 2);
    if features {
        write(0x20, read(0x10));
    }
    write(0x24, 1);
    write(0x20, 1);
    write(0x70, 1 | 2 | 8);
    for index in 0..queues {
        let base = (QUEUES + index as u64 * 0x3000) as u32;
        write(0x30, index as u32);
        write(0x38, 16);
        for (part, low) in [0x80, 0x90, 0xa0].into_iter().enumerate() {
            write(low, base + part as u32 * 0x1000);
            write(low + 4, 0);
        }
        write(0x44, 1);
    }
    write(0x70, 1 | 2 | 8 | 4);
}
