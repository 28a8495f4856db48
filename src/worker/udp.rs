//! UDP flows beyond their translation: the first answer, and datagrams that
//! their server did not get.
//!
//! A client of UDP can't tell a dead server from a slow one, and may have no
//! second try. Two things prove that a datagram was not taken: ICMP unreachable
//! from the server or a router before it, and a next hop that does not answer
//! ARP. The flow then leaves the server. The datagram itself goes to another
//! server in the same moment where it is at hand: it is the one that waited for
//! the next hop, or the ICMP error quotes it whole (most systems quote 548 bytes;
//! RFC 1812 §4.3.2.3). Where it is not, or nobody else is left to ask, the client
//! gets the ICMP error (RFC 1812 §5.2.7.1).

use super::Worker;
use super::health::is_sound;
use super::open::Opening;
use super::parse::{L3, Packet, Parsed, parse};
use super::path::{to_client, tuple_of};
use crate::conntrack::entry::{Direction, Entry, FlowTuple, State, mark};
use crate::ids::{PortIx, SlotIx};
use crate::io::{BurstIo, PacketBuf};
use crate::nat::rewrite::{self, Mapping};
use crate::stats::{DropReason, EndCause, Event};
use crate::time::Stamp;
use crate::wire::ethernet::MacAddr;
use crate::wire::icmp::{IcmpError, IcmpType};
use crate::wire::ipv4::Ipv4View;
use crate::wire::proto;
use crate::wire::udp::UdpView;

/// ICMP header; behind it is the quoted packet.
const ICMP_HEADER: usize = 8;

/// Code of "fragmentation needed" (RFC 1191 §4): the server is there.
const FRAGMENTATION_NEEDED: u8 = 4;

/// Without an answer for so long, it is asked whether the next hop is still
/// there: soon enough for who asks again after a second.
const ANSWER_MS: u64 = 1_000;

/// A datagram that comes back to go another way has used this much of its TTL,
/// and what it still needs.
const TTL_LEFT: u8 = 3;

impl<Io: BurstIo> Worker<Io> {
    /// The server's first answer. Where a flow is a question and its answer, it
    /// is over: the client side leaves the index, and the local port rests, so
    /// that an answer to a second question asked at the same time gets through.
    #[inline(never)]
    pub(super) fn first_answer(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        port: PortIx,
    ) {
        let entry = self.table.get_mut(slot);
        entry.last_seen = self.now.stamp();
        entry.state = State::UdpTwoWay;
        let (server, via) = (entry.server, entry.set);
        self.server_answered(server, via);
        let ends = self
            .snapshot
            .service_of(server)
            .is_some_and(|service| service.one_answer);
        if !ends {
            self.state_changed(slot, State::UdpOneWay);
            return self.forward(packet, at, slot, Direction::Reverse, port);
        }
        self.forward(packet, at, slot, Direction::Reverse, port);
        self.count_end(server, EndCause::Closed);
        self.rest(slot);
    }

    /// When a flow without an answer casts doubt on its next hop.
    pub(super) fn doubt_deadline(&self, entry: &Entry) -> Option<Stamp> {
        (!entry.is_marked(mark::DOUBTED)).then(|| entry.created.plus(ANSWER_MS).stamp())
    }

    /// A flow was not answered in time: its next hop has to show that it is
    /// there, or the flow moves.
    pub(super) fn doubt_server(&mut self, slot: SlotIx) {
        let entry = self.table.get_mut(slot);
        if !entry.is_marked(mark::DOUBTED) {
            entry.marks |= mark::DOUBTED;
            let hop = entry.server_hop;
            self.neighbors.doubt(hop, self.now);
        }
    }

    /// An ICMP error about a datagram that a server was sent. Gives it back
    /// where it is for the client.
    #[cold]
    #[inline(never)]
    pub(super) fn datagram_returned(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        port: PortIx,
    ) -> Option<Io::Buf> {
        let end = L3 + usize::from(at.ip_len);
        let message = packet.bytes().get(usize::from(at.l4)..end);
        let Some((head, quoted)) =
            message.and_then(|message| message.split_first_chunk::<ICMP_HEADER>())
        else {
            return Some(packet);
        };
        if IcmpType(head[0]) != IcmpType::DEST_UNREACHABLE || head[1] == FRAGMENTATION_NEEDED {
            return Some(packet);
        }
        let entry = *self.table.get(slot);
        self.server_failed(entry.server, entry.set);
        if !self.can_leave(&entry) {
            return Some(packet);
        }
        self.leave(slot);
        let Some((datagram, again)) = self.as_it_came(&entry, quoted) else {
            return Some(packet);
        };
        drop(packet);
        self.resend(datagram, &again, &entry, port);
        None
    }

