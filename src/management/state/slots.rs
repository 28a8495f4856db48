//! A configuration into the slots: what stays keeps its slot, what is new gets
//! a free one, what is gone is marked as removed.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::sets::SetKey;
use super::{ServerSlot, ServiceKey, ServiceSlot, State, locals};
use crate::config::{self, AdminState, AllDown, Config};
use crate::health::FULL_SHARE;
use crate::ids::{ServerIx, ServiceIx};
use crate::service::schedule::{Candidate, Plan};
use crate::service::snapshot::{KernelPort, Server, ServerState, Service};

impl State {
    pub(super) fn apply_ports(&mut self, config: &Config) {
        let mut changed = false;
        for (info, port) in self.ports.iter_mut().zip(&config.ports) {
            changed |= info.addresses != port.addresses || info.gateway != port.gateway;
            info.kernel = port.kernel.as_ref().map(|kernel| KernelPort {
                rate: kernel.rate,
                addresses: kernel.addresses.clone(),
            });
            info.addresses.clone_from(&port.addresses);
            info.gateway = port.gateway;
            info.rpf = port.rpf;
        }
        let routes = config.forwarding();
        if changed || routes != self.routes {
            self.routes = routes;
            self.route_generation += 1;
        }
    }

    pub(super) fn apply_services(&mut self, config: &Config) {
        let mut kept = HashSet::with_capacity(config.services.len());
        let old = Arc::clone(&self.config);
        let unchanged = Unchanged::new(&old, config);
        for service in &config.services {
            let id = self.service_slot((service.vip, service.protocol));
            kept.insert(id);
            if unchanged.holds(service) {
                continue;
            }
            self.apply_servers(id, service, locals(config, service));
            let slot = self.services[id.ix()].as_mut();
            // The slot was just found or made.
            let Some(slot) = slot else { continue };
            let health = service.health.as_ref();
            slot.use_all = health.is_some_and(|health| health.all_down == AllDown::UseAll);
            let plan = match &slot.service {
                Some(old) if old.plan.kind() == service.scheduler => old.plan.clone(),
                _ => Plan::build_keyed(service.scheduler, &slot.candidates),
            };
            let timeouts = slot.service.as_ref().map(|old| old.timeouts);
            if timeouts.is_some_and(|old| old != service.timeouts) {
                self.timeout_generation += 1;
            }
            slot.service = Some(Service {
                name: service.name.clone(),
                vip: *service.vip.ip(),
                port: service.vip.port(),
                protocol: service.protocol.number(),
                plan,
                timeouts: service.timeouts,
                unknown_flow: service.unknown_flow,
                on_expire: service.on_expire,
                syn_retry_ms: service.syn_retry_ms,
                syn_retry_max_ms: service.syn_retry_max_ms,
                syn_attempts: service.syn_attempts,
                fail_after: service.fail_after,
                one_answer: service.one_answer,
            });
            self.plan(id);
        }
        for index in 0..self.services.len() {
            let id = ServiceIx(index as u32);
            if !kept.contains(&id)
                && let Some(slot) = &mut self.services[index]
            {
                slot.service = None;
                let members = std::mem::take(&mut slot.members);
                members
                    .into_iter()
                    .for_each(|server| self.remove_server(server));
            }
        }
    }

    /// The slot of a service, the one it had or a free one.
    fn service_slot(&mut self, key: ServiceKey) -> ServiceIx {
        if let Some(&known) = self.service_of.get(&key) {
            return known;
        }
        let id = self.free_services.pop_front().unwrap_or_else(|| {
            self.services.push(None);
            ServiceIx(self.services.len() as u32 - 1)
        });
        self.services[id.ix()] = Some(ServiceSlot {
            key,
            service: None,
            candidates: Vec::new(),
            members: Vec::new(),
            servers: 0,
            use_all: false,
            ignores_health: false,
        });
        self.service_of.insert(key, id);
        id
    }

    /// Gives the service the servers it is configured to have.
    fn apply_servers(
        &mut self,
        service_ix: ServiceIx,
        service: &config::Service,
        pool: &[Ipv4Addr],
    ) {
        let mut members = Vec::with_capacity(service.servers.len());
        for server in &service.servers {
            let acquired = pool.iter().filter_map(|&local| {
                let (server, protocol) = (server.address, service.protocol.number());
                Some((
                    local,
                    self.sets.acquire(SetKey {
                        local,
                        server,
                        protocol,
                    })?,
                ))
            });
            let locals: Box<[_]> = acquired.collect();
            let known = self.server_of.get(&(service_ix, server.address)).copied();
            let id = known.unwrap_or_else(|| self.new_server(service_ix, server));
            let is_new = known.is_none_or(|known| self.live(known).is_none());
            self.begin_health(id, service.health.as_ref(), is_new);
            if let Some(slot) = &mut self.servers[id.ix()] {
                let former = std::mem::replace(&mut slot.server.locals, locals);
                if !slot.is_removed() {
                    former.iter().for_each(|&(_, set)| self.sets.release(set));
                }
                slot.server.name.clone_from(&server.name);
                slot.server.weight = server.weight;
                slot.configured = server.state;
            }
            members.push(id);
        }
        if let Some(slot) = &mut self.services[service_ix.ix()] {
            let former = std::mem::replace(&mut slot.members, members);
            let kept: HashSet<ServerIx> = slot.members.iter().copied().collect();
            for server in former.into_iter().filter(|server| !kept.contains(server)) {
                self.remove_server(server);
            }
        }
    }

