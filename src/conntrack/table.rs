//! The connections of one worker: slots in an arena, an index from both tuples
//! to the slot, the free slots, and the timers.
//!
//! One worker owns it; nobody else sees it. It alone puts slots into use and
//! frees them, so a slot in use is always in the index and never in the free
//! list, whatever packets do. It knows the tuples and which states have
//! only one of them in the index ([`State::has_client_side`]), and
//! nothing else about what a connection does: that is the state machine's part.
//!
//! Never allocates after it was made, never reads a clock, never panics on what
//! a packet says. A [`SlotIx`] from this table may be used until that slot is
//! removed.
//!
//! The arena is the only thing that a later process finds. [`ConnTable::new`]
//! works the rest out from it. A process can end between any two instructions,
//! so the state of an entry, which says whether it is in use, is written before
//! its other fields when it is freed and after them when it is taken.

use std::net::Ipv4Addr;
use std::sync::atomic::{Ordering, compiler_fence};

use super::entry::{ClientTuple, Direction, Entry, FlowTuple, NIL, ServerTuple, State};
use super::hash::HashKey;
use super::index::{self, Index, MAX_SLOTS};
use super::wheel::Wheel;
use crate::arena::{Arena, ArenaError, prefetch_pair, prefetch_slice};
use crate::ids::SlotIx;
use crate::time::{Millis, Stamp};

/// All slots are in use, or the index has no place for one more tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the connection table is full")]
pub struct TableFull;

/// What the table found in an arena that an earlier process had used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Connections that go on.
    pub kept: usize,
    /// Entries that shared a tuple with one that was kept, and were freed.
    pub dropped: usize,
}

/// Hashes under way at a time while the index is worked out.
const REBUILD_BATCH: usize = 32;

/// The connection table of one worker.
#[derive(Debug)]
pub struct ConnTable {
    arena: Arena<Entry>,
    index: Index,
    wheel: Wheel,
    key: HashKey,
    /// The slot freed last, first of a list through `timer_next`; or `NIL`.
    free: u32,
    /// Slots from here on were never used; they are in no list.
    fresh: u32,
    used: usize,
}

impl ConnTable {
    /// Bytes that a table of so many slots takes, all of them from the start.
    pub fn bytes_for(slots: usize) -> usize {
        slots * size_of::<Entry>() + index::bytes_for(slots)
    }

    /// A table over `arena`, with the connections that are in it. Their timers
    /// are not armed: the caller sweeps over [`ConnTable::slots`] and arms them.
    ///
    /// # Errors
    /// The arena has 2^31 slots or more, or there is no memory for the index.
    pub fn new(
        arena: Arena<Entry>,
        key: HashKey,
        now: Millis,
    ) -> Result<(Self, Recovered), ArenaError> {
        let slots = arena.as_slice().len();
        let fresh = u32::try_from(arena.populated()).map_err(|_| too_many(slots))?;
        if slots >= MAX_SLOTS {
            return Err(too_many(slots));
        }
        let mut table = Self {
            index: Index::with_capacity(slots)?,
            arena,
            wheel: Wheel::new(now.stamp()),
            key,
            free: NIL,
            fresh,
            used: 0,
        };
        let recovered = table.recover();
        Ok((table, recovered))
    }

    /// An empty table in memory that ends with the process.
    ///
    /// # Errors
    /// As [`ConnTable::new`], or there is no memory for the entries.
    pub fn anonymous(slots: usize, key: HashKey, now: Millis) -> Result<Self, ArenaError> {
        let (table, _) = Self::new(Arena::anonymous(slots)?, key, now)?;
        Ok(table)
    }

    /// Lets all memory of the table exist: for the worker's thread, so that it
    /// is on that core's memory node, before its first packet.
    ///
    /// # Errors
    /// [`ArenaError::Memory`].
    pub fn populate(&mut self) -> Result<(), ArenaError> {
        self.arena.populate()?;
        self.index.populate()
    }

