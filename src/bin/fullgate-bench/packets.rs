//! Packets of established connections.

use fullgate::conntrack::entry::State;
use fullgate::ids::SlotIx;
use fullgate::io::BURST;
use fullgate::wire::tcp::Flags;

use super::Failure;
use super::args::{Directions, Order, Packets, Proto};
use super::baseline::{Forwarder, MacSwap};
use super::flows::{Flow, Random, prefetch, stranger};
use super::frame::{Frame, Seen, TCP, UDP, payload_of};
use super::gateway::{self, Gateway, Plan, SERVICE_PORT, VIP};
use super::measure::{Meter, resident_bytes};
use super::report::{Machine, PacketsReport, Run, drops, median};
use super::wire::{Side, Wire};

/// TIME-WAIT plays no part here.
const TIME_WAIT_MS: u32 = 60_000;

pub fn run(args: &Packets) -> Result<(), Failure> {
    let common = &args.common;
    let plan = Plan {
        common,
        proto: args.proto,
        connections: args.flows.into(),
        time_wait_ms: TIME_WAIT_MS,
    };
    let eal = gateway::eal(common)?;
    let mut source = Source::new(args);
    let mut gateway = Gateway::new(&eal, &plan)?;
    let before = resident_bytes();
    source.establish(&mut gateway)?;
    let grown = resident_bytes().saturating_sub(before);

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
            let meter = source.measure(&mut swap, wire, clock);
            theirs.push(Run::new(&meter, clock, source.in_poll()));
        }
        if !args.baseline {
            let meter = source.measure(worker, wire, clock);
            ours.push(Run::new(&meter, clock, source.in_poll()));
        }
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let both = ours.zip(theirs);
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
        packets_in_poll: source.in_poll(),
        runs: common.runs,
        gateway: ours,
        baseline: theirs,
        added_cycles: both.map(|(a, b)| a.cycles_per_packet - b.cycles_per_packet),
        ratio: both.map(|(a, b)| a.packets_per_second / b.packets_per_second),
        bytes_per_connection: grown as f64 / f64::from(args.flows),
        fixed_bytes: before,
        drops: drops(&gateway.stats),
        machine: Machine::here(&gateway.clock, common.hugepages),
    }
    .print(common.json)
}

/// Where the packets come from.
struct Source<'a> {
    args: &'a Packets,
    flows: Vec<Flow>,
    random: Random,
    cursor: u32,
    numbers: Vec<u32>,
}

impl<'a> Source<'a> {
    fn new(args: &'a Packets) -> Self {
        Self {
            args,
            flows: (0..args.flows).map(Flow::new).collect(),
            random: Random::new(0x5eed_0ff1_00d5),
            cursor: 0,
            numbers: Vec::with_capacity(usize::from(args.common.ahead) * BURST),
        }
    }

    fn protocol(&self) -> u8 {
        match self.args.proto {
            Proto::Tcp => TCP,
            Proto::Udp => UDP,
        }
    }

    /// Packets in a full poll.
    fn in_poll(&self) -> u64 {
        let sides = if self.args.direction == Directions::Both {
            2
        } else {
            1
        };
        sides * BURST as u64
    }

    /// Opens every connection as a client and a server do.
    fn establish(&mut self, gateway: &mut Gateway) -> Result<(), Failure> {
        let protocol = self.protocol();
        let first = match protocol {
            TCP => Flags::SYN,
            _ => Flags::default(),
        };
        // The payload that carries the number, see `flows`.
        let payload = if protocol == TCP { 0 } else { 18 };
        let mut end = 0;
        while end < self.flows.len() {
            let begin = end;
            // The very first packets wait for ARP, for which there is not
            // endless room.
            let bursts = match begin {
                ..4096 => 1,
                _ => usize::from(self.args.common.ahead),
            };
            end = (begin + bursts * BURST).min(self.flows.len());
            for number in begin..end {
                let frame = self.flows[number].forward(number as u32, protocol, first, payload);
                gateway.wire.put(Side::Clients, &frame);
            }
            settle(gateway, |side, seen| {
                if side == Side::Servers
                    && let Some(flow) = self.flows.get_mut(seen.seq as usize)
                {
                    flow.opened(&seen);
                }
            });
            let unopened = self.flows[begin..end].iter().filter(|flow| !flow.is_open());
            let unopened = unopened.count();
            if unopened > 0 {
                return Err(format!(
                    "{unopened} connections from number {begin} on did not get through: {:?}",
                    drops(&gateway.stats)
                )
                .into());
            }
            let answer = match protocol {
                TCP => Flags(Flags::SYN.0 | Flags::ACK.0),
                _ => Flags::default(),
            };
            for flow in &mut self.flows[begin..end] {
                let frame = flow.reverse(protocol, answer, payload);
                gateway.wire.put(Side::Servers, &frame);
            }
            settle(gateway, |_, _| {});
            if protocol == TCP {
                for number in begin..end {
                    let frame = self.flows[number].forward(number as u32, TCP, Flags::ACK, 0);
                    gateway.wire.put(Side::Clients, &frame);
                }
                settle(gateway, |_, _| {});
            }
        }
        let open = match protocol {
            TCP => State::Established,
            _ => State::UdpTwoWay,
        };
        let table = gateway.worker.table();
        let opened = table
            .slots(SlotIx(0), table.slots_end())
            .filter(|&slot| table.get(slot).state == open)
            .count();
        if opened != self.flows.len() {
            let drops = drops(&gateway.stats);
            return Err(format!("only {opened} connections are open: {drops:?}").into());
        }
        Ok(())
    }

