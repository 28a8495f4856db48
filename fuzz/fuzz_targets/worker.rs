//! The whole worker: a configuration as an operator writes it, then frames,
//! well-formed and broken, fragments, ICMP errors, and time, in any order. Held
//! against: what leaves the worker is well-formed and no larger than the way
//! out, and the gauges agree with the table.

#![no_main]

use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};

use fullgate::capture::{Ring, Tap};
use fullgate::conntrack::entry::State as ConnState;
use fullgate::conntrack::hash::HashKey;
use fullgate::conntrack::isn::IsnSecret;
use fullgate::conntrack::table::ConnTable;
use fullgate::config::Config;
use fullgate::management::state::State;
use fullgate::filter::Filter;
use fullgate::ids::{PortIx, SlotIx, WorkerIx};
use fullgate::io::PacketBuf;
use fullgate::io::memory::{MemoryBuf, MemoryIo};
use fullgate::service::snapshot::PortInfo;
use fullgate::snat::steering::{Reta, Steering, SteeringMode};
use fullgate::snat::toeplitz::DEFAULT_KEY;
use fullgate::stats::WorkerStats;
use fullgate::time::Millis;
use fullgate::wire::arp::{ArpOp, ArpRepr};
use fullgate::wire::checksum::{Sum, checksum};
use fullgate::wire::ethernet::{EtherType, EthernetRepr, EthernetView, MacAddr};
use fullgate::wire::ipv4::{Ipv4Repr, Ipv4View};
use fullgate::worker::kernel::{FrameRing, KernelRings};
use fullgate::worker::message::Command;
use fullgate::worker::{Handover, Now, Setup, Worker};
use libfuzzer_sys::fuzz_target;

const CONFIG: &str = r#"
[runtime]
hugepages = false
connections = 4096
local-ports = "2000-3023"
max-services = 4
max-servers = 8
[[port]]
name = "wan"
device = "tap:a"
addresses = ["10.1.0.1/24"]
kernel-interface = "k"
kernel-addresses = ["10.1.0.77"]
[[port]]
name = "lan"
device = "tap:b"
addresses = ["10.2.0.1/24"]
mtu = 1400
[[pool]]
name = "default"
addresses = ["10.2.0.10"]
[[service]]
name = "web"
vip = "10.1.0.100:80"
[[service.server]]
address = "10.2.0.101:80"
[[service.server]]
address = "10.2.0.102:80"
[[service]]
name = "dns"
vip = "10.1.0.100:53"
protocol = "udp"
[[service.server]]
address = "10.2.0.101:53"
"#;

const OWN: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// Addresses and ports that mean something to the configuration, so that
/// packets get past the first look.
const ADDRESSES: [[u8; 4]; 10] = [
    [10, 1, 0, 2],
    [10, 1, 0, 3],
    [10, 1, 0, 100],
    [10, 2, 0, 10],
    [10, 2, 0, 101],
    [10, 2, 0, 102],
    [10, 1, 0, 1],
    [192, 0, 2, 1],
    [10, 1, 0, 77],
    [224, 0, 0, 18],
];
const PORTS: [u16; 4] = [80, 53, 40_000, 40_001];

fuzz_target!(|data: &[u8]| {
    let mut lab = Lab::new(data.len() % 2 == 1);
    let mut input = Input(data);
    for _ in 0..64 {
        let Some(op) = input.byte() else { break };
        match op % 8 {
            0 => lab.raw(op, &mut input),
            1 => lab.arp(op, &mut input),
            2 => lab.pass(&mut input),
            3 => lab.fragment(op, &mut input),
            4 => lab.icmp_error(op, &mut input),
            _ => lab.packet(op, &mut input),
        }
        lab.check();
    }
});

/// The fuzzer's bytes, in order.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn address(&mut self) -> Ipv4Addr {
        ADDRESSES[usize::from(self.byte().unwrap_or(0)) % ADDRESSES.len()].into()
    }

    /// A port of the configuration, or one that the worker has just used.
    fn port(&mut self, lent: &[u16; 4]) -> u16 {
        let ix = usize::from(self.byte().unwrap_or(0));
        if ix % 2 == 0 {
            PORTS[ix / 2 % PORTS.len()]
        } else {
            lent[ix / 2 % lent.len()]
        }
    }
}

