//! RSTs to both ends of a connection that the gateway ends by itself: because
//! it idled out, or because its server is gone.
//!
//! They have a rate of their own, `resets-per-second`. The connection ends at
//! once whatever the rate; what it can't have yet it is owed, for as long as its
//! entry stays in the table to answer what is still on its way. Each gets an
//! appointment, as many at a time as the rate allows: to ask all of them again
//! and again would keep other timers waiting. Those that would come too late are
//! withheld and counted, and an end that never heard of it learns it with its
//! next segment.

use super::Worker;
use super::close::timeouts_of;
use crate::conntrack::entry::{Entry, State, flag};
use crate::ids::SlotIx;
use crate::io::BurstIo;
use crate::stats::Event;
use crate::time::Millis;

/// Between two appointments, milliseconds, where the rate does not want more.
const TURN_MS: u64 = 20;

/// RSTs to the two ends of a connection.
const BOTH: u32 = 2;

/// When connections that are owed their RSTs get their turn.
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

    /// The next turn after `now`, at so many RSTs a second; `None` where that is
    /// more than `within_ms` away.
    fn next(&mut self, now: Millis, per_second: u32, within_ms: u64) -> Option<Millis> {
        let between = TURN_MS.max(1_000_u64 * u64::from(BOTH) / u64::from(per_second.max(1)));
        let over = now.reached(self.at);
        let full = over || self.left == 0;
        let at = match (full, over) {
            (false, _) => self.at,
            (true, true) => now.plus(between),
            (true, false) => self.at.plus(between),
        };
        if per_second == 0 || at.since(now) > within_ms {
            return None;
        }
        if full {
            self.at = at;
            self.left = (u64::from(per_second) * between / (1_000 * u64::from(BOTH))) as u32;
        }
        self.left = self.left.saturating_sub(1);
        Some(at)
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// RST to both ends of a connection that is about to end, if the rate
    /// allows; else the turn that it gets, if there is one in time.
    pub(super) fn reset_ends(&mut self, entry: &Entry, event: Event) -> Option<Millis> {
        // Those with an open handshake are not owed any: the client asks again
        // within a second.
        let half_open = entry.state.is_half_open();
        if self.sweep_limit.take(BOTH, self.now) || half_open && self.may_reset_both(entry) {
            self.reset_client(entry, event);
            self.reset_server(entry, event);
            return None;
        }
        let within = if half_open {
            0
        } else {
            self.answers_for(entry)
        };
        let turn = self.next_turn(within);
        if turn.is_none() {
            self.withhold_resets(entry);
        }
        turn
    }

    /// A connection that has ended gets its RSTs at its turn.
    pub(super) fn owe_reset(&mut self, slot: SlotIx, turn: Millis) {
        self.table.get_mut(slot).flags |= flag::RESET_OWED;
        self.table.arm(slot, turn.stamp());
    }

    /// The turn of a connection that is owed its RSTs has come. True where it
    /// got another one.
    pub(super) fn pay_reset(&mut self, slot: SlotIx, entry: &Entry) -> bool {
        if self.sweep_limit.take(BOTH, self.now) {
            self.table.get_mut(slot).flags &= !flag::RESET_OWED;
            let event = match self.is_gone(entry.server) {
                true => Event::ResetServerGone,
                false => Event::ResetIdle,
            };
            // The numbers are those it had when it ended.
            let entry = Entry {
                state: State::Established,
                ..*entry
            };
            self.reset_client(&entry, event);
            self.reset_server(&entry, event);
            return false;
        }
        let ended = u64::from(self.now.stamp().since(entry.last_seen));
        let turn = self.next_turn(self.answers_for(entry).saturating_sub(ended));
        match turn {
            Some(turn) => self.owe_reset(slot, turn),
            None => self.forgo_reset(slot),
        }
        turn.is_some()
    }

    /// An entry goes; what its connection's ends are still owed is withheld.
    pub(super) fn forgo_reset(&mut self, slot: SlotIx) {
        let entry = self.table.get_mut(slot);
        if entry.has(flag::RESET_OWED) {
            entry.flags &= !flag::RESET_OWED;
            let entry = *entry;
            self.withhold_resets(&entry);
        }
    }

    fn withhold_resets(&self, entry: &Entry) {
        let event = match self.is_gone(entry.server) {
            true => Event::ResetWithheldGone,
            false => Event::ResetWithheldIdle,
        };
        self.stats.event(event).add(BOTH.into());
    }

    fn next_turn(&mut self, within_ms: u64) -> Option<Millis> {
        let rate = self.snapshot.limits.resets_per_second;
        self.turns.next(self.now, rate, within_ms)
    }

    /// How long the entry of a connection that has ended answers for it,
    /// milliseconds.
    fn answers_for(&self, entry: &Entry) -> u64 {
        timeouts_of(&self.snapshot, entry).closed.into()
    }
}

/// The burst of a rate of RSTs to both ends: at least one connection's.
pub(super) fn burst_of(per_second: u32) -> u32 {
    match per_second {
        0 => 0,
        rate => rate.max(BOTH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_at_the_rate_and_in_time() {
        for per_second in [1, 2, 10, 100, 1_000, 10_000] {
            let start = Millis(5_000);
            let mut turns = Turns::new(start);
            let given = std::iter::from_fn(|| turns.next(start, per_second, 10_000));
            let given: Vec<Millis> = given.take(1_000_000).collect();
            let last = *given.last().expect("one");
            assert!(last.since(start) <= 10_000, "{per_second}: {last:?}");
            let most = u64::from(per_second) * 10 / 2;
            let count = given.len() as u64;
            assert!(
                (most * 9 / 10..=most.max(1) + 1).contains(&count),
                "{per_second}: {count}"
            );
        }
        assert_eq!(Turns::new(Millis(0)).next(Millis(0), 0, 10_000), None);
    }
}
