//! Packets of established connections.

use std::sync::Arc;

use fullgate::capture::{Ring, Tap};
use fullgate::filter::Filter;
use fullgate::worker::message::Command;

use super::Failure;
use super::args::{Packets, Proto};
use super::baseline::MacSwap;
use super::flows::Flow;
use super::gateway::{self, Gateway, Plan};
use super::measure::resident_bytes;
use super::open::open_all;
use super::report::{Machine, PacketsReport, Run, drops, median, tsc_hz};
use super::source::Source;
use super::{latency, workers};

/// Connections that come and go have their entries for this long after.
const VISIT_REST_MS: u32 = 1_000;
/// As many of them as a worker that does nothing else opens in that time, and
/// half as many again.
const VISIT_ROOM: f64 = 2e6;

pub fn run(args: &Packets) -> Result<(), Failure> {
    let common = &args.common;
    if args.new_connections > 0.0 && args.proto != Proto::Tcp {
        return Err("--new-connections: only with --proto tcp".into());
    }
    let plan = Plan {
        common,
        proto: args.proto,
        connections: u64::from(args.flows) + (args.new_connections * VISIT_ROOM) as u64,
        time_wait_ms: VISIT_REST_MS,
        workers: args.workers,
    };
    let eal = gateway::eal(common)?;
    if args.workers > 1 {
        return workers::run(&eal, &plan, args);
    }
    let flows = (0..args.flows).map(Flow::new).collect();
    let mut source = Source::new(args, flows);
    let (_world, mut gateway) = gateway::single(&eal, &plan)?;
    let before = resident_bytes();
    open_all(&mut gateway, &mut source, args)?;
    let grown = resident_bytes().saturating_sub(before) + gateway.table_bytes;
    if let Some(sample) = args.capture {
        source.capture = Some(capture(&mut gateway, sample));
    }

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..common.runs {
        let Gateway {
            worker,
            wire,
            clock,
            ..
        } = &mut gateway;
        if args.baseline || args.compare {
            let mut swap = MacSwap {
                io: worker.io_mut(),
            };
            // The gateway does not see these packets. Were they to move the
            // connections' numbers on, its next would be out of their windows.
            let flows = source.flows.clone();
            let meter = source.measure(&mut swap, wire, clock);
            source.flows = flows;
            theirs.push(Run::new(&meter, clock, source.in_poll()));
        }
        if !args.baseline {
            let gone = source.gone;
            let meter = source.measure(worker, wire, clock);
            let mut run = Run::new(&meter, clock, source.in_poll());
            run.connections_per_second =
                (source.gone - gone) as f64 / (meter.cpu_ns.max(1) as f64 / 1e9);
            ours.push(run);
        }
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let both = ours.zip(theirs);
    let (mut latency, mut baseline_latency) = (None, None);
    if let Some((load, run)) = args.load.zip(ours) {
        let Gateway {
            worker,
            wire,
            clock,
            ..
        } = &mut gateway;
        let gap = run.cycles_per_packet / load;
        latency = Some(latency::run(&mut source, worker, wire, clock, load, gap)?);
        if args.compare {
            let mut swap = MacSwap {
                io: worker.io_mut(),
            };
            let found = latency::run(&mut source, &mut swap, wire, clock, load, gap)?;
            baseline_latency = Some(found);
        }
    }
    PacketsReport {
        mode: "packets",
        flows: args.flows,
        packet_size: args.packet_size,
        order: format!("{:?}", args.order).to_lowercase(),
        direction: format!("{:?}", args.direction).to_lowercase(),
        proto: format!("{:?}", args.proto).to_lowercase(),
        servers: common.servers,
        locals: plan.locals(),
        hit_ratio: args.hit_ratio,
        new_connections: args.new_connections,
        capture: args.capture,
        packets_in_poll: source.in_poll(),
        runs: common.runs,
        gateway: ours,
        baseline: theirs,
        added_cycles: both.map(|(a, b)| a.cycles_per_packet - b.cycles_per_packet),
        ratio: both.map(|(a, b)| a.packets_per_second / b.packets_per_second),
        latency,
        baseline_latency,
        bytes_per_connection: grown as f64 / f64::from(args.flows),
        fixed_bytes: before.saturating_sub(gateway.table_bytes),
        drops: drops(&gateway.stats),
        machine: Machine::here(tsc_hz(&gateway.clock), common.hugepages),
    }
    .print(common.json)
}

/// Begins a capture of one flow in `sample`, with room for all packets of a
/// batch, as received and as sent.
fn capture(gateway: &mut Gateway, sample: u32) -> Arc<Ring> {
    const RECORDS: usize = 8_192;
    const SNAPLEN: usize = 2_048;
    let ring = Arc::new(Ring::new(RECORDS, SNAPLEN, 2));
    let tap = Tap::new(1, Filter::default(), sample, Arc::clone(&ring));
    let full = gateway
        .link
        .commands
        .push(Command::Capture(Box::new(tap)))
        .is_err();
    assert!(!full, "the worker has taken all commands");
    gateway.worker.poll(gateway.start);
    ring
}
