//! Connections through queues in memory to real streams.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::devices::virtio::test_driver::{Driver, MEMORY, pattern, readable, writable};
use crate::devices::virtio::vsock::connection::BUF_ALLOC;
use crate::devices::virtio::vsock::packet::{
    HEADER_SIZE, HOST_CID, Header, Op, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, STREAM,
};
use vmm_sys_util::epoll::EventSet;

mod saved;
mod streams;

const RX: usize = 0;
const TX: usize = 1;
const CID: u64 = 3;
/// The guest's port in most tests.
const PORT: u32 = 5000;
/// What Linux uses for its rx buffers.
const RX_BUFFER: u32 = 4096;
/// Where the guest's buffers are.
const TX_BASE: u64 = 0x1_0000;
const RX_BASE: u64 = 0x40_0000;

/// A guest that knows the protocol and does what a test says.
struct Guest {
    driver: Driver,
    /// Free rx buffers, and those that the device has, by the head of their chain.
    rx_free: VecDeque<u64>,
    rx_given: Vec<(u16, u64)>,
}

/// A guest with channels to `ports`, and the hosts' ends.
fn guest<const N: usize>(ports: [u32; N]) -> (Guest, [UnixStream; N]) {
    let mut hosts = Vec::new();
    let channels = ports.map(|port| {
        let (host, stream) = UnixStream::pair().unwrap();
        hosts.push(host);
        Channel { port, stream: stream.into() }
    });
    let driver = Driver::start(Vsock::new(CID, channels.into()));
    assert!(RX_BASE + 256 * u64::from(RX_BUFFER) < MEMORY - 0x1_0000);
    let rx_free = (0..256).map(|index| RX_BASE + index * u64::from(RX_BUFFER)).collect();
    (Guest { driver, rx_free, rx_given: Vec::new() }, hosts.try_into().unwrap())
}

fn header(op: Op, src_port: u32, dst_port: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port,
        dst_port,
        len: 0,
        socket_type: STREAM,
        op,
        flags: 0,
        buf_alloc: BUF_ALLOC,
        fwd_cnt: 0,
    }
}

impl Guest {
    /// Gives the device `count` rx buffers, or as many as the queue has room for.
    fn supply(&mut self, count: usize) {
        for _ in 0..count.min(self.driver.rings[RX].free()) {
            let Some(address) = self.rx_free.pop_front() else { return };
            let head = self.driver.rings[RX].add(&self.driver.memory, &[writable(address, RX_BUFFER)]);
            self.rx_given.push((head, address));
        }
    }

    /// Sends a packet without telling the device.
    fn queue_packet(&mut self, packet: &Header, payload: &[u8]) {
        while self.driver.rings[TX].take(&self.driver.memory).is_some() {}
        self.driver.put(TX_BASE, &packet.encode());
        self.driver.put(TX_BASE + 0x1000, payload);
        let chain = [readable(TX_BASE, 44), readable(TX_BASE + 0x1000, u32::try_from(payload.len()).unwrap())];
        self.driver.rings[TX].add(&self.driver.memory, &chain[..if payload.is_empty() { 1 } else { 2 }]);
    }

    /// Sends a packet and lets the device handle it in this thread.
    fn send(&mut self, packet: &Header, payload: &[u8]) {
        let packet = Header { len: u32::try_from(payload.len()).unwrap(), ..*packet };
        self.queue_packet(&packet, payload);
        assert_ne!(self.driver.run(TX).unwrap(), Progress::More);
    }

    fn send_op(&mut self, op: Op, port: u32) {
        self.send(&header(op, PORT, port), &[]);
    }

    fn send_shutdown(&mut self, port: u32, flags: u32) {
        self.send(&Header { flags, ..header(Op::Shutdown, PORT, port) }, &[]);
    }

