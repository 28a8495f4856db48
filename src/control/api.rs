//! The results of the admin methods, as the daemon writes and `fullgatectl`
//! reads them. Fields are only ever added; `docs/admin.md` describes them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// `None` where the driver does not know.
    pub speed_mbps: Option<u32>,
    pub mac: String,
    pub mtu: u16,
    pub addresses: Vec<String>,
    pub gateway: Option<Ipv4Addr>,
    /// `rss` or `software`.
    pub steering: String,
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
    /// `None` when it stopped answering.
    pub mac: Option<String>,
    /// Since this was last heard from a worker.
    pub age_ms: u64,
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
