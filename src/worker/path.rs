//! A packet's life, top to bottom: receive, parse, look up, decide, translate,
//! send.
//!
//! The stages run over a whole burst, so that the memory latency of one packet
//! hides behind the work on the others: first the headers are loaded, then the
//! index buckets, then the entries.

use arrayvec::ArrayVec;

use super::out::write_ethernet;
use super::parse::{L3, Packet, Parsed, parse, parse_flow};
use super::{HandedOver, Worker};
use crate::conntrack::entry::{Direction, Entry, FlowTuple, State, flag, mark};
use crate::conntrack::tcp::{self, Flags, Segment, Verdict};
use crate::ids::{NeighborIx, PortIx, ServerIx, SlotIx, WorkerIx};
use crate::io::{BURST, BurstIo, PacketBuf};
use crate::nat::rewrite::{self, Mapping, Shift};
use crate::neighbor::Room;
use crate::service::snapshot::{AddressKind, Answer};
use crate::stats::{DropReason, Event};
use crate::wire::ethernet::MacAddr;
use crate::wire::proto;
use crate::wire::tcp::{TcpOption, TcpView};

/// A parsed packet, the hash of its tuple (0 where it has none), and where its
/// connection most likely is.
pub(super) struct Look {
    pub(super) parsed: Parsed,
    pub(super) hash: u64,
    pub(super) candidate: Option<(SlotIx, Direction)>,
}

impl<Io: BurstIo> Worker<Io> {
    /// Receives a burst from `port` and sees each packet through.
    #[inline]
    pub(super) fn burst(&mut self, port: PortIx) -> usize {
        if self.captures.is_on() {
            return self.burst_captured(port);
        }
        self.receive(port, |worker, packet, look| {
            worker.see_through(packet, look, port);
        })
    }

    /// Receives a burst from `port`. Hands over packets that other workers own and
    /// calls `see` for the rest.
    #[inline(always)]
    pub(super) fn receive(
        &mut self,
        port: PortIx,
        see: impl Fn(&mut Self, Io::Buf, &Look),
    ) -> usize {
        let mut packets = ArrayVec::<Io::Buf, BURST>::new();
        self.io.receive(port, &mut packets);
        if packets.is_empty() {
            return 0;
        }
        for packet in &packets {
            packet.prefetch();
        }

        let count = packets.len();
        self.receiving = Some(port);
        let mac = self.ports[port.ix()].mac;
        let mut looks = ArrayVec::<Look, BURST>::new();
        let mut bytes = 0;
        for packet in &packets {
            bytes += packet.total_len() as u64;
            // Pushed apart: of one place for both results, the compiler would
            // make a copy.
            match parse_flow(packet, mac) {
                Some(at) => looks.push(self.look_of(Parsed::Flow(at))),
                None => looks.push(self.look_closer(packet, mac)),
            }
        }
        let counters = self.stats.port(port);
        counters.rx_packets.add(count as u64);
        counters.rx_bytes.add(bytes);

        for look in &mut looks {
            if matches!(look.parsed, Parsed::Flow(_)) {
                look.candidate = self.table.prefetch_candidate(look.hash);
            }
        }

        for (packet, look) in packets.into_iter().zip(&looks) {
            if self.steers
                && let Some(worker) = self.steered(&look.parsed)
                && worker != self.ix
            {
                self.hand_over(worker, port, packet);
                continue;
            }
            see(self, packet, look);
        }
        count
    }

    /// Packets that other workers received and we own.
    #[inline]
    pub(super) fn handed_over(&mut self) -> usize {
        if self.captures.is_on() {
            return self.handed_over_captured();
        }
        self.take_handed_over(Self::see_through)
    }