    /// Connections in the table.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is no connection.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Connections that the table has room for.
    #[inline(always)]
    pub fn capacity(&self) -> usize {
        self.arena.as_slice().len()
    }

    /// The secret of its hashes.
    pub fn key(&self) -> HashKey {
        self.key
    }

    /// Hash of a packet's tuple, for [`ConnTable::find`].
    #[inline(always)]
    pub fn hash(&self, tuple: &FlowTuple) -> u64 {
        self.key.flow(tuple)
    }

    /// Hash of a client-side tuple, for the functions that take one.
    #[inline(always)]
    pub fn client_hash(&self, tuple: &ClientTuple) -> u64 {
        self.key.client(tuple)
    }

    /// Hash of a server-side tuple.
    #[inline(always)]
    pub fn server_hash(&self, tuple: &ServerTuple) -> u64 {
        self.key.server(tuple)
    }

    /// First stage of a burst's look-ups: starts loading the bucket of `hash`.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Second stage, when the bucket has arrived: starts loading the entry that
    /// the look-up will most likely find, and names it.
    #[inline(always)]
    pub fn prefetch_candidate(&self, hash: u64) -> Option<(SlotIx, Direction)> {
        let candidate = self.index.candidate(hash);
        if let Some((slot, _)) = candidate {
            prefetch_slice(self.arena.as_slice(), slot.ix());
        }
        candidate
    }

    /// Third stage: as [`ConnTable::find`], first at `candidate`. Since that was
    /// named its slot may have changed hands.
    #[inline(always)]
    pub fn find_candidate(
        &self,
        candidate: Option<(SlotIx, Direction)>,
        hash: u64,
        tuple: &FlowTuple,
    ) -> Option<(SlotIx, Direction)> {
        if let Some((slot, direction)) = candidate
            && let Some(entry) = self.arena.as_slice().get(slot.ix())
            && is_same(entry, direction, tuple)
            && is_indexed(entry.state, direction)
        {
            return candidate;
        }
        self.find(hash, tuple)
    }

    /// The connection that a packet with this tuple belongs to, and which way
    /// the packet goes. `hash` is the tuple's.
    #[inline]
    pub fn find(&self, hash: u64, tuple: &FlowTuple) -> Option<(SlotIx, Direction)> {
        let entries = self.arena.as_slice();
        self.index.lookup(hash, |slot, direction| {
            entries
                .get(slot.ix())
                .is_some_and(|entry| is_same(entry, direction, tuple))
        })
    }

    /// The connection with this client-side tuple, whose hash is `hash`.
    #[inline(always)]
    pub fn find_client(&self, hash: u64, tuple: &ClientTuple) -> Option<SlotIx> {
        let entries = self.arena.as_slice();
        let found = self.index.lookup(hash, |slot, direction| {
            direction == Direction::Forward
                && entries
                    .get(slot.ix())
                    .is_some_and(|entry| is_same(entry, direction, &tuple.into()))
        });
        found.map(|(slot, _)| slot)
    }

    /// The connection with this server-side tuple, whose hash is `hash`.
    #[inline(always)]
    pub fn find_server(&self, hash: u64, tuple: &ServerTuple) -> Option<SlotIx> {
        let entries = self.arena.as_slice();
        let found = self.index.lookup(hash, |slot, direction| {
            direction == Direction::Reverse
                && entries
                    .get(slot.ix())
                    .is_some_and(|entry| is_same(entry, direction, &tuple.into()))
        });
        found.map(|(slot, _)| slot)
    }

    /// The connection in `slot`.
    ///
    /// # Panics
    /// `slot` is not from this table.
    #[inline(always)]
    pub fn get(&self, slot: SlotIx) -> &Entry {
        &self.arena.as_slice()[slot.ix()]
    }

