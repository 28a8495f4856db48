//! The configuration truth of a running gateway: turns each [`Config`] into a
//! [`Snapshot`] for the workers, and decides when slots and port sets that are
//! out of the configuration can be used for something else.
//!
//! Owned by the management core. One change is under way at a time: the next
//! one is taken when every worker has answered the last.

pub(crate) mod restart;
mod sets;
mod slots;

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use ipnet::Ipv4Net;
use thiserror::Error;

use crate::config::{self, AdminState, Config};
use crate::ids::{ServerIx, ServiceIx, WorkerIx};
use crate::service::route::Routes;
use crate::service::schedule::Candidate;
use crate::service::snapshot::{Limits, Parts, PortInfo, Server, ServerState, Service, Snapshot};
use crate::snat::ports::{PortClasses, WorkerPorts};
use crate::snat::steering::Steering;
use crate::stats::WorkerStats;
use crate::worker::Room;
use crate::worker::message::Update;
use sets::{SetKey, Sets};

/// Port sets there is room for at least, per server slot: the usual pool has a
/// few local addresses.
const SETS_PER_SERVER: usize = 4;

/// Why a change was refused. Nothing of it was applied.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ApplyError {
    /// A worker has not answered the last change yet.
    #[error("the last change is not yet in force on every worker; try again in a moment")]
    Busy,
    /// The key can't change while running.
    #[error("{0}: differs from the running gateway's; needs a restart")]
    NeedsRestart(String),
    /// No free slot for a service.
    #[error(
        "service: {wanted} more need a slot and {free} are free, since removed ones keep theirs \
         while they have connections; wait, or raise runtime.max-services"
    )]
    NoServiceSlot {
        /// New services.
        wanted: usize,
        /// Slots they could have.
        free: usize,
    },
    /// No free slot for a server.
    #[error(
        "server: {wanted} more need a slot and {free} are free, since removed ones keep theirs \
         while they have connections; wait, or raise runtime.max-servers"
    )]
    NoServerSlot {
        /// New servers.
        wanted: usize,
        /// Slots they could have.
        free: usize,
    },
    /// No free id for a local-port set.
    #[error(
        "pool: {wanted} more pairs of local address and server are needed and there is room for \
         {free}; use fewer local addresses, or raise runtime.max-servers"
    )]
    NoSet {
        /// New sets.
        wanted: usize,
        /// Ids they could have.
        free: usize,
    },
}

/// What tells services apart.
pub type ServiceKey = (SocketAddrV4, config::Protocol);
type ServerKey = (ServiceIx, SocketAddrV4);

/// A service's slot.
#[derive(Debug)]
struct ServiceSlot {
    key: ServiceKey,
    /// `None` once the service is out of the configuration.
    service: Option<Service>,
    /// What its plan was made of.
    candidates: Vec<Candidate>,
    /// Its servers in configuration order.
    members: Vec<ServerIx>,
    /// Slots of its servers, removed ones included.
    servers: u32,
    /// Where no server would be usable, health checks are not listened to.
    use_all: bool,
    /// That is the case.
    ignores_health: bool,
}

/// A server's slot.
#[derive(Debug)]
struct ServerSlot {
    server: Server,
    /// What the configuration says.
    configured: AdminState,
    /// What its health checks say.
    imposed: Option<AdminState>,
    /// Of its weight, of [`crate::health::FULL_SHARE`].
    share: u32,
}

impl ServerSlot {
    fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.server.addr, self.server.port)
    }

    fn is_removed(&self) -> bool {
        self.server.state == ServerState::Removed
    }

    /// The state that the worse of configuration and imposed state gives, or
    /// the configuration alone.
    fn wanted(&self, ignores_health: bool) -> ServerState {
        let imposed = self.imposed.filter(|_| !ignores_health);
        match (self.configured, imposed) {
            (AdminState::Down, _) | (_, Some(AdminState::Down)) => ServerState::Down,
            (AdminState::Draining, _) | (_, Some(AdminState::Draining)) => ServerState::Draining,
            (AdminState::Up, _) => ServerState::Up,
        }
    }

    /// Whether it would get new connections.
    fn is_usable(&self, ignores_health: bool) -> bool {
        self.server.weight > 0 && self.wanted(ignores_health) == ServerState::Up
    }
}

