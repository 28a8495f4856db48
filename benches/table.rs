//! The connection table against `hashbrown::HashTable<u32>` and (with DPDK)
//! `rte_hash`, which do the same job over the same entries in the same run; with
//! the same hash, and `rte_hash` with its own, too, which is faster but not
//! keyed.
//!
//! Look-ups come in bursts of 32, as packets do, each of a random connection,
//! and write `last_seen` as a packet does. `staged` is how the worker calls the
//! table: all buckets, then all entries are prefetched; `plain` is one look-up
//! after the other. `rte_hash` has keys of its own, so it is asked for all of a
//! burst by one call and then the entries are prefetched for the write. Time is
//! per burst.
//!
//! The machine may be busy with other things: a figure is the median over short
//! chunks, most of which nothing else interrupts.
//!
//! `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` gives the reference huge pages, too:
//! the arena asks for them by itself, and `rte_hash` gets reserved ones where
//! there are enough (`sysctl -w vm.nr_hugepages=1120` for 10,000,000
//! connections), else small ones, and that is said. `FULLGATE_BENCH_CONNECTIONS`
//! is a list of table sizes; one of 10,000,000 takes 5 GB.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
#[cfg(feature = "dpdk")]
use fullgate::arena::prefetch;
use fullgate::arena::{Arena, KEY_BYTES};
use fullgate::conntrack::entry::{Direction, Entry, FlowTuple, State};
use fullgate::conntrack::hash::HashKey;
use fullgate::conntrack::index::Index;
use fullgate::conntrack::table::ConnTable;
use fullgate::ids::SlotIx;
use fullgate::time::{Millis, Stamp};
use fullgate::wire::proto;
use hashbrown::HashTable;

#[cfg(feature = "dpdk")]
#[path = "table/rte.rs"]
mod rte;

const BURST: usize = 32;
/// In a value of the references, beside the slot: found by the server's tuple.
const REVERSE: u32 = 1 << 31;

/// A small generator, so that its own cost does not show.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(end)) >> 32) as u32
    }

    fn burst(&mut self, end: u32) -> [u32; BURST] {
        std::array::from_fn(|_| self.below(end))
    }
}

/// Connection number `n`: 32,768 ports of each client address.
fn connection(n: u32) -> Entry {
    let port = 1024 + (n & 0x7fff) as u16;
    Entry {
        client: Ipv4Addr::from_bits(0x0a00_0000 + (n >> 15)),
        vip: Ipv4Addr::new(192, 0, 2, 1),
        local: Ipv4Addr::from_bits(0xac10_0000 + (n >> 23)),
        server_addr: Ipv4Addr::from_bits(0xc0a8_0000 + (n >> 15 & 0xff)),
        client_port: port,
        vip_port: 443,
        local_port: port,
        server_port: 8443,
        state: State::Established,
        protocol: proto::TCP,
        ..Entry::FREE
    }
}

/// A packet of connection `n`, from the client or from the server.
fn packet(n: u32) -> FlowTuple {
    let entry = connection(n);
    if n & 1 == 0 {
        FlowTuple::from(&entry.client_tuple())
    } else {
        FlowTuple::from(&entry.server_tuple())
    }
}

struct Rig {
    table: ConnTable,
    reference: HashTable<u32>,
    #[cfg(feature = "dpdk")]
    rte: [rte::Layout; 2],
}

fn rig(connections: u32) -> Rig {
    let key = HashKey::from_bytes([0x3c; KEY_BYTES]);
    let arena = Arena::anonymous(connections as usize).expect("memory");
    let (mut table, _) = ConnTable::new(arena, key, Millis(0)).expect("memory");
    let mut reference = HashTable::with_capacity(2 * connections as usize);
    for n in 0..connections {
        let entry = connection(n);
        let slot = table.insert(entry).expect("room");
        let rehash = |_: &u32| 0;
        reference.insert_unique(table.client_hash(&entry.client_tuple()), slot.0, rehash);
        reference.insert_unique(
            table.server_hash(&entry.server_tuple()),
            slot.0 | REVERSE,
            rehash,
        );
    }
    Rig {
        #[cfg(feature = "dpdk")]
        rte: rte::layouts(connections, &table),
        table,
        reference,
    }
}

