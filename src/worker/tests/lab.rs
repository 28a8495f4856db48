//! A worker between a client segment (port 0) and a server segment (port 1),
//! and the packets to play with it.

pub(super) mod kernel;
pub(super) mod nic;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::conntrack::entry::{Entry, State};
use crate::conntrack::hash::HashKey;
use crate::conntrack::isn::IsnSecret;
use crate::conntrack::table::ConnTable;
use crate::conntrack::timeouts::Timeouts;
use crate::ids::{PortIx, ServerIx, ServiceIx, SetIx, SlotIx, WorkerIx};
use crate::io::PacketBuf;
use crate::io::memory::{MemoryBuf, MemoryIo};
use crate::service::route::{Route, Routes};
use crate::service::schedule::{Plan, Scheduler};
use crate::service::snapshot::{
    Answer, Limits, Parts, PortInfo, Rpf, Server, ServerState, Service, Snapshot,
};
use crate::snat::ports::{PortClasses, PortSet, WorkerPorts};
use crate::snat::steering::{Reta, Steering, SteeringMode};
use crate::snat::toeplitz::DEFAULT_KEY;
use crate::stats::{Counter, DropReason, EndCause, Event};
use crate::time::Millis;
use crate::wire::arp::{ArpOp, ArpRepr, ArpView};
use crate::wire::ethernet::{EtherType, EthernetRepr, EthernetView, MacAddr};
use crate::wire::icmp::IcmpView;
use crate::wire::ipv4::{Ipv4Repr, Ipv4View};
use crate::wire::proto;
use crate::wire::tcp::{Flags, TcpRepr, TcpView};
use crate::wire::udp::UdpView;
use crate::worker::message::{Command, Link, Reply, Update};
use crate::worker::{Handover, Now, Room, Setup, Worker};

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);
pub(super) const LOCAL_2: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
pub(super) const SERVERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 2, 0, 101), Ipv4Addr::new(10, 2, 0, 102)];
pub(super) const ESTABLISHED_MS: u32 = 10_000;

const WAN: PortIx = PortIx(0);
const LAN: PortIx = PortIx(1);
const OWN: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x99]);

pub(super) mod flags {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// A TCP segment or UDP datagram with its addresses.
#[derive(Clone, Debug)]
pub(super) struct Tcp {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub src_port: u16,
    pub dst_port: u16,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub ttl: u8,
    pub protocol: u8,
    pub payload: Vec<u8>,
}

impl Tcp {
    fn new(src: Ipv4Addr, src_port: u16, dst: Ipv4Addr, dst_port: u16, flags: u8) -> Self {
        Self {
            src,
            dst,
            src_port,
            dst_port,
            flags,
            seq: 0,
            ack: 0,
            ttl: 64,
            protocol: proto::TCP,
            payload: Vec::new(),
        }
    }

    pub fn from_client(port: u16, flags: u8) -> Self {
        Self::new(CLIENT, port, VIP, 80, flags)
    }

    /// From another address.
    pub fn from(mut self, src: Ipv4Addr) -> Self {
        self.src = src;
        self
    }

    pub fn from_server(server: usize, local: Ipv4Addr, local_port: u16, flags: u8) -> Self {
        Self::new(SERVERS[server], 8080, local, local_port, flags)
    }

    /// The packet back to its sender.
    pub fn reply(&self, flags: u8) -> Self {
        Self {
            protocol: self.protocol,
            ..Self::new(self.dst, self.dst_port, self.src, self.src_port, flags)
        }
    }

    pub fn seq(mut self, seq: u32) -> Self {
        self.seq = seq;
        self
    }

    pub fn ack(mut self, ack: u32) -> Self {
        self.ack = ack;
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// A client's datagram to the UDP service.
    pub fn datagram(port: u16, payload: &[u8]) -> Self {
        let mut datagram = Self::new(CLIENT, port, VIP, 53, 0).payload(payload);
        datagram.protocol = proto::UDP;
        datagram
    }

    /// The IPv4 packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut transport = if self.protocol == proto::TCP {
            let mut header = [0; 20];
            TcpRepr {
                src_port: self.src_port,
                dst_port: self.dst_port,
                seq: self.seq,
                ack: self.ack,
                flags: Flags(self.flags),
                window: 1_000,
            }
            .emit(self.src, self.dst, &mut header);
            header.to_vec()
        } else {
            let len = (8 + self.payload.len()) as u16;
            [self.src_port, self.dst_port, len, 0]
                .iter()
                .flat_map(|field| field.to_be_bytes())
                .collect()
        };
        transport.extend_from_slice(&self.payload);
        if self.protocol == proto::TCP {
            TcpView::new_checked(&mut transport[..])
                .expect("whole")
                .fill_checksum(self.src, self.dst);
        } else {
            let len = transport.len();
            UdpView::new_checked(&mut transport[..], len)
                .expect("whole")
                .fill_checksum(self.src, self.dst);
        }
        ipv4(self.src, self.dst, self.protocol, self.ttl, &transport)
    }

