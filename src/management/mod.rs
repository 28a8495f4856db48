//! The management loop: one thread that owns the state, the rings to the
//! workers, and everything that changes either. Admin requests, signals and
//! the workers' replies all end here, one after the other, so nothing of it
//! needs a lock. Never waits for one worker or one client: what is not there
//! yet is looked for again a millisecond later.

mod answers;
mod captures;
mod changes;
mod drains;
mod explain;
mod gather;
mod health;
mod links;
mod methods;
mod neighbors;
mod notices;
pub mod patience;
mod questions;
mod report;
mod signals;
pub mod state;
pub mod steer;
mod times;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use self::captures::Captures;
use self::changes::{Change, Preparing, Taking};
use self::drains::Drains;
use self::gather::{Complete, Gather};
use self::health::Health;
pub use self::health::StartChecker;
pub use self::links::{Alive, WorkerLink};
use self::neighbors::{Links, Relay, Silent};
use self::notices::{NoticeLog, server_title};
use self::questions::{ConnectionsAsk, Copied};
pub use self::signals::Signals;
use self::times::Times;
use crate::admin::socket::Call;
use crate::api;
use crate::api::rpc::Outcome;
use crate::conntrack::entry::FlowTuple;
use crate::host::kernel::Kernel;
use crate::host::supervisor::{Supervisor, Watchdog};
use crate::ids::{SetIx, WorkerIx};
use crate::jobs::Jobs;
use crate::management::state::State;
use crate::metrics::{self, Metrics, Sources};
use crate::stats::readings::PortStatus;
use crate::stats::{DropReason, WorkerStats};
use crate::worker::message::dropped::Dropped;
use crate::worker::message::probe::Probe;
use crate::worker::message::{Command, NeighborFound, Order, Reply, Scan, SetUse, Update};

/// Between two looks at the workers' replies: what one worker learns about a
/// next hop, the others wait for.
const TICK: Duration = Duration::from_millis(1);

/// Requests executed before the replies are looked at again.
const CALLS_PER_TICK: usize = 64;

/// Longest a request waits for the workers, several times what a scan of ten
/// million connections takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks for state that no worker needs any more.
const COLLECT_EVERY: Duration = Duration::from_secs(2);

/// Between two looks at how many local ports are left, for the metrics.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// Longest wait for the workers to leave their loops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What the loop is made of.
pub struct Setup {
    /// The configuration in force.
    pub state: State,
    /// By [`WorkerIx`].
    pub workers: Vec<WorkerLink>,
    /// By [`PortIx`].
    pub ports: Vec<Arc<dyn PortStatus>>,
    /// The file that `reload` reads.
    pub config_path: PathBuf,
    /// Requests from the admin socket.
    pub calls: Receiver<Call>,
    /// What signals ask for.
    pub signals: Signals,
    /// What the service manager is told.
    pub supervisor: Supervisor,
    /// What the metrics endpoint shows beside all this.
    pub metrics: metrics::Setup,
    /// The kernel's interfaces.
    pub kernel: Kernel,
    /// How health checks are begun: [`crate::health::Checker::start`].
    pub checker: StartChecker,
    /// Reads the TSC, which the workers' readings are held against.
    pub tsc: fn() -> u64,
}

/// The management loop.
pub struct Management {
    state: State,
    workers: Vec<WorkerLink>,
    stats: Vec<Arc<WorkerStats>>,
    ports: Vec<Arc<dyn PortStatus>>,
    config_path: PathBuf,
    calls: Receiver<Call>,
    signals: Signals,
    started: Instant,
    relay: Relay,
    links: Links,
    silent: Silent,
    changes: Gather<Change, Taking, ()>,
    preparing: Option<Preparing>,
    /// Makes configurations, and frees what no worker needs any more.
    changing: Jobs,
    /// Makes long answers.
    answering: Jobs,
    connections: Gather<ConnectionsAsk, (usize, Option<Order>), Copied>,
    /// Of the sets of the snapshot of this generation.
    pools: Gather<(), u64, Vec<SetUse>>,
    /// The sets of the snapshot of this generation.
    sets: (u64, Arc<[SetIx]>),
    neighbors: Gather<(), (), Vec<NeighborFound>>,
    last_drops: Gather<Option<DropReason>, (), Vec<(DropReason, Dropped)>>,
    flows: Gather<FlowTuple, FlowTuple, Box<Probe>>,
    captures: Captures,
    times: Times,
    notices: NoticeLog,
    drains: Drains,
    health: Health,
    metrics: Metrics,
    kernel: Kernel,
    collected: Instant,
    sampled: Option<Instant>,
    stopped: Vec<bool>,
    stopping: Option<Instant>,
    supervisor: Supervisor,
    watchdog: Watchdog,
}

