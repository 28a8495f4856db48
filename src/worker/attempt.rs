//! Second attempts: SYNs that are held, moved to another server, or replayed;
//! and answers that come after that.
//!
//! Each attempt is an entry of its own, with a local port of its own. One that
//! was given up rests, named by [`Entry::earlier`] of the next. Which of them
//! the client gets is decided by the first SYN-ACK, whosever it is.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::Worker;
use super::health::Health;
use super::open::Opening;
use super::parse::{L3, Packet, Parsed, parse};
use super::path::segment_of;
use crate::conntrack::entry::{Direction, Entry, NIL, State, flag, mark};
use crate::conntrack::tcp::{Flags, Segment};
use crate::ids::{PortIx, ServerIx, ServiceIx, SetIx, SlotIx};
use crate::io::{BurstIo, PacketBuf};
use crate::service::snapshot::ServerState;
use crate::stats::{DropReason, Event};
use crate::time::Stamp;

/// How long a server that is out of use has to answer the SYN of a trial, where
/// its own time is not longer. If it takes longer, its answer is late, and
/// proves just as well that it is back.
const TRIAL_MS: u64 = 50;

/// Doublings of the time after which somebody else is looked for.
const MAX_DOUBLINGS: u8 = 6;

/// Attempts of one connection that are looked back on.
const TRIED: usize = 16;

/// Why a SYN goes elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// Its server did not answer in time.
    Silence,
    /// Its server refused.
    Refusal,
    /// Its server was taken away.
    ServerGone,
}

/// One attempt.
#[derive(Clone, Copy, Debug)]
struct Try {
    server: ServerIx,
    via: SetIx,
    /// The server refused, or is gone; else it did not answer.
    refused: bool,
}

type Tried = ArrayVec<Try, TRIED>;

