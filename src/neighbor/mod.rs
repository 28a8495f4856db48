//! Next hops of one worker: MAC addresses, their ageing, and the packets that
//! wait for one.
//!
//! Owned by the worker, so a packet finds its MAC by index without a lock or a
//! hash. What one worker learns the management core tells the others. May not
//! allocate after construction, nor read a clock: time is an argument.
//!
//! *Residents* are what the configuration names: servers and routers on the
//! ports' networks. They have a third of the table to themselves, and another
//! third is there for the case that all of them are replaced at once: those that
//! went rest there until no connection has their index. *Guests* are all
//! others: clients on the ports' networks, and whoever a stranger pretends to
//! be. A guest that has not answered yet is one of a few, and the one that was
//! made first goes first; one that has answered is replaced when nobody has sent
//! to it for longest.
//!
//! Connections keep indexes, so a slot may be used again only when none has it
//! any more. Only the index of a resident or of a known guest is kept
//! ([`Neighbors::keep`]): a stranger that never answers leaves its slot at once.
//! A kept slot is *condemned* first: it is found no more, and who sends to it is
//! told to look again ([`Resolution::Stale`]). When the worker has walked all
//! connections ([`Neighbors::start_walk`], [`Neighbors::end_walk`]), it is free.
//! The fast path pays nothing for that.
//!
//! A next hop in use is asked again, by unicast and then by broadcast, before
//! its address grows old, while packets still go to the known MAC: there is no
//! gap. One that never answered is asked every [`RETRY_MS`], far below the second
//! that a lost SYN would cost; its packets wait in a bounded queue. A stranger has
//! as long to answer and is asked less and less often: thousands of them may be
//! nobody. One that has failed is asked again as soon as somebody sends to it.

mod asking;
mod index;
mod known;
mod list;
#[cfg(test)]
mod tests;
mod waiting;

use crate::ids::{NeighborIx, PortIx};
use crate::service::route::NextHop;
use crate::time::Millis;
use crate::wire::ethernet::MacAddr;

use index::Index;
use known::Role;
pub use known::{Condition, Counts, Neighbor};
use list::{Link, List, NIL, Through};
use waiting::Waiting;
pub use waiting::{Over, WAITING, WAITING_FOR_GUESTS, WAITING_PER_HOP, Wait};

/// A resident that packets go to is confirmed when it was not heard for so long:
/// for at most this time, and a few requests, a server's old MAC is used after
/// it moved without a word.
pub const RESIDENT_FRESH_MS: u64 = 5_000;
/// The same of guests, and of residents that no packet goes to.
pub const FRESH_MS: u64 = 30_000;
/// Between two requests for the same next hop.
pub const RETRY_MS: u64 = 100;
/// Broadcast requests, or times to ask, before an unknown next hop counts as
/// unreachable.
pub const RESOLVE_TRIES: u8 = 10;
/// The same for one that has failed before: its packets wait for less.
pub const AGAIN_TRIES: u8 = 3;
/// Requests before a known next hop that falls silent is forgotten; the first
/// of them by unicast (RFC 1122 §2.3.2.1).
pub const CONFIRM_TRIES: u8 = 10;
/// How many of them are by unicast.
pub const UNICAST_TRIES: u8 = 3;
/// A next hop that was heard this recently is above doubt.
pub const DOUBT_MS: u64 = 1_000;
/// A guest that nobody has sent to for so long leaves.
pub const GUEST_IDLE_MS: u64 = 300_000;
/// Condemned slots wait so long for company before a walk is made for them, as
/// long as there is room.
const WALK_EVERY_MS: u64 = 1_000;
/// Where there would not be room for all residents anew.
const WALK_SOON_MS: u64 = 50;
/// Guests at most that have not answered.
const STRANGERS_MAX: usize = 1_024;

/// What to do with a packet for a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Resolution {
    /// Send it with these MAC addresses.
    Send([u8; 12], PortIx),
    /// Let it wait.
    Wait,
    /// The index is no longer good: look the next hop up again.
    Stale,
}

/// What a packet for a guest may have: its place among the strangers, and one
/// among the packets that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// The place of whoever is there for longest, where none is free.
    Any,
    /// Only what is free. For what the gateway says in its own voice: it may say
    /// it to thousands at once, and those who wait for an answer come first.
    Spare,
}

/// What is due of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// An ARP request for it, to the known MAC or to broadcast.
    Ask(NextHop, MacAddr),
    /// Nothing this time: it is given longer to answer.
    Patience,
    /// It has not answered. True where the configuration names it.
    Lost(NextHop, bool),
}

