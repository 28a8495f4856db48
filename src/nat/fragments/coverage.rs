//! Which bytes of a datagram have passed: what tells a datagram that is through
//! from one of which more is to come, and its fragments from those of the next
//! one with the same identification.

use super::Fragment;

/// Stretches kept apart. Fragments come in order, or against it, or a few are
/// exchanged; of a datagram with more gaps than that no end is seen.
const STRETCHES: usize = 4;

/// The bytes of one datagram that have passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coverage {
    /// From and to; the first `used` of them.
    stretches: [(u16, u16); STRETCHES],
    used: u8,
    /// The datagram has more gaps than are kept.
    lost_track: bool,
    /// Length of the whole, once its last fragment has passed.
    total: Option<u16>,
}

impl Coverage {
    pub(super) const NONE: Self = Self {
        stretches: [(0, 0); STRETCHES],
        used: 0,
        lost_track: false,
        total: None,
    };

    /// Whether a fragment may be one of this datagram that has not passed yet.
    pub(super) fn fits(&self, fragment: &Fragment) -> bool {
        let (from, to) = (fragment.from, fragment.to);
        let stretches = &self.stretches[..usize::from(self.used)];
        if stretches
            .iter()
            .any(|&(start, end)| from < end && start < to)
        {
            return false;
        }
        let beyond = self.total.is_some_and(|total| to > total);
        let too_short = fragment.last && stretches.iter().any(|&(_, end)| end > to);
        let second_last = fragment.last && self.total.is_some();
        !(beyond || too_short || second_last)
    }

    /// A fragment passes.
    pub(super) fn add(&mut self, fragment: &Fragment) {
        if fragment.last {
            self.total = Some(fragment.to);
        }
        let (mut from, mut to) = (fragment.from, fragment.to);
        let mut kept = 0;
        for at in 0..usize::from(self.used) {
            let (start, end) = self.stretches[at];
            if from <= end && start <= to {
                from = from.min(start);
                to = to.max(end);
            } else {
                self.stretches[kept] = (start, end);
                kept += 1;
            }
        }
        match self.stretches.get_mut(kept) {
            Some(free) => {
                *free = (from, to);
                kept += 1;
            }
            None => self.lost_track = true,
        }
        self.used = kept as u8;
    }

    /// All of the datagram has passed.
    pub(super) fn is_complete(&self) -> bool {
        let whole = self.total.map(|total| (0, total));
        !self.lost_track && self.used == 1 && Some(self.stretches[0]) == whole
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Coverage;
    use crate::nat::fragments::{Datagram, Fragment};

    fn piece(from: u16, to: u16, last: bool) -> Fragment {
        let datagram = Datagram {
            src: [192, 0, 2, 1].into(),
            dst: [192, 0, 2, 2].into(),
            ident: 1,
            protocol: 17,
        };
        Fragment {
            datagram,
            from,
            to,
            last,
        }
    }

    #[test]
    fn a_hole_is_filled_and_nothing_else_fits() {
        let mut seen = Coverage::NONE;
        seen.add(&piece(0, 80, false));
        seen.add(&piece(160, 200, true));
        assert!(!seen.is_complete());
        for (from, to, last) in [
            (72, 160, false),
            (80, 168, false),
            (200, 240, false),
            (80, 160, true),
            (0, 80, false),
        ] {
            assert!(!seen.fits(&piece(from, to, last)), "{from} to {to}");
        }
        assert!(seen.fits(&piece(80, 160, false)));
        seen.add(&piece(80, 160, false));
        assert!(seen.is_complete());
    }

    #[test]
    fn a_datagram_with_too_many_holes_never_ends() {
        let mut seen = Coverage::NONE;
        for at in (0..100).step_by(2) {
            seen.add(&piece(at * 8, at * 8 + 8, false));
        }
        for at in (1..99).step_by(2) {
            seen.add(&piece(at * 8, at * 8 + 8, false));
        }
        seen.add(&piece(99 * 8, 100 * 8, true));
        assert!(!seen.is_complete());
    }

    proptest! {
        /// Against a list of bytes: a datagram whose pieces come with few of
        /// them exchanged is complete with the last of them and no sooner.
        #[test]
        fn complete_with_the_last_byte(
            cuts in proptest::collection::btree_set(1u16..400, 0..12),
            order in proptest::collection::vec(any::<u8>(), 13),
        ) {
            let mut edges: Vec<u16> = cuts.iter().map(|cut| cut * 8).collect();
            edges.insert(0, 0);
            edges.push(3_205);
            let last = edges.len() - 2;
            let mut pieces: Vec<Fragment> = edges
                .windows(2)
                .enumerate()
                .map(|(at, edge)| piece(edge[0], edge[1], at == last))
                .collect();
            for (at, swap) in order.iter().enumerate().take(3) {
                let len = pieces.len();
                pieces.swap(at % len, usize::from(*swap) % len);
            }
            let mut seen = Coverage::NONE;
            for (at, one) in pieces.iter().enumerate() {
                prop_assert!(!seen.is_complete());
                prop_assert!(seen.fits(one));
                seen.add(one);
                prop_assert!(seen.lost_track || !seen.fits(one));
                prop_assert_eq!(
                    seen.is_complete(),
                    at + 1 == pieces.len() && !seen.lost_track
                );
            }
        }
    }
}
