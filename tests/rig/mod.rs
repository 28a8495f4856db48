//! A production worker between clients (port 0, behind a router) and real
//! servers (port 1), which both answer as hosts do. Nothing in it allocates
//! once it is made, so that whatever is counted is the worker's.
//!
//! Shared by `tests/no_alloc.rs` and `benches/scale.rs`; neither uses all.
#![allow(dead_code)]

pub mod counting;
pub mod pool;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fullgate::conntrack::entry::Entry;
use fullgate::conntrack::hash::HashKey;
use fullgate::conntrack::isn::IsnSecret;
use fullgate::conntrack::table::ConnTable;
use fullgate::conntrack::timeouts::Timeouts;
use fullgate::ids::{PortIx, ServerIx, ServiceIx, SetIx, WorkerIx};
use fullgate::io::{BurstIo, PacketBuf};
use fullgate::service::route::{Route, Routes};
use fullgate::service::schedule::{Plan, Scheduler};
use fullgate::service::snapshot::{
    Answer, KernelPort, Limits, Parts, PortInfo, Server, ServerState, Service, Snapshot,
};
use fullgate::snat::ports::{PortClasses, PortSet, WorkerPorts};
use fullgate::snat::steering::{Reta, Steering, SteeringMode};
use fullgate::snat::toeplitz::DEFAULT_KEY;
use fullgate::stats::{DropReason, WorkerStats};
use fullgate::time::Millis;
use fullgate::wire::arp::{ArpOp, ArpRepr};
use fullgate::wire::checksum::checksum;
use fullgate::wire::ethernet::{EtherType, EthernetRepr, MacAddr};
use fullgate::wire::ipv4::Ipv4Repr;
use fullgate::wire::proto;
use fullgate::wire::tcp::{Flags, TcpRepr};
use fullgate::worker::kernel::{FrameRing, KernelRings};
use fullgate::worker::message::{Link, Update};
use fullgate::worker::{Handover, Now, Room, Setup, Worker};

use pool::{PoolBuf, PoolIo};

pub const WAN: PortIx = PortIx(0);
pub const LAN: PortIx = PortIx(1);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
/// Address of the port to the clients.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// Buffers in each direction between a worker and the kernel.
pub const KERNEL_DEPTH: usize = 16;
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
const OWN: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x99]);

/// What a rig is made with.
#[derive(Clone)]
pub struct Options {
    /// Room in each worker's table.
    pub connections: usize,
    /// TCP services: at VIP:80, VIP:81, and so on.
    pub services: Vec<(Timeouts, Answer)>,
    /// Real servers of each service, and as many local addresses.
    pub servers: u8,
    pub resets_per_second: u32,
    /// The kernel is behind the port to the clients.
    pub kernel: bool,
}

/// A TCP segment without payload, or the same ports as a UDP datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub src_port: u16,
    pub dst_port: u16,
    pub flags: Flags,
    pub seq: u32,
    pub ack: u32,
}

impl Segment {
    /// The SYN of client number `n` to a service.
    pub fn syn(n: u32, service: u16) -> Self {
        Self {
            src: Ipv4Addr::from_bits(0x6440_0000 + n / 50_000),
            dst: VIP,
            src_port: 10_000 + (n % 50_000) as u16,
            dst_port: 80 + service,
            flags: Flags::SYN,
            seq: 1_000,
            ack: 0,
        }
    }

    /// An acknowledgement of the client, as it comes.
    pub fn from_client(entry: &Entry) -> Self {
        Self {
            src: entry.client,
            dst: entry.vip,
            src_port: entry.client_port,
            dst_port: entry.vip_port,
            flags: Flags::ACK,
            seq: entry.c_next,
            ack: entry.s_next,
        }
    }

    /// One of the server, as it comes.
    pub fn from_server(entry: &Entry) -> Self {
        Self {
            src: entry.server_addr,
            dst: entry.local,
            src_port: entry.server_port,
            dst_port: entry.local_port,
            flags: Flags::ACK,
            seq: entry.s_next,
            ack: entry.c_next,
        }
    }