    /// Takes what other workers handed over, for `see`.
    #[inline(always)]
    pub(super) fn take_handed_over(
        &mut self,
        see: impl Fn(&mut Self, Io::Buf, &Look, PortIx),
    ) -> usize {
        let mut count = 0;
        for from in 0..self.handover.from.len() {
            if from == self.ix.ix() {
                continue;
            }
            for _ in 0..BURST {
                let Some(handed) = self.handover.from[from].pop() else {
                    break;
                };
                let HandedOver { port, packet, .. } = handed;
                self.redirected = handed.redirected;
                count += 1;
                self.receiving = Some(port);
                let parsed = parse(&packet, self.ports[port.ix()].mac);
                let look = self.look_of(parsed);
                see(self, packet, &look, port);
            }
        }
        self.redirected = false;
        count
    }

    /// Hashes a flow's tuple and starts loading its index bucket.
    #[inline(always)]
    pub(super) fn look_of(&self, parsed: Parsed) -> Look {
        let hash = if let Parsed::Flow(at) = &parsed {
            let hash = self.table.hash(&tuple_of(at));
            self.table.prefetch_bucket(hash);
            hash
        } else {
            0
        };
        Look {
            parsed,
            hash,
            candidate: None,
        }
    }

    /// A frame that is not what nearly all are.
    #[cold]
    #[inline(never)]
    fn look_closer(&self, packet: &Io::Buf, mac: MacAddr) -> Look {
        self.look_of(parse(packet, mac))
    }

    #[inline(always)]
    fn see_through(&mut self, packet: Io::Buf, look: &Look, port: PortIx) {
        match &look.parsed {
            Parsed::Flow(at) => {
                let tuple = tuple_of(at);
                let found = self.table.find_candidate(look.candidate, look.hash, &tuple);
                self.flow(packet, at, found, port);
            }
            other => self.not_flow(packet, other, port),
        }
    }

    /// [`Worker::see_through`], out of line.
    #[inline(never)]
    pub(super) fn see_through_apart(&mut self, packet: Io::Buf, look: &Look, port: PortIx) {
        self.see_through(packet, look, port);
    }

    /// Everything that is no whole TCP segment or UDP datagram.
    #[inline(never)]
    fn not_flow(&mut self, packet: Io::Buf, parsed: &Parsed, port: PortIx) {
        match parsed {
            Parsed::FirstFragment(at) | Parsed::LaterFragment(at)
                if self.is_kernels(at.dst, port) =>
            {
                self.punt(packet, at.src, port);
            }
            // Fragments are kept: nobody's take no room.
            Parsed::FirstFragment(at) | Parsed::LaterFragment(at)
                if self.snapshot.address(at.dst).is_none() =>
            {
                self.discard(packet, DropReason::NotLocalAddress);
            }
            Parsed::FirstFragment(at) | Parsed::LaterFragment(at)
                if let Some(fault) = self.source_fault(at.src, port) =>
            {
                self.discard(packet, fault);
            }
            Parsed::FirstFragment(at) => self.first_fragment(packet, at, port),
            Parsed::Flow(at) => self.no_connection(packet, at, port),
            Parsed::Icmp(at) => self.icmp(packet, at, port),
            Parsed::Arp => self.arp(packet, port),
            Parsed::LaterFragment(at) => self.later_fragment(packet, at, port),
            Parsed::OtherProtocol(at) => self.other_protocol(packet, at, port),
            Parsed::Drop(DropReason::VlanTagged) => self.tagged(packet, port),
            Parsed::Drop(reason) => self.discard(packet, *reason),
        }
    }

    /// A TCP segment or UDP datagram, and its connection.
    #[inline(always)]
    pub(super) fn flow(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        found: Option<(SlotIx, Direction)>,
        port: PortIx,
    ) {
        // A copy of the path for each direction: one branch instead of five.
        match found {
            Some((slot, Direction::Forward)) => {
                self.pass(packet, at, slot, Direction::Forward, port);
            }
            Some((slot, Direction::Reverse)) => {
                self.pass(packet, at, slot, Direction::Reverse, port);
            }
            None => self.no_connection(packet, at, port),
        }
    }