    /// The connection in `slot`, writable. The caller leaves the tuples alone,
    /// and `state` neither sets to `Free` or `Resting` nor takes from there:
    /// [`ConnTable::remove`] and [`ConnTable::unlink_client`] do that.
    ///
    /// # Panics
    /// `slot` is not from this table.
    #[inline(always)]
    pub fn get_mut(&mut self, slot: SlotIx) -> &mut Entry {
        &mut self.arena.as_mut_slice()[slot.ix()]
    }

    /// Adds a connection, findable by both tuples (a `Resting` one or a
    /// `Redirect` by its server-side tuple only), timer not armed. Neither tuple may be in the
    /// table yet, and the state not be `Free`.
    ///
    /// # Errors
    /// [`TableFull`]; nothing is changed.
    #[inline]
    pub fn insert(&mut self, entry: Entry) -> Result<SlotIx, TableFull> {
        let slot = self.first_free().ok_or(TableFull)?;
        if entry.state == State::Free || !self.link(slot, &entry) {
            return Err(TableFull);
        }
        self.take_first_free(slot);
        self.write(
            slot,
            Entry {
                timer_next: NIL,
                timer_prev: NIL,
                ..entry
            },
        );
        self.used += 1;
        Ok(slot)
    }

    /// Removes the connection in `slot`, its timer too. Nothing where the slot
    /// is free.
    #[inline]
    pub fn remove(&mut self, slot: SlotIx) {
        let Some(&entry) = self.arena.as_slice().get(slot.ix()) else {
            return;
        };
        if entry.state == State::Free {
            return;
        }
        self.wheel.cancel(self.arena.as_mut_slice(), slot);
        if entry.state.has_client_side() {
            let hash = self.key.client(&entry.client_tuple());
            self.index.remove(hash, slot, Direction::Forward);
        }
        let hash = self.key.server(&entry.server_tuple());
        self.index.remove(hash, slot, Direction::Reverse);
        self.release(slot);
        self.used -= 1;
    }

    /// Takes the client-side tuple of `slot` out of the index and makes its
    /// state `Resting`: the client begins another connection from its port,
    /// while the local port rests with this one.
    #[inline]
    pub fn unlink_client(&mut self, slot: SlotIx) {
        let Some(entry) = self.arena.as_mut_slice().get_mut(slot.ix()) else {
            return;
        };
        if !entry.state.has_client_side() {
            return;
        }
        entry.state = State::Resting;
        let hash = self.key.client(&entry.client_tuple());
        self.index.remove(hash, slot, Direction::Forward);
    }

    /// Puts the client-side tuple of `slot`, which is `Resting`, back into the
    /// index, with a new state: the client gets this connection after all. The
    /// tuple may not be in the table.
    ///
    /// # Errors
    /// [`TableFull`], also where the slot is not `Resting`; nothing is changed.
    pub fn relink_client(&mut self, slot: SlotIx, state: State) -> Result<(), TableFull> {
        let entry = *self.get(slot);
        if entry.state != State::Resting {
            return Err(TableFull);
        }
        let hash = self.key.client(&entry.client_tuple());
        let linked = self.index.insert(hash, slot, Direction::Forward);
        linked.map_err(|_| TableFull)?;
        self.get_mut(slot).state = state;
        Ok(())
    }

