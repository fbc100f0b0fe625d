//! A connection's state and credit (virtio 1.2, sections 5.10.6.3 to 5.10.6.5). Does no I/O.
//!
//! A connection is only ever opened by the guest, and its host side is connected already:
//!
//! ```text
//!            REQUEST / RESPONSE                        RST sent or received
//!  (none) ─────────────────────▶ open, each direction ───────────────────▶ over
//!                                shut on its own
//! ```
//!
//! It is over, with an RST from here, when the guest has shut both directions, when both sides have shut the direction in
//! which they send, or when the guest broke the rules. Linux' driver keeps a closed socket until it gets that RST, for
//! up to 8 s, so none is held back for the sake of a slow reader.

use std::num::Wrapping;

use super::packet::{HOST_CID, Header, Op, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, STREAM};

/// The bytes from the guest that a connection holds at most while its reader does not take them.
pub(super) const BUF_ALLOC: u32 = 256 << 10;

/// The credit that is collected before the guest is told: an interrupt for each half of the buffer, during the use of the
/// other half.
const UPDATE_AFTER: u32 = BUF_ALLOC / 2;

/// What to do with a packet that a connection took note of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Nothing more.
    Noted,
    /// Pass its data on, or into the backlog.
    Data,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    guest_cid: u64,
    guest_port: u32,
    host_port: u32,
    credit: Credit,
    /// `SHUT_*` as the guest said.
    guest_shut: u32,
    /// `SHUT_*` as the guest is to be told: the host sends no more, or takes no more.
    host_shut: u32,
    /// The part of `host_shut` that the guest was told.
    told_shut: u32,
    /// Packets that the guest is owed.
    owes_response: bool,
    owes_update: bool,
    owes_reset: bool,
    over: bool,
}

impl Connection {
    /// The connection that the guest's `request` opens.
    pub(super) fn accept(request: &Header) -> Self {
        let mut credit = Credit::default();
        credit.hear(request);
        Self {
            guest_cid: request.src_cid,
            guest_port: request.src_port,
            host_port: request.dst_port,
            credit,
            guest_shut: 0,
            host_shut: 0,
            told_shut: 0,
            owes_response: true,
            owes_update: false,
            owes_reset: false,
            over: false,
        }
    }

    /// The guest's port.
    pub(super) const fn guest_port(&self) -> u32 {
        self.guest_port
    }

    /// Whether no more packets belong to this connection, though one that says so may have to be sent still.
    pub(super) const fn is_over(&self) -> bool {
        self.over || self.owes_reset
    }

    /// Whether the host gets no more data from the guest.
    pub(super) const fn guest_sends_no_more(&self) -> bool {
        self.is_over() || self.guest_shut & SHUT_SEND != 0
    }

    /// Whether the guest takes no more data from the host.
    pub(super) const fn guest_takes_no_more(&self) -> bool {
        self.is_over() || self.guest_shut & SHUT_RECEIVE != 0
    }

    /// Takes note of a packet of this connection.
    pub(super) fn receive(&mut self, packet: &Header) -> Incoming {
        if self.is_over() {
            return Incoming::Noted;
        }
        self.credit.hear(packet);
        match packet.op {
            Op::Data if self.guest_shut & SHUT_SEND == 0 && self.credit.take_in(packet.len) => return Incoming::Data,
            Op::CreditUpdate => {}
            Op::CreditRequest => self.owes_update = true,
            Op::Shutdown => {
                self.guest_shut |= packet.flags & SHUT_BOTH;
                self.owes_reset = self.guest_shut == SHUT_BOTH;
                self.end_if_spent();
            }
            Op::Reset => self.over = true,
            // Data beyond the credit or behind the end, a second opening, or nonsense.
            Op::Data | Op::Request | Op::Response | Op::Unknown(_) => self.owes_reset = true,
        }
        Incoming::Noted
    }

    /// `length` bytes of the guest's data have left the buffer.
    pub(super) fn forwarded(&mut self, length: usize) {
        self.credit.give_out(length);
        if self.credit.unannounced() >= UPDATE_AFTER && !self.guest_sends_no_more() {
            self.owes_update = true;
        }
        self.end_if_spent();
    }

    /// The host will send no more.
    pub(super) const fn host_ended(&mut self) {
        self.host_shut |= SHUT_SEND;
    }

    /// The host will take no more.
    pub(super) const fn host_gone(&mut self) {
        self.host_shut |= SHUT_RECEIVE;
    }