/// What an address that was heard means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Nobody here asked for it.
    Unknown,
    /// Known already.
    Same,
    /// A MAC that was not known, or needed confirmation.
    News,
    /// Another MAC than the one that packets went to.
    Moved,
    /// News of a resident that had not answered before.
    Returned,
}

/// The table.
#[derive(Debug)]
pub struct Neighbors<B> {
    table: Vec<Neighbor>,
    capacity: usize,
    index: Index,
    waiting: Waiting<B>,
    /// Being asked, by when they are asked next: all are asked at one pace.
    asking: List,
    /// Slots that were used before.
    free: List,
    /// Guests that have not answered, in the order they were made.
    strangers: List,
    /// Guests that have answered, the one unused for longest first.
    guests: List,
    /// Condemned since the walk over the connections began.
    condemned: List,
    /// Condemned before it began.
    walked: List,
    walking: bool,
    walk_ended: Millis,
    residents: usize,
    /// A resident found no slot.
    unplaced: bool,
    /// Guests that had to make way for others.
    replaced: u64,
    /// Where the ageing walk is.
    cursor: usize,
    lap: Counts,
    counts: Counts,
}

/// Next hops that the configuration may name, of a table with room for so many.
pub const fn room_for_residents(capacity: usize) -> usize {
    capacity / 3
}

