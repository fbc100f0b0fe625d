//! The state machine, without streams.

use proptest::prelude::*;

use super::*;

fn packet(op: Op) -> Header {
    Header {
        src_cid: 3,
        dst_cid: HOST_CID,
        src_port: 5000,
        dst_port: 1024,
        len: 0,
        socket_type: STREAM,
        op,
        flags: 0,
        buf_alloc: 1000,
        fwd_cnt: 0,
    }
}

/// A connection whose opening was answered.
fn open() -> Connection {
    let mut connection = Connection::accept(&packet(Op::Request));
    assert_eq!(connection.next_control().map(|answer| answer.op), Some(Op::Response));
    connection
}

fn shutdown(flags: u32) -> Header {
    Header { flags, ..packet(Op::Shutdown) }
}

fn data(len: u32) -> Header {
    Header { len, ..packet(Op::Data) }
}

fn ops(connection: &mut Connection) -> Vec<(Op, u32)> {
    std::iter::from_fn(|| connection.next_control().map(|packet| (packet.op, packet.flags))).collect()
}

#[test]
fn the_answer_to_an_opening_tells_the_credit() {
    let answer = Connection::accept(&packet(Op::Request)).next_control().unwrap();
    assert_eq!((answer.src_cid, answer.dst_cid, answer.src_port, answer.dst_port), (2, 3, 1024, 5000));
    assert_eq!((answer.op, answer.buf_alloc, answer.fwd_cnt), (Op::Response, BUF_ALLOC, 0));
}

#[test]
fn credit_is_announced_after_half_of_the_buffer_and_on_request() {
    let mut connection = open();
    assert_eq!(connection.receive(&data(BUF_ALLOC)), Incoming::Data);
    connection.forwarded(usize::try_from(UPDATE_AFTER - 1).unwrap());
    assert!(!connection.owes_control());
    connection.forwarded(1);
    let update = connection.next_control().unwrap();
    assert_eq!((update.op, update.fwd_cnt), (Op::CreditUpdate, UPDATE_AFTER));
    assert!(!connection.owes_control());
    connection.receive(&packet(Op::CreditRequest));
    assert_eq!(ops(&mut connection), [(Op::CreditUpdate, 0)]);
}

#[test]
fn data_for_the_guest_announces_credit_too() {
    let mut connection = open();
    connection.receive(&data(BUF_ALLOC));
    connection.forwarded(usize::try_from(BUF_ALLOC).unwrap());
    assert_eq!(connection.data(10).fwd_cnt, BUF_ALLOC);
    assert!(!connection.owes_control());
}

#[test]
fn data_beyond_the_credit_ends_the_connection() {
    let mut connection = open();
    assert_eq!(connection.receive(&data(BUF_ALLOC)), Incoming::Data);
    connection.forwarded(100);
    assert_eq!(connection.receive(&data(100)), Incoming::Data);
    assert_eq!(connection.receive(&data(1)), Incoming::Noted);
    assert_eq!(ops(&mut connection), [(Op::Reset, 0)]);
    assert!(connection.is_over());
    for length in [u32::MAX, BUF_ALLOC + 1] {
        let mut connection = open();
        connection.receive(&data(1));
        assert_eq!(connection.receive(&data(length)), Incoming::Noted);
        assert!(connection.is_over());
    }
}

#[test]
fn room_follows_what_the_guest_says() {
    let mut connection = open();
    assert_eq!(connection.room(), 1000);
    connection.data(1000);
    assert_eq!(connection.room(), 0);
    connection.receive(&Header { fwd_cnt: 400, ..packet(Op::CreditUpdate) });
    assert_eq!(connection.room(), 400);
    connection.receive(&Header { fwd_cnt: 400, buf_alloc: 100, ..packet(Op::CreditUpdate) });
    assert_eq!(connection.room(), 0);
    // More consumed than was sent.
    connection.receive(&Header { fwd_cnt: 1001, ..packet(Op::CreditUpdate) });
    assert_eq!(connection.room(), 0);
}

