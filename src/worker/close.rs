//! How connections change state and end: timers, sweeps, eviction.

use arrayvec::ArrayVec;

use super::Worker;
use super::attempt::Cause;
use crate::conntrack::entry::{Entry, State, flag, mark};
use crate::conntrack::timeouts::{Timeouts, timeout_for};
use crate::ids::{ServerIx, SetIx, SlotIx};
use crate::io::BurstIo;
use crate::service::snapshot::{Answer, Snapshot};
use crate::stats::{EndCause, Event, ServiceCounters};
use crate::time::Stamp;
use crate::wire::proto;

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

/// Walks over the whole table after the configuration changed: for each, the
/// next slot to look at, or `None` where there is nothing to do. None of them
/// waits for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sweeps {
    /// Servers went: their connections end.
    servers: Option<u32>,
    /// Timeouts changed: timers are armed anew.
    timers: Option<u32>,
}

impl Sweeps {
    /// Starts those walks for which there is a reason, from the beginning.
    pub(super) fn start(&mut self, servers: bool, timers: bool) {
        if servers {
            self.servers = Some(0);
        }
        if timers {
            self.timers = Some(0);
        }
    }
}

/// The timeouts of an entry's service; the defaults where the service is gone.
pub(super) fn timeouts_of<'a>(snapshot: &'a Snapshot, entry: &Entry) -> &'a Timeouts {
    snapshot
        .service_of(entry.server)
        .map_or(&Timeouts::DEFAULT, |service| &service.timeouts)
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
            self.syn_answered(slot);
        }
        self.book(slot, before);
    }

    /// Counts a connection that is over.
    pub(super) fn count_end(&self, server: ServerIx, cause: EndCause) {
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
        let is_borrowed = entry.is_marked(mark::BORROWED);
        if before.is_half_open() && !state.is_half_open() {
            self.stats.half_open.sub(1);
            if is_borrowed {
                self.loans.half_open_ends();
            }
        }
        if before == State::SynSent {
            self.release_syn(slot);
        }
        self.count_active(slot);
        if state.rests()
            && !before.rests()
            && !is_borrowed
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
        let idle = entry.last_seen.plus(timeout_for(entry, timeouts));
        let first = match entry.state {
            State::UdpOneWay => self.doubt_deadline(entry),
            _ => self.retry_deadline(entry),
        };
        match first {
            Some(first) if idle.reached(first) => first,
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
        self.rest(slot);
    }

    /// The entry leaves the client side of the index, and keeps its local port
    /// while that rests.
    pub(super) fn rest(&mut self, slot: SlotIx) {
        self.forgo_reset(slot);
        let before = self.table.get(slot).state;
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
        let turn = resets.and_then(|event| self.reset_ends(&entry, event));
        self.release_syn(slot);
        let ended = self.table.get_mut(slot);
        ended.state = State::Closed;
        ended.marks |= mark::ENDED_HERE;
        ended.last_seen = self.now.stamp();
        self.book(slot, entry.state);
        if let Some(turn) = turn {
            self.owe_reset(slot, turn);
        }
    }

    /// Frees an entry and its local port.
    pub(super) fn remove(&mut self, slot: SlotIx) {
        let entry = *self.table.get(slot);
        self.remove_keeping_port(slot);
        self.give_back_of(&entry);
    }

    /// Frees an entry whose local port has gone on to another.
    pub(super) fn remove_keeping_port(&mut self, slot: SlotIx) {
        self.release_syn(slot);
        self.forgo_reset(slot);
        let entry = self.table.get(slot);
        if entry.state.is_half_open() {
            self.stats.half_open.sub(1);
            if entry.is_marked(mark::BORROWED) {
                self.loans.half_open_ends();
            }
        }
        let counters = self.stats.server(entry.server);
        if entry.has(flag::COUNTED_ACTIVE) {
            counters.active.sub(1);
        } else {
            counters.inactive.sub(1);
        }
        self.table.remove(slot);
    }

    /// The local port of an entry that goes is free again.
    pub(super) fn give_back_of(&mut self, entry: &Entry) {
        if entry.is_marked(mark::BORROWED) {
            return self.return_borrowed(entry);
        }
        self.give_back(entry.set, entry.local_port);
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
                // Re-armed timers count as work; otherwise an idle worker would
                // sleep too long and fire the next ones late.
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
            // What is to become of a held SYN, of an owed RST or of an unanswered
            // datagram comes first; `fire` tells which.
            let first = entry.flags & (flag::SYN_HELD | flag::RESET_OWED) != 0;
            if first || matches!(entry.state, State::SynSent | State::UdpOneWay) {
                return now;
            }
            entry
                .last_seen
                .plus(timeout_for(entry, timeouts_of(snapshot, entry)))
        })
    }

    fn fire(&mut self, slot: SlotIx) {
        let entry = *self.table.get(slot);
        if entry.state == State::Redirect {
            return self.check_loan(slot, &entry);
        }
        if entry.state == State::SynSent {
            if self.retry(slot) {
                return;
            }
        } else if entry.has(flag::SYN_HELD) {
            self.release_syn(slot);
        } else if entry.has(flag::RESET_OWED) && self.pay_reset(slot, &entry) {
            return;
        } else if entry.state == State::UdpOneWay {
            self.doubt_server(slot);
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
        self.stats.event(Event::IdledOut).add(1);
        if let Some(counters) = self.service_counters(entry.server) {
            counters.idled_out.add(1);
        }
        self.end(slot, EndCause::Idle, resets.then_some(Event::ResetIdle));
    }

    /// Goes on with the walks over the table that are under way.
    pub(super) fn sweep(&mut self) -> usize {
        if self.sweeps == Sweeps::default() {
            return 0;
        }
        if let Some(from) = self.sweeps.timers {
            self.sweeps.timers = self.sweep_timers(from);
        }
        if let Some(from) = self.sweeps.servers {
            self.sweeps.servers = self.sweep_servers(from);
        }
        1
    }

    /// Arms the timers of a stretch of the table anew; the slot that the next
    /// stretch begins with, if there is one.
    fn sweep_timers(&mut self, from: u32) -> Option<u32> {
        let end = self.table.slots_end().0;
        let to = from.saturating_add(SWEEP_PER_POLL).min(end);
        for slot in (from..to).map(SlotIx) {
            let entry = self.table.get(slot);
            // Others have a timer that comes earlier, and sets this one.
            let earlier = entry.flags & (flag::SYN_HELD | flag::RESET_OWED) != 0;
            if entry.state != State::Free && !earlier {
                self.arm(slot);
            }
        }
        (to < end).then_some(to)
    }

    /// Ends the connections of a stretch of the table whose servers are gone.
    fn sweep_servers(&mut self, from: u32) -> Option<u32> {
        let end = self.table.slots_end().0;
        let to = from.saturating_add(SWEEP_PER_POLL).min(end);
        let mut ended = 0;
        for slot in (from..to).map(SlotIx) {
            let entry = self.table.get(slot);
            // A port that is lent comes back when its borrower has ended the
            // connection.
            let is_none = matches!(entry.state, State::Free | State::Redirect);
            if is_none || entry.state.is_over() || !self.is_gone(entry.server) {
                continue;
            }
            if ended == ENDS_PER_POLL {
                return Some(slot.0);
            }
            ended += 1;
            // One that no server has accepted yet need not fail.
            if !self.move_held(slot, Cause::ServerGone) {
                self.end(slot, EndCause::ServerGone, Some(Event::ResetServerGone));
            }
        }
        (to < end).then_some(to)
    }

    /// Whether a server's connections are to end.
    pub(super) fn is_gone(&self, server: ServerIx) -> bool {
        self.snapshot
            .server(server)
            .is_none_or(|server| !server.state.keeps_connections())
    }
}
