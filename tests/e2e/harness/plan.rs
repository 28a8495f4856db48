//! What a test wants: topology, gateway and services, as plain values. Every
//! address a test mentions comes from here.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use super::machine::Hugepages;

/// 512 MiB of 2 MiB pages: packet buffers and a connection table.
const HUGEPAGES: u64 = 256;

/// Client-side address of the gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The address clients connect to.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);

/// Server-side address of the gateway, with two arms.
pub const GATEWAY_LAN: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);

/// What a port of fullgate is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// A TAP that fullgate makes in the host's namespace.
    Tap,
    /// The gateway's end of a veth pair, through a packet socket.
    AfPacket,
    /// The same, through an AF_XDP socket.
    AfXdp,
}

/// Which implementation stands between client and servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Fullgate,
    /// A router with nftables DNAT + SNAT and conntrack: the oracle.
    Kernel,
}

/// How many ports the gateway has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arms {
    /// One port on one segment with client and servers.
    One,
    /// A client port and a server port.
    Two,
}

/// Where the real servers live (two-arm; with one arm always apart).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Addresses of one namespace, directly on the gateway's port.
    Together,
    /// A namespace each, behind a switch.
    Apart,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Server {
    pub name: String,
    pub address: SocketAddrV4,
    pub weight: u32,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub protocol: Protocol,
    /// Port at the VIP.
    pub port: u16,
    pub servers: Vec<Server>,
    /// Further keys of fullgate's configuration, a line each.
    pub keys: String,
}

impl Service {
    /// A service at `port` over the plan's servers with these weights; server
    /// `i` is named `s<i>` and listens on the same port.
    pub fn new(plan: &Plan, name: &str, protocol: Protocol, port: u16, weights: &[u32]) -> Self {
        let server = |(index, &weight): (usize, &u32)| Server {
            name: format!("s{index}"),
            address: SocketAddrV4::new(plan.server(index), port),
            weight,
        };
        let servers = weights.iter().enumerate().map(server).collect();
        Self {
            name: name.to_owned(),
            protocol,
            port,
            servers,
            keys: String::new(),
        }
    }

    /// The same with these lines in fullgate's configuration of it.
    pub fn with(self, keys: &str) -> Self {
        Self {
            keys: keys.to_owned(),
            ..self
        }
    }

    /// Where clients connect to.
    pub fn vip(&self) -> SocketAddrV4 {
        SocketAddrV4::new(VIP, self.port)
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: Kind,
    /// Of fullgate's ports.
    pub driver: Driver,
    pub arms: Arms,
    pub layout: Layout,
    /// Number of real-server hosts.
    pub servers: usize,
    /// Two routers with a 1400-byte link between them, between the gateway and
    /// the client, or the gateway and the (one) server.
    pub far_client: bool,
    pub far_server: bool,
    pub workers: usize,
    pub hugepages: bool,
    /// Capacity of the gateway's connection table.
    pub connections: usize,
    /// How many addresses the gateway has towards real servers, at most 4, and
    /// the ports of each.
    pub local_addresses: u8,
    pub local_ports: RangeInclusive<u16>,
    /// Prefix length of the networks on the gateway's ports.
    pub prefix: u8,
    /// An interface of the kernel behind each of fullgate's ports, of this
    /// `kernel-rate`; fullgate then has a namespace to itself.
    pub kernel_rate: Option<u32>,
    /// MTU of the gateway's port to the servers.
    pub lan_mtu: Option<u16>,
    /// Further lines of fullgate's `[runtime]`.
    pub runtime: String,
}

impl Plan {
    /// Two arms, one worker, no hugepages, three servers on one segment.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            driver: Driver::Tap,
            arms: Arms::Two,
            layout: Layout::Together,
            servers: 3,
            far_client: false,
            far_server: false,
            workers: 1,
            hugepages: false,
            connections: 65_536,
            local_addresses: 4,
            local_ports: 1024..=65_535,
            prefix: 24,
            kernel_rate: None,
            lan_mtu: None,
            runtime: String::new(),
        }
    }

    /// Memory for a gateway that wants hugepages, until dropped.
    pub fn hugepages(&self) -> Option<Hugepages> {
        self.hugepages.then(|| Hugepages::reserve(HUGEPAGES))
    }

    /// Address of the client.
    pub fn client(&self) -> Ipv4Addr {
        if self.far_client {
            Ipv4Addr::new(10, 4, 0, 2)
        } else {
            Ipv4Addr::new(10, 1, 0, 2)
        }
    }

    /// Address of real server `index`.
    pub fn server(&self, index: usize) -> Ipv4Addr {
        let host = 101 + u8::try_from(index).expect("few servers");
        match (self.arms, self.far_server) {
            (Arms::One, _) => Ipv4Addr::new(10, 1, 0, host),
            (Arms::Two, false) => Ipv4Addr::new(10, 2, 0, host),
            (Arms::Two, true) => Ipv4Addr::new(10, 3, 0, host),
        }
    }

    /// First and last address from which the gateway talks to real servers.
    pub fn locals(&self) -> (Ipv4Addr, Ipv4Addr) {
        let net = match self.arms {
            Arms::One => 1,
            Arms::Two => 2,
        };
        (
            Ipv4Addr::new(10, net, 0, 10),
            Ipv4Addr::new(10, net, 0, 9 + self.local_addresses),
        )
    }

    /// Whether a real server may see this address as its peer.
    pub fn is_local(&self, address: Ipv4Addr) -> bool {
        let (first, last) = self.locals();
        (first..=last).contains(&address)
    }
}