#[test]
fn a_guest_that_shuts_both_directions_gets_its_reset_at_once() {
    let mut connection = open();
    connection.receive(&data(10));
    connection.receive(&shutdown(SHUT_SEND));
    assert!(!connection.owes_control());
    assert!(connection.guest_sends_no_more() && !connection.guest_takes_no_more());
    connection.receive(&shutdown(SHUT_RECEIVE));
    assert_eq!(ops(&mut connection), [(Op::Reset, 0)]);
}

#[test]
fn both_ends_of_sending_end_the_connection_when_all_is_delivered() {
    let mut connection = open();
    connection.receive(&data(10));
    connection.receive(&shutdown(SHUT_SEND));
    connection.host_ended();
    assert_eq!(ops(&mut connection), [(Op::Shutdown, SHUT_SEND)]);
    connection.forwarded(10);
    assert_eq!(ops(&mut connection), [(Op::Reset, 0)]);

    let mut connection = open();
    connection.host_ended();
    assert_eq!(ops(&mut connection), [(Op::Shutdown, SHUT_SEND)]);
    assert_eq!(connection.room(), 0);
    connection.receive(&shutdown(SHUT_SEND));
    assert_eq!(ops(&mut connection), [(Op::Reset, 0)]);
}

#[test]
fn a_lost_reader_is_announced_and_the_guest_may_still_listen() {
    let mut connection = open();
    connection.host_gone();
    assert_eq!(ops(&mut connection), [(Op::Shutdown, SHUT_RECEIVE)]);
    assert_eq!(connection.room(), 1000);
    connection.host_ended();
    assert_eq!(ops(&mut connection), [(Op::Shutdown, SHUT_BOTH)]);
    connection.receive(&packet(Op::Reset));
    assert!(connection.is_over() && !connection.owes_control());
}

#[test]
fn a_reset_is_not_answered() {
    let mut connection = Connection::accept(&packet(Op::Request));
    connection.receive(&packet(Op::Reset));
    assert_eq!(ops(&mut connection), []);
}

#[test]
fn nonsense_ends_the_connection() {
    for op in [Op::Request, Op::Response, Op::Unknown(0), Op::Unknown(8)] {
        let mut connection = open();
        connection.receive(&packet(op));
        assert_eq!(ops(&mut connection), [(Op::Reset, 0)]);
    }
    let mut connection = open();
    connection.receive(&shutdown(SHUT_SEND));
    assert_eq!(connection.receive(&data(1)), Incoming::Noted);
    assert_eq!(ops(&mut connection), [(Op::Reset, 0)]);
}

proptest! {
    #[test]
    fn any_packets_keep_the_counters_bounded(
        packets in prop::collection::vec((0..9_u16, 0..BUF_ALLOC * 2, any::<u32>(), any::<u32>(), 0..4_u32, 0..BUF_ALLOC), 0..60),
    ) {
        let mut connection = open();
        let mut held = 0_u64;
        for (op, len, buf_alloc, fwd_cnt, flags, out) in packets {
            let mut raw = packet(Op::Data).encode();
            raw[30..32].copy_from_slice(&op.to_le_bytes());
            let packet = Header { len, buf_alloc, fwd_cnt, flags, ..Header::decode(raw) };
            if connection.receive(&packet) == Incoming::Data {
                held += u64::from(len);
            }
            prop_assert!(held <= u64::from(BUF_ALLOC));
            let out = u64::from(out).min(held);
            connection.forwarded(usize::try_from(out).unwrap());
            held -= out;
            let room = u32::try_from(connection.room()).unwrap();
            prop_assert!(room <= buf_alloc);
            if room > 0 {
                connection.data(room);
            }
            // What is owed is finite.
            prop_assert!(ops(&mut connection).len() <= 3);
        }
    }
}