    /// The packets that arrived.
    fn received(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        while let Some((head, length)) = self.driver.rings[RX].take(&self.driver.memory) {
            let place = self.rx_given.iter().position(|(given, _)| *given == head).unwrap();
            let (_, address) = self.rx_given.swap_remove(place);
            let bytes = self.driver.bytes(address, usize::try_from(length).unwrap());
            let (raw, payload) = bytes.split_at(HEADER_SIZE);
            let packet = Header::decode(raw.try_into().unwrap());
            assert_eq!(usize::try_from(packet.len).unwrap(), payload.len());
            packets.push((packet, payload.to_vec()));
            self.rx_free.push_back(address);
        }
        packets
    }

    fn received_ops(&mut self) -> Vec<(Op, u32, u32)> {
        self.received().into_iter().map(|(packet, _)| (packet.op, packet.src_port, packet.flags)).collect()
    }

    /// Connects to `port`, with rx buffers for what follows.
    fn connect(&mut self, port: u32) {
        self.connect_without_buffers(port);
        self.supply(16);
    }

    /// Connects to `port` and leaves the device no rx buffer.
    fn connect_without_buffers(&mut self, port: u32) {
        assert!(self.rx_given.is_empty());
        self.supply(1);
        self.send_op(Op::Request, port);
        assert_eq!(self.received_ops(), [(Op::Response, port, 0)]);
    }

    /// Tells the device that its stream has news, as the device thread would.
    fn wake(&mut self, token: u32, events: EventSet) {
        assert_ne!(self.driver.process(Event::Source(token, events)).unwrap(), Progress::More);
    }
}

fn read_all(mut host: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_guest_learns_its_context_id() {
    let (guest, []) = guest([]);
    let mut config = [0; 8];
    crate::bus::BusDevice::read(&mut *crate::devices::virtio::lock(&guest.driver.slot.transport), 0x100, &mut config);
    assert_eq!(config, CID.to_le_bytes());
}

#[test]
fn a_port_takes_one_connection_and_others_none() {
    let (mut guest, [_host]) = guest([1024]);
    guest.connect(1024);
    guest.send(&header(Op::Request, PORT + 1, 1024), &[]);
    guest.send_op(Op::Request, 1025);
    guest.send(&Header { dst_cid: 7, ..header(Op::Request, PORT, 1024) }, &[]);
    guest.send(&Header { socket_type: 2, ..header(Op::Request, PORT, 1024) }, &[]);
    let refusals = guest.received();
    assert!(refusals.iter().all(|(packet, _)| packet.op == Op::Reset && packet.dst_cid == CID));
    let from: Vec<_> = refusals.iter().map(|(it, _)| (it.src_cid, it.src_port, it.dst_port, it.socket_type)).collect();
    assert_eq!(from, [(2, 1024, PORT + 1, 1), (2, 1025, PORT, 1), (7, 1024, PORT, 1), (2, 1024, PORT, 2)]);
    // Resets of connections that are not there, and packets of another guest, are not answered.
    guest.send_op(Op::Reset, 1025);
    guest.send(&Header { src_cid: 4, ..header(Op::Request, PORT, 1025) }, &[]);
    assert_eq!(guest.received_ops(), []);
}

#[test]
fn bytes_pass_both_ways() {
    let (mut guest, [host, other]) = guest([1024, 1025]);
    guest.connect_without_buffers(1024);
    guest.connect(1025);
    guest.send(&header(Op::Data, PORT, 1025), b"from the guest");
    (&host).write_all(b"from the host").unwrap();
    guest.wake(0, EventSet::IN);
    let received = guest.received();
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].0.src_port, &received[0].1[..]), (1024, &b"from the host"[..]));
    let mut bytes = [0; 14];
    (&other).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"from the guest");
}

