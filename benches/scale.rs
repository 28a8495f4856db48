//! One production worker with millions of connections: made, looked up, and
//! expired, with the length of every poll round and the calls to the allocator.
//!
//! `FULLGATE_BENCH_CONNECTIONS` is how many (default 10,000,000: 2 GB). A
//! million of them, a quarter at most, expires within one second, twice:
//! silently, and with a RST to both ends. Without `--bench` (`cargo test
//! --benches`) it is a few thousand.
//!
//! A round is what a packet waits for before the worker turns to it. Rounds in
//! which the kernel took the thread off its processor, and those in which it
//! had to find memory, are told apart by its own counts.

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::time::{Duration, Instant};

use fullgate::conntrack::entry::Entry;
use fullgate::conntrack::timeouts::Timeouts;
use fullgate::ids::SlotIx;
use fullgate::io::BURST;
use fullgate::service::snapshot::Answer;
use fullgate::stats::Event;
use nix::sys::resource::{UsageWho, getrusage};

use rig::counting::Counting;
use rig::{LAN, Options, Rig, Segment, WAN};

#[global_allocator]
static COUNTING: Counting = Counting;

const HOUR_MS: u32 = 3_600_000;

/// How long a connection of the services 1 and 2 may be idle.
const SHORT_MS: u32 = 120_000;

/// Services: 0 lives for an hour, 1 expires silently, 2 with resets.
fn options(connections: usize) -> Options {
    let timeouts = |established| Timeouts {
        established,
        closed: 1_000,
        time_wait: 1_000,
        ..Timeouts::default()
    };
    Options {
        connections,
        services: vec![
            (timeouts(HOUR_MS), Answer::Silent),
            (timeouts(SHORT_MS), Answer::Silent),
            (timeouts(SHORT_MS), Answer::Reset),
        ],
        servers: 16,
        resets_per_second: 100_000_000,
        kernel: false,
    }
}

/// What the kernel counts of this thread.
#[derive(Clone, Copy)]
struct Disturbances {
    /// It was taken off its processor.
    switches: i64,
    /// It touched memory for the first time.
    faults: i64,
}

impl Disturbances {
    fn so_far() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("always there");
        Self {
            switches: usage.involuntary_context_switches() + usage.voluntary_context_switches(),
            faults: usage.minor_page_faults(),
        }
    }
}

/// Lengths of poll rounds: those without a disturbance, and the others.
struct Rounds {
    whole: Vec<Duration>,
    faulted: Vec<Duration>,
    switched: Vec<Duration>,
    /// The worker's own time: of all rounds but those that were switched.
    worked: Duration,
}

impl Rounds {
    fn new() -> Self {
        Self {
            whole: Vec::with_capacity(4_000_000),
            faulted: Vec::with_capacity(1_000_000),
            switched: Vec::with_capacity(1_000_000),
            worked: Duration::ZERO,
        }
    }

    fn poll(&mut self, rig: &mut Rig) {
        let before = Disturbances::so_far();
        let took = rig.poll();
        let after = Disturbances::so_far();
        if after.switches != before.switches {
            self.switched.push(took);
            return;
        }
        self.worked += took;
        if after.faults != before.faults {
            self.faulted.push(took);
        } else {
            self.whole.push(took);
        }
    }

    fn report(&mut self, name: &str) {
        self.whole.sort_unstable();
        let micros = |took: &Duration| took.as_nanos() as f64 / 1e3;
        let worst = |rounds: &[Duration]| rounds.iter().max().map_or(0.0, micros);
        let at = |share: f64| {
            let ix = (self.whole.len() as f64 * share) as usize;
            self.whole.get(ix).map_or(0.0, micros)
        };
        let long = self.whole.iter().rev();
        let long = long.take_while(|took| **took > Duration::from_micros(100));
        println!(
            "{name:40} {:>8} {:>7.1} {:>7.1} {:>7.1} {:>8.1} {:>5}   {:>7} {:>8.1}   {:>7} {:>8.0}",
            self.whole.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            worst(&self.whole),
            long.count(),
            self.faulted.len(),
            worst(&self.faulted),
            self.switched.len(),
            worst(&self.switched),
        );
    }
}

/// Resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: usize = text
        .split_whitespace()
        .nth(1)
        .and_then(|field| field.parse().ok())
        .expect("a number of pages");
    pages * 4096
}

/// Numbers below `end` in an order that no cache or prefetcher can guess, each
/// once a lap: a permutation of the next power of two, what is too large left
/// out.
struct Shuffled {
    end: u32,
    next: u32,
}

impl Shuffled {
    fn below(end: u32) -> Self {
        Self { end, next: 0 }
    }

    fn next(&mut self) -> u32 {
        let bits = self.end.next_power_of_two().ilog2();
        let mask = (1u32 << bits) - 1;
        loop {
            let n = self.next.wrapping_mul(0x9e37_79b1) & mask;
            let n = n ^ (n >> (bits / 2));
            let n = n.wrapping_mul(0x85eb_ca6b) & mask;
            self.next = self.next.wrapping_add(1) & mask;
            if n < self.end {
                return n;
            }
        }
    }
}

/// Handshakes of the clients `from..to` with `service`, a burst at a time,
/// spread evenly over `ms` milliseconds.
fn fill(rig: &mut Rig, from: u32, to: u32, service: u16, ms: u64, rounds: &mut Rounds) {
    let begin = rig.now;
    for first in (from..to).step_by(BURST) {
        let part = u64::from(first - from) * ms / u64::from(to - from);
        rig.now = begin.plus(part);
        for n in first..to.min(first + BURST as u32) {
            rig.receive_segment(WAN, &Segment::syn(n, service));
        }
        rounds.poll(rig);
        // The rest of the handshake.
        answer(rig);
        rig.settle();
    }
    rig.now = begin.plus(ms);
}

/// The servers answer what has just reached them.
fn answer(rig: &mut Rig) {
    while let Some(syn) = rig.sent_segment(LAN) {
        rig.receive_segment(LAN, &syn.answer().expect("a SYN"));
    }
}

/// A packet of each of these connections, one way or the other, and what
/// becomes of it.
fn look_up(rig: &mut Rig, slots: &[u32], rounds: &mut Rounds) {
    let mut expected: [(Option<Segment>, Option<Segment>); BURST] = [(None, None); BURST];
    for (&slot, expected) in slots.iter().zip(&mut expected) {
        let entry: Entry = *rig.worker.table().get(SlotIx(slot));
        let (to_server, to_client) = (
            Segment::from_server(&entry).reversed(),
            Segment::from_client(&entry).reversed(),
        );
        if slot.is_multiple_of(2) {
            rig.receive_segment(WAN, &Segment::from_client(&entry));
            expected.0 = Some(to_server);
        } else {
            rig.receive_segment(LAN, &Segment::from_server(&entry));
            expected.1 = Some(to_client);
        }
    }
    rounds.poll(rig);
    for (to_server, to_client) in expected {
        if let Some(wanted) = to_server {
            let got = rig.sent_segment(LAN).expect("a packet to the server");
            assert!(got.has_ends_of(&wanted), "{got:?} for {wanted:?}");
        }
        if let Some(wanted) = to_client {
            let got = rig.sent_segment(WAN).expect("a packet to the client");
            assert!(got.has_ends_of(&wanted), "{got:?} for {wanted:?}");
        }
    }
}

