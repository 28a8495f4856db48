//! Second attempts: SYNs that are held, moved to another server, or replayed.

use super::Worker;
use super::open::Opening;
use super::parse::{L3, Packet, Parsed, parse};
use super::path::segment_of;
use crate::conntrack::entry::{Direction, Entry, NIL, State, flag};
use crate::conntrack::tcp::{Flags, Segment};
use crate::ids::{PortIx, SlotIx};
use crate::io::{BurstIo, PacketBuf};
use crate::service::snapshot::ServerState;
use crate::stats::{DropReason, Event};
use crate::time::Stamp;

impl<Io: BurstIo> Worker<Io> {
    /// Keeps a copy of a client's SYN with its connection.
    pub(super) fn hold_syn(&mut self, slot: SlotIx, packet: &Io::Buf, at: &Packet) {
        self.release_syn(slot);
        let ip = packet
            .bytes()
            .get(L3..L3 + usize::from(at.ip_len))
            .unwrap_or(&[]);
        match self.held.hold(ip) {
            Some(held) if !ip.is_empty() => {
                let entry = self.table.get_mut(slot);
                entry.held = held;
                entry.flags |= flag::SYN_HELD;
            }
            Some(held) => self.held.release(held),
            None => self.stats.event(Event::SynHoldFull).add(1),
        }
    }

    /// The held SYN of a connection is not needed any more.
    pub(super) fn release_syn(&mut self, slot: SlotIx) {
        if let Some(held) = self.take_held(slot) {
            self.held.release(held);
        }
    }

    fn take_held(&mut self, slot: SlotIx) -> Option<u32> {
        let entry = self.table.get_mut(slot);
        if !entry.has(flag::SYN_HELD) {
            return None;
        }
        entry.flags &= !flag::SYN_HELD;
        Some(std::mem::replace(&mut entry.held, NIL))
    }

    /// Makes a packet of a held SYN, as if the client had sent it again.
    fn unhold(&mut self, held: u32) -> Option<(Io::Buf, Packet)> {
        let packet = self.packet_from_held(held);
        self.held.release(held);
        packet
    }

    fn packet_from_held(&mut self, held: u32) -> Option<(Io::Buf, Packet)> {
        let Some(mut packet) = self.io.allocate() else {
            self.not_made(DropReason::NoBuffer);
            return None;
        };
        let ip = self.held.get(held);
        if !packet.set_len(L3 + ip.len()) {
            return None;
        }
        let (ethernet, body) = packet.bytes_mut().split_at_mut(L3);
        ethernet[..12].fill(0xff);
        ethernet[12..].copy_from_slice(&[0x08, 0x00]);
        body.copy_from_slice(ip);
        match parse(&packet, crate::wire::ethernet::MacAddr::BROADCAST) {
            Parsed::Flow(at) => Some((packet, at)),
            _ => None,
        }
    }

    /// Whether a half-open connection may be tried on another server: a copy of
    /// its SYN is held, attempts are left, and there is another server.
    pub(super) fn can_move(&mut self, slot: SlotIx) -> bool {
        let entry = self.table.get(slot);
        if entry.state != State::SynSent || !entry.has(flag::SYN_HELD) {
            return false;
        }
        let (server, attempts) = (entry.server, entry.attempts);
        let Some(service) = self.snapshot.service_of(server) else {
            return false;
        };
        let now = self.now;
        attempts < service.syn_attempts
            && service.plan.servers().any(|other| {
                other != server
                    && self
                        .snapshot
                        .server(other)
                        .is_some_and(|other| other.state == ServerState::Up && other.weight > 0)
                    && self
                        .health
                        .get(other.ix())
                        .is_none_or(|health| health.usable(now, true))
            })
    }

    /// Sends a half-open connection's held SYN to another server. The first
    /// server, should it answer after all, is reset.
    pub(super) fn move_syn(&mut self, slot: SlotIx) {
        let entry = *self.table.get(slot);
        let Some(held) = self.take_held(slot) else {
            return;
        };
        self.retire(slot);
        let Some((packet, at)) = self.unhold(held) else {
            return;
        };
        let Some(service_ix) = self.snapshot.service_at(at.dst, at.dst_port, at.protocol) else {
            return self.refuse(packet, &at, DropReason::NoService, Event::ResetRefused);
        };
        self.stats.service(service_ix).syn_moved.add(1);
        self.stats.event(Event::SynMoved).add(1);
        let opening = Opening {
            attempts: entry.attempts,
            avoid: Some(entry.server),
            ..self.opening_of(&packet, &at)
        };
        self.open(packet, &at, service_ix, PortIx(0), opening);
    }

