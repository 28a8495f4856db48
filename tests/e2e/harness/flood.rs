//! Floods: what a hostile host or network sends at a gateway, as frames out of
//! one device of a test's namespace, each kind at its own rate.
//!
//! Sources are unused addresses of the namespace's own networks or those that
//! RFC 5737 keeps for documentation; every frame is well-formed but for its
//! point, and goes to the gateway's port and nowhere else.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header, TcpHeader,
    UdpHeader,
};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};

use super::dice::Dice;
use super::netns::Netns;

/// Pause between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);

/// A generator that did not get a core makes up for no more than that: a burst
/// would overrun the queue of the device, which is not the gateway's fault.
const CATCH_UP: Duration = Duration::from_millis(10);

/// A flood.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// SYNs from addresses behind the router, of which nobody answers.
    SynFar,
    /// SYNs from addresses of the gateway's own network that nobody has.
    SynOnLink,
    /// SYNs whose TCP checksum is wrong.
    SynBadChecksum,
    /// Datagrams from made-up sources to a service that answers.
    UdpAnswered,
    /// The same to one that never does.
    UdpSilent,
    /// Datagrams from every port of one host to a service that answers.
    UdpOneHost,
    /// Echo requests from behind the router.
    PingFar,
    /// Echo requests on the clients' port, in the name of the servers' network.
    PingServers,
    /// ARP replies that nobody asked for, off-link and impossible ones too.
    ArpReply,
    /// Later fragments of datagrams whose first one never comes.
    LaterFragment,
    /// First fragments of datagrams of which no more comes.
    FirstFragment,
    /// SYNs, FINs and RSTs in the name of connections that exist, by somebody
    /// who does not know their sequence numbers.
    ForgedSegment,
    /// ICMP errors about such connections, most of them "fragmentation needed".
    ForgedIcmp,
    /// Frames for another host: they take the same way into the gateway, which
    /// drops them first of all.
    Foreign,
}

impl Kind {
    /// Every flood, without the frames that are for somebody else, and the
    /// frames it sends a second.
    pub const ALL: [(Self, u32); 13] = [
        (Self::SynFar, 2500),
        (Self::SynOnLink, 300),
        (Self::SynBadChecksum, 50),
        (Self::UdpAnswered, 300),
        (Self::UdpSilent, 300),
        (Self::UdpOneHost, 300),
        (Self::PingFar, 200),
        (Self::PingServers, 100),
        (Self::ArpReply, 200),
        (Self::LaterFragment, 1000),
        (Self::FirstFragment, 300),
        (Self::ForgedSegment, 200),
        (Self::ForgedIcmp, 50),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::SynFar => "syn-far",
            Self::SynOnLink => "syn-on-link",
            Self::SynBadChecksum => "syn-bad-checksum",
            Self::UdpAnswered => "udp-answered",
            Self::UdpSilent => "udp-silent",
            Self::UdpOneHost => "udp-one-host",
            Self::PingFar => "ping-far",
            Self::PingServers => "ping-servers",
            Self::ArpReply => "arp-reply",
            Self::LaterFragment => "later-fragment",
            Self::FirstFragment => "first-fragment",
            Self::ForgedSegment => "forged-segment",
            Self::ForgedIcmp => "forged-icmp",
            Self::Foreign => "foreign",
        }
    }
}

/// What floods are aimed at.
#[derive(Clone)]
pub struct Target {
    /// The gateway's port, and its address there.
    pub mac: [u8; 6],
    pub gateway: Ipv4Addr,
    pub tcp: SocketAddrV4,
    pub udp: SocketAddrV4,
    /// A UDP service whose servers never answer.
    pub silent: SocketAddrV4,
    /// Connections of honest clients: client and VIP.
    pub victims: Victims,
}

/// Connections that exist, for those who forge segments of them.
#[derive(Clone, Default)]
pub struct Victims(Arc<Mutex<Vec<(SocketAddrV4, SocketAddrV4)>>>);

impl Victims {
    pub fn add(&self, client: SocketAddrV4, vip: SocketAddrV4) {
        self.0.lock().expect("no panic in it").push((client, vip));
    }

