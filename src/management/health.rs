//! Health checks as the management loop sees them: which there are, what they
//! say, and what that means for the servers. Owns the checker; the state of the
//! servers is in `management::state`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::Management;
use super::notices::{NoticeLog, server_title};
use crate::api;
use crate::config::{self, AdminState, Config, OnDown, Protocol, Way};
use crate::health::spec::Check;
use crate::health::{
    Change, CheckId, Checker, FULL_SHARE, Ramp, Record, Target, Totals, Verdict, Via,
};
use crate::ids::ServerIx;
use crate::management::state::{ServiceKey, State};
use crate::metrics::HealthRow;
use crate::service::route::Routes;

/// A server, whatever its name.
type Key = (ServiceKey, SocketAddrV4);

/// A server that is checked.
struct Server {
    key: Key,
    ix: ServerIx,
    target: Arc<Target>,
    record: Arc<Record>,
    verdict: Verdict,
    on_down: OnDown,
    slow_start: Duration,
    ramp: Option<Ramp>,
}

impl Server {
    /// What its verdict means for it.
    fn imposed(&self) -> Option<AdminState> {
        match (self.verdict, self.on_down) {
            (Verdict::Up, _) => None,
            (Verdict::Down { silent: false }, OnDown::Auto) | (_, OnDown::Keep) => {
                Some(AdminState::Draining)
            }
            (_, OnDown::Auto | OnDown::Reset) => Some(AdminState::Down),
        }
    }

    fn impose(&self, state: &mut State, now: Instant) {
        let share = self.ramp.map_or(FULL_SHARE, |ramp| ramp.share(now));
        self.record.set_share(share);
        state.impose(self.ix, self.imposed(), share);
    }
}

/// Starts the thread of the checks.
pub type StartChecker = Box<dyn FnMut() -> io::Result<(Checker, Receiver<Change>)> + Send>;

/// All checks.
pub(super) struct Health {
    start: StartChecker,
    /// Runs while there are checks.
    checker: Option<Checker>,
    /// What it says.
    changes: Option<Receiver<Change>>,
    servers: BTreeMap<CheckId, Server>,
    ids: HashMap<Key, CheckId>,
    /// What the checks of a service share.
    services: HashMap<ServiceKey, (Arc<Check>, Arc<Totals>)>,
    /// Counts checks.
    next_id: u64,
    /// Servers in their slow start, and when the next one's share grows.
    ramping: BTreeSet<CheckId>,
    next_step: Option<Instant>,
    /// When the first check ended whose verdict is not on its way to the workers.
    decided: Option<Instant>,
}

impl Health {
    /// None yet.
    pub(super) fn new(start: StartChecker) -> Self {
        Self {
            start,
            checker: None,
            changes: None,
            servers: BTreeMap::new(),
            ids: HashMap::new(),
            services: HashMap::new(),
            next_id: 0,
            ramping: BTreeSet::new(),
            next_step: None,
            decided: None,
        }
    }

    /// Takes over the configuration that has just been put in force. What stays
    /// keeps its verdict. The rows of the metrics.
    fn configure(&mut self, state: &State, now: Instant) -> Vec<HealthRow> {
        let mut rows = Vec::new();
        let (config, routes) = (state.config(), &state.snapshot().routes);
        let mut gone = std::mem::take(&mut self.ids);
        let mut services = std::mem::take(&mut self.services);
        for service in &config.services {
            let Some(health) = &service.health else {
                continue;
            };
            let service_key = (service.vip, service.protocol);
            let shared = match services.remove(&service_key) {
                Some((check, totals)) if check.spec == health.spec => (check, totals),
                known => {
                    let totals = known.map(|(_, totals)| totals).unwrap_or_default();
                    (Arc::new(Check::new(health.spec.clone())), totals)
                }
            };
            for server in &service.servers {
                let key = (service_key, server.address);
                let Some(ix) = state.server(service_key, server.address) else {
                    continue;
                };
                let address = health.asked(server);
                let target = Arc::new(Target {
                    address,
                    via: via(config, routes, health, *address.ip()),
                    check: Arc::clone(&shared.0),
                });
                let id = match gone.remove(&key) {
                    Some(id) => id,
                    None => self.begin(key, ix, &target, &shared.1, state, now),
                };
                self.ids.insert(key, id);
                let Some(known) = self.servers.get_mut(&id) else {
                    continue;
                };
                let is_new = known.target != target;
                known.target = target;
                (known.ix, known.on_down, known.slow_start) =
                    (ix, health.on_down, health.slow_start);
                rows.push(HealthRow {
                    service: service.name.clone(),
                    server: server.name.clone(),
                    record: Arc::clone(&known.record),
                });
                if is_new {
                    self.put(id);
                }
            }
            self.services.insert(service_key, shared);
        }
        for id in gone.into_values() {
            self.servers.remove(&id);
            self.ramping.remove(&id);
            if let Some(checker) = &self.checker {
                checker.drop_check(id);
            }
        }
        self.run();
        rows
    }