    fn opening_of(&self, packet: &Io::Buf, at: &Packet) -> Opening {
        segment_of(packet.bytes(), at)
            .map(|mut syn| {
                super::path::read_options(packet.bytes(), at, &mut syn);
                syn.into()
            })
            .unwrap_or_default()
    }

    /// Opens a new connection with a held SYN in place of the old one.
    fn replay(&mut self, slot: SlotIx) {
        let Some(held) = self.take_held(slot) else {
            return;
        };
        self.stats.event(Event::SynReplayed).add(1);
        self.retire(slot);
        if let Some((packet, at)) = self.unhold(held) {
            self.no_connection(packet, &at, PortIx(0));
        }
    }

    /// A client that came back with a new SYN has now reset what the server
    /// still held: its SYN need not wait for its retransmission timer.
    pub(super) fn replay_after_reset(&mut self, slot: SlotIx) {
        let entry = self.table.get(slot);
        if entry.state == State::Closed && entry.has(flag::SYN_HELD) {
            self.replay(slot);
        }
    }

    /// A client's SYN again while the handshake is not complete. The first
    /// server had a whole retransmission timeout to answer.
    pub(super) fn syn_again(&mut self, packet: Io::Buf, at: &Packet, slot: SlotIx, port: PortIx) {
        let entry = self.table.get(slot);
        if entry.state == State::SynSent && self.can_move(slot) {
            let server = self.table.get(slot).server;
            self.server_failed(server);
            drop(packet);
            return self.move_syn(slot);
        }
        self.table.get_mut(slot).last_seen = self.now.stamp();
        self.forward(packet, at, slot, Direction::Forward, port);
    }

    /// A server refused the connection: another may not. The entry is closed
    /// already.
    pub(super) fn server_refused(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        before: State,
        port: PortIx,
    ) {
        self.stats.event(Event::ServerRefused).add(1);
        let server = self.table.get(slot).server;
        self.server_failed(server);
        let entry = self.table.get_mut(slot);
        entry.last_seen = self.now.stamp();
        entry.state = before;
        if self.can_move(slot) {
            drop(packet);
            return self.move_syn(slot);
        }
        self.table.get_mut(slot).state = State::Closed;
        self.state_changed(slot, before);
        self.forward(packet, at, slot, Direction::Reverse, port);
    }

    /// The server still holds an older connection of this tuple, and answered
    /// out of that. It is reset, and asked again at once.
    pub(super) fn stale_server(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        port: PortIx,
        segment: &Segment,
    ) {
        let entry = self.table.get(slot);
        if !entry.has(flag::SYN_HELD) {
            return self.forward(packet, at, slot, Direction::Reverse, port);
        }
        let held = entry.held;
        self.stats.event(Event::StaleServer).add(1);
        self.reset_sender(at, segment, Event::ResetAbandoned);
        drop(packet);
        if let Some((syn, syn_at)) = self.packet_from_held(held) {
            self.forward(syn, &syn_at, slot, Direction::Forward, port);
        }
    }

    /// On an established connection, the server answered the client's new SYN
    /// as if it had never known the connection. Both have forgotten it: the
    /// SYN becomes a new connection, and the server's half-open one is reset.
    pub(super) fn server_forgot(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        segment: &Segment,
    ) {
        let entry = self.table.get(slot);
        let acknowledged = segment.ack.wrapping_sub(entry.seq_delta);
        let held = self.held.get(entry.held);
        let header_len = usize::from(held.first().map_or(0, |b| b & 0xf)) * 4;
        let isn = held
            .get(header_len + 4..)
            .and_then(|rest| rest.first_chunk())
            .map(|bytes| u32::from_be_bytes(*bytes));
        let answers =
            isn.is_some_and(|isn| acknowledged.wrapping_sub(isn).wrapping_sub(1) < 0xffff);
        if !answers {
            return self.discard(packet, DropReason::TcpUnexpected);
        }
        if !segment.flags.has(Flags::RST) {
            self.reset_sender(at, segment, Event::ResetAbandoned);
        }
        drop(packet);
        self.table.get_mut(slot).state = State::Closed;
        self.state_changed(slot, State::Established);
        self.replay(slot);
    }

    /// The timer that governs a connection next: its idle timeout, or before
    /// that the second attempt of its SYN.
    pub(super) fn retry_deadline(&self, entry: &Entry) -> Option<Stamp> {
        if entry.state != State::SynSent || !entry.has(flag::SYN_HELD) {
            return None;
        }
        let service = self.snapshot.service_of(entry.server)?;
        (service.syn_retry_ms > 0 && entry.attempts < service.syn_attempts)
            .then(|| entry.created.plus(service.syn_retry_ms.into()).stamp())
    }
}