    /// Reads an IPv4 packet, and checks its checksums.
    fn read(packet: &[u8]) -> Self {
        let ip = Ipv4View::new_checked(packet, packet.len()).expect("IPv4");
        assert!(ip.verify_checksum(), "IPv4 checksum");
        let mut read = Self::read_quoted(packet);
        if read.protocol == proto::TCP {
            let tcp = TcpView::new_checked(ip.payload()).expect("TCP");
            assert!(tcp.verify_checksum(ip.src(), ip.dst()), "TCP checksum");
            read.flags = tcp.flags().0;
            read.ack = tcp.ack();
            read.payload = tcp.payload().to_vec();
        } else {
            let udp = UdpView::new_checked(ip.payload(), ip.payload().len()).expect("UDP");
            assert!(udp.verify_checksum(ip.src(), ip.dst()), "UDP checksum");
            read.payload = udp.payload().to_vec();
        }
        read
    }

    /// Reads what an ICMP error quotes.
    fn read_quoted(packet: &[u8]) -> Self {
        let ip = Ipv4View::new_quoted(packet).expect("IPv4");
        let bytes = ip.payload();
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let mut read = Self::new(ip.src(), half(0), ip.dst(), half(2), 0);
        read.protocol = ip.protocol();
        read.ttl = ip.ttl();
        read.seq = u32::from(half(4)) << 16 | u32::from(half(6));
        read
    }
}

/// A datagram to the UDP service in three fragments (RFC 791 §3.2).
pub(super) fn fragments_of_a_request(port: u16) -> [Vec<u8>; 3] {
    let payload: Vec<u8> = (0..100).collect();
    let datagram = Tcp::datagram(port, &payload);
    let whole = datagram.packet();
    let transport = &whole[20..];
    let piece = |from: usize, to: usize, more: u16| {
        let mut packet = ipv4(CLIENT, VIP, proto::UDP, 64, &transport[from..to]);
        packet[6..8].copy_from_slice(&(more << 13 | (from / 8) as u16).to_be_bytes());
        let mut view = Ipv4View::new_quoted(&mut packet[..]).expect("whole");
        view.fill_checksum();
        packet
    };
    [piece(0, 40, 1), piece(40, 80, 1), piece(80, 108, 0)]
}

/// An IPv4 packet without options, in two fragments.
pub(super) fn in_two(packet: &[u8]) -> [Vec<u8>; 2] {
    let piece = |from: usize, to: usize, more: u16| {
        let mut piece = [&packet[..20], &packet[20 + from..20 + to]].concat();
        let len = piece.len() as u16;
        piece[2..4].copy_from_slice(&len.to_be_bytes());
        piece[6..8].copy_from_slice(&(more << 13 | (from / 8) as u16).to_be_bytes());
        fill_header_checksum(&mut piece);
        piece
    };
    [piece(0, 64, 1), piece(64, packet.len() - 20, 0)]
}

/// A client's SYN as a whole frame: headers of 14, 20 and 20 bytes.
pub(super) fn good_syn() -> Vec<u8> {
    let packet = Tcp::from_client(4000, flags::SYN).packet();
    frame(WAN, EtherType::IPV4, &packet).bytes().to_vec()
}

/// Makes the IPv4 header checksum of a frame right again.
pub(super) fn fill_ip_checksum(frame: &mut [u8]) {
    fill_header_checksum(&mut frame[14..]);
}

/// The same of a packet, whose header has no options.
pub(super) fn fill_header_checksum(packet: &mut [u8]) {
    let header = &mut packet[..20];
    header[10..12].fill(0);
    let checksum = crate::wire::checksum::checksum(header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 20];
    Ipv4Repr {
        src,
        dst,
        protocol,
        payload_len: payload.len() as u16,
        ttl,
        ident: 1,
        dont_fragment: true,
        dscp: 0,
    }
    .emit(&mut header);
    [&header[..], payload].concat()
}

fn frame(port: PortIx, ethertype: EtherType, payload: &[u8]) -> MemoryBuf {
    let mut header = [0; 14];
    EthernetRepr {
        dst: OWN[port.ix()],
        src: PEER,
        ethertype,
    }
    .emit(&mut header);
    MemoryBuf::new(&[&header[..], payload].concat())
}

/// What the worker transmitted.
#[derive(Debug, Default)]
pub(super) struct Out {
    ip: Vec<(PortIx, Vec<u8>)>,
    arp: Vec<(PortIx, ArpRepr)>,
}

impl Out {
    pub fn is_empty(&self) -> bool {
        self.ip.is_empty()
    }

    fn on(&self, port: PortIx) -> Vec<&[u8]> {
        let there = self.ip.iter().filter(|(out, _)| *out == port);
        there.map(|(_, packet)| &packet[..]).collect()
    }

    fn single(&self, port: PortIx) -> &[u8] {
        let packets = self.on(port);
        assert_eq!(packets.len(), 1, "packets on port {port}: {self:?}");
        packets[0]
    }

