//! State files of templates that someone has written, the checksum included, and devices in states that someone has made up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twox_hash::XxHash3_128;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::devices::virtio::VirtioDevice;
use vmm::devices::virtio::balloon::Balloon;
use vmm::devices::virtio::mmio::TransportState;
use vmm::devices::virtio::slot::Slot;
use vmm::devices::virtio::thread::DeviceThread;
use vmm::devices::virtio::vsock::Vsock;
use vmm::template::{FORMAT, decode, encode};

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<u8>)| {
    let (state, transport, memory) = input;
    let _ = decode(&state);
    if let Ok(decoded) = decode(&in_envelope(&state)) {
        let bytes = encode(&decoded).expect("what was decoded can be encoded");
        assert!(decode(&bytes).is_ok());
        decoded.devices.iter().for_each(|device| restore(&device.transport, &memory));
    }
    if let Ok((transport, _)) = postcard::take_from_bytes(&transport) {
        restore(&transport, &memory);
    }
});

/// A state file with this content.
fn in_envelope(content: &[u8]) -> Vec<u8> {
    let length = content.len() as u64;
    [b"taskrunT", &FORMAT.to_le_bytes()[..], &length.to_le_bytes(), &XxHash3_128::oneshot(content).to_le_bytes(), content].concat()
}

/// Gives a device this state, and lets it go on in this memory.
fn restore(state: &TransportState, content: &[u8]) {
    let devices: [Box<dyn VirtioDevice>; 2] = [Box::new(Vsock::new(3, Vec::new())), Box::new(Balloon::default())];
    for device in devices {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory");
        let _ = memory.write(content, GuestAddress(0));
        let slot = Slot::new(device, memory).expect("a slot");
        if slot.restore(state).is_ok() {
            slot.wake().expect("event descriptors");
            DeviceThread::spawn(std::slice::from_ref(&slot), |_| {}).expect("a thread").drain();
            let _ = slot.save();
        }
    }
}
