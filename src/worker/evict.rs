//! Who gives way where room is short: in a full connection table, and among the
//! local ports towards a server when none is free or resting.
//!
//! Strangers make entries with one packet, so what one packet made is a guest.
//! One order for all such places:
//!
//! 1. connections that are over: nobody misses them;
//! 2. guests, the oldest first: TCP whose handshake is not complete, UDP that
//!    nobody has answered;
//! 3. answered UDP that is idle, the longest first, beyond a floor;
//! 4. guests that are younger than a second, again the oldest first: an honest
//!    one is a guest for a round trip, and must not be the only one left among
//!    answered flows;
//! 5. established TCP: never.
//!
//! `open` and `lend` call it for a packet that makes a connection. Work is
//! bounded: a clock hand over the table, and one over each set of ports. No list is
//! kept. While the //! table is nearly full, the hand goes on between two bursts until it points at
//! somebody who may go, so that the packet that needs the room finds it.

use std::net::Ipv4Addr;

use super::Worker;
use crate::conntrack::entry::{Entry, State};
use crate::conntrack::table::ConnTable;
use crate::ids::{ServerIx, SetIx, SlotIx};
use crate::io::BurstIo;
use crate::stats::{EndCause, Event};
use crate::time::Millis;
use crate::wire::proto;

/// Table slots looked at for a connection that may go.
const TABLE_REACH: u32 = 256;

/// Guests among them after which the oldest is good enough: slots that were
/// freed are used again at once, so the hand meets them about in the order of
/// their age.
const GUESTS: u32 = 8;

/// The same of young ones: an idle flow may be among them.
const YOUNG_GUESTS: u32 = 64;

/// The same of the guests that have a local port.
const YOUNG_PORTS: u32 = 4;

/// A guest is young for so long.
const YOUNG_MS: u64 = 1_000;

/// Ports in use looked at for one that can be taken, of all local addresses.
const PORT_REACH: u32 = 64;

/// Bounds of the time after which an answered UDP flow counts as idle, and that
/// time in proportion to how long the flow has been going: one question and its
/// answer are soon over, while a long call may pause.
const IDLE_MIN_MS: u64 = 500;
const IDLE_MAX_MS: u64 = 60_000;
const IDLE_FACTOR: u64 = 4;

/// Free slots below which a table is nearly full.
const NEARLY_FULL: usize = 64;

/// After a lap without anybody who may go, the next one begins so much later.
const LAP_MS: u64 = 1_000;

/// The clock hand over the table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hand {
    /// The slot it looks at next.
    at: u32,
    /// Somebody who may go was seen there.
    found: bool,
    /// Slots looked at since somebody was last found.
    passed: u32,
    /// No lap begins before.
    rests_until: Millis,
}

/// How readily a connection gives way: later ones first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rank {
    /// What a single packet made, a moment ago.
    Young,
    /// Answered UDP, idle.
    Idle,
    /// What a single packet made.
    Guest,
    /// Over.
    Over,
}