    pub fn to_server(&self) -> Tcp {
        Tcp::read(self.single(LAN))
    }

    pub fn all_to_server(&self) -> Vec<Tcp> {
        self.on(LAN).into_iter().map(Tcp::read).collect()
    }

    pub fn all_to_client(&self) -> Vec<Tcp> {
        self.on(WAN).into_iter().map(Tcp::read).collect()
    }

    pub fn to_client(&self) -> Tcp {
        Tcp::read(self.single(WAN))
    }

    /// The IPv4 packets towards the servers, as they are.
    pub fn packets_to_server(&self) -> Vec<Vec<u8>> {
        self.on(LAN).into_iter().map(<[u8]>::to_vec).collect()
    }

    /// The same towards the clients.
    pub fn packets_to_client(&self) -> Vec<Vec<u8>> {
        self.on(WAN).into_iter().map(<[u8]>::to_vec).collect()
    }

    /// Fragments to the first server, from a local address.
    pub fn all_fragments_to_server(&self) -> usize {
        let packets = self.on(LAN);
        for packet in &packets {
            let ip = Ipv4View::new_quoted(*packet).expect("IPv4");
            assert!(ip.verify_checksum(), "IPv4 checksum");
            assert!(ip.is_fragment());
            assert_eq!((ip.src(), ip.dst()), (LOCAL, SERVERS[0]));
        }
        packets.len()
    }

    /// Type and code of the only ICMP message to the client.
    pub fn icmp_to_client(&self) -> Option<(u8, u8)> {
        let ip = Ipv4View::new_quoted(self.single(WAN)).expect("IPv4");
        assert!(ip.verify_checksum(), "IPv4 checksum");
        if ip.protocol() != proto::ICMP {
            return None;
        }
        let icmp = IcmpView::new_checked(ip.payload()).expect("ICMP");
        assert!(icmp.verify_checksum(), "ICMP checksum");
        Some((icmp.icmp_type().0, icmp.code()))
    }

    /// What the only ICMP error to the client quotes, and its type and code.
    pub fn quoted_to_client(&self) -> (Tcp, (u8, u8)) {
        self.quoted_to(CLIENT)
    }

    /// The same for another client.
    pub fn quoted_to(&self, client: Ipv4Addr) -> (Tcp, (u8, u8)) {
        let kind = self.icmp_to_client().expect("ICMP");
        let ip = Ipv4View::new_quoted(self.single(WAN)).expect("IPv4");
        assert_eq!((ip.src(), ip.dst()), (VIP, client));
        let quoted = &ip.payload()[8..];
        let inner = Ipv4View::new_quoted(quoted).expect("IPv4");
        assert!(inner.verify_checksum(), "quoted IPv4 checksum");
        (Tcp::read_quoted(quoted), kind)
    }

    pub fn arp_request(&self) -> Option<ArpRepr> {
        let mut requests = self.arp.iter().map(|(_, arp)| *arp);
        requests.find(|arp| arp.op == ArpOp::Request && arp.sender_ip != arp.target_ip)
    }
}

pub(super) struct Lab {
    pub worker: Worker<MemoryIo>,
    link: Link,
    steering: Arc<Steering>,
    lends: Arc<WorkerPorts>,
    servers: Vec<Server>,
    now: Millis,
    generation: u64,
    losses: u64,
    /// ARP requests of the worker are answered.
    resolves: bool,
    /// Those for such addresses are not.
    pub is_absent: fn(Ipv4Addr) -> bool,
    /// The MAC address of all servers; what goes to another one is lost.
    pub server_mac: MacAddr,
}

impl Lab {
    pub fn new() -> Self {
        Self::build(1024..=65535, 1 << 12, true)
    }

    pub fn with_ports(ports: RangeInclusive<u16>) -> Self {
        Self::build(ports, 1 << 12, true)
    }

    pub fn with_capacity(connections: usize) -> Self {
        Self::build(1024..=65535, connections, true)
    }

    pub fn unresolved() -> Self {
        Self::build(1024..=65535, 1 << 12, false)
    }

    /// With this MTU on the port to the servers.
    pub fn with_mtu(mtu: u16) -> Self {
        let mut lab = Self::new();
        lab.worker.ports[LAN.ix()].mtu = mtu;
        lab.worker.min_mtu = mtu;
        lab
    }

