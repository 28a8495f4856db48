//! One immutable, complete picture of the configuration.
//!
//! The management core builds it and workers hold it by `Arc`. It can only be
//! made from a configuration that passed validation, so workers check nothing
//! of it again. Freed on the management core, never on a worker.

use std::hash::BuildHasherDefault;
use std::net::Ipv4Addr;
use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::Ipv4Net;

use super::route::{NextHop, Routes};
use super::schedule::Plan;
use crate::conntrack::entry::ServerTuple;
use crate::conntrack::timeouts::Timeouts;
use crate::ids::{PortIx, ServerIx, ServiceIx, SetIx};
use crate::snat::steering::Steering;
use crate::wire::ethernet::MacAddr;

/// A hasher for keys that only the configuration decides: nobody outside can
/// choose colliding ones, so a multiply suffices.
#[derive(Default, Clone, Copy, Debug)]
pub struct ConfigHasher(u64);

impl std::hash::Hasher for ConfigHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

/// A map whose keys come from the configuration.
pub type ConfigMap<V> = HashMap<u64, V, BuildHasherDefault<ConfigHasher>>;

/// A port as the workers need it.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Name in the configuration.
    pub name: String,
    /// The port's MAC address.
    pub mac: MacAddr,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// The port's own addresses with their networks; the first is the source
    /// of ARP requests and ICMP errors.
    pub addresses: Vec<Ipv4Net>,
    /// Default gateway through this port.
    pub gateway: Option<Ipv4Addr>,
    /// Which sources may come in here.
    pub rpf: Rpf,
    /// What the kernel gets of what arrives here.
    pub kernel: Option<KernelPort>,
}

/// Which sources may come in by a port (RFC 3704).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rpf {
    /// All.
    Off,
    /// All but our own addresses, and hosts on another port's segments.
    #[default]
    Loose,
    /// Only those that the routes have behind this port.
    Strict,
}

impl PortInfo {
    /// A port as it was opened. The rest comes with each configuration.
    pub fn opened(name: &str, mac: MacAddr, mtu: u16) -> Self {
        Self {
            name: name.to_owned(),
            mac,
            mtu,
            addresses: Vec::new(),
            gateway: None,
            rpf: Rpf::default(),
            kernel: None,
        }
    }
}

/// A port with an interface of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelPort {
    /// Packets a second that a worker gives to the kernel: so many from the
    /// port's own networks, and so many from elsewhere.
    pub rate: u32,
    /// Addresses of the kernel's beside those of the port.
    pub addresses: Vec<Ipv4Addr>,
}

/// Why an address is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressKind {
    /// A port's own address.
    Port,
    /// The VIP of at least one service.
    Vip,
    /// A local address.
    Local,
}

/// What a worker does with TCP segments that match no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// RST at once.
    Reset,
    /// Nothing; counted.
    Silent,
}

/// A virtual service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name in the configuration, unique.
    pub name: String,
    /// The address clients connect to.
    pub vip: Ipv4Addr,
    /// The port clients connect to, host byte order.
    pub port: u16,
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// How the next server is picked, precomputed.
    pub plan: Plan,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// TCP segments of unknown connections.
    pub unknown_flow: Answer,
    /// Connections that idle out.
    pub on_expire: Answer,
    /// A held SYN goes to another server after so many milliseconds without
    /// an answer; 0: never.
    pub syn_retry_ms: u16,
    /// Longer, up to this, where the server is known to take longer to answer.
    pub syn_retry_max_ms: u16,
    /// SYNs sent for one connection at most without its client's help, the
    /// first included.
    pub syn_attempts: u8,
    /// Proven failures in a row after which a server, or a local address towards
    /// it, is taken out; 0: never.
    pub fail_after: u16,
    /// A UDP flow ends with its first answer.
    pub one_answer: bool,
}

/// How a real server takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerState {
    /// Gets new connections according to its weight (none at weight 0).
    Up,
    /// Gets no new connections; what it has goes on.
    Draining,
    /// Not usable; its connections are reset.
    Down,
    /// Gone from the configuration; its connections are reset. The slot stays
    /// until no worker holds a connection of it.
    Removed,
}

impl ServerState {
    /// As people read and write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Removed => "removed",
        }
    }

    /// Whether connections to the server go on.
    #[inline(always)]
    pub const fn keeps_connections(self) -> bool {
        matches!(self, Self::Up | Self::Draining)
    }
}

