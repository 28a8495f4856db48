//! From the workers' readings of the TSC to the time of day. The TSC's rate is
//! measured against the monotonic clock over the whole life of the process.

use std::time::{Instant, SystemTime};

/// The clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) tsc: u64,
    at: Instant,
    /// Nanoseconds since 1970.
    unix_ns: u64,
}

/// Knows the TSC's rate.
#[derive(Debug)]
pub(super) struct Times {
    read: fn() -> u64,
    start: Moment,
}

impl Times {
    pub(super) fn new(read: fn() -> u64) -> Self {
        Self {
            read,
            start: look(read),
        }
    }

    /// The clocks now.
    pub(super) fn now(&self) -> Moment {
        look(self.read)
    }

    /// Nanoseconds from a reading of the TSC to `now`.
    pub(super) fn age_ns(&self, tsc: u64, now: &Moment) -> u64 {
        let cycles = now.tsc.saturating_sub(self.start.tsc);
        let elapsed = now.at.saturating_duration_since(self.start.at).as_nanos();
        let age = u128::from(now.tsc.saturating_sub(tsc));
        (age * elapsed)
            .checked_div(u128::from(cycles))
            .map_or(0, |ns| ns as u64)
    }

    /// The time of day of a reading of the TSC, nanoseconds since 1970.
    pub(super) fn unix_ns(&self, tsc: u64, now: &Moment) -> u64 {
        now.unix_ns.saturating_sub(self.age_ns(tsc, now))
    }
}

/// Reads all clocks at nearly the same moment: the best of three tries, as
/// another thread may come between two readings.
fn look(read: fn() -> u64) -> Moment {
    let try_once = || {
        let before = read();
        let wall = SystemTime::now();
        let at = Instant::now();
        let took = read().saturating_sub(before);
        let unix = wall.duration_since(SystemTime::UNIX_EPOCH);
        let moment = Moment {
            tsc: before + took / 2,
            at,
            unix_ns: unix.map_or(0, |unix| unix.as_nanos() as u64),
        };
        (took, moment)
    };
    let (mut least, mut best) = try_once();
    for _ in 0..2 {
        let (took, moment) = try_once();
        if took < least {
            (least, best) = (took, moment);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rate_is_measured_since_the_start() {
        let at = Instant::now();
        let start = Moment {
            tsc: 1_000,
            at,
            unix_ns: 50,
        };
        let times = Times { read: || 0, start };
        // 3 cycles a nanosecond; the clock was set meanwhile.
        let now = Moment {
            tsc: 1_000 + 6_000_000_000,
            at: at + Duration::from_secs(2),
            unix_ns: 9_000_000_000,
        };
        assert_eq!(times.age_ns(now.tsc - 3_000, &now), 1_000);
        assert_eq!(times.unix_ns(now.tsc - 3_000, &now), 8_999_999_000);
        assert_eq!(times.age_ns(now.tsc + 5, &now), 0);
        assert_eq!(times.age_ns(7, &start), 0, "no time, no rate");
    }
}