/// Packets of the first `end` slots go on for `ms` milliseconds of the worker's
/// own time: as on a core that nobody else uses, whatever else this machine
/// does, and the making of packets takes none.
fn traffic(rig: &mut Rig, end: u32, ms: u64, rounds: &mut Rounds) {
    let begin = rig.now;
    let mut numbers = Shuffled::below(end);
    loop {
        let passed = rounds.worked.as_millis() as u64;
        if passed >= ms {
            break;
        }
        rig.now = begin.plus(passed);
        let slots: [u32; BURST] = std::array::from_fn(|_| numbers.next());
        look_up(rig, &slots, rounds);
        // Resets of connections that expired, and questions for neighbours.
        for port in [WAN, LAN] {
            while rig.sent(port).is_some() {}
        }
    }
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn main() {
    let small = !std::env::args().any(|argument| argument == "--bench");
    let connections: u32 = match std::env::var("FULLGATE_BENCH_CONNECTIONS") {
        Ok(text) => text.parse().expect("a number"),
        Err(_) if small => 5_000,
        Err(_) => 10_000_000,
    };
    let (expiring, measured_ms) = (
        (connections / 4).min(1_000_000),
        if small { 20 } else { 1_000 },
    );
    let lasting = connections - 2 * expiring;

    let (before, begin) = (resident(), Instant::now());
    let mut rig = Rig::new(&options(connections as usize));
    println!(
        "start of a worker with room for {connections}: {:.1} ms, {:.1} MB resident",
        begin.elapsed().as_secs_f64() * 1e3,
        megabytes(resident() - before)
    );

    println!(
        "\n{:40} {:>8} {:>7} {:>7} {:>7} {:>8} {:>5}   {:>7} {:>8}   {:>7} {:>8}",
        "poll rounds, microseconds",
        "rounds",
        "p50",
        "p99",
        "p99.9",
        "max",
        ">100",
        "faulted",
        "max",
        "switched",
        "max"
    );
    let mut rounds = Rounds::new();
    fill(&mut rig, 0, lasting, 0, 5_000, &mut rounds);
    rounds.report("32 SYNs, table filled for the first time");
    let filled = resident() - before;

    let mut rounds = Rounds::new();
    let mut numbers = Shuffled::below(lasting);
    let mut left = lasting;
    while left > 0 {
        let count = left.min(BURST as u32);
        let mut slots = [0; BURST];
        slots[..count as usize].fill_with(|| numbers.next());
        look_up(&mut rig, &slots[..count as usize], &mut rounds);
        left -= count;
    }
    rounds.report("32 packets, every connection once");

    for (service, name) in [(1, "expire silently"), (2, "expire with RSTs")] {
        // Last packets within one second, so that the ends are, too.
        let first = lasting + u32::from(service - 1) * expiring;
        fill(
            &mut rig,
            first,
            first + expiring,
            service,
            1_000,
            &mut Rounds::new(),
        );
        if service == 1 {
            assert_eq!(rig.worker.table().len() as u32, lasting + expiring);
        }
        let mut rounds = Rounds::new();
        traffic(&mut rig, lasting, measured_ms, &mut rounds);
        rounds.report("32 packets, nothing expires");

        let ahead = 200;
        rig.pass(u64::from(SHORT_MS) - 1_000 - measured_ms - ahead);
        let idled_out = rig.stats.event(Event::IdledOut).get();
        let mut rounds = Rounds::new();
        traffic(&mut rig, lasting, ahead + 1_000 + 100, &mut rounds);
        rounds.report(&format!("32 packets, {expiring} {name}"));
        let ended = rig.stats.event(Event::IdledOut).get() - idled_out;
        println!("    of them within that second: {ended}");
        rig.pass(2_000);
        assert_eq!(rig.worker.table().len() as u32, lasting);
    }

    let begin = Instant::now();
    rig.pass(u64::from(HOUR_MS) + 5_000);
    println!(
        "\nthe other {lasting} expired in {:.1} s of processing",
        begin.elapsed().as_secs_f64()
    );
    assert!(rig.worker.table().is_empty());
    assert_eq!(
        rig.stats.event(Event::IdledOut).get(),
        u64::from(lasting + 2 * expiring)
    );
    println!(
        "resident, with {lasting} connections of {connections}: {:.1} MB, {:.1} bytes for each of all",
        megabytes(filled),
        filled as f64 / f64::from(connections)
    );
    println!(
        "packets dropped: {}; calls to the allocator while polling: {}",
        rig.dropped(),
        rig.allocator_calls
    );
    assert_eq!(rig.allocator_calls, 0);
}