/// A real server of one service.
#[derive(Clone, Debug)]
pub struct Server {
    /// Name in the configuration, unique within its service.
    pub name: String,
    /// The service it serves.
    pub service: ServiceIx,
    /// Its address.
    pub addr: Ipv4Addr,
    /// Its port, host byte order.
    pub port: u16,
    /// Share of new connections.
    pub weight: u32,
    /// How it takes part.
    pub state: ServerState,
    /// The local addresses used towards it and the port set of each.
    pub locals: Box<[(Ipv4Addr, SetIx)]>,
}

impl Server {
    /// The tuple of a connection from a local port to this server.
    pub fn tuple_from(&self, local: Ipv4Addr, local_port: u16, protocol: u8) -> ServerTuple {
        ServerTuple {
            server: self.addr,
            local,
            server_port: self.port,
            local_port,
            protocol,
        }
    }
}

/// Per-worker limits of what is sent to strangers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// RSTs a second to clients for unknown flows; as many for connections that
    /// the gateway ends.
    pub resets_per_second: u32,
    /// RSTs a second to real servers for unknown flows.
    pub server_resets_per_second: u32,
    /// ICMP errors of our own a second but "fragmentation needed", and as many
    /// about connections that are passed on.
    pub icmp_per_second: u32,
    /// Answers to pings a second.
    pub echo_per_second: u32,
    /// "Fragmentation needed" of our own a second.
    pub path_mtu_per_second: u32,
    /// Least path MTU that real servers are told of; up to 68 there is none.
    pub min_path_mtu: u16,
}

/// The snapshot. Slots of `services` and `servers` that are `None` are free.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with every applied change.
    pub generation: u64,
    /// Counts up with every change of ports or routes; connections then look
    /// their next hops up again.
    pub route_generation: u64,
    /// Counts up when a server goes down or is removed; its connections then
    /// end.
    pub losses: u64,
    /// Counts up with every change of a service's timeouts; timers are then
    /// armed anew.
    pub timeout_generation: u64,
    /// The ports, by [`PortIx`].
    pub ports: Box<[PortInfo]>,
    /// Where packets go.
    pub routes: Routes,
    /// Services by slot.
    pub services: Box<[Option<Service>]>,
    /// Real servers by slot.
    pub servers: Box<[Option<Server>]>,
    /// Which worker owns which flow.
    pub steering: Arc<Steering>,
    /// Rate limits.
    pub limits: Limits,
    addresses: ConfigMap<AddressKind>,
    /// What the kernel has: addresses of ports with an interface of it, and
    /// those configured to be its own.
    kernels: ConfigMap<()>,
    /// The keys of `addresses`, in order.
    announced: Box<[Ipv4Addr]>,
    /// See [`Snapshot::next_hops`].
    next_hops: Box<[NextHop]>,
    service_index: ConfigMap<ServiceIx>,
}

fn service_key(vip: Ipv4Addr, port: u16, protocol: u8) -> u64 {
    u64::from(u32::from(vip)) << 32 | u64::from(port) << 8 | u64::from(protocol)
}

fn next_hops(routes: &Routes, servers: &[Option<Server>]) -> Box<[NextHop]> {
    let to_servers = servers
        .iter()
        .flatten()
        .filter(|server| server.state != ServerState::Removed)
        .filter_map(|server| routes.lookup(server.addr));
    let mut hops: Vec<_> = routes.routers().chain(to_servers).collect();
    hops.sort_unstable();
    hops.dedup();
    hops.into()
}

/// What a snapshot is made of; see the fields of [`Snapshot`].
#[derive(Debug)]
pub struct Parts {
    pub generation: u64,
    pub route_generation: u64,
    pub losses: u64,
    pub timeout_generation: u64,
    pub ports: Vec<PortInfo>,
    pub routes: Routes,
    pub services: Vec<Option<Service>>,
    pub servers: Vec<Option<Server>>,
    pub steering: Arc<Steering>,
    pub limits: Limits,
    /// All local addresses of all pools.
    pub locals: Vec<Ipv4Addr>,
}

