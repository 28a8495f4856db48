//! The results of the admin methods, as the daemon writes and `fullgatectl`
//! reads them. Fields are only ever added; `docs/admin.md` describes them.

pub mod rpc;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All methods.
pub const METHODS: [&str; 26] = [
    "ping",
    "version",
    "services.list",
    "connections.list",
    "workers.list",
    "ports.list",
    "drops.list",
    "drops.last",
    "flow.explain",
    "capture.start",
    "capture.read",
    "capture.end",
    "pools.list",
    "neighbors.list",
    "service.add",
    "service.edit",
    "service.del",
    "server.add",
    "server.edit",
    "server.del",
    "server.drain",
    "announce",
    "reload",
    "config.check",
    "config.diff",
    "config.get",
];

/// `version`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    pub pid: u32,
    pub uptime_ms: u64,
}

/// `services.list`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Services {
    pub services: Vec<Service>,
}

/// A service with its real servers; counts are sums over the workers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub vip: SocketAddrV4,
    pub protocol: String,
    pub scheduler: String,
    /// Whether the kernel is to have a route to the VIP; `None` where the service
    /// is never announced.
    #[serde(default)]
    pub announced: Option<bool>,
    pub no_server: u64,
    pub no_local_port: u64,
    pub table_full: u64,
    pub unknown_flow: u64,
    pub syn_moved: u64,
    pub idled_out: u64,
    /// All servers fail their checks, and all of them are used.
    #[serde(default)]
    pub health_ignored: bool,
    pub servers: Vec<Server>,
}

/// A real server. Bytes are IP bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Server {
    pub name: String,
    pub address: SocketAddrV4,
    pub weight: u32,
    pub state: String,
    pub active: u64,
    pub inactive: u64,
    pub connections: u64,
    pub in_packets: u64,
    pub out_packets: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
    pub failures: u64,
    /// Until a drain's deadline, if it has one.
    #[serde(default)]
    pub drain_ms: Option<u64>,
    /// What its health checks say, if it has any.
    #[serde(default)]
    pub health: Option<Health>,
}

/// The health checks of a real server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// What is asked: `tcp`, `http`, `https`, `udp` or `icmp`.
    pub check: String,
    /// Who is asked.
    pub address: SocketAddrV4,
    pub up: bool,
    /// Since `up` is what it is, or since the checks began.
    pub since_ms: u64,
    /// The last check that failed or could not be made: why, and how long ago.
    pub reason: Option<String>,
    pub failed_ms: Option<u64>,
    pub successes: u64,
    pub failures: u64,
    /// Checks that could not be made, for a reason on the gateway's host.
    pub unmade: u64,
    /// How long the last check took that was made.
    pub took_us: Option<u64>,
    /// Share of its weight that it has, per cent; less than 100 in a slow start.
    pub share: u8,
}

/// `connections.list`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Connections {
    pub connections: Vec<Connection>,
    /// There may be more than the limit let through.
    pub truncated: bool,
}

/// One connection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Connection {
    pub protocol: String,
    pub state: String,
    pub client: SocketAddrV4,
    pub vip: SocketAddrV4,
    pub local: SocketAddrV4,
    pub server: SocketAddrV4,
    /// `None` where the service or server left the configuration.
    pub service: Option<String>,
    pub server_name: Option<String>,
    pub worker: u8,
    pub age_ms: u64,
    pub idle_ms: u64,
    /// Until the idle timeout; `None` where the service left the configuration.
    pub expires_ms: Option<u64>,
    pub flags: Vec<String>,
}

/// `workers.list`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Workers {
    /// When the counters were read, since start.
    pub uptime_ms: u64,
    pub workers: Vec<Worker>,
}

/// One worker's counters.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Worker {
    pub worker: u8,
    pub connections: u64,
    pub half_open: u64,
    pub generation: u64,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub handed_over: u64,
    pub pending: u64,
    pub held_syns: u64,
    pub polls: u64,
    pub busy_polls: u64,
    pub cycles: u64,
    pub busy_cycles: u64,
}

/// `ports.list`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ports {
    pub ports: Vec<Port>,
}

