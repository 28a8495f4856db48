//! `fullgate`: arguments, configuration, instance lock, EAL, ports, workers,
//! management loop, clean stop, in this order. The only place that ends the
//! process.
#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;

use fullgate::admin::access::Access;
use fullgate::admin::socket::{Limits, Listening};
use fullgate::arena::ArenaError;
use fullgate::cli::{DaemonArgs, DaemonCommand};
use fullgate::config::{self, Config};
use fullgate::conntrack::hash::HashKey;
use fullgate::conntrack::isn::IsnSecret;
use fullgate::conntrack::table::ConnTable;
use fullgate::dpdk::{
    self, Clock, Device, DpdkIo, Eal, EalConfig, Mbuf, Memory, Mempool, PoolConfig, Port,
    PortConfig, RssStatus,
};
use fullgate::exception::{self, Carried};
use fullgate::health::Checker;
use fullgate::host::kernel::{self, Kernel, KernelRoutes};
use fullgate::host::lock::InstanceLock;
use fullgate::host::privileges;
use fullgate::host::supervisor::Supervisor;
use fullgate::ids::{PortIx, WorkerIx};
use fullgate::management::patience::Patience;
use fullgate::management::state::State;
use fullgate::management::steer::{self, Asked, Impossible};
use fullgate::management::{Alive, Management, Setup, Signals, WorkerLink};
use fullgate::metrics;
use fullgate::preflight::{preflight, shortage};
use fullgate::say;
use fullgate::service::snapshot::PortInfo;
use fullgate::snat::steering::Steering;
use fullgate::snat::toeplitz::DEFAULT_KEY;
use fullgate::stats::readings::{KernelReading, Level, PortReading, PortStatus, PortSteering};
use fullgate::time::Millis;
use fullgate::wire::ethernet::MacAddr;
use fullgate::worker::message::{Command, Link, Update};
use fullgate::worker::{self, Handover, Now, Worker};

/// Bytes of a packet buffer with its headroom: a frame of the usual MTU.
const DATA_ROOM: u16 = 2_176;
/// Packets on their way from one worker to another: 32 bursts.
const HANDOVER_DEPTH: usize = 1_024;
/// Rounds without work before a worker sleeps, where it may.
const EMPTY_POLLS: u32 = 100;
/// Longest wait for the workers' threads to end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// The exit code where the configuration is wrong, and another attempt would end
/// alike.
const MISTAKE: u8 = 2;

type Failure = Box<dyn Error>;

/// The configuration asks for what a device can't do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Mistake(String);

fn main() -> ExitCode {
    let args = DaemonArgs::parse();
    let filter = args.log.clone().or_else(|| std::env::var("RUST_LOG").ok());
    env_logger::Builder::new()
        .parse_filters(filter.as_deref().unwrap_or("warn"))
        .init();

    let path = match &args.command {
        Some(DaemonCommand::Check { file }) => file,
        Some(DaemonCommand::Preflight { config }) => config,
        None => &args.config,
    };
    let checked = match Config::load(path) {
        Ok(checked) => checked,
        Err(problem) => {
            say::error(&format_args!("fullgate: {problem}"));
            return ExitCode::from(MISTAKE);
        }
    };
    for warning in &checked.warnings {
        log::warn!("{warning}");
    }
    match args.command {
        Some(DaemonCommand::Check { file }) => {
            said(&format!("{}: ok\n", file.display()));
            ExitCode::SUCCESS
        }
        Some(DaemonCommand::Preflight { .. }) => {
            let report = preflight(Path::new("/"), &checked.config);
            said(&report.to_string());
            match report.is_ready() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        None => match serve(checked.config, path) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                say::error(&format_args!("fullgate: {failure}"));
                match failure.is::<Mistake>() {
                    true => ExitCode::from(MISTAKE),
                    false => ExitCode::FAILURE,
                }
            }
        },
    }
}

/// Says something on standard output; what keeps it from being written is worth
/// a line in the log and nothing more.
fn said(text: &str) {
    if let Err(error) = say::out(text) {
        log::warn!("standard output: {error}");
    }
}