    fn build(ports: RangeInclusive<u16>, connections: usize, resolves: bool) -> Self {
        let reta = Reta::even(2, 1).expect("a table");
        let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Software).expect("steering");
        let steering = Arc::new(steering);
        let classes = Arc::new(PortClasses::new(Arc::clone(&steering), ports));
        let lends = Arc::new(WorkerPorts::new(classes, WorkerIx(0)));
        let servers = servers();
        let new_sets = sets(&servers, &lends);
        let now = Millis(u64::from(u32::MAX) - 2_000);
        let snapshot = Arc::new(snapshot(&servers, &steering, 1, 0));
        let handover = Handover::mesh(1, 8).remove(0);
        let setup = setup(WorkerIx(0), connections, now, handover);
        let link = setup.link.clone();
        let first = Box::new(Update {
            new_sets,
            ..Update::new(snapshot)
        });
        let at = Now { ms: now, tsc: 0 };
        let mut lab = Self {
            worker: Worker::new(setup, MemoryIo::new(2), first, at),
            link,
            steering,
            lends,
            servers,
            now,
            generation: 1,
            losses: 0,
            resolves,
            is_absent: |_| false,
            server_mac: PEER,
        };
        lab.pass(2);
        lab
    }

    pub fn local(&self) -> Ipv4Addr {
        LOCAL
    }

    pub fn is_local(&self, addr: Ipv4Addr) -> bool {
        addr == LOCAL || addr == LOCAL_2
    }

    fn poll(&mut self) {
        let now = Now {
            ms: self.now,
            tsc: 0,
        };
        self.worker.poll(now);
    }

    /// Takes what was transmitted, answering ARP requests until there are no
    /// more.
    fn collect(&mut self) -> Out {
        let mut out = Out::default();
        loop {
            let asked = take(&mut self.worker.io, &mut out, self.server_mac);
            if asked.is_empty() || !self.resolves {
                return out;
            }
            for (port, addr) in asked {
                if !(self.is_absent)(addr) {
                    self.push_arp_answer(port, addr);
                }
            }
            self.poll();
        }
    }

    fn push_arp_answer(&mut self, port: PortIx, addr: Ipv4Addr) {
        let mac = if port == LAN { self.server_mac } else { PEER };
        self.worker.io.rx[port.ix()].push_back(arp_answer(port, addr, mac));
    }

    pub fn arp_answer(&mut self, addr: Ipv4Addr) -> Out {
        self.push_arp_answer(LAN, addr);
        self.poll();
        self.collect()
    }

    fn send(&mut self, port: PortIx, packet: &[u8]) -> Out {
        self.worker.io.rx[port.ix()].push_back(frame(port, EtherType::IPV4, packet));
        self.poll();
        self.collect()
    }

    pub fn client_sends(&mut self, packet: Tcp) -> Out {
        self.send(WAN, &packet.packet())
    }

    /// In a frame with an 802.1Q tag.
    pub fn client_sends_tagged(&mut self, packet: &Tcp, tag: u16) -> Out {
        let untagged = frame(WAN, EtherType::IPV4, &packet.packet());
        let (macs, rest) = untagged.bytes().split_at(12);
        let tag = [0x81, 0x00, (tag >> 8) as u8, tag as u8];
        let bytes = [macs, &tag, rest].concat();
        self.worker.io.rx[WAN.ix()].push_back(MemoryBuf::new(&bytes));
        self.poll();
        self.collect()
    }

    pub fn server_sends(&mut self, packet: Tcp) -> Out {
        self.send(LAN, &packet.packet())
    }

    pub fn client_sends_frame(&mut self, frame: &[u8]) {
        self.worker.io.rx[WAN.ix()].push_back(MemoryBuf::new(frame));
        self.poll();
        let _ = self.collect();
    }

    pub fn client_sends_packet(&mut self, packet: &[u8]) -> Out {
        self.send(WAN, packet)
    }

    pub fn server_sends_packet(&mut self, packet: &[u8]) -> Out {
        self.send(LAN, packet)
    }

    pub fn client_sends_udp(&mut self, port: u16, payload: &[u8]) -> Out {
        self.client_sends(Tcp::datagram(port, payload))
    }

    pub fn server_sends_udp(&mut self, request: &Tcp, payload: &[u8]) -> Out {
        self.server_sends(request.reply(0).payload(payload))
    }

    /// ICMP of the first server about a packet that it got.
    pub fn server_sends_icmp(&mut self, kind: u8, code: u8, about: &Tcp) -> Out {
        self.send(LAN, &icmp_error(kind, code, about))
    }

    /// The same, quoting no more than it must (RFC 792).
    pub fn server_sends_short_icmp(&mut self, kind: u8, code: u8, about: &Tcp) -> Out {
        let whole = icmp_error(kind, code, about);
        let mut message = whole[20..20 + 8 + 28].to_vec();
        IcmpView::new_checked(&mut message[..])
            .expect("whole")
            .fill_checksum();
        let packet = ipv4(about.dst, about.src, proto::ICMP, 64, &message);
        self.send(LAN, &packet)
    }

    /// The client answers the ARP request about it.
    pub fn client_answers_arp(&mut self) -> Out {
        self.push_arp_answer(WAN, CLIENT);
        self.poll();
        self.collect()
    }

    /// Connections whose next hops have to be looked up again.
    pub fn without_hops(&self) -> usize {
        let table = self.worker.table();
        let slots = table.slots(SlotIx(0), table.slots_end());
        let none = Entry::NO_NEIGHBOR;
        slots
            .map(|slot| table.get(slot))
            .filter(|entry| entry.client_hop == none && entry.server_hop == none)
            .count()
    }

    /// The client pings an address.
    pub fn ping(&mut self, addr: Ipv4Addr) -> Out {
        self.ping_from(CLIENT, addr)
    }

    /// ICMP of the client about a packet that it got.
    pub fn client_sends_icmp(&mut self, kind: u8, code: u8, about: &Tcp) -> Out {
        self.send(WAN, &icmp_error(kind, code, about))
    }

    /// "Fragmentation needed" from the clients' side, with the MTU of the way on.
    pub fn client_sends_too_big(&mut self, mtu: u16, about: &Tcp) -> Out {
        self.send(WAN, &too_big(mtu, about))
    }

    /// The same from the servers' side.
    pub fn server_sends_too_big(&mut self, mtu: u16, about: &Tcp) -> Out {
        self.send(LAN, &too_big(mtu, about))
    }

    /// Fragments that wait for their first one.
    pub fn fragments_waiting(&self) -> usize {
        self.worker.fragments.waiting()
    }

    /// A ping that comes in on the clients' side.
    pub fn ping_from(&mut self, from: Ipv4Addr, addr: Ipv4Addr) -> Out {
        let mut message = vec![8, 0, 0, 0, 0, 1, 0, 1, b'h', b'i'];
        IcmpView::new_checked(&mut message[..])
            .expect("whole")
            .fill_checksum();
        let packet = ipv4(from, addr, proto::ICMP, 64, &message);
        self.send(WAN, &packet)
    }

    /// A ping with `payload` bytes, `first` bytes of its frame in the buffer that
    /// the headers are in.
    pub fn ping_in_parts(&mut self, payload: usize, first: usize, spoilt: bool) -> Out {
        let mut message = vec![0x5a; 8 + payload];
        message[..8].copy_from_slice(&[8, 0, 0, 0, 0, 1, 0, 1]);
        IcmpView::new_checked(&mut message[..])
            .expect("whole")
            .fill_checksum();
        if spoilt && let Some(last) = message.last_mut() {
            *last ^= 1;
        }
        let packet = ipv4(CLIENT, VIP, proto::ICMP, 64, &message);
        let frame = frame(WAN, EtherType::IPV4, &packet).with_first_part(first);
        self.worker.io.rx[WAN.ix()].push_back(frame);
        self.poll();
        self.collect()
    }

    /// Time passes in small steps, the worker polling.
    pub fn pass(&mut self, ms: u64) -> Out {
        let mut all = Out::default();
        for step in (0..ms).step_by(8) {
            self.now = self.now.plus(8.min(ms - step));
            self.poll();
            let out = self.collect();
            all.ip.extend(out.ip);
            all.arp.extend(out.arp);
        }
        all
    }

    /// Packets of servers arrive while the worker does not run for so long; then it
    /// reads them.
    pub fn stalls(&mut self, ms: u64, packets: &[Tcp]) -> Out {
        for packet in packets {
            let packet = frame(LAN, EtherType::IPV4, &packet.packet());
            self.worker.io.rx[LAN.ix()].push_back(packet);
        }
        self.now = self.now.plus(ms);
        let mut all = Out::default();
        while !self.worker.io.rx[LAN.ix()].is_empty() {
            self.poll();
            let out = self.collect();
            all.ip.extend(out.ip);
        }
        all
    }

    /// The clock moves on while the worker does not run; then it runs until it
    /// is where the clock is.
    pub fn jump(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        let mut rounds = 0;
        while self.worker.now != self.now {
            self.poll();
            let _ = self.collect();
            rounds += 1;
            assert!(rounds < 10_000, "it never gets there");
        }
    }

    /// Nothing is received for so long; the worker polls on.
    pub fn idle(&mut self, ms: u64) {
        const STEP: u64 = 60_000;
        for step in (0..ms).step_by(STEP as usize) {
            self.now = self.now.plus(STEP.min(ms - step));
            self.poll();
            let _ = self.collect();
        }
    }

    pub fn set_server(&mut self, server: usize, state: ServerState) {
        self.servers[server].state = state;
        self.generation += 1;
        if !state.keeps_connections() {
            self.losses += 1;
        }
        let snapshot = snapshot(&self.servers, &self.steering, self.generation, self.losses);
        let update = Box::new(Update {
            fresh: match state {
                ServerState::Up => vec![ServerIx(server as u32)],
                _ => Vec::new(),
            },
            ..Update::new(Arc::new(snapshot))
        });
        self.link
            .commands
            .push(Command::Apply(update))
            .expect("room");
    }

    /// Which sources may come in, on both ports.
    pub fn set_rpf(&mut self, rpf: Rpf) {
        self.reconfigure(|parts| parts.ports.iter_mut().for_each(|port| port.rpf = rpf));
    }

    /// Puts a configuration in force that differs as told.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Parts)) {
        self.generation += 1;
        let mut parts = parts(&self.servers, &self.steering, self.generation, self.losses);
        change(&mut parts);
        let update = Box::new(Update::new(Arc::new(Snapshot::new(parts))));
        self.command(Command::Apply(update));
    }

    /// One more server of the UDP service.
    pub fn add_udp_server(&mut self) {
        let set = SetIx(self.servers.len() as u32);
        let server = Server {
            locals: Box::new([(LOCAL, set)]),
            addr: SERVERS[1],
            ..self.servers[2].clone()
        };
        let lends = Arc::clone(&self.lends);
        let ports = PortSet::new(lends, LOCAL, server.addr, server.port, 1);
        self.servers.push(server);
        self.generation += 1;
        let snapshot = snapshot(&self.servers, &self.steering, self.generation, self.losses);
        let update = Box::new(Update {
            new_sets: vec![(set, Box::new(ports))],
            ..Update::new(Arc::new(snapshot))
        });
        self.command(Command::Apply(update));
    }

    /// Has the worker take a command.
    pub fn command(&mut self, command: Command) {
        self.link.commands.push(command).expect("room");
        self.poll();
    }

    /// What the worker has told.
    pub fn replies(&self) -> Vec<Reply> {
        std::iter::from_fn(|| self.link.replies.pop()).collect()
    }

    pub fn states(&self) -> Vec<State> {
        states(&self.worker)
    }

    pub fn ports_in_use(&self) -> u32 {
        let sets = self.worker.sets.iter().flatten();
        sets.map(|set| set.used_count() + set.resting_count()).sum()
    }

    /// What the TCP service's servers must fail to be taken out.
    pub fn set_fail_after(&mut self, failures: u16) {
        self.reconfigure(|parts| {
            let service = parts.services[0].as_mut().expect("the TCP service");
            service.fail_after = failures;
        });
    }

    /// The servers of the TCP service get a second local address.
    pub fn add_local(&mut self) {
        let new_sets: Vec<_> = (0..2)
            .map(|ix| {
                let set = SetIx((self.servers.len() + ix) as u32);
                let server = &mut self.servers[ix];
                let lends = Arc::clone(&self.lends);
                let ports = PortSet::new(lends, LOCAL_2, server.addr, server.port, 1);
                server.locals = Box::new([server.locals[0], (LOCAL_2, set)]);
                (set, Box::new(ports))
            })
            .collect();
        self.generation += 1;
        let mut parts = parts(&self.servers, &self.steering, self.generation, self.losses);
        parts.locals.push(LOCAL_2);
        let update = Box::new(Update {
            new_sets,
            ..Update::new(Arc::new(Snapshot::new(parts)))
        });
        self.command(Command::Apply(update));
    }

    pub fn now(&self) -> Millis {
        self.now
    }

    pub fn half_open(&self) -> u64 {
        self.worker.stats.half_open.get()
    }

    pub fn held_syns(&self) -> usize {
        self.worker.held.len()
    }

    /// Packets and bytes to a server.
    pub fn sent_to_server(&self, server: u32) -> (u64, u64) {
        let counters = self.worker.stats.server(ServerIx(server));
        (counters.in_packets.get(), counters.in_bytes.get())
    }

    pub fn event(&self, event: Event) -> u64 {
        self.worker.stats.event(event).get()
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.worker.stats.drop_counter(reason).get()
    }

    /// How the connections of the TCP service ended, and how many.
    pub fn ends(&self) -> Vec<(EndCause, u64)> {
        let counters = self.worker.stats.service(ServiceIx(0));
        EndCause::ALL
            .map(|cause| (cause, counters.ended(cause).get()))
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Connections that its servers accepted, by time.
    pub fn accepted(&self) -> Vec<u64> {
        let connect = &self.worker.stats.service(ServiceIx(0)).connect;
        connect.counts.iter().map(Counter::get).collect()
    }

    pub fn active(&self, server: u32) -> u64 {
        self.worker.stats.server(ServerIx(server)).active.get()
    }

    pub fn failures(&self, server: u32) -> u64 {
        self.worker.stats.server(ServerIx(server)).failures.get()
    }

    pub fn connect(&mut self, client_port: u16) -> Flow {
        self.connect_any(client_port, 1_000)
    }

    /// Connects, and checks that a given server gets it.
    pub fn connect_with(&mut self, client_port: u16, isn: u32, server: usize) -> Flow {
        // Others are asked until it is the server's turn; they refuse nothing.
        while self.next_server() != server {
            self.worker.cursors[0].0 += 1;
        }
        let flow = self.connect_any(client_port, isn);
        assert_eq!(flow.to_server.dst, SERVERS[server]);
        flow
    }

    fn next_server(&self) -> usize {
        self.worker.cursors[0].0 as usize % SERVERS.len()
    }

    fn connect_any(&mut self, client_port: u16, isn: u32) -> Flow {
        let syn = Tcp::from_client(client_port, flags::SYN).seq(isn);
        let to_server = self.client_sends(syn).to_server();
        let server_isn = 70_000;
        let syn_ack = to_server
            .reply(flags::SYN | flags::ACK)
            .seq(server_isn)
            .ack(to_server.seq.wrapping_add(1));
        let to_client = self.server_sends(syn_ack).to_client();
        assert_eq!(to_client.ack, isn.wrapping_add(1));
        let ack = Tcp::from_client(client_port, flags::ACK)
            .seq(isn.wrapping_add(1))
            .ack(server_isn + 1);
        let _ = self.client_sends(ack).to_server();
        Flow {
            client_port,
            local_port: to_server.src_port,
            server_saw_isn: to_server.seq,
            client_next: isn.wrapping_add(1),
            server_next: server_isn + 1,
            seen_next: to_server.seq.wrapping_add(1),
            to_server,
        }
    }
}

