//! The configuration: one TOML file, read and validated as a whole before
//! anything is touched. A [`Config`] can only be made by validation, so what
//! holds one checks nothing again.
//!
//! Edits of a running gateway go the same way: the request is merged into the
//! file's form and the whole is validated, in memory, into a new [`Config`].

mod announce;
mod demand;
mod diff;
mod edit;
mod fields;
mod health;
mod metrics;
mod network;
pub mod pools;
mod ports;
mod problem;
pub mod raw;
mod runtime;
mod servers;
mod services;
mod times;
mod units;
mod validate;

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;

pub use demand::Demand;
pub use edit::request;
pub(crate) use health::try_health;
pub use health::{AllDown, Health, OnDown, Way};
pub(crate) use network::POOL_MAX;
pub use problem::Problem;
pub use units::parse_duration as duration;
pub(crate) use units::{parse_addresses, parse_endpoint};

use crate::conntrack::timeouts::Timeouts;
use crate::service::schedule::Scheduler;
use crate::service::snapshot::{Answer, Rpf};
use raw::RawConfig;

/// Largest file that is read: several times what a million servers need.
const FILE_MAX: u64 = 512 << 20;

/// A valid configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub runtime: Runtime,
    pub metrics: Metrics,
    pub announce: Announce,
    /// In file order, which is that of `PortIx`.
    pub ports: Vec<Port>,
    pub routes: Vec<StaticRoute>,
    pub pools: Vec<Pool>,
    pub services: Vec<Service>,
}

/// A valid configuration and what about it looks unintended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    pub config: Config,
    /// One line each.
    pub warnings: Vec<Problem>,
}

/// `[runtime]`: the process as such.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Runtime {
    /// Number of workers.
    pub workers: u8,
    /// The core of each worker, where they are pinned.
    pub cores: Option<Vec<u16>>,
    /// The core of everything else, where it is pinned.
    pub main_core: Option<u16>,
    pub hugepages: bool,
    /// DPDK memory in bytes; see [`Config::memory`].
    pub memory: Option<u64>,
    /// Entries of each worker's connection table.
    pub connections: u32,
    /// Packet buffers of each worker; see [`Config::mbufs`].
    pub mbufs: Option<u32>,
    /// Sleep of a worker that found no packet; see [`Config::idle_sleep`].
    pub idle_sleep: Option<Duration>,
    /// Names the process on its host.
    pub instance: String,
    /// See [`Config::admin_socket`].
    pub admin_socket: Option<PathBuf>,
    /// The group that may do everything through the admin socket.
    pub socket_group: Option<String>,
    /// The group that may look through it.
    pub socket_read_group: Option<String>,
    /// Service slots.
    pub max_services: u32,
    /// Server slots.
    pub max_servers: u32,
    /// Next hops that each worker can know.
    pub neighbors: u16,
    /// Datagrams in fragments that each worker remembers at a time.
    pub fragments: u32,
    /// RSTs to clients for unknown flows, per worker.
    pub resets_per_second: u32,
    /// RSTs to real servers for unknown flows, per worker; as many as to
    /// clients where it is not given.
    pub server_resets_per_second: Option<u32>,
    /// ICMP errors, per worker.
    pub icmp_per_second: u32,
    /// Answers to pings, per worker; as `icmp_per_second` where not given.
    pub echo_per_second: Option<u32>,
    /// "Fragmentation needed", per worker; as `icmp_per_second` where not given.
    pub path_mtu_per_second: Option<u32>,
    /// Least path MTU that real servers are told of.
    pub min_path_mtu: u16,
    /// Slots of the steering table where no NIC dictates it.
    pub reta_size: u16,
    /// Ports of local addresses.
    pub local_ports: RangeInclusive<u16>,
}

/// `[metrics]`: the Prometheus endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metrics {
    /// Where it listens, on the host's own network; `None`: there is none.
    pub listen: Option<SocketAddr>,
}

/// `[announce]`: how VIPs are told to routing daemons beside the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announce {
    /// The number that marks the kernel's routes as fullgate's (rtm_protocol in
    /// rtnetlink(7)).
    pub route_protocol: u8,
    /// Between the withdrawal of all routes and the end of the workers.
    pub grace: Duration,
}

/// What a port is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Device {
    /// A TAP interface of this name.
    Tap(String),
    /// A PCI device, `DDDD:BB:DD.F`.
    Pci(String),
    /// A DPDK virtual device with its arguments.
    Vdev(String),
}

/// Who delivers packets to the worker that owns their flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SteeringChoice {
    /// The NIC if it can, else the workers among themselves.
    Auto,
    /// The NIC, or the start fails.
    Rss,
    /// The workers among themselves.
    Software,
}

impl SteeringChoice {
    /// As the file has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Rss => "rss",
            Self::Software => "software",
        }
    }
}

/// `[[port]]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    pub name: String,
    pub device: Device,
    /// The network namespace of a TAP's kernel side.
    pub netns: Option<String>,
    /// The port's own addresses with their networks; at least one.
    pub addresses: Vec<Ipv4Net>,
    pub gateway: Option<Ipv4Addr>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    pub rx_descriptors: u16,
    pub tx_descriptors: u16,
    pub steering: SteeringChoice,
    /// Which sources may come in by it.
    pub rpf: Rpf,
    /// The kernel behind the port.
    pub kernel: Option<KernelInterface>,
}

