//! Packets that wait for a next hop's MAC address.
//!
//! They hold buffers, so there are few. Those for guests can't take the places
//! of those for residents, and of guests the one that waited longest goes first:
//! what a flood of strangers causes is never answered, and its packets make way
//! for one that will be.

use arrayvec::ArrayVec;

use super::{Condition, Neighbor, Room};
use crate::ids::NeighborIx;

/// Packets that may wait in all.
pub const WAITING: usize = 512;
/// Packets that may wait for guests.
pub const WAITING_FOR_GUESTS: usize = 384;
/// Packets that may wait for one next hop.
pub const WAITING_PER_HOP: u16 = 64;

/// A packet that waits.
#[derive(Debug)]
struct Waits<B> {
    /// `None`: its next hop had to make way.
    neighbor: Option<NeighborIx>,
    guest: bool,
    packet: B,
}

/// What became of a packet that is to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Wait<B> {
    /// It waits.
    Waits,
    /// It waits, and this one, which waited longest, had to go.
    InsteadOf(B),
    /// There is no room for it.
    NoRoom(B),
}

/// Why a packet waits no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// The next hop is known.
    Known(NeighborIx),
    /// It does not answer.
    Failed,
    /// It had to make way for another.
    Displaced,
}

/// The store.
#[derive(Debug)]
pub(super) struct Waiting<B> {
    packets: ArrayVec<Waits<B>, WAITING>,
    guests: usize,
    /// Something became of a next hop that packets wait for.
    settled: bool,
}

impl<B> Waiting<B> {
    pub(super) fn new() -> Self {
        Self {
            packets: ArrayVec::new(),
            guests: 0,
            settled: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Keeps a packet for the next hop at `ix`.
    pub(super) fn push(
        &mut self,
        table: &mut [Neighbor],
        ix: NeighborIx,
        guest: bool,
        room: Room,
        packet: B,
    ) -> Wait<B> {
        if table[ix.ix()].waiting == WAITING_PER_HOP {
            return Wait::NoRoom(packet);
        }
        let full = self.packets.is_full() || (guest && self.guests == WAITING_FOR_GUESTS);
        let gone = if full {
            if room == Room::Spare {
                return Wait::NoRoom(packet);
            }
            let Some(oldest) = self.packets.iter().position(|waits| waits.guest) else {
                return Wait::NoRoom(packet);
            };
            Some(self.take(table, oldest).packet)
        } else {
            None
        };
        table[ix.ix()].waiting += 1;
        self.guests += usize::from(guest);
        self.packets.push(Waits {
            neighbor: Some(ix),
            guest,
            packet,
        });
        gone.map_or(Wait::Waits, Wait::InsteadOf)
    }

    fn take(&mut self, table: &mut [Neighbor], position: usize) -> Waits<B> {
        let taken = self.packets.remove(position);
        self.guests -= usize::from(taken.guest);
        if let Some(ix) = taken.neighbor {
            table[ix.ix()].waiting -= 1;
        }
        taken
    }

    /// Something became of a next hop.
    pub(super) fn settled(&mut self, neighbor: &Neighbor) {
        self.settled |= neighbor.waiting > 0;
    }

    /// A slot is given to another: what waits for it has no next hop any more.
    pub(super) fn forsake(&mut self, table: &mut [Neighbor], ix: NeighborIx) {
        if table[ix.ix()].waiting == 0 {
            return;
        }
        for waits in &mut self.packets {
            if waits.neighbor == Some(ix) {
                waits.neighbor = None;
            }
        }
        table[ix.ix()].waiting = 0;
        self.settled = true;
    }

    /// Takes a packet, oldest first, that need not wait any longer.
    pub(super) fn pop(&mut self, table: &mut [Neighbor]) -> Option<(Over, B)> {
        if !self.settled {
            return None;
        }
        let over = |waits: &Waits<B>| {
            let Some(ix) = waits.neighbor else {
                return Some(Over::Displaced);
            };
            match table[ix.ix()].condition {
                Condition::Known => Some(Over::Known(ix)),
                Condition::Failed => Some(Over::Failed),
                Condition::Unasked | Condition::Incomplete => None,
            }
        };
        let found = self
            .packets
            .iter()
            .enumerate()
            .find_map(|(position, waits)| Some((position, over(waits)?)));
        let Some((position, over)) = found else {
            self.settled = false;
            return None;
        };
        Some((over, self.take(table, position).packet))
    }
}