    /// Ends the connection at once.
    pub(super) const fn abort(&mut self) {
        self.owes_reset = !self.over;
    }

    /// Forgets the guest, which forgot the connection.
    pub(super) const fn abandon(&mut self) {
        self.over = true;
        self.owes_reset = false;
        self.owes_response = false;
    }

    /// The bytes that the guest has room for; 0 when it takes none, whatever the reason.
    pub(super) fn room(&self) -> usize {
        if self.guest_takes_no_more() || self.host_shut & SHUT_SEND != 0 {
            return 0;
        }
        usize::try_from(self.credit.room()).unwrap_or(usize::MAX)
    }

    /// The packet with data for the guest, `length` bytes, no more than [`Self::room`].
    pub(super) fn data(&mut self, length: u32) -> Header {
        self.credit.send(length);
        Header { len: length, ..self.packet(Op::Data, 0) }
    }

    /// Whether [`Self::next_control`] has a packet.
    pub(super) const fn owes_control(&self) -> bool {
        !self.over
            && (self.owes_response || self.owes_reset || self.owes_update || self.host_shut & !self.told_shut != 0)
    }

    /// The next packet without data that the guest is owed.
    pub(super) fn next_control(&mut self) -> Option<Header> {
        if self.over {
            return None;
        }
        if std::mem::take(&mut self.owes_response) {
            return Some(self.packet(Op::Response, 0));
        }
        if std::mem::take(&mut self.owes_reset) {
            self.over = true;
            return Some(self.packet(Op::Reset, 0));
        }
        if self.host_shut & !self.told_shut != 0 {
            self.told_shut = self.host_shut;
            let packet = self.packet(Op::Shutdown, self.host_shut);
            self.end_if_spent();
            return Some(packet);
        }
        std::mem::take(&mut self.owes_update).then(|| self.packet(Op::CreditUpdate, 0))
    }

    /// Ends the connection once neither side has anything left to say: both have shut the direction in which they send,
    /// the guest knows it, and the host has all its data.
    const fn end_if_spent(&mut self) {
        let both_ended = self.guest_shut & SHUT_SEND != 0 && self.told_shut & SHUT_SEND != 0;
        if both_ended && !self.over && self.credit.held() == 0 {
            self.owes_reset = true;
        }
    }

    /// A packet to the guest. Each one tells it all of its credit.
    fn packet(&mut self, op: Op, flags: u32) -> Header {
        self.owes_update = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.host_port,
            dst_port: self.guest_port,
            len: 0,
            socket_type: STREAM,
            op,
            flags,
            buf_alloc: BUF_ALLOC,
            fwd_cnt: self.credit.announce(),
        }
    }
}

/// The flow control of both directions. All counters are modulo 2^32, as on the wire.
#[derive(Debug, Default)]
struct Credit {
    /// Bytes from the guest, and how many of them have left our buffer, and what the guest knows of that.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    announced: Wrapping<u32>,
    /// Bytes to the guest, and what it said of its buffer.
    sent: Wrapping<u32>,
    peer_alloc: u32,
    peer_forwarded: Wrapping<u32>,
}

impl Credit {
    const fn hear(&mut self, packet: &Header) {
        self.peer_alloc = packet.buf_alloc;
        self.peer_forwarded = Wrapping(packet.fwd_cnt);
    }

    /// The bytes of the guest's that are in our buffer.
    const fn held(&self) -> u32 {
        self.received.0.wrapping_sub(self.forwarded.0)
    }

    /// Notes `length` more bytes from the guest; `false`, and nothing noted, when they are more than it may send.
    fn take_in(&mut self, length: u32) -> bool {
        let fits = self.held().checked_add(length).is_some_and(|held| held <= BUF_ALLOC);
        if fits {
            self.received += length;
        }
        fits
    }

    fn give_out(&mut self, length: usize) {
        // No more than is held can leave.
        let length = u32::try_from(length).unwrap_or(u32::MAX).min(self.held());
        self.forwarded += length;
    }

    fn unannounced(&self) -> u32 {
        (self.forwarded - self.announced).0
    }

    const fn announce(&mut self) -> u32 {
        self.announced = self.forwarded;
        self.forwarded.0
    }

    /// What the guest has room for. A guest that claims to have consumed more than it was sent has none.
    fn room(&self) -> u32 {
        self.peer_alloc.saturating_sub((self.sent - self.peer_forwarded).0)
    }

    fn send(&mut self, length: u32) {
        self.sent += length;
    }
}

#[cfg(test)]
mod tests;
