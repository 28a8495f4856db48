//! From a tuple's hash to the slots that may hold the tuple.
//!
//! A table of buckets of one cache line each. A bucket holds ten places, each
//! a 16-bit tag (other bits of the hash than those that chose the bucket) and a
//! slot number with its direction. A look-up costs one cache line, a compare of
//! all ten tags at once, and one look at the entry; a second entry is looked at
//! once in some ten thousand times.
//!
//! A bucket that is full goes on in an overflow bucket from a fixed pool. In
//! such a chain all buckets but the last are full: a removal fills its hole
//! from the end, and an emptied overflow bucket returns to the pool.
//!
//! Owned by [`super::table`]. Its memory is set aside at start and comes to be,
//! zeroed, when it is first used; nothing is allocated later.

use super::entry::Direction;
use crate::arena::{Arena, ArenaError, lanes_equal, prefetch_slice};
use crate::ids::SlotIx;

/// Places in a bucket: what fits into a cache line beside the link.
const PLACES: usize = 10;

/// Buckets per five connections: with both tuples of each connection indexed,
/// a full table then has five of ten places taken on average, and one bucket in
/// 70 overflows. 25.6 bytes a connection.
const BUCKETS_PER_FIVE: usize = 2;

/// One overflow bucket for so many buckets; more than twice what random hashes
/// need in a full table.
const BUCKETS_PER_OVERFLOW: usize = 32;

/// Overflow buckets that even the smallest table has, where chance is coarser.
const MIN_OVERFLOW: usize = 16;

const DIRECTION_BIT: u32 = 1 << 31;

/// Most slots that can be told apart beside the direction bit.
pub const MAX_SLOTS: usize = 1 << 31;

/// One cache line of the index. All zero: empty.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Bucket {
    /// Tag per place; 0 where the place is free.
    tags: [u16; PLACES],
    /// Number of the bucket that goes on from this one; 0 for none (bucket 0
    /// is never an overflow bucket). In the pool: the next free one.
    link: u32,
    /// Slot and direction per place.
    values: [u32; PLACES],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self {
        tags: [0; PLACES],
        link: 0,
        values: [0; PLACES],
    };

    /// Bit i is set where place i has `tag`.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        lanes_equal(self.tags, tag)
    }

    /// A free place.
    #[inline(always)]
    fn free_place(&self) -> Option<usize> {
        let free = self.matches(0);
        (free != 0).then(|| free.trailing_zeros() as usize)
    }

    /// The highest place in use.
    fn last_place(&self) -> Option<usize> {
        self.tags.iter().rposition(|&tag| tag != 0)
    }

    fn put(&mut self, place: usize, tag: u16, value: u32) {
        if let (Some(t), Some(v)) = (self.tags.get_mut(place), self.values.get_mut(place)) {
            *t = tag;
            *v = value;
        }
    }
}

/// The pool of overflow buckets is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexFull;

/// The index of one connection table.
#[derive(Debug)]
pub struct Index {
    /// The buckets that hashes choose from, then the overflow pool.
    buckets: Arena<Bucket>,
    /// How many hashes choose from.
    home_buckets: u32,
    /// The free overflow bucket used last; 0 for none.
    free_overflow: u32,
    /// Overflow buckets from here on were never used.
    fresh_overflow: u32,
}

/// Home and overflow buckets for so many connections.
fn buckets(connections: usize) -> (usize, usize) {
    let home = (connections * BUCKETS_PER_FIVE).div_ceil(5).max(1);
    (home, home / BUCKETS_PER_OVERFLOW + MIN_OVERFLOW)
}

/// Bytes that the index of so many connections takes.
pub(super) fn bytes_for(connections: usize) -> usize {
    let (home, overflow) = buckets(connections);
    (home + overflow) * size_of::<Bucket>()
}

impl Index {
    /// Room for both tuples of `connections` connections.
    ///
    /// # Errors
    /// As [`Arena::anonymous`].
    pub fn with_capacity(connections: usize) -> Result<Self, ArenaError> {
        let too_many = ArenaError::TooManySlots { slots: connections };
        if connections >= MAX_SLOTS {
            return Err(too_many);
        }
        let (home, overflow) = buckets(connections);
        let Ok(home_buckets) = u32::try_from(home) else {
            return Err(too_many);
        };
        Ok(Self {
            buckets: Arena::anonymous(home + overflow)?,
            home_buckets,
            free_overflow: 0,
            fresh_overflow: home_buckets,
        })
    }