    /// The slots in use among those from `from` up to but not including `to`.
    /// For sweeps in pieces; all slots in use are below
    /// [`ConnTable::slots_end`].
    pub fn slots(&self, from: SlotIx, to: SlotIx) -> impl DoubleEndedIterator<Item = SlotIx> + '_ {
        let to = to.0.min(self.fresh);
        let from = from.0.min(to);
        let entries = self.arena.as_slice();
        (from..to).map(SlotIx).filter(|slot| {
            entries
                .get(slot.ix())
                .is_some_and(|entry| entry.state != State::Free)
        })
    }

    /// The end of the slots that were ever in use.
    pub fn slots_end(&self) -> SlotIx {
        SlotIx(self.fresh)
    }

    /// Arms the timer of `slot`, or moves it. Only needed for a new connection
    /// and where the deadline comes closer; one that moves away is noticed when
    /// the timer fires.
    #[inline]
    pub fn arm(&mut self, slot: SlotIx, deadline: Stamp) {
        self.wheel.arm(self.arena.as_mut_slice(), slot, deadline);
    }

    /// A connection whose deadline, as `deadline_of` says, has been reached. Its
    /// timer is not armed any more: the caller removes it, or arms it again.
    ///
    /// Work is bounded by `budget`, from which each entry looked at takes one;
    /// what is left over waits for the next call.
    #[inline]
    pub fn pop_due(
        &mut self,
        now: Stamp,
        budget: &mut u32,
        deadline_of: impl FnMut(&Entry) -> Stamp,
    ) -> Option<SlotIx> {
        self.wheel
            .pop_due(self.arena.as_mut_slice(), now, budget, deadline_of)
    }

    /// Whether timers that were due before `now` have not been looked at yet.
    pub fn timers_are_behind(&self, now: Stamp) -> bool {
        self.wheel.is_behind(now)
    }

    /// Whether `slot` is in use and its timer not armed: so it is from
    /// [`ConnTable::pop_due`] until the caller does something about it.
    #[inline]
    pub fn is_due(&self, slot: SlotIx) -> bool {
        let entry = self.get(slot);
        entry.state != State::Free && entry.timer_prev == NIL
    }

    /// Starts loading what the removal of `slot` will change.
    #[inline]
    pub fn prefetch_removal(&self, slot: SlotIx) {
        let entry = self.get(slot);
        self.index.prefetch(self.key.client(&entry.client_tuple()));
        self.index.prefetch(self.key.server(&entry.server_tuple()));
    }

    /// Works index, free list and count out anew from the entries; timers are
    /// then not armed.
    pub fn rebuild(&mut self, now: Millis) -> Recovered {
        self.index.clear_all();
        self.wheel = Wheel::new(now.stamp());
        self.recover()
    }

    /// Fills the empty index and finds the free slots, over all that can have
    /// been used.
    fn recover(&mut self) -> Recovered {
        let mut recovered = Recovered::default();
        let last = self.slots(SlotIx(0), self.slots_end()).next_back();
        self.fresh = last.map_or(0, |last| last.0 + 1);
        self.free = NIL;
        self.used = 0;
        // From the highest down, so that the lowest free slot is used first.
        let mut end = self.fresh;
        while end > 0 {
            let begin = end.saturating_sub(REBUILD_BATCH as u32);
            for slot in self.slots(SlotIx(begin), SlotIx(end)) {
                let entry = self.get(slot);
                self.index.prefetch(self.key.client(&entry.client_tuple()));
                self.index.prefetch(self.key.server(&entry.server_tuple()));
            }
            for slot in (begin..end).rev().map(SlotIx) {
                let entry = *self.get(slot);
                if entry.state == State::Free {
                    self.release(slot);
                } else if self.is_double(&entry) || !self.link(slot, &entry) {
                    self.release(slot);
                    recovered.dropped += 1;
                } else {
                    let entry = self.get_mut(slot);
                    entry.timer_next = NIL;
                    entry.timer_prev = NIL;
                    self.used += 1;
                }
            }
            end = begin;
        }
        recovered.kept = self.used;
        recovered
    }

    /// Whether a tuple by which `entry` would be found finds another one.
    fn is_double(&self, entry: &Entry) -> bool {
        let client = FlowTuple::from(&entry.client_tuple());
        let server = FlowTuple::from(&entry.server_tuple());
        entry.state.has_client_side() && self.find(self.hash(&client), &client).is_some()
            || self.find(self.hash(&server), &server).is_some()
    }

    /// Puts the tuples of `entry` into the index; nothing, and false, where
    /// there is not enough room.
    #[inline]
    fn link(&mut self, slot: SlotIx, entry: &Entry) -> bool {
        // The client side first: the look-up that did not find it has loaded its
        // bucket, while the other's may still be on its way.
        let client = self.key.client(&entry.client_tuple());
        let both = entry.state.has_client_side();
        if both && self.index.insert(client, slot, Direction::Forward).is_err() {
            return false;
        }
        let server = self.key.server(&entry.server_tuple());
        if self.index.insert(server, slot, Direction::Reverse).is_err() {
            if both {
                self.index.remove(client, slot, Direction::Forward);
            }
            return false;
        }
        true
    }

    /// The slot that the next connection gets.
    #[inline(always)]
    fn first_free(&self) -> Option<SlotIx> {
        let slot = if self.free == NIL {
            self.fresh
        } else {
            self.free
        };
        ((slot as usize) < self.capacity()).then_some(SlotIx(slot))
    }

    /// Takes `slot`, which is [`ConnTable::first_free`], off the free ones.
    #[inline(always)]
    fn take_first_free(&mut self, slot: SlotIx) {
        if self.free == NIL {
            self.fresh = slot.0 + 1;
        } else {
            self.free = self.get(slot).timer_next;
        }
        // The next connection will want this one.
        if let Some(next) = self.first_free() {
            prefetch_pair(self.arena.as_slice(), next.ix());
        }
    }

    /// Writes `entry` so that at no instant half of it is in use.
    #[inline(always)]
    fn write(&mut self, slot: SlotIx, entry: Entry) {
        let place = self.get_mut(slot);
        place.state = State::Free;
        compiler_fence(Ordering::SeqCst);
        *place = Entry {
            state: State::Free,
            ..entry
        };
        compiler_fence(Ordering::SeqCst);
        place.state = entry.state;
    }

    /// Makes `slot` the first free one.
    #[inline(always)]
    fn release(&mut self, slot: SlotIx) {
        let next = self.free;
        let place = self.get_mut(slot);
        place.state = State::Free;
        compiler_fence(Ordering::SeqCst);
        place.timer_next = next;
        place.timer_prev = NIL;
        self.free = slot.0;
    }
}