/// An interface of the kernel that gets what of a port's traffic is neither a
/// connection's nor for a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelInterface {
    /// Its name in the namespace that fullgate runs in.
    pub name: String,
    /// Packets a second that a worker gives to it from the port's own
    /// networks, and as many from elsewhere.
    pub rate: u32,
    /// Addresses of the kernel's beside those of the port.
    pub addresses: Vec<Ipv4Addr>,
}

/// `[[route]]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaticRoute {
    pub to: Ipv4Net,
    /// On a network of some port.
    pub via: Ipv4Addr,
}

/// `[[pool]]`: local addresses.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pool {
    pub name: String,
    /// At least one.
    pub addresses: Vec<Ipv4Addr>,
}

/// Transport protocol of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => crate::wire::proto::TCP,
            Self::Udp => crate::wire::proto::UDP,
        }
    }

    /// The name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// `[[service]]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    pub name: String,
    pub vip: SocketAddrV4,
    pub protocol: Protocol,
    pub scheduler: Scheduler,
    /// Name of its pool, which exists.
    pub pool: String,
    pub unknown_flow: Answer,
    pub on_expire: Answer,
    /// Milliseconds; 0: never.
    pub syn_retry_ms: u16,
    /// Milliseconds.
    pub syn_retry_max_ms: u16,
    /// SYNs for one connection, the first included.
    pub syn_attempts: u8,
    /// Proven failures in a row; 0: never.
    pub fail_after: u16,
    /// A UDP flow ends with its first answer.
    pub one_answer: bool,
    /// The kernel has a route to the VIP while a server is usable.
    pub announce: bool,
    pub timeouts: Timeouts,
    /// How its servers are checked, if they are.
    pub health: Option<Health>,
    pub servers: Vec<Server>,
}

/// How the operator wants a server to take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdminState {
    Up,
    Draining,
    Down,
}

impl AdminState {
    /// The name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

/// `[[service.server]]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    pub name: String,
    pub address: SocketAddrV4,
    /// 0 to 65,535.
    pub weight: u32,
    pub state: AdminState,
    /// Where its health is asked for, if not where it serves.
    pub health_address: Option<SocketAddrV4>,
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// The first problem found, with file, line and key.
    pub fn load(path: &Path) -> Result<Checked, Problem> {
        let file = path.display().to_string();
        let wrong = |what: String| Problem::new(what).located(&file, "");
        let mut text = String::new();
        File::open(path)
            .and_then(|opened| opened.take(FILE_MAX + 1).read_to_string(&mut text))
            .map_err(|error| wrong(format!("can't be read: {error}")))?;
        if text.len() as u64 > FILE_MAX {
            return Err(wrong(format!(
                "is larger than {} MiB; give a configuration",
                FILE_MAX >> 20
            )));
        }
        Self::parse(&file, &text)
    }

    /// The same for a path that somebody else chose: nothing that never ends,
    /// or never begins, is opened.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn load_file(path: &Path) -> Result<Checked, Problem> {
        match std::fs::metadata(path) {
            Ok(found) if !found.is_file() => {
                let what = Problem::new("is no regular file; give a configuration");
                Err(what.located(&path.display().to_string(), ""))
            }
            _ => Self::load(path),
        }
    }

    /// Validates `text`, naming it `file` in problems.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn parse(file: &str, text: &str) -> Result<Checked, Problem> {
        let raw: RawConfig = toml::from_str(text)
            .map_err(|error| Problem::from_toml(&error, text).located(file, text))?;
        let mut checked =
            validate::validate(&raw).map_err(|problem| problem.located(file, text))?;
        Problem::locate(&mut checked.warnings, file, text);
        Ok(checked)
    }

    /// The file that reads back as this configuration. Keys that have their
    /// default value are left out.
    #[expect(
        clippy::expect_used,
        reason = "strings, numbers, booleans, and lists and tables of them under \
                  string keys: TOML can say all of it"
    )]
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.to_raw()).expect("the configuration has a TOML form")
    }

    fn to_raw(&self) -> RawConfig {
        fn list<T, R>(items: &[T], to_raw: impl Fn(&T) -> R) -> Option<Vec<R>> {
            (!items.is_empty()).then(|| items.iter().map(to_raw).collect())
        }
        RawConfig {
            runtime: Some(self.runtime.to_raw()),
            metrics: self.metrics.to_raw(),
            announce: self.announce.to_raw(),
            port: list(&self.ports, Port::to_raw),
            route: list(&self.routes, |route| route.to_raw()),
            pool: list(&self.pools, Pool::to_raw),
            service: list(&self.services, Service::to_raw),
        }
    }

    /// The ports that are PCI devices, with their addresses.
    pub fn pci_ports(&self) -> impl Iterator<Item = (&Port, &str)> {
        self.ports.iter().filter_map(|port| match &port.device {
            Device::Pci(address) => Some((port, address.as_str())),
            _ => None,
        })
    }

    /// Path of the admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.runtime.admin_socket_or_default()
    }

    /// How long a worker that found no packet sleeps; zero: it polls on. The
    /// default saves a core where no port is a NIC.
    pub fn idle_sleep(&self) -> Duration {
        let default = if self.pci_ports().next().is_some() {
            Duration::ZERO
        } else {
            Duration::from_micros(50)
        };
        self.runtime.idle_sleep.unwrap_or(default)
    }
}

#[cfg(test)]
mod tests;
