//! `fullgate`: arguments, configuration, instance lock, EAL, ports, workers,
//! management loop, clean stop, in this order. The only place that ends the
//! process.
#![deny(unsafe_code)]

mod drivers;
mod ports;

use std::error::Error;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;

use drivers::{Driver, mempools, rings};
use fullgate::admin::access::Access;
use fullgate::admin::socket::{Limits, Listening};
use fullgate::arena::ArenaError;
use fullgate::cli::{DaemonArgs, DaemonCommand};
use fullgate::config::Config;
use fullgate::conntrack::hash::HashKey;
use fullgate::conntrack::isn::IsnSecret;
use fullgate::conntrack::table::ConnTable;
use fullgate::dpdk::{self, Clock, DpdkIo, Eal, Mbuf, Port};
use fullgate::exception::{self};
use fullgate::health::Checker;
use fullgate::host::kernel::KernelRoutes;
use fullgate::host::lock::InstanceLock;
use fullgate::host::privileges;
use fullgate::host::supervisor::Supervisor;
use fullgate::ids::WorkerIx;
use fullgate::management::patience::Patience;
use fullgate::management::state::State;
use fullgate::management::{Alive, Management, Setup, Signals, WorkerLink};
use fullgate::metrics;
use fullgate::preflight::{preflight, shortage};
use fullgate::say;
use fullgate::time::Millis;
use fullgate::worker::message::{Command, Link, Update};
use fullgate::worker::{self, Handover, Now, Worker};
use ports::{
    eal_config, kernel_interfaces, open_ports, pools, port_infos, probing, steering, take_queues,
};

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
