//! How connections change state and end: timers, sweeps, eviction.

use arrayvec::ArrayVec;

use super::Worker;
use crate::conntrack::entry::{Entry, State, flag, proto};
use crate::conntrack::timeouts::{Timeouts, timeout_of};
use crate::ids::{ServerIx, SetIx, SlotIx};
use crate::io::BurstIo;
use crate::service::snapshot::{Answer, Snapshot};
use crate::stats::{EndCause, Event, ServiceCounters};
use crate::time::{Millis, Stamp};

/// Timers looked at between two bursts: some microseconds' work.
const TIMERS_PER_POLL: u32 = 64;

/// Timers whose memory is loaded at a time.
const TIMERS_AT_A_TIME: usize = 16;

/// Table slots a sweep looks at between two bursts.
const SWEEP_PER_POLL: u32 = 256;

/// Connections a sweep ends between two bursts; each may take two packets.
const ENDS_PER_POLL: usize = 32;

/// How long a SYN with a new sequence number is held on an established
/// connection: if its client had lost the connection, its RST comes within a
/// round trip, and after a second it would send the SYN again anyway.
const HELD_ON_ESTABLISHED_MS: u64 = 1_000;

/// Table slots eviction looks at for a connection that may go.
const EVICT_REACH: u32 = 256;

/// Between two turns of connections whose RSTs wait for their rate limit,
/// milliseconds.
const TURN_MS: u64 = 20;

/// When connections that idle out faster than their RSTs may be sent get their
/// turn: each one an appointment, as many at a time as the rate allows. Asking
/// all of them again and again would keep every other timer waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns {
    /// The last turn that was given.
    at: Millis,
    /// How many more it has room for.
    left: u32,
}

impl Turns {
    /// None given yet.
    pub(super) const fn new(now: Millis) -> Self {
        Self { at: now, left: 0 }
    }

    /// The next turn after `now`, at so many RSTs a second.
    fn next(&mut self, now: Millis, per_second: u32) -> Millis {
        let over = now.reached(self.at);
        if over || self.left == 0 {
            let last = if over { now } else { self.at };
            self.at = last.plus(TURN_MS);
            // Two for each connection.
            let room = u64::from(per_second) * TURN_MS / 2_000;
            self.left = (room as u32).max(1);
        }
        self.left -= 1;
        self.at
    }
}

/// A walk over the whole table after the configuration changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    /// Next slot to look at; `None`: nothing to do.
    cursor: Option<u32>,
    /// Servers went: their connections end.
    servers: bool,
}

impl Sweep {
    /// Starts a walk, or starts it over with more to do.
    pub(super) fn start(&mut self, servers: bool) {
        if servers {
            self.cursor = Some(0);
            self.servers |= servers;
        }
    }
}

/// The timeouts of an entry's service; the defaults where the service is gone.
pub(super) fn timeouts_of(snapshot: &Snapshot, entry: &Entry) -> Timeouts {
    snapshot
        .service_of(entry.server)
        .map_or_else(Timeouts::default, |service| service.timeouts)
}

impl<Io: BurstIo> Worker<Io> {
    /// Books a change of state that a packet made.
    pub(super) fn state_changed(&mut self, slot: SlotIx, before: State) {
        let entry = self.table.get(slot);
        let state = entry.state;
        if state.is_over() && !before.is_over() {
            let cause = match (before, state) {
                (State::SynSent, State::Closed) => EndCause::Refused,
                (_, State::Closed) => EndCause::Reset,
                _ => EndCause::Closed,
            };
            self.count_end(entry.server, cause);
        } else if before == State::SynSent && state == State::SynReceived {
            let (server, took) = (entry.server, self.now.since(entry.created) as u32);
            if let Some(counters) = self.service_counters(server) {
                counters.connect.note(took);
            }
            self.server_answered(server);
        }
        self.book(slot, before);
    }

    /// Counts a connection that is over.
    fn count_end(&self, server: ServerIx, cause: EndCause) {
        if let Some(counters) = self.service_counters(server) {
            counters.ended(cause).add(1);
        }
    }

    /// The counters of a server's service, also where that is out of the
    /// configuration.
    fn service_counters(&self, server: ServerIx) -> Option<&ServiceCounters> {
        let server = self.snapshot.server(server)?;
        Some(self.stats.service(server.service))
    }

    /// Brings gauges, the port's rest and the timer in line with a new state.
    fn book(&mut self, slot: SlotIx, before: State) {
        let entry = self.table.get(slot);
        let (state, set, port) = (entry.state, entry.set, entry.local_port);
        if before.is_half_open() && !state.is_half_open() {
            self.stats.half_open.sub(1);
        }
        if before == State::SynSent {
            self.release_syn(slot);
        }
        self.count_active(slot);
        if rests(state)
            && !rests(before)
            && let Some(set) = self.set(set)
        {
            let marked = set.mark_resting(port);
            debug_assert!(marked.is_ok(), "{marked:?}");
        }
        self.arm(slot);
    }

