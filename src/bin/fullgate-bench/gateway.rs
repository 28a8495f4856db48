//! The gateway under measurement: from a configuration text to a worker, by
//! the same steps as the `fullgate` program, on ring ports.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use fullgate::arena::Arena;
use fullgate::conntrack::hash::HashKey;
use fullgate::conntrack::isn::IsnSecret;
use fullgate::conntrack::table::ConnTable;
use fullgate::control::config::Config;
use fullgate::control::state::State;
use fullgate::dpdk::{Clock, DpdkIo, Eal, EalConfig, Memory, Mempool, PoolConfig, Port, ring_port};
use fullgate::ids::WorkerIx;
use fullgate::service::snapshot::PortInfo;
use fullgate::snat::steering::{Reta, Steering, SteeringMode};
use fullgate::snat::toeplitz::DEFAULT_KEY;
use fullgate::stats::WorkerStats;
use fullgate::wire::ethernet::MacAddr;
use fullgate::worker::message::Link;
use fullgate::worker::{Handover, Now, Setup, Worker};

use super::Failure;
use super::args::{Common, Proto};
use super::wire::Wire;

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
/// Of the service and of each real server.
pub const SERVICE_PORT: u16 = 80;
/// What one local address has towards one real server.
const LOCAL_PORTS: u64 = 65_535 - 1024 + 1;
/// Buffers: a full wire in both directions, and what the worker makes itself.
const BUFFERS: u32 = (1 << 13) - 1;
/// Packets on the wire, each way of each port.
const RING: u32 = 1 << 12;
const FIRST_SERVER: u32 = 0x0a02_0100;
const FIRST_LOCAL: u32 = 0x0a02_8000;

pub fn server_addr(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_SERVER + u32::from(number))
}

/// Number of a real server, by its address.
pub fn server_number(address: Ipv4Addr) -> u16 {
    (address.to_bits() - FIRST_SERVER) as u16
}

/// What the gateway is to be.
pub struct Plan<'a> {
    pub common: &'a Common,
    pub proto: Proto,
    /// Table size.
    pub connections: u64,
    /// Milliseconds that a finished connection rests.
    pub time_wait_ms: u32,
}

impl Plan<'_> {
    /// Local addresses: a quarter more ports than connections, since a server
    /// may get more than its share.
    pub fn locals(&self) -> u16 {
        let per_local = u64::from(self.common.servers) * LOCAL_PORTS;
        let needed = (self.connections + self.connections / 4).div_ceil(per_local);
        self.common.locals.unwrap_or(needed.clamp(1, 1024) as u16)
    }

    fn toml(&self) -> String {
        let (connections, time_wait) = (self.connections.max(4096), self.time_wait_ms);
        let (first, last) = (
            Ipv4Addr::from_bits(FIRST_LOCAL),
            Ipv4Addr::from_bits(FIRST_LOCAL + u32::from(self.locals()) - 1),
        );
        let protocol = match self.proto {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        };
        let mut text = format!(
            r#"
[runtime]
connections = {connections}
max-servers = 4096
[[port]]
name = "wan"
device = "vdev:net_ring_wan"
addresses = ["10.1.0.1/24"]
gateway = "10.1.0.254"
[[port]]
name = "lan"
device = "vdev:net_ring_lan"
addresses = ["10.2.0.1/16"]
[[pool]]
name = "default"
addresses = ["{first}-{last}"]
[[service]]
name = "bench"
vip = "{VIP}:{SERVICE_PORT}"
protocol = "{protocol}"
"#
        );
        if self.proto == Proto::Tcp {
            let _ = writeln!(text, "timeouts = {{ time-wait = \"{time_wait}ms\" }}");
        }
        for number in 0..self.common.servers {
            let address = server_addr(number);
            let _ = writeln!(
                text,
                "[[service.server]]\naddress = \"{address}:{SERVICE_PORT}\""
            );
        }
        text
    }
}