    /// One run.
    fn measure<F: Forwarder>(
        &mut self,
        forwarder: &mut F,
        wire: &mut Wire,
        clock: &fullgate::dpdk::Clock,
    ) -> Meter {
        let mut meter = Meter::new();
        let budget_ns = (self.args.seconds * 1e9) as u64;
        loop {
            let done = match self.args.packets {
                Some(packets) => meter.packets >= packets,
                None => meter.cpu_ns >= budget_ns,
            };
            if done {
                break;
            }
            let packets = self.batch(wire);
            let polls = packets.div_ceil(self.in_poll()) as usize;
            meter.batch(forwarder, clock, None, polls, packets);
            let mut back = wire.collect(|_, _| {});
            if back < packets {
                // ARP replies, by which the gateway makes sure of its next
                // hops, took a place in a poll.
                forwarder.poll(gateway::now(clock));
                back += wire.collect(|_, _| {});
            }
            assert!(
                back == packets || self.args.hit_ratio < 1.0,
                "{back} of {packets} packets came back",
            );
        }
        meter
    }

    /// Puts a batch on the wire.
    fn batch(&mut self, wire: &mut Wire) -> u64 {
        let args = self.args;
        let protocol = self.protocol();
        let payload = payload_of(args.packet_size, protocol);
        let flags = match protocol {
            TCP => Flags::ACK,
            _ => Flags::default(),
        };
        let count = usize::from(args.common.ahead) * BURST;
        let all = self.flows.len() as u32;
        self.numbers.clear();
        for _ in 0..count {
            let number = match args.order {
                Order::Random => self.random.below(all),
                Order::Seq => {
                    let number = self.cursor;
                    self.cursor = (number + 1) % all;
                    number
                }
            };
            self.numbers.push(number);
        }
        prefetch(&self.flows, &self.numbers);
        let misses = ((1.0 - args.hit_ratio) * f64::from(1 << 24)) as u32;
        for (i, &number) in self.numbers.iter().enumerate() {
            let forward = match args.direction {
                Directions::Forward => true,
                Directions::Reverse => false,
                Directions::Both => i & 1 == 0,
            };
            if misses > 0 && self.random.below(1 << 24) < misses {
                let frame = unknown(self.random.below(1 << 24), protocol, payload);
                let side = if forward {
                    Side::Clients
                } else {
                    Side::Servers
                };
                wire.put(side, &frame);
                continue;
            }
            let Some(flow) = self.flows.get_mut(number as usize) else {
                continue;
            };
            if forward {
                wire.put(
                    Side::Clients,
                    &flow.forward(number, protocol, flags, payload),
                );
            } else {
                wire.put(Side::Servers, &flow.reverse(protocol, flags, payload));
            }
        }
        wire.flush_all();
        count as u64
    }
}

/// A packet of no connection, and which opens none.
fn unknown(number: u32, protocol: u8, payload: usize) -> Frame {
    let (src, src_port) = stranger(number);
    Frame {
        src,
        src_port,
        dst: VIP,
        dst_port: if protocol == TCP {
            SERVICE_PORT
        } else {
            SERVICE_PORT + 1
        },
        protocol,
        flags: Flags::ACK,
        seq: number,
        ack: number,
        payload,
    }
}

/// Polls until nothing comes any more. Meanwhile no time passes: on a busy
/// machine it would be enough for a SYN to be taken to another server.
fn settle(gateway: &mut Gateway, mut see: impl FnMut(Side, Seen)) {
    gateway.wire.flush_all();
    let mut quiet = 0;
    while quiet < 2 {
        for _ in 0..4 {
            gateway.worker.poll(gateway.start);
        }
        let taken = gateway.wire.collect(|side, bytes| {
            if let Some(seen) = Seen::read(bytes) {
                see(side, seen);
            }
        });
        quiet = if taken == 0 { quiet + 1 } else { 0 };
    }
}