impl<Io: BurstIo> Worker<Io> {
    /// Keeps a copy of a client's SYN with its connection. One that came as the
    /// first of several fragments is not whole.
    pub(super) fn hold_syn(&mut self, slot: SlotIx, packet: &Io::Buf, at: &Packet) {
        self.release_syn(slot);
        let whole = L3..L3 + usize::from(at.ip_len);
        let held = match packet.bytes().get(whole) {
            Some(ip) if !at.flags.more_fragments() => self.held.hold(ip, slot),
            _ => None,
        };
        let Some((held, displaced)) = held else {
            return self.stats.event(Event::SynHoldFull).add(1);
        };
        if let Some(displaced) = displaced {
            self.stats.event(Event::SynHoldFull).add(1);
            let entry = self.table.get_mut(displaced);
            entry.flags &= !flag::SYN_HELD;
            entry.held = NIL;
        }
        let entry = self.table.get_mut(slot);
        entry.held = held;
        entry.flags |= flag::SYN_HELD;
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

    pub(super) fn packet_from_held(&mut self, held: u32) -> Option<(Io::Buf, Packet)> {
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

    /// What was tried for the connection in `slot`, the last first; `refused`
    /// where that one was refused.
    fn tried(&self, slot: SlotIx, refused: bool) -> Tried {
        let first = self.table.get(slot);
        let mut tried = Tried::new();
        let mut entry = first;
        let mut refused = refused;
        while tried
            .try_push(Try {
                server: entry.server,
                via: entry.set,
                refused,
            })
            .is_ok()
        {
            match self.earlier(entry) {
                Some(earlier) => entry = earlier,
                None => break,
            }
            refused = !entry.is_marked(mark::UNANSWERED);
        }
        tried
    }

    /// The attempt before this one of the same connection, if it still rests.
    fn earlier(&self, entry: &Entry) -> Option<&Entry> {
        if entry.earlier >= self.table.slots_end().0 {
            return None;
        }
        let earlier = self.table.get(SlotIx(entry.earlier));
        // Its slot may have changed hands.
        (earlier.state == State::Resting
            && earlier.client_tuple() == entry.client_tuple()
            && earlier.client_isn == entry.client_isn)
            .then_some(earlier)
    }

    /// Whether a server may be asked, after all that was tried: one that was not,
    /// or not from all its local addresses. Where the last one was silent, also
    /// one that was silent before: nobody else may be left.
    fn may_ask(&self, ix: ServerIx, tried: &Tried) -> bool {
        let usable = self
            .snapshot
            .server(ix)
            .filter(|server| server.state == ServerState::Up && server.weight > 0);
        let Some(server) = usable else { return false };
        let before = || tried.iter().filter(|try_| try_.server == ix);
        if before().count() < server.locals.len() {
            return true;
        }
        tried
            .first()
            .is_none_or(|last| !last.refused && last.server != ix)
            && before().all(|try_| !try_.refused)
    }

    /// Whether there is somebody else to ask for a half-open connection.
    fn can_move(&self, slot: SlotIx, cause: Cause) -> bool {
        let entry = self.table.get(slot);
        if entry.state != State::SynSent {
            return false;
        }
        let tried = self.tried(slot, cause != Cause::Silence);
        self.snapshot
            .service_of(entry.server)
            .is_some_and(|service| {
                let mut servers = service.plan.servers();
                servers.any(|server| self.may_ask(server, &tried))
            })
    }

    /// The server for a further attempt: one that was not tried and did not just
    /// fail; else of those that may be asked, the one that was tried least, and
    /// failed longest ago.
    pub(super) fn pick_another(
        &mut self,
        service_ix: ServiceIx,
        client: Ipv4Addr,
        last: SlotIx,
    ) -> Option<ServerIx> {
        let refused = !self.table.get(last).is_marked(mark::UNANSWERED);
        let tried = self.tried(last, refused);
        let times = |ix| tried.iter().filter(|try_| try_.server == ix).count();
        let fresh = self.pick_where(service_ix, client, |worker, ix| {
            times(ix) == 0
                && worker.may_ask(ix, &tried)
                && worker
                    .health
                    .get(ix.ix())
                    .is_none_or(|health| health.usable(worker.now, true))
        });
        if fresh.is_some() {
            return fresh;
        }
        let failed_at = |ix: ServerIx| self.health.get(ix.ix()).map(Health::failed_at);
        let service = self.snapshot.service(service_ix)?;
        service
            .plan
            .servers()
            .filter(|&ix| self.may_ask(ix, &tried))
            .min_by_key(|&ix| (times(ix), failed_at(ix)))
    }

    /// Sends a half-open connection's held SYN elsewhere, if there is a copy and
    /// somebody else to ask. False, and nothing changed, where not.
    pub(super) fn move_held(&mut self, slot: SlotIx, cause: Cause) -> bool {
        let entry = self.table.get(slot);
        let held = entry.held;
        if !entry.has(flag::SYN_HELD) || !self.has_attempts(entry) || !self.can_move(slot, cause) {
            return false;
        }
        let Some((packet, at)) = self.packet_from_held(held) else {
            return false;
        };
        self.move_syn(packet, &at, slot, PortIx(0), cause);
        true
    }

    /// Whether the gateway may make a further attempt by itself.
    fn has_attempts(&self, entry: &Entry) -> bool {
        self.snapshot
            .service_of(entry.server)
            .is_some_and(|service| entry.attempts < service.syn_attempts)
    }

    /// Sends a half-open connection's SYN elsewhere. The server asked before,
    /// should it answer after all, is reset, or taken if it is the first.
    fn move_syn(&mut self, packet: Io::Buf, at: &Packet, slot: SlotIx, port: PortIx, cause: Cause) {
        let entry = self.table.get(slot);
        let (attempts, server) = (entry.attempts, entry.server);
        // In a full table this attempt gives way to its next, and nobody else.
        let is_full = self.table.len() >= self.table.capacity();
        if is_full {
            self.remove(slot);
        } else {
            self.retire(slot);
            if cause == Cause::Silence {
                self.table.get_mut(slot).marks |= mark::UNANSWERED;
            }
        }
        let Some(service_ix) = self.snapshot.service_at(at.dst, at.dst_port, at.protocol) else {
            return self.refuse(packet, at, DropReason::NoService, Event::ResetRefused);
        };
        self.stats.service(service_ix).syn_moved.add(1);
        self.stats.event(Event::SynMoved).add(1);
        let opening = Opening {
            attempts,
            avoid: Some(server),
            earlier: (!is_full).then_some(slot),
            ..self.opening_of(&packet, at)
        };
        self.open(packet, at, service_ix, port, opening);
    }

    /// A half-open connection's timer: where its server had long enough, another
    /// is asked. Whether the connection has moved.
    pub(super) fn retry(&mut self, slot: SlotIx) -> bool {
        let entry = self.table.get(slot);
        let (server, waits, hop) = (entry.server, entry.waits, entry.server_hop);
        let due = self
            .retry_deadline(entry)
            .is_some_and(|retry| self.now.stamp().reached(retry));
        if !due {
            return false;
        }
        // It may be that another machine has its MAC by now.
        self.neighbors.doubt(hop, self.now);
        if waits == 0 {
            self.syn_unanswered(server);
        }
        if self.move_held(slot, Cause::Silence) {
            return true;
        }
        // Nobody else to ask now: this one may still answer, and others come.
        self.table.get_mut(slot).waits = waits.saturating_add(1);
        false
    }

    /// The timer that governs a half-open connection before its idle timeout:
    /// when its server has had long enough; each time that nobody else was
    /// there to ask, twice as long.
    pub(super) fn retry_deadline(&self, entry: &Entry) -> Option<Stamp> {
        if entry.state != State::SynSent {
            return None;
        }
        let after_ms = self.retry_ms(entry);
        let more = entry.waits == 0 || entry.has(flag::SYN_HELD) && self.has_attempts(entry);
        (after_ms > 0 && more).then(|| {
            let doublings = entry.waits.min(MAX_DOUBLINGS);
            entry.created.plus(after_ms << doublings).stamp()
        })
    }

    /// How long a server has to answer a SYN: as configured, or longer where it
    /// is known to take longer, up to a bound. One that is out of use gets
    /// little time for its trial. 0: as long as its client lets it.
    fn retry_ms(&self, entry: &Entry) -> u64 {
        let Some(service) = self.snapshot.service_of(entry.server) else {
            return 0;
        };
        let configured = u64::from(service.syn_retry_ms);
        if configured == 0 {
            return 0;
        }
        let health = self.health.get(entry.server.ix());
        let limit = health.map_or(0, Health::limit_ms);
        let is_trial = health.is_some_and(Health::is_out)
            || self
                .paths
                .get(entry.set.ix())
                .is_some_and(|path| path.is_out());
        if is_trial {
            return limit.max(TRIAL_MS).min(configured);
        }
        let longest = configured.max(service.syn_retry_max_ms.into());
        configured.max(limit).min(longest)
    }

    /// The server of a half-open connection has accepted it. Those asked before
    /// did not answer the same SYN, and that proves something.
    pub(super) fn syn_answered(&mut self, slot: SlotIx) {
        let entry = *self.table.get(slot);
        if entry.repeats == 0 {
            self.note_connect_time(entry.server, self.now.since(entry.created));
        }
        self.server_answered(entry.server, entry.set);
        if entry.earlier != NIL {
            self.judge_earlier(slot);
        }
    }

    #[cold]
    fn judge_earlier(&mut self, slot: SlotIx) {
        let answered = self.table.get(slot).server;
        // The first is the one that answered.
        for try_ in self.tried(slot, false).iter().skip(1) {
            if !try_.refused {
                self.failure_proven(try_.server, try_.via, try_.server == answered);
            }
        }
    }

    pub(super) fn opening_of(&self, packet: &Io::Buf, at: &Packet) -> Opening {
        segment_of(packet.bytes(), at)
            .map(|mut syn| {
                super::path::read_options(packet.bytes(), at, &mut syn);
                syn.into()
            })
            .unwrap_or_default()
    }

    /// Opens a new connection with a held SYN in place of the old one.
    fn replay(&mut self, slot: SlotIx) {
        let entry = self.table.get(slot);
        if !entry.has(flag::SYN_HELD) {
            return;
        }
        let packet = self.packet_from_held(entry.held);
        self.stats.event(Event::SynReplayed).add(1);
        self.retire(slot);
        if let Some((packet, at)) = packet {
            self.for_service(packet, &at, PortIx(0));
        }
    }

    /// A client that came back with a new SYN has now reset what the server
    /// still held, or both had closed it after all: its SYN need not wait for
    /// its retransmission timer.
    pub(super) fn replay_when_over(&mut self, slot: SlotIx) {
        let entry = self.table.get(slot);
        if matches!(entry.state, State::Closed | State::TimeWait) && entry.has(flag::SYN_HELD) {
            self.replay(slot);
        }
    }

    /// A client's SYN again while the handshake is not complete. Where its
    /// server had long enough to answer, this very packet goes elsewhere: no
    /// copy is needed, and no attempts count.
    pub(super) fn syn_again(&mut self, packet: Io::Buf, at: &Packet, slot: SlotIx, port: PortIx) {
        let Some(packet) = self.verified(packet, at) else {
            return;
        };
        let entry = self.table.get(slot);
        if entry.state == State::SynSent {
            let (server, waits) = (entry.server, entry.waits);
            let waited = self.now.since(entry.created);
            if waited >= self.retry_ms(entry) && self.can_move(slot, Cause::Silence) {
                if waits == 0 {
                    self.syn_unanswered(server);
                }
                return self.move_syn(packet, at, slot, port, Cause::Silence);
            }
            let entry = self.table.get_mut(slot);
            entry.repeats = entry.repeats.saturating_add(1);
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
        let entry = self.table.get_mut(slot);
        entry.state = before;
        let Some(packet) = self.verified(packet, at) else {
            return;
        };
        let entry = self.table.get_mut(slot);
        entry.last_seen = self.now.stamp();
        let (server, via) = (entry.server, entry.set);
        self.stats.event(Event::ServerRefused).add(1);
        self.server_failed(server, via);
        if self.move_held(slot, Cause::Refusal) {
            return;
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
        self.discard(packet, DropReason::ServerAbandoned);
        if let Some((syn, syn_at)) = self.packet_from_held(held) {
            self.forward(syn, &syn_at, slot, Direction::Forward, port);
        }
    }

    /// On an established or half-closed connection, the server answered the
    /// client's new SYN as if it had never known the connection. Both have
    /// forgotten it: the SYN becomes a new connection, and the server's half-open
    /// one is reset.
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
        self.discard(packet, DropReason::ServerAbandoned);
        let entry = self.table.get_mut(slot);
        let before = std::mem::replace(&mut entry.state, State::Closed);
        self.state_changed(slot, before);
        self.replay(slot);
    }
}