    /// Between the same ends, the other way.
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            ..*self
        }
    }

    /// Addresses and ports are the same.
    pub fn has_ends_of(&self, other: &Self) -> bool {
        let ends = |s: &Self| (s.src, s.src_port, s.dst, s.dst_port);
        ends(self) == ends(other)
    }

    /// What a host answers to an opening segment.
    pub fn answer(&self) -> Option<Self> {
        let (flags, seq) = if self.flags == Flags::SYN {
            (Flags(Flags::SYN.0 | Flags::ACK.0), 5_000)
        } else if self.flags.has(Flags::SYN) {
            (Flags::ACK, self.ack)
        } else {
            return None;
        };
        Some(Self {
            flags,
            seq,
            ack: self.seq.wrapping_add(1),
            ..self.reversed()
        })
    }

    fn read(frame: &[u8]) -> Option<Self> {
        let frame: &[u8; 54] = frame.first_chunk()?;
        if frame[12..14] != [8, 0] || frame[23] != proto::TCP {
            return None;
        }
        let half = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        Some(Self {
            src: Ipv4Addr::from_bits(word(26)),
            dst: Ipv4Addr::from_bits(word(30)),
            src_port: half(34),
            dst_port: half(36),
            seq: word(38),
            ack: word(42),
            flags: Flags(frame[47]),
        })
    }
}

/// One worker and its surroundings.
pub struct Rig {
    pub worker: Worker<PoolIo>,
    pub link: Link,
    /// Carry something only with `Options::kernel`.
    pub kernel: KernelRings,
    pub stats: Arc<WorkerStats>,
    pub now: Millis,
    /// What there was to do in the last round.
    pub work: usize,
    /// Allocations and releases while the worker was polled.
    pub allocator_calls: u64,
}

impl Rig {
    /// One worker.
    pub fn new(options: &Options) -> Self {
        Self::several(options, 1, SteeringMode::Rss).remove(0)
    }

    /// Workers that hand over to each other.
    pub fn several(options: &Options, workers: u8, mode: SteeringMode) -> Vec<Self> {
        Self::with_ports(options, workers, mode, 1024..=65535)
    }

    /// The same with these local ports.
    pub fn with_ports(
        options: &Options,
        workers: u8,
        mode: SteeringMode,
        ports: std::ops::RangeInclusive<u16>,
    ) -> Vec<Self> {
        let reta = Reta::even(128, workers).expect("a table");
        let steering = Arc::new(Steering::new(DEFAULT_KEY, reta, mode).expect("steering"));
        let classes = Arc::new(PortClasses::new(Arc::clone(&steering), ports));
        let servers = servers(options);
        let snapshot = Arc::new(snapshot(options, &servers, &steering, 1));
        let handovers = Handover::mesh(usize::from(workers), 256);
        let room = Room {
            ports: 2,
            services: options.services.len(),
            servers: servers.len(),
            sets: servers.len() * usize::from(options.servers),
        };
        (0..workers)
            .map(WorkerIx)
            .zip(handovers)
            .map(|(ix, handover)| {
                let lends = Arc::new(WorkerPorts::new(Arc::clone(&classes), ix));
                let now = Millis(1_000);
                let key = HashKey::from_bytes([7; 32]);
                let table = ConnTable::anonymous(options.connections, key, now);
                let mut table = table.expect("memory");
                table.populate().expect("memory");
                let kernel = KernelRings {
                    to: Arc::new(FrameRing::new(KERNEL_DEPTH)),
                    from: Some(Arc::new(FrameRing::new(KERNEL_DEPTH))),
                };
                let setup = Setup {
                    neighbors: 64,
                    kernel: options.kernel.then(|| kernel.clone()),
                    ..Setup::new(ix, table, room, handover, IsnSecret([3; 16]))
                };
                let (link, stats) = (setup.link.clone(), Arc::clone(&setup.stats));
                let first = Box::new(Update {
                    new_sets: sets(&servers, &lends),
                    ..Update::new(Arc::clone(&snapshot))
                });
                Self {
                    worker: Worker::new(setup, PoolIo::new(), first, Now { ms: now, tsc: 0 }),
                    link,
                    kernel,
                    stats,
                    now,
                    work: 0,
                    allocator_calls: 0,
                }
            })
            .collect()
    }

    /// Puts a frame of 60 bytes into the receive queue of `port`; `fill` gets
    /// it zeroed.
    pub fn receive(&mut self, port: PortIx, fill: impl FnOnce(&mut [u8; 60])) {
        let io = self.worker.io_mut();
        let mut packet = io.allocate().expect("a buffer");
        assert!(packet.set_len(60));
        let frame = packet.bytes_mut().first_chunk_mut().expect("60 bytes");
        *frame = [0; 60];
        fill(frame);
        io.rx[port.ix()].push_back(packet);
    }

    pub fn receive_segment(&mut self, port: PortIx, segment: &Segment) {
        self.receive(port, |frame| write(frame, port, segment, proto::TCP));
    }

    /// A datagram with the ports of `segment` and no payload.
    pub fn receive_datagram(&mut self, port: PortIx, segment: &Segment) {
        self.receive(port, |frame| write(frame, port, segment, proto::UDP));
    }

