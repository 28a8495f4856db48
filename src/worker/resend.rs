//! A next hop that took another MAC address without a word: the SYNs that went to
//! the old one are lost. Those that are held go out again, so that their clients
//! need not repeat them after a second.
//!
//! Whoever waits for an answer asks for the MAC (see `attempt`), and the answer
//! starts a walk over the held SYNs, a portion a millisecond.

use super::Worker;
use crate::conntrack::entry::{Direction, State, flag};
use crate::ids::{PortIx, SlotIx};
use crate::io::BurstIo;
use crate::stats::Event;

/// Places of held SYNs looked at at a time.
const PORTION: usize = 512;

/// The walk: the place that it looks at next, if it is under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resend(Option<usize>);

impl<Io: BurstIo> Worker<Io> {
    /// A next hop has moved: begins a walk.
    pub(super) fn start_resending(&mut self) {
        self.resend = Resend(Some(0));
    }

    /// The next portion of a walk, if one is under way.
    pub(super) fn resend_lost(&mut self) {
        let Resend(Some(from)) = self.resend else {
            return;
        };
        let end = self.held.places();
        let to = (from + PORTION).min(end);
        for place in from..to {
            if let Some(slot) = self.held.owner(place) {
                self.resend_one(slot);
            }
        }
        self.resend = Resend((to < end).then_some(to));
    }

    /// Sends a held SYN again on its own connection, if it went to a MAC that is
    /// no longer its server's.
    fn resend_one(&mut self, slot: SlotIx) {
        let entry = self.table.get(slot);
        if entry.state != State::SynSent || !entry.has(flag::SYN_HELD) {
            return;
        }
        let moved_at = (self.neighbors.hop(entry.server_hop)).and_then(|hop| hop.moved_at());
        let is_lost = moved_at.is_some_and(|at| at.stamp().reached(entry.last_seen));
        let held = entry.held;
        if is_lost && let Some((syn, at)) = self.packet_from_held(held) {
            self.stats.event(Event::SynResent).add(1);
            // Once for each time that it moves.
            self.table.get_mut(slot).last_seen = self.now.stamp().plus(1);
            self.forward(syn, &at, slot, Direction::Forward, PortIx(0));
        }
    }
}