/// What is the same for every input.
static FIXED: LazyLock<(Config, Arc<Steering>)> = LazyLock::new(|| {
    let config = Config::parse("fuzz", CONFIG)
        .expect("a valid configuration")
        .config;
    let reta = Reta::even(128, 1).expect("a table");
    let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Software).expect("steering");
    (config, Arc::new(steering))
});

struct Lab {
    worker: Worker<MemoryIo>,
    stats: Arc<WorkerStats>,
    kernel: KernelRings,
    captured: Arc<Ring>,
    now: Millis,
    /// Local ports that the worker used last.
    lent: [u16; 4],
    turn: usize,
}

impl Lab {
    fn new(captures: bool) -> Self {
        let (config, steering) = &*FIXED;
        let opened = config.ports.iter().zip(OWN);
        let ports = opened.map(|(port, mac)| PortInfo::opened(&port.name, mac, port.mtu));
        let (state, mut updates) =
            State::new(config.clone(), ports.collect(), Arc::clone(steering), 1, 1)
                .expect("a state");
        let now = Millis(0);
        let key = HashKey::from_bytes([5; 32]);
        let table = ConnTable::anonymous(16, key, now).expect("a table");
        let rings = KernelRings {
            to: Arc::new(FrameRing::new(4)),
            from: None,
        };
        let (room, handover) = (state.room(), Handover::mesh(1, 8).remove(0));
        let setup = Setup {
            held_syns: 8,
            neighbors: 8,
            fragments: 16,
            kernel: Some(rings.clone()),
            ..Setup::new(WorkerIx(0), table, room, handover, IsnSecret([3; 16]))
        };
        let (link, stats) = (setup.link.clone(), Arc::clone(&setup.stats));
        let first = Box::new(updates.remove(0));
        let at = Now { ms: now, tsc: 0 };
        // Everything, half of the connections, and dropped packets.
        let captured = Arc::new(Ring::new(8, 100, 2));
        let taps = [(1, 1, false), (2, 2, false), (3, 1, true)];
        for (id, sample, drops) in taps.into_iter().filter(|_| captures) {
            let filter = Filter {
                drops,
                ..Filter::default()
            };
            let tap = Tap::new(id, filter, sample, Arc::clone(&captured));
            let _ = link.commands.push(Command::Capture(Box::new(tap)));
        }
        Self {
            worker: Worker::new(setup, MemoryIo::new(2), first, at),
            stats,
            kernel: rings,
            captured,
            now,
            lent: [0; 4],
            turn: 0,
        }
    }

    fn push(&mut self, port: u8, ethertype: EtherType, payload: &[u8]) {
        let port = PortIx(port & 1);
        let mut frame = vec![0; 14];
        EthernetRepr {
            dst: OWN[port.ix()],
            src: PEER,
            ethertype,
        }
        .emit(frame.first_chunk_mut().expect("a header"));
        frame.extend_from_slice(payload);
        self.worker.io_mut().rx[port.ix()].push_back(MemoryBuf::new(&frame));
        self.poll();
    }

    fn poll(&mut self) {
        self.worker.poll(Now {
            ms: self.now,
            tsc: 0,
        });
    }

    /// Any bytes as a frame.
    fn raw(&mut self, op: u8, input: &mut Input<'_>) {
        let len = input.byte().unwrap_or(0);
        let frame = MemoryBuf::new(input.take(usize::from(len)));
        self.worker.io_mut().rx[usize::from(op >> 7)].push_back(frame);
        self.poll();
    }

    fn arp(&mut self, op: u8, input: &mut Input<'_>) {
        let mut packet = [0; 28];
        ArpRepr {
            op: if op & 8 == 0 {
                ArpOp::Reply
            } else {
                ArpOp::Request
            },
            sender_mac: PEER,
            sender_ip: input.address(),
            target_mac: OWN[0],
            target_ip: input.address(),
        }
        .emit(&mut packet);
        self.push(op >> 7, EtherType::ARP, &packet);
    }

