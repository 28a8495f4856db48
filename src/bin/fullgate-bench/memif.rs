//! Packets through whatever program is at the other end of two memif wires.
//!
//! The generator has a core to itself, and so has the other end. Connections
//! are opened by real handshakes; then the clients' side is kept full with
//! 60-byte packets (64 on a wire with frame checksum) of connections in random
//! order, and what comes out on the servers' side is counted.
//!
//! A packet is a buffer that already holds the frame of another connection, in
//! which source, numbers and checksums are written anew.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use serde::Serialize;

use fullgate::dpdk::{Device, Eal, Mbuf, Mempool, Port, PortConfig, Queue};
use fullgate::io::{BURST, PacketBuf};
use fullgate::wire::checksum::fold;
use fullgate::wire::ethernet::MacAddr;
use fullgate::wire::tcp::Flags;

use super::Failure;
use super::args::{Memif, Proto};
use super::flows::{Flow, Random, client};
use super::frame::{Frame, Seen, TCP};
use super::gateway::{self, Plan, SERVICE_PORT, VIP};
use super::handshake::{Through, establish};
use super::wire::{End as _, PEER, Side, Wire, is_arp};

/// Of the other end's ports.
const MACS: [&str; 2] = ["02:00:00:00:01:01", "02:00:00:00:01:02"];
/// Bytes of a frame without its checksum.
const LEN: usize = 60;
/// A memif's ring holds 2^10 packets: so many bursts are on their way at most.
const BURSTS: usize = 8;
/// How long the other end may take for what is on its way.
const PATIENCE: Duration = Duration::from_secs(2);
/// Packets before the clock is looked at, and the clients' side for ARP.
const ROUND: u32 = 64;

/// What the other end carried in one run.
#[derive(Clone, Copy, Debug, Serialize)]
struct Flood {
    /// Packets that came back as they should, in a second.
    packets_per_second: f64,
    /// Share of attempts to send that found the wire full: at 0 the generator
    /// is the limit.
    wire_full: f64,
    /// Packets that came back otherwise.
    wrong: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    mode: &'static str,
    flows: u32,
    plain: bool,
    runs: Vec<Flood>,
    median_packets_per_second: f64,
}

