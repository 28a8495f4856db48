//! Two real endpoints talk through the tracker over a network that loses,
//! duplicates and reorders on both sides of it.
//!
//! Properties: the tracker refuses nothing that the receiver would act on; it
//! never takes one connection for two; when both ends are done, so is it; and
//! when the gateway ends the connection, both ends believe it.

use proptest::prelude::*;

use super::*;
use crate::nat::reset::{self, ResetFields};

const MSS: u32 = 1_000;
const WINDOW: u32 = 8 * MSS;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Listen,
    SynSent,
    SynReceived,
    Open,
    Gone,
}

/// An endpoint by RFC 9293 §3.10 and RFC 5961, without congestion control.
#[derive(Clone, PartialEq, Debug)]
struct Endpoint {
    phase: Phase,
    una: u32,
    nxt: u32,
    rcv: u32,
    /// The number of its FIN.
    data_end: u32,
    /// Closes only after the other side did.
    waits: bool,
    fin_sent: bool,
    peer_fin: bool,
    /// What came out of order; `None` where it is discarded.
    queue: Option<Vec<Segment>>,
}

impl Endpoint {
    fn new(phase: Phase, isn: u32, bytes: u32, waits: bool) -> Self {
        Self {
            phase,
            una: isn,
            nxt: isn.wrapping_add(u32::from(phase == Phase::SynSent)),
            rcv: 0,
            data_end: isn.wrapping_add(1).wrapping_add(bytes),
            waits,
            fin_sent: false,
            peer_fin: false,
            queue: None,
        }
    }

    fn keeping(self, keeps: bool) -> Self {
        Self {
            queue: keeps.then(Vec::new),
            ..self
        }
    }

    fn done(&self) -> bool {
        self.phase == Phase::Gone || self.peer_fin && self.fin_sent && self.una == self.nxt
    }

    fn segment(&self, flags: Flags, seq: u32, payload_len: u32) -> Segment {
        Segment {
            flags,
            seq,
            ack: if flags.has(Flags::ACK) { self.rcv } else { 0 },
            payload_len,
            ..Segment::default()
        }
    }

    fn acknowledge(&self, out: &mut Vec<Segment>) {
        out.push(self.segment(Flags::ACK, self.nxt, 0));
    }

    /// Sends from `seq` what fits into one segment, with the FIN if it is due.
    fn data_at(&self, seq: u32) -> Segment {
        let payload_len = MSS.min(self.data_end.wrapping_sub(seq));
        let last = seq.wrapping_add(payload_len) == self.data_end;
        if last && self.closes() {
            self.segment(Flags::FIN | Flags::ACK, seq, payload_len)
        } else {
            self.segment(Flags::ACK, seq, payload_len)
        }
    }

    fn closes(&self) -> bool {
        self.fin_sent || !self.waits || self.peer_fin
    }

    fn send(&mut self, out: &mut Vec<Segment>) {
        if self.phase != Phase::Open || self.fin_sent || self.nxt.wrapping_sub(self.una) >= WINDOW {
            return;
        }
        let segment = self.data_at(self.nxt);
        if segment.sequence_len() > 0 {
            self.fin_sent = segment.flags.has(Flags::FIN);
            self.nxt = segment.end();
            out.push(segment);
        }
    }

    fn time_out(&self, out: &mut Vec<Segment>) {
        match self.phase {
            Phase::Listen | Phase::Gone => {}
            Phase::SynSent => out.push(self.segment(Flags::SYN, self.una, 0)),
            Phase::SynReceived => out.push(self.segment(Flags::SYN | Flags::ACK, self.una, 0)),
            Phase::Open if self.una != self.nxt => out.push(self.data_at(self.una)),
            // Keep-alive (RFC 9293 §3.8.4).
            Phase::Open => out.push(self.segment(Flags::ACK, self.nxt.wrapping_sub(1), 0)),
        }
    }

    fn abort(&mut self, out: &mut Vec<Segment>) {
        out.push(self.segment(Flags::RST, self.nxt, 0));
        self.phase = Phase::Gone;
    }