/// Whether a packet with this tuple belongs to what `value` names.
#[inline(always)]
fn is_same(table: &ConnTable, value: u32, tuple: &FlowTuple) -> bool {
    let entry = table.get(SlotIx(value & !REVERSE));
    let own = match value & REVERSE {
        0 => FlowTuple::from(&entry.client_tuple()),
        _ => FlowTuple::from(&entry.server_tuple()),
    };
    own == *tuple
}

/// Calls of `work` in a chunk: some ten microseconds.
const CHUNK: u64 = 8;

fn steady(b: &mut Bencher<'_>, mut work: impl FnMut()) {
    b.iter_custom(|calls| {
        let chunks = calls.div_ceil(CHUNK);
        let mut times: Vec<Duration> = (0..chunks)
            .map(|_| {
                let begin = Instant::now();
                for _ in 0..CHUNK {
                    work();
                }
                begin.elapsed()
            })
            .collect();
        let middle = times.len() / 2;
        let median = *times.select_nth_unstable(middle).1;
        median.mul_f64(calls as f64 / CHUNK as f64)
    });
}

fn sizes() -> Vec<u32> {
    let list = std::env::var("FULLGATE_BENCH_CONNECTIONS")
        .unwrap_or_else(|_| "1000,100000,1000000".to_owned());
    list.split(',')
        .filter_map(|n| n.trim().parse().ok())
        .collect()
}

fn lookups(c: &mut Criterion) {
    for connections in sizes() {
        let Rig {
            mut table,
            reference,
            #[cfg(feature = "dpdk")]
            rte,
        } = rig(connections);
        for (name, first) in [("hit", 0), ("miss", connections)] {
            let mut group = c.benchmark_group(name);
            group.throughput(Throughput::Elements(BURST as u64));
            let mut numbers = Numbers(0x1234_5678_9abc_def1);
            group.bench_function(BenchmarkId::new("staged", connections), |b| {
                steady(b, || {
                    let burst = numbers.burst(connections);
                    let tuples = burst.map(|n| packet(first + n));
                    let hashes = tuples.map(|t| table.hash(&t));
                    for &hash in &hashes {
                        table.prefetch_bucket(hash);
                    }
                    let candidates = hashes.map(|hash| table.prefetch_candidate(hash));
                    for ((&hash, tuple), candidate) in hashes.iter().zip(&tuples).zip(candidates) {
                        if let Some((slot, _)) = table.find_candidate(candidate, hash, tuple) {
                            table.get_mut(slot).last_seen = Stamp(hash as u32);
                        }
                    }
                });
            });
            group.bench_function(BenchmarkId::new("plain", connections), |b| {
                steady(b, || {
                    for n in numbers.burst(connections) {
                        let tuple = packet(first + n);
                        let hash = table.hash(&tuple);
                        if let Some((slot, _)) = table.find(hash, &tuple) {
                            table.get_mut(slot).last_seen = Stamp(hash as u32);
                        }
                    }
                });
            });
            group.bench_function(BenchmarkId::new("hashbrown", connections), |b| {
                steady(b, || {
                    for n in numbers.burst(connections) {
                        let tuple = packet(first + n);
                        let hash = table.hash(&tuple);
                        let found = reference.find(hash, |&value| is_same(&table, value, &tuple));
                        if let Some(&value) = found {
                            let slot = SlotIx(value & !REVERSE);
                            table.get_mut(slot).last_seen = Stamp(hash as u32);
                        }
                    }
                });
            });
            #[cfg(feature = "dpdk")]
            for layout in &rte {
                group.bench_function(BenchmarkId::new(layout.name, connections), |b| {
                    steady(b, || {
                        let tuples = numbers.burst(connections).map(|n| packet(first + n));
                        let (hit, values) = layout.lookup(&tuples, &table);
                        let slots = values.map(|value| SlotIx(value & !REVERSE));
                        let is_hit = |ix: usize| hit >> ix & 1 == 1;
                        for (ix, &slot) in slots.iter().enumerate() {
                            if is_hit(ix) {
                                prefetch(table.get(slot));
                            }
                        }
                        for (ix, &slot) in slots.iter().enumerate() {
                            if is_hit(ix) {
                                table.get_mut(slot).last_seen = Stamp(slot.0);
                            }
                        }
                    });
                });
            }
            group.finish();
        }
    }
}