/// Everything between a valid configuration and the end.
fn serve(config: Config, config_path: &Path) -> Result<(), Failure> {
    let socket_path = config.admin_socket();
    let _lock = lock(&socket_path, &config.runtime.instance)?;
    let signals = Signals::install()?;
    let supervisor = Supervisor::default();
    // Not before the lock: what a process that is ending has is free only then.
    if let Some(shortage) = shortage(Path::new("/"), &config) {
        return Err(format!(
            "{}: runtime.connections: {shortage}; fullgate preflight says what would fit",
            config_path.display()
        )
        .into());
    }

    let metrics_listener = config.metrics.listen.map(metrics::listen).transpose()?;
    let access = Access::new(&config.runtime, dpdk::peer_groups)?;

    let unneeded = |error| format!("can't give up what is not needed: {error}");
    privileges::before_start().map_err(unneeded)?;
    let patience = Patience::start(&signals, &supervisor)?;
    patience.step(probing(&config));
    let eal = Eal::init(&eal_config(&config))?;
    let stopped = || {
        let asked = signals.stop_asked();
        if asked {
            supervisor.stopping();
        }
        asked
    };
    if stopped() {
        return Ok(());
    }
    patience.step("reserving packet buffers".to_owned());
    let pools = pools(&eal, &config)?;
    let mut ports = open_ports(&eal, &config, &pools, &patience)?;
    eal.started();
    // Before the threads that run for good: they have fewer capabilities.
    drop(patience);
    let (steering, steered) = steering(&config, &ports)?;
    let steering = Arc::new(steering);
    let queues = take_queues(&mut ports)?;
    let ports: Vec<Arc<Port>> = ports.into_iter().map(Arc::new).collect();

    let count = usize::from(config.runtime.workers);
    let random = HashKey::random_bytes()?;
    let (secret, seed) = random.split_at(16);
    let secret = IsnSecret(secret.try_into()?);
    let seed = u64::from_le_bytes(seed[..8].try_into()?);
    let infos = port_infos(&config, &ports);
    let (kernel, interfaces) = kernel_interfaces(&config, &infos)?;
    let carried: Vec<_> = interfaces
        .iter()
        .map(exception::Interface::carried)
        .collect();
    let (state, updates) = State::new(config.clone(), infos, steering, count, seed)?;

    if stopped() {
        return Ok(());
    }
    let (sender, calls) = mpsc::channel();
    let socket = Listening::bind(&socket_path, access)?;
    privileges::after_start(&config).map_err(unneeded)?;
    let socket = socket.serve(Limits::DEFAULT, sender)?;
    let (populated, tables) = mpsc::channel();
    let mut workers = Vec::with_capacity(count);
    let mut threads = Threads(Vec::with_capacity(count));
    let handovers = Handover::mesh(count, HANDOVER_DEPTH);
    let exception = exception::start(interfaces, count)?;
    let metrics = metrics::Setup {
        listener: metrics_listener,
        handovers: handovers.iter().map(rings).collect(),
        mempools: mempools(&pools),
    };
    for ((((ix, queues), pool), handover), first) in (0..)
        .map(WorkerIx)
        .zip(queues)
        .zip(pools)
        .zip(handovers)
        .zip(updates)
    {
        let io = DpdkIo::new(queues, pool);
        let key = HashKey::from_bytes(HashKey::random_bytes()?);
        let table = ConnTable::anonymous(config.runtime.connections as usize, key, Millis(0))?;
        let setup = worker::Setup {
            fragments: config.runtime.fragments as usize,
            neighbors: config.runtime.neighbors.into(),
            kernel: exception.as_ref().map(|thread| thread.rings(ix)),
            ..worker::Setup::new(ix, table, state.room(), handover, secret)
        };
        let (link, alive) = WorkerLink::new(setup.link.clone(), Arc::clone(&setup.stats));
        let populated = populated.clone();
        let commands = setup.link.clone();
        let thread = start(&eal, &config, setup, io, first, alive, populated)?;
        threads.0.push((commands, thread));
        workers.push(link);
    }

    drop(populated);
    for table in tables {
        table?;
    }

    let management = Management::new(Setup {
        state,
        workers,
        ports: ports
            .iter()
            .zip(steered)
            .enumerate()
            .map(|(ix, (port, steering))| {
                let carried = carried.iter().find(|carried| carried.port.ix() == ix);
                Arc::new(Driver {
                    port: Arc::clone(port),
                    steering,
                    carried: carried.cloned(),
                }) as _
            })
            .collect(),
        config_path: config_path.into(),
        calls,
        signals: signals.clone(),
        supervisor: supervisor.clone(),
        metrics,
        kernel,
        checker: Box::new(|| Checker::start(Box::new(KernelRoutes::open()?))),
        tsc: Clock::cycles,
    });
    // Who was told to stop meanwhile never was ready.
    if !signals.stop_asked() {
        said("fullgate: ready\n");
        supervisor.ready();
    }
    let outcome = management.run();

    drop(socket);
    drop(threads);
    drop(exception);
    // Ports are stopped and closed before EAL ends.
    drop(ports);
    Ok(outcome?)
}

