//! The time-stamp counter: what a worker reads once per burst.

use super::Eal;
use crate::time::Millis;

/// Turns readings of the TSC into milliseconds. Each worker has its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    cycles_per_ms: u64,
}

impl Clock {
    /// A clock whose time 0 is now. The frequency is the one EAL measured.
    pub fn new(_eal: &Eal) -> Self {
        // SAFETY: EAL is initialised, which is what the call needs.
        let hz = unsafe { dpdk_sys::rte_get_tsc_hz() };
        Self {
            start: Self::cycles(),
            cycles_per_ms: (hz / 1000).max(1),
        }
    }

    /// The TSC now.
    #[inline(always)]
    pub fn cycles() -> u64 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has the instruction, and Linux lets it be used.
        unsafe {
            core::arch::x86_64::_rdtsc()
        }
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: reads a counter; has no precondition.
        unsafe {
            dpdk_sys::fullgate_tsc()
        }
    }

    /// Cycles of the TSC in a millisecond.
    pub fn cycles_per_ms(&self) -> u64 {
        self.cycles_per_ms
    }

    /// The time that a reading of the TSC means. That of a core which is some
    /// cycles behind the one that made the clock is 0, and no time far ahead.
    #[inline(always)]
    pub fn millis(&self, cycles: u64) -> Millis {
        Millis(cycles.saturating_sub(self.start) / self.cycles_per_ms)
    }
}

/// Processor time of the calling thread, nanoseconds: a benchmark's clock on a
/// machine that has other work. A system call; the packet path never asks.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes a timespec; the clock exists on every Linux, so the call
    // can't fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
