//! Packets that arrive when they arrive, not when the worker is ready.
//!
//! The worker's time is the only time there is: it goes by while the worker is
//! polled, by as much as the poll took, and stands still while the generator
//! puts on the wire what has arrived meanwhile. The gaps between arrivals are
//! exponential. So a packet waits for the poll under way when it arrives, for
//! the packets before it and for its own translation.
//!
//! What interrupts a poll is in it, too. Timer ticks of the kernel and whatever
//! the hypervisor does are told from the worker's own doing by a loop that does
//! nothing, and by how many of its gaps are as long.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fullgate::dpdk::{Clock, RingEnd};

use super::Failure;
use super::baseline::Forwarder;
use super::flows::Random;
use super::measure::{self, Histogram};
use super::report::{Latency, Spent, tsc_hz};
use super::source::Source;
use super::wire::Wire;

/// Packets that may wait: what the wire holds.
const WAITING: usize = 4_000;
/// A poll that takes longer counts as interrupted: one of 32 packets, each of
/// them with every cache missed, takes less.
const INTERRUPTED_US: f64 = 10.0;
/// How long the loop that does nothing is watched.
const WATCHED: Duration = Duration::from_millis(500);

/// Offers a packet to `forwarder` every `gap` TSC cycles, on average.
pub fn run<F: Forwarder>(
    source: &mut Source<'_>,
    forwarder: &mut F,
    wire: &mut Wire<RingEnd>,
    clock: &Clock,
    load: f64,
    gap: f64,
) -> Result<Latency, Failure> {
    let hz = tsc_hz(clock);
    let limit = (INTERRUPTED_US * hz / 1e6) as u64;
    let idle_gaps_per_second = idle_gaps(limit);
    let mut random = Random::new(0x000a_110c_a7e5);
    let (mut time, mut next) = (0u64, 0.0);
    let end = (source.seconds() * hz) as u64;
    let mut waiting: [VecDeque<u64>; 2] = Default::default();
    let (mut all, mut undisturbed) = (Histogram::new(), Histogram::new());
    let (mut longest, mut interrupted, mut disturbed) = (0, 0u64, false);
    while time < end {
        while next <= time as f64 {
            if wire.ahead() == 0 {
                source.batch(|side, frame| wire.put_ahead(side, &frame));
            }
            let Some(side) = wire.release() else {
                break;
            };
            let queue = &mut waiting[side as usize];
            queue.push_back(next as u64);
            if queue.len() > WAITING {
                return Err(format!("--load: {load} is more than the worker can take").into());
            }
            // From 2^-24 to 1, so that there is a logarithm.
            let chance = f64::from(random.below(1 << 24) + 1) / f64::from(1u32 << 24);
            next -= chance.ln() * gap;
        }
        let at = measure::now(clock);
        forwarder.poll(at);
        let took = Clock::cycles().wrapping_sub(at.tsc);
        time += took;
        if took > limit {
            interrupted += 1;
            disturbed = true;
        }
        wire.collect(|side, _| {
            if let Some(arrived) = waiting[side.other() as usize].pop_front() {
                let spent = time - arrived;
                longest = spent.max(longest);
                all.add(spent);
                if !disturbed {
                    undisturbed.add(spent);
                }
            }
        });
        // Who arrived while that poll was under way still waits to be seen.
        let caught_up = took <= limit && next > time as f64;
        disturbed &= !(caught_up && waiting.iter().all(VecDeque::is_empty));
    }
    let us = |cycles: u64| cycles as f64 * 1e6 / hz;
    let spent = |histogram: &Histogram| Spent {
        packets: histogram.total(),
        p50_us: us(histogram.percentile(0.5)),
        p99_us: us(histogram.percentile(0.99)),
        p999_us: us(histogram.percentile(0.999)),
    };
    Ok(Latency {
        load,
        packets_per_second: all.total() as f64 * hz / time as f64,
        all: spent(&all),
        longest_us: us(longest),
        undisturbed: spent(&undisturbed),
        interrupted_per_second: interrupted as f64 * hz / time as f64,
        idle_gaps_per_second,
    })
}

/// How often in a second a loop that does nothing stops for longer than `limit`.
fn idle_gaps(limit: u64) -> f64 {
    let begin = Instant::now();
    let (mut gaps, mut last) = (0u64, Clock::cycles());
    while begin.elapsed() < WATCHED {
        for _ in 0..1000 {
            let now = Clock::cycles();
            gaps += u64::from(now.wrapping_sub(last) > limit);
            last = now;
        }
    }
    gaps as f64 / begin.elapsed().as_secs_f64()
}
