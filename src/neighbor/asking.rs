//! When a next hop is asked for its MAC address, and how long it may take.

use super::known::{Condition, Neighbor, Role};
use super::{
    AGAIN_TRIES, CONFIRM_TRIES, DOUBT_MS, Due, FRESH_MS, GUEST_IDLE_MS, Neighbors,
    RESIDENT_FRESH_MS, RESOLVE_TRIES, RETRY_MS, Resolution, UNICAST_TRIES,
};
use crate::ids::NeighborIx;
use crate::time::Millis;
use crate::wire::ethernet::MacAddr;

impl<B> Neighbors<B> {
    #[cold]
    #[inline(never)]
    pub(super) fn ask_unknown(&mut self, ix: NeighborIx, now: Millis) -> Resolution {
        let Some(neighbor) = self.table.get_mut(ix.ix()) else {
            return Resolution::Stale;
        };
        neighbor.used = true;
        match (neighbor.role, neighbor.condition) {
            (Role::Free | Role::Condemned, _) => return Resolution::Stale,
            (_, Condition::Incomplete) => return Resolution::Wait,
            _ => {}
        }
        neighbor.condition = Condition::Incomplete;
        let tries = if neighbor.silent {
            RESOLVE_TRIES - AGAIN_TRIES
        } else {
            0
        };
        self.ask(ix.0, tries, now);
        Resolution::Wait
    }

    /// Asks at once, unless it was asked a moment ago.
    fn ask(&mut self, ix: u16, tries: u8, now: Millis) {
        self.stop_asking(ix);
        let neighbor = &mut self.table[usize::from(ix)];
        neighbor.asked = true;
        neighbor.tries = tries;
        if now.reached(neighbor.next_try) {
            neighbor.next_try = now;
            self.asking.push_front(&mut self.table, ix);
        } else {
            neighbor.next_try = now.plus(RETRY_MS);
            self.asking.push_back(&mut self.table, ix);
        }
    }

    /// Somebody who should have been answered through this next hop was not: its
    /// MAC may be another's by now. It is asked by broadcast at once, while
    /// packets still go to the known MAC. Cheap to call for each lost answer.
    pub fn doubt(&mut self, ix: NeighborIx, now: Millis) {
        let Some(neighbor) = self.table.get_mut(ix.ix()) else {
            return;
        };
        if neighbor.condition != Condition::Known || now.since(neighbor.heard) < DOUBT_MS {
            return;
        }
        if neighbor.asked {
            neighbor.tries = neighbor.tries.max(UNICAST_TRIES);
            return;
        }
        self.ask(ix.0, UNICAST_TRIES, now);
    }

    /// What is due next. Call until `None`, a bounded number of times, about
    /// once a millisecond.
    pub fn due(&mut self, now: Millis) -> Option<Due> {
        let ix = self.asking.first()?;
        let neighbor = &mut self.table[usize::from(ix)];
        if !now.reached(neighbor.next_try) {
            return None;
        }
        let known = neighbor.condition == Condition::Known;
        let tries = if known { CONFIRM_TRIES } else { RESOLVE_TRIES };
        if neighbor.tries >= tries {
            return Some(self.lose(ix));
        }
        let mut mac = [0xff; 6];
        if known && neighbor.tries < UNICAST_TRIES {
            mac.copy_from_slice(&neighbor.l2[..6]);
        }
        neighbor.tries += 1;
        neighbor.next_try = now.plus(RETRY_MS);
        let ask = neighbor.role != Role::Stranger || neighbor.tries.is_power_of_two();
        let hop = neighbor.hop;
        self.asking.remove(&mut self.table, ix);
        self.asking.push_back(&mut self.table, ix);
        Some(if ask {
            Due::Ask(hop, MacAddr(mac))
        } else {
            Due::Patience
        })
    }

    fn lose(&mut self, ix: u16) -> Due {
        self.stop_asking(ix);
        let neighbor = &mut self.table[usize::from(ix)];
        let (hop, role) = (neighbor.hop, neighbor.role);
        let first = !neighbor.silent;
        neighbor.condition = Condition::Failed;
        neighbor.silent = true;
        self.waiting.settled(neighbor);
        match role {
            Role::Stranger if neighbor.waiting == 0 => self.give_stranger_up(ix),
            // Its packets are still to be given up for this reason.
            Role::Stranger => {}
            // Nobody is there any more: it makes way before all others.
            Role::Guest => {
                self.guests.remove(&mut self.table, ix);
                self.guests.push_front(&mut self.table, ix);
            }
            Role::Resident | Role::Free | Role::Condemned => {}
        }
        Due::Lost(hop, role == Role::Resident && first)
    }

    pub(super) fn fresh_ms(neighbor: &Neighbor) -> u64 {
        match neighbor.role {
            Role::Resident => RESIDENT_FRESH_MS,
            _ => FRESH_MS,
        }
    }

    /// Looks at up to `budget` next hops for ones that grow old: those in use,
    /// and residents, are asked again; guests not in use leave.
    pub fn age(&mut self, now: Millis, budget: usize) {
        for _ in 0..budget.min(self.table.len()) {
            if self.cursor >= self.table.len() {
                self.cursor = 0;
                self.counts = std::mem::take(&mut self.lap);
            }
            let ix = self.cursor as u16;
            self.cursor += 1;
            self.lap.note(&self.table[usize::from(ix)]);
            self.age_one(ix, now);
        }
    }

    fn age_one(&mut self, ix: u16, now: Millis) {
        let neighbor = &mut self.table[usize::from(ix)];
        let used = std::mem::take(&mut neighbor.used);
        if used {
            neighbor.used_at = now;
        }
        let (role, condition) = (neighbor.role, neighbor.condition);
        match role {
            Role::Free | Role::Condemned => return,
            Role::Stranger => {
                // Given up, and its packets are gone by now.
                if condition == Condition::Failed && neighbor.waiting == 0 {
                    self.give_stranger_up(ix);
                }
                return;
            }
            Role::Guest => {
                if now.since(neighbor.used_at) >= GUEST_IDLE_MS {
                    return self.dismiss(ix);
                }
                if used && condition == Condition::Known {
                    self.guests.remove(&mut self.table, ix);
                    self.guests.push_back(&mut self.table, ix);
                }
            }
            Role::Resident => {}
        }
        let neighbor = &self.table[usize::from(ix)];
        if condition != Condition::Known || neighbor.asked {
            return;
        }
        let age = now.since(neighbor.heard);
        let idle = now.since(neighbor.used_at);
        let busy = idle < FRESH_MS && age >= Self::fresh_ms(neighbor);
        if busy || (role == Role::Resident && age >= FRESH_MS) {
            self.ask(ix, 0, now);
        }
    }
}
