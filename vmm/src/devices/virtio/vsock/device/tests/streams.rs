//! Megabytes through the real device thread, both ways at once, with little credit.

use std::thread;

use super::*;
use crate::devices::virtio::test_driver::NO_EVENT_IDX;
use crate::devices::virtio::thread::DeviceThread;

const SIZE: usize = 5 << 20;
/// The guest's own buffer for a connection: much smaller than what is sent.
const GUEST_BUFFER: u32 = 10_000;

/// A guest's side of one connection that sends `output` and collects what comes.
struct Peer {
    output: Vec<u8>,
    sent: usize,
    /// What the device said of its buffer.
    alloc: u32,
    forwarded: u32,
    input: Vec<u8>,
    said_end: bool,
    saw_end: bool,
    was_reset: bool,
}

impl Peer {
    fn header(&self, op: Op) -> Header {
        let fwd_cnt = u32::try_from(self.input.len()).unwrap();
        Header { buf_alloc: GUEST_BUFFER, fwd_cnt, ..header(op, PORT, 1024) }
    }

    /// Sends as much as credit and the ring allow.
    fn send(&mut self, guest: &mut Guest) {
        while guest.driver.rings[TX].take(&guest.driver.memory).is_some() {}
        let mut place = TX_BASE;
        // One burst, of packets that lie side by side, and only after the last one is done.
        if guest.driver.rings[TX].free() < 256 {
            return;
        }
        while self.sent < self.output.len() && place < TX_BASE + (1 << 20) {
            let in_flight = u32::try_from(self.sent).unwrap() - self.forwarded;
            let credit = usize::try_from(self.alloc.saturating_sub(in_flight)).unwrap();
            let length = credit.min(65_536).min(self.output.len() - self.sent);
            if length == 0 {
                break;
            }
            let len = u32::try_from(length).unwrap();
            guest.driver.put(place, &Header { len, ..self.header(Op::Data) }.encode());
            guest.driver.put(place + 64, &self.output[self.sent..self.sent + length]);
            let chain = [readable(place, 44), readable(place + 64, len)];
            guest.driver.rings[TX].add(&guest.driver.memory, &chain);
            place += 0x1_1000;
            self.sent += length;
        }
        if self.sent == self.output.len() && !self.said_end {
            self.said_end = true;
            let packet = Header { flags: SHUT_SEND, ..self.header(Op::Shutdown) };
            guest.driver.put(place, &packet.encode());
            guest.driver.rings[TX].add(&guest.driver.memory, &[readable(place, 44)]);
        } else if place == TX_BASE {
            // Nothing to send: say what was consumed.
            guest.driver.put(place, &self.header(Op::CreditUpdate).encode());
            guest.driver.rings[TX].add(&guest.driver.memory, &[readable(place, 44)]);
        }
        guest.driver.notify(TX);
    }

    fn receive(&mut self, guest: &mut Guest) {
        for (packet, payload) in guest.received() {
            (self.alloc, self.forwarded) = (packet.buf_alloc, packet.fwd_cnt);
            match packet.op {
                Op::Data => self.input.extend(payload),
                Op::Shutdown => self.saw_end |= packet.flags & SHUT_SEND != 0,
                Op::Reset => self.was_reset = true,
                Op::Response | Op::CreditUpdate => {}
                other => panic!("{other:?}"),
            }
        }
        guest.supply(32);
        guest.driver.notify(RX);
    }
}

fn five_mebibytes_both_ways(features: u64) {
    let (host, stream) = UnixStream::pair().unwrap();
    let device = Vsock::new(CID, vec![Channel { port: 1024, stream: stream.into() }]);
    let driver = Driver::start_with(device, features);
    let rx_free = (0..256).map(|index| RX_BASE + index * u64::from(RX_BUFFER)).collect();
    let mut guest = Guest { driver, rx_free, rx_given: Vec::new() };
    let devices = DeviceThread::spawn(std::slice::from_ref(&guest.driver.slot), |reason| panic!("{reason}")).unwrap();

    let (to_guest, from_guest) = (pattern(SIZE), pattern(SIZE + 777));
    let expected = to_guest.clone();
    let mut writer = host.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(&to_guest).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let reading = thread::spawn(move || read_all(&host));

    guest.supply(32);
    guest.queue_packet(&Header { buf_alloc: GUEST_BUFFER, ..header(Op::Request, PORT, 1024) }, &[]);
    guest.driver.notify(TX);
    let mut peer = Peer {
        output: from_guest.clone(),
        sent: 0,
        alloc: 0,
        forwarded: 0,
        input: Vec::new(),
        said_end: false,
        saw_end: false,
        was_reset: false,
    };
    let mut interrupts = 0;
    while !peer.was_reset {
        assert_eq!(guest.driver.wait_for_interrupt(), 1, "the device went to sleep");
        interrupts += 1;
        peer.receive(&mut guest);
        if !peer.saw_end || !peer.said_end {
            peer.send(&mut guest);
        }
    }
    assert!(peer.input == expected);
    assert!(reading.join().unwrap() == from_guest);
    writing.join().unwrap();
    // About one for each 10 kB of credit, and not one for each packet.
    assert!(interrupts < 4000, "{interrupts} interrupts");
    devices.drain();
}

#[test]
fn five_mebibytes_pass_both_ways_at_once() {
    five_mebibytes_both_ways(u64::MAX);
}

#[test]
fn five_mebibytes_pass_both_ways_without_event_idx() {
    five_mebibytes_both_ways(NO_EVENT_IDX);
}

#[test]
fn draining_waits_for_a_slow_reader() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect(1024);
    let devices = DeviceThread::spawn(std::slice::from_ref(&guest.driver.slot), |reason| panic!("{reason}")).unwrap();
    let output = pattern(200_000);
    for (place, chunk) in (0..).zip(output.chunks(50_000)) {
        let base = TX_BASE + place * 0x1_0000;
        let len = u32::try_from(chunk.len()).unwrap();
        guest.driver.put(base, &Header { len, ..header(Op::Data, PORT, 1024) }.encode());
        guest.driver.put(base + 64, chunk);
        guest.driver.rings[TX].add(&guest.driver.memory, &[readable(base, 44), readable(base + 64, len)]);
    }
    // The guest is gone without a notification, and nobody has read yet.
    let draining = thread::spawn(move || devices.drain());
    let mut got = vec![0; output.len()];
    (&host).read_exact(&mut got).unwrap();
    draining.join().unwrap();
    assert!(got == output);
}