    fn pass(&mut self, input: &mut Input<'_>) {
        let shift = input.byte().unwrap_or(0) % 24;
        self.now = self.now.plus(1 << shift);
        for _ in 0..4 {
            self.poll();
        }
    }

    /// An IPv4 packet between addresses that matter, with right lengths and
    /// checksums unless the input says otherwise, its transport from the input.
    fn packet(&mut self, op: u8, input: &mut Input<'_>) {
        let (src, dst) = (input.address(), input.address());
        let (src_port, dst_port) = (input.port(&self.lent), input.port(&self.lent));
        let protocol = [6, 6, 17, 1][usize::from(op >> 3) % 4];
        let shape = input.byte().unwrap_or(0);
        let len = usize::from(input.byte().unwrap_or(0)) % 64;
        // Now and then one that is larger than a port's MTU.
        let body = input.take(len).repeat(if shape & 2 == 0 { 1 } else { 40 });
        let mut transport = Vec::with_capacity(80);
        match protocol {
            6 => {
                transport.extend_from_slice(&src_port.to_be_bytes());
                transport.extend_from_slice(&dst_port.to_be_bytes());
                transport.extend_from_slice(&body);
                transport.resize(transport.len().max(20), 0);
                // Mostly a header that fits.
                if transport[12] & 1 == 0 {
                    let words = (transport.len() / 4).min(15) as u8;
                    transport[12] = 5.max(words.min(transport[12] >> 4)) << 4;
                }
            }
            17 => {
                let len = (8 + body.len()) as u16;
                for field in [src_port, dst_port, len, 0] {
                    transport.extend_from_slice(&field.to_be_bytes());
                }
                transport.extend_from_slice(&body);
            }
            _ => {
                transport.extend_from_slice(&body);
                transport.resize(transport.len().max(8), 0);
                transport[2..4].fill(0);
                let sum = checksum(&transport);
                transport[2..4].copy_from_slice(&sum.to_be_bytes());
            }
        }
        if protocol == 6 {
            transport[16..18].fill(0);
            let sum = Sum::pseudo_header(src, dst, 6, transport.len() as u16)
                .add_bytes(&transport)
                .finish();
            transport[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        let mut packet = vec![0; 20];
        Ipv4Repr {
            src,
            dst,
            protocol,
            payload_len: transport.len() as u16,
            ttl: 1 + (op >> 5),
            ident: 0,
            dont_fragment: shape & 1 == 0,
            dscp: 0,
        }
        .emit(packet.first_chunk_mut().expect("a header"));
        packet.extend_from_slice(&transport);
        self.push(u8::from(src.octets()[1] == 2), EtherType::IPV4, &packet);
    }

    /// A fragment of a datagram that others may be of too. Now and then one
    /// that can be of none.
    fn fragment(&mut self, op: u8, input: &mut Input<'_>) {
        let (src, dst) = (input.address(), input.address());
        let ports = [input.port(&self.lent), input.port(&self.lent)];
        let [ident, at, shape, units] = [(); 4].map(|()| input.byte().unwrap_or(0));
        let odd = usize::from(shape & 0x1c == 0x1c);
        let len = (1 + usize::from(units % 32)) * if units & 0x80 == 0 { 8 } else { 64 } - odd;
        let at = match at % 16 {
            15 => 0x1ff8,
            at => u16::from(at),
        };
        let mut payload: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        payload.extend_from_slice(&[0xff, 0xff, 0, 0, 0, 0, 0, 0, 0x50, shape]);
        payload.resize(len, ident);
        let mut packet = vec![0; 20];
        Ipv4Repr {
            src,
            dst,
            protocol: if op & 8 == 0 { 17 } else { 6 },
            payload_len: payload.len() as u16,
            ttl: 1 + (op >> 5),
            ident: u16::from(ident % 4),
            dont_fragment: shape & 2 != 0,
            dscp: 0,
        }
        .emit(packet.first_chunk_mut().expect("a header"));
        let flags = u16::from(packet[6]) << 8 | u16::from(shape & 1) << 13;
        packet[6..8].copy_from_slice(&(flags | at).to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(&payload);
        self.push(u8::from(src.octets()[1] == 2), EtherType::IPV4, &packet);
    }

    /// An error about a packet that the worker may have sent.
    fn icmp_error(&mut self, op: u8, input: &mut Input<'_>) {
        let (from, to) = (input.address(), input.address());
        let (src, dst) = (input.address(), input.address());
        let ports = [input.port(&self.lent), input.port(&self.lent)];
        let [code, mtu, shape] = [(); 3].map(|()| input.byte().unwrap_or(0));
        let kind = [3, 3, 11, 12][usize::from(op >> 3) % 4];
        let mut message = vec![kind, code % 16, 0, 0, 0, 0, mtu >> 4, mtu << 4];
        let mut quoted = [0; 20];
        Ipv4Repr {
            src,
            dst,
            protocol: if shape & 1 == 0 { 6 } else { 17 },
            payload_len: 20,
            ttl: 1,
            ident: 0,
            dont_fragment: shape & 2 == 0,
            dscp: 0,
        }
        .emit(&mut quoted);
        message.extend_from_slice(&quoted);
        message.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        message.extend_from_slice(input.take(usize::from(shape >> 3)));
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut packet = vec![0; 20];
        Ipv4Repr {
            src: from,
            dst: to,
            protocol: 1,
            payload_len: message.len() as u16,
            ttl: 1 + (op >> 5),
            ident: 0,
            dont_fragment: shape & 4 == 0,
            dscp: 0,
        }
        .emit(packet.first_chunk_mut().expect("a header"));
        packet.extend_from_slice(&message);
        self.push(u8::from(from.octets()[1] == 2), EtherType::IPV4, &packet);
    }

    fn check(&mut self) {
        while let Some(record) = self.captured.take() {
            assert!(record.bytes().len() <= record.facts.total_len as usize);
            self.captured.give_back(record);
        }
        while let Some(frame) = self.kernel.to.receive() {
            assert_eq!(frame.port, PortIx(0));
            EthernetView::new_checked(frame.bytes()).expect("a frame");
            self.kernel.to.give_empty(frame);
        }
        for port in 0..2 {
            for packet in std::mem::take(&mut self.worker.io_mut().tx[port]) {
                let frame = EthernetView::new_checked(packet.bytes()).expect("a frame");
                assert_eq!(frame.src(), OWN[port]);
                if frame.ethertype() == EtherType::IPV4 {
                    let payload = frame.payload();
                    let ip = Ipv4View::new_checked(payload, payload.len()).expect("IPv4");
                    assert!(ip.verify_checksum(), "IPv4 checksum");
                    assert!(ip.total_len() <= [1_500, 1_400][port], "MTU");
                    let whole_eights = ip.payload_len().is_multiple_of(8);
                    assert!(!ip.more_fragments() || whole_eights, "fragments");
                    if ip.fragment_offset() != 0 {
                        let end = usize::from(ip.fragment_offset()) + ip.payload_len();
                        assert!(end <= 65_535, "fragments");
                        continue;
                    }
                    if port == 1 && ip.payload().len() >= 2 {
                        let source = u16::from_be_bytes([ip.payload()[0], ip.payload()[1]]);
                        self.lent[self.turn % 4] = source;
                        self.turn += 1;
                    }
                    if ip.protocol() == 6 && !ip.is_fragment() {
                        let sum =
                            Sum::pseudo_header(ip.src(), ip.dst(), 6, ip.payload().len() as u16);
                        assert_eq!(sum.add_bytes(ip.payload()).finish(), 0, "TCP checksum");
                    }
                }
            }
        }
        let table = self.worker.table();
        let mut half_open = 0;
        let mut used = 0;
        for slot in table.slots(SlotIx(0), table.slots_end()) {
            let state = table.get(slot).state;
            used += 1;
            half_open += u64::from(matches!(state, ConnState::SynSent | ConnState::SynReceived));
        }
        assert_eq!(used, table.len());
        assert_eq!(half_open, self.stats.half_open.get(), "half-open gauge");
        let gauges: u64 = (0..8)
            .map(|slot| self.stats.server(fullgate::ids::ServerIx(slot)))
            .map(|server| server.active.get() + server.inactive.get())
            .sum();
        assert_eq!(gauges, used as u64, "servers' gauges");
    }
}