/// A port: what the driver says and what the workers counted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    pub driver: String,
    pub link_up: bool,
    /// How often the link went down since the start.
    #[serde(default)]
    pub link_downs: u64,
    /// Whether somebody asked for the device back; it is kept until the stop.
    #[serde(default)]
    pub removal_asked: bool,
    /// `None` where the driver does not know.
    pub speed_mbps: Option<u32>,
    pub mac: String,
    pub mtu: u16,
    pub addresses: Vec<String>,
    pub gateway: Option<Ipv4Addr>,
    /// `rss` or `software`; the same for all ports.
    pub steering: String,
    /// What the configuration asks for: `auto`, `rss` or `software`.
    #[serde(default)]
    pub steering_asked: String,
    /// What the NIC says about spreading packets.
    #[serde(default)]
    pub nic: String,
    /// Why the NIC does not deliver this port's packets; `None` where it does.
    #[serde(default)]
    pub steering_reason: Option<String>,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Lost in the NIC for want of a free receive descriptor.
    pub rx_missed: u64,
    pub rx_errors: u64,
    /// Lost in the driver for want of a buffer.
    pub rx_no_buffer: u64,
    pub tx_errors: u64,
    /// The kernel's interface behind the port, if it has one.
    #[serde(default)]
    pub kernel: Option<KernelInterface>,
}

/// A kernel's interface: packets it took, sent, and did not take.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KernelInterface {
    pub interface: String,
    pub to_kernel: u64,
    pub from_kernel: u64,
    pub refused: u64,
}

/// `drops.list`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Drops {
    pub drops: Vec<Drop>,
    pub events: Vec<Event>,
}

/// A reason for dropping packets.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Drop {
    pub reason: String,
    pub count: u64,
    pub per_worker: Vec<u64>,
    pub meaning: String,
    pub remedy: String,
}

/// Something the gateway did.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    pub event: String,
    pub count: u64,
    pub per_worker: Vec<u64>,
    pub meaning: String,
}

/// `drops.last`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LastDrops {
    /// Oldest first.
    pub drops: Vec<LastDrop>,
}

/// A packet that went no further.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LastDrop {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub age_ms: u64,
    pub reason: String,
    pub worker: u8,
    /// Where it was received; `None` where it had waited, or is the gateway's
    /// own.
    pub port: Option<String>,
    /// Of the frame in bytes, without FCS.
    pub length: u16,
    /// The headers for people.
    pub headers: String,
    /// The first bytes of the frame.
    pub hex: String,
}

/// `flow.explain`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The flow as its packets are received.
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub protocol: String,
    /// `rss` or `software`.
    pub steering: String,
    /// Who gets these packets.
    pub received: Steered,
    /// `connection`: it is one; `new`: its first packet opens one; `kernel`:
    /// the kernel gets it; `drop`.
    pub outcome: String,
    /// The drop reason.
    pub reason: Option<String>,
    /// The outcome in words.
    pub meaning: String,
    pub service: Option<String>,
    /// The server that the scheduler would pick now.
    pub next_server: Option<String>,
    /// Towards the client of a new connection; `None` where no route leads there.
    pub source_hop: Option<Hop>,
    pub connection: Option<ExplainedConnection>,
    /// The service's servers, at most 64, where it is no connection.
    pub candidates: Vec<ExplainedServer>,
}

/// Where the hash over a packet's addresses and ports leads.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Steered {
    pub hash: u32,
    /// Of the redirection table.
    pub slot: u16,
    pub worker: u8,
}

/// A connection with everything that is known of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExplainedConnection {
    pub connection: Connection,
    /// `client to server` or `server to client`: the way of the packets asked
    /// about.
    pub direction: String,
    /// Of packets from the client.
    pub client_hash: Steered,
    /// Of packets from the server.
    pub server_hash: Steered,
    /// `None` where no route leads there.
    pub client_hop: Option<Hop>,
    pub server_hop: Option<Hop>,
    /// SYNs sent to real servers for it; `None` for UDP.
    pub syns: Option<u8>,
    pub tcp: Option<ExplainedTcp>,
}

/// A next hop as the connection's worker knows it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hop {
    pub port: String,
    pub address: Ipv4Addr,
    pub mac: Option<String>,
    /// `known`, `asked`, `no answer` or `not asked yet`.
    pub state: String,
}

/// Sequence numbers, each in its sender's numbering.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExplainedTcp {
    /// `None` as long as it has sent nothing.
    pub client: Option<ExplainedSide>,
    pub server: Option<ExplainedSide>,
    /// Sent by the client, modulo 2^32.
    pub client_bytes: Option<u32>,
    /// By how much the client's sequence numbers are moved for the server.
    pub seq_moved: u32,
    pub timestamps_moved: u32,
}

