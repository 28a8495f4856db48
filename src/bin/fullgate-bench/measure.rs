//! Timing the forwarder and nothing else.

use fullgate::dpdk::{Clock, thread_cpu_ns};
use fullgate::worker::Now;

use super::baseline::Forwarder;

/// Values between two powers of two are kept apart to one in 64.
const STEPS_SHIFT: u32 = 6;
const STEPS: u64 = 1 << STEPS_SHIFT;

/// How often each duration occurred, to within 2 %.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self {
            counts: vec![0; (64 << STEPS_SHIFT) as usize],
            total: 0,
        }
    }

    pub fn add(&mut self, value: u64) {
        let exponent = (value | STEPS).ilog2() - STEPS_SHIFT;
        let at = (u64::from(exponent) << STEPS_SHIFT) + (value >> exponent);
        self.counts[at as usize] += 1;
        self.total += 1;
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// The value that `share` of all do not exceed.
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (at, &count) in (0u64..).zip(&self.counts) {
            seen += count;
            if count > 0 && seen >= rank {
                let exponent = (at >> STEPS_SHIFT).saturating_sub(1);
                return (at - (exponent << STEPS_SHIFT)) << exponent;
            }
        }
        0
    }
}

/// One measured run.
#[derive(Debug)]
pub struct Meter {
    /// TSC cycles of each poll.
    pub polls: Histogram,
    /// The thread's processor time in polls, nanoseconds.
    pub cpu_ns: u64,
    /// Packets the polls saw.
    pub packets: u64,
    reading_ns: u64,
}

impl Meter {
    pub fn new() -> Self {
        Self {
            polls: Histogram::new(),
            cpu_ns: 0,
            packets: 0,
            reading_ns: reading_ns(),
        }
    }

    /// Lets `forwarder` work off what is on the wire: `packets`, for which it
    /// polls `polls` times. Time is what the clock says, or `virtual_ms`.
    pub fn batch<F: Forwarder>(
        &mut self,
        forwarder: &mut F,
        clock: &Clock,
        virtual_ms: Option<fullgate::time::Millis>,
        polls: usize,
        packets: u64,
    ) {
        let begin_ns = thread_cpu_ns();
        for _ in 0..polls {
            let mut at = now(clock);
            if let Some(ms) = virtual_ms {
                at.ms = ms;
            }
            forwarder.poll(at);
            self.polls.add(Clock::cycles().wrapping_sub(at.tsc));
        }
        let spent = thread_cpu_ns() - begin_ns;
        self.cpu_ns += spent.saturating_sub(self.reading_ns);
        self.packets += packets;
    }
}

/// What reading the thread's clock takes: it is in every batch once.
fn reading_ns() -> u64 {
    let mut readings: Vec<u64> = (0..1001)
        .map(|_| {
            let begin = thread_cpu_ns();
            thread_cpu_ns() - begin
        })
        .collect();
    readings.sort_unstable();
    readings[readings.len() / 2]
}

/// Cycles of the core for one of the TSC, by a chain of operations whose
/// latency is known: a multiplication takes 3 cycles and an exclusive or 1 on
/// every x86-64 core since 2011. The best of many short chains, which nothing
/// interrupted.
pub fn core_cycles_per_tsc() -> f64 {
    const STEPS: u64 = 10_000;
    let factor = std::hint::black_box(0x5851_f42d_4c95_7f2du64);
    let mut value = std::hint::black_box(1u64);
    let best = (0..1000)
        .map(|_| {
            let begin = Clock::cycles();
            for _ in 0..STEPS {
                value = value.wrapping_mul(factor) ^ factor;
            }
            value = std::hint::black_box(value);
            Clock::cycles().wrapping_sub(begin)
        })
        .min()
        .unwrap_or(1);
    (STEPS * 4) as f64 / best as f64
}

/// Resident memory of the process, bytes.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes << 10)
}

/// As the program's worker threads read the time.
#[inline(always)]
pub fn now(clock: &Clock) -> Now {
    let tsc = Clock::cycles();
    Now {
        ms: clock.millis(tsc),
        tsc,
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn percentiles_are_within_two_per_cent() {
        let mut histogram = Histogram::new();
        for value in 1..=100_000 {
            histogram.add(value);
        }
        for (share, exact) in [
            (0.0005, 50.0),
            (0.5, 50_000.0),
            (0.99, 99_000.0),
            (1.0, 100_000.0),
        ] {
            let found = histogram.percentile(share) as f64;
            assert!((found - exact).abs() / exact < 0.02, "{share}: {found}");
        }
    }
}
