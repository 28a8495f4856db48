//! A set of small integers that finds its next member in constant time at any
//! fill: a bitmap, above it a bitmap of the words that have members, above
//! that one word more. Three levels of 64 reach 262,144.
//!
//! Bits are stored XORed with `FLIP`, so that all-zero memory is the full set
//! where `FLIP` is all ones, and the empty set where it is zero. Creating
//! either writes next to nothing: the operating system's zero pages serve
//! until an index is first touched.

/// The set that zeroed memory makes full.
pub(super) type InitiallyFull = IndexSet<{ u64::MAX }>;
/// The set that zeroed memory makes empty.
pub(super) type InitiallyEmpty = IndexSet<0>;

/// Most indices: what three levels reach.
pub(super) const MAX_LEN: u32 = 64 * 64 * 64;

/// Words before and after the bitmaps that are never touched: what else is on
/// the first and the last cache line. Sets of several workers lie side by side
/// on the heap. An aligned allocation would not get zeroed
/// pages from the kernel for free.
const MARGIN: usize = 64 / size_of::<u64>() - 1;

/// Integers from 0 to a fixed length.
#[derive(Debug)]
pub(super) struct IndexSet<const FLIP: u64> {
    /// Between two margins the bitmap, and from word `middle` on the bitmap of
    /// its words that have members.
    memory: Box<[u64]>,
    middle: usize,
    /// The middle words that have members; never flipped.
    top: u64,
}

/// The bits of `word` from position `bit` on.
#[inline(always)]
const fn from_bit(word: u64, bit: usize) -> u64 {
    word & (u64::MAX << (bit % 64))
}

impl<const FLIP: u64> IndexSet<FLIP> {
    /// Room for indices below `len`, which is at most [`MAX_LEN`].
    pub(super) fn new(len: u32) -> Self {
        assert!(len <= MAX_LEN, "{len} indices");
        let len = len as usize;
        let middle = len.div_ceil(64).max(1);
        let mut set = Self {
            memory: vec![0; middle + middle.div_ceil(64) + 2 * MARGIN].into(),
            middle,
            top: 0,
        };
        if FLIP != 0 {
            set.cut(len);
        }
        set
    }

    /// Removes what the last words of a full set hold beyond its end.
    fn cut(&mut self, len: usize) {
        let below = |end: usize| u64::MAX.checked_shr(64 - end as u32).unwrap_or(0);
        let last = self.middle - 1;
        self.put(last, below(len - last * 64));
        let (words, last) = (len.div_ceil(64), last / 64);
        self.put(self.middle + last, below(words - last * 64));
        self.top = below(words.div_ceil(64));
    }

    #[inline(always)]
    fn get(&self, word: usize) -> u64 {
        self.memory[MARGIN + word] ^ FLIP
    }

    #[inline(always)]
    fn put(&mut self, word: usize, members: u64) {
        self.memory[MARGIN + word] = members ^ FLIP;
    }

    /// Whether `index` is a member.
    #[inline]
    pub(super) fn contains(&self, index: u32) -> bool {
        self.get(index as usize / 64) & 1 << (index % 64) != 0
    }

    /// Makes `index` a member; whether it was none.
    #[inline]
    pub(super) fn insert(&mut self, index: u32) -> bool {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        let members = self.get(word);
        self.put(word, members | bit);
        if members == 0 {
            let (middle, bit) = (self.middle + word / 64, 1 << (word % 64));
            self.put(middle, self.get(middle) | bit);
            self.top |= 1 << (word / 64);
        }
        members & bit == 0
    }

    /// Makes `index` no member; whether it was one.
    #[inline]
    pub(super) fn remove(&mut self, index: u32) -> bool {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        let members = self.get(word);
        self.put(word, members & !bit);
        if members == bit {
            let middle = self.middle + word / 64;
            let words = self.get(middle) & !(1 << (word % 64));
            self.put(middle, words);
            if words == 0 {
                self.top &= !(1 << (word / 64));
            }
        }
        members & bit != 0
    }

    /// The first member from `index` on; after the last, from 0 on.
    #[inline]
    pub(super) fn next_cyclic(&self, index: u32) -> Option<u32> {
        self.next(index).or_else(|| self.next(0))
    }

    /// The first member from `index` on.
    #[inline]
    fn next(&self, index: u32) -> Option<u32> {
        let word = index as usize / 64;
        let members = from_bit(self.get(word), index as usize);
        if members != 0 {
            return Some(word as u32 * 64 + members.trailing_zeros());
        }
        let word = self.next_word(word + 1)?;
        Some(word as u32 * 64 + self.get(word).trailing_zeros())
    }