    /// A packet of a connection.
    ///
    /// The fast path is a plain data segment or acknowledgement of an
    /// established connection, and all the rest of it is here: in each function
    /// that asks the table for the entry, the compiler reads its place anew.
    #[inline(always)]
    fn pass(
        &mut self,
        mut packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        direction: Direction,
        port: PortIx,
    ) {
        let entry = self.table.get_mut(slot);
        if at.protocol == proto::TCP {
            let Some(segment) = segment_of(packet.bytes(), at) else {
                return self.discard(packet, DropReason::TcpMalformed);
            };
            if !tcp::established_fast(entry, direction, &segment) {
                return self.tcp_decide(packet, at, slot, direction, port, segment);
            }
        } else if entry.is_first_answer(direction) {
            return self.first_answer(packet, at, slot, port);
        }
        entry.last_seen = self.now.stamp();

        let frame = packet.bytes_mut();
        let is_plain = !entry.has(flag::NARROW)
            && at.flags.is_atomic()
            && at.ip_len <= self.min_mtu
            && frame.get(L3 + 8).is_some_and(|&ttl| ttl > 1);
        // A next hop that has to be looked up is none that is known.
        let known = self.neighbors.l2_towards(hop_kept(entry, direction));
        let (true, Some((l2, out))) = (is_plain, known) else {
            return self.forward(packet, at, slot, direction, port);
        };
        if let Err(reason) = Rewriting::of(entry, direction).apply(frame, at, direction) {
            return self.discard(packet, reason);
        }
        if !write_ethernet(frame, l2) {
            return self.discard(packet, DropReason::EthernetShort);
        }
        let server = entry.server;
        self.count(server, direction, at.ip_len);
        self.transmit(packet, out);
    }

    /// Everything but the fast path: handshake, tear-down, and what does not
    /// fit the connection's state.
    #[inline(never)]
    pub(super) fn tcp_decide(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        direction: Direction,
        port: PortIx,
        mut segment: Segment,
    ) {
        if self.table.get(slot).state == State::Redirect {
            return self.redirect(packet, slot, port);
        }
        read_options(packet.bytes(), at, &mut segment);
        // What may end a connection is believed only if its receiver would
        // believe it too.
        let packet = if segment.flags.is_plain_ack() {
            packet
        } else if let Some(packet) = self.verified(packet, at) {
            packet
        } else {
            return;
        };
        let entry = self.table.get_mut(slot);
        let before = entry.state;
        if before == State::Closed && !segment.flags.has(Flags::SYN) {
            return self.after_the_end(packet, at, slot, &segment);
        }
        let verdict = match direction {
            Direction::Forward => tcp::forward(entry, &segment),
            Direction::Reverse => tcp::reverse(entry, &segment),
        };
        match verdict {
            Verdict::Pass { rearm } => {
                entry.last_seen = self.now.stamp();
                if rearm {
                    self.state_changed(slot, before);
                    self.arm_held(slot);
                }
                self.forward(packet, at, slot, direction, port);
                self.replay_when_over(slot);
            }
            Verdict::Retransmitted => self.syn_again(packet, at, slot, port),
            Verdict::NewAttempt | Verdict::Reuse => {
                if let Some(fault) = self.source_fault(at.src, port) {
                    return self.discard(packet, fault);
                }
                self.stats.event(Event::ClientPortReused).add(1);
                self.retire(slot);
                self.no_connection(packet, at, port);
            }
            Verdict::SynOnEstablished => {
                self.stats.event(Event::SynOnEstablished).add(1);
                self.hold_syn(slot, &packet, at);
                self.arm_held(slot);
                self.forward(packet, at, slot, direction, port);
            }
            Verdict::AnswersHeldSyn => self.server_forgot(packet, at, slot, &segment),
            Verdict::StaleServer => self.stale_server(packet, at, slot, port, &segment),
            Verdict::Refused => self.server_refused(packet, at, slot, before, port),
            Verdict::Unmatched => self.late_answer(packet, at, slot, port, &segment),
            Verdict::Drop(reason) => self.discard(packet, reason),
        }
    }

