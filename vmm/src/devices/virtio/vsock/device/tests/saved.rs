//! A device that is saved, and one that goes on in its place.

use super::*;
use crate::devices::virtio::slot::Slot;

/// Saves the device and restores it into another, with a channel to `port`; the driver goes on with that.
fn move_on(guest: &mut Guest, port: u32) -> UnixStream {
    let state = guest.driver.slot.save().unwrap();
    let (host, stream) = UnixStream::pair().unwrap();
    let device = Vsock::new(CID, vec![Channel { port, stream: stream.into() }]);
    let slot = Slot::new(Box::new(device), guest.driver.memory.clone()).unwrap();
    slot.restore(&state).unwrap();
    slot.wake().unwrap();
    guest.driver.slot = slot;
    host
}

#[test]
fn a_restored_device_connects() {
    let (mut guest, _) = guest::<0>([]);
    guest.supply(3);
    // Nothing that is answered; it is kept for a while.
    guest.send_op(Op::Reset, 1024);
    guest.send_op(Op::Reset, 1024);
    assert_eq!(guest.driver.rings[TX].take(&guest.driver.memory), None);
    let host = move_on(&mut guest, 1024);
    let back = std::iter::from_fn(|| guest.driver.rings[TX].take(&guest.driver.memory)).count();
    assert_eq!(back, 2, "what was kept is given back before");
    guest.send_op(Op::Request, 1024);
    assert_eq!(guest.received_ops(), [(Op::Response, 1024, 0)]);
    guest.send(&header(Op::Data, PORT, 1024), b"sent");
    guest.send_shutdown(1024, SHUT_SEND);
    assert_eq!(read_all(&host), b"sent");
}

#[test]
fn what_was_sent_and_not_seen_is_seen_after_the_restore() {
    let (mut guest, _) = guest::<0>([]);
    guest.supply(1);
    guest.queue_packet(&header(Op::Request, PORT, 1024), &[]);
    let _host = move_on(&mut guest, 1024);
    assert_eq!(guest.driver.slot.queue_events[TX].read().unwrap(), 1, "it is told to look");
    guest.driver.run(TX).unwrap();
    assert_eq!(guest.received_ops(), [(Op::Response, 1024, 0)]);
}

#[test]
fn an_interrupt_that_is_not_acknowledged_is_repeated() {
    let (mut guest, [_host]) = guest([1024]);
    guest.supply(2);
    guest.send_op(Op::Request, 1025);
    assert_eq!(guest.driver.interrupts(), 1);
    assert_eq!(guest.received_ops(), [(Op::Reset, 1025, 0)]);
    let _host = move_on(&mut guest, 1024);
    assert_eq!(guest.driver.wait_for_interrupt(), 1);
    let _host = move_on(&mut guest, 1024);
    assert_eq!(guest.driver.interrupts(), 0);
}

#[test]
fn a_guest_with_a_connection_is_not_saved() {
    let (mut guest, [_host]) = guest([1024]);
    guest.connect(1024);
    let error = guest.driver.slot.save().unwrap_err();
    assert!(matches!(error, SuspendError::Connected), "{error}");
}

#[test]
fn a_device_of_another_kind_is_not_restored() {
    let (guest, _) = guest::<0>([]);
    let state = guest.driver.slot.save().unwrap();
    let device = crate::devices::virtio::pmem::Pmem::new(vm_memory::GuestAddress(4 << 30), 2 << 20);
    let slot = Slot::new(Box::new(device), guest.driver.memory.clone()).unwrap();
    let error = slot.restore(&state).unwrap_err();
    assert!(error.to_string().contains("type 19"), "{error}");
}