    /// A server that was not checked before.
    fn begin(
        &mut self,
        key: Key,
        ix: ServerIx,
        target: &Arc<Target>,
        totals: &Arc<Totals>,
        state: &State,
        now: Instant,
    ) -> CheckId {
        let id = CheckId(self.next_id);
        self.next_id += 1;
        let verdict = match state.imposed(ix) {
            None => Verdict::Up,
            Some(_) => Verdict::Down { silent: true },
        };
        let server = Server {
            key,
            ix,
            target: Arc::clone(target),
            record: Arc::new(Record::new(verdict, now, Arc::clone(totals))),
            verdict,
            on_down: OnDown::Reset,
            slow_start: Duration::ZERO,
            ramp: None,
        };
        self.servers.insert(id, server);
        self.put(id);
        id
    }

    fn put(&self, id: CheckId) {
        if let (Some(checker), Some(server)) = (&self.checker, self.servers.get(&id)) {
            let (target, record) = (Arc::clone(&server.target), Arc::clone(&server.record));
            checker.put(id, target, record, server.verdict);
        }
    }

    /// Has the checker run exactly while there are checks.
    fn run(&mut self) {
        if self.servers.is_empty() {
            (self.checker, self.changes) = (None, None);
        } else if self.checker.is_none() {
            match (self.start)() {
                Ok((checker, changes)) => {
                    (self.checker, self.changes) = (Some(checker), Some(changes));
                    self.servers.keys().for_each(|&id| self.put(id));
                }
                Err(error) => log::error!("health checks are not made: {error}"),
            }
        }
        if let Some(checker) = &self.checker {
            checker.wake();
        }
    }