pub fn run(args: &Memif) -> Result<(), Failure> {
    let plan = Plan {
        common: &args.common,
        proto: Proto::Tcp,
        connections: args.flows.into(),
        time_wait_ms: 60_000,
        workers: 1,
    };
    if let Some(core) = args.print_config {
        print!("{}", config(&plan, &args.sockets, core));
        return Ok(());
    }
    let eal = gateway::eal(&args.common)?;
    let mut rig = Rig::new(&eal, &args.sockets)?;
    let mut flows: Vec<Flow> = Vec::new();
    if !args.plain {
        flows.extend((0..args.flows).map(Flow::new));
        establish(&mut rig, &mut flows, TCP, BURSTS)?;
    }
    let mut generator = Generator::new(&eal, args.flows)?;
    // Until nothing is new to the caches any more.
    generator.flood(&mut rig, &flows, Duration::from_millis(300));
    let runs: Vec<Flood> = (0..args.common.runs)
        .map(|_| generator.flood(&mut rig, &flows, Duration::from_secs_f64(args.seconds)))
        .collect();
    let mut rates: Vec<f64> = runs.iter().map(|run| run.packets_per_second).collect();
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    if args.common.json {
        let report = Report {
            mode: "memif",
            flows: args.flows,
            plain: args.plain,
            runs,
            median_packets_per_second: median,
        };
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    println!(
        "{} flows, {}, {LEN}-byte frames over memif; median {:.3} Mpps",
        args.flows,
        if args.plain { "plain" } else { "translated" },
        median / 1e6,
    );
    for run in &runs {
        println!(
            "run       {:.3} Mpps, wire full {:.0} %, {} packets wrong",
            run.packets_per_second / 1e6,
            run.wire_full * 100.0,
            run.wrong,
        );
    }
    Ok(())
}

/// The configuration of `fullgate` at the other end.
fn config(plan: &Plan<'_>, sockets: &Path, core: u32) -> String {
    let device = |name: &str, number: usize| {
        format!(
            "vdev:net_memif{number},role=server,id=0,socket={},socket-abstract=no,mac={}",
            sockets.join(name).display(),
            MACS[number],
        )
    };
    let runtime = format!(
        "hugepages = false\nidle-sleep = \"0us\"\ncores = [{core}]\ninstance = \"bench-memif\"\nadmin-socket = \"{}\"",
        sockets.join("fullgate.sock").display(),
    );
    let devices = [device("wan.sock", 0), device("lan.sock", 1)];
    plan.toml([&devices[0], &devices[1]], &runtime)
}

/// The ports, and the wire to what they are connected with.
struct Rig {
    wire: Wire<Queue>,
    _ports: Vec<Port>,
}

impl Rig {
    fn new(eal: &Eal, sockets: &Path) -> Result<Self, Failure> {
        let pool = gateway::pool(eal, "memif", 1)?;
        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        for (number, name) in ["wan.sock", "lan.sock"].into_iter().enumerate() {
            let socket = sockets.join(name);
            if !socket.exists() {
                return Err(format!("{}: nobody listens there", socket.display()).into());
            }
            let config = PortConfig {
                device: Device::Vdev(format!(
                    "net_memif{number},role=client,id=0,socket={},socket-abstract=no",
                    socket.display()
                )),
                queues: 1,
                rx_desc: 1024,
                tx_desc: 1024,
                mtu: 1500,
                promiscuous: false,
                netns: None,
                rss_key: [0; 40],
                // The flood's buffers have a pool of their own.
                one_pool: false,
            };
            let mut port = Port::open(eal, &config, std::slice::from_ref(&pool))?;
            port.start()?;
            let begin = Instant::now();
            while !port.link()?.up {
                if begin.elapsed() > PATIENCE {
                    return Err(format!("{}: the other end does not answer", name).into());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            queues.append(&mut port.take_queues()?);
            ports.push(port);
        }
        let ends = queues.try_into().map_err(|_| "two ports, two queues")?;
        let macs = MACS.map(|text| {
            let mut bytes = text.split(':').map(|part| u8::from_str_radix(part, 16));
            MacAddr(std::array::from_fn(|_| {
                bytes.next().and_then(Result::ok).unwrap_or_default()
            }))
        });
        Ok(Self {
            wire: Wire::new(ends, macs, pool),
            _ports: ports,
        })
    }
}

impl Through for Rig {
    type End = Queue;

    fn wire(&mut self) -> &mut Wire<Queue> {
        &mut self.wire
    }

    fn settle(&mut self, packets: u64, mut see: impl FnMut(Side, Seen)) -> u64 {
        self.wire.flush_all();
        let mut all = 0;
        let begin = Instant::now();
        while all < packets && begin.elapsed() < PATIENCE {
            all += self.wire.collect(|side, bytes| {
                if let Some(seen) = Seen::read(bytes) {
                    see(side, seen);
                }
            });
        }
        all
    }
}

/// Makes the clients' packets.
struct Generator {
    flows: u32,
    random: Random,
    /// Each buffer holds a whole frame.
    frames: Mempool,
    sums: Sums,
}

/// Checksums of the template, to which those of a connection's part are added.
#[derive(Clone, Copy, Debug)]
struct Sums {
    ip: u64,
    tcp: u64,
}

/// The frame that all are made from.
const TEMPLATE: Frame = Frame {
    src: Ipv4Addr::UNSPECIFIED,
    dst: VIP,
    src_port: 0,
    dst_port: SERVICE_PORT,
    protocol: TCP,
    flags: Flags::ACK,
    seq: 0,
    ack: 0,
    payload: 0,
};

/// Where things are in the frames.
mod at {
    pub const IP_SUM: usize = 24;
    pub const SRC: usize = 26;
    pub const SRC_PORT: usize = 34;
    pub const SEQ: usize = 38;
    pub const ACK: usize = 42;
    pub const TCP_SUM: usize = 50;
}

impl Generator {
    fn new(eal: &Eal, flows: u32) -> Result<Self, Failure> {
        let frames = gateway::pool(eal, "frames", 1)?;
        // The clients' side of the other end.
        let mac = MacAddr([2, 0, 0, 0, 1, 1]);
        let mut all: Vec<Mbuf> = std::iter::from_fn(|| frames.allocate()).collect();
        for packet in &mut all {
            if !packet.set_len(LEN) {
                return Err("a frame does not fit its buffer".into());
            }
            TEMPLATE.write(packet.bytes_mut(), PEER, mac);
        }
        let sample = all.first().map(Mbuf::bytes).ok_or("no buffers")?;
        Ok(Self {
            flows,
            random: Random::new(0x5eed_0ff1_00d5),
            sums: Sums::of(sample),
            frames,
        })
    }

    /// Keeps the wire full for `time`.
    fn flood(&mut self, rig: &mut Rig, flows: &[Flow], time: Duration) -> Flood {
        let mut out = ArrayVec::<Mbuf, BURST>::new();
        let mut back = ArrayVec::<Mbuf, 64>::new();
        let (mut right, mut wrong) = (0, 0);
        let (mut attempts, mut full) = (0u64, 0u64);
        let begin = Instant::now();
        loop {
            for _ in 0..ROUND {
                if out.is_empty() {
                    self.burst(&mut out);
                }
                rig.wire.ends[0].send(&mut out);
                attempts += 1;
                full += u64::from(!out.is_empty());
                rig.wire.ends[1].receive(&mut back);
                let mut unseen = 1;
                for packet in back.drain(..) {
                    let bytes = packet.bytes();
                    if is_arp(bytes) {
                        rig.wire.answer_arp(Side::Servers, packet);
                        continue;
                    }
                    // One of each burst is compared with its connection.
                    let as_it_should = match unseen {
                        1 => is_right(bytes, flows),
                        _ => came_through(bytes, flows.is_empty()),
                    };
                    unseen = 0;
                    right += u64::from(as_it_should);
                    wrong += u64::from(!as_it_should);
                }
            }
            rig.wire.ends[0].receive(&mut back);
            for packet in back.drain(..) {
                if is_arp(packet.bytes()) {
                    rig.wire.answer_arp(Side::Clients, packet);
                }
            }
            if begin.elapsed() >= time {
                break;
            }
        }
        Flood {
            packets_per_second: right as f64 / begin.elapsed().as_secs_f64(),
            wire_full: full as f64 / attempts as f64,
            wrong,
        }
    }

    #[inline(always)]
    fn burst(&mut self, out: &mut ArrayVec<Mbuf, BURST>) {
        while !out.is_full() {
            // Those on the wire are copies: buffers come back at once.
            let Some(mut packet) = self.frames.allocate() else {
                return;
            };
            let number = self.random.below(self.flows);
            if packet.set_len(LEN)
                && let Some(frame) = packet.bytes_mut().first_chunk_mut()
            {
                self.sums.aim(frame, number);
            }
            out.push(packet);
        }
    }
}

impl Sums {
    /// Of [`TEMPLATE`] as written.
    fn of(frame: &[u8]) -> Self {
        let sum = |at: usize| u64::from(!u16::from_be_bytes([frame[at], frame[at + 1]]));
        Self {
            ip: sum(at::IP_SUM),
            tcp: sum(at::TCP_SUM),
        }
    }

    /// Makes a frame one of connection `number`.
    #[inline(always)]
    fn aim(self, frame: &mut [u8; LEN], number: u32) {
        let (src, port) = client(number);
        let src = src.to_bits();
        // As a handshake leaves them.
        let seq = number.wrapping_add(1);
        frame[at::SRC..][..4].copy_from_slice(&src.to_be_bytes());
        frame[at::SRC_PORT..][..2].copy_from_slice(&port.to_be_bytes());
        frame[at::SEQ..][..4].copy_from_slice(&seq.to_be_bytes());
        frame[at::ACK..][..4].copy_from_slice(&seq.to_be_bytes());
        let ip = self.ip + u64::from(src);
        let tcp = self.tcp + u64::from(src) + u64::from(port) + 2 * u64::from(seq);
        frame[at::IP_SUM..][..2].copy_from_slice(&(!fold(ip)).to_be_bytes());
        frame[at::TCP_SUM..][..2].copy_from_slice(&(!fold(tcp)).to_be_bytes());
    }
}

/// Whether a packet came out translated, or, of a forwarder that does not
/// translate, as it went in.
#[inline(always)]
fn came_through(bytes: &[u8], plain: bool) -> bool {
    let Some(dst) = bytes.get(30..34).and_then(|b| b.first_chunk()) else {
        return false;
    };
    (Ipv4Addr::from(*dst) == VIP) == plain
}

/// Whether a packet is what the gateway is to make of its connection's.
fn is_right(bytes: &[u8], flows: &[Flow]) -> bool {
    if flows.is_empty() {
        return came_through(bytes, true);
    }
    let seen = Seen::read(bytes);
    seen.is_some_and(|seen| {
        let flow = flows.get(seen.seq.wrapping_sub(1) as usize);
        flow.is_some_and(|flow| flow.is_of(&seen))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aimed_frame_is_the_one_made_anew() {
        for number in [0, 1, 77_777, 0x00ff_ffff, 0x8000_0001] {
            let (src, src_port) = client(number);
            let seq = number.wrapping_add(1);
            let wanted = Frame {
                src,
                src_port,
                seq,
                ack: seq,
                ..TEMPLATE
            };
            let mut anew = [0xa5; LEN];
            wanted.write(&mut anew, PEER, PEER);
            let mut aimed = [0xa5; LEN];
            TEMPLATE.write(&mut aimed, PEER, PEER);
            let sums = Sums::of(&aimed);
            sums.aim(&mut aimed, number);
            assert_eq!(aimed, anew, "{number}");
        }
    }
}
