//! Timers of all connections: a hierarchical wheel whose lists run through the
//! entries' `timer_next` and `timer_prev`.
//!
//! Four levels of 64 lists. A list of the lowest level is one tick wide, each
//! level above 64 times as wide:
//!
//! ```text
//! level 0   16 ms each, up to 1 s ahead
//! level 1    1 s  each, up to 65 s
//! level 2   65 s  each, up to 70 min
//! level 3   70 min each, up to 3.1 days; later deadlines start here, too
//! ```
//!
//! A packet does not touch its timer: it writes `last_seen` only. When a list's
//! time has come, the deadline of each of its entries is worked out anew, and
//! those not due yet go to where they now belong. That is also how an entry
//! comes down the levels, and it happens one entry at a time, within the budget
//! of the call: neither a million connections that expire together nor a
//! million that move down can hold a packet up.
//!
//! Only a deadline that moves *forward* (closer) has to be told to the wheel.
//!
//! Owned by [`super::table`]. Never reads a clock, never allocates.

use super::entry::{Entry, NIL};
use crate::arena::prefetch_pair;
use crate::ids::SlotIx;
use crate::time::Stamp;

/// log2 of a tick's milliseconds.
const TICK_SHIFT: u32 = 4;

/// Milliseconds in a tick: how late a timer can be.
pub const TICK_MS: u32 = 1 << TICK_SHIFT;

/// log2 of the lists in a level.
const LEVEL_SHIFT: u32 = 6;
const LISTS: usize = 1 << LEVEL_SHIFT;
const LEVELS: usize = 4;

/// The furthest that a timer can be ahead, in ticks; later ones are looked at
/// then and armed again.
const HORIZON: u32 = (1 << (LEVEL_SHIFT * LEVELS as u32)) - 1;

/// In `timer_prev`: the rest is the number of the list whose first entry this
/// is. `NIL`, which has the bit as well, is no list's number.
const FIRST: u32 = 1 << 31;

/// The timer wheel of one connection table.
#[derive(Clone, Debug)]
pub struct Wheel {
    /// First slot of each list, or `NIL`; level by level.
    heads: [u32; LISTS * LEVELS],
    /// Bit i is set where list i of the level has an entry.
    occupied: [u64; LEVELS],
    /// Begin of the tick that is being worked on. Not after any `now`; a
    /// multiple of [`TICK_MS`]. All earlier lists are empty.
    position: Stamp,
}

impl Wheel {
    /// A wheel without timers, standing at `now`.
    pub fn new(now: Stamp) -> Self {
        Self {
            heads: [NIL; LISTS * LEVELS],
            occupied: [0; LEVELS],
            position: Stamp(now.0 & !(TICK_MS - 1)),
        }
    }

    /// Arms the timer of `slot`, or moves it to another `deadline`. A deadline
    /// that has passed is due at once.
    #[inline]
    pub fn arm(&mut self, entries: &mut [Entry], slot: SlotIx, deadline: Stamp) {
        let list = self.list_for(deadline);
        let Some(entry) = entries.get(slot.ix()) else {
            return;
        };
        if entry.timer_prev == FIRST | list as u32 {
            return;
        }
        if entry.timer_prev != NIL {
            self.cancel(entries, slot);
        }
        let (level, bit) = (list / LISTS, list % LISTS);
        let Some(head) = self.heads.get_mut(list) else {
            return;
        };
        let next = std::mem::replace(head, slot.0);
        if let Some(occupied) = self.occupied.get_mut(level) {
            *occupied |= 1 << bit;
        }
        if let Some(entry) = entries.get_mut(slot.ix()) {
            entry.timer_next = next;
            entry.timer_prev = FIRST | list as u32;
        }
        if let Some(entry) = entries.get_mut(next as usize) {
            entry.timer_prev = slot.0;
        }
    }