#[test]
fn what_the_host_sent_before_the_connection_arrives_with_its_end() {
    let (mut guest, [host]) = guest([1024]);
    (&host).write_all(&pattern(10_000)).unwrap();
    drop(host);
    guest.wake(0, EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP);
    guest.supply(16);
    guest.send_op(Op::Request, 1024);
    let received = guest.received();
    let bytes: Vec<u8> = received.iter().flat_map(|(_, payload)| payload.clone()).collect();
    assert_eq!(bytes, pattern(10_000));
    let controls: Vec<_> =
        received.iter().filter(|(it, _)| it.op != Op::Data).map(|(it, _)| (it.op, it.flags)).collect();
    assert_eq!(controls, [(Op::Response, 0), (Op::Shutdown, SHUT_RECEIVE), (Op::Shutdown, SHUT_BOTH)]);
    assert_eq!(received.last().unwrap().0.op, Op::Shutdown);
}

#[test]
fn host_data_waits_for_buffers_and_a_notification_brings_it() {
    let (mut guest, [host]) = guest([1024]);
    guest.supply(1);
    guest.send_op(Op::Request, 1024);
    assert_eq!(guest.received_ops(), [(Op::Response, 1024, 0)]);
    (&host).write_all(&pattern(6000)).unwrap();
    guest.wake(0, EventSet::IN);
    assert_eq!(guest.received_ops(), []);
    guest.supply(1);
    guest.driver.run(RX).unwrap();
    let first = guest.received();
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].1.len(), 4096 - HEADER_SIZE);
    guest.supply(4);
    guest.driver.run(RX).unwrap();
    let second = guest.received();
    assert_eq!([first[0].1.clone(), second[0].1.clone()].concat(), pattern(6000));
}

#[test]
fn host_data_waits_for_credit() {
    let (mut guest, [host]) = guest([1024]);
    guest.supply(16);
    guest.send(&Header { buf_alloc: 100, ..header(Op::Request, PORT, 1024) }, &[]);
    (&host).write_all(&pattern(250)).unwrap();
    guest.wake(0, EventSet::IN);
    let mut bytes = Vec::new();
    for consumed in [100, 200, 250] {
        bytes.extend(guest.received().into_iter().flat_map(|(_, payload)| payload));
        assert_eq!(bytes.len(), consumed);
        let fwd_cnt = u32::try_from(consumed).unwrap();
        guest.send(&Header { buf_alloc: 100, fwd_cnt, ..header(Op::CreditUpdate, PORT, 1024) }, &[]);
    }
    assert_eq!(bytes, pattern(250));
}

#[test]
fn control_packets_overtake_data() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect_without_buffers(1024);
    (&host).write_all(b"data").unwrap();
    guest.wake(0, EventSet::IN);
    guest.send_op(Op::Request, 9);
    guest.send_op(Op::CreditRequest, 1024);
    guest.supply(8);
    guest.driver.run(RX).unwrap();
    let ops: Vec<_> = guest.received_ops().into_iter().map(|(op, ..)| op).collect();
    assert_eq!(ops[..2], [Op::CreditUpdate, Op::Reset]);
    assert!(ops[2..].iter().all(|op| *op == Op::Data) && ops.len() > 2);
}

#[test]
fn connections_take_turns() {
    let (mut guest, hosts) = guest([1024, 1025, 1026]);
    for port in [1024, 1025, 1026] {
        guest.connect_without_buffers(port);
    }
    for mut host in &hosts {
        host.write_all(&pattern(40_000)).unwrap();
    }
    for token in 0..3 {
        guest.wake(token, EventSet::IN);
    }
    guest.supply(6);
    guest.driver.run(RX).unwrap();
    let mut ports: Vec<_> = guest.received().iter().map(|(packet, _)| packet.src_port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [1024, 1024, 1025, 1025, 1026, 1026]);
}

#[test]
fn half_closes_pass_both_ways_in_order() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect(1024);
    guest.send(&header(Op::Data, PORT, 1024), b"last words");
    guest.send_shutdown(1024, SHUT_SEND);
    assert_eq!(read_all(&host), b"last words");
    // The other direction goes on.
    (&host).write_all(b"answer").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    guest.wake(0, EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP);
    let received = guest.received();
    assert_eq!(received[0].1, b"answer");
    let ops: Vec<_> = received.iter().map(|(packet, _)| (packet.op, packet.flags)).collect();
    assert_eq!(ops, [(Op::Data, 0), (Op::Shutdown, SHUT_SEND), (Op::Reset, 0)]);
}

