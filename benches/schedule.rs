//! Time to pick a server out of 1,000, by scheduler; and what a plan costs the
//! management core when a server comes or goes.
//!
//! `wlc` reads a counter of each server that it compares; they lie as far
//! apart as in a worker. Of more than 64 servers it compares 64 that it draws:
//! `spread` prints how even its connections come out then.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fullgate::ids::ServerIx;
use fullgate::service::schedule::{Cursor, Plan, Scheduler};
use fullgate::stats::WorkerStats;

const SERVERS: u32 = 1_000;

/// Weights from 1 to 10.
fn servers(count: u32) -> Vec<(ServerIx, u32)> {
    (0..count).map(|ix| (ServerIx(ix), 1 + ix % 10)).collect()
}

/// The next of a sequence of full period (Knuth's MMIX constants).
fn next(random: &mut u64) -> u32 {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*random >> 32) as u32
}

fn pick(c: &mut Criterion) {
    let stats = WorkerStats::new(1, SERVERS as usize, 1);
    let active = |server| stats.server(server).active.get();
    for count in [10, SERVERS] {
        let mut group = c.benchmark_group("pick");
        for kind in Scheduler::ALL {
            let plan = Plan::build(kind, &servers(count));
            let (mut cursor, mut random) = (Cursor::default(), 1);
            group.bench_function(BenchmarkId::new(kind.name(), count), |b| {
                b.iter(|| {
                    let client = Ipv4Addr::from_bits(next(&mut random));
                    let server = plan.pick(&mut cursor, client, active, |_| true);
                    if let Some(server) = server {
                        stats.server(server).active.add(1);
                    }
                    black_box(server)
                });
            });
        }
        group.finish();
    }
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10);
    for kind in Scheduler::ALL {
        let servers = servers(SERVERS);
        group.bench_function(BenchmarkId::new(kind.name(), SERVERS), |b| {
            b.iter(|| Plan::build(kind, black_box(&servers)));
        });
    }
    group.finish();
}

/// Connections of random length, `held` at a time, on servers of which the
/// first half has ten times the weight: the least and the most loaded one in
/// the end, in shares of what its weight would give it.
fn spread(count: u32, held: usize) -> (f64, f64) {
    let servers: Vec<_> = (0..count)
        .map(|ix| (ServerIx(ix), if ix < count / 2 { 10 } else { 1 }))
        .collect();
    let plan = Plan::build(Scheduler::WeightedLeastConnections, &servers);
    let mut active = vec![0u64; count as usize];
    let (mut cursor, mut random) = (Cursor::default(), 1);
    let mut connections: Vec<ServerIx> = Vec::new();
    for _ in 0..20 * held {
        let load = |server: ServerIx| active[server.ix()];
        let server = plan
            .pick(&mut cursor, Ipv4Addr::LOCALHOST, load, |_| true)
            .expect("all are usable");
        active[server.ix()] += 1;
        if connections.len() < held {
            connections.push(server);
        } else {
            let ends = next(&mut random) as usize % held;
            let ended = std::mem::replace(&mut connections[ends], server);
            active[ended.ix()] -= 1;
        }
    }
    let total: u32 = servers.iter().map(|&(_, weight)| weight).sum();
    let shares = active.iter().zip(&servers).map(|(&load, &(_, weight))| {
        load as f64 * f64::from(total) / (held as f64 * f64::from(weight))
    });
    shares.fold((f64::INFINITY, 0.0), |(least, most), share| {
        (share.min(least), share.max(most))
    })
}

fn spreads(_: &mut Criterion) {
    for (count, held) in [(64, 6_400), (65, 6_500), (1_000, 100_000)] {
        let (least, most) = spread(count, held);
        println!("wlc, {count} servers, {held} connections: {least:.2} to {most:.2} of its share");
    }
}

criterion_group!(benches, pick, build, spreads);
criterion_main!(benches);
