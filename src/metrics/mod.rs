//! The Prometheus endpoint: `GET /metrics` on an address of the host, never on
//! a port of the packet path. The management loop keeps a [`Shared`] up to
//! date; threads of the endpoint read it, the workers' counters and the
//! drivers' figures, and do all the writing, so that a scrape of many thousand
//! servers keeps nobody waiting.

mod exposition;
mod families;
mod headroom;
mod health;
mod http;
mod text;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::headroom::{Headroom, PortUse};
pub(crate) use self::health::HealthRow;
use self::http::{Limits, Server};
use crate::config::Config;
use crate::health::Histogram;
use crate::jobs::Jobs;
use crate::service::snapshot::Snapshot;
use crate::stats::WorkerStats;
use crate::stats::readings::{Level, PortStatus};
use crate::worker::message::{Link, SetUse};

/// What the endpoint shows beside what the management loop has anyway.
#[derive(Default)]
pub struct Setup {
    /// The socket of `metrics.listen`, if that is given.
    pub listener: Option<TcpListener>,
    /// Rings through which each worker gets packets from others, by worker.
    pub handovers: Vec<Vec<Arc<dyn Level>>>,
    /// Pools of packet buffers with their names.
    pub mempools: Vec<(String, Arc<dyn Level>)>,
}

/// Opens the socket of `metrics.listen`.
///
/// # Errors
/// One line that says what is wrong with the address.
pub fn listen(addr: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(addr).map_err(|error| format!("metrics.listen: {addr}: {error}"))
}

/// What never changes about what is shown.
pub(crate) struct Sources {
    pub(crate) stats: Vec<Arc<WorkerStats>>,
    pub(crate) links: Vec<Link>,
    pub(crate) ports: Vec<Arc<dyn PortStatus>>,
    /// Entries of each worker's connection table.
    pub(crate) connections: u32,
}

/// What the last reload came to.
#[derive(Clone, Copy, Debug)]
struct Reload {
    successful: bool,
    succeeded: SystemTime,
}

/// What the management loop says about the present.
struct View {
    snapshot: Arc<Snapshot>,
    ports: Arc<[PortUse]>,
    health: Arc<[HealthRow]>,
    reload: Reload,
}

/// What is shown.
struct Shared {
    sources: Sources,
    handovers: Vec<Vec<Arc<dyn Level>>>,
    mempools: Vec<(String, Arc<dyn Level>)>,
    started: SystemTime,
    view: Mutex<View>,
    /// From the end of a health check to its verdict on all workers.
    health_delays: Mutex<Histogram>,
}

impl Shared {
    /// The present. Nobody holds the lock for longer than a few loads.
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health_delays(&self) -> MutexGuard<'_, Histogram> {
        self.health_delays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The management loop's end.
pub(crate) struct Metrics {
    shared: Arc<Shared>,
    /// Used by jobs, one after the other.
    headroom: Arc<Mutex<Headroom>>,
    server: Option<Server>,
}

impl Metrics {
    /// The metrics, and the endpoint if `setup` has a socket for it.
    pub(crate) fn new(
        setup: Setup,
        sources: Sources,
        config: &Config,
        snapshot: &Arc<Snapshot>,
    ) -> Self {
        let now = SystemTime::now();
        let shared = Shared {
            sources,
            handovers: setup.handovers,
            mempools: setup.mempools,
            started: now,
            view: Mutex::new(View {
                snapshot: Arc::clone(snapshot),
                ports: Arc::default(),
                health: Arc::default(),
                reload: Reload {
                    successful: true,
                    succeeded: now,
                },
            }),
            health_delays: Mutex::default(),
        };
        let mut headroom = Headroom::default();
        headroom.refresh(config, snapshot);
        let mut metrics = Self {
            shared: Arc::new(shared),
            headroom: Arc::new(Mutex::new(headroom)),
            server: None,
        };
        metrics.serve(setup.listener);
        metrics
    }

    /// Whether anybody can see the metrics.
    pub(crate) fn is_served(&self) -> bool {
        self.server.is_some()
    }

    /// The socket for another address than the one served, or `None` where a
    /// configuration asks for no other.
    ///
    /// # Errors
    /// One line that says what is wrong with the address.
    pub(crate) fn listen_anew(&self, config: &Config) -> Result<Option<TcpListener>, String> {
        let served = self.server.as_ref().map(Server::addr);
        match config.metrics.listen {
            Some(addr) if served != Some(addr) => listen(addr).map(Some),
            _ => Ok(None),
        }
    }

    /// A configuration is in force; `listener` is what
    /// [`Metrics::listen_anew`] gave for it.
    pub(crate) fn configured(
        &mut self,
        jobs: &Jobs,
        config: Arc<Config>,
        snapshot: &Arc<Snapshot>,
        listener: Option<TcpListener>,
    ) {
        let listen = config.metrics.listen;
        self.published(jobs, config, snapshot);
        if listener.is_some() || listen.is_none() {
            self.serve(listener);
        }
    }

    /// There is a new snapshot.
    pub(crate) fn published(&self, jobs: &Jobs, config: Arc<Config>, snapshot: &Arc<Snapshot>) {
        self.shared.view().snapshot = Arc::clone(snapshot);
        let (headroom, snapshot) = (Arc::clone(&self.headroom), Arc::clone(snapshot));
        jobs.run(move || locked(&headroom).refresh(&config, &snapshot));
    }

    /// These servers are checked.
    pub(crate) fn checked(&self, rows: Vec<HealthRow>) {
        self.shared.view().health = rows.into();
    }

    /// All workers know of a server's verdict, so long after the check.
    pub(crate) fn health_in_force(&self, delay: Duration) {
        self.shared.health_delays().note(delay);
    }

    /// What came of a reload.
    pub(crate) fn reloaded(&self, successful: bool) {
        let reload = &mut self.shared.view().reload;
        reload.successful = successful;
        if successful {
            reload.succeeded = SystemTime::now();
        }
    }

    /// What each worker says about the sets of the newest snapshot.
    pub(crate) fn note_ports(&self, jobs: &Jobs, by_worker: Arc<Vec<Vec<SetUse>>>, now: Instant) {
        let (headroom, shared) = (Arc::clone(&self.headroom), Arc::clone(&self.shared));
        jobs.run(move || {
            let ports = locked(&headroom).note(&by_worker, now).into();
            shared.view().ports = ports;
        });
    }

    fn serve(&mut self, listener: Option<TcpListener>) {
        self.server = None;
        let Some(listener) = listener else { return };
        // A slow client is not to keep ports and memory pools from their end.
        let shared = Arc::downgrade(&self.shared);
        let source = Arc::new(move || shared.upgrade().map(|shared| exposition::write(&shared)));
        let started: io::Result<Server> = Server::start(listener, Limits::DEFAULT, source);
        match started {
            Ok(server) => self.server = Some(server),
            Err(error) => log::error!("metrics: not served: {error}"),
        }
    }
}

/// Jobs come one after the other; nobody waits here.
fn locked(headroom: &Mutex<Headroom>) -> MutexGuard<'_, Headroom> {
    headroom.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1000.0
}
