//! Slow start: a server that came back gets a growing share of what its weight
//! says. Pure.

use std::time::{Duration, Instant};

/// The share of a server outside of a slow start; others get from 1 on.
pub const FULL_SHARE: u32 = 20;

/// One server's slow start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ramp {
    began: Instant,
    length: Duration,
}

impl Ramp {
    /// One that begins at `began`; `None` where it would have no length.
    pub fn new(began: Instant, length: Duration) -> Option<Self> {
        (!length.is_zero()).then_some(Self { began, length })
    }

    /// The share at `now`, 1 to [`FULL_SHARE`].
    pub fn share(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.began);
        let steps = elapsed.as_micros() * u128::from(FULL_SHARE) / self.length.as_micros().max(1);
        steps.clamp(1, FULL_SHARE.into()) as u32
    }

    /// When the share is next another than at `now`; `None` once it is full.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        let next = self.share(now) + 1;
        // Rounded up: the step is then over for certain.
        let micros = (self.length.as_micros() * u128::from(next)).div_ceil(FULL_SHARE.into());
        (next <= FULL_SHARE).then(|| self.began + Duration::from_micros(micros as u64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_grows_evenly() {
        let began = Instant::now();
        let ramp = Ramp::new(began, Duration::from_secs(10)).expect("a length");
        let at = |ms| ramp.share(began + Duration::from_millis(ms));
        assert_eq!(
            [0, 999, 1_000, 5_000, 9_999, 10_000, 99_000].map(at),
            [1, 1, 2, 10, 19, 20, 20]
        );
        assert_eq!(Ramp::new(began, Duration::ZERO), None);
    }

    proptest! {
        /// Stepping from one appointment to the next meets every share once, in
        /// order, and ends.
        #[test]
        fn every_step_is_met(micros in 1_u64..10_000_000_000) {
            let began = Instant::now();
            let length = Duration::from_micros(micros);
            let ramp = Ramp::new(began, length).expect("a length");
            let (mut now, mut share) = (began, ramp.share(began));
            prop_assert_eq!(share, 1);
            while let Some(next) = ramp.next_step(now) {
                prop_assert!(next >= now);
                let grown = ramp.share(next);
                prop_assert!(grown > share);
                // Steps of less than a microsecond may be taken together.
                prop_assert!(grown == share + 1 || micros < u64::from(FULL_SHARE));
                (now, share) = (next, grown);
            }
            prop_assert_eq!(share, FULL_SHARE);
            prop_assert!(now <= began + length);
        }
    }
}