    /// The first word from `word` on that has members.
    fn next_word(&self, word: usize) -> Option<usize> {
        let group = word / 64;
        if self.middle + group < self.memory.len() - 2 * MARGIN {
            let words = from_bit(self.get(self.middle + group), word);
            if words != 0 {
                return Some(group * 64 + words.trailing_zeros() as usize);
            }
        }
        // Where `group` is the last there can be, nothing comes after it.
        let groups = self.top & u64::MAX.checked_shl(group as u32 + 1).unwrap_or(0);
        if groups == 0 {
            return None;
        }
        let group = groups.trailing_zeros() as usize;
        let words = self.get(self.middle + group);
        Some(group * 64 + words.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Lengths around every boundary of a word, a group of words, and all.
    const LENGTHS: [u32; 12] = [
        0,
        1,
        63,
        64,
        65,
        4095,
        4096,
        4097,
        64512,
        65536,
        MAX_LEN - 1,
        MAX_LEN,
    ];

    fn members<const FLIP: u64>(set: &IndexSet<FLIP>) -> Vec<u32> {
        let mut found = Vec::new();
        let mut next = set.next(0);
        while let Some(index) = next {
            found.push(index);
            next = if index + 1 < set.middle as u32 * 64 {
                set.next(index + 1)
            } else {
                None
            };
        }
        found
    }

    #[test]
    fn starts_full_or_empty() {
        for len in LENGTHS {
            assert_eq!(members(&InitiallyFull::new(len)), Vec::from_iter(0..len));
            assert_eq!(members(&InitiallyEmpty::new(len)), [0; 0]);
        }
    }

    /// What a port pool costs rests on this.
    #[test]
    fn costs_little_more_than_a_bit_an_index() {
        let words = InitiallyFull::new(64512).memory.len();
        assert_eq!(words, 1008 + 16 + 2 * MARGIN);
    }

    fn touches_no_line_of_a_neighbour<const FLIP: u64>() {
        for len in LENGTHS.into_iter().filter(|&len| len <= 65536) {
            let mut set = IndexSet::<FLIP>::new(len);
            (0..len).for_each(|index| _ = set.insert(index));
            (0..len).for_each(|index| _ = set.remove(index));
            (0..len).step_by(3).for_each(|index| _ = set.insert(index));
            let line = |word: &u64| std::ptr::from_ref(word).addr() / 64;
            let (all, len) = (&set.memory, set.memory.len());
            let used = MARGIN..len - MARGIN;
            // Whatever follows or precedes the memory starts a word further.
            let last = std::ptr::from_ref(&all[len - 1]).addr() + 8;
            let before = std::ptr::from_ref(&all[0]).addr() - 1;
            assert!(line(&all[used.start]) > before / 64);
            assert!(line(&all[used.end - 1]) < last / 64);
            let margins = all[..used.start].iter().chain(&all[used.end..]);
            assert!(margins.copied().all(|word| word == 0));
        }
    }

    #[test]
    fn sets_touch_no_line_of_a_neighbour() {
        touches_no_line_of_a_neighbour::<{ u64::MAX }>();
        touches_no_line_of_a_neighbour::<0>();
    }

    /// Empties and refills a set one by one, so that every summary bit of
    /// every level changes both ways.
    fn drains_and_refills<const FLIP: u64>() {
        for len in LENGTHS.into_iter().filter(|&len| len <= 65536) {
            let mut set = IndexSet::<FLIP>::new(len);
            (0..len).for_each(|index| _ = set.insert(index));
            for index in 0..len {
                assert_eq!(set.next(0), Some(index));
                assert!(set.remove(index) && !set.remove(index) && !set.contains(index));
            }
            assert_eq!(set.next_cyclic(len / 2), None);
            for index in (0..len).rev() {
                assert!(set.insert(index) && !set.insert(index) && set.contains(index));
                assert_eq!(set.next_cyclic(0), Some(index));
            }
            assert_eq!(members(&set), Vec::from_iter(0..len));
        }
    }

    #[test]
    fn full_sets_drain_and_refill() {
        drains_and_refills::<{ u64::MAX }>();
    }

    #[test]
    fn empty_sets_drain_and_refill() {
        drains_and_refills::<0>();
    }

    fn follows_the_model<const FLIP: u64>(len: u32, steps: Vec<(u8, u32)>) {
        let mut set = IndexSet::<FLIP>::new(len);
        let mut model: BTreeSet<u32> = (0..if FLIP == 0 { 0 } else { len }).collect();
        for (what, index) in steps {
            let index = index % len;
            match what {
                0 => assert_eq!(set.insert(index), model.insert(index)),
                1 => assert_eq!(set.remove(index), model.remove(&index)),
                // A run of removals, so that whole words and groups empty.
                2 => (index..len.min(index + 300)).for_each(|index| {
                    assert_eq!(set.remove(index), model.remove(&index));
                }),
                _ => assert_eq!(set.contains(index), model.contains(&index)),
            }
            let next = model.range(index..).next().or(model.first());
            assert_eq!(set.next_cyclic(index), next.copied());
        }
        assert_eq!(members(&set), Vec::from_iter(model));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn behaves_as_a_set(
            len in prop_oneof![1u32..200, Just(4096), 1u32..10_000],
            steps in prop::collection::vec((0u8..4, any::<u32>()), 1..300),
        ) {
            follows_the_model::<{ u64::MAX }>(len, steps.clone());
            follows_the_model::<0>(len, steps);
        }
    }
}