/// Two servers of the TCP service, and one of the UDP service.
fn servers() -> Vec<Server> {
    let server = |service, addr, port, set| Server {
        name: format!("{addr}"),
        service: ServiceIx(service),
        addr,
        port,
        weight: 1,
        state: ServerState::Up,
        locals: Box::new([(LOCAL, SetIx(set))]),
    };
    vec![
        server(0, SERVERS[0], 8080, 0),
        server(0, SERVERS[1], 8080, 1),
        server(1, SERVERS[0], 9090, 2),
    ]
}

/// One worker's local ports towards each server.
fn sets(servers: &[Server], lends: &Arc<WorkerPorts>) -> Vec<(SetIx, Box<PortSet>)> {
    servers
        .iter()
        .map(|server| {
            let set = PortSet::new(Arc::clone(lends), LOCAL, server.addr, server.port, 1);
            (server.locals[0].1, Box::new(set))
        })
        .collect()
}

fn setup(
    ix: WorkerIx,
    connections: usize,
    now: Millis,
    handover: Handover<MemoryBuf>,
) -> Setup<MemoryBuf> {
    let key = HashKey::from_bytes([7; 32]);
    let table = ConnTable::anonymous(connections, key, now).expect("a table");
    let room = Room {
        ports: 2,
        services: 4,
        servers: 8,
        sets: 8,
    };
    Setup {
        held_syns: 64,
        neighbors: 64,
        ..Setup::new(ix, table, room, handover, IsnSecret([3; 16]))
    }
}

