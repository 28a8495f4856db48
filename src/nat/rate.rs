//! How many packets of its own a worker may send: resets and ICMP errors. A
//! token bucket; time is an argument.

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

    /// Whether one more may be sent now; counts it if so. `now` never goes back
    /// from call to call.
    #[must_use]
    #[inline]
    pub fn take(&mut self, now: Millis) -> bool {
        let elapsed = u64::from(now.0.wrapping_sub(self.updated.0));
        self.updated = now;
        self.credit = self
            .capacity
            .min(self.credit + elapsed * u64::from(self.per_second));
        if self.credit < COST {
            return false;
        }
        self.credit -= COST;
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
        let taken: Vec<bool> = (0..5).map(|_| limit.take(Millis(0))).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(!limit.take(Millis(99)), "a tenth of a second less one");
        assert!(limit.take(Millis(100)));
        assert!(!limit.take(Millis(100)));
    }

    #[test]
    fn earns_across_the_wrap_of_the_clock_and_no_more_than_the_burst() {
        let mut limit = RateLimit::new(1_000, 2, Millis(u32::MAX - 4));
        assert!(limit.take(Millis(u32::MAX - 4)));
        assert!(limit.take(Millis(u32::MAX - 4)));
        assert!(limit.take(Millis(5)));
        assert!(limit.take(Millis(5)));
        assert!(!limit.take(Millis(5)));
    }

    #[test]
    fn a_rate_of_zero_ends_with_the_burst() {
        let mut limit = RateLimit::new(0, 1, Millis(0));
        assert!(limit.take(Millis(0)));
        assert!(!limit.take(Millis(u32::MAX)));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_and_never_less_than_the_rate(
            per_second in 1u32..5_000,
            burst in 1u32..100,
            steps in prop::collection::vec((0u32..50, 0u32..20), 1..200),
        ) {
            let mut limit = RateLimit::new(per_second, burst, Millis(0));
            let (mut now, mut sent, mut refused) = (0, 0u64, false);
            for (wait, asks) in steps {
                now += wait;
                for _ in 0..asks {
                    if limit.take(Millis(now)) { sent += 1 } else { refused = true }
                }
                let earned = u64::from(now) * u64::from(per_second) / 1_000;
                prop_assert!(sent <= u64::from(burst) + earned);
                if asks > 0 && !refused {
                    continue;
                }
                refused = false;
            }
        }
    }
}