    /// Disarms the timer of `slot`; nothing where it is not armed.
    #[inline]
    pub fn cancel(&mut self, entries: &mut [Entry], slot: SlotIx) {
        let Some(entry) = entries.get_mut(slot.ix()) else {
            return;
        };
        let (next, prev) = (entry.timer_next, entry.timer_prev);
        if prev == NIL {
            return;
        }
        entry.timer_next = NIL;
        entry.timer_prev = NIL;
        if prev & FIRST != 0 {
            let list = (prev & !FIRST) as usize;
            if let Some(head) = self.heads.get_mut(list) {
                *head = next;
            }
            if next == NIL
                && let Some(occupied) = self.occupied.get_mut(list / LISTS)
            {
                *occupied &= !(1 << (list % LISTS));
            }
        } else if let Some(entry) = entries.get_mut(prev as usize) {
            entry.timer_next = next;
        }
        if let Some(entry) = entries.get_mut(next as usize) {
            entry.timer_prev = prev;
        }
    }

    /// Takes one slot whose deadline, as `deadline_of` works it out now, has
    /// been reached; its timer is then not armed any more.
    ///
    /// Each entry looked at and each step of the wheel takes one from `budget`.
    /// `None`: nothing is due, or the budget is spent; what is due then waits
    /// for the next call.
    #[inline]
    pub fn pop_due(
        &mut self,
        entries: &mut [Entry],
        now: Stamp,
        budget: &mut u32,
        mut deadline_of: impl FnMut(&Entry) -> Stamp,
    ) -> Option<SlotIx> {
        while now.reached(self.position) && *budget > 0 {
            let Some(slot) = self.first_in_turn() else {
                if !self.step(now) {
                    return None;
                }
                *budget -= 1;
                continue;
            };
            *budget -= 1;
            let next = entries.get(slot.ix())?.timer_next;
            prefetch_pair(entries, next as usize);
            self.cancel(entries, slot);
            let deadline = deadline_of(entries.get(slot.ix())?);
            if now.reached(deadline) {
                return Some(slot);
            }
            self.arm(entries, slot, deadline);
        }
        None
    }

    /// Whether it does not stand at `now` yet, or has an entry there to look at.
    pub fn is_behind(&self, now: Stamp) -> bool {
        now.since(self.position) >= TICK_MS || self.first_in_turn().is_some()
    }

    /// The list for `deadline`, seen from where the wheel stands.
    ///
    /// A level's list comes round when the position reaches its first tick, and
    /// that is never after the deadline. At that moment nothing armed lands in
    /// it again: what is less than a list's width ahead goes to a lower level.
    #[inline(always)]
    fn list_for(&self, deadline: Stamp) -> usize {
        // 0 where it has passed; rounded up, so that none fires early.
        let ahead = deadline.since(self.position).div_ceil(TICK_MS).min(HORIZON);
        let level = (ahead | 1).ilog2() / LEVEL_SHIFT;
        let tick = self.tick().wrapping_add(ahead);
        let list = (tick >> (LEVEL_SHIFT * level)) as usize % LISTS;
        level as usize * LISTS + list
    }

    /// The first slot of the lists whose turn is at the present position,
    /// highest level first: its entries may belong into the lower ones.
    #[inline(always)]
    fn first_in_turn(&self) -> Option<SlotIx> {
        let tick = self.tick();
        // A list of level n has its turn where the tick's lower 6n bits are 0.
        let levels = (tick.trailing_zeros() / LEVEL_SHIFT).min(LEVELS as u32 - 1);
        for level in (0..=levels).rev() {
            let list = (tick >> (LEVEL_SHIFT * level)) as usize % LISTS;
            let head = *self.heads.get(level as usize * LISTS + list)?;
            if head != NIL {
                return Some(SlotIx(head));
            }
        }
        None
    }

    /// Moves on to the next list that has an entry, or to `now`. False where
    /// the wheel stands at `now` already.
    fn step(&mut self, now: Stamp) -> bool {
        let tick = self.tick();
        let mut ticks = now.since(self.position) >> TICK_SHIFT;
        if ticks == 0 {
            return false;
        }
        for (level, &occupied) in self.occupied.iter().enumerate() {
            if occupied == 0 {
                continue;
            }
            let shift = LEVEL_SHIFT * level as u32;
            let turn = tick >> shift;
            // Lists ahead, starting with the one after the present.
            let ahead = occupied.rotate_right((turn + 1) % LISTS as u32);
            let lists = ahead.trailing_zeros() + 1;
            let begin = (turn + lists) << shift;
            ticks = ticks.min(begin - tick);
        }
        self.position = self.position.plus(ticks << TICK_SHIFT);
        true
    }