#[test]
fn a_guest_that_closes_is_answered_at_once_and_its_data_arrives_later() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect(1024);
    let sent = pattern(240_000);
    for chunk in sent.chunks(60_000) {
        guest.send(&header(Op::Data, PORT, 1024), chunk);
    }
    guest.received();
    guest.send_shutdown(1024, SHUT_BOTH);
    assert_eq!(guest.received_ops(), [(Op::Reset, 1024, 0)]);
    guest.send(&header(Op::Request, PORT, 1024), &[]);
    assert_eq!(guest.received_ops(), [(Op::Reset, 1024, 0)]);
    let mut got: Vec<u8> = Vec::new();
    let mut chunk = [0; 50_000];
    loop {
        let length = (&host).read(&mut chunk).unwrap();
        if length == 0 {
            break;
        }
        got.extend(&chunk[..length]);
        guest.wake(0, EventSet::OUT);
    }
    assert!(got == sent);
}

#[test]
fn a_reset_by_the_guest_loses_nothing_that_it_sent() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect(1024);
    (&host).write_all(b"never read").unwrap();
    guest.send(&header(Op::Data, PORT, 1024), b"sent");
    guest.send_op(Op::Reset, 1024);
    // The end is an end and no error, though the guest took nothing.
    assert_eq!(read_all(&host), b"sent");
}

#[test]
fn a_reader_that_left_is_announced_and_output_dropped() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect(1024);
    guest.wake(0, EventSet::IN);
    drop(host);
    guest.wake(0, EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::HANG_UP);
    assert_eq!(guest.received_ops(), [(Op::Shutdown, 1024, SHUT_RECEIVE), (Op::Shutdown, 1024, SHUT_BOTH)]);
    for _ in 0..40 {
        guest.send(&header(Op::Data, PORT, 1024), &pattern(60_000));
    }
    assert!(guest.received_ops().iter().all(|(op, ..)| *op == Op::CreditUpdate));
    guest.send_op(Op::Reset, 1024);
    assert_eq!(guest.received_ops(), []);
}

#[test]
fn a_reader_that_only_stops_reading_may_still_write() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect(1024);
    host.shutdown(std::net::Shutdown::Read).unwrap();
    guest.send(&header(Op::Data, PORT, 1024), b"unwanted");
    assert_eq!(guest.received_ops(), [(Op::Shutdown, 1024, SHUT_RECEIVE)]);
    (&host).write_all(b"still here").unwrap();
    guest.wake(0, EventSet::IN);
    assert_eq!(guest.received()[0].1, b"still here");
}

#[test]
fn a_slow_reader_bounds_what_is_held_and_an_overrun_is_reset() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect(1024);
    let mut accepted = 0_u64;
    let chunk = pattern(32_768);
    // The stream takes some, the backlog a fixed amount, and then the guest has broken its word.
    let overrun = loop {
        guest.send(&header(Op::Data, PORT, 1024), &chunk);
        if guest.received_ops().contains(&(Op::Reset, 1024, 0)) {
            break accepted;
        }
        accepted += 32_768;
        assert!(accepted < 4 << 20, "the backlog has no bound");
    };
    assert!(overrun >= u64::from(BUF_ALLOC));
    // What was accepted is delivered all the same.
    host.set_nonblocking(true).unwrap();
    let mut got = 0;
    let mut bytes = vec![0; 1 << 20];
    loop {
        match (&host).read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => got += u64::try_from(length).unwrap(),
            Err(_) => guest.wake(0, EventSet::OUT),
        }
    }
    assert_eq!(got, overrun);
}