    /// Takes what the checker says, and what time brings.
    fn take(&mut self, state: &mut State, notices: &mut NoticeLog, now: Instant) {
        while let Some(changes) = &self.changes {
            match changes.try_recv() {
                Ok(change) => self.changed(change, state, notices, now),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    log::error!("health checks ended unexpectedly, and begin anew");
                    (self.checker, self.changes) = (None, None);
                    self.run();
                    break;
                }
            }
        }
        if self.next_step.is_some_and(|at| now >= at) {
            for id in &self.ramping {
                if let Some(server) = self.servers.get(id) {
                    server.impose(state, now);
                }
            }
            self.plan_steps(now);
        }
    }

    /// Forgets slow starts that are over, and makes an appointment with the next.
    fn plan_steps(&mut self, now: Instant) {
        let servers = &mut self.servers;
        let mut next_step = None;
        self.ramping.retain(|id| {
            let Some(server) = servers.get_mut(id) else {
                return false;
            };
            let step = server.ramp.and_then(|ramp| ramp.next_step(now));
            if step.is_none() {
                server.ramp = None;
            }
            next_step = [next_step, step].into_iter().flatten().min();
            step.is_some()
        });
        self.next_step = next_step;
    }

    fn changed(
        &mut self,
        change: Change,
        state: &mut State,
        notices: &mut NoticeLog,
        now: Instant,
    ) {
        let Some(server) = self.servers.get_mut(&change.id) else {
            return;
        };
        let was_up = server.verdict.is_up();
        server.verdict = change.verdict;
        server.ramp = match change.verdict.is_up() {
            true => Ramp::new(now, server.slow_start),
            false => None,
        };
        let service = server.key.0;
        let ignored = state.ignores_health(service);
        server.impose(state, now);
        self.decided.get_or_insert(change.at);
        let title = server_title(state.snapshot(), server.ix);
        let reason = change.reason.unwrap_or_default();
        let goes_on = match server.imposed() {
            Some(AdminState::Draining) => "; its connections go on",
            _ => "",
        };
        let line = match (was_up, change.verdict.is_up()) {
            (_, true) => format!("{title} passes its health checks"),
            (true, false) => format!("{title} fails its health checks: {reason}{goes_on}"),
            (false, false) => format!("{title} does not answer its health checks: {reason}"),
        };
        notices.warn(line, now);
        if server.ramp.is_some() {
            self.ramping.insert(change.id);
        }
        self.plan_steps(now);
        if state.ignores_health(service) != ignored {
            let (vip, protocol) = service;
            let line = match ignored {
                true => "a server passes its health checks again; only such are used",
                false => "all servers fail their health checks; all are used all the same",
            };
            notices.warn(format!("service {vip} {}: {line}", protocol.name()), now);
        }
    }

    /// When the first check ended whose verdict is in the newest snapshot for
    /// the first time.
    pub(super) fn decided(&mut self) -> Option<Instant> {
        self.decided.take()
    }

    /// Adds to a listing what the checks say.
    pub(super) fn show(&self, services: &mut api::Services, state: &State, now: Instant) {
        for service in &mut services.services {
            let protocol = match service.protocol.as_str() {
                "udp" => Protocol::Udp,
                _ => Protocol::Tcp,
            };
            let key = (service.vip, protocol);
            service.health_ignored = state.ignores_health(key);
            for server in &mut service.servers {
                let id = self.ids.get(&(key, server.address));
                server.health = id.and_then(|id| self.servers.get(id)).map(|s| s.row(now));
            }
        }
    }
}

impl Server {
    fn row(&self, now: Instant) -> api::Health {
        let facts = self.record.facts();
        let ago = |at: Instant| now.saturating_duration_since(at).as_millis() as u64;
        api::Health {
            check: self.target.check.spec.ask.name().into(),
            address: self.target.address,
            up: self.verdict.is_up(),
            since_ms: ago(facts.since),
            failed_ms: facts.last_failure.as_ref().map(|(at, _)| ago(*at)),
            reason: facts.last_failure.map(|(_, reason)| reason),
            successes: facts.successes,
            failures: facts.failures,
            unmade: facts.unmade,
            took_us: facts.took.map(|took| took.as_micros() as u64),
            share: (self.record.share() * 100 / FULL_SHARE) as u8,
        }
    }
}

/// How a check leaves the gateway. With validated configurations there is an
/// interface where one is wanted.
fn via(config: &Config, routes: &Routes, health: &config::Health, to: Ipv4Addr) -> Via {
    let wanted = routes.lookup(to).filter(|_| health.way == Way::Port);
    let found = wanted.and_then(|hop| {
        let port = config.ports.get(hop.port.ix())?;
        let mut addresses = port.addresses.iter();
        let near = addresses.find(|net| net.contains(&hop.addr));
        Some(Via::Interface {
            name: port.kernel.as_ref()?.name.clone(),
            source: near.or(port.addresses.first())?.addr(),
            router: (hop.addr != to).then_some(hop.addr),
        })
    });
    found.unwrap_or(Via::Host)
}

impl Management {
    /// A configuration is in force.
    pub(super) fn configure_health(&mut self, now: Instant) {
        let rows = self.health.configure(&self.state, now);
        self.metrics.checked(rows);
        // Their connections may be wanted otherwise now.
        for server in self.health.servers.values() {
            server.impose(&mut self.state, now);
        }
    }

    /// What the health checks say goes into the state, and from there to the
    /// workers as soon as they have taken what is under way.
    pub(super) fn take_health(&mut self, now: Instant) {
        self.health.take(&mut self.state, &mut self.notices, now);
    }
}
