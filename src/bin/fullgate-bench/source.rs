//! Where the packets of established connections come from, and those of
//! connections that come and go meanwhile.

use std::sync::Arc;

use fullgate::capture::Ring;
use fullgate::dpdk::{Clock, RingEnd};
use fullgate::io::BURST;
use fullgate::wire::tcp::Flags;

use super::args::{Directions, Order, Packets, Proto};
use super::baseline::Forwarder;
use super::flows::{Flow, Random, prefetch, stranger};
use super::frame::{Frame, Seen, TCP, UDP, payload_of};
use super::gateway::{self, SERVICE_PORT, VIP};
use super::measure::Meter;
use super::steps::STEPS;
use super::wire::{Side, Wire};

/// Connections that come and go at a time.
const VISITORS: u32 = 4096;
/// Between the numbers of the lasting connections and of the others.
const GAP: u32 = 64;

/// A share of packets, in [`Random::below`] of this.
const WHOLE: u32 = 1 << 24;

/// A connection on its way from SYN to the last acknowledgement.
struct Visitor {
    number: u32,
    /// Its next packet, in [`STEPS`].
    step: usize,
    flow: Flow,
}

impl Visitor {
    fn new(number: u32) -> Self {
        Self {
            number,
            step: 0,
            flow: Flow::new(number),
        }
    }
}

pub struct Source<'a> {
    args: &'a Packets,
    pub flows: Vec<Flow>,
    random: Random,
    cursor: u32,
    numbers: Vec<u32>,
    visitors: Vec<Visitor>,
    /// Whose turn it is.
    visitor: usize,
    /// Connections that came and went.
    pub gone: u64,
    /// What a capture takes, emptied between two batches.
    pub capture: Option<Arc<Ring>>,
}

impl<'a> Source<'a> {
    pub fn new(args: &'a Packets, flows: Vec<Flow>) -> Self {
        let first = flows.len() as u32 + GAP;
        let visitors = match args.new_connections > 0.0 {
            true => (0..VISITORS).map(|i| Visitor::new(first + i)).collect(),
            false => Vec::new(),
        };
        Self {
            args,
            flows,
            random: Random::new(0x5eed_0ff1_00d5),
            cursor: 0,
            numbers: Vec::with_capacity(usize::from(args.common.ahead) * BURST),
            visitors,
            visitor: 0,
            gone: 0,
            capture: None,
        }
    }

    pub fn protocol(&self) -> u8 {
        match self.args.proto {
            Proto::Tcp => TCP,
            Proto::Udp => UDP,
        }
    }

    /// Packets in a full poll.
    pub fn in_poll(&self) -> u64 {
        let sides = if self.args.direction == Directions::Both {
            2
        } else {
            1
        };
        sides * BURST as u64
    }