    /// A segment of a connection that a RST has ended: its sender may not have
    /// heard of it, and learns it now instead of from its retransmission timer.
    fn after_the_end(&mut self, packet: Io::Buf, at: &Packet, slot: SlotIx, segment: &Segment) {
        let entry = self.table.get(slot);
        let server = entry.server;
        let reason = if entry.marks & mark::ENDED_HERE != 0 {
            DropReason::ConnectionEnded
        } else {
            DropReason::ConnectionReset
        };
        let gone = self
            .snapshot
            .server(server)
            .is_none_or(|server| !server.state.keeps_connections());
        let event = if gone {
            Event::ResetServerGone
        } else {
            Event::ResetEnded
        };
        self.reset_sender(at, segment, event);
        self.discard(packet, reason);
    }

    /// Translates any packet of a connection and sends it on its way.
    #[inline(never)]
    pub(super) fn forward(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        direction: Direction,
        port: PortIx,
    ) {
        let hop = match self.hop_of(slot, direction) {
            Ok(hop) => hop,
            Err(reason) => return self.discard(packet, reason),
        };
        if packet.bytes().get(L3 + 8).is_none_or(|&ttl| ttl <= 1) {
            return self.ttl_expired(packet, at, port);
        }
        self.translate(packet, at, slot, direction, hop);
    }

    /// Counts a packet of `ip_len` bytes to or from a real server.
    #[inline(always)]
    pub(super) fn count(&self, server: ServerIx, direction: Direction, ip_len: u16) {
        let counters = self.stats.server(server);
        match direction {
            Direction::Forward => {
                counters.in_packets.add(1);
                counters.in_bytes.add(u64::from(ip_len));
            }
            Direction::Reverse => {
                counters.out_packets.add(1);
                counters.out_bytes.add(u64::from(ip_len));
            }
        }
    }

    /// A TCP or UDP packet whose tuple is in no connection.
    #[inline(never)]
    pub(super) fn no_connection(&mut self, packet: Io::Buf, at: &Packet, port: PortIx) {
        let kind = self.snapshot.address(at.dst);
        let is_kernels =
            matches!(kind, None | Some(AddressKind::Port)) && self.is_kernels(at.dst, port);
        if kind.is_some()
            && !is_kernels
            && let Some(fault) = self.source_fault(at.src, port)
        {
            return self.discard(packet, fault);
        }
        match kind {
            Some(AddressKind::Vip) => self.for_service(packet, at, port),
            Some(AddressKind::Local) => {
                self.refuse(
                    packet,
                    at,
                    DropReason::UnknownFlowServer,
                    Event::ResetUnknownServer,
                );
            }
            _ if is_kernels => self.punt(packet, at.src, port),
            Some(AddressKind::Port) => {
                self.refuse(packet, at, DropReason::NoService, Event::ResetRefused);
            }
            None => self.discard(packet, DropReason::NotLocalAddress),
        }
    }

