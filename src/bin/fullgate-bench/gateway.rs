//! The gateway under measurement: from a configuration text to its workers, by
//! the same steps as the `fullgate` program, on ring ports.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use fullgate::config::Config;
use fullgate::conntrack::hash::HashKey;
use fullgate::conntrack::isn::IsnSecret;
use fullgate::conntrack::table::ConnTable;
use fullgate::dpdk::{
    Clock, DpdkIo, Eal, EalConfig, Mbuf, Memory, Mempool, PoolConfig, Port, RingEnd, ring_port,
};
use fullgate::ids::WorkerIx;
use fullgate::management::state::State;
use fullgate::service::snapshot::PortInfo;
use fullgate::snat::steering::{Reta, Steering, SteeringMode};
use fullgate::snat::toeplitz::DEFAULT_KEY;
use fullgate::stats::WorkerStats;
use fullgate::time::Millis;
use fullgate::wire::ethernet::MacAddr;
use fullgate::worker::message::{Link, Update};
use fullgate::worker::{Handover, Now, Setup, Worker};

use super::Failure;
use super::args::{Common, Proto};
use super::measure::{now, resident_bytes};
use super::wire::Wire;

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
/// Of the service and of each real server.
pub const SERVICE_PORT: u16 = 80;
/// What one local address has towards one real server.
const LOCAL_PORTS: u64 = 65_535 - 1024 + 1;
/// Buffers: a full wire in both directions, and what the worker makes itself.
const BUFFERS: u32 = 1 << 13;
/// Packets on the wire, each way of each port.
const RING: u32 = 1 << 12;
const FIRST_SERVER: u32 = 0x0a02_0100;
const FIRST_LOCAL: u32 = 0x0a02_8000;

pub fn server_addr(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_SERVER + u32::from(number))
}

/// Number of a real server, by its address; of another address, one that no
/// server has.
pub fn server_number(address: Ipv4Addr) -> u16 {
    u16::try_from(address.to_bits().wrapping_sub(FIRST_SERVER)).unwrap_or(u16::MAX)
}

/// What the gateway is to be.
pub struct Plan<'a> {
    pub common: &'a Common,
    pub proto: Proto,
    /// Table size of each worker.
    pub connections: u64,
    /// Milliseconds that a finished connection rests.
    pub time_wait_ms: u32,
    pub workers: u8,
}