/// The worker and the world around it.
pub struct Gateway {
    pub worker: Worker<DpdkIo>,
    pub wire: Wire,
    pub stats: Arc<WorkerStats>,
    pub clock: Clock,
    /// When the worker began.
    pub start: Now,
    _state: State,
    _ports: Vec<Port>,
}

/// Starts EAL for a benchmark.
pub fn eal(common: &Common) -> Result<Eal, Failure> {
    // Buffers with their headers, and the rings.
    let megabytes = 128;
    Ok(Eal::init(&EalConfig {
        memory: match common.hugepages {
            true => Memory::Hugepages {
                reserve_mb: megabytes,
            },
            false => Memory::Ordinary {
                total_mb: megabytes,
            },
        },
        main_core: common.core,
        file_prefix: format!("fullgate-bench-{}", std::process::id()),
        ..EalConfig::default()
    })?)
}

impl Gateway {
    pub fn new(eal: &Eal, plan: &Plan<'_>) -> Result<Self, Failure> {
        let config = Config::parse("benchmark", &plan.toml())
            .map_err(|problem| problem.to_string())?
            .config;
        let pool = Mempool::new(
            eal,
            &PoolConfig {
                name: "packets".into(),
                count: BUFFERS,
                data_room: 2_176,
                socket: None,
            },
        )?;
        let (mut ports, mut ends, mut queues) = (Vec::new(), Vec::new(), Vec::new());
        for port in &config.ports {
            let (mut port, mut far) = ring_port(eal, &port.name, 1, RING, &pool)?;
            port.start()?;
            queues.append(&mut port.take_queues()?);
            ends.append(&mut far);
            ports.push(port);
        }
        let macs = [MacAddr(ports[0].mac()), MacAddr(ports[1].mac())];
        let infos = config.ports.iter().zip(macs).map(|(port, mac)| PortInfo {
            name: port.name.clone(),
            mac,
            mtu: port.mtu,
            addresses: port.addresses.clone(),
            gateway: port.gateway,
            kernel: None,
        });
        let reta = Reta::even(config.runtime.reta_size.into(), 1)?;
        let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Software)?;
        let (state, mut updates) =
            State::new(config.clone(), infos.collect(), Arc::new(steering), 1, 1)?;
        let clock = Clock::new(eal);
        let start = now(&clock);
        let arena = Arena::anonymous(config.runtime.connections as usize)?;
        let key = HashKey::from_bytes(HashKey::random_bytes()?);
        let (table, _) = ConnTable::new(arena, key, start.ms)?;
        let stats = Arc::new(WorkerStats::new(
            ports.len(),
            config.runtime.max_servers as usize,
            config.runtime.max_services as usize,
        ));
        let setup = Setup {
            ix: WorkerIx(0),
            table,
            held_syns: 4_096,
            neighbors: 4_096,
            max_services: config.runtime.max_services as usize,
            max_servers: config.runtime.max_servers as usize,
            max_sets: state.max_sets(),
            stats: Arc::clone(&stats),
            link: Link::new(),
            handover: Handover::mesh(1, 1_024).remove(0),
            kernel: None,
            isn_secret: IsnSecret(HashKey::random_bytes()?[..16].try_into()?),
        };
        let io = DpdkIo::new(queues, pool.clone());
        let worker = Worker::new(setup, io, Box::new(updates.remove(0)), start);
        let ends = ends.try_into().map_err(|_| "two ports, two ends")?;
        Ok(Self {
            worker,
            wire: Wire::new(ends, macs, pool),
            stats,
            clock,
            start,
            _state: state,
            _ports: ports,
        })
    }
}

/// As the program's worker threads read the time.
#[inline(always)]
pub fn now(clock: &Clock) -> Now {
    let tsc = Clock::cycles();
    Now {
        ms: clock.millis(tsc),
        tsc,
    }
}