    fn receive(&mut self, segment: &Segment, out: &mut Vec<Segment>) {
        let has = |mask| segment.flags.has(mask);
        match self.phase {
            Phase::Gone => out.extend(reset::for_unmatched(segment).map(from_fields)),
            Phase::Listen if has(Flags::RST) => {}
            Phase::Listen if has(Flags::ACK) => {
                out.extend(reset::for_unmatched(segment).map(from_fields));
            }
            Phase::Listen => {
                self.rcv = segment.end();
                self.nxt = self.una.wrapping_add(1);
                self.phase = Phase::SynReceived;
                self.time_out(out);
            }
            Phase::SynSent => {
                let good = has(Flags::ACK) && segment.ack == self.nxt;
                if has(Flags::RST) {
                    if good {
                        self.phase = Phase::Gone;
                    }
                } else if has(Flags::ACK) && !good {
                    out.extend(reset::for_unmatched(segment).map(from_fields));
                } else if good && has(Flags::SYN) {
                    self.rcv = segment.end();
                    self.una = segment.ack;
                    self.phase = Phase::Open;
                    self.acknowledge(out);
                }
            }
            Phase::SynReceived | Phase::Open => self.receive_synchronized(segment, out),
        }
    }

    fn receive_synchronized(&mut self, segment: &Segment, out: &mut Vec<Segment>) {
        let has = |mask| segment.flags.has(mask);
        if has(Flags::RST) {
            if segment.seq == self.rcv {
                self.phase = Phase::Gone;
            } else if segment.seq.wrapping_sub(self.rcv) < 65_535 {
                self.acknowledge(out);
            }
            return;
        }
        if has(Flags::SYN) {
            return match self.phase {
                Phase::SynReceived => self.time_out(out),
                _ => self.acknowledge(out),
            };
        }
        if self.phase == Phase::SynReceived {
            if segment.ack != self.nxt {
                return out.extend(reset::for_unmatched(segment).map(from_fields));
            }
            self.phase = Phase::Open;
        }
        let old = !after(segment.end(), self.rcv) && segment.seq != self.rcv;
        if old {
            return self.acknowledge(out);
        }
        if between(self.una, segment.ack, self.nxt) {
            self.una = segment.ack;
        }
        if segment.sequence_len() == 0 {
            return;
        }
        if !after(segment.seq, self.rcv) {
            self.take(segment);
        } else if let Some(queue) = &mut self.queue {
            queue.push(*segment);
        }
        self.acknowledge(out);
    }
}

impl Endpoint {
    /// Takes what is next in the stream, and what waited for it.
    fn take(&mut self, segment: &Segment) {
        self.rcv = segment.end();
        self.peer_fin |= segment.flags.has(Flags::FIN);
        let rcv = self.rcv;
        let next = |kept: &Segment| !after(kept.seq, rcv) && after(kept.end(), rcv);
        let queue = self.queue.as_deref().unwrap_or_default();
        if let Some(kept) = queue.iter().copied().find(next) {
            self.take(&kept);
        }
    }
}

fn from_fields(fields: ResetFields) -> Segment {
    Segment {
        flags: fields.flags,
        seq: fields.seq,
        ack: fields.ack,
        ..Segment::default()
    }
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    numbering: (u32, u32, u32),
    client_bytes: u32,
    server_bytes: u32,
    client_waits: bool,
    server_waits: bool,
    losses: u32,
    duplicates: u32,
    /// Chance in 16 that a packet overtakes others, before and after the
    /// gateway.
    reorder: (u32, u32),
    /// The endpoints keep what comes out of order.
    keep: bool,
    /// Who aborts the connection when this many steps have passed.
    abort: Option<(Direction, u32)>,
    /// The gateway ends the connection after so many steps.
    ended_by_gateway: Option<u32>,
    seed: u64,
}

struct World {
    plan: Plan,
    random: u64,
    entry: Entry,
    client: Endpoint,
    server: Endpoint,
    /// Client to gateway, gateway to server, server to gateway, gateway to
    /// client.
    legs: [Vec<Segment>; 4],
    ended: bool,
}

impl World {
    fn new(plan: Plan) -> Self {
        let (client_isn, server_isn, delta) = plan.numbering;
        let mut world = Self {
            plan,
            random: plan.seed,
            entry: fresh(delta),
            client: Endpoint::new(
                Phase::SynSent,
                client_isn,
                plan.client_bytes,
                plan.client_waits,
            )
            .keeping(plan.keep),
            server: Endpoint::new(
                Phase::Listen,
                server_isn,
                plan.server_bytes,
                plan.server_waits,
            )
            .keeping(plan.keep),
            legs: Default::default(),
            ended: false,
        };
        world.client.time_out(&mut world.legs[0]);
        world
    }

