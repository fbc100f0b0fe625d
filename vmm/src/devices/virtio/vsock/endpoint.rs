//! A channel's stream, and the connection that is joined to it.
//!
//! The stream never blocks: what it does not take goes into the backlog, whose size the connection's credit bounds.
//! Readiness is remembered here, because the device thread reports only its edges ([`Sources`]).

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};

use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::EventSet;

use super::Channel;
use super::connection::{Connection, Incoming};
use super::packet::{HEADER_SIZE, Header, Op};
use crate::devices::virtio::iovec;
use crate::devices::virtio::sources::Sources;

/// What is always of interest: data and end of data.
const INTEREST: EventSet = EventSet::IN.union(EventSet::READ_HANG_UP);

/// A channel.
#[derive(Debug)]
pub(super) struct Endpoint {
    port: u32,
    /// `None` when it is closed.
    stream: Option<OwnedFd>,
    /// `None` until the guest connects.
    connection: Option<Connection>,
    /// Data of the guest that the stream has not taken.
    backlog: VecDeque<u8>,
    /// Where the stream is registered, under which token, and whether for room too.
    sources: Option<(Sources, u32)>,
    awaits_room: bool,
    /// Whether the stream may have data, or its end; `false` only after it said `EAGAIN`.
    readable: bool,
    /// Whether the stream may have room; `false` only after it said `EAGAIN`.
    writable: bool,
    /// The directions of the stream that were shut from here.
    shut_read: bool,
    shut_write: bool,
}