impl<B> Neighbors<B> {
    /// An empty table for at most `capacity` next hops.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.min(usize::from(NIL));
        Self {
            table: Vec::with_capacity(capacity),
            capacity,
            index: Index::new(capacity),
            waiting: Waiting::new(),
            asking: List::new(Through::Ask),
            free: List::new(Through::Place),
            strangers: List::new(Through::Place),
            guests: List::new(Through::Place),
            condemned: List::new(Through::Place),
            walked: List::new(Through::Place),
            walking: false,
            walk_ended: Millis(0),
            residents: 0,
            // Until they are named for the first time.
            unplaced: true,
            replaced: 0,
            cursor: 0,
            lap: Counts::default(),
            counts: Counts::default(),
        }
    }

    /// Next hops there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of packets that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Guests that had to make way for others so far.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn strangers_max(&self) -> usize {
        (self.capacity / 8).clamp(1, STRANGERS_MAX)
    }

    fn guests_max(&self) -> usize {
        let others = 2 * room_for_residents(self.capacity) + self.strangers_max();
        self.capacity.saturating_sub(others).max(1)
    }

    fn find(&self, hop: NextHop) -> Option<u16> {
        self.index.find(&self.table, hop)
    }

    /// The next hop's index; it becomes a guest where it is none. `None` where
    /// there is no room for one.
    pub fn index_of(&mut self, hop: NextHop, room: Room, now: Millis) -> Option<NeighborIx> {
        if let Some(found) = self.find(hop) {
            return Some(NeighborIx(found));
        }
        if !self.has_room_for_stranger() {
            if room == Room::Spare {
                return None;
            }
            self.displace();
            if self.unused() <= self.reserved() {
                return None;
            }
        }
        let ix = self.take_slot(hop, now)?;
        self.table[usize::from(ix)].role = Role::Stranger;
        self.strangers.push_back(&mut self.table, ix);
        Some(NeighborIx(ix))
    }

    fn has_room_for_stranger(&self) -> bool {
        self.strangers.len() < self.strangers_max() && self.unused() > self.reserved()
    }

    /// Free slots that are kept for residents.
    fn reserved(&self) -> usize {
        room_for_residents(self.capacity).saturating_sub(self.residents)
    }

    /// Slots that are free.
    fn unused(&self) -> usize {
        self.free.len() + (self.capacity - self.table.len())
    }

    fn take_slot(&mut self, hop: NextHop, now: Millis) -> Option<u16> {
        let fresh = Neighbor {
            l2: [0; 12],
            hop,
            condition: Condition::Unasked,
            silent: false,
            role: Role::Free,
            used: false,
            asked: false,
            kept: false,
            moved: false,
            tries: 0,
            waiting: 0,
            links: [Link::NONE; 2],
            chain: NIL,
            heard: now,
            used_at: now,
            next_try: now,
        };
        let ix = match self.free.pop_front(&mut self.table) {
            Some(ix) => {
                self.table[usize::from(ix)] = fresh;
                ix
            }
            None if self.table.len() < self.capacity => {
                self.table.push(fresh);
                (self.table.len() - 1) as u16
            }
            None => return None,
        };
        self.index.insert(&mut self.table, ix);
        Some(ix)
    }

    /// Whether a connection may keep this index. It may as long as the slot is
    /// this next hop's for certain.
    pub fn keep(&mut self, ix: NeighborIx) -> bool {
        let Some(neighbor) = self.table.get_mut(ix.ix()) else {
            return false;
        };
        let keeps = match neighbor.role {
            Role::Resident => true,
            Role::Guest => neighbor.condition == Condition::Known,
            Role::Free | Role::Stranger | Role::Condemned => false,
        };
        neighbor.kept |= keeps;
        keeps
    }

    /// The stranger that was made first makes way.
    fn displace(&mut self) {
        if let Some(ix) = self.strangers.first() {
            self.replaced += 1;
            self.give_stranger_up(ix);
        }
    }

    /// A stranger did not answer, or not in time.
    fn give_stranger_up(&mut self, ix: u16) {
        self.stop_asking(ix);
        self.strangers.remove(&mut self.table, ix);
        self.waiting.forsake(&mut self.table, NeighborIx(ix));
        self.leave(ix);
    }

    /// A slot that is in no list any more is free now, or condemned.
    fn leave(&mut self, ix: u16) {
        self.index.remove(&mut self.table, ix);
        let neighbor = &mut self.table[usize::from(ix)];
        neighbor.condition = Condition::Failed;
        if neighbor.kept {
            neighbor.role = Role::Condemned;
            self.condemned.push_back(&mut self.table, ix);
        } else {
            neighbor.role = Role::Free;
            self.free.push_back(&mut self.table, ix);
        }
    }

    fn stop_asking(&mut self, ix: u16) {
        let neighbor = &mut self.table[usize::from(ix)];
        if neighbor.asked {
            neighbor.asked = false;
            self.asking.remove(&mut self.table, ix);
        }
    }

    /// A guest has answered. The one that was not used for longest makes way
    /// where there are too many.
    fn settle(&mut self, ix: u16) {
        self.table[usize::from(ix)].role = Role::Guest;
        self.guests.push_back(&mut self.table, ix);
        if self.guests.len() > self.guests_max()
            && let Some(oldest) = self.guests.first()
        {
            self.replaced += 1;
            self.dismiss(oldest);
        }
    }

    fn dismiss(&mut self, guest: u16) {
        self.stop_asking(guest);
        self.guests.remove(&mut self.table, guest);
        self.waiting.forsake(&mut self.table, NeighborIx(guest));
        self.leave(guest);
    }

    /// The configuration names other next hops now. Both lists are in order and
    /// name each once.
    pub fn adopt(&mut self, old: &[NextHop], new: &[NextHop], now: Millis) {
        if old != new {
            for hop in old {
                if new.binary_search(hop).is_err() {
                    self.demote(*hop, now);
                }
            }
        }
        if old == new && !self.unplaced {
            return;
        }
        self.unplaced = false;
        for hop in new {
            self.promote(*hop, now);
        }
    }

    fn promote(&mut self, hop: NextHop, now: Millis) {
        let ix = match self.find(hop) {
            Some(ix) => ix,
            None => {
                let Some(ix) = self.take_slot(hop, now) else {
                    self.unplaced = true;
                    return;
                };
                ix
            }
        };
        match self.table[usize::from(ix)].role {
            Role::Resident => return,
            Role::Stranger => self.strangers.remove(&mut self.table, ix),
            Role::Guest => self.guests.remove(&mut self.table, ix),
            Role::Free | Role::Condemned => {}
        }
        self.table[usize::from(ix)].role = Role::Resident;
        self.residents += 1;
    }

    fn demote(&mut self, hop: NextHop, now: Millis) {
        let Some(ix) = self.find(hop) else { return };
        let neighbor = &mut self.table[usize::from(ix)];
        if neighbor.role != Role::Resident {
            return;
        }
        self.residents -= 1;
        if neighbor.condition == Condition::Known {
            neighbor.used_at = now;
            return self.settle(ix);
        }
        // Whoever still sends to it makes it a guest.
        self.stop_asking(ix);
        self.waiting.forsake(&mut self.table, NeighborIx(ix));
        self.leave(ix);
    }

    /// How a packet gets to a next hop; starts asking for one that is unknown.
    #[inline]
    pub fn resolve(&mut self, ix: NeighborIx, now: Millis) -> Resolution {
        if let Some((l2, port)) = self.l2_towards(ix) {
            return Resolution::Send(*l2, port);
        }
        self.ask_unknown(ix, now)
    }

    /// Destination and source MAC address towards a next hop that is known, and
    /// its port.
    #[inline(always)]
    pub fn l2_towards(&mut self, ix: NeighborIx) -> Option<(&[u8; 12], PortIx)> {
        let neighbor = self.table.get_mut(ix.ix())?;
        if neighbor.condition != Condition::Known {
            return None;
        }
        neighbor.used = true;
        Some((&neighbor.l2, neighbor.hop.port))
    }

    /// Lets a packet wait.
    pub fn wait(&mut self, ix: NeighborIx, room: Room, packet: B) -> Wait<B> {
        let Some(neighbor) = self.table.get(ix.ix()) else {
            return Wait::NoRoom(packet);
        };
        let guest = neighbor.role != Role::Resident;
        self.waiting.push(&mut self.table, ix, guest, room, packet)
    }

    /// Takes a packet, oldest first, that need not wait any longer.
    pub fn take_waiting(&mut self) -> Option<(Over, B)> {
        self.waiting.pop(&mut self.table)
    }

    /// An address was heard. Only next hops we know of are taken, so that a
    /// stranger's announcements can't fill the table.
    pub fn learn(&mut self, hop: NextHop, mac: MacAddr, own: MacAddr, now: Millis) -> Heard {
        let Some(ix) = self.find(hop) else {
            return Heard::Unknown;
        };
        let neighbor = &mut self.table[usize::from(ix)];
        let mut l2 = [0; 12];
        l2[..6].copy_from_slice(&mac.0);
        l2[6..].copy_from_slice(&own.0);
        let fresh = Self::fresh_ms(neighbor);
        let news = neighbor.condition != Condition::Known
            || neighbor.l2 != l2
            || neighbor.asked
            || now.since(neighbor.heard) >= fresh / 2;
        let returned = neighbor.silent && neighbor.role == Role::Resident;
        let moved = neighbor.condition == Condition::Known && neighbor.l2 != l2;
        neighbor.moved = moved;
        neighbor.l2 = l2;
        neighbor.condition = Condition::Known;
        neighbor.silent = false;
        neighbor.heard = now;
        neighbor.tries = 0;
        neighbor.next_try = now;
        self.waiting.settled(neighbor);
        let stranger = neighbor.role == Role::Stranger;
        self.stop_asking(ix);
        if stranger {
            self.strangers.remove(&mut self.table, ix);
            self.table[usize::from(ix)].used_at = now;
            self.settle(ix);
        }
        match (returned, moved, news) {
            (true, ..) => Heard::Returned,
            (false, true, _) => Heard::Moved,
            (false, false, true) => Heard::News,
            (false, false, false) => Heard::Same,
        }
    }

    /// Whether the connections are to be walked over now for condemned slots;
    /// the worker then does so, and says when it is through. Connections with an
    /// index that is not [`Neighbors::is_good`] look their next hop up again.
    pub fn start_walk(&mut self, now: Millis) -> bool {
        if self.walking || self.condemned.is_empty() {
            return false;
        }
        let unused = self.unused().saturating_sub(self.reserved());
        let every = if self.unplaced || unused < self.capacity / 16 {
            0
        } else if unused < room_for_residents(self.capacity) {
            WALK_SOON_MS
        } else {
            WALK_EVERY_MS
        };
        if now.since(self.walk_ended) < every {
            return false;
        }
        self.walking = true;
        std::mem::swap(&mut self.condemned, &mut self.walked);
        true
    }

    /// All connections were walked over since [`Neighbors::start_walk`]. True
    /// where residents still want a place: see [`Neighbors::adopt`].
    pub fn end_walk(&mut self, now: Millis) -> bool {
        while let Some(ix) = self.walked.pop_front(&mut self.table) {
            self.table[usize::from(ix)].role = Role::Free;
            self.free.push_back(&mut self.table, ix);
        }
        self.walking = false;
        self.walk_ended = now;
        self.unplaced
    }

    /// Whether a connection may go on with this index.
    #[inline(always)]
    pub fn is_good(&self, ix: NeighborIx) -> bool {
        self.table
            .get(ix.ix())
            .is_some_and(|neighbor| neighbor.is_listed())
    }

    /// The port that a next hop is on, as long as any connection has its index.
    pub fn port_of(&self, ix: NeighborIx) -> Option<PortIx> {
        self.table.get(ix.ix()).map(|neighbor| neighbor.hop.port)
    }

    /// What is known of a next hop, if there is an entry for it.
    pub fn known(&self, hop: NextHop) -> Option<&Neighbor> {
        self.hop(NeighborIx(self.find(hop)?))
    }

    /// What is known of a next hop.
    pub fn hop(&self, ix: NeighborIx) -> Option<&Neighbor> {
        self.table
            .get(ix.ix())
            .filter(|neighbor| neighbor.is_listed())
    }

    /// Slots that [`Neighbors::hop`] may find something in.
    pub fn slots_end(&self) -> usize {
        self.table.len()
    }
}