    /// Memory set aside.
    pub fn bytes(&self) -> usize {
        size_of_val(self.buckets.as_slice())
    }

    /// As [`Arena::populate`].
    ///
    /// # Errors
    /// As [`Arena::populate`].
    pub fn populate(&mut self) -> Result<(), ArenaError> {
        self.buckets.populate()
    }

    /// Starts loading the bucket of `hash`.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch_slice(self.buckets.as_slice(), self.home(hash) as usize);
    }

    /// The first slot in the bucket of `hash` (not its overflow) that carries
    /// its tag: most likely what [`Index::lookup`] will find.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<(SlotIx, Direction)> {
        let bucket = self.bucket(self.home(hash))?;
        let place = bucket.matches(tag(hash)).trailing_zeros() as usize;
        bucket.values.get(place).map(|&value| unpack(value))
    }

    /// The first slot under `hash` that `is_match` accepts.
    #[inline(always)]
    pub fn lookup(
        &self,
        hash: u64,
        mut is_match: impl FnMut(SlotIx, Direction) -> bool,
    ) -> Option<(SlotIx, Direction)> {
        let tag = tag(hash);
        let mut bucket = self.bucket(self.home(hash))?;
        loop {
            let mut places = bucket.matches(tag);
            while places != 0 {
                let value = *bucket.values.get(places.trailing_zeros() as usize)?;
                let (slot, direction) = unpack(value);
                if is_match(slot, direction) {
                    return Some((slot, direction));
                }
                places &= places - 1;
            }
            if bucket.link == 0 {
                return None;
            }
            bucket = self.bucket(bucket.link)?;
        }
    }

    /// Adds `slot`, seen from `direction`, under `hash`.
    ///
    /// # Errors
    /// [`IndexFull`] where the bucket and all overflow buckets are taken;
    /// nothing is changed.
    #[inline]
    pub fn insert(
        &mut self,
        hash: u64,
        slot: SlotIx,
        direction: Direction,
    ) -> Result<(), IndexFull> {
        let value = pack(slot, direction);
        let mut at = self.home(hash);
        loop {
            let bucket = self.bucket_mut(at).ok_or(IndexFull)?;
            if let Some(place) = bucket.free_place() {
                bucket.put(place, tag(hash), value);
                return Ok(());
            }
            if bucket.link == 0 {
                break;
            }
            at = bucket.link;
        }
        let added = self.take_overflow()?;
        if let Some(last) = self.bucket_mut(at) {
            last.link = added;
        }
        if let Some(bucket) = self.bucket_mut(added) {
            *bucket = Bucket::EMPTY;
            bucket.put(0, tag(hash), value);
        }
        Ok(())
    }

    /// Removes `slot`, seen from `direction`, from under `hash`. False where it
    /// is not there.
    #[inline]
    pub fn remove(&mut self, hash: u64, slot: SlotIx, direction: Direction) -> bool {
        let value = pack(slot, direction);
        let tag = tag(hash);
        let mut before = None;
        let mut at = self.home(hash);
        loop {
            let Some(bucket) = self.bucket(at) else {
                return false;
            };
            let mut places = bucket.matches(tag);
            while places != 0 {
                let place = places.trailing_zeros() as usize;
                if bucket.values.get(place) == Some(&value) {
                    self.clear(before, at, place);
                    return true;
                }
                places &= places - 1;
            }
            if bucket.link == 0 {
                return false;
            }
            before = Some(at);
            at = bucket.link;
        }
    }

    /// Forgets everything.
    pub fn clear_all(&mut self) {
        let used = self.fresh_overflow as usize;
        for bucket in self.buckets.as_mut_slice().iter_mut().take(used) {
            // Reading an untouched page costs less than making it exist.
            if bucket.tags != [0; PLACES] || bucket.link != 0 {
                *bucket = Bucket::EMPTY;
            }
        }
        self.free_overflow = 0;
        self.fresh_overflow = self.home_buckets;
    }

    /// Frees `place` of bucket `at`, whose predecessor in the chain is
    /// `before`, and moves the chain's last value into the hole.
    #[inline]
    fn clear(&mut self, before: Option<u32>, at: u32, place: usize) {
        let mut last = at;
        let mut before_last = before;
        while let Some(link) = self
            .bucket(last)
            .map(|bucket| bucket.link)
            .filter(|&l| l != 0)
        {
            before_last = Some(last);
            last = link;
        }
        if last == at {
            if let Some(bucket) = self.bucket_mut(at) {
                bucket.put(place, 0, 0);
            }
        } else {
            let moved = self.bucket_mut(last).and_then(|bucket| {
                let from = bucket.last_place()?;
                let moved = (*bucket.tags.get(from)?, *bucket.values.get(from)?);
                bucket.put(from, 0, 0);
                Some(moved)
            });
            let (tag, value) = moved.unwrap_or((0, 0));
            if let Some(bucket) = self.bucket_mut(at) {
                bucket.put(place, tag, value);
            }
        }
        if let Some(before_last) = before_last
            && self.bucket(last).is_some_and(|b| b.tags == [0; PLACES])
        {
            if let Some(bucket) = self.bucket_mut(before_last) {
                bucket.link = 0;
            }
            self.give_overflow(last);
        }
    }

    fn take_overflow(&mut self) -> Result<u32, IndexFull> {
        if self.free_overflow != 0 {
            let taken = self.free_overflow;
            self.free_overflow = self.bucket(taken).ok_or(IndexFull)?.link;
            return Ok(taken);
        }
        let taken = self.fresh_overflow;
        if self.bucket(taken).is_none() {
            return Err(IndexFull);
        }
        self.fresh_overflow += 1;
        Ok(taken)
    }

    fn give_overflow(&mut self, at: u32) {
        let next = self.free_overflow;
        if let Some(bucket) = self.bucket_mut(at) {
            *bucket = Bucket::EMPTY;
            bucket.link = next;
            self.free_overflow = at;
        }
    }

    /// The bucket of `hash`: its upper bits, scaled to the number of buckets.
    #[inline(always)]
    fn home(&self, hash: u64) -> u32 {
        (((hash >> 32) * u64::from(self.home_buckets)) >> 32) as u32
    }

    #[inline(always)]
    fn bucket(&self, at: u32) -> Option<&Bucket> {
        self.buckets.as_slice().get(at as usize)
    }

    #[inline(always)]
    fn bucket_mut(&mut self, at: u32) -> Option<&mut Bucket> {
        self.buckets.as_mut_slice().get_mut(at as usize)
    }
}