    fn any(&self, dice: &mut Dice) -> Option<(SocketAddrV4, SocketAddrV4)> {
        let victims = self.0.lock().expect("no panic in it");
        let index = dice.roll().checked_rem(victims.len() as u64)?;
        victims.get(index as usize).copied()
    }
}

/// Running floods.
pub struct Floods {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Sent>>>,
}

/// What was sent of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub kind: Kind,
    pub frames: u64,
    /// Frames that the device had no room for.
    pub refused: u64,
}

impl Floods {
    /// Starts floods, each at its rate in frames a second, out of `device`.
    pub fn start(
        netns: &Netns,
        device: &'static str,
        target: Target,
        kinds: &[(Kind, u32)],
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = netns.spawn({
            let (stop, kinds) = (Arc::clone(&stop), kinds.to_vec());
            move || run(&open(device), target, &kinds, &stop)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends them; what was sent.
    pub fn stop(mut self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the floods")
    }
}

impl Drop for Floods {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet socket that sends out of `device` and receives nothing.
pub fn open(device: &str) -> OwnedFd {
    let mut links = getifaddrs().expect("the interfaces");
    let link = links.find_map(|found| {
        let address = (found.interface_name == device).then_some(found.address)??;
        address.as_link_addr().copied()
    });
    let link = link.unwrap_or_else(|| panic!("no device {device}"));
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a packet socket");
    bind(socket.as_raw_fd(), &link).expect("bind the packet socket");
    socket
}

/// Sends one frame as soon as there is room.
pub fn put(device: &OwnedFd, frame: &[u8]) {
    send(device.as_raw_fd(), frame, MsgFlags::empty()).expect("send a frame");
}

fn run(device: &OwnedFd, target: Target, kinds: &[(Kind, u32)], stop: &AtomicBool) -> Vec<Sent> {
    let mut maker = Maker {
        target,
        dice: Dice(0xf100d),
        count: 0,
    };
    let mut sent: Vec<Sent> = kinds
        .iter()
        .map(|&(kind, _)| Sent {
            kind,
            frames: 0,
            refused: 0,
        })
        .collect();
    let mut due = vec![0.0; kinds.len()];
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(TICK);
        let now = Instant::now();
        let elapsed = now.duration_since(last).min(CATCH_UP).as_secs_f64();
        last = now;
        for ((&(kind, rate), sent), due) in kinds.iter().zip(&mut sent).zip(&mut due) {
            *due += f64::from(rate) * elapsed;
            while *due >= 1.0 {
                *due -= 1.0;
                let Some(frame) = maker.frame(kind) else {
                    continue;
                };
                match send(device.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT) {
                    Ok(_) => sent.frames += 1,
                    Err(_) => sent.refused += 1,
                }
            }
        }
    }
    sent
}

/// Makes frames.
struct Maker {
    target: Target,
    dice: Dice,
    /// Frames made, from which sources that come once are counted.
    count: u32,
}

impl Maker {
    /// The next frame of a kind; none where nobody is there to be harmed yet.
    fn frame(&mut self, kind: Kind) -> Option<Vec<u8>> {
        self.count = self.count.wrapping_add(1);
        let Target {
            gateway,
            tcp,
            udp,
            silent,
            ..
        } = self.target;
        let frame = match kind {
            Kind::SynFar => {
                let source = self.far();
                self.segment(source, tcp, "S", true)
            }
            Kind::SynOnLink => {
                let source = SocketAddrV4::new(self.unused(), self.port());
                self.segment(source, tcp, "S", true)
            }
            Kind::SynBadChecksum => {
                let source = self.far();
                self.segment(source, tcp, "S", false)
            }
            Kind::UdpAnswered => self.datagram(None, udp),
            Kind::UdpSilent => self.datagram(None, silent),
            Kind::UdpOneHost => {
                let port = 1024 + (self.count % 64_000) as u16;
                let source = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 255), port);
                self.datagram(Some(source), udp)
            }
            Kind::PingFar => {
                let (source, to) = (*self.far().ip(), *tcp.ip());
                self.ping(source, to)
            }
            Kind::PingServers => {
                let bits = 0x0a02_1000 + (self.count & 0x7fff);
                self.ping(Ipv4Addr::from(bits), gateway)
            }
            Kind::ArpReply => self.arp_reply(),
            Kind::LaterFragment => {
                let offset = 185 * (1 + self.dice.below(8) as u16);
                let more = self.dice.below(2) == 0;
                self.fragment(udp, offset, more, &[0x5a; 64])
            }
            Kind::FirstFragment => {
                let mut bytes = Vec::new();
                let source = self.port();
                let header = UdpHeader {
                    source_port: source,
                    destination_port: udp.port(),
                    length: 3008,
                    checksum: 0x1234,
                };
                header.write(&mut bytes).expect("write to memory");
                bytes.resize(64, 0x5a);
                self.fragment(udp, 0, true, &bytes)
            }
            Kind::ForgedSegment => {
                let (client, vip) = self.target.victims.any(&mut self.dice)?;
                let flags = ["S", "R", "RA", "FA", "SA", "FPA"][self.dice.below(6) as usize];
                let checksum = self.dice.below(4) != 0;
                self.segment(client, vip, flags, checksum)
            }
            Kind::ForgedIcmp => {
                let (client, vip) = self.target.victims.any(&mut self.dice)?;
                self.error(client, vip)
            }
            Kind::Foreign => {
                let source = self.far();
                let mut frame = self.segment(source, tcp, "S", true);
                frame[..6].copy_from_slice(&[0x02, 0xee, 0, 0, 0, 1]);
                frame
            }
        };
        Some(frame)
    }

    fn port(&mut self) -> u16 {
        1024 + self.dice.below(64_512) as u16
    }

    /// A source behind the router.
    fn far(&mut self) -> SocketAddrV4 {
        let dice = self.dice.roll().to_le_bytes();
        let [a, b, c] = [[198, 51, 100], [203, 0, 113]][usize::from(dice[0] % 2)];
        SocketAddrV4::new(Ipv4Addr::new(a, b, c, dice[1]), self.port())
    }

    /// The next address of the gateway's own network that nobody has:
    /// 10.1.16.0 to 10.1.207.255, round and round.
    fn unused(&self) -> Ipv4Addr {
        Ipv4Addr::from(0x0a01_1000 + self.count % 0xc000)
    }

    fn segment(
        &mut self,
        source: SocketAddrV4,
        to: SocketAddrV4,
        flags: &str,
        checksum: bool,
    ) -> Vec<u8> {
        let numbers = self.dice.roll();
        let sequence = (numbers >> 32) as u32;
        let mut tcp = TcpHeader::new(source.port(), to.port(), sequence, 64_240);
        let has = |flag| flags.contains(flag);
        (tcp.syn, tcp.ack, tcp.fin) = (has('S'), has('A'), has('F'));
        (tcp.rst, tcp.psh) = (has('R'), has('P'));
        if tcp.ack {
            tcp.acknowledgment_number = numbers as u32;
        }
        let (from, dest) = (source.ip().octets(), to.ip().octets());
        tcp.checksum = tcp
            .calc_checksum_ipv4_raw(from, dest, &[])
            .expect("a short segment");
        if !checksum {
            tcp.checksum ^= 0x5555;
        }
        let mut bytes = Vec::new();
        tcp.write(&mut bytes).expect("write to memory");
        self.packet(*source.ip(), *to.ip(), IpNumber::TCP, &bytes)
    }

    fn datagram(&mut self, source: Option<SocketAddrV4>, to: SocketAddrV4) -> Vec<u8> {
        let source = source.unwrap_or_else(|| self.far());
        let (from, dest) = (source.ip().octets(), to.ip().octets());
        let payload = b"flood";
        let header = UdpHeader::with_ipv4_checksum(
            source.port(),
            to.port(),
            &Ipv4Header::new(0, 64, IpNumber::UDP, from, dest).expect("a short packet"),
            payload,
        )
        .expect("a short datagram");
        let mut bytes = Vec::new();
        header.write(&mut bytes).expect("write to memory");
        bytes.extend(payload);
        self.packet(*source.ip(), *to.ip(), IpNumber::UDP, &bytes)
    }

    fn ping(&mut self, source: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        let echo = IcmpEchoHeader {
            id: 7,
            seq: self.count as u16,
        };
        self.icmp(source, to, Icmpv4Type::EchoRequest(echo), &[0; 24])
    }

    /// An error about a packet of a connection that the VIP has sent.
    fn error(&mut self, client: SocketAddrV4, vip: SocketAddrV4) -> Vec<u8> {
        let to_client = (vip.ip().octets(), client.ip().octets());
        let mut quoted = Vec::new();
        let mut ip =
            Ipv4Header::new(1440, 63, IpNumber::TCP, to_client.0, to_client.1).expect("a packet");
        ip.dont_fragment = true;
        ip.header_checksum = ip.calc_header_checksum();
        ip.write(&mut quoted).expect("write to memory");
        quoted.extend(vip.port().to_be_bytes());
        quoted.extend(client.port().to_be_bytes());
        quoted.extend((self.dice.roll() as u32).to_be_bytes());
        let needed = |next_hop_mtu| DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
        let what = match self.dice.below(6) {
            0 => DestUnreachableHeader::Host,
            1 => DestUnreachableHeader::Port,
            2 => needed(0),
            3 => needed(68),
            _ => needed(552),
        };
        let source = *self.far().ip();
        let what = Icmpv4Type::DestinationUnreachable(what);
        self.icmp(source, *vip.ip(), what, &quoted)
    }

    fn icmp(&mut self, source: Ipv4Addr, to: Ipv4Addr, what: Icmpv4Type, rest: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Icmpv4Header::with_checksum(what, rest)
            .write(&mut bytes)
            .expect("write to memory");
        bytes.extend(rest);
        self.packet(source, to, IpNumber::ICMP, &bytes)
    }

    /// Part of a datagram from behind the router, at `offset` words of eight
    /// bytes.
    fn fragment(&mut self, to: SocketAddrV4, offset: u16, more: bool, bytes: &[u8]) -> Vec<u8> {
        let source = *self.far().ip();
        let mut ip = header(source, *to.ip(), IpNumber::UDP, bytes.len());
        ip.identification = self.dice.roll() as u16;
        ip.more_fragments = more;
        ip.fragment_offset = IpFragOffset::try_new(offset).expect("an offset in a packet");
        self.finish(ip, bytes)
    }

    fn packet(&mut self, source: Ipv4Addr, to: Ipv4Addr, kind: IpNumber, bytes: &[u8]) -> Vec<u8> {
        let mut ip = header(source, to, kind, bytes.len());
        ip.identification = self.dice.roll() as u16;
        self.finish(ip, bytes)
    }

    fn finish(&self, mut ip: Ipv4Header, bytes: &[u8]) -> Vec<u8> {
        ip.header_checksum = ip.calc_header_checksum();
        let mut frame = self.ethernet(0x0800);
        ip.write(&mut frame).expect("write to memory");
        frame.extend(bytes);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// A header from a host whose address follows from what it sends.
    fn ethernet(&self, kind: u16) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128);
        frame.extend(self.target.mac);
        frame.extend([0x02, 0xbb, 0, 0, 0, 1]);
        frame.extend(kind.to_be_bytes());
        frame
    }

