//! A rate limit that many share, and that none of them can use up for the rest.
//!
//! Two seconds' worth may be sent at once. While more than one of them is left,
//! everybody gets from it. From then on each gets its share only: sources that
//! ask often are held back, and those that ask now and then find what they need
//! in the other half. Shares are kept
//! by a keyed hash in two rows of buckets; only who meets a busy source in both
//! rows is taken for it.

use super::RateLimit;
use crate::time::Millis;

/// Buckets in a row: whom one busy source takes along is one in 128 squared.
const ROW: usize = 128;

/// A source's share of the rate: one part in so many.
const PARTS: u32 = 16;

/// A token bucket of one worker with shares.
#[derive(Debug)]
pub struct FairLimit {
    per_second: u32,
    all: RateLimit,
    shares: [Box<[RateLimit; ROW]>; 2],
    key: u64,
}

/// What one source gets of a rate.
fn share_of(rate: u32) -> u32 {
    rate.div_ceil(PARTS)
}

impl FairLimit {
    /// `per_second` on average, and as many at once for one source; twice as
    /// many for several. `key` is what nobody
    /// outside knows.
    pub fn new(per_second: u32, key: u64, now: Millis) -> Self {
        let share = share_of(per_second);
        let row = || Box::new([RateLimit::new(share, share, now); ROW]);
        Self {
            per_second,
            all: RateLimit::new(per_second, per_second.saturating_mul(2), now),
            shares: [row(), row()],
            key,
        }
    }

    /// Sets another rate. It starts full.
    pub fn set_rate(&mut self, per_second: u32, now: Millis) {
        if self.per_second == per_second {
            return;
        }
        let share = share_of(per_second);
        self.per_second = per_second;
        self.all = RateLimit::new(per_second, per_second.saturating_mul(2), now);
        for row in &mut self.shares {
            row.fill(RateLimit::new(share, share, now));
        }
    }

    /// Whether one more may be sent for `source`; counts it if so.
    #[must_use]
    pub fn take(&mut self, source: u32, now: Millis) -> bool {
        let hash = (u64::from(source) ^ self.key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = hash ^ hash >> 29;
        let hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let [first, second] = &mut self.shares;
        let one = first[(hash >> 57) as usize % ROW].take(1, now);
        let other = second[(hash >> 50) as usize % ROW].take(1, now);
        (one || other || self.all.is_over_half(now)) && self.all.take(1, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOODER: u32 = 7;

    #[test]
    fn one_source_alone_gets_a_second_s_worth_and_then_the_rate() {
        let mut limit = FairLimit::new(1_000, 1, Millis(0));
        let at_once = (0..5_000)
            .filter(|_| limit.take(FLOODER, Millis(0)))
            .count();
        assert_eq!(at_once, 1_000, "more than its share");
        let later = (1..=10_000)
            .map(|ms| (0..3).filter(|_| limit.take(FLOODER, Millis(ms))).count())
            .sum::<usize>();
        assert!((9_990..=10_010).contains(&later), "{later}");
    }

    #[test]
    fn a_flood_starves_nobody_else() {
        for key in 0..20 {
            let mut limit = FairLimit::new(1_000, key, Millis(0));
            let mut refused = 0;
            for ms in 0..10_000 {
                for _ in 0..30 {
                    let _ = limit.take(FLOODER, Millis(ms));
                }
                // 200 others, each once a second.
                if ms % 5 == 0 {
                    let other = 1_000 + ms as u32 / 5 % 200;
                    refused += u32::from(!limit.take(other, Millis(ms)));
                }
            }
            assert_eq!(refused, 0, "key {key}");
        }
    }

    #[test]
    fn never_more_than_the_rate() {
        let mut limit = FairLimit::new(100, 3, Millis(0));
        let mut sent = 0;
        for ms in 0..10_000_u64 {
            for source in 0..20 {
                sent += u32::from(limit.take(ms as u32 * 20 + source, Millis(ms)));
            }
        }
        assert!(sent <= 200 + 1_000, "{sent}");
    }

    #[test]
    fn small_rates_and_none() {
        let mut limit = FairLimit::new(1, 3, Millis(0));
        assert!(limit.take(1, Millis(0)));
        assert!(!limit.take(1, Millis(0)));
        assert!(limit.take(2, Millis(0)));
        assert!(!limit.take(3, Millis(0)));
        assert!(limit.take(3, Millis(1_000)));
        limit.set_rate(0, Millis(100_000));
        assert!(!limit.take(1, Millis(100_000)));
        limit.set_rate(10, Millis(100_000));
        assert!(limit.take(1, Millis(100_000)));
    }
}
