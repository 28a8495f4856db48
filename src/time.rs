//! Time as the packet path sees it: read once per burst, then passed down.
//! Nothing below the worker loop reads a clock, so tests need no sleep.
//!
//! [`Millis`] is what everything keeps that may lie idle for long. [`Stamp`] is
//! its lower half, for the 128 bytes of a connection's entry alone; it means
//! something only next to a `Millis` that is near.

/// Milliseconds since the worker started. Never wraps, so an instant that was
/// kept for months is still in the past.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The instant `delta_ms` later.
    #[inline(always)]
    pub const fn plus(self, delta_ms: u64) -> Self {
        Self(self.0.saturating_add(delta_ms))
    }

    /// Milliseconds from `earlier` to `self`; 0 where `earlier` is in fact later.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether `self` is at or after `deadline`.
    #[inline(always)]
    pub const fn reached(self, deadline: Self) -> bool {
        self.0 >= deadline.0
    }

    /// The same instant as an entry keeps it.
    #[inline(always)]
    pub const fn stamp(self) -> Stamp {
        Stamp(self.0 as u32)
    }
}

/// Milliseconds since the worker started, modulo 2^32 (49 days).
///
/// Comparisons are those of RFC 1982 serial numbers: two instants less than
/// 24 days apart compare correctly across the wrap. No timeout of a connection
/// is longer than that, and its timer looks at the entry in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Stamp(pub u32);

impl Stamp {
    /// The instant `delta_ms` later.
    #[inline(always)]
    pub const fn plus(self, delta_ms: u32) -> Self {
        Self(self.0.wrapping_add(delta_ms))
    }

    /// Milliseconds from `earlier` to `self`; 0 where `earlier` is in fact later.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        let delta = self.0.wrapping_sub(earlier.0);
        if delta as i32 >= 0 { delta } else { 0 }
    }

    /// Whether `self` is at or after `deadline`.
    #[inline(always)]
    pub const fn reached(self, deadline: Self) -> bool {
        self.0.wrapping_sub(deadline.0) as i32 >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Millis, Stamp};

    #[test]
    fn stamps_compare_across_the_wrap() {
        let before = Stamp(u32::MAX - 5);
        let after = before.plus(10);
        assert_eq!(after, Stamp(4));
        assert_eq!(after.since(before), 10);
        assert_eq!(before.since(after), 0);
        assert!(after.reached(before));
        assert!(!before.reached(after));
    }

    #[test]
    fn what_was_idle_for_months_is_in_the_past() {
        let then = Millis(7);
        for days in [1, 24, 25, 49, 50, 400] {
            let now = Millis(7 + days * 86_400_000);
            assert!(now.reached(then.plus(1_000)), "{days} days");
            assert_eq!(now.since(then), days * 86_400_000);
            assert_eq!(then.since(now), 0);
        }
    }

    #[test]
    fn a_stamp_is_the_lower_half() {
        assert_eq!(Millis((3 << 32) + 9).stamp(), Stamp(9));
    }
}
