//! Which packet belongs to which endpoint, and whose turn it is to send to the guest.
//!
//! Packets without data come first, since they free resources in the guest; then data, an endpoint a packet in turn.

use std::collections::VecDeque;
use std::io;

use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::EventSet;

use super::Channel;
use super::endpoint::Endpoint;
use super::packet::{HEADER_SIZE, HOST_CID, Header, Op, STREAM};
use crate::devices::virtio::iovec;
use crate::devices::virtio::sources::Sources;

/// The most refusals that wait for an rx buffer. While there are as many, no packet is taken from the guest.
const MAX_REFUSALS: usize = 64;

/// What became of a buffer of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// It has a packet of this many bytes.
    Packet(u32),
    /// There is no packet for it.
    Nothing,
    /// It is too small for any packet.
    TooSmall,
}

/// All endpoints.
#[derive(Debug)]
pub(super) struct Mux {
    guest_cid: u64,
    endpoints: Vec<Endpoint>,
    refusals: VecDeque<Header>,
    /// The endpoint that is first with its data.
    turn: usize,
}

impl Mux {
    pub(super) fn new(guest_cid: u64, channels: Vec<Channel>) -> Self {
        let endpoints = channels.into_iter().map(Endpoint::new).collect();
        Self { guest_cid, endpoints, refusals: VecDeque::new(), turn: 0 }
    }

    /// Registers the streams, each under its index.
    pub(super) fn attach(&mut self, sources: &Sources) -> io::Result<()> {
        (0..).zip(&mut self.endpoints).try_for_each(|(token, endpoint)| endpoint.attach(sources.clone(), token))
    }

    /// Takes note of a stream's readiness.
    pub(super) fn note(&mut self, token: u32, events: EventSet) {
        if let Some(endpoint) = usize::try_from(token).ok().and_then(|index| self.endpoints.get_mut(index)) {
            endpoint.note(events);
        }
    }

    /// Handles a packet of the guest's. What is no packet at all is dropped.
    pub(super) fn receive(&mut self, buffers: &[VolatileSlice<'_>]) {
        let mut header = [0; HEADER_SIZE];
        if iovec::copy_out(buffers, &mut header) < HEADER_SIZE {
            return;
        }
        let packet = Header::decode(header);
        if packet.src_cid != self.guest_cid {
            return;
        }
        let length = usize::try_from(packet.len).unwrap_or(usize::MAX);
        let payload = iovec::part(buffers, HEADER_SIZE, length);
        if !self.deliver(&packet, &payload) && packet.op != Op::Reset {
            self.refusals.push_back(packet.refusal());
        }
    }

    /// `false` when there is no such connection.
    fn deliver(&mut self, packet: &Header, payload: &[VolatileSlice<'_>]) -> bool {
        if packet.socket_type != STREAM || packet.dst_cid != HOST_CID {
            return false;
        }
        let endpoint = self.endpoints.iter_mut().find(|endpoint| endpoint.port() == packet.dst_port);
        endpoint.is_some_and(|endpoint| endpoint.receive(packet, payload))
    }

    /// Whether the guest must take refusals before more of its packets can be handled.
    pub(super) fn is_choked(&self) -> bool {
        self.refusals.len() >= MAX_REFUSALS
    }

    /// Drops the refusals: the guest will not take them any more.
    pub(super) fn drop_refusals(&mut self) {
        self.refusals.clear();
    }

    /// Whether the guest has a connection, or waits for an answer.
    pub(super) fn is_connected(&self) -> bool {
        !self.refusals.is_empty() || self.endpoints.iter().any(Endpoint::is_connected)
    }

    /// Passes on what waits for room in the streams, as far as there is some.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.endpoints.iter_mut().try_for_each(Endpoint::flush)
    }

    /// Whether [`Self::fill`] may have a packet.
    pub(super) fn may_have_packets(&self) -> bool {
        let waits = |endpoint: &Endpoint| endpoint.owes_control() || endpoint.may_have_data();
        !self.refusals.is_empty() || self.endpoints.iter().any(waits)
    }

    /// Puts the next packet for the guest into `buffers`.
    pub(super) fn fill(&mut self, buffers: &[VolatileSlice<'_>]) -> Filled {
        if iovec::length(buffers) <= HEADER_SIZE {
            return Filled::TooSmall;
        }
        let Some(header) = self.next_packet(buffers) else { return Filled::Nothing };
        iovec::copy_in(buffers, &header.encode());
        let written = HEADER_SIZE.saturating_add(usize::try_from(header.len).unwrap_or_default());
        Filled::Packet(u32::try_from(written).unwrap_or_default())
    }

    fn next_packet(&mut self, buffers: &[VolatileSlice<'_>]) -> Option<Header> {
        let mut control = || {
            let owed = self.endpoints.iter_mut().find_map(Endpoint::next_control);
            owed.or_else(|| self.refusals.pop_front())
        };
        if let Some(header) = control() {
            return Some(header);
        }
        let count = self.endpoints.len();
        for index in (0..count).map(|step| self.turn.wrapping_add(step).checked_rem(count).unwrap_or_default()) {
            let Some(endpoint) = self.endpoints.get_mut(index).filter(|endpoint| endpoint.may_have_data()) else {
                continue;
            };
            // The end of its data makes a packet without data.
            if let Some(header) = endpoint.next_data(buffers).or_else(|| endpoint.next_control()) {
                self.turn = index.wrapping_add(1);
                return Some(header);
            }
        }
        None
    }

    /// Whether everything from the guest has arrived at its stream, or cannot.
    pub(super) fn is_drained(&self) -> bool {
        self.endpoints.iter().all(Endpoint::is_drained)
    }

    /// The guest is gone: each stream is closed as soon as it has taken what was sent.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.refusals.clear();
        self.endpoints.iter_mut().try_for_each(Endpoint::finish)
    }

    /// The guest forgot all connections.
    pub(super) fn abandon(&mut self) {
        self.refusals.clear();
        self.endpoints.iter_mut().for_each(Endpoint::abandon);
    }
}