#[test]
fn a_guest_that_takes_no_refusals_is_not_listened_to() {
    let (mut guest, []) = guest([]);
    for _ in 0..200 {
        guest.queue_packet(&header(Op::Request, PORT, 1), &[]);
    }
    guest.driver.run(TX).unwrap();
    let taken = std::iter::from_fn(|| guest.driver.rings[TX].take(&guest.driver.memory)).count();
    assert_eq!(taken, 64);
    // With buffers for the refusals it goes on, and all are answered.
    let mut answers = 0;
    loop {
        guest.supply(usize::from(RX_QUEUE_SIZE));
        while guest.driver.run(RX).unwrap() == Progress::More {}
        match guest.received_ops().len() {
            0 => break,
            more => answers += more,
        }
    }
    assert_eq!(answers, 200);
}

#[test]
fn a_burst_makes_one_interrupt() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect(1024);
    guest.supply(100);
    guest.driver.interrupts();
    (&host).write_all(&pattern(100_000)).unwrap();
    guest.queue_packet(&Header { len: 5, ..header(Op::Data, PORT, 1024) }, b"hello");
    guest.wake(0, EventSet::IN);
    assert!(guest.received().len() > 20);
    assert_eq!(guest.driver.interrupts(), 1);
}

#[test]
fn draining_takes_what_was_sent_and_then_nothing_more() {
    let (mut guest, [host, unused]) = guest([1024, 1025]);
    guest.connect(1024);
    let last = Header { len: 4, ..header(Op::Data, PORT, 1024) };
    guest.queue_packet(&last, b"last");
    // Whoever is not listened to any more sees an end, and no error.
    (&host).write_all(b"never read").unwrap();
    (&unused).write_all(b"never read").unwrap();
    assert_eq!(guest.driver.process(Event::Drain).unwrap(), Progress::Done);
    guest.queue_packet(&last, b"late");
    assert_eq!(guest.driver.run(TX).unwrap(), Progress::Done);
    assert_eq!(read_all(&host), b"last");
    assert_eq!(read_all(&unused), b"");
}

#[test]
fn what_was_sent_is_given_back_late_and_with_one_interrupt() {
    let (mut guest, [host]) = guest([1024]);
    guest.connect(1024);
    guest.driver.process(Event::Resume).unwrap();
    let back = |guest: &mut Guest| {
        let count = std::iter::from_fn(|| guest.driver.rings[TX].take(&guest.driver.memory)).count();
        (count, guest.driver.interrupts())
    };
    back(&mut guest);
    let line = Header { len: 5, ..header(Op::Data, PORT, 1024) };
    for _ in 0..10 {
        guest.queue_packet(&line, b"line\n");
        assert_eq!(guest.driver.run(TX).unwrap(), Progress::Later);
    }
    assert_eq!(back(&mut guest), (0, 0));
    assert_eq!(guest.driver.process(Event::Resume).unwrap(), Progress::Done);
    assert_eq!(back(&mut guest), (10, 1));
    // With a packet to the guest.
    guest.send(&line, b"line\n");
    (&host).write_all(b"answer").unwrap();
    assert_eq!(guest.driver.process(Event::Source(0, EventSet::IN)).unwrap(), Progress::Done);
    assert_eq!(back(&mut guest), (1, 1));
    // When it is much.
    for _ in 0..31 {
        guest.queue_packet(&line, b"line\n");
        assert_eq!(guest.driver.run(TX).unwrap(), Progress::Later);
    }
    guest.queue_packet(&line, b"line\n");
    assert_eq!(guest.driver.run(TX).unwrap(), Progress::Done);
    assert_eq!(back(&mut guest), (32, 1));
    guest.send(&header(Op::Data, PORT, 1024), &pattern(0xf000));
    guest.send(&header(Op::Data, PORT, 1024), &pattern(0xf000));
    assert_eq!(back(&mut guest), (0, 0));
    guest.send(&header(Op::Data, PORT, 1024), &pattern(0xf000));
    assert_eq!(back(&mut guest).0, 3);
}