    /// One run.
    pub fn measure<F: Forwarder>(
        &mut self,
        forwarder: &mut F,
        wire: &mut Wire<RingEnd>,
        clock: &Clock,
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
            self.batch(|side, frame| wire.put(side, &frame));
            wire.flush_all();
            let packets = self.in_batch();
            let polls = packets.div_ceil(self.in_poll()) as usize;
            meter.batch(forwarder, clock, None, polls, packets);
            let mut back = self.collect(wire);
            // Where packets are dealt to both sides by chance, and where ARP
            // replies, by which the gateway makes sure of its next hops, take
            // places, polls more are needed. They count.
            let more = if self.args.hit_ratio < 1.0 { 1 } else { 8 };
            for _ in 0..more {
                if back == packets {
                    break;
                }
                meter.batch(forwarder, clock, None, 1, 0);
                back += self.collect(wire);
            }
            assert!(
                back == packets || self.args.hit_ratio < 1.0,
                "{back} of {packets} packets came back",
            );
            if let Some(ring) = &self.capture {
                while let Some(record) = ring.take() {
                    ring.give_back(record);
                }
            }
        }
        meter
    }

    /// Seconds of the worker's own time in a run.
    pub fn seconds(&self) -> f64 {
        self.args.seconds
    }

    /// Packets that [`Source::batch`] makes.
    pub fn in_batch(&self) -> u64 {
        u64::from(self.args.common.ahead) * BURST as u64
    }

    /// Makes a batch.
    pub fn batch(&mut self, mut put: impl FnMut(Side, Frame)) {
        let args = self.args;
        let protocol = self.protocol();
        let payload = payload_of(args.packet_size, protocol);
        let flags = match protocol {
            TCP => Flags::ACK,
            _ => Flags::default(),
        };
        let all = self.flows.len() as u32;
        self.numbers.clear();
        for _ in 0..self.in_batch() {
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
        let misses = ((1.0 - args.hit_ratio) * f64::from(WHOLE)) as u32;
        let visits = (args.new_connections * f64::from(WHOLE)) as u32;
        for i in 0..self.numbers.len() {
            if visits > 0 && self.random.below(WHOLE) < visits {
                let (side, frame) = self.visit();
                put(side, frame);
                continue;
            }
            let side = match args.direction {
                Directions::Forward => Side::Clients,
                Directions::Reverse => Side::Servers,
                Directions::Both if i & 1 == 0 => Side::Clients,
                Directions::Both => Side::Servers,
            };
            if misses > 0 && self.random.below(WHOLE) < misses {
                let frame = unknown(self.random.below(WHOLE), protocol, payload);
                put(side, frame);
                continue;
            }
            let number = self.numbers[i];
            let Some(flow) = self.flows.get_mut(number as usize) else {
                continue;
            };
            let frame = match side {
                Side::Clients => flow.forward(number, protocol, flags, payload),
                Side::Servers => flow.reverse(protocol, flags, payload),
            };
            put(side, frame);
        }
    }

    /// The next packet of the visitor whose turn it is.
    fn visit(&mut self) -> (Side, Frame) {
        let visitor = &mut self.visitors[self.visitor];
        self.visitor = (self.visitor + 1) % VISITORS as usize;
        if visitor.step == STEPS.len() {
            *visitor = Visitor::new(visitor.number.wrapping_add(VISITORS));
            self.gone += 1;
        }
        let (side, flags, payload) = STEPS[visitor.step];
        visitor.step += 1;
        let frame = match side {
            Side::Clients => visitor.flow.forward(visitor.number, TCP, flags, payload),
            Side::Servers => visitor.flow.reverse(TCP, flags, payload),
        };
        (side, frame)
    }

    /// Takes off the wire what the forwarder sent.
    pub fn collect(&mut self, wire: &mut Wire<RingEnd>) -> u64 {
        if self.visitors.is_empty() {
            return wire.collect(|_, _| {});
        }
        let first = self.flows.len() as u32 + GAP;
        wire.collect(|side, bytes| {
            if side == Side::Servers
                && let Some(seen) = Seen::read(bytes)
                && seen.flags == Flags::SYN
            {
                let at = seen.seq.wrapping_sub(first) % VISITORS;
                self.visitors[at as usize].flow.opened(&seen);
            }
        })
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
impl super::handshake::Through for gateway::Gateway {
    type End = RingEnd;

    fn wire(&mut self) -> &mut Wire<RingEnd> {
        &mut self.wire
    }

    fn settle(&mut self, _packets: u64, mut see: impl FnMut(Side, Seen)) -> u64 {
        self.wire.flush_all();
        let (mut quiet, mut all) = (0, 0);
        while quiet < 2 {
            for _ in 0..4 {
                self.worker.poll(self.start);
            }
            let taken = self.wire.collect(|side, bytes| {
                if let Some(seen) = Seen::read(bytes) {
                    see(side, seen);
                }
            });
            quiet = if taken == 0 { quiet + 1 } else { 0 };
            all += taken;
        }
        all
    }
}