/// The workers' threads. Dropped, also where the start fails half-way, those that
/// still run are told to stop and waited for: none polls a port on while the
/// rest of the process is taken down.
struct Threads(Vec<(Link, JoinHandle<()>)>);

impl Drop for Threads {
    fn drop(&mut self) {
        for (link, _) in &self.0 {
            // Told a second time, a worker stops no more than once; one that
            // takes no commands is past being told.
            let _ = link.commands.push(Command::Stop);
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        for (_, thread) in self.0.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                // A panic of the thread has been reported where it happened.
                let _ = thread.join();
            }
        }
    }
}

/// One process per instance; also makes the directory of lock and socket.
fn lock(socket_path: &Path, instance: &str) -> Result<InstanceLock, Failure> {
    let dir = socket_path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(InstanceLock::take(&dir.join(format!("{instance}.lock")))?)
}

fn eal_config(config: &Config) -> EalConfig {
    let megabytes = (config.memory() >> 20) as u32;
    EalConfig {
        memory: match config.runtime.hugepages {
            true => Memory::Hugepages {
                reserve_mb: megabytes,
            },
            false => Memory::Ordinary {
                total_mb: megabytes,
            },
        },
        pci: config
            .ports
            .iter()
            .filter_map(|port| match &port.device {
                config::Device::Pci(address) => Some(address.clone()),
                _ => None,
            })
            .collect(),
        main_core: config.runtime.main_core.map(u32::from),
        file_prefix: config.runtime.instance.clone(),
        ..EalConfig::default()
    }
}

/// The pool that each worker's packets come from: one for all workers of a
/// NUMA node.
fn pools(eal: &Eal, config: &Config) -> Result<Vec<Mempool>, Failure> {
    let cores = config.runtime.cores.as_deref().unwrap_or_default();
    let sockets: Vec<Option<u32>> = (0..usize::from(config.runtime.workers))
        .map(|worker| dpdk::socket_of(u32::from(*cores.get(worker)?)))
        .collect();
    let processor_only = config.ports.iter().all(|port| device(port).copies());
    let mut made: BTreeMap<Option<u32>, Mempool> = BTreeMap::new();
    for &socket in &sockets {
        if made.contains_key(&socket) {
            continue;
        }
        let workers = sockets.iter().filter(|other| **other == socket).count() as u32;
        let config = PoolConfig {
            name: socket.map_or("packets".into(), |socket| format!("packets-{socket}")),
            count: workers * config.mbufs() - 1,
            data_room: DATA_ROOM,
            socket,
            processor_only,
        };
        made.insert(socket, Mempool::new(eal, &config)?);
    }
    Ok(sockets.iter().map(|socket| made[socket].clone()).collect())
}

/// What a port is on, as the driver layer says it.
fn device(port: &config::Port) -> Device {
    match &port.device {
        config::Device::Tap(name) => Device::Tap { name: name.clone() },
        config::Device::Pci(address) => Device::Pci(address.clone()),
        config::Device::Vdev(device) => Device::Vdev(device.clone()),
    }
}

/// The pools, each once.
fn mempools(pools: &[Mempool]) -> Vec<(String, Arc<dyn Level>)> {
    let named: BTreeMap<&str, &Mempool> = pools.iter().map(|pool| (pool.name(), pool)).collect();
    named
        .into_iter()
        .map(|(name, pool)| (name.to_owned(), Arc::new(Buffers(pool.clone())) as _))
        .collect()
}

/// The rings through which a worker gets packets from others.
fn rings(handover: &Handover<Mbuf>) -> Vec<Arc<dyn Level>> {
    let rings = handover.from.iter();
    rings.map(|ring| Arc::clone(ring) as _).collect()
}