impl Snapshot {
    /// Builds the indexes. The parts come from a validated configuration: a
    /// VIP, a local address and a port address are never the same, and no two
    /// services share VIP, port and protocol.
    pub fn new(parts: Parts) -> Self {
        let mut addresses = ConfigMap::default();
        let mut service_index = ConfigMap::default();
        for net in parts.ports.iter().flat_map(|port| &port.addresses) {
            addresses.insert(u64::from(u32::from(net.addr())), AddressKind::Port);
        }
        for local in &parts.locals {
            addresses.insert(u64::from(u32::from(*local)), AddressKind::Local);
        }
        for (slot, service) in parts.services.iter().enumerate() {
            let Some(service) = service else { continue };
            addresses.insert(u64::from(u32::from(service.vip)), AddressKind::Vip);
            service_index.insert(
                service_key(service.vip, service.port, service.protocol),
                ServiceIx(slot as u32),
            );
        }
        let mut kernels = ConfigMap::default();
        for port in &parts.ports {
            let Some(kernel) = &port.kernel else { continue };
            let own = port.addresses.iter().map(Ipv4Net::addr);
            for address in own.chain(kernel.addresses.iter().copied()) {
                kernels.insert(u64::from(u32::from(address)), ());
            }
        }
        let mut announced: Vec<_> = addresses
            .keys()
            .map(|&key| Ipv4Addr::from_bits(key as u32))
            .collect();
        announced.sort_unstable();
        Self {
            announced: announced.into(),
            next_hops: next_hops(&parts.routes, &parts.servers),
            generation: parts.generation,
            route_generation: parts.route_generation,
            losses: parts.losses,
            timeout_generation: parts.timeout_generation,
            ports: parts.ports.into(),
            routes: parts.routes,
            services: parts.services.into(),
            servers: parts.servers.into(),
            steering: parts.steering,
            limits: parts.limits,
            addresses,
            kernels,
            service_index,
        }
    }

    /// Why `address` is ours, if it is.
    #[inline]
    pub fn address(&self, address: Ipv4Addr) -> Option<AddressKind> {
        self.addresses.get(&u64::from(u32::from(address))).copied()
    }

    /// All addresses that are ours.
    pub fn announced(&self) -> &[Ipv4Addr] {
        &self.announced
    }

    /// The next hops that the configuration names, in order: routers, and
    /// servers on the ports' networks.
    pub fn next_hops(&self) -> &[NextHop] {
        &self.next_hops
    }

    /// Whether one of the port's networks holds `address`.
    pub fn is_on_link(&self, address: Ipv4Addr, port: PortIx) -> bool {
        self.port(port)
            .is_some_and(|info| info.addresses.iter().any(|net| net.contains(&address)))
    }

    /// Whether what came in by `port` for `address` is the kernel's, unless it
    /// is of a connection, or the address is ours in another way: the port has
    /// an interface of the kernel, and the address is one of its own or a
    /// group of this network alone (RFC 5771 §4), such as OSPF's and VRRP's.
    pub fn is_kernels(&self, address: Ipv4Addr, port: PortIx) -> bool {
        let [a, b, c, _] = address.octets();
        self.port(port).is_some_and(|info| info.kernel.is_some())
            && ([a, b, c] == [224, 0, 0]
                || self.kernels.contains_key(&u64::from(u32::from(address))))
    }

    /// The service at `vip`:`port`.
    #[inline]
    pub fn service_at(&self, vip: Ipv4Addr, port: u16, protocol: u8) -> Option<ServiceIx> {
        self.service_index
            .get(&service_key(vip, port, protocol))
            .copied()
    }

    /// A service by slot.
    #[inline]
    pub fn service(&self, service: ServiceIx) -> Option<&Service> {
        self.services.get(service.ix())?.as_ref()
    }

    /// A real server by slot.
    #[inline]
    pub fn server(&self, server: ServerIx) -> Option<&Server> {
        self.servers.get(server.ix())?.as_ref()
    }

    /// The service of a real server; `None` where that is out of the
    /// configuration, and its server still has connections.
    #[inline]
    pub fn service_of(&self, server: ServerIx) -> Option<&Service> {
        self.service(self.server(server)?.service)
    }

    /// A port by index.
    #[inline]
    pub fn port(&self, port: PortIx) -> Option<&PortInfo> {
        self.ports.get(port.ix())
    }

    /// Whether we answer ARP for `address` on `port`: it is ours, and the
    /// port's networks hold it, or no port's do (it is then routed to us, and
    /// whoever asks for it on the wire is right to).
    pub fn answers_arp(&self, address: Ipv4Addr, port: PortIx) -> bool {
        if self.address(address).is_none() {
            return false;
        }
        let anywhere =
            (0..self.ports.len()).any(|port| self.is_on_link(address, PortIx(port as u8)));
        self.is_on_link(address, port) || !anywhere
    }
}