    /// A TCP or UDP packet for a VIP, its source looked at.
    pub(super) fn for_service(&mut self, packet: Io::Buf, at: &Packet, port: PortIx) {
        let Some(service_ix) = self.snapshot.service_at(at.dst, at.dst_port, at.protocol) else {
            return self.refuse(packet, at, DropReason::NoService, Event::ResetRefused);
        };
        if at.protocol == proto::UDP {
            let Some(packet) = self.verified(packet, at) else {
                return;
            };
            return self.open(packet, at, service_ix, port, Default::default());
        }
        let Some(mut segment) = segment_of(packet.bytes(), at) else {
            return self.discard(packet, DropReason::TcpMalformed);
        };
        if segment.flags.is_nonsense() {
            return self.discard(packet, DropReason::TcpBadFlags);
        }
        if segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) {
            let Some(packet) = self.verified(packet, at) else {
                return;
            };
            read_options(packet.bytes(), at, &mut segment);
            return self.open(packet, at, service_ix, port, segment.into());
        }
        self.stats.service(service_ix).unknown_flow.add(1);
        let answers = self
            .snapshot
            .service(service_ix)
            .is_some_and(|service| service.unknown_flow == Answer::Reset);
        if answers {
            self.refuse(
                packet,
                at,
                DropReason::UnknownFlowClient,
                Event::ResetUnknownClient,
            );
        } else {
            self.discard(packet, DropReason::UnknownFlowClient);
        }
    }

    /// Who sees a packet first, where that is not left to the NIC: its flow's
    /// owner. The fragments of a datagram meet at one worker, as they do behind a
    /// NIC that hashes them by addresses: not every driver keeps them together.
    #[inline(always)]
    fn steered(&self, parsed: &Parsed) -> Option<WorkerIx> {
        match parsed {
            Parsed::Flow(at) => Some(self.owner(at)),
            Parsed::FirstFragment(at) | Parsed::LaterFragment(at) => {
                Some(self.snapshot.steering.owner(at.src, at.dst, 0, 0))
            }
            _ => None,
        }
    }

    /// The worker that owns the flow of a packet as it was received.
    #[inline(always)]
    pub(super) fn owner(&self, at: &Packet) -> WorkerIx {
        self.snapshot
            .steering
            .owner(at.src, at.dst, at.src_port, at.dst_port)
    }

    /// Gives a packet to the worker that owns its flow.
    #[inline]
    pub(super) fn hand_over(&mut self, owner: WorkerIx, port: PortIx, packet: Io::Buf) {
        self.hand_over_as(owner, port, packet, false);
    }

    /// Gives a packet to another worker.
    pub(super) fn hand_over_as(
        &mut self,
        owner: WorkerIx,
        port: PortIx,
        packet: Io::Buf,
        redirected: bool,
    ) {
        let Some(ring) = self.handover.to.get(owner.ix()) else {
            return self.discard(packet, DropReason::HandoverFull);
        };
        let handed = HandedOver {
            port,
            packet,
            redirected,
        };
        match ring.push(handed) {
            Ok(()) => self.stats.handed_over.add(1),
            Err(HandedOver { packet, .. }) => self.discard(packet, DropReason::HandoverFull),
        }
    }

    /// The next hop of one side of a connection.
    #[inline(always)]
    pub(super) fn hop_of(
        &mut self,
        slot: SlotIx,
        direction: Direction,
    ) -> Result<NeighborIx, DropReason> {
        let kept = hop_kept(self.table.get(slot), direction);
        if kept == Entry::NO_NEIGHBOR {
            return self.find_hop(slot, direction);
        }
        Ok(kept)
    }

    /// Looks the next hop of one side of a connection up, and keeps it in the
    /// entry, unless it may have to make way for another.
    #[inline(never)]
    fn find_hop(&mut self, slot: SlotIx, direction: Direction) -> Result<NeighborIx, DropReason> {
        let entry = self.table.get(slot);
        let destination = match direction {
            Direction::Forward => entry.server_addr,
            Direction::Reverse => entry.client,
        };
        let hop = self.hop_towards(destination, Room::Any)?;
        if !self.neighbors.keep(hop) {
            return Ok(hop);
        }
        let entry = self.table.get_mut(slot);
        match direction {
            Direction::Forward => entry.server_hop = hop,
            Direction::Reverse => entry.client_hop = hop,
        }
        Ok(hop)
    }
}

/// The tuple of a packet as it was received.
#[inline(always)]
pub(super) fn tuple_of(at: &Packet) -> FlowTuple {
    FlowTuple {
        src: at.src,
        dst: at.dst,
        src_port: at.src_port,
        dst_port: at.dst_port,
        protocol: at.protocol,
    }
}

/// The next hop of one side of a connection, where it was looked up already.
#[inline(always)]
fn hop_kept(entry: &Entry, direction: Direction) -> NeighborIx {
    match direction {
        Direction::Forward => entry.server_hop,
        Direction::Reverse => entry.client_hop,
    }
}