/// The ports, started; each queue receives into its worker's pool.
fn open_ports(
    eal: &Eal,
    config: &Config,
    pools: &[Mempool],
    patience: &Patience,
) -> Result<Vec<Port>, Failure> {
    let one_pool = pools
        .windows(2)
        .all(|pair| pair[0].name() == pair[1].name());
    let mut ports = Vec::with_capacity(config.ports.len());
    for port in &config.ports {
        let wanted = PortConfig {
            device: device(port),
            queues: config.runtime.workers.into(),
            rx_desc: port.rx_descriptors,
            tx_desc: port.tx_descriptors,
            mtu: port.mtu,
            promiscuous: false,
            netns: port.netns.clone(),
            rss_key: DEFAULT_KEY,
            one_pool,
        };
        let failed = |error: dpdk::Error| -> Failure {
            let line = format!("port {}: {error}", port.name);
            match error.is_permanent() {
                true => Mistake(line).into(),
                false => line.into(),
            }
        };
        patience.step(format!("opening port {} ({})", port.name, wanted.device));
        let mut opened = Port::open(eal, &wanted, pools).map_err(failed)?;
        let driver = opened.driver().to_owned();
        patience.step(format!(
            "starting port {} ({}, driver {driver})",
            port.name, wanted.device
        ));
        opened.start().map_err(failed)?;
        ports.push(opened);
    }
    Ok(ports)
}

/// Who delivers packets to their workers, and what each port has to do with it.
fn steering(config: &Config, ports: &[Port]) -> Result<(Steering, Vec<PortSteering>), Failure> {
    let asked = |(port, opened): (&'_ config::Port, &Port)| {
        let nic = match opened.rss() {
            RssStatus::Unavailable(why) => Err(why.clone()),
            RssStatus::Active { flows, .. } if !(flows.ipv4_tcp && flows.ipv4_udp) => {
                Err("the NIC does not hash both TCP and UDP by ports".into())
            }
            RssStatus::Active { reta, .. } => Ok(reta.clone()),
        };
        (port.name.clone(), port.steering, nic)
    };
    let asked: Vec<_> = config.ports.iter().zip(ports).map(asked).collect();
    let asked: Vec<Asked<'_>> = asked
        .iter()
        .map(|(port, choice, nic)| Asked {
            port,
            choice: *choice,
            nic: nic.clone(),
        })
        .collect();
    let runtime = &config.runtime;
    let decision =
        steer::decide(&asked, runtime.workers, runtime.reta_size).map_err(|error| -> Failure {
            match error.downcast::<Impossible>() {
                Ok(impossible) => Mistake(impossible.to_string()).into(),
                Err(other) => other,
            }
        })?;
    for (port, steering) in asked.iter().zip(&decision.ports) {
        match &steering.reason {
            None => log::info!("port {}: {}", port.port, steering.nic),
            Some(why) => {
                log::info!("port {}: packets are steered by software: {why}", port.port);
            }
        }
    }
    let steering = Steering::new(DEFAULT_KEY, decision.reta, decision.mode)?;
    Ok((steering, decision.ports))
}

/// What EAL does at start, in words: it asks the drivers of PCI devices about them.
fn probing(config: &Config) -> String {
    let devices: Vec<&str> = config
        .ports
        .iter()
        .filter_map(|port| match &port.device {
            config::Device::Pci(address) => Some(address.as_str()),
            _ => None,
        })
        .collect();
    match devices.as_slice() {
        [] => "starting DPDK".to_owned(),
        devices => format!("starting DPDK, which asks {}", devices.join(", ")),
    }
}

/// Each worker's queues, one on every port.
fn take_queues(ports: &mut [Port]) -> Result<Vec<Vec<dpdk::Queue>>, dpdk::Error> {
    let mut queues: Vec<Vec<dpdk::Queue>> = Vec::new();
    for port in ports {
        let taken = port.take_queues()?;
        queues.resize_with(taken.len(), Vec::new);
        for (worker, queue) in queues.iter_mut().zip(taken) {
            worker.push(queue);
        }
    }
    Ok(queues)
}

fn port_infos(config: &Config, ports: &[Arc<Port>]) -> Vec<PortInfo> {
    let info = |(port, opened): (&config::Port, &Arc<Port>)| {
        PortInfo::opened(&port.name, MacAddr(opened.mac()), opened.mtu())
    };
    config.ports.iter().zip(ports).map(info).collect()
}