    /// Brings the server's gauges in line with the entry's state.
    pub(super) fn count_active(&mut self, slot: SlotIx) {
        let entry = self.table.get_mut(slot);
        let (counted, active) = (entry.has(flag::COUNTED_ACTIVE), entry.state.is_active());
        if counted == active {
            return;
        }
        entry.flags ^= flag::COUNTED_ACTIVE;
        let counters = self.stats.server(entry.server);
        let (up, down) = if active {
            (&counters.active, &counters.inactive)
        } else {
            (&counters.inactive, &counters.active)
        };
        up.add(1);
        down.sub(1);
    }

    /// Sets the timer of a connection by its state.
    pub(super) fn arm(&mut self, slot: SlotIx) {
        let deadline = self.deadline(self.table.get(slot));
        self.table.arm(slot, deadline);
    }

    /// Has a SYN held on an established connection looked after.
    pub(super) fn arm_held(&mut self, slot: SlotIx) {
        if self.table.get(slot).has(flag::SYN_HELD) {
            self.table
                .arm(slot, self.now.plus(HELD_ON_ESTABLISHED_MS).stamp());
        }
    }

    fn deadline(&self, entry: &Entry) -> Stamp {
        let timeouts = timeouts_of(&self.snapshot, entry);
        let idle = entry.last_seen.plus(timeout_of(entry.state, &timeouts));
        match self.retry_deadline(entry) {
            Some(retry) if idle.reached(retry) => retry,
            _ => idle,
        }
    }

    /// The client has begun a new connection from the same port, or its SYN
    /// goes elsewhere: the entry leaves the client side of the index and keeps
    /// its local port while that rests.
    pub(super) fn retire(&mut self, slot: SlotIx) {
        self.release_syn(slot);
        let entry = self.table.get(slot);
        let before = entry.state;
        if !before.is_over() && before != State::SynSent {
            let entry = *entry;
            self.count_end(entry.server, EndCause::Replaced);
            self.reset_server(&entry, Event::ResetReplaced);
        }
        self.table.unlink_client(slot);
        let entry = self.table.get_mut(slot);
        entry.state = State::Resting;
        entry.last_seen = self.now.stamp();
        self.book(slot, before);
    }

    /// Ends a connection that is not over yet, with a RST to both ends or
    /// without. A TCP entry stays for a while, to answer what is still on its
    /// way.
    fn end(&mut self, slot: SlotIx, cause: EndCause, resets: Option<Event>) {
        let entry = *self.table.get(slot);
        self.count_end(entry.server, cause);
        if entry.protocol != proto::TCP {
            return self.remove(slot);
        }
        if let Some(event) = resets {
            self.reset_client(&entry, event);
            self.reset_server(&entry, event);
        }
        self.release_syn(slot);
        let ended = self.table.get_mut(slot);
        ended.state = State::Closed;
        ended.last_seen = self.now.stamp();
        self.book(slot, entry.state);
    }

    /// Frees an entry and its local port.
    pub(super) fn remove(&mut self, slot: SlotIx) {
        let entry = self.table.get(slot);
        let (set, port) = (entry.set, entry.local_port);
        self.remove_keeping_port(slot);
        self.give_back(set, port);
    }

    /// Frees an entry whose local port has gone on to another.
    pub(super) fn remove_keeping_port(&mut self, slot: SlotIx) {
        self.release_syn(slot);
        let entry = self.table.get(slot);
        if entry.state.is_half_open() {
            self.stats.half_open.sub(1);
        }
        let counters = self.stats.server(entry.server);
        if entry.has(flag::COUNTED_ACTIVE) {
            counters.active.sub(1);
        } else {
            counters.inactive.sub(1);
        }
        self.table.remove(slot);
    }

    /// A local port is free again.
    pub(super) fn give_back(&mut self, set: SetIx, port: u16) {
        if let Some(set) = self.set(set) {
            let released = set.release(port);
            debug_assert!(released.is_ok(), "{released:?}");
        }
    }

    /// Works off timers that are due: a few at a time, so that what they change,
    /// long out of the caches, is loaded for all of them at once.
    pub(super) fn timers(&mut self) -> usize {
        let mut budget = TIMERS_PER_POLL;
        loop {
            let mut due = ArrayVec::<SlotIx, TIMERS_AT_A_TIME>::new();
            while !due.is_full()
                && let Some(slot) = self.due(&mut budget)
            {
                self.table.prefetch_removal(slot);
                due.push(slot);
            }
            if due.is_empty() {
                // Those that were only put off are work, too: whoever sleeps when
                // there is none would be late for all that come after them.
                return (TIMERS_PER_POLL - budget) as usize;
            }
            for slot in due {
                // One before it may have taken its slot or its port.
                if self.table.is_due(slot) {
                    self.fire(slot);
                }
            }
        }
    }