    fn new_server(&mut self, service: ServiceIx, server: &config::Server) -> ServerIx {
        let id = self.free_servers.pop_front().unwrap_or_else(|| {
            self.servers.push(None);
            ServerIx(self.servers.len() as u32 - 1)
        });
        self.servers[id.ix()] = Some(ServerSlot {
            server: Server {
                name: server.name.clone(),
                service,
                addr: *server.address.ip(),
                port: server.address.port(),
                weight: server.weight,
                state: ServerState::Up,
                locals: Box::default(),
            },
            configured: server.state,
            imposed: None,
            share: FULL_SHARE,
        });
        self.server_of.insert((service, server.address), id);
        if let Some(slot) = &mut self.services[service.ix()] {
            slot.servers += 1;
        }
        id
    }

    /// What is imposed on a server until its checks say something: if it is new
    /// to the configuration, what its service wants; without checks, nothing.
    fn begin_health(&mut self, id: ServerIx, health: Option<&config::Health>, is_new: bool) {
        let Some(slot) = &mut self.servers[id.ix()] else {
            return;
        };
        let starts_down = health.is_some_and(|health| is_new && !health.starts_up);
        if starts_down {
            slot.imposed = Some(AdminState::Down);
        } else if health.is_none() {
            (slot.imposed, slot.share) = (None, FULL_SHARE);
        }
        if is_new {
            // The workers may know failed SYNs of what was in the slot.
            self.fresh.push(id);
        }
    }

    fn remove_server(&mut self, id: ServerIx) {
        let Some(slot) = &mut self.servers[id.ix()] else {
            return;
        };
        self.losses += u64::from(slot.server.state.keeps_connections());
        slot.server.state = ServerState::Removed;
        (slot.imposed, slot.share) = (None, FULL_SHARE);
        // Its connections' ports stay in the sets until these come back.
        for (_, set) in std::mem::take(&mut slot.server.locals) {
            self.sets.release(set);
        }
    }

    /// Brings a server's state up to date with what is wanted of it.
    fn set_state(&mut self, id: ServerIx, ignores_health: bool) {
        if let Some(slot) = &mut self.servers[id.ix()] {
            let wanted = slot.wanted(ignores_health);
            let lost = slot.server.state.keeps_connections() && !wanted.keeps_connections();
            self.losses += u64::from(lost);
            slot.server.state = wanted;
        }
    }

    /// Brings a service's servers up to date, and makes its plan anew if those
    /// that can be used differ from those it is of.
    pub(super) fn plan(&mut self, id: ServiceIx) {
        let Some(slot) = &self.services[id.ix()] else {
            return;
        };
        let members = slot.members.clone();
        let any_usable = |ignores_health: bool| {
            let mut slots = members
                .iter()
                .filter_map(|ix| self.servers[ix.ix()].as_ref());
            slots.any(|slot| slot.is_usable(ignores_health))
        };
        let ignores_health = slot.use_all && !any_usable(false) && any_usable(true);
        for &server in &members {
            self.set_state(server, ignores_health);
        }
        let usable: Vec<(ServerIx, &ServerSlot)> = members
            .iter()
            .filter_map(|&ix| Some((ix, self.servers[ix.ix()].as_ref()?)))
            .filter(|(_, slot)| slot.server.state == ServerState::Up)
            .collect();
        let growing = usable.iter().any(|(_, slot)| slot.share < FULL_SHARE);
        let candidates: Vec<Candidate> = usable
            .into_iter()
            .map(|(server, slot)| Candidate {
                server,
                weight: slot.server.weight * if growing { slot.share } else { 1 },
                key: u64::from(u32::from(slot.server.addr)) << 16 | u64::from(slot.server.port),
            })
            .collect();
        let Some(slot) = &mut self.services[id.ix()] else {
            return;
        };
        slot.ignores_health = ignores_health;
        if let Some(service) = &mut slot.service
            && candidates != slot.candidates
        {
            service.plan = Plan::build_keyed(service.plan.kind(), &candidates);
            slot.candidates = candidates;
        }
    }
}

/// Which services are as they were, with all that they have of a configuration.
struct Unchanged<'a> {
    services: HashMap<ServiceKey, &'a config::Service>,
    pools: HashSet<&'a str>,
}

impl<'a> Unchanged<'a> {
    fn new(old: &'a Config, new: &'a Config) -> Self {
        let services = old.services.iter();
        let old_pools: HashSet<&config::Pool> = old.pools.iter().collect();
        let pools = new.pools.iter().filter(|pool| old_pools.contains(pool));
        Self {
            services: services
                .map(|service| ((service.vip, service.protocol), service))
                .collect(),
            pools: pools.map(|pool| pool.name.as_str()).collect(),
        }
    }

    fn holds(&self, service: &config::Service) -> bool {
        let old = self.services.get(&(service.vip, service.protocol));
        old.is_some_and(|old| *old == service) && self.pools.contains(service.pool.as_str())
    }
}