/// Takes what a worker transmitted; returns the addresses that it asks the MAC
/// addresses of.
fn take(io: &mut MemoryIo, out: &mut Out, server_mac: MacAddr) -> Vec<(PortIx, Ipv4Addr)> {
    let mut asked = Vec::new();
    for port in [WAN, LAN] {
        for packet in std::mem::take(&mut io.tx[port.ix()]) {
            let mut bytes = Vec::new();
            packet.parts(&mut |part| bytes.extend_from_slice(part));
            let frame = EthernetView::new_checked(&bytes[..]).expect("a frame");
            assert_eq!(frame.src(), OWN[port.ix()]);
            if frame.ethertype() == EtherType::IPV4 {
                if port == LAN && frame.dst() != server_mac {
                    continue;
                }
                assert!(port == LAN || frame.dst() == PEER);
                let total = u16::from_be_bytes([frame.payload()[2], frame.payload()[3]]);
                let ip = frame.payload()[..usize::from(total)].to_vec();
                out.ip.push((port, ip));
            } else {
                let arp = ArpView::new_checked(frame.payload()).expect("ARP");
                let arp = ArpRepr::parse(&arp);
                if arp.op == ArpOp::Request && arp.target_ip != arp.sender_ip {
                    asked.push((port, arp.target_ip));
                }
                out.arp.push((port, arp));
            }
        }
    }
    asked
}