/// A connection ends and another begins, over and over, in a full table.
fn churn(c: &mut Criterion) {
    for connections in sizes() {
        let Rig {
            mut table,
            mut reference,
            #[cfg(feature = "dpdk")]
            mut rte,
        } = rig(connections);
        let mut group = c.benchmark_group("churn");
        let mut numbers = Numbers(0x1234_5678_9abc_def1);

        let mut index = Index::with_capacity(connections as usize).expect("memory");
        let hash_of: Vec<u64> = (0..connections)
            .map(|n| table.client_hash(&connection(n).client_tuple()))
            .collect();
        for (n, &hash) in hash_of.iter().enumerate() {
            index
                .insert(hash, SlotIx(n as u32), Direction::Forward)
                .expect("room");
            let hash = table.server_hash(&connection(n as u32).server_tuple());
            index
                .insert(hash, SlotIx(n as u32), Direction::Reverse)
                .expect("room");
        }
        let report = |name: &str, bytes: usize| {
            let each = bytes as f64 / f64::from(connections);
            println!("{name}: {each:.1} bytes for each of {connections} connections");
        };
        report("index", index.bytes());
        report("hashbrown", reference.allocation_size());
        #[cfg(feature = "dpdk")]
        report("rte_hash", rte[0].bytes());

        group.bench_function(BenchmarkId::new("index", connections), |b| {
            steady(b, || {
                let n = numbers.below(connections);
                let hash = hash_of[n as usize];
                black_box(index.remove(hash, SlotIx(n), Direction::Forward));
                black_box(index.insert(hash, SlotIx(n), Direction::Forward)).expect("room");
            });
        });
        group.bench_function(BenchmarkId::new("hashbrown", connections), |b| {
            steady(b, || {
                let n = numbers.below(connections);
                let hash = hash_of[n as usize];
                if let Ok(found) = reference.find_entry(hash, |&value| value == n) {
                    found.remove();
                }
                reference.insert_unique(hash, n, |_| 0);
            });
        });
        #[cfg(feature = "dpdk")]
        for layout in &mut rte {
            group.bench_function(BenchmarkId::new(layout.name, connections), |b| {
                steady(b, || {
                    let n = numbers.below(connections);
                    let tuple = FlowTuple::from(&connection(n).client_tuple());
                    layout.replace(&tuple, hash_of[n as usize], n);
                });
            });
        }
        // All of it: both tuples, the entry, the timer armed as at set-up and
        // once again as at tear-down.
        group.bench_function(BenchmarkId::new("connection", connections), |b| {
            let mut now = 0u32;
            steady(b, || {
                let entry = connection(numbers.below(connections));
                let tuple = entry.client_tuple();
                let hash = table.client_hash(&tuple);
                if let Some(slot) = table.find_client(hash, &tuple) {
                    table.remove(slot);
                }
                now = now.wrapping_add(1);
                let slot = table.insert(entry).expect("room");
                table.arm(slot, Stamp(now / 1000 + 7_440_000));
                table.arm(slot, Stamp(now / 1000 + 60_000));
            });
        });
        group.finish();
    }
}

/// A table made anew, and one worked out from an arena full of connections.
fn start(c: &mut Criterion) {
    let key = HashKey::from_bytes([0x3c; KEY_BYTES]);
    for connections in sizes() {
        let mut group = c.benchmark_group("start");
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("empty", connections), |b| {
            b.iter(|| {
                let arena = Arena::anonymous(connections as usize).expect("memory");
                let (mut table, _) = ConnTable::new(arena, key, Millis(0)).expect("memory");
                table.populate().expect("memory");
                black_box(table);
            });
        });
        let mut table = rig(connections).table;
        group.bench_function(BenchmarkId::new("full", connections), |b| {
            b.iter(|| black_box(table.rebuild(Millis(0))));
        });
        group.finish();
    }
}

criterion_group!(benches, lookups, churn, start);
criterion_main!(benches);