/// The hash's lowest bits, which have no part in the choice of the bucket; 0
/// stands for a free place and gives way to 1.
#[inline(always)]
const fn tag(hash: u64) -> u16 {
    let tag = hash as u16;
    tag + (tag == 0) as u16
}

#[inline(always)]
const fn pack(slot: SlotIx, direction: Direction) -> u32 {
    match direction {
        Direction::Forward => slot.0,
        Direction::Reverse => slot.0 | DIRECTION_BIT,
    }
}

#[inline(always)]
const fn unpack(value: u32) -> (SlotIx, Direction) {
    let direction = if value & DIRECTION_BIT == 0 {
        Direction::Forward
    } else {
        Direction::Reverse
    };
    (SlotIx(value & !DIRECTION_BIT), direction)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::{Index, IndexFull, MIN_OVERFLOW, PLACES};
    use crate::conntrack::entry::Direction;
    use crate::ids::SlotIx;

    type Model = BTreeMap<u64, BTreeSet<(u32, bool)>>;

    fn direction(reverse: bool) -> Direction {
        if reverse {
            Direction::Reverse
        } else {
            Direction::Forward
        }
    }

    /// Everything the index shows under `hash`.
    fn all(index: &Index, hash: u64) -> BTreeSet<(u32, bool)> {
        let mut seen = BTreeSet::new();
        index.lookup(hash, |slot, direction| {
            assert!(
                seen.insert((slot.0, direction == Direction::Reverse)),
                "twice"
            );
            false
        });
        seen
    }

    fn overflow_in_use(index: &Index) -> usize {
        let home = index.home_buckets;
        let mut free = 0;
        let mut at = index.free_overflow;
        while at != 0 {
            free += 1;
            at = index.bucket(at).expect("in the pool").link;
        }
        (index.fresh_overflow - home) as usize - free
    }

    #[test]
    fn a_zeroed_bucket_is_empty() {
        let index = Index::with_capacity(100).expect("memory");
        assert!(
            index
                .buckets
                .as_slice()
                .iter()
                .all(|b| b.tags == [0; PLACES] && b.link == 0)
        );
        assert_eq!(index.lookup(77, |_, _| true), None);
        assert_eq!(index.candidate(77), None);
    }

    #[test]
    fn a_full_table_needs_under_half_of_the_overflow_pool() {
        let connections = 100_000u32;
        let mut index = Index::with_capacity(connections as usize).expect("memory");
        let mut hash = 1u64;
        for slot in 0..connections {
            for reverse in [false, true] {
                hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
                let mixed = mixed ^ mixed >> 32;
                index
                    .insert(mixed, SlotIx(slot), direction(reverse))
                    .expect("room");
            }
        }
        let pool = index.buckets.as_slice().len() - index.home_buckets as usize;
        let used = overflow_in_use(&index);
        assert!(used > 0 && used * 2 < pool, "{used} of {pool}");
        assert!(index.bytes() as f64 / f64::from(connections) < 27.0);
    }

    #[test]
    fn flooding_one_bucket_ends_in_an_error_and_leaves_no_trace() {
        let mut index = Index::with_capacity(4).expect("memory");
        let hash = 5;
        let mut room = 0;
        while index.insert(hash, SlotIx(room), Direction::Forward).is_ok() {
            room += 1;
        }
        assert_eq!(room as usize, PLACES * (1 + MIN_OVERFLOW));
        let error = index.insert(hash, SlotIx(room), Direction::Forward);
        assert_eq!(error, Err(IndexFull));
        for slot in 0..room {
            assert!(index.remove(hash, SlotIx(slot), Direction::Forward));
        }
        assert_eq!(overflow_in_use(&index), 0);
        assert!(all(&index, hash).is_empty());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u8, u8, bool),
        Remove(u8, u8, bool),
        Clear,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            500 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(h, s, d)| Op::Insert(h, s, d)),
            400 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(h, s, d)| Op::Remove(h, s, d)),
            1 => Just(Op::Clear),
        ]
    }

    /// Few hashes, three buckets: chains grow long. Low bits 0 are among them,
    /// 1 (whose tag would be the same) is not.
    fn hash_of(choice: u8) -> u64 {
        let choice = u64::from(choice % 12);
        choice << 60 | (choice * 2)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The index holds what a map of sets holds, says so, and has no more
        /// overflow buckets in use than the content needs.
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec(op(), 1..1500)) {
            let mut index = Index::with_capacity(6).expect("memory");
            let mut model = Model::new();
            for op in ops {
                match op {
                    Op::Insert(h, slot, reverse) => {
                        let hash = hash_of(h);
                        let set = model.entry(hash).or_default();
                        if !set.contains(&(u32::from(slot), reverse))
                            && index.insert(hash, SlotIx(slot.into()), direction(reverse)).is_ok()
                        {
                            set.insert((slot.into(), reverse));
                        }
                    }
                    Op::Remove(h, slot, reverse) => {
                        let hash = hash_of(h);
                        let known = model.get_mut(&hash).is_some_and(|s| s.remove(&(slot.into(), reverse)));
                        let removed = index.remove(hash, SlotIx(slot.into()), direction(reverse));
                        prop_assert_eq!(removed, known);
                    }
                    Op::Clear => {
                        index.clear_all();
                        model.clear();
                    }
                }
            }
            let mut per_bucket = BTreeMap::<u32, usize>::new();
            for (&hash, set) in &model {
                prop_assert_eq!(&all(&index, hash), set);
                *per_bucket.entry(index.home(hash)).or_default() += set.len();
            }
            let needed: usize = per_bucket.values()
                .map(|&n| n.div_ceil(PLACES).saturating_sub(1)).sum();
            prop_assert_eq!(overflow_in_use(&index), needed);
            let held: usize = index.buckets.as_slice().iter()
                .map(|b| b.tags.iter().filter(|&&t| t != 0).count()).sum();
            prop_assert_eq!(held, model.values().map(BTreeSet::len).sum::<usize>());
        }
    }
}