/// The configuration in force and what is left of earlier ones.
pub struct State {
    config: Arc<Config>,
    ports: Vec<PortInfo>,
    steering: Arc<Steering>,
    worker_ports: Vec<Arc<WorkerPorts>>,
    services: Vec<Option<ServiceSlot>>,
    service_of: HashMap<ServiceKey, ServiceIx>,
    free_services: VecDeque<ServiceIx>,
    servers: Vec<Option<ServerSlot>>,
    server_of: HashMap<ServerKey, ServerIx>,
    free_servers: VecDeque<ServerIx>,
    sets: Sets,
    max_sets: usize,
    /// Workers that have not answered the last update.
    under_way: Vec<bool>,
    /// The snapshot holds something that is gone.
    stale: bool,
    /// What was imposed is not in the snapshot yet.
    unpublished: bool,
    /// Servers whose failed SYNs the workers are to forget with the next
    /// snapshot.
    fresh: Vec<ServerIx>,
    generation: u64,
    route_generation: u64,
    losses: u64,
    timeout_generation: u64,
    routes: Routes,
    snapshot: Arc<Snapshot>,
}

impl State {
    /// The state of a gateway that starts, and the first update of each worker,
    /// to be answered like every other.
    ///
    /// `ports` are the opened ports in configuration order; their addresses and
    /// gateways are taken from `config`. `seed` decides with which local ports
    /// the sets begin; let it be random.
    ///
    /// # Errors
    /// None that a validated configuration can cause.
    pub fn new(
        config: Config,
        ports: Vec<PortInfo>,
        steering: Arc<Steering>,
        workers: usize,
        seed: u64,
    ) -> Result<(Self, Vec<Update>), ApplyError> {
        let classes = PortClasses::new(Arc::clone(&steering), config.runtime.local_ports.clone());
        let classes = Arc::new(classes);
        let worker_ports = (0..workers)
            .map(|ix| Arc::new(WorkerPorts::new(Arc::clone(&classes), WorkerIx(ix as u8))))
            .collect();
        let mut empty = config.clone();
        empty.services.clear();
        let pairs: usize = config
            .services
            .iter()
            .map(|service| service.servers.len() * locals(&config, service).len())
            .sum();
        let max_sets = (config.runtime.max_servers as usize * SETS_PER_SERVER).max(pairs * 2);
        let snapshot = Snapshot::new(Parts {
            generation: 0,
            route_generation: 0,
            losses: 0,
            timeout_generation: 0,
            ports: Vec::new(),
            routes: Routes::default(),
            services: Vec::new(),
            servers: Vec::new(),
            steering: Arc::clone(&steering),
            limits: Limits::default(),
            locals: Vec::new(),
        });
        let mut state = Self {
            config: Arc::new(empty),
            ports,
            steering,
            worker_ports,
            services: Vec::new(),
            service_of: HashMap::new(),
            free_services: VecDeque::new(),
            servers: Vec::new(),
            server_of: HashMap::new(),
            free_servers: VecDeque::new(),
            sets: Sets::new(max_sets, seed),
            max_sets,
            under_way: vec![false; workers],
            stale: false,
            unpublished: false,
            fresh: Vec::new(),
            generation: 0,
            route_generation: 0,
            losses: 0,
            timeout_generation: 0,
            routes: Routes::default(),
            snapshot: Arc::new(snapshot),
        };
        let updates = state.apply(config)?;
        Ok((state, updates))
    }

