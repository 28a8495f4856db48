//! Time as the packet path sees it: read once per burst, then passed down.
//! Nothing below the worker loop reads a clock, so tests need no sleep.

/// Milliseconds since the worker started, modulo 2^32 (49 days).
///
/// Comparisons are those of RFC 1982 serial numbers: two instants less than
/// 24 days apart compare correctly across the wrap. No timer of the gateway is
/// longer than that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Millis(pub u32);

impl Millis {
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
    use super::Millis;

    #[test]
    fn compares_across_the_wrap() {
        let before = Millis(u32::MAX - 5);
        let after = before.plus(10);
        assert_eq!(after, Millis(4));
        assert_eq!(after.since(before), 10);
        assert_eq!(before.since(after), 0);
        assert!(after.reached(before));
        assert!(!before.reached(after));
    }
}
