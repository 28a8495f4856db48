//! What the checker leaves for listings and metrics. Written by the checker
//! once a check, read by anybody; a lock is held for a few loads and stores.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::probe::{CAUSES, Cause};
use super::ramp::FULL_SHARE;
use super::trend::Verdict;

/// Upper bounds of the histogram's buckets, seconds; one more has no bound.
pub const BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
];

/// How often something took how long.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last has no upper bound.
    pub counts: [u64; BUCKETS.len() + 1],
    /// Seconds.
    pub sum: f64,
}

impl Histogram {
    pub fn note(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|&bound| seconds <= bound);
        self.counts[bucket.unwrap_or(BUCKETS.len())] += 1;
        self.sum += seconds;
    }
}

/// One server's checks.
#[derive(Clone, Debug)]
pub struct Facts {
    pub verdict: Verdict,
    /// When the verdict last changed, or the checks began.
    pub since: Instant,
    pub successes: u64,
    pub failures: u64,
    /// Those that could not be made, for a reason on this host.
    pub unmade: u64,
    /// Changes to up, and to down.
    pub rises: u64,
    pub falls: u64,
    /// The last one that failed or could not be made: when, and why.
    pub last_failure: Option<(Instant, String)>,
    /// How long the last one took that was made.
    pub took: Option<Duration>,
}

/// One server's checks, shared.
#[derive(Debug)]
pub struct Record {
    facts: Mutex<Facts>,
    /// What the management core gives it, of [`FULL_SHARE`].
    share: AtomicU32,
    /// Those of all servers of its service.
    pub(super) totals: Arc<Totals>,
}

impl Record {
    /// Of a server whose checks begin.
    pub fn new(verdict: Verdict, now: Instant, totals: Arc<Totals>) -> Self {
        Self {
            facts: Mutex::new(Facts {
                verdict,
                since: now,
                successes: 0,
                failures: 0,
                unmade: 0,
                rises: 0,
                falls: 0,
                last_failure: None,
                took: None,
            }),
            share: AtomicU32::new(FULL_SHARE),
            totals,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of all servers of its service.
    pub fn totals(&self) -> &Arc<Totals> {
        &self.totals
    }

    /// The share of its weight that it has, of [`FULL_SHARE`].
    pub fn share(&self) -> u32 {
        self.share.load(Ordering::Relaxed)
    }

    pub fn set_share(&self, share: u32) {
        self.share.store(share, Ordering::Relaxed);
    }

    /// What is known now.
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    took: Histogram,
    causes: [u64; CAUSES.len()],
}

/// The checks of all servers of a service.
#[derive(Debug, Default)]
pub struct Totals(Mutex<Sums>);

impl Totals {
    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, took: Duration, failed: Option<Cause>) {
        let mut sums = self.lock();
        sums.took.note(took);
        if let Some(cause) = failed {
            sums.causes[cause as usize] += 1;
        }
    }

    /// How long checks took.
    pub fn took(&self) -> Histogram {
        self.lock().took
    }

    /// How many failed, by [`CAUSES`].
    pub fn causes(&self) -> [u64; CAUSES.len()] {
        self.lock().causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_buckets() {
        let mut took = Histogram::default();
        for micros in [0, 250, 251, 1_000_000, 5_000_001] {
            took.note(Duration::from_micros(micros));
        }
        let [first, second, .., last] = took.counts;
        assert_eq!((first, second, last), (2, 1, 1));
        assert_eq!(took.counts.iter().sum::<u64>(), 5);
        assert!((took.sum - 6.000_502).abs() < 1e-9, "{}", took.sum);
    }
}
