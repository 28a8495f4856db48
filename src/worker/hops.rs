//! The walk over all connections after which their next hops are good again:
//! after a change of routes, all are looked up anew; where the table of next hops
//! gives slots to others, those that had them are. A portion between two bursts.
//!
//! Apart from the walk that ends connections (`close`): what goes on waits for
//! none that end.

use super::Worker;
use crate::conntrack::entry::{Entry, State};
use crate::ids::SlotIx;
use crate::io::BurstIo;

/// Table slots looked at between two bursts.
const HOPS_PER_POLL: u32 = 256;

/// The walk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HopWalk {
    /// Next slot to look at; `None`: nothing to do.
    cursor: Option<u32>,
    /// All are looked up anew.
    all: bool,
    /// The table of next hops waits for the end.
    frees: bool,
}

impl HopWalk {
    /// Routes changed.
    pub(super) fn start_all(&mut self) {
        self.cursor = Some(0);
        self.all = true;
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// Begins a walk where the table of next hops wants one.
    pub(super) fn free_hops(&mut self) {
        if self.neighbors.start_walk(self.now) {
            self.hop_walk.cursor = Some(0);
            self.hop_walk.frees = true;
        }
    }

    /// Goes on with a walk, if one is under way.
    #[inline]
    pub(super) fn walk_hops(&mut self) -> usize {
        match self.hop_walk.cursor {
            None => 0,
            Some(from) => self.walk_hops_from(from),
        }
    }

    fn walk_hops_from(&mut self, from: u32) -> usize {
        let end = self.table.slots_end().0;
        let to = from.saturating_add(HOPS_PER_POLL).min(end);
        let all = self.hop_walk.all;
        for slot in from..to {
            let entry = self.table.get_mut(SlotIx(slot));
            if entry.state == State::Free {
                continue;
            }
            if all || !self.neighbors.is_good(entry.client_hop) {
                entry.client_hop = Entry::NO_NEIGHBOR;
            }
            if all || !self.neighbors.is_good(entry.server_hop) {
                entry.server_hop = Entry::NO_NEIGHBOR;
            }
        }
        if to < end {
            self.hop_walk.cursor = Some(to);
            return 1;
        }
        let frees = self.hop_walk.frees;
        self.hop_walk = HopWalk::default();
        if frees && self.neighbors.end_walk(self.now) {
            let next_hops = self.snapshot.next_hops();
            self.neighbors.adopt(next_hops, next_hops, self.now);
        }
        1
    }
}