#[test]
fn a_reset_of_the_device_ends_connections_and_the_next_driver_starts_afresh() {
    let (mut guest, [host, other]) = guest([1024, 1025]);
    guest.connect(1024);
    guest.send(&header(Op::Data, PORT, 1024), b"sent");
    guest.driver.write(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(read_all(&host), b"sent");
    // The port that was never used is there still.
    let old = std::mem::replace(&mut guest.driver.rings, Driver::new(Vsock::new(CID, vec![])).rings);
    drop(old);
    guest.driver.put(RX_BASE + (3 << 20), &vec![0; 0xf_0000]);
    guest.driver.bring_up(u64::MAX);
    guest.rx_given.clear();
    guest.connect(1025);
    guest.send(&header(Op::Data, PORT, 1025), b"more");
    guest.send_shutdown(1025, SHUT_SEND);
    assert_eq!(read_all(&other), b"more");
}

#[test]
fn payloads_that_are_not_there_end_the_connection() {
    let (mut guest, [_host]) = guest([1024]);
    guest.connect(1024);
    guest.queue_packet(&Header { len: 100, ..header(Op::Data, PORT, 1024) }, b"short");
    guest.driver.run(TX).unwrap();
    assert_eq!(guest.received_ops(), [(Op::Reset, 1024, 0)]);
}

#[test]
fn rx_buffers_too_small_for_a_packet_are_given_back_empty() {
    let (mut guest, [host]) = guest([1024]);
    for length in [10, 44] {
        guest.driver.rings[RX].add(&guest.driver.memory, &[writable(RX_BASE, length)]);
    }
    guest.driver.rings[RX].add(&guest.driver.memory, &[readable(RX_BASE, 4096)]);
    guest.send_op(Op::Request, 1024);
    let back: Vec<_> = std::iter::from_fn(|| guest.driver.rings[RX].take(&guest.driver.memory)).collect();
    assert_eq!(back.iter().map(|(_, length)| *length).collect::<Vec<_>>(), [0, 0, 0]);
    guest.supply(2);
    guest.driver.run(RX).unwrap();
    assert_eq!(guest.received_ops(), [(Op::Response, 1024, 0)]);
    drop(host);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes in any chains: the device goes on, and what it says is well formed.
    #[test]
    fn hostile_packets_never_break_the_device(
        packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..80), 0..3_u8, 0..9_u16, 1023..1027_u32, any::<u32>(), any::<bool>()),
            0..80,
        ),
    ) {
        let (mut guest, hosts) = guest([1024, 1025]);
        for (mut bytes, shape, op, port, len, supply) in packets {
            if shape > 0 && bytes.len() >= HEADER_SIZE {
                // Likely enough to be a packet of a connection.
                let len = if shape == 1 { u32::try_from(bytes.len() - HEADER_SIZE).unwrap() } else { len };
                let raw = Header { len, ..header(Op::Unknown(op), PORT, port) }.encode();
                bytes[..HEADER_SIZE].copy_from_slice(&raw);
            }
            while guest.driver.rings[TX].take(&guest.driver.memory).is_some() {}
            guest.driver.put(TX_BASE, &bytes);
            let length = u32::try_from(bytes.len()).unwrap();
            if guest.driver.rings[TX].free() > 0 {
                guest.driver.rings[TX].add(&guest.driver.memory, &[readable(TX_BASE, length)]);
            }
            if supply {
                guest.supply(2);
            }
            prop_assert!(guest.driver.run(TX).is_ok());
            for (packet, _) in guest.received() {
                prop_assert!(!matches!(packet.op, Op::Unknown(_) | Op::Request));
            }
        }
        for mut host in &hosts {
            let _ = host.write_all(b"still here");
        }
        for token in 0..2 {
            prop_assert!(guest.driver.process(Event::Source(token, EventSet::IN)).is_ok());
        }
    }
}
