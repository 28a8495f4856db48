//! Whole connections: SYN, SYN-ACK, ACK, a request, its answer, FIN, FIN, ACK.
//!
//! Connections come in waves: all of a wave send their first packet, then all
//! the second, and so on. Time is not the clock's: it goes by as if a million
//! connections began each second, and TIME-WAIT is as long as it takes for the
//! wanted number to rest. So from then on each connection's cost contains what
//! an older one's end costs, whose entry has long left the caches.

use fullgate::io::BURST;
use fullgate::time::Millis;
use fullgate::wire::tcp::Flags;

use super::Failure;
use super::args::{Connections, Proto};
use super::flows::Flow;
use super::frame::{Frame, Seen, TCP};
use super::gateway::{self, Gateway, Plan};
use super::measure::{self, Meter};
use super::report::{ConnectionsReport, Machine, Run, drops, median, tsc_hz};
use super::steps::STEPS;
use super::wire::Side;

/// Connections that begin in a millisecond of virtual time.
const PER_MS: u64 = 1_000;

pub fn run(args: &Connections) -> Result<(), Failure> {
    let common = &args.common;
    let plan = Plan {
        common,
        proto: Proto::Tcp,
        // A tick's worth may be late.
        connections: u64::from(args.resting) * 5 / 4 + u64::from(args.concurrent) * 2,
        time_wait_ms: (u64::from(args.resting) / PER_MS) as u32,
        workers: 1,
    };
    let eal = gateway::eal(common)?;
    let (_world, mut gateway) = gateway::single(&eal, &plan)?;
    let mut waves = Waves {
        wave: args.concurrent,
        batch: u32::from(common.ahead) * BURST as u32,
        flows: Vec::with_capacity(args.concurrent as usize),
        next: 0,
        start: measure::now(&gateway.clock).ms,
    };
    // The very first packets wait for ARP, for which there is not endless room.
    (waves.wave, waves.batch) = (BURST as u32, BURST as u32);
    waves.run(&mut gateway, u64::from(common.servers) * 2)?;
    (waves.wave, waves.batch) = (args.concurrent, u32::from(common.ahead) * BURST as u32);
    // Until as many rest as will.
    waves.run(&mut gateway, u64::from(args.resting) * 5 / 4)?;
    let mut runs = Vec::new();
    for _ in 0..common.runs {
        let meter = waves.run(&mut gateway, args.connections)?;
        runs.push(Run::new(&meter, &gateway.clock, BURST as u64));
    }
    let middle = median(runs).ok_or("no run")?;
    let packets = STEPS.len() as u64;
    let cycles = middle.cycles_per_packet * packets as f64;
    ConnectionsReport {
        mode: "connections",
        packets_per_connection: packets,
        concurrent: args.concurrent,
        resting: args.resting,
        servers: common.servers,
        locals: plan.locals(),
        runs: common.runs,
        connections_per_second: tsc_hz(&gateway.clock) / cycles,
        cycles_per_connection: cycles,
        gateway: middle,
        drops: drops(&gateway.stats),
        machine: Machine::here(tsc_hz(&gateway.clock), common.hugepages),
    }
    .print(common.json)
}

struct Waves {
    /// Connections in a wave.
    wave: u32,
    /// Packets put on the wire at a time.
    batch: u32,
    flows: Vec<Flow>,
    /// Number of the next connection.
    next: u32,
    start: Millis,
}

impl Waves {
    /// Lets at least `connections` live and end.
    fn run(&mut self, gateway: &mut Gateway, connections: u64) -> Result<Meter, Failure> {
        let mut meter = Meter::new();
        let mut done = 0;
        while done < connections {
            self.wave(gateway, &mut meter)?;
            done += u64::from(self.wave);
        }
        Ok(meter)
    }

    fn wave(&mut self, gateway: &mut Gateway, meter: &mut Meter) -> Result<(), Failure> {
        let first = self.next;
        self.next = first.wrapping_add(self.wave);
        self.flows.clear();
        self.flows
            .extend((0..self.wave).map(|i| Flow::new(first.wrapping_add(i))));
        let packets = (STEPS.len() as u32 * self.wave) as u64;
        let mut sent = 0;
        for (step, &(side, flags, payload)) in STEPS.iter().enumerate() {
            for begin in (0..self.wave).step_by(self.batch as usize) {
                let end = (begin + self.batch).min(self.wave);
                for i in begin..end {
                    let frame = self.frame(i, first, side, flags, payload);
                    gateway.wire.put(side, &frame);
                }
                gateway.wire.flush_all();
                // The wave's share of time passes evenly over its packets.
                let count = u64::from(end - begin);
                sent += count;
                let begun = u64::from(first) + u64::from(self.wave) * sent / packets;
                let at = self.start.plus(begun / PER_MS);
                let polls = (end - begin).div_ceil(BURST as u32) as usize;
                meter.batch(&mut gateway.worker, &gateway.clock, Some(at), polls, count);
                let back = self.collect(gateway, first, step);
                if back != count {
                    self.wait_for_arp(gateway, first, step, at, count - back)?;
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, i: u32, first: u32, side: Side, flags: Flags, payload: usize) -> Frame {
        let flow = &mut self.flows[i as usize];
        match side {
            Side::Clients => flow.forward(first.wrapping_add(i), TCP, flags, payload),
            Side::Servers => flow.reverse(TCP, flags, payload),
        }
    }

    /// Takes what the gateway sent; of SYNs, takes note.
    fn collect(&mut self, gateway: &mut Gateway, first: u32, step: usize) -> u64 {
        gateway.wire.collect(|_, bytes| {
            if step == 0
                && let Some(seen) = Seen::read(bytes)
                && let Some(flow) = self.flows.get_mut(seen.seq.wrapping_sub(first) as usize)
            {
                flow.opened(&seen);
            }
        })
    }

    /// The first packets to each next hop wait until that is known.
    fn wait_for_arp(
        &mut self,
        gateway: &mut Gateway,
        first: u32,
        step: usize,
        at: Millis,
        mut missing: u64,
    ) -> Result<(), Failure> {
        for _ in 0..100 {
            let mut now = measure::now(&gateway.clock);
            now.ms = at;
            gateway.worker.poll(now);
            missing = missing.saturating_sub(self.collect(gateway, first, step));
            if missing == 0 {
                return Ok(());
            }
        }
        Err(format!(
            "{missing} packets of step {step} did not come back: {:?}",
            drops(&gateway.stats)
        )
        .into())
    }
}