/// The answer to an ARP request about `addr` on `port`.
fn arp_answer(port: PortIx, addr: Ipv4Addr, sender_mac: MacAddr) -> MemoryBuf {
    let mut answer = [0; 28];
    ArpRepr {
        op: ArpOp::Reply,
        sender_mac,
        sender_ip: addr,
        target_mac: OWN[port.ix()],
        target_ip: Ipv4Addr::UNSPECIFIED,
    }
    .emit(&mut answer);
    frame(port, EtherType::ARP, &answer)
}

/// An ICMP error of the server that got the packet `about`.
fn too_big(mtu: u16, about: &Tcp) -> Vec<u8> {
    let mut message = icmp_error(3, 4, about)[20..].to_vec();
    message.truncate(crate::wire::icmp::MAX_ERROR_LEN);
    let mut icmp = IcmpView::new_checked(&mut message[..]).expect("whole");
    icmp.set_next_hop_mtu(mtu);
    icmp.fill_checksum();
    ipv4(about.dst, about.src, proto::ICMP, 64, &message)
}

fn icmp_error(kind: u8, code: u8, about: &Tcp) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&about.packet());
    IcmpView::new_checked(&mut message[..])
        .expect("whole")
        .fill_checksum();
    ipv4(about.dst, about.src, proto::ICMP, 64, &message)
}