    /// The present position in ticks. 28 bits, of which the levels use 24: they
    /// go on undisturbed where milliseconds wrap.
    #[inline(always)]
    const fn tick(&self) -> u32 {
        self.position.0 >> TICK_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{TICK_MS, Wheel};
    use crate::conntrack::entry::{Entry, NIL, State};
    use crate::ids::SlotIx;
    use crate::time::Stamp;

    const DAY_MS: u32 = 24 * 60 * 60 * 1000;

    /// Entries whose deadline is kept in `last_seen`, the wheel, and the model:
    /// slot → deadline in unwrapped milliseconds.
    struct Bench {
        entries: Vec<Entry>,
        wheel: Wheel,
        model: BTreeMap<u32, u64>,
        now: u64,
    }

    fn wrapped(ms: u64) -> Stamp {
        Stamp(ms as u32)
    }

    impl Bench {
        fn new(slots: usize, now: u64) -> Self {
            Self {
                entries: vec![Entry::FREE; slots],
                wheel: Wheel::new(wrapped(now)),
                model: BTreeMap::new(),
                now,
            }
        }

        fn arm(&mut self, slot: u32, ahead_ms: u32) {
            let deadline = self.now + u64::from(ahead_ms);
            self.entries[slot as usize].last_seen = wrapped(deadline);
            self.wheel
                .arm(&mut self.entries, SlotIx(slot), wrapped(deadline));
            self.model.insert(slot, deadline);
        }

        /// A packet: the deadline moves away, and the wheel is not told.
        fn touch(&mut self, slot: u32, ahead_ms: u32) {
            let later = self.now + u64::from(ahead_ms);
            if let Some(deadline) = self.model.get_mut(&slot)
                && later > *deadline
            {
                *deadline = later;
                self.entries[slot as usize].last_seen = wrapped(later);
            }
        }

        fn cancel(&mut self, slot: u32) {
            self.wheel.cancel(&mut self.entries, SlotIx(slot));
            self.model.remove(&slot);
        }

        /// Pops within `budget`; checks that none is early; returns how many.
        fn pop(&mut self, mut budget: u32) -> usize {
            let mut popped = 0;
            while let Some(slot) =
                self.wheel
                    .pop_due(&mut self.entries, wrapped(self.now), &mut budget, |entry| {
                        entry.last_seen
                    })
            {
                let deadline = self.model.remove(&slot.0).expect("armed");
                assert!(deadline <= self.now, "{} ms early", deadline - self.now);
                assert_eq!(self.entries[slot.ix()].timer_prev, NIL);
                popped += 1;
            }
            popped
        }

        fn overdue(&self, by_ms: u64) -> usize {
            self.model
                .values()
                .filter(|&&d| d + by_ms <= self.now)
                .count()
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Arm(u32, u32),
        Touch(u32, u32),
        Cancel(u32),
        Pass(u32),
    }

    const SLOTS: u32 = 40;

    /// Spans of all magnitudes, the exact widths of the levels among them.
    fn span() -> impl Strategy<Value = u32> {
        prop_oneof![
            0u32..100,
            0u32..5_000,
            0u32..200_000,
            0u32..20_000_000,
            0u32..10 * DAY_MS,
            (0u32..24, 0u32..40)
                .prop_map(|(bits, off)| ((1u32 << bits) * TICK_MS + off).saturating_sub(20)),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..SLOTS, span()).prop_map(|(s, t)| Op::Arm(s, t)),
            2 => (0..SLOTS, span()).prop_map(|(s, t)| Op::Touch(s, t)),
            1 => (0..SLOTS).prop_map(Op::Cancel),
            4 => span().prop_map(Op::Pass),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// With budget enough, whatever happens before: none early, none more
        /// than a tick late, none lost, across the wrap and long pauses.
        #[test]
        fn fires_on_time(
            start in prop_oneof![0u64..1 << 33, (1u64 << 32) - 100_000..(1u64 << 32) + 100_000],
            ops in prop::collection::vec(op(), 1..200),
        ) {
            let mut bench = Bench::new(SLOTS as usize, start);
            for op in ops {
                match op {
                    Op::Arm(slot, ahead) => bench.arm(slot, ahead),
                    Op::Touch(slot, ahead) => bench.touch(slot, ahead),
                    Op::Cancel(slot) => bench.cancel(slot),
                    Op::Pass(ms) => bench.now += u64::from(ms),
                }
                bench.pop(u32::MAX);
                prop_assert_eq!(bench.overdue(u64::from(TICK_MS)), 0);
            }
            // Within 24 days of the last deadline everything has fired.
            while !bench.model.is_empty() {
                bench.now += u64::from(3 * DAY_MS);
                bench.pop(u32::MAX);
                prop_assert_eq!(bench.overdue(u64::from(TICK_MS)), 0);
            }
            prop_assert_eq!(bench.wheel.occupied, [0; 4]);
        }

        /// However small the budget of a call, everything fires in the end, and
        /// not early; each entry costs a bounded number of looks.
        #[test]
        fn a_small_budget_delays_and_loses_nothing(
            budget in 1u32..5,
            deadlines in prop::collection::vec(span(), 1..200),
        ) {
            let mut bench = Bench::new(deadlines.len(), 77);
            for (slot, &ahead) in deadlines.iter().enumerate() {
                bench.arm(slot as u32, ahead);
            }
            bench.now += u64::from(11 * DAY_MS);
            let mut calls = 0;
            while !bench.model.is_empty() {
                prop_assert!(bench.pop(budget) <= budget as usize);
                calls += 1;
                prop_assert!(calls <= 12 * deadlines.len() + 100);
            }
        }
    }

    #[test]
    fn a_deadline_that_comes_closer_is_kept_when_told() {
        let mut bench = Bench::new(3, 5000);
        for slot in 0..3 {
            bench.arm(slot, 2 * 60 * 60 * 1000);
        }
        bench.arm(1, 60_000);
        bench.now += 60_000 + u64::from(TICK_MS);
        assert_eq!(bench.pop(u32::MAX), 1);
        assert!(!bench.model.contains_key(&1));
    }

    #[test]
    fn a_busy_connection_is_looked_at_a_few_times_an_hour() {
        let mut bench = Bench::new(1, 0);
        let timeout = 124 * 60 * 1000;
        bench.arm(0, timeout);
        let mut looks = 0;
        for _ in 0..24 * 3600 {
            bench.now += 1000;
            bench.touch(0, timeout);
            bench
                .wheel
                .pop_due(&mut bench.entries, wrapped(bench.now), &mut 1000, |entry| {
                    looks += 1;
                    entry.last_seen
                });
        }
        assert!((10..40).contains(&looks), "{looks} looks in a day");
    }

    #[test]
    fn a_million_at_once_move_down_and_expire_within_each_budget() {
        let slots = 1 << 18;
        let mut bench = Bench::new(slots as usize, 0);
        for slot in 0..slots {
            bench.arm(slot, 7_200_000);
        }
        let mut looks_in_all = 0u32;
        for ms in [7_100_000, 7_200_000 + u64::from(TICK_MS)] {
            bench.now = ms;
            loop {
                let mut budget = 64;
                let mut looks = 0;
                while let Some(slot) =
                    bench
                        .wheel
                        .pop_due(&mut bench.entries, wrapped(ms), &mut budget, |entry| {
                            looks += 1;
                            entry.last_seen
                        })
                {
                    bench.model.remove(&slot.0);
                }
                looks_in_all += looks;
                assert!(looks <= 64);
                if budget > 0 {
                    break;
                }
            }
        }
        assert!(bench.model.is_empty());
        assert!(looks_in_all <= 4 * slots);
    }

    #[test]
    fn cancelling_one_that_is_not_armed_is_nothing() {
        let mut bench = Bench::new(2, 0);
        bench.entries[0].state = State::Established;
        bench.cancel(0);
        bench.arm(1, 10);
        bench.cancel(1);
        bench.cancel(1);
        bench.now += 1000;
        assert_eq!(bench.pop(u32::MAX), 0);
    }
}