impl Management {
    /// A loop that has not run yet.
    pub fn new(setup: Setup) -> Self {
        let count = setup.workers.len();
        let now = Instant::now();
        let stats: Vec<Arc<WorkerStats>> = setup
            .workers
            .iter()
            .map(|worker| Arc::clone(worker.stats()))
            .collect();
        let config = setup.state.config();
        let sources = Sources {
            stats: stats.clone(),
            links: setup.workers.iter().map(|w| w.link().clone()).collect(),
            ports: setup.ports.clone(),
            connections: config.runtime.connections,
        };
        let metrics = Metrics::new(setup.metrics, sources, config, setup.state.snapshot());
        let mut kernel = setup.kernel;
        kernel.published(config, setup.state.announced());
        let mut management = Self {
            state: setup.state,
            stats,
            workers: setup.workers,
            ports: setup.ports,
            config_path: setup.config_path,
            calls: setup.calls,
            signals: setup.signals,
            started: now,
            relay: Relay::default(),
            links: Links::default(),
            silent: Silent::default(),
            changes: Gather::new("the change", count),
            preparing: None,
            changing: Jobs::new("admin-change"),
            answering: Jobs::new("admin-answer"),
            connections: Gather::new("the scan of connections", count),
            pools: Gather::new("the scan of local ports", count),
            sets: (0, Arc::default()),
            neighbors: Gather::new("the scan of next hops", count),
            last_drops: Gather::new("the scan of dropped packets", count),
            flows: Gather::new("the question about a flow", count),
            captures: Captures::default(),
            times: Times::new(setup.tsc),
            notices: NoticeLog::default(),
            drains: Drains::default(),
            health: Health::new(setup.checker),
            metrics,
            kernel,
            collected: now,
            sampled: None,
            stopped: vec![false; count],
            stopping: None,
            supervisor: setup.supervisor,
            watchdog: Watchdog::from_env(now),
        };
        // The workers were made with the first snapshot, and say so like of
        // every other.
        management.configure_health(now);
        let first = management.taking(Vec::new());
        management.changes.begin(first, None, now + PATIENCE);
        management
    }

    /// Runs until a signal stops it and all workers have left their loops.
    ///
    /// # Errors
    /// A worker's thread ended by itself, or did not end when asked to.
    pub fn run(mut self) -> Result<(), String> {
        loop {
            let now = Instant::now();
            if self.stopping.is_none() {
                if let Some(dead) = self.workers.iter().position(WorkerLink::has_ended) {
                    self.stop(now);
                    let _ = self.wait_for_stop();
                    return Err(format!("worker {dead} ended unexpectedly"));
                }
                if self.signals.stop_asked() {
                    self.withdraw(now);
                    self.stop(Instant::now());
                    return self.wait_for_stop();
                }
            }
            self.step(now, TICK);
        }
    }

    /// Withdraws what is announced, and goes on for as long as routers need to
    /// turn away.
    fn withdraw(&mut self, now: Instant) {
        self.supervisor.stopping();
        if !self.kernel.withdraw() {
            return;
        }
        let until = now + self.state.config().announce.grace;
        while Instant::now() < until && !self.workers.iter().any(WorkerLink::has_ended) {
            self.step(Instant::now(), TICK);
        }
    }

    fn stop(&mut self, now: Instant) {
        self.supervisor.stopping();
        self.stopping = Some(now + STOP_PATIENCE);
        for worker in &mut self.workers {
            worker.send(Command::Stop);
        }
    }

    fn wait_for_stop(&mut self) -> Result<(), String> {
        loop {
            let now = Instant::now();
            self.step(now, TICK);
            let left = self.workers.iter().zip(&self.stopped);
            let running = left
                .enumerate()
                .find(|(_, (worker, stopped))| !*stopped && !worker.has_ended());
            match (running, self.stopping) {
                (None, _) => return Ok(()),
                (Some((worker, _)), Some(deadline)) if now >= deadline => {
                    return Err(format!("worker {worker} does not stop"));
                }
                _ => {}
            }
        }
    }