/// Whether a connection may give way, and for how many milliseconds it has had
/// the reason.
fn rank(entry: &Entry, now: Millis) -> Option<(Rank, u64)> {
    let idle = u64::from(now.stamp().since(entry.last_seen));
    let guest = |age: u64| match age < YOUNG_MS {
        true => Some((Rank::Young, age)),
        false => Some((Rank::Guest, age)),
    };
    match entry.state {
        // Its SYN repeated does not make it any younger.
        State::SynSent | State::SynReceived => guest(now.since(entry.created)),
        State::UdpOneWay => guest(idle),
        State::UdpTwoWay => {
            let lived = now.since(entry.created).saturating_sub(idle);
            let floor = (lived.saturating_mul(IDLE_FACTOR)).clamp(IDLE_MIN_MS, IDLE_MAX_MS);
            (idle >= floor).then_some((Rank::Idle, idle))
        }
        state => state.rests().then_some((Rank::Over, idle)),
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// Makes room in a full table. False where nothing within reach may go.
    pub(super) fn evict(&mut self) -> bool {
        let end = self.table.slots_end().0;
        self.hand.found = false;
        let (mut best, mut guests, mut young) = (None, 0, 0);
        for _ in 0..TABLE_REACH.min(end) {
            if self.hand.at >= end {
                self.hand.at = 0;
            }
            let slot = SlotIx(self.hand.at);
            self.hand.at += 1;
            let Some(found) = rank(self.table.get(slot), self.now) else {
                continue;
            };
            if best.is_none_or(|(other, _)| found > other) {
                best = Some((found, slot));
            }
            guests += u32::from(found.0 == Rank::Guest);
            young += u32::from(found.0 == Rank::Young);
            if found.0 == Rank::Over || guests == GUESTS || young == YOUNG_GUESTS {
                break;
            }
        }
        let Some(((rank, _), slot)) = best else {
            return false;
        };
        let entry = self.table.get(slot);
        let event = match (rank, entry.protocol) {
            (Rank::Over, _) => Event::RestingEvicted,
            (_, proto::TCP) => Event::HalfOpenEvicted,
            _ => Event::UdpEvicted,
        };
        self.stats.event(event).add(1);
        if rank != Rank::Over {
            self.count_end(entry.server, EndCause::Evicted);
        }
        self.remove(slot);
        true
    }

    /// Moves the hand on where the table is nearly full, until it points at
    /// somebody who may go.
    #[inline]
    pub(super) fn seek_guest(&mut self) -> usize {
        if !is_nearly_full(&self.table)
            || self.hand.found
            || !self.now.reached(self.hand.rests_until)
        {
            return 0;
        }
        self.seek_from_hand()
    }

    #[cold]
    #[inline(never)]
    fn seek_from_hand(&mut self) -> usize {
        let end = self.table.slots_end().0;
        for _ in 0..TABLE_REACH.min(end) {
            if self.hand.at >= end {
                self.hand.at = 0;
            }
            let entry = self.table.get(SlotIx(self.hand.at));
            if rank(entry, self.now).is_some() {
                self.hand.found = true;
                self.hand.passed = 0;
                return 1;
            }
            self.hand.at += 1;
        }
        self.hand.passed += TABLE_REACH;
        if self.hand.passed >= end {
            self.hand.passed = 0;
            self.hand.rests_until = self.now.plus(LAP_MS);
        }
        1
    }

    /// A local port towards `server` whose connection gives way to another one:
    /// of the ports in use that the hands of the sets meet next, that of the
    /// first guest; else of the UDP flow idle for longest; else of the oldest
    /// young guest. Of TCP, a few young ones do: an honest client that was just
    /// given a port in the hand's way is younger than its neighbours.
    pub(super) fn take_port(
        &mut self,
        server_ix: ServerIx,
        protocol: u8,
        first: usize,
    ) -> Option<(Ipv4Addr, SetIx, u16)> {
        let server = self.snapshot.server(server_ix)?;
        let locals = &server.locals;
        let mut budget = PORT_REACH;
        let mut young = match protocol {
            // None of them is ever idle.
            proto::TCP => YOUNG_PORTS,
            _ => PORT_REACH,
        };
        let mut best = None;
        for i in 0..locals.len() {
            let (local, set) = locals[first.wrapping_add(i) % locals.len()];
            let Some(ports) = self.sets.get_mut(set.ix()).and_then(Option::as_deref_mut) else {
                continue;
            };
            let mut at = ports.hand();
            let mut passed = None;
            while young > 0
                && best.is_none_or(|((rank, _), _)| rank < Rank::Guest)
                && let Some(port) = ports.next_in_use(&mut at, &mut budget)
            {
                let tuple = server.tuple_from(local, port, protocol);
                let hash = self.table.server_hash(&tuple);
                let Some(slot) = self.table.find_server(hash, &tuple) else {
                    continue;
                };
                let Some(found) = rank(self.table.get(slot), self.now) else {
                    continue;
                };
                passed.get_or_insert(at);
                young -= u32::from(found.0 == Rank::Young);
                if best.is_none_or(|(other, _)| found > other) {
                    best = Some((found, slot));
                }
            }
            ports.set_hand(passed.unwrap_or(at));
        }
        let (_, slot) = best?;
        Some(self.take_port_of(slot))
    }

    /// Ends the connection in `slot`, whose local port goes on to another.
    fn take_port_of(&mut self, slot: SlotIx) -> (Ipv4Addr, SetIx, u16) {
        let entry = *self.table.get(slot);
        self.count_end(entry.server, EndCause::Evicted);
        if entry.protocol == proto::TCP {
            self.stats.event(Event::HalfOpenPortTaken).add(1);
            // What the server has of it would be in the new SYN's way.
            if self.may_reset(entry.server_addr, entry.local) {
                self.reset_server(&entry, Event::ResetEvicted);
            } else {
                self.stats.event(Event::ResetWithheld).add(1);
            }
        } else {
            self.stats.event(Event::UdpPortTaken).add(1);
        }
        self.remove_keeping_port(slot);
        (entry.local, entry.set, entry.local_port)
    }
}

/// Whether new entries will soon find no free slot.
#[inline(always)]
pub(super) fn is_nearly_full(table: &ConnTable) -> bool {
    table.len() + NEARLY_FULL > table.capacity()
}
