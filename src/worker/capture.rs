//! Captures: what a worker does for them while there are any, and nothing of
//! it where there are none.
//!
//! While a packet is handled it is *current*: a copy of it as it was received
//! is held, and what becomes of it decides which connection it is of. Sent
//! packets are looked at where they lie in the transmit buffers, before the
//! driver gets them. Plain packets of a connection that no capture wants pass
//! with a look at its entry.

use arrayvec::ArrayVec;

use super::Worker;
use super::message::Reply;
use super::parse::{L3, Packet, Parsed};
use super::path::{Look, tuple_of};
use crate::capture::{self, CAPTURES, Facts, Fate, Moment, Tap, hash_of, reversed};
use crate::conntrack::entry::{Direction, Entry, FlowTuple, State};
use crate::filter::Legs;
use crate::ids::{PortIx, SlotIx};
use crate::io::{BurstIo, PacketBuf};
use crate::service::snapshot::AddressKind;
use crate::stats::DropReason;
use crate::wire::proto;
use crate::wire::tcp::Flags;

use std::net::SocketAddrV4;

/// The packet that is being handled.
#[derive(Clone, Copy, Debug)]
struct Current {
    number: u64,
    dropped: Option<DropReason>,
    /// It caused packets that have been looked at.
    sent: bool,
}

/// What a packet belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belongs {
    legs: Legs,
    direction: Option<Direction>,
    state: State,
    seq_delta: u32,
    ts_delta: u32,
}

impl Belongs {
    fn to(entry: &Entry, direction: Direction) -> Self {
        Self {
            legs: Legs::from(entry),
            direction: Some(direction),
            state: entry.state,
            seq_delta: entry.seq_delta,
            ts_delta: entry.ts_delta,
        }
    }

    fn none(legs: Legs) -> Self {
        Self {
            legs,
            direction: None,
            state: State::Free,
            seq_delta: 0,
            ts_delta: 0,
        }
    }
}

/// A worker's captures.
#[derive(Debug)]
pub(super) struct Captures {
    taps: ArrayVec<Box<Tap>, CAPTURES>,
    /// The highest [`Tap::limit`].
    limit: u64,
    /// How much of each transmit buffer has been looked at.
    seen: Vec<usize>,
    /// Packets looked at closely.
    number: u64,
    /// The packet whose copy is held.
    current: Option<Current>,
    /// The gateway has sent a packet of its own since the last drop.
    answered: bool,
}

impl Captures {
    pub(super) fn new(ports: usize) -> Self {
        Self {
            taps: ArrayVec::new(),
            limit: 0,
            seen: vec![0; ports],
            number: 0,
            current: None,
            answered: false,
        }
    }

    /// Notes that a packet of the gateway's own is about to be sent.
    pub(super) fn note_answer(&mut self) {
        self.answered = true;
    }

    /// Whether there is a capture.
    #[inline(always)]
    pub(super) fn is_on(&self) -> bool {
        !self.taps.is_empty()
    }