    /// One round. Waits at most `wait`, and only for a request.
    fn step(&mut self, now: Instant, wait: Duration) {
        self.watchdog.tick(now);
        self.take_replies(now);
        self.relay_arp(now);
        self.watch_links(now);
        if self.signals.take_reload() {
            self.queue_change(self.reload(), None, now);
        }
        self.end_drains(now);
        self.take_health(now);
        self.tend_captures(now);
        self.start_questions(now);
        for worker in &mut self.workers {
            worker.flush();
        }
        self.changes.expire(now);
        self.connections.expire(now);
        self.pools.expire(now);
        self.neighbors.expire(now);
        self.last_drops.expire(now);
        self.flows.expire(now);
        match self.calls.recv_timeout(wait) {
            Ok(call) => {
                self.execute(call, now);
                for _ in 1..CALLS_PER_TICK {
                    let Ok(call) = self.calls.try_recv() else {
                        break;
                    };
                    self.execute(call, now);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // No socket any more: the channel no longer paces the loop.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
        }
        self.start_questions(now);
    }

    fn take_replies(&mut self, now: Instant) {
        for ix in 0..self.workers.len() {
            let worker = WorkerIx(ix as u8);
            for reply in self.workers[ix].replies() {
                self.take_reply(worker, reply, now);
            }
        }
    }

    fn take_reply(&mut self, worker: WorkerIx, reply: Reply, now: Instant) {
        match reply {
            Reply::Applied(update) => {
                self.state.applied(worker, &update);
                // 100,000 names and sets take their time to be freed.
                self.changing.run(move || drop(update));
                if let Some(complete) = self.changes.answer(worker, ()) {
                    self.changed(complete, now);
                }
            }
            Reply::Scanned(scan) => {
                let Scan { found, now, .. } = *scan;
                if let Some(complete) = self.connections.answer(worker, Copied { found, now }) {
                    self.scanned(complete);
                }
            }
            Reply::Pools(scan) => {
                if let Some(complete) = self.pools.answer(worker, scan.found) {
                    self.counted_ports(complete, now);
                }
            }
            Reply::Neighbors(scan) => {
                if let Some(complete) = self.neighbors.answer(worker, scan.found) {
                    let snapshot = Arc::clone(self.state.snapshot());
                    self.answering.run(move || {
                        let list = neighbors::list(&snapshot, &complete.answers);
                        answer(complete.reply, Ok(answers::value(&list)));
                    });
                }
            }
            Reply::LastDrops(scan) => {
                if let Some(complete) = self.last_drops.answer(worker, scan.found) {
                    let snapshot = self.state.snapshot();
                    let drops = report::last_drops(snapshot, &complete.answers, &self.times);
                    answer(complete.reply, Ok(answers::value(&drops)));
                }
            }
            Reply::Explained(probe) => {
                if let Some(complete) = self.flows.answer(worker, probe) {
                    let snapshot = self.state.snapshot();
                    let (tuple, probes) = (complete.tag, complete.answers);
                    let explained = explain::explained(snapshot, tuple, &probes);
                    answer(complete.reply, Ok(answers::value(&explained)));
                }
            }
            Reply::Capturing(id) => self.capturing(id, now),
            Reply::Captured(tap) => self.captured(tap.id),
            Reply::ServerFailed(server) => {
                let snapshot = self.state.snapshot();
                let title = server_title(snapshot, server);
                let why = self.silent.why(snapshot, server);
                self.notices
                    .warn(format!("{title} does not accept connections{why}"), now);
            }
            Reply::ServerAnswered(server) => {
                let title = server_title(self.state.snapshot(), server);
                self.notices
                    .warn(format!("{title} accepts connections again"), now);
            }
            Reply::Notice(notice) => {
                self.silent.note(notice, self.state.snapshot());
                let line = notices::line(self.state.snapshot(), worker, notice);
                self.notices.warn(line, now);
            }
            Reply::Stopped => self.stopped[worker.ix()] = true,
        }
    }

    fn start_questions(&mut self, now: Instant) {
        self.finish_change(now);
        self.prepare_change();
        if self.changes.is_free() {
            let mut updates = self.state.refresh();
            let is_due = now.saturating_duration_since(self.collected) >= COLLECT_EVERY;
            if updates.is_empty() && self.changes.is_idle() && is_due {
                self.collected = now;
                updates = self.state.collect(&self.stats);
            }
            if !updates.is_empty() {
                let (config, snapshot) = (self.state.shared_config(), self.state.snapshot());
                self.metrics.published(&self.changing, config, snapshot);
                let taking = self.taking(Vec::new());
                self.changes.begin(taking, None, now + PATIENCE);
                self.send_updates(updates);
            }
        }
        self.ask_workers(now);
    }

    fn send_updates(&mut self, updates: Vec<Update>) {
        self.kernel
            .published(self.state.config(), self.state.announced());
        for (worker, update) in self.workers.iter_mut().zip(updates) {
            worker.send(Command::Apply(Box::new(update)));
        }
    }

    fn changed(&mut self, complete: Complete<Taking, ()>, now: Instant) {
        let Taking {
            generation,
            warnings,
            decided,
        } = complete.tag;
        if let Some(decided) = decided {
            let delay = now.saturating_duration_since(decided);
            log::info!("health: all workers have snapshot {generation} after {delay:?}");
            self.metrics.health_in_force(delay);
        }
        // Whatever changed, no reload is under way any more.
        self.supervisor.ready();
        answer(
            complete.reply,
            Ok(answers::value(&api::Changed {
                generation,
                warnings,
            })),
        );
    }
}

/// Answers whoever waits, if anybody does. Never blocks: the channel has room
/// for the one outcome.
fn answer(reply: Option<SyncSender<Outcome>>, outcome: Outcome) {
    if let Some(reply) = reply {
        let _ = reply.send(outcome);
    }
}

#[cfg(test)]
mod tests;
