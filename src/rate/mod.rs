//! Token buckets: how many packets of its own a worker may send, resets and ICMP
//! errors. Time is an argument.

pub mod fair;

use crate::time::Millis;

/// Credit that one packet costs: a rate of one per second earns one unit per
/// millisecond.
const COST: u64 = 1_000;

/// A token bucket of one worker. Starts full.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    per_second: u32,
    capacity: u64,
    credit: u64,
    updated: Millis,
}

impl RateLimit {
    /// `per_second` packets on average, `burst` at once.
    pub const fn new(per_second: u32, burst: u32, now: Millis) -> Self {
        let capacity = burst as u64 * COST;
        Self {
            per_second,
            capacity,
            credit: capacity,
            updated: now,
        }
    }

    /// Sets another rate; credit above the new capacity is lost.
    pub fn set_rate(&mut self, per_second: u32, burst: u32) {
        self.per_second = per_second;
        self.capacity = u64::from(burst) * COST;
        self.credit = self.credit.min(self.capacity);
    }

    /// Whether more than half of the burst is left.
    #[must_use]
    pub fn is_over_half(&mut self, now: Millis) -> bool {
        self.earn(now);
        self.credit * 2 > self.capacity
    }

    #[inline]
    fn earn(&mut self, now: Millis) {
        let elapsed = now.since(self.updated);
        self.updated = now;
        self.credit = self.capacity.min(
            self.credit
                .saturating_add(elapsed.saturating_mul(u64::from(self.per_second))),
        );
    }

    /// Whether `count` more may be sent now, all or none; counts them if so.
    /// `now` never goes back from call to call. False for ever where `count` is
    /// above the burst.
    #[must_use]
    #[inline]
    pub fn take(&mut self, count: u32, now: Millis) -> bool {
        let cost = u64::from(count) * COST;
        self.earn(now);
        if self.credit < cost {
            return false;
        }
        self.credit -= cost;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut limit = RateLimit::new(10, 3, Millis(0));
        let taken: Vec<bool> = (0..5).map(|_| limit.take(1, Millis(0))).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(!limit.take(1, Millis(99)), "a tenth of a second less one");
        assert!(limit.take(1, Millis(100)));
        assert!(!limit.take(1, Millis(100)));
    }

    #[test]
    fn earns_no_more_than_the_burst_however_long_it_was_idle() {
        let months = Millis(u64::from(u32::MAX) * 3);
        let mut limit = RateLimit::new(1_000, 2, Millis(0));
        assert!(limit.take(2, Millis(0)));
        assert!(limit.take(1, months));
        assert!(limit.take(1, months));
        assert!(!limit.take(1, months));
    }

    #[test]
    fn a_rate_of_zero_ends_with_the_burst() {
        let mut limit = RateLimit::new(0, 1, Millis(0));
        assert!(limit.take(1, Millis(0)));
        assert!(!limit.take(1, Millis(u64::from(u32::MAX))));
    }

    #[test]
    fn takes_all_or_none() {
        let mut limit = RateLimit::new(1, 3, Millis(0));
        assert!(limit.take(2, Millis(0)));
        assert!(!limit.take(2, Millis(0)), "one is left");
        assert!(limit.take(1, Millis(0)));
    }

    proptest! {
        /// Against a bucket counted in whole milliseconds by rational numbers.
        #[test]
        fn agrees_with_exact_arithmetic(
            per_second in 0u32..5_000,
            burst in 1u32..100,
            asks in prop::collection::vec((0u32..50, 1u32..5), 1..300),
        ) {
            let mut limit = RateLimit::new(per_second, burst, Millis(0));
            let (mut now, mut thousandths) = (0u32, u128::from(burst) * 1_000);
            for (wait, count) in asks {
                now += wait;
                thousandths = (thousandths + u128::from(wait) * u128::from(per_second))
                    .min(u128::from(burst) * 1_000);
                let affordable = thousandths / 1_000 >= u128::from(count);
                if affordable {
                    thousandths -= u128::from(count) * 1_000;
                }
                prop_assert_eq!(limit.take(count, Millis(u64::from(now))), affordable);
            }
        }

        /// What a receiver of the packets cares about, whatever the arithmetic.
        #[test]
        fn never_more_than_the_burst_and_the_rate(
            per_second in 0u32..5_000,
            burst in 1u32..100,
            waits in prop::collection::vec(0u32..3, 1..500),
        ) {
            let mut limit = RateLimit::new(per_second, burst, Millis(0));
            let (mut now, mut sent) = (0u32, 0u32);
            for wait in waits {
                now += wait;
                sent += u32::from(limit.take(1, Millis(u64::from(now))));
                prop_assert!(sent <= burst + now * per_second / 1_000);
            }
        }
    }
}