    fn set_limit(&mut self) {
        let limits = self.taps.iter().map(|tap| tap.limit());
        self.limit = limits.max().unwrap_or(0);
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// Begins a capture. One too many goes back at once.
    pub(super) fn start_capture(&mut self, tap: Box<Tap>) {
        if !self.captures.is_on() {
            self.skip_sent();
        }
        let id = tap.id;
        match self.captures.taps.try_push(tap) {
            Ok(()) => {
                self.captures.set_limit();
                self.tell(Reply::Capturing(id));
            }
            Err(full) => self.tell(Reply::Captured(full.element())),
        }
    }

    /// Ends a capture.
    pub(super) fn end_capture(&mut self, id: u32) {
        let taps = &mut self.captures.taps;
        if let Some(at) = taps.iter().position(|tap| tap.id == id) {
            let tap = taps.remove(at);
            self.captures.set_limit();
            self.tell(Reply::Captured(tap));
        }
    }

    /// [`Worker::burst`], with captures.
    #[inline(never)]
    pub(super) fn burst_captured(&mut self, port: PortIx) -> usize {
        // What commands sent, such as packets that had waited.
        self.capture_sent(None);
        let count = self.receive(port, |worker, packet, look| {
            worker.see_through_captured(packet, look, port);
        });
        self.skip_sent();
        count
    }

    /// [`Worker::handed_over`], with captures.
    #[inline(never)]
    pub(super) fn handed_over_captured(&mut self) -> usize {
        let count = self.take_handed_over(|worker, packet, look, port| {
            worker.see_through_captured(packet, look, port);
        });
        self.skip_sent();
        count
    }

    /// [`Worker::see_through`], with captures.
    #[inline(always)]
    fn see_through_captured(&mut self, packet: Io::Buf, look: &Look, port: PortIx) {
        if let Parsed::Flow(at) = &look.parsed {
            let tuple = tuple_of(at);
            let found = self.table.find_candidate(look.candidate, look.hash, &tuple);
            if let Some((slot, _)) = found
                && (self.table.get(slot).state == State::Redirect
                    || self.is_unwanted(packet.bytes(), at, slot))
            {
                return self.flow(packet, at, found, port);
            }
        }
        self.capture(packet, look, port);
    }

    /// Whether no capture wants the packet, nor what it causes, for certain.
    #[inline(always)]
    fn is_unwanted(&self, frame: &[u8], at: &Packet, slot: SlotIx) -> bool {
        let entry = self.table.get(slot);
        if u64::from(hash_of(entry)) >= self.captures.limit {
            return true;
        }
        let is_plain = || {
            at.protocol != proto::TCP
                || frame
                    .get(usize::from(at.l4) + 13)
                    .is_some_and(|flags| flags & (Flags::SYN.0 | Flags::RST.0) == 0)
                    && !entry.state.is_half_open()
        };
        let mut taps = self.captures.taps.iter();
        taps.all(|tap| tap.passes_by(entry, is_plain))
    }

    /// Sees a packet through, and looks what becomes of it.
    #[inline(never)]
    fn capture(&mut self, packet: Io::Buf, look: &Look, port: PortIx) {
        self.skip_sent();
        let number = self.captures.next_number();
        self.captures.current = Some(Current {
            number,
            dropped: None,
            sent: false,
        });
        for tap in &mut self.captures.taps {
            tap.matched = false;
            if !tap.filter.drops {
                tap.hold(packet.bytes());
            }
        }
        let before = capture::tuple_of(packet.bytes());
        let before = before.map(|tuple| self.complete(tuple, packet.bytes()));
        let was = before.and_then(|tuple| self.connection_of(&tuple));
        let total_len = packet.total_len() as u32;
        let waiting = self.waiting();
        self.see_through_apart(packet, look, port);

        let belongs = before.map_or(Belongs::none(Legs::NONE), |tuple| {
            self.connection_of(&tuple)
                .or(was)
                .unwrap_or_else(|| Belongs::none(self.legs_received(&tuple)))
        });
        let current = self.captures.current;
        let fate = match current.and_then(|current| current.dropped) {
            Some(reason) => Fate::Dropped(reason),
            None if self.waiting() > waiting => Fate::Waits,
            None if self.has_unseen() || current.is_some_and(|current| current.sent) => Fate::Sent,
            None => Fate::Taken,
        };
        let facts = self.facts(
            number,
            Some(port),
            Moment::Received(fate),
            &belongs,
            total_len,
        );
        for tap in &mut self.captures.taps {
            tap.matched = !tap.filter.drops && tap.wants(&belongs.legs);
            if tap.matched {
                tap.put_held(facts);
            }
            tap.held = false;
        }
        self.capture_sent(Some(&belongs));
        self.captures.current = None;
    }

    fn waiting(&self) -> usize {
        self.neighbors.waiting() + self.fragments.waiting()
    }

    /// Everything in the transmit buffers has been looked at.
    fn skip_sent(&mut self) {
        for (seen, buffer) in self.captures.seen.iter_mut().zip(&self.tx) {
            *seen = buffer.len();
        }
    }

    /// What the driver left in a buffer has been looked at.
    #[cold]
    pub(super) fn flushed(&mut self, port: PortIx) {
        if let Some(seen) = self.captures.seen.get_mut(port.ix()) {
            *seen = self.tx[port.ix()].len();
        }
    }

    fn has_unseen(&self) -> bool {
        let mut buffers = self.captures.seen.iter().zip(&self.tx);
        buffers.any(|(&seen, buffer)| buffer.len() > seen)
    }

    /// Looks at what has come into the transmit buffers. What is of no
    /// connection belongs to what caused it.
    #[inline(never)]
    pub(super) fn capture_sent(&mut self, cause: Option<&Belongs>) {
        for port in 0..self.tx.len() {
            let from = self.captures.seen[port];
            self.captures.seen[port] = self.tx[port].len();
            for at in from..self.tx[port].len() {
                let number = self.captures.next_number();
                if let Some(current) = &mut self.captures.current {
                    current.sent = true;
                }
                let packet = &self.tx[port][at];
                let tuple = capture::tuple_of(packet.bytes());
                let connection = tuple.and_then(|tuple| self.connection_back(&tuple));
                // Resets and ICMP errors about what is of no connection.
                let heir = cause.filter(|_| {
                    connection.is_none() && tuple.is_some_and(|tuple| tuple.protocol != 0)
                });
                let belongs = connection.or(heir.copied()).unwrap_or_else(|| {
                    Belongs::none(tuple.map_or(Legs::NONE, |tuple| self.legs_sent(&tuple)))
                });
                let moment = Moment::Sent(self.captures.current.map(|current| current.number));
                let out = Some(PortIx(port as u8));
                let total_len = packet.total_len() as u32;
                let facts = self.facts(number, out, moment, &belongs, total_len);
                for tap in &mut self.captures.taps {
                    let wanted = match heir {
                        _ if tap.filter.drops => false,
                        Some(_) => tap.matched,
                        None => tap.wants(&belongs.legs),
                    };
                    if wanted {
                        tap.put(self.tx[port][at].bytes(), facts);
                    }
                }
            }
        }
    }

    /// A packet that goes no further.
    #[inline(never)]
    pub(super) fn capture_drop(&mut self, packet: &Io::Buf, reason: DropReason) {
        let number = match &mut self.captures.current {
            Some(current) => {
                current.dropped = Some(reason);
                current.number
            }
            None => self.captures.next_number(),
        };
        let is_held = self.captures.current.is_some();
        let tuple = capture::tuple_of(packet.bytes());
        let tuple = tuple.map(|tuple| self.complete(tuple, packet.bytes()));
        let belongs = tuple.map_or(Belongs::none(Legs::NONE), |tuple| {
            // Some are dropped as they would have been sent.
            self.connection_of(&tuple)
                .or_else(|| self.connection_back(&tuple))
                .unwrap_or_else(|| Belongs::none(self.legs_received(&tuple)))
        });
        let moment = match self.receiving {
            Some(_) => Moment::Received(Fate::Dropped(reason)),
            None => Moment::GivenUp(reason),
        };
        let total_len = packet.total_len() as u32;
        let facts = self.facts(number, self.receiving, moment, &belongs, total_len);
        let answer = match tuple {
            Some(tuple) if self.captures.answered => self.answer_to(&tuple),
            _ => None,
        };
        self.captures.answered = false;
        let answer = answer.map(|port| {
            let number_of_answer = self.captures.next_number();
            let moment = Moment::Sent(Some(number));
            let len = self.tx[port.ix()].last().map_or(0, |sent| sent.total_len());
            let direction = belongs.direction.map(Direction::opposite);
            let belongs = Belongs {
                direction,
                ..belongs
            };
            let facts = self.facts(number_of_answer, Some(port), moment, &belongs, len as u32);
            (port, facts)
        });
        for tap in &mut self.captures.taps {
            // The copy of how it came says more, once it is handled.
            let is_now = tap.filter.drops || !is_held;
            if !is_now || !tap.wants_drop(&belongs.legs, reason) {
                continue;
            }
            tap.put(packet.bytes(), facts);
            if let Some((port, facts)) = answer
                && tap.filter.drops
                && let Some(sent) = self.tx[port.ix()].last()
            {
                tap.put(sent.bytes(), facts);
            }
        }
    }

    /// Where the answer to a packet with this tuple was sent just now.
    fn answer_to(&self, tuple: &FlowTuple) -> Option<PortIx> {
        let back = reversed(tuple);
        let is_answer = |sent: &Io::Buf| {
            // An ICMP error is known by what it quotes, and so goes the same way
            // as the answer that the packet would have got.
            capture::tuple_of(sent.bytes()) == Some(back)
        };
        let at = self
            .tx
            .iter()
            .position(|buffer| buffer.last().is_some_and(is_answer))?;
        Some(PortIx(at as u8))
    }

    /// Handles packets that are not the one being received: `what` happens
    /// outside of any port, and is nobody's fate.
    pub(super) fn aside(&mut self, what: impl FnOnce(&mut Self)) {
        let current = self.captures.current.take();
        let receiving = self.receiving.take();
        what(self);
        self.captures.current = current;
        self.receiving = receiving;
    }

    fn facts(
        &self,
        number: u64,
        port: Option<PortIx>,
        moment: Moment,
        belongs: &Belongs,
        total_len: u32,
    ) -> Facts {
        Facts {
            tsc: self.last_tsc,
            number,
            port,
            moment,
            direction: belongs.direction,
            legs: belongs.legs,
            state: belongs.state,
            seq_delta: belongs.seq_delta,
            ts_delta: belongs.ts_delta,
            total_len,
        }
    }

    /// The ports of a fragment but the first, where they are known.
    fn complete(&self, tuple: FlowTuple, frame: &[u8]) -> FlowTuple {
        if (tuple.src_port, tuple.dst_port) != (0, 0) {
            return tuple;
        }
        match self.ports_of_fragment(frame.get(L3..).unwrap_or(&[]), &tuple) {
            Some((src_port, dst_port)) => FlowTuple {
                src_port,
                dst_port,
                ..tuple
            },
            None => tuple,
        }
    }

    fn connection_of(&self, tuple: &FlowTuple) -> Option<Belongs> {
        let (slot, direction) = self.table.find(self.table.hash(tuple), tuple)?;
        Some(Belongs::to(self.table.get(slot), direction))
    }

    /// The connection of a packet as it is sent.
    fn connection_back(&self, tuple: &FlowTuple) -> Option<Belongs> {
        let received = self.connection_of(&reversed(tuple))?;
        Some(Belongs {
            direction: received.direction.map(Direction::opposite),
            ..received
        })
    }

    /// By whose address it is that a packet was received for.
    fn legs_received(&self, tuple: &FlowTuple) -> Legs {
        let pair = Some([
            SocketAddrV4::new(tuple.src, tuple.src_port),
            SocketAddrV4::new(tuple.dst, tuple.dst_port),
        ]);
        let (front, back) = match self.snapshot.address(tuple.dst) {
            Some(AddressKind::Vip) => (pair, None),
            Some(AddressKind::Local) => (None, pair),
            Some(AddressKind::Port) | None => (pair, pair),
        };
        Legs {
            front,
            back,
            protocol: tuple.protocol,
            either: front.is_some() && back.is_some(),
        }
    }

    /// By whose address it is that a packet was sent from.
    fn legs_sent(&self, tuple: &FlowTuple) -> Legs {
        self.legs_received(&reversed(tuple))
    }
}