    /// One in eight is in the name of a host elsewhere, one in eight has a MAC
    /// address that no host has, and one in 64 claims the gateway's own address.
    fn arp_reply(&mut self) -> Vec<u8> {
        let dice = self.dice.below(64);
        let sender = match dice {
            0 => self.target.gateway,
            1..9 => *self.far().ip(),
            _ => self.unused(),
        };
        let unique = self.count.to_be_bytes();
        let mac = match dice {
            9..13 => [0xff; 6],
            13..15 => [0x01, 0, 0x5e, 0, 0, 1],
            15..17 => [0; 6],
            _ => [0x02, 0xbb, unique[0], unique[1], unique[2], unique[3]],
        };
        let mut frame = self.ethernet(0x0806);
        frame.extend([0, 1, 0x08, 0, 6, 4, 0, 2]);
        frame.extend(mac);
        frame.extend(sender.octets());
        frame.extend(self.target.mac);
        frame.extend(self.target.gateway.octets());
        frame.resize(60, 0);
        frame
    }
}

fn header(source: Ipv4Addr, to: Ipv4Addr, kind: IpNumber, length: usize) -> Ipv4Header {
    let length = u16::try_from(length).expect("a short packet");
    let mut ip =
        Ipv4Header::new(length, 64, kind, source.octets(), to.octets()).expect("a short packet");
    ip.dont_fragment = false;
    ip
}
