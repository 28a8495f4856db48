//! Time to take a local port and give it back, by fill. The port given back is
//! a random one of those held, as connections end in no order.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use fullgate::ids::WorkerIx;
use fullgate::snat::ports::{Lease, PortClasses, PortSet, WorkerPorts};
use fullgate::snat::steering::{Reta, Steering, SteeringMode};
use fullgate::snat::toeplitz::DEFAULT_KEY;

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

/// The next of a sequence of full period (Knuth's MMIX constants).
fn next(random: &mut u64) -> usize {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*random >> 33) as usize
}

fn worker(workers: u8) -> Arc<WorkerPorts> {
    let reta = Reta::even(128, workers).unwrap();
    let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Rss).unwrap();
    let classes = PortClasses::new(Arc::new(steering), 1024..=u16::MAX);
    Arc::new(WorkerPorts::new(Arc::new(classes), WorkerIx(0)))
}

/// Takes a port and gives back a random one of those held.
fn turn_over(set: &mut PortSet, held: &mut [u16], random: &mut u64) {
    let port = set.allocate().map(Lease::into_port).unwrap();
    let place = next(random) % held.len();
    set.release(std::mem::replace(&mut held[place], port))
        .unwrap();
}

fn by_fill(c: &mut Criterion) {
    let mut group = c.benchmark_group("allocate_release");
    let worker = worker(1);
    for percent in [1, 50, 99, 100] {
        let mut set = PortSet::new(worker.clone(), LOCAL, LOCAL, 80, 0);
        // At 100 %, one port is free: the one given back last.
        let capacity = set.capacity() as usize;
        let count = (capacity * percent / 100).min(capacity - 1);
        let mut held: Vec<u16> = (0..count)
            .map(|_| set.allocate().unwrap().into_port())
            .collect();
        let mut random = 1;
        // Several laps, so that free ports lie where they do in the long run.
        for _ in 0..1_000_000 {
            turn_over(&mut set, &mut held, &mut random);
        }
        group.bench_function(BenchmarkId::from_parameter(percent), |b| {
            b.iter(|| turn_over(&mut set, &mut held, &mut random));
        });
    }
    group.finish();
}

/// What a change of configuration pays per real server and worker.
fn creation(c: &mut Criterion) {
    let mut group = c.benchmark_group("new");
    for workers in [1, 16] {
        let worker = worker(workers);
        group.bench_function(BenchmarkId::from_parameter(workers), |b| {
            b.iter(|| PortSet::new(worker.clone(), LOCAL, LOCAL, black_box(80), 0));
        });
    }
    group.finish();
}

/// What the receiving worker pays per packet in software steering.
fn owner(c: &mut Criterion) {
    let reta = Reta::even(128, 4).unwrap();
    let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Software).unwrap();
    let mut random = 1;
    c.bench_function("owner", |b| {
        b.iter(|| {
            let port = next(&mut random) as u16;
            steering.owner(black_box(LOCAL), black_box(LOCAL), port, 80)
        });
    });
}

criterion_group!(benches, by_fill, creation, owner);
criterion_main!(benches);