/// What becomes of a packet's addresses and ports.
#[inline(always)]
pub(super) fn mapping_of(entry: &Entry, direction: Direction) -> Mapping {
    match direction {
        Direction::Forward => to_server(entry),
        Direction::Reverse => to_client(entry),
    }
}

/// What becomes of a packet's headers.
pub(super) struct Rewriting {
    pub(super) mapping: Mapping,
    shift: Shift,
    shifts: bool,
}

impl Rewriting {
    #[inline(always)]
    pub(super) fn of(entry: &Entry, direction: Direction) -> Self {
        Self {
            mapping: mapping_of(entry, direction),
            shift: Shift {
                seq: entry.seq_delta,
                ts: entry.ts_delta,
            },
            shifts: entry.flags & (flag::TRANSLATE_SEQ | flag::TRANSLATE_TS) != 0,
        }
    }

    /// Rewrites a frame's headers.
    #[inline(always)]
    pub(super) fn apply(
        &self,
        frame: &mut [u8],
        at: &Packet,
        direction: Direction,
    ) -> Result<(), DropReason> {
        let l4 = usize::from(at.l4) - L3;
        let ip = frame.get_mut(L3..).ok_or(DropReason::Ipv4Malformed)?;
        if rewrite::translate(ip, l4, at.protocol, &self.mapping).is_err() {
            return Err(DropReason::Ipv4Malformed);
        }
        if self.shifts
            && at.protocol == proto::TCP
            && shift_segment(ip, l4, direction, self.shift).is_err()
        {
            return Err(DropReason::TcpMalformed);
        }
        Ok(())
    }
}

/// Towards the real server: from the local address.
#[inline(always)]
pub(super) fn to_server(entry: &Entry) -> Mapping {
    Mapping {
        src: entry.local,
        dst: entry.server_addr,
        src_port: entry.local_port,
        dst_port: entry.server_port,
    }
}

/// Towards the client: from the VIP.
#[inline(always)]
pub(super) fn to_client(entry: &Entry) -> Mapping {
    Mapping {
        src: entry.vip,
        dst: entry.client,
        src_port: entry.vip_port,
        dst_port: entry.client_port,
    }
}

/// A segment's fixed fields.
#[inline(always)]
pub(super) fn segment_of(bytes: &[u8], at: &Packet) -> Option<Segment> {
    let begin = usize::from(at.l4);
    let tcp = bytes.get(begin..begin + 20)?.first_chunk::<20>()?;
    let word = |i: usize| u32::from_be_bytes([tcp[i], tcp[i + 1], tcp[i + 2], tcp[i + 3]]);
    let header_len = u32::from(tcp[12] >> 4) * 4;
    let transport_len = u32::from(at.ip_len) - (u32::from(at.l4) - L3 as u32);
    Some(Segment {
        flags: Flags(tcp[13]),
        seq: word(4),
        ack: word(8),
        // The parser has seen to it that the header ends within the packet.
        payload_len: transport_len.wrapping_sub(header_len),
        ..Segment::default()
    })
}

/// The options the state machine wants of all but plain segments.
pub(super) fn read_options(bytes: &[u8], at: &Packet, segment: &mut Segment) {
    let Some(tcp) = bytes.get(usize::from(at.l4)..) else {
        return;
    };
    let Ok(view) = TcpView::new_checked(tcp) else {
        return;
    };
    for (_, option) in view.options().flatten() {
        match option {
            TcpOption::WindowScale(shift) => segment.window_scale = Some(shift),
            TcpOption::Timestamps { value, .. } => segment.timestamp = Some(value),
            _ => {}
        }
    }
}

/// Moves a segment into the other side's numbering.
#[inline(never)]
fn shift_segment(
    ip: &mut [u8],
    l4: usize,
    direction: Direction,
    shift: Shift,
) -> Result<(), rewrite::Truncated> {
    let segment = ip.get_mut(l4..).ok_or(rewrite::Truncated)?;
    match direction {
        Direction::Forward => rewrite::shift_forward(segment, shift),
        Direction::Reverse => rewrite::shift_reverse(segment, shift),
    }
}
