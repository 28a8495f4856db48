//! Several workers of one gateway, each on a thread and core of its own with a
//! generator and a sink of its own: what one does alone, and what all do at
//! once.
//!
//! The generators are the NIC that spreads flows by its hash: each makes only
//! packets that this hash gives to its worker, and so do the local ports that
//! the worker chooses.

use std::sync::{Arc, Barrier, mpsc};

use fullgate::dpdk::{Clock, Eal, spawn};
use fullgate::ids::WorkerIx;
use fullgate::snat::steering::Steering;

use super::Failure;
use super::args::Packets;
use super::flows::Flow;
use super::gateway::{self, Gateway, Plan, SERVICE_PORT, Seed, VIP};
use super::open::open_all;
use super::report::{Machine, OneWorker, Run, WorkersReport, drops, median, tsc_hz};
use super::source::Source;

/// When a run began and ended, TSC.
#[derive(Clone, Copy, Debug)]
struct Span {
    begin: u64,
    end: u64,
}

/// What one worker found.
struct Outcome {
    alone: Vec<Run>,
    together: Vec<(Run, Span)>,
    drops: Vec<(&'static str, u64)>,
    tsc_hz: f64,
}

pub fn run(eal: &Eal, plan: &Plan<'_>, args: &Packets) -> Result<(), Failure> {
    // A thread that panics must not leave the others waiting for it.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("fullgate-bench: {panic}");
        std::process::exit(101);
    }));
    let (world, seeds) = gateway::plant(eal, plan)?;
    let barrier = Arc::new(Barrier::new(seeds.len()));
    let (sender, outcomes) = mpsc::channel();
    let args = Arc::new(args.clone());
    let mut threads = Vec::new();
    for (worker, seed) in (0..).zip(seeds) {
        let (sender, barrier) = (sender.clone(), Arc::clone(&barrier));
        let (args, steering) = (Arc::clone(&args), Arc::clone(&world.steering));
        let core = args.common.core.unwrap_or(0) + u32::from(worker);
        let body = move || {
            let outcome = work(WorkerIx(worker), seed, &args, &steering, &barrier);
            let _ = sender.send((worker, outcome));
        };
        threads.push(spawn(eal, &format!("worker-{worker}"), Some(core), body)?);
    }
    drop(sender);
    let mut found: Vec<(u8, Outcome)> = Vec::new();
    for (worker, outcome) in outcomes {
        found.push((worker, outcome?));
    }
    for thread in threads {
        thread.join().map_err(|_| "a worker's thread panicked")?;
    }
    found.sort_by_key(|(worker, _)| *worker);
    let found: Vec<Outcome> = found.into_iter().map(|(_, outcome)| outcome).collect();
    report(&found, args.as_ref(), plan.locals())
}

/// A worker's thread.
fn work(
    me: WorkerIx,
    seed: Seed,
    args: &Packets,
    steering: &Steering,
    barrier: &Barrier,
) -> Result<Outcome, String> {
    let mut gateway = seed.grow();
    let mut source = Source::new(args, flows_of(me, args.flows, steering));
    // Whoever fails must not leave the others waiting.
    let opened = open_all(&mut gateway, &mut source, args).map_err(|failure| failure.to_string());
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..args.common.runs {
        for turn in 0..args.workers {
            barrier.wait();
            if turn == me.0 && opened.is_ok() {
                alone.push(measure(&mut source, &mut gateway).0);
            }
        }
        barrier.wait();
        if opened.is_ok() {
            together.push(measure(&mut source, &mut gateway));
        }
    }
    barrier.wait();
    opened?;
    Ok(Outcome {
        alone,
        together,
        drops: drops(&gateway.stats),
        tsc_hz: tsc_hz(&gateway.clock),
    })
}

/// Connections whose packets the NIC's hash gives to worker `me`.
pub fn flows_of(me: WorkerIx, count: u32, steering: &Steering) -> Vec<Flow> {
    (0..count)
        .map(|number| {
            Flow::new(number).at_port(number, |client, port| {
                steering.owner(client, VIP, port, SERVICE_PORT) == me
            })
        })
        .collect()
}

fn measure(source: &mut Source<'_>, gateway: &mut Gateway) -> (Run, Span) {
    let begin = Clock::cycles();
    let meter = source.measure(&mut gateway.worker, &mut gateway.wire, &gateway.clock);
    let end = Clock::cycles();
    let run = Run::new(&meter, &gateway.clock, source.in_poll());
    (run, Span { begin, end })
}

fn report(found: &[Outcome], args: &Packets, locals: u16) -> Result<(), Failure> {
    // Of each round: all workers' packets/s, and the share of it in which all
    // were measured.
    let rounds: Vec<(f64, f64)> = (0..usize::from(args.common.runs))
        .map(|round| {
            let runs = found.iter().map(|one| one.together[round]);
            let sum = runs.clone().map(|(run, _)| run.packets_per_second).sum();
            let begins = runs.clone().map(|(_, span)| span.begin);
            let ends = runs.map(|(_, span)| span.end);
            let (first, last) = (begins.clone().min(), begins.max());
            let (sooner, later) = (ends.clone().min(), ends.max());
            let all = later.unwrap_or(0) - first.unwrap_or(0);
            let common = sooner.unwrap_or(0).saturating_sub(last.unwrap_or(0));
            (sum, common as f64 / all as f64)
        })
        .collect();
    let mut sums: Vec<f64> = rounds.iter().map(|(sum, _)| *sum).collect();
    sums.sort_by(f64::total_cmp);
    let together = sums[sums.len() / 2];
    let workers = found
        .iter()
        .map(|one| {
            let all = one.together.iter().map(|(run, _)| *run).collect();
            Some(OneWorker {
                alone: median(one.alone.clone())?,
                together: median(all)?,
                drops: one.drops.clone(),
            })
        })
        .collect::<Option<Vec<_>>>()
        .ok_or("no run")?;
    let alone = workers.iter().map(|one| one.alone.packets_per_second);
    let alone = alone.sum::<f64>() / workers.len() as f64;
    WorkersReport {
        mode: "workers",
        flows: args.flows,
        packet_size: args.packet_size,
        locals,
        runs: args.common.runs,
        alone,
        together,
        ratio: together / alone,
        overlap: rounds.iter().map(|(_, share)| *share).fold(1.0, f64::min),
        workers,
        machine: Machine::here(found[0].tsc_hz, args.common.hugepages),
    }
    .print(args.common.json)
}
