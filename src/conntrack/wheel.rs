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
use crate::time::Millis;

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
    position: Millis,
}

impl Wheel {
    /// A wheel without timers, standing at `now`.
    pub fn new(now: Millis) -> Self {
        Self {
            heads: [NIL; LISTS * LEVELS],
            occupied: [0; LEVELS],
            position: Millis(now.0 & !(TICK_MS - 1)),
        }
    }

    /// Arms the timer of `slot`, or moves it to another `deadline`. A deadline
    /// that has passed is due at once.
    #[inline]
    pub fn arm(&mut self, entries: &mut [Entry], slot: SlotIx, deadline: Millis) {
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
        now: Millis,
        budget: &mut u32,
        mut deadline_of: impl FnMut(&Entry) -> Millis,
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

    /// The list for `deadline`, seen from where the wheel stands.
    ///
    /// A level's list comes round when the position reaches its first tick, and
    /// that is never after the deadline. At that moment nothing armed lands in
    /// it again: what is less than a list's width ahead goes to a lower level.
    #[inline(always)]
    fn list_for(&self, deadline: Millis) -> usize {
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
    fn step(&mut self, now: Millis) -> bool {
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