fn too_many(slots: usize) -> ArenaError {
    ArenaError::TooManySlots { slots }
}

/// Whether `tuple` is that of `entry`, seen from `direction`. Without a branch
/// per field, since a candidate with the right tag is almost always the right
/// one; and without one on the direction: which way the next packet goes is
/// anybody's guess, the processor's too.
#[inline(always)]
fn is_same(entry: &Entry, direction: Direction, tuple: &FlowTuple) -> bool {
    let pair = |src: Ipv4Addr, dst: Ipv4Addr| {
        let word = |address: Ipv4Addr| u64::from(u32::from_ne_bytes(address.octets()));
        word(src) | word(dst) << 32
    };
    let ports = |src: u16, dst: u16| u32::from(src) | u32::from(dst) << 16;
    let client_side = (
        pair(entry.client, entry.vip),
        ports(entry.client_port, entry.vip_port),
    );
    let server_side = (
        pair(entry.server_addr, entry.local),
        ports(entry.server_port, entry.local_port),
    );
    let reverse = u64::from(direction == Direction::Reverse).wrapping_neg();
    let addresses = client_side.0 ^ ((client_side.0 ^ server_side.0) & reverse);
    let both_ports = client_side.1 ^ ((client_side.1 ^ server_side.1) & reverse as u32);
    (addresses == pair(tuple.src, tuple.dst))
        & (both_ports == ports(tuple.src_port, tuple.dst_port))
        & (entry.protocol == tuple.protocol)
}

/// Whether an entry in this state is in the index under the tuple of that side.
#[inline(always)]
fn is_indexed(state: State, direction: Direction) -> bool {
    state.has_client_side() || direction == Direction::Reverse && state != State::Free
}

#[cfg(test)]
mod tests;