    /// A number below `below` (splitmix64).
    fn draw(&mut self, below: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % u64::from(below)) as u32
    }

    fn quiet(&self) -> bool {
        self.legs.iter().all(Vec::is_empty)
    }

    fn run(&mut self) {
        for step in 0..50_000 {
            let untouched = self.ended && self.server.phase == Phase::Listen;
            if self.quiet() && self.client.done() && (self.server.done() || untouched) {
                return;
            }
            self.interfere(step);
            match self.draw(8) {
                0 => self.client.send(&mut self.legs[0]),
                1 => self.server.send(&mut self.legs[2]),
                _ if self.quiet() => {
                    self.client.time_out(&mut self.legs[0]);
                    self.server.time_out(&mut self.legs[2]);
                    self.client.send(&mut self.legs[0]);
                    self.server.send(&mut self.legs[2]);
                }
                _ => {
                    let leg = self.draw(4) as usize;
                    if let Some(segment) = self.take(leg) {
                        self.arrive(leg, segment);
                    }
                }
            }
        }
        panic!(
            "no end: {:?} {:?} {:?}",
            self.client, self.server, self.entry
        );
    }

    fn interfere(&mut self, step: u32) {
        let open = |endpoint: &Endpoint| endpoint.phase == Phase::Open;
        match self.plan.abort {
            Some((Direction::Forward, at)) if step >= at && open(&self.client) => {
                self.plan.abort = None;
                self.client.abort(&mut self.legs[0]);
            }
            Some((Direction::Reverse, at)) if step >= at && open(&self.server) => {
                self.plan.abort = None;
                self.server.abort(&mut self.legs[2]);
            }
            _ => {}
        }
        if self.plan.ended_by_gateway.is_some_and(|at| step >= at)
            && self.entry.state != State::Free
        {
            self.plan.ended_by_gateway = None;
            self.end_by_gateway();
        }
    }

    /// As the worker does it: a reset to each end, then every segment of the
    /// connection is answered as one that matches none.
    fn end_by_gateway(&mut self) {
        self.ended = true;
        let to_client = reset::to_client(&self.entry);
        let to_server = reset::to_server(&self.entry);
        self.legs[3].extend(to_client.map(from_fields));
        self.legs[1].extend(to_server.map(from_fields));
    }

    fn take(&mut self, leg: usize) -> Option<Segment> {
        let len = self.legs[leg].len() as u32;
        if len == 0 {
            return None;
        }
        let chance = if leg.is_multiple_of(2) {
            self.plan.reorder.0
        } else {
            self.plan.reorder.1
        };
        let overtakes = self.draw(16) < chance;
        let ix = if overtakes {
            self.draw(len) as usize
        } else {
            0
        };
        let fate = self.draw(8);
        if fate == 0 && self.plan.duplicates > 0 {
            self.plan.duplicates -= 1;
            return Some(self.legs[leg][ix]);
        }
        let segment = self.legs[leg].remove(ix);
        if fate == 1 && self.plan.losses > 0 {
            self.plan.losses -= 1;
            return None;
        }
        Some(segment)
    }

    fn arrive(&mut self, leg: usize, segment: Segment) {
        match leg {
            0 => self.pass(Direction::Forward, segment),
            1 => self.server.receive(&segment, &mut self.legs[2]),
            2 => self.pass(Direction::Reverse, segment),
            _ => self.client.receive(&segment, &mut self.legs[0]),
        }
    }

    fn pass(&mut self, direction: Direction, segment: Segment) {
        if self.ended {
            let back = match direction {
                Direction::Forward => 3,
                Direction::Reverse => 1,
            };
            return self.legs[back].extend(reset::for_unmatched(&segment).map(from_fields));
        }
        let mut translated = segment;
        let (leg, verdict) = match direction {
            Direction::Forward => {
                translated.seq = segment.seq.wrapping_add(self.entry.seq_delta);
                if self.entry.state == State::Free {
                    open(&mut self.entry, &segment);
                    self.legs[1].push(translated);
                    return;
                }
                (1, self.decide(direction, &segment))
            }
            Direction::Reverse => {
                translated.ack = segment.ack.wrapping_sub(self.entry.seq_delta);
                (3, self.decide(direction, &segment))
            }
        };
        match verdict {
            Verdict::Pass { .. } | Verdict::Retransmitted => self.legs[leg].push(translated),
            Verdict::Drop(reason) => self.assert_useless(direction, &translated, reason),
            // A late copy of the SYN, after the client reset its half-open
            // connection: another connection, which the client will reset too.
            Verdict::Reuse if !self.entry.has(flag::HANDSHAKE_DONE) => {}
            other => panic!("{other:?} for {segment:?} in {:?}", self.entry),
        }
    }

    fn decide(&mut self, direction: Direction, segment: &Segment) -> Verdict {
        if established_fast(&mut self.entry, direction, segment) {
            return PASS;
        }
        match direction {
            Direction::Forward => forward(&mut self.entry, segment),
            Direction::Reverse => reverse(&mut self.entry, segment),
        }
    }

    fn assert_useless(&self, direction: Direction, segment: &Segment, reason: DropReason) {
        let receiver = match direction {
            Direction::Forward => &self.server,
            Direction::Reverse => &self.client,
        };
        let mut told = receiver.clone();
        told.receive(segment, &mut Vec::new());
        assert_eq!(
            &told, receiver,
            "{reason:?} for {segment:?} in {:?}",
            self.entry
        );
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let isn = || prop_oneof![any::<u32>(), u32::MAX - 9_000..=u32::MAX];
    let bytes = || prop_oneof![Just(0u32), 1u32..20_000];
    (
        (isn(), isn(), prop_oneof![Just(0u32), any::<u32>()]),
        bytes(),
        bytes(),
        0u8..3,
        0u32..12,
        0u32..30,
        (0u32..=16, 0u32..=16),
        (any::<bool>(), any::<u64>()),
    )
        .prop_map(
            |(numbering, client_bytes, server_bytes, waits, losses, duplicates, reorder, last)| {
                let (keep, seed) = last;
                Plan {
                    numbering,
                    client_bytes,
                    server_bytes,
                    client_waits: waits == 1,
                    server_waits: waits == 2,
                    losses,
                    duplicates,
                    reorder,
                    keep,
                    abort: None,
                    ended_by_gateway: None,
                    seed,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn a_connection_closed_by_both_ends_in_time_wait(plan in plan()) {
        let mut world = World::new(plan);
        world.run();
        prop_assert_eq!(world.entry.state, State::TimeWait);
        prop_assert_ne!(world.client.phase, Phase::Gone);
        prop_assert_ne!(world.server.phase, Phase::Gone);
    }

    /// Behind the gateway in order, and nothing kept that came out of order
    /// before it: else the receiver may find a RST exact though it was not when
    /// it passed.
    #[test]
    fn an_aborted_connection_is_over(plan in plan(), forward: bool, at in 0u32..400) {
        let direction = if forward { Direction::Forward } else { Direction::Reverse };
        let mut world = World::new(Plan {
            abort: Some((direction, at)),
            reorder: (plan.reorder.0, 0),
            keep: false,
            ..plan
        });
        world.run();
        prop_assert!(world.entry.state.is_over());
    }

    /// Neither is left to its timers: the run panics unless both come to an end.
    #[test]
    fn both_ends_believe_the_gateway(plan in plan(), at in 0u32..400) {
        let mut world = World::new(Plan { ended_by_gateway: Some(at), ..plan });
        world.run();
    }

    /// With nothing in flight the first reset is exact at both ends.
    #[test]
    fn the_gateways_reset_of_a_quiet_connection_is_exact(plan in plan()) {
        let mut world = World::new(Plan { client_waits: true, server_waits: true, ..plan });
        while !(world.quiet() && world.client.una == world.client.data_end
            && world.server.una == world.server.data_end)
        {
            world.client.send(&mut world.legs[0]);
            world.server.send(&mut world.legs[2]);
            if world.quiet() {
                world.client.time_out(&mut world.legs[0]);
                world.server.time_out(&mut world.legs[2]);
            }
            for leg in [0, 1, 2, 3] {
                if let Some(segment) = world.take(leg) {
                    world.arrive(leg, segment);
                }
            }
        }
        prop_assert_eq!(world.entry.state, State::Established);
        let to_client = reset::to_client(&world.entry).map(from_fields).expect("established");
        let to_server = reset::to_server(&world.entry).map(from_fields).expect("established");
        world.client.receive(&to_client, &mut Vec::new());
        world.server.receive(&to_server, &mut Vec::new());
        prop_assert_eq!((world.client.phase, world.server.phase), (Phase::Gone, Phase::Gone));
    }
}