impl Endpoint {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            port: channel.port,
            stream: Some(channel.stream),
            connection: None,
            backlog: VecDeque::new(),
            sources: None,
            awaits_room: false,
            readable: true,
            writable: true,
            shut_read: false,
            shut_write: false,
        }
    }

    /// The host's port.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Whether the guest has opened a connection, also one that is over.
    pub(super) const fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Registers the stream.
    pub(super) fn attach(&mut self, sources: Sources, token: u32) -> io::Result<()> {
        if let Some(stream) = &self.stream {
            sources.add(token, stream.as_fd(), INTEREST)?;
            self.sources = Some((sources, token));
        }
        Ok(())
    }

    /// Takes note of the stream's readiness.
    pub(super) fn note(&mut self, events: EventSet) {
        self.readable |= events.intersects(INTEREST | EventSet::HANG_UP | EventSet::ERROR);
        self.writable |= events.intersects(EventSet::OUT | EventSet::HANG_UP | EventSet::ERROR);
        // Without a shutdown from here, a hang-up means that nobody has the other end any more.
        if events.contains(EventSet::HANG_UP) && !self.shut_write {
            self.lose_reader();
        }
    }

    /// Handles a packet to this port. `false` when there is no such connection.
    pub(super) fn receive(&mut self, packet: &Header, payload: &[VolatileSlice<'_>]) -> bool {
        let Some(connection) = &mut self.connection else { return self.accept(packet) };
        if connection.guest_port() != packet.src_port || (packet.op == Op::Request && connection.is_over()) {
            return false;
        }
        if u32::try_from(iovec::length(payload)).ok() != Some(packet.len) {
            connection.abort();
        } else if connection.receive(packet) == Incoming::Data {
            self.deliver(payload);
        }
        if self.connection.as_ref().is_some_and(Connection::guest_takes_no_more) {
            self.shut_read();
        }
        true
    }

    /// Joins the stream to the connection that `packet` opens, if it does.
    fn accept(&mut self, packet: &Header) -> bool {
        if packet.op != Op::Request {
            return false;
        }
        let connection = self.connection.insert(Connection::accept(packet));
        if self.shut_write {
            connection.host_gone();
        }
        true
    }

    /// Passes data on, the part that the stream takes now, and keeps the rest.
    fn deliver(&mut self, payload: &[VolatileSlice<'_>]) {
        let total = iovec::length(payload);
        let mut sent = 0_usize;
        while self.backlog.is_empty() && sent < total {
            match self.send(&iovec::part(payload, sent, usize::MAX)) {
                0 => break,
                more => sent = sent.saturating_add(more),
            }
        }
        let mut rest = vec![0; total.saturating_sub(sent)];
        iovec::copy_out(&iovec::part(payload, sent, usize::MAX), &mut rest);
        self.backlog.extend(rest);
        self.forwarded(sent);
    }

    /// Passes on the backlog, as far as the stream takes it, and then the guest's end.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let before = self.backlog.len();
        loop {
            let mut backlog = std::mem::take(&mut self.backlog);
            let (one, other) = backlog.as_mut_slices();
            let sent = if one.is_empty() { 0 } else { self.send(&[one.into(), other.into()]) };
            backlog.drain(..sent.min(backlog.len()));
            self.backlog = backlog;
            if sent == 0 {
                break;
            }
        }
        self.forwarded(before.saturating_sub(self.backlog.len()));
        self.await_room(!self.backlog.is_empty())?;
        let Some(connection) = &self.connection else { return Ok(()) };
        let over = connection.is_over();
        if connection.guest_sends_no_more() && self.backlog.is_empty() {
            self.shut_write();
            if over {
                return self.close();
            }
        }
        Ok(())
    }

    /// Sends to the stream; 0 when it takes nothing now. When nobody reads any more, everything counts as taken.
    fn send(&mut self, data: &[VolatileSlice<'_>]) -> usize {
        let Some(stream) = self.stream.as_ref().filter(|_| !self.shut_write) else { return iovec::length(data) };
        if !self.writable {
            return 0;
        }
        match iovec::send(stream.as_fd(), data) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                0
            }
            Err(_) => {
                self.lose_reader();
                iovec::length(data)
            }
        }
    }

    fn forwarded(&mut self, length: usize) {
        if let Some(connection) = &mut self.connection {
            connection.forwarded(length);
        }
    }

    /// Nobody reads what the guest sends: from now on it is taken and dropped, and the guest is told.
    fn lose_reader(&mut self) {
        self.shut_write();
        if let Some(connection) = &mut self.connection {
            connection.host_gone();
        }
    }

    /// Whether [`Self::next_data`] may have something.
    pub(super) fn may_have_data(&self) -> bool {
        self.readable && self.stream.is_some() && self.connection.as_ref().is_some_and(|it| it.room() > 0)
    }

    /// Receives data for the guest into `buffers`, behind the place for the header, which is returned.
    pub(super) fn next_data(&mut self, buffers: &[VolatileSlice<'_>]) -> Option<Header> {
        let (Some(stream), Some(connection)) = (&self.stream, &mut self.connection) else { return None };
        let place = iovec::part(buffers, HEADER_SIZE, connection.room());
        if place.is_empty() {
            return None;
        }
        match iovec::receive(stream.as_fd(), &place) {
            Ok(received) if received > 0 => return Some(connection.data(u32::try_from(received).ok()?)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The end, or a peer that left without reading everything.
            Ok(_) | Err(_) => connection.host_ended(),
        }
        self.readable = false;
        None
    }

    /// Whether [`Self::next_control`] has a packet.
    pub(super) fn owes_control(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::owes_control)
    }

    /// The next packet without data for the guest.
    pub(super) fn next_control(&mut self) -> Option<Header> {
        self.connection.as_mut()?.next_control()
    }

    /// Whether nothing of the guest's waits here.
    pub(super) fn is_drained(&self) -> bool {
        self.backlog.is_empty()
    }

    /// The guest forgot all connections. What it sent before is still delivered.
    pub(super) fn abandon(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.abandon();
        }
    }

    /// The guest is gone: the stream is closed when it has taken what was sent.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.connection.is_none() {
            return self.close();
        }
        self.abandon();
        self.flush()
    }

    /// Asks to be told of room in the stream, or no longer.
    fn await_room(&mut self, awaits: bool) -> io::Result<()> {
        if awaits == self.awaits_room {
            return Ok(());
        }
        self.awaits_room = awaits;
        let (Some((sources, token)), Some(stream)) = (&self.sources, &self.stream) else { return Ok(()) };
        let interest = if awaits { INTEREST | EventSet::OUT } else { INTEREST };
        sources.modify(*token, stream.as_fd(), interest)
    }

    fn shut_read(&mut self) {
        if !std::mem::replace(&mut self.shut_read, true) {
            self.shut(Shutdown::Read);
        }
    }

    fn shut_write(&mut self) {
        if !std::mem::replace(&mut self.shut_write, true) {
            self.shut(Shutdown::Write);
        }
    }

    fn shut(&self, how: Shutdown) {
        if let Some(stream) = &self.stream {
            // It fails when the other end is gone already: then there is nobody to tell.
            let _ = iovec::shut_down(stream.as_fd(), how);
        }
    }

    /// Closes the stream. What the host sent and the guest never took is thrown away first: the host would read an error
    /// instead of the end.
    fn close(&mut self) -> io::Result<()> {
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let _ = iovec::shut_down(stream.as_fd(), Shutdown::Both);
        let mut waste = [0; 4096];
        let row = [VolatileSlice::from(&mut waste[..])];
        while iovec::receive(stream.as_fd(), &row).is_ok_and(|length| length > 0) {}
        self.backlog = VecDeque::new();
        self.sources.take().map_or(Ok(()), |(sources, _)| sources.remove(stream.as_fd()))
    }
}