/// The kernel's interfaces of the ports that have one, up and with addresses.
fn kernel_interfaces(
    config: &Config,
    infos: &[PortInfo],
) -> Result<(Kernel, Vec<exception::Interface>), Failure> {
    let (mut interfaces, mut set_ups) = (Vec::new(), Vec::new());
    for (ix, (port, info)) in config.ports.iter().zip(infos).enumerate() {
        let Some(wanted) = &port.kernel else { continue };
        let name = wanted.name.clone();
        let file = dpdk::open_tap(&name).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::ResourceBusy => "an interface of this name exists".to_owned(),
                _ => error.to_string(),
            };
            format!("port {}: kernel-interface {name}: {why}", port.name)
        })?;
        set_ups.push(kernel::Interface {
            name: name.clone(),
            mac: info.mac,
            mtu: info.mtu,
        });
        interfaces.push(exception::Interface {
            port: PortIx(ix as u8),
            name,
            file,
            counters: Arc::default(),
        });
    }
    Ok((Kernel::start(set_ups, config)?, interfaces))
}

/// Starts a worker's thread, which reports when its table has its memory.
fn start(
    eal: &Eal,
    config: &Config,
    mut setup: worker::Setup<Mbuf>,
    io: DpdkIo,
    first: Update,
    alive: Alive,
    populated: mpsc::Sender<Result<(), ArenaError>>,
) -> Result<JoinHandle<()>, dpdk::Error> {
    let ix = setup.ix;
    let cores = config.runtime.cores.as_ref();
    let core = cores
        .and_then(|cores| cores.get(ix.ix()))
        .map(|&core| u32::from(core));
    let clock = Clock::new(eal);
    let idle_sleep = config.idle_sleep();
    let signals_for = (ix == WorkerIx(0)).then(|| eal.clone());
    dpdk::spawn(eal, &format!("worker-{ix}"), core, move || {
        let _alive = alive;
        if let Some(eal) = signals_for {
            dpdk::take_signals(&eal);
        }
        let outcome = setup.table.populate();
        let failed = outcome.is_err();
        // The other side waits for it, so sending it can't fail.
        let _ = populated.send(outcome);
        drop(populated);
        if failed {
            return;
        }
        let worker = Worker::new(setup, io, Box::new(first), now(&clock));
        poll(worker, &clock, idle_sleep);
    })
}

fn now(clock: &Clock) -> Now {
    let tsc = Clock::cycles();
    Now {
        ms: clock.millis(tsc),
        tsc,
    }
}

/// A worker's life.
fn poll(mut worker: Worker<DpdkIo>, clock: &Clock, idle_sleep: Duration) {
    let mut empty = 0;
    while !worker.stopping() {
        if worker.poll(now(clock)) > 0 {
            empty = 0;
        } else if !idle_sleep.is_zero() {
            empty += 1;
            if empty > EMPTY_POLLS {
                std::thread::sleep(idle_sleep);
                empty = EMPTY_POLLS;
            }
        }
    }
}

/// A port as the admin methods show it.
struct Driver {
    port: Arc<Port>,
    steering: PortSteering,
    carried: Option<Carried>,
}

impl PortStatus for Driver {
    fn read(&self) -> PortReading {
        let Self {
            port,
            steering,
            carried,
        } = self;
        let (link, stats) = (port.link(), port.stats().unwrap_or_default());
        let kernel = carried.as_ref().map(|carried| {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            KernelReading {
                interface: carried.name.clone(),
                to_kernel: count(&carried.counters.to_kernel),
                from_kernel: count(&carried.counters.from_kernel),
                refused: count(&carried.counters.refused),
            }
        });
        PortReading {
            driver: port.driver().into(),
            link_up: link.as_ref().is_ok_and(|link| link.up),
            speed_mbps: link.ok().and_then(|link| link.speed_mbps),
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            rx_no_buffer: stats.rx_no_buffer,
            tx_errors: stats.tx_errors,
            steering: steering.clone(),
            kernel,
        }
    }

    fn link_up(&self) -> bool {
        self.port.link().is_ok_and(|link| link.up)
    }

    fn removal_asked(&self) -> bool {
        self.port.removal_asked()
    }
}

/// A pool of packet buffers as the metrics show it.
struct Buffers(Mempool);

impl Level for Buffers {
    fn used(&self) -> u64 {
        self.capacity().saturating_sub(u64::from(self.0.free()))
    }

    fn capacity(&self) -> u64 {
        self.0.count().into()
    }
}