/// What one side has sent.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExplainedSide {
    /// The end of it.
    pub next: u32,
    /// Up to where the other side has acknowledged it.
    pub acknowledged: u32,
    /// Sent and not acknowledged; `None` before anything is.
    pub unacknowledged: Option<u32>,
}

/// A server that a new connection could go to; counts are the worker's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExplainedServer {
    pub name: String,
    pub address: SocketAddrV4,
    pub weight: u32,
    pub state: String,
    pub active: u64,
    pub free_ports: u32,
    pub resting_ports: u32,
    pub hop: Option<Hop>,
    /// The scheduler would pick it now.
    pub next: bool,
    /// Why it gets no connection; `None` where it does.
    pub why_not: Option<String>,
}

/// `capture.start`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Capturing {
    pub capture: u32,
    /// Names of all ports, in the order of `Captured::lost`.
    pub ports: Vec<String>,
    /// The workers that take part.
    pub workers: Vec<u8>,
}

/// `capture.read`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Captured {
    /// Oldest first; also from one answer to the next.
    pub packets: Vec<CapturedPacket>,
    /// Packets lost so far because the workers' records were full, by port.
    pub lost: Vec<u64>,
    /// The capture is over and these were its last packets.
    pub ended: bool,
}

/// A packet as it was received or sent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub worker: u8,
    /// A number of the worker's own, ascending.
    pub number: u64,
    /// `None` for a packet that had waited and was given up.
    pub port: Option<String>,
    /// `in`, `out`, or `none` for one that was given up.
    pub direction: String,
    /// Of the frame in bytes, without FCS.
    pub length: u32,
    /// The frame, as far as it was kept, in base64.
    pub data: String,
    /// Translation, state, verdict.
    pub comment: String,
}

/// `pools.list`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pools {
    pub pools: Vec<Pool>,
}

/// A pool of local addresses.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pool {
    pub name: String,
    pub addresses: Vec<PoolAddress>,
}

/// A local address, with its ports towards each real server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PoolAddress {
    pub address: Ipv4Addr,
    pub servers: Vec<PoolUse>,
}

/// The local ports of one local address towards one real server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PoolUse {
    pub server: SocketAddrV4,
    pub protocol: String,
    pub capacity: u64,
    pub used: u64,
    pub resting: u64,
    pub free: u64,
    /// SYNs that proved this local address at fault towards this server.
    pub failures: u64,
    /// Workers that have it out of use because of them.
    pub out_at: u64,
}

/// `neighbors.list`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Neighbors {
    pub neighbors: Vec<Neighbor>,
}

/// A next hop.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Neighbor {
    pub port: String,
    pub address: Ipv4Addr,
    /// Where it is known.
    pub mac: Option<String>,
    /// "known", "asked", "no answer" or "not asked yet".
    pub state: String,
    /// The configuration names it: a real server or a router.
    pub configured: bool,
    /// The workers that know just this.
    pub workers: Vec<u8>,
    /// Since it last answered; `None`: never.
    pub age_ms: Option<u64>,
}

/// `announce`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Announced {
    /// Addresses of the gateway; each is announced on the ports whose networks
    /// hold it.
    pub addresses: usize,
}

/// `service.*`, `server.*` and `reload`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// The snapshot that all workers now have in force.
    pub generation: u64,
    /// What about the configuration looks unintended, one line each.
    pub warnings: Vec<String>,
}

/// `config.get`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunningConfig {
    pub toml: String,
    /// The file that a reload reads.
    pub path: PathBuf,
}

/// `config.diff`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Diff {
    pub differences: Vec<Difference>,
    /// Keys for which a reload would be refused as a whole.
    pub restart: Vec<String>,
    /// What about the file looks unintended, one line each.
    pub warnings: Vec<String>,
}

/// A difference between the configuration in force and a file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// Such as `service[web].server[a].weight`.
    pub key: String,
    /// In force, and in the file: a value, or the table that was added or
    /// removed. `None` where the key has its default.
    pub from: Option<Value>,
    pub to: Option<Value>,
    /// Needs a restart.
    pub restart: bool,
}

/// `config.check`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Checked {
    pub services: usize,
    pub servers: usize,
    /// What looks unintended, one line each.
    pub warnings: Vec<String>,
}