    /// What workers need room for.
    pub fn room(&self) -> Room {
        Room {
            ports: self.ports.len(),
            services: self.config.runtime.max_services as usize,
            servers: self.config.runtime.max_servers as usize,
            sets: self.max_sets,
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same, to be kept.
    pub fn shared_config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    /// VIPs of services that are to be announced and have a usable server.
    pub fn announced(&self) -> BTreeSet<Ipv4Addr> {
        let announced = self
            .config
            .services
            .iter()
            .filter(|service| service.announce);
        announced
            .filter(|service| self.has_usable_server((service.vip, service.protocol)))
            .map(|service| *service.vip.ip())
            .collect()
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The keys of `config` that can't be put in force without a restart.
    pub fn needs_restart(&self, config: &Config) -> Vec<String> {
        restart::needed(&self.config, config)
    }

    /// Whether every worker has answered the last change.
    pub fn is_settled(&self) -> bool {
        !self.under_way.contains(&true)
    }

    /// Puts a configuration in force: one update per worker, in worker order.
    ///
    /// # Errors
    /// [`ApplyError`]; the old configuration then stays in force.
    pub fn apply(&mut self, config: Config) -> Result<Vec<Update>, ApplyError> {
        if !self.is_settled() {
            return Err(ApplyError::Busy);
        }
        if let Some(key) = self.needs_restart(&config).into_iter().next() {
            return Err(ApplyError::NeedsRestart(key));
        }
        self.check_room(&config)?;
        self.apply_ports(&config);
        self.apply_services(&config);
        self.config = Arc::new(config);
        Ok(self.publish())
    }

    /// The slot of a server of the configuration.
    pub fn server(&self, service: ServiceKey, server: SocketAddrV4) -> Option<ServerIx> {
        let service = *self.service_of.get(&service)?;
        let ix = *self.server_of.get(&(service, server))?;
        self.live(ix).map(|_| ix)
    }

    /// What is imposed on a server.
    pub fn imposed(&self, server: ServerIx) -> Option<AdminState> {
        self.live(server)?.imposed
    }

    /// Whether a service has a server that new connections can go to.
    pub fn has_usable_server(&self, service: ServiceKey) -> bool {
        self.service_slot_of(service).is_some_and(|slot| {
            let mut members = slot.members.iter();
            members.any(|&server| {
                self.live(server)
                    .is_some_and(|server| server.is_usable(slot.ignores_health))
            })
        })
    }

    /// Whether a service's checks are not listened to, since no server would be
    /// usable if they were.
    pub fn ignores_health(&self, service: ServiceKey) -> bool {
        self.service_slot_of(service)
            .is_some_and(|slot| slot.ignores_health)
    }

    fn service_slot_of(&self, key: ServiceKey) -> Option<&ServiceSlot> {
        let ix = self.service_of.get(&key)?;
        self.services[ix.ix()].as_ref()
    }

    fn live(&self, server: ServerIx) -> Option<&ServerSlot> {
        let slot = self.servers.get(server.ix())?.as_ref();
        slot.filter(|slot| !slot.is_removed())
    }

    /// Imposes a state on a server, or takes the imposed one back, and the share
    /// of its weight ([`crate::health::FULL_SHARE`] for all of it). The worse of this and the
    /// configured state holds. It lasts as long as the server is in the
    /// configuration, and goes to the workers with the next update. False where
    /// the slot holds no server of the configuration.
    pub fn impose(&mut self, ix: ServerIx, imposed: Option<AdminState>, share: u32) -> bool {
        let slot = self.servers.get_mut(ix.ix()).and_then(Option::as_mut);
        let Some(slot) = slot.filter(|slot| !slot.is_removed()) else {
            return false;
        };
        if (slot.imposed, slot.share) == (imposed, share) {
            return true;
        }
        if slot.imposed.is_some() && imposed.is_none() {
            self.fresh.push(ix);
        }
        (slot.imposed, slot.share) = (imposed, share);
        let service = slot.server.service;
        self.plan(service);
        self.unpublished = true;
        true
    }

    /// Puts in force what was imposed since the last update; none where nothing
    /// was, or where a worker has not answered the last one yet.
    pub fn refresh(&mut self) -> Vec<Update> {
        if self.unpublished && self.is_settled() {
            self.publish()
        } else {
            Vec::new()
        }
    }

    /// A worker's answer to an update. What came back with it can be freed.
    pub fn applied(&mut self, worker: WorkerIx, update: &Update) {
        for (set, _) in &update.returned_sets {
            self.stale |= self.sets.returned(worker, *set);
        }
        self.under_way[usize::from(worker.0)] = false;
    }

    /// Frees the slots of removed servers that no worker has a connection of,
    /// and asks for port sets that nobody uses. Updates as of [`State::apply`],
    /// or none where there is nothing to do. To be called every few seconds.
    pub fn collect(&mut self, stats: &[Arc<WorkerStats>]) -> Vec<Update> {
        // With all answers in, no worker schedules to a removed server any more.
        if !self.is_settled() {
            return Vec::new();
        }
        for index in 0..self.servers.len() {
            let id = ServerIx(index as u32);
            let removed = self.servers[index]
                .as_ref()
                .is_some_and(ServerSlot::is_removed);
            if removed && stats.iter().all(|stats| is_idle(stats, id)) {
                // The next one in the slot is not to inherit them.
                stats.iter().for_each(|stats| stats.server(id).clear());
                self.free_server(id);
                self.stale = true;
            }
        }
        for index in 0..self.services.len() {
            let gone = |slot: &ServiceSlot| slot.service.is_none() && slot.servers == 0;
            if let Some(slot) = self.services[index].take_if(|slot| gone(slot)) {
                let id = ServiceIx(index as u32);
                stats.iter().for_each(|stats| stats.service(id).clear());
                self.service_of.remove(&slot.key);
                self.free_services.push_back(id);
            }
        }
        if self.stale {
            self.publish()
        } else if self.sets.any_unwanted() {
            self.updates()
        } else {
            Vec::new()
        }
    }

    fn free_server(&mut self, id: ServerIx) {
        let Some(slot) = self.servers[id.ix()].take() else {
            return;
        };
        self.server_of
            .remove(&(slot.server.service, slot.address()));
        self.free_servers.push_back(id);
        if let Some(service) = &mut self.services[slot.server.service.ix()] {
            service.servers -= 1;
        }
    }

    /// Whether everything new finds a slot.
    fn check_room(&self, config: &Config) -> Result<(), ApplyError> {
        let (mut services, mut servers) = (0, 0);
        let mut new_sets = HashSet::new();
        for service in &config.services {
            let known = self.service_of.get(&(service.vip, service.protocol));
            services += usize::from(known.is_none());
            for server in &service.servers {
                let known = known.and_then(|&ix| self.server_of.get(&(ix, server.address)));
                servers += usize::from(known.is_none());
                let keys = locals(config, service).iter().map(|&local| SetKey {
                    local,
                    server: server.address,
                    protocol: service.protocol.number(),
                });
                new_sets.extend(keys.filter(|key| !self.sets.contains(key)));
            }
        }
        let free = config.runtime.max_services as usize - self.service_of.len();
        if services > free {
            return Err(ApplyError::NoServiceSlot {
                wanted: services,
                free,
            });
        }
        let free = config.runtime.max_servers as usize - self.server_of.len();
        if servers > free {
            return Err(ApplyError::NoServerSlot {
                wanted: servers,
                free,
            });
        }
        let (wanted, free) = (new_sets.len(), self.sets.room());
        if wanted > free {
            return Err(ApplyError::NoSet { wanted, free });
        }
        Ok(())
    }

    /// A new snapshot of everything, and the updates that bring it.
    fn publish(&mut self) -> Vec<Update> {
        self.generation += 1;
        self.stale = false;
        self.unpublished = false;
        let own: HashSet<_> = self
            .ports
            .iter()
            .flat_map(|port| &port.addresses)
            .map(Ipv4Net::addr)
            .collect();
        // A local address out of the configuration stays ours while it has
        // connections, unless it is a port's address now.
        let configured = self
            .config
            .pools
            .iter()
            .flat_map(|pool| pool.addresses.iter().copied());
        let lingering = self.sets.lingering().filter(|local| !own.contains(local));
        self.snapshot = Arc::new(Snapshot::new(Parts {
            generation: self.generation,
            route_generation: self.route_generation,
            losses: self.losses,
            timeout_generation: self.timeout_generation,
            ports: self.ports.clone(),
            routes: self.routes.clone(),
            services: self
                .services
                .iter()
                .map(|slot| slot.as_ref().and_then(|slot| slot.service.clone()))
                .collect(),
            servers: self
                .servers
                .iter()
                .map(|slot| slot.as_ref().map(|slot| slot.server.clone()))
                .collect(),
            steering: Arc::clone(&self.steering),
            limits: self.config.runtime.limits(),
            locals: configured.chain(lingering).collect(),
        }));
        self.updates()
    }

    /// The newest snapshot for every worker, with the port sets it is to get
    /// and to give back.
    fn updates(&mut self) -> Vec<Update> {
        self.under_way.fill(true);
        let fresh = std::mem::take(&mut self.fresh);
        let mut updates = Vec::with_capacity(self.worker_ports.len());
        for (worker, ports) in (0..).map(WorkerIx).zip(&self.worker_ports) {
            let (new_sets, unwanted_sets) = self.sets.exchange(worker, ports);
            updates.push(Update {
                snapshot: Arc::clone(&self.snapshot),
                new_sets,
                returned_sets: Vec::with_capacity(unwanted_sets.len()),
                unwanted_sets,
                fresh: fresh.clone(),
            });
        }
        updates
    }
}

/// Whether a worker has no connection of a server. `active` is read on both
/// sides of `inactive`, lest a connection that moves from the one to the other
/// is seen in neither.
fn is_idle(stats: &WorkerStats, server: ServerIx) -> bool {
    let counters = stats.server(server);
    counters.active.get() == 0 && counters.inactive.get() == 0 && counters.active.get() == 0
}

/// The local addresses of a service's pool.
fn locals<'a>(config: &'a Config, service: &config::Service) -> &'a [std::net::Ipv4Addr] {
    let pool = config.pools.iter().find(|pool| pool.name == service.pool);
    pool.map_or(&[], |pool| &pool.addresses)
}

#[cfg(test)]
mod tests;