    /// 24 bytes as a fragment; `word` is that of the flags and the offset, and
    /// a first fragment begins with the header of `segment`.
    pub fn receive_fragment(&mut self, port: PortIx, segment: &Segment, ident: u16, word: u16) {
        self.receive(port, |frame| {
            write(frame, port, segment, proto::TCP);
            frame[16..18].copy_from_slice(&44u16.to_be_bytes());
            frame[18..20].copy_from_slice(&ident.to_be_bytes());
            frame[20..22].copy_from_slice(&word.to_be_bytes());
            frame[24..26].fill(0);
            let sum = checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        });
    }

    /// A segment in an IP packet of `ip_len` bytes.
    pub fn receive_long(&mut self, port: PortIx, segment: &Segment, ip_len: u16) {
        self.receive_segment(port, segment);
        let packet = self.worker.io_mut().rx[port.ix()].back_mut();
        let packet = packet.expect("the segment");
        assert!(packet.set_len(14 + usize::from(ip_len)));
        let frame = packet.bytes_mut();
        frame[54..].fill(7);
        frame[16..18].copy_from_slice(&ip_len.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    /// "Fragmentation needed" from the clients' side about a frame that was sent
    /// there.
    pub fn receive_too_big(&mut self, about: &[u8], mtu: u16) {
        let quoted = &about[14..42];
        let back = Segment::read(about).expect("a segment").reversed();
        self.receive(WAN, |frame| write(frame, WAN, &back, proto::ICMP));
        let packet = self.worker.io_mut().rx[WAN.ix()].back_mut();
        let packet = packet.expect("the message");
        assert!(packet.set_len(14 + 20 + 8 + quoted.len()));
        let frame = packet.bytes_mut();
        frame[34..42].copy_from_slice(&[3, 4, 0, 0, 0, 0, 0, 0]);
        frame[40..42].copy_from_slice(&mtu.to_be_bytes());
        frame[42..].copy_from_slice(quoted);
        let sum = checksum(&frame[34..]);
        frame[36..38].copy_from_slice(&sum.to_be_bytes());
        frame[16..18].copy_from_slice(&56u16.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    /// One round; how long it took.
    pub fn poll(&mut self) -> Duration {
        let now = Now {
            ms: self.now,
            tsc: 0,
        };
        let before = counting::calls();
        let begin = Instant::now();
        self.work = self.worker.poll(now);
        let took = begin.elapsed();
        self.allocator_calls += counting::calls() - before;
        took
    }

    /// Takes the oldest IP packet transmitted on `port`. ARP requests on the
    /// way are answered.
    pub fn sent(&mut self, port: PortIx) -> Option<PoolBuf> {
        loop {
            let packet = self.worker.io_mut().tx[port.ix()].pop_front()?;
            let frame = packet.bytes();
            if frame[12..14] == [8, 0] {
                return Some(packet);
            }
            let word = |at: usize| [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
            let (asking, asked) = (Ipv4Addr::from(word(28)), Ipv4Addr::from(word(38)));
            if frame[21] == 1 && asking != asked {
                self.receive(port, |answer| {
                    ArpRepr {
                        op: ArpOp::Reply,
                        sender_mac: PEER,
                        sender_ip: asked,
                        target_mac: OWN[port.ix()],
                        target_ip: asking,
                    }
                    .emit_frame(OWN[port.ix()], answer);
                });
            }
        }
    }

    pub fn sent_segment(&mut self, port: PortIx) -> Option<Segment> {
        Segment::read(self.sent(port)?.bytes())
    }

    /// Polls, both ends answering, until nothing moves any more.
    pub fn settle(&mut self) {
        loop {
            self.poll();
            for port in [WAN, LAN] {
                while let Some(packet) = self.sent(port) {
                    let answer = Segment::read(packet.bytes()).and_then(|got| got.answer());
                    drop(packet);
                    if let Some(answer) = answer {
                        self.receive_segment(port, &answer);
                    }
                }
            }
            if self.work == 0 {
                return;
            }
        }
    }

    /// Time passes without packets, as fast as the worker can.
    pub fn pass(&mut self, ms: u64) {
        for step in (0..ms).step_by(16) {
            self.now = self.now.plus(16.min(ms - step));
            self.settle();
        }
    }

    /// Packets dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        let reasons = DropReason::ALL.iter();
        reasons
            .map(|&reason| self.stats.drop_counter(reason).get())
            .sum()
    }
}

fn write(frame: &mut [u8; 60], port: PortIx, segment: &Segment, protocol: u8) {
    let (ethernet, rest) = frame.split_first_chunk_mut().expect("long enough");
    let (ip, rest) = rest.split_first_chunk_mut().expect("long enough");
    EthernetRepr {
        dst: OWN[port.ix()],
        src: PEER,
        ethertype: EtherType::IPV4,
    }
    .emit(ethernet);
    Ipv4Repr {
        src: segment.src,
        dst: segment.dst,
        protocol,
        payload_len: if protocol == proto::TCP { 20 } else { 8 },
        ttl: 64,
        ident: 1,
        dont_fragment: true,
        dscp: 0,
    }
    .emit(ip);
    if protocol == proto::TCP {
        TcpRepr {
            src_port: segment.src_port,
            dst_port: segment.dst_port,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags,
            window: 1_000,
        }
        .emit(
            segment.src,
            segment.dst,
            rest.first_chunk_mut().expect("long enough"),
        );
    } else {
        // No checksum (RFC 768).
        rest[..2].copy_from_slice(&segment.src_port.to_be_bytes());
        rest[2..4].copy_from_slice(&segment.dst_port.to_be_bytes());
        rest[5] = 8;
    }
}

fn servers(options: &Options) -> Vec<Server> {
    let count = u32::from(options.servers);
    (0..options.services.len() as u32 * count)
        .map(|slot| Server {
            name: format!("server{slot}"),
            service: ServiceIx(slot / count),
            addr: Ipv4Addr::new(10, 2, 2, 1 + (slot % count) as u8),
            port: 8000 + (slot / count) as u16,
            weight: 1,
            state: ServerState::Up,
            locals: (0..count)
                .map(|n| (local(n), SetIx(slot * count + n)))
                .collect(),
        })
        .collect()
}

fn local(n: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 1, 1 + n as u8)
}

fn sets(servers: &[Server], lends: &Arc<WorkerPorts>) -> Vec<(SetIx, Box<PortSet>)> {
    let mut sets = Vec::new();
    for server in servers {
        for &(local, set) in &server.locals {
            let ports = PortSet::new(Arc::clone(lends), local, server.addr, server.port, 1);
            sets.push((set, Box::new(ports)));
        }
    }
    sets
}

fn snapshot(
    options: &Options,
    servers: &[Server],
    steering: &Arc<Steering>,
    generation: u64,
) -> Snapshot {
    let port = |name: &str, mac, net: &str, gateway: Option<Ipv4Addr>| PortInfo {
        addresses: vec![net.parse().expect("a network")],
        gateway,
        kernel: (options.kernel && name == "wan").then(|| KernelPort {
            rate: 100_000,
            addresses: Vec::new(),
        }),
        ..PortInfo::opened(name, mac, 1500)
    };
    let route = |net: &str, via, port| Route {
        to: net.parse().expect("a network"),
        via,
        port,
    };
    let services = options.services.iter().enumerate();
    Snapshot::new(Parts {
        generation,
        route_generation: 1,
        losses: 0,
        timeout_generation: 0,
        ports: vec![
            port("wan", OWN[0], "10.1.0.1/24", Some(ROUTER)),
            port("lan", OWN[1], "10.2.0.1/16", None),
        ],
        routes: Routes::new(vec![
            route("0.0.0.0/0", Some(ROUTER), WAN),
            route("10.1.0.0/24", None, WAN),
            route("10.2.0.0/16", None, LAN),
        ]),
        services: services
            .map(|(ix, &(timeouts, on_expire))| {
                let candidates: Vec<_> = (0..servers.len() as u32)
                    .map(ServerIx)
                    .filter(|server| servers[server.ix()].service.ix() == ix)
                    .map(|server| (server, 1))
                    .collect();
                Some(Service {
                    name: format!("service{ix}"),
                    vip: VIP,
                    port: 80 + ix as u16,
                    protocol: proto::TCP,
                    plan: Plan::build(Scheduler::RoundRobin, &candidates),
                    timeouts,
                    unknown_flow: Answer::Reset,
                    on_expire,
                    syn_retry_ms: 250,
                    syn_retry_max_ms: 800,
                    syn_attempts: 3,
                    fail_after: 0,
                    one_answer: false,
                })
            })
            .collect(),
        servers: servers.iter().cloned().map(Some).collect(),
        steering: Arc::clone(steering),
        limits: Limits {
            resets_per_second: options.resets_per_second,
            server_resets_per_second: options.resets_per_second,
            icmp_per_second: 10_000,
            echo_per_second: 10_000,
            path_mtu_per_second: 10_000,
            min_path_mtu: 1_280,
        },
        locals: (0..u32::from(options.servers)).map(local).collect(),
    })
}

/// The same configuration once more, as a reload brings it.
pub fn reload(options: &Options, generation: u64) -> Box<Update> {
    let reta = Reta::even(128, 1).expect("a table");
    let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Rss).expect("steering");
    let snapshot = snapshot(options, &servers(options), &Arc::new(steering), generation);
    Box::new(Update::new(Arc::new(snapshot)))
}