/// States of a worker's connections, in table order.
fn states(worker: &Worker<MemoryIo>) -> Vec<State> {
    let table = worker.table();
    table
        .slots(SlotIx(0), table.slots_end())
        .map(|slot| table.get(slot).state)
        .collect()
}

fn snapshot(
    servers: &[Server],
    steering: &Arc<Steering>,
    generation: u64,
    losses: u64,
) -> Snapshot {
    Snapshot::new(parts(servers, steering, generation, losses))
}

fn parts(servers: &[Server], steering: &Arc<Steering>, generation: u64, losses: u64) -> Parts {
    let port = |name: &str, mac, net: &str| PortInfo {
        addresses: vec![net.parse().expect("a network")],
        ..PortInfo::opened(name, mac, 1500)
    };
    let service = |ix: u32, port, protocol| Service {
        name: format!("service{ix}"),
        vip: VIP,
        port,
        protocol,
        plan: Plan::build(
            Scheduler::RoundRobin,
            &servers
                .iter()
                .enumerate()
                .filter(|(_, s)| s.service.0 == ix && s.state == ServerState::Up)
                .map(|(slot, s)| (ServerIx(slot as u32), s.weight))
                .collect::<Vec<_>>(),
        ),
        timeouts: Timeouts {
            established: ESTABLISHED_MS,
            ..Timeouts::default()
        },
        unknown_flow: Answer::Reset,
        on_expire: Answer::Reset,
        syn_retry_ms: 250,
        syn_retry_max_ms: 800,
        syn_attempts: 3,
        fail_after: 0,
        one_answer: false,
    };
    let route = |net: &str, port| Route {
        to: net.parse().expect("a network"),
        via: None,
        port,
    };
    Parts {
        generation,
        route_generation: 1,
        losses,
        timeout_generation: 0,
        ports: vec![
            port("wan", OWN[0], "10.1.0.1/16"),
            port("lan", OWN[1], "10.2.0.1/24"),
        ],
        routes: Routes::new(vec![route("10.1.0.0/16", WAN), route("10.2.0.0/24", LAN)]),
        services: vec![
            Some(service(0, 80, proto::TCP)),
            Some(service(1, 53, proto::UDP)),
        ],
        servers: servers.iter().cloned().map(Some).collect(),
        steering: Arc::clone(steering),
        limits: Limits {
            resets_per_second: 1_000,
            server_resets_per_second: 1_000,
            icmp_per_second: 1_000,
            echo_per_second: 1_000,
            path_mtu_per_second: 1_000,
            min_path_mtu: 1_280,
        },
        locals: vec![LOCAL],
    }
}

/// An established connection, as its two ends see it.
pub(super) struct Flow {
    client_port: u16,
    pub local_port: u16,
    pub server_saw_isn: u32,
    /// Next sequence number of the client, as the client counts.
    pub client_next: u32,
    pub server_next: u32,
    /// Next sequence number of the client, as the server counts.
    pub seen_next: u32,
    pub to_server: Tcp,
}

impl Flow {
    pub fn client_segment(&self, flags: u8) -> Tcp {
        Tcp::from_client(self.client_port, flags)
            .seq(self.client_next)
            .ack(self.server_next)
    }

    pub fn server_segment(&self, flags: u8) -> Tcp {
        self.to_server
            .reply(flags)
            .seq(self.server_next)
            .ack(self.seen_next)
    }

    pub fn exchange(&mut self, lab: &mut Lab, request: &[u8], response: &[u8]) {
        let got = lab
            .client_sends(self.client_segment(flags::ACK).payload(request))
            .to_server();
        assert_eq!((got.seq, &got.payload[..]), (self.seen_next, request));
        self.client_next = self.client_next.wrapping_add(request.len() as u32);
        self.seen_next = self.seen_next.wrapping_add(request.len() as u32);
        let got = lab
            .server_sends(self.server_segment(flags::ACK).payload(response))
            .to_client();
        assert_eq!((got.ack, &got.payload[..]), (self.client_next, response));
        self.server_next = self.server_next.wrapping_add(response.len() as u32);
    }

    pub fn client_closes(&mut self, lab: &mut Lab) {
        let fin = self.client_segment(flags::FIN | flags::ACK);
        let _ = lab.client_sends(fin).to_server();
        self.client_next = self.client_next.wrapping_add(1);
        self.seen_next = self.seen_next.wrapping_add(1);
        let _ = lab
            .server_sends(self.server_segment(flags::ACK))
            .to_client();
    }

    pub fn server_closes(&mut self, lab: &mut Lab) {
        let fin = self.server_segment(flags::FIN | flags::ACK);
        let _ = lab.server_sends(fin).to_client();
        self.server_next = self.server_next.wrapping_add(1);
        let _ = lab
            .client_sends(self.client_segment(flags::ACK))
            .to_server();
    }
}