    /// A packet whose next hop does not answer ARP.
    #[cold]
    #[inline(never)]
    pub(super) fn undeliverable(&mut self, packet: Io::Buf) {
        let Some(slot) = self.to_whom(&packet) else {
            return self.discard(packet, DropReason::NeighborUnreachable);
        };
        let entry = *self.table.get(slot);
        self.server_failed(entry.server, entry.set);
        let sent = packet.bytes().get(L3..).unwrap_or(&[]);
        let Some((datagram, again)) = self.as_it_came(&entry, sent) else {
            return self.discard(packet, DropReason::NeighborUnreachable);
        };
        if self.can_leave(&entry) {
            self.leave(slot);
            drop(packet);
            return self.resend(datagram, &again, &entry, PortIx(0));
        }
        self.icmp_about(&datagram, entry.vip, IcmpError::HostUnreachable);
        self.discard(packet, DropReason::NeighborUnreachable);
    }

    /// The flow of a datagram on its way to a server.
    fn to_whom(&self, packet: &Io::Buf) -> Option<SlotIx> {
        let ip = Ipv4View::new_quoted(packet.bytes().get(L3..)?).ok()?;
        if ip.protocol() != proto::UDP || ip.is_fragment() {
            return None;
        }
        let ports = ip.payload().first_chunk::<4>()?;
        let answer = FlowTuple {
            src: ip.dst(),
            dst: ip.src(),
            src_port: u16::from_be_bytes([ports[2], ports[3]]),
            dst_port: u16::from_be_bytes([ports[0], ports[1]]),
            protocol: proto::UDP,
        };
        match self.table.find(self.table.hash(&answer), &answer) {
            Some((slot, Direction::Reverse)) => Some(slot),
            _ => None,
        }
    }

    /// Whether there is another server for the flow, and it has not tried too
    /// many.
    fn can_leave(&self, entry: &Entry) -> bool {
        let avoid = Some(entry.server);
        self.snapshot
            .service_of(entry.server)
            .filter(|service| entry.attempts < service.syn_attempts)
            .is_some_and(|service| {
                service.plan.servers().any(|other| {
                    is_sound(&self.snapshot, &self.health, other, self.now, avoid, true)
                })
            })
    }

    /// The flow leaves its server; the client's next datagram makes another.
    fn leave(&mut self, slot: SlotIx) {
        let entry = self.table.get(slot);
        if entry.state != State::Resting {
            self.stats.event(Event::UdpMoved).add(1);
            self.count_end(entry.server, EndCause::ServerGone);
            self.rest(slot);
        }
    }

    /// A copy of a whole datagram as its client sent it; `sent` is how it went
    /// on to the server.
    fn as_it_came(&mut self, entry: &Entry, sent: &[u8]) -> Option<(Io::Buf, Packet)> {
        let ip = Ipv4View::new_quoted(sent).ok()?;
        let len = usize::from(ip.total_len());
        let l4 = ip.header_len();
        let whole = sent.get(..len)?;
        let udp = UdpView::new_checked(whole.get(l4..)?, len - l4).ok()?;
        if ip.is_fragment()
            || ip.ttl() < TTL_LEFT
            || !ip.verify_checksum()
            || !udp.verify_checksum(ip.src(), ip.dst())
        {
            return None;
        }
        let Some(mut packet) = self.io.allocate() else {
            self.not_made(DropReason::NoBuffer);
            return None;
        };
        if !packet.set_len(L3 + len) {
            return None;
        }
        let (ethernet, body) = packet.bytes_mut().split_at_mut(L3);
        ethernet[..12].fill(0);
        ethernet[12..].copy_from_slice(&[0x08, 0x00]);
        body.copy_from_slice(whole);
        let back = to_client(entry);
        let from_client = Mapping {
            src: back.dst,
            dst: back.src,
            src_port: back.dst_port,
            dst_port: back.src_port,
        };
        rewrite::translate(body, l4, proto::UDP, &from_client).ok()?;
        match parse(&packet, MacAddr([0; 6])) {
            Parsed::Flow(at) | Parsed::FirstFragment(at) => Some((packet, at)),
            _ => None,
        }
    }

    /// Sends a datagram to another server than that of `left`: where the client
    /// has a flow to one by now, along with that.
    fn resend(&mut self, datagram: Io::Buf, at: &Packet, left: &Entry, port: PortIx) {
        self.stats.event(Event::UdpResent).add(1);
        let tuple = tuple_of(at);
        if let Some((slot, direction)) = self.table.find(self.table.hash(&tuple), &tuple) {
            self.table.get_mut(slot).last_seen = self.now.stamp();
            return self.forward(datagram, at, slot, direction, port);
        }
        let Some(service_ix) = self.snapshot.service_at(at.dst, at.dst_port, at.protocol) else {
            return self.refuse(datagram, at, DropReason::NoService, Event::ResetRefused);
        };
        let opening = Opening {
            syn: None,
            attempts: left.attempts,
            avoid: Some(left.server),
            earlier: None,
        };
        self.open(datagram, at, service_ix, port, opening);
    }
}