    fn due(&mut self, budget: &mut u32) -> Option<SlotIx> {
        let snapshot = &self.snapshot;
        let now = self.now.stamp();
        self.table.pop_due(now, budget, |entry| {
            // What is to become of a held SYN comes first; `fire` tells which.
            if entry.has(flag::SYN_HELD) || entry.state == State::SynSent {
                return now;
            }
            entry
                .last_seen
                .plus(timeout_of(entry.state, &timeouts_of(snapshot, entry)))
        })
    }

    fn fire(&mut self, slot: SlotIx) {
        let entry = *self.table.get(slot);
        if entry.state == State::SynSent {
            let retry_due = self
                .retry_deadline(&entry)
                .is_some_and(|retry| self.now.stamp().reached(retry));
            if retry_due {
                self.server_failed(entry.server);
                if self.can_move(slot) {
                    return self.move_syn(slot);
                }
                // Nobody else to ask: the first server may still answer.
                self.release_syn(slot);
            }
        } else if entry.has(flag::SYN_HELD) {
            self.release_syn(slot);
        }
        let deadline = self.deadline(self.table.get(slot));
        if !self.now.stamp().reached(deadline) {
            return self.table.arm(slot, deadline);
        }
        self.expire(slot, &entry);
    }

    fn expire(&mut self, slot: SlotIx, entry: &Entry) {
        if entry.state == State::Closed {
            // Nothing of it is on its way any more, but its local port has not
            // rested as long as after an orderly end.
            return self.retire(slot);
        }
        if entry.state.is_over() {
            return self.remove(slot);
        }
        if entry.protocol != proto::TCP {
            return self.end(slot, EndCause::Idle, None);
        }
        let resets = self
            .snapshot
            .service_of(entry.server)
            .is_none_or(|service| service.on_expire == Answer::Reset);
        if resets && !self.sweep_limit.take(2, self.now) {
            let rate = self.snapshot.limits.resets_per_second;
            let turn = self.turns.next(self.now, rate);
            return self.table.arm(slot, turn.stamp());
        }
        self.stats.event(Event::IdledOut).add(1);
        if let Some(counters) = self.service_counters(entry.server) {
            counters.idled_out.add(1);
        }
        self.end(slot, EndCause::Idle, resets.then_some(Event::ResetIdle));
    }

    /// Goes on with the walk over the table, if one is under way.
    pub(super) fn sweep(&mut self) -> usize {
        let Some(from) = self.sweep.cursor else {
            return 0;
        };
        let to = from
            .saturating_add(SWEEP_PER_POLL)
            .min(self.table.slots_end().0);
        let mut ended = 0;
        for slot in from..to {
            let slot = SlotIx(slot);
            let entry = self.table.get_mut(slot);
            if entry.state == State::Free {
                continue;
            }
            let (server, over) = (entry.server, entry.state.is_over());
            let gone = self
                .snapshot
                .server(server)
                .is_none_or(|server| !server.state.keeps_connections());
            if self.sweep.servers && gone && !over {
                ended += 1;
                if ended > ENDS_PER_POLL {
                    self.sweep.cursor = Some(slot.0);
                    return 1;
                }
                // One that no server has accepted yet need not fail.
                if self.can_move(slot) {
                    self.move_syn(slot);
                    continue;
                }
                if !self.sweep_limit.take(2, self.now) {
                    self.sweep.cursor = Some(slot.0);
                    return 1;
                }
                self.end(slot, EndCause::ServerGone, Some(Event::ResetServerGone));
            }
        }
        if to >= self.table.slots_end().0 {
            self.sweep = Sweep::default();
        } else {
            self.sweep.cursor = Some(to);
        }
        1
    }

    /// Makes room in a full table: the next connection, in table order from
    /// where it last looked, that is half-open or over. One that is established
    /// never goes. False where none was within reach.
    pub(super) fn evict(&mut self) -> bool {
        let end = self.table.slots_end().0;
        for _ in 0..EVICT_REACH.min(end) {
            if self.evict_cursor >= end {
                self.evict_cursor = 0;
            }
            let slot = SlotIx(self.evict_cursor);
            self.evict_cursor += 1;
            let entry = self.table.get(slot);
            let (state, server) = (entry.state, entry.server);
            if state.is_half_open() {
                self.count_end(server, EndCause::Evicted);
                self.stats.event(Event::HalfOpenEvicted).add(1);
            } else if rests(state) {
                self.stats.event(Event::RestingEvicted).add(1);
            } else {
                continue;
            }
            self.remove(slot);
            return true;
        }
        false
    }
}

/// The connection is over, and a new one may take its local port if need be.
fn rests(state: State) -> bool {
    matches!(state, State::TimeWait | State::Closed | State::Resting)
}