impl Plan<'_> {
    /// Local addresses: a quarter more ports than connections, since a server
    /// may get more than its share.
    pub fn locals(&self) -> u16 {
        let per_local = u64::from(self.common.servers) * LOCAL_PORTS;
        let connections = self.connections * u64::from(self.workers);
        let needed = (connections + connections / 4).div_ceil(per_local);
        self.common.locals.unwrap_or(needed.clamp(1, 1024) as u16)
    }

    /// The configuration, on the devices of the clients' and the servers' side,
    /// with more lines for `[runtime]`.
    pub fn toml(&self, devices: [&str; 2], runtime: &str) -> String {
        let (connections, time_wait) = (self.connections.max(4096), self.time_wait_ms);
        let [wan, lan] = devices;
        let (first, last) = (
            Ipv4Addr::from_bits(FIRST_LOCAL),
            Ipv4Addr::from_bits(FIRST_LOCAL + u32::from(self.locals()) - 1),
        );
        let protocol = match self.proto {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        };
        let mut text = format!(
            r#"[runtime]
connections = {connections}
max-servers = 4096
{runtime}
[[port]]
name = "wan"
device = "{wan}"
addresses = ["10.1.0.1/24"]
gateway = "10.1.0.254"
[[port]]
name = "lan"
device = "{lan}"
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

/// One worker and the world around it.
pub struct Gateway {
    pub worker: Worker<DpdkIo>,
    pub wire: Wire<RingEnd>,
    pub stats: Arc<WorkerStats>,
    /// The management core's rings.
    pub link: Link,
    pub clock: Clock,
    /// When the worker began.
    pub start: Now,
    /// Growth of the process's resident memory by the worker's table, which has
    /// all its memory from the start.
    pub table_bytes: u64,
}

/// What outlives the workers.
pub struct World {
    pub steering: Arc<Steering>,
    _state: State,
    _ports: Vec<Port>,
}

/// A worker that is still to be made, on its own thread.
pub struct Seed {
    setup: Setup<Mbuf>,
    io: DpdkIo,
    first: Update,
    ends: [RingEnd; 2],
    macs: [MacAddr; 2],
    pool: Mempool,
    clock: Clock,
    table_bytes: u64,
}

/// Starts EAL for a benchmark.
pub fn eal(common: &Common) -> Result<Eal, Failure> {
    // Buffers with their headers, and the rings.
    let megabytes = 128;
    let eal = Eal::init(&EalConfig {
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
    })?;
    eal.started();
    Ok(eal)
}

/// Buffers of a benchmark, for each of `users`.
pub fn pool(eal: &Eal, name: &str, users: u8) -> Result<Mempool, Failure> {
    Ok(Mempool::new(
        eal,
        &PoolConfig {
            name: name.into(),
            count: BUFFERS * u32::from(users) - 1,
            data_room: 2_176,
            socket: None,
            processor_only: true,
        },
    )?)
}

/// The gateway, up to where its workers' threads begin.
pub fn plant(eal: &Eal, plan: &Plan<'_>) -> Result<(World, Vec<Seed>), Failure> {
    let text = plan.toml(["vdev:net_ring_wan", "vdev:net_ring_lan"], "");
    let config = Config::parse("benchmark", &text)
        .map_err(|problem| problem.to_string())?
        .config;
    let workers = plan.workers;
    let pool = pool(eal, "packets", workers)?;
    let mut ports = Vec::new();
    let mut wires = Vec::new();
    // A device for each worker and side: net_ring keeps the counters of one
    // device's queues side by side, and two workers would share that line.
    for worker in 0..workers {
        let (mut ends, mut queues) = (Vec::new(), Vec::new());
        for port in &config.ports {
            let name = format!("{}{worker}", port.name);
            let (mut port, mut far) = ring_port(eal, &name, 1, RING, &pool)?;
            port.start()?;
            queues.append(&mut port.take_queues()?);
            ends.append(&mut far);
            ports.push(port);
        }
        let ends: [RingEnd; 2] = ends.try_into().map_err(|_| "two ports, two ends")?;
        wires.push((queues, ends));
    }
    let macs = [MacAddr(ports[0].mac()), MacAddr(ports[1].mac())];
    let opened = config.ports.iter().zip(macs);
    let infos = opened.map(|(port, mac)| PortInfo::opened(&port.name, mac, port.mtu));
    let reta = Reta::even(config.runtime.reta_size.into(), workers)?;
    let mode = match workers {
        1 => SteeringMode::Software,
        _ => SteeringMode::Rss,
    };
    let steering = Arc::new(Steering::new(DEFAULT_KEY, reta, mode)?);
    let (state, updates) = State::new(
        config.clone(),
        infos.collect(),
        Arc::clone(&steering),
        workers.into(),
        1,
    )?;
    let isn_secret = IsnSecret(HashKey::random_bytes()?[..16].try_into()?);
    let handovers = Handover::mesh(workers.into(), 1_024);
    let mut seeds = Vec::new();
    for (ix, (((queues, ends), first), handover)) in
        (0..).zip(wires.into_iter().zip(updates).zip(handovers))
    {
        let before = resident_bytes();
        let key = HashKey::from_bytes(HashKey::random_bytes()?);
        let slots = config.runtime.connections as usize;
        let mut table = ConnTable::anonymous(slots, key, Millis(0))?;
        table.populate()?;
        let table_bytes = resident_bytes().saturating_sub(before);
        seeds.push(Seed {
            setup: Setup::new(WorkerIx(ix), table, state.room(), handover, isn_secret),
            io: DpdkIo::new(queues, pool.clone()),
            first,
            ends,
            macs,
            pool: pool.clone(),
            clock: Clock::new(eal),
            table_bytes,
        });
    }
    let world = World {
        steering,
        _state: state,
        _ports: ports,
    };
    Ok((world, seeds))
}

/// A gateway of one worker, on this thread.
pub fn single(eal: &Eal, plan: &Plan<'_>) -> Result<(World, Gateway), Failure> {
    let (world, mut seeds) = plant(eal, plan)?;
    let gateway = seeds.remove(0).grow();
    Ok((world, gateway))
}

impl Seed {
    /// The worker, on the thread where it is to run.
    pub fn grow(self) -> Gateway {
        let start = now(&self.clock);
        let stats = Arc::clone(&self.setup.stats);
        let link = self.setup.link.clone();
        Gateway {
            link,
            worker: Worker::new(self.setup, self.io, Box::new(self.first), start),
            wire: Wire::new(self.ends, self.macs, self.pool),
            stats,
            clock: self.clock,
            start,
            table_bytes: self.table_bytes,
        }
    }
}
