//! A few changes spelled out, and random sequences of configurations against
//! model workers that lend ports and count connections. Properties: what stays
//! in the configuration keeps its slot; a slot with connections keeps its
//! meaning; a worker is never given a set it holds, nor an id with ports in
//! use for another set; in the end everything can be used again.

mod health;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::health::FULL_SHARE;
use crate::ids::SetIx;
use crate::snat::ports::PortSet;
use crate::snat::steering::{Reta, SteeringMode};
use crate::snat::toeplitz::KEY_LEN;
use crate::wire::ethernet::MacAddr;

const WORKERS: usize = 2;

fn steering() -> Arc<Steering> {
    let reta = Reta::even(16, WORKERS as u8).expect("a table");
    let mut state = 1_u32;
    let key: [u8; KEY_LEN] = std::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    Arc::new(Steering::new(key, reta, SteeringMode::Software).expect("a strong key"))
}

/// Services by VIP octet, each with servers by octet, weight and state.
type Plainly = BTreeMap<u8, BTreeMap<u8, (u32, &'static str)>>;

fn config(services: &Plainly, pool: &str, extra: &str) -> Config {
    let mut text = format!(
        "[runtime]\nworkers = 2\nlocal-ports = \"1024-2047\"\nmax-services = 8\nmax-servers = 16\n\
         {extra}\n[[port]]\nname = \"net\"\ndevice = \"tap:fg0\"\naddresses = [\"10.0.0.1/16\"]\n\
         [[pool]]\nname = \"default\"\naddresses = [{pool}]\n"
    );
    for (vip, servers) in services {
        text.push_str(&format!(
            "[[service]]\nname = \"s{vip}\"\nvip = \"10.0.1.{vip}:80\"\n"
        ));
        for (server, (weight, state)) in servers {
            text.push_str(&format!(
                "[[service.server]]\naddress = \"10.0.2.{server}:80\"\nweight = {weight}\n\
                 state = \"{state}\"\n"
            ));
        }
    }
    Config::parse("test", &text)
        .unwrap_or_else(|problem| panic!("{problem}\n{text}"))
        .config
}

fn one(servers: &[u8]) -> Plainly {
    BTreeMap::from([(
        1,
        servers.iter().map(|&server| (server, (1, "up"))).collect(),
    )])
}

const POOL: &str = "\"10.0.3.1-10.0.3.2\"";

/// What a worker does with updates.
#[derive(Default)]
struct Model {
    sets: BTreeMap<SetIx, Box<PortSet>>,
    lent: Vec<(SetIx, SetKey, u16)>,
}

struct Bench {
    state: State,
    workers: Vec<Model>,
    /// Servers whose failed SYNs the workers were told to forget.
    fresh: Vec<ServerIx>,
    stats: Vec<Arc<WorkerStats>>,
}

impl Bench {
    fn new(config: Config) -> Self {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let ports = vec![PortInfo::opened("net", mac, 1_500)];
        let (state, updates) =
            State::new(config, ports, steering(), WORKERS, 7).expect("a valid configuration");
        let stats = (0..WORKERS)
            .map(|_| Arc::new(WorkerStats::new(1, 16, 8)))
            .collect();
        let workers = (0..WORKERS).map(|_| Model::default()).collect();
        let mut bench = Self {
            state,
            workers,
            fresh: Vec::new(),
            stats,
        };
        bench.answer(updates);
        bench
    }

    /// All workers take their updates, as `Worker::apply` does.
    fn answer(&mut self, updates: Vec<Update>) {
        for (ix, mut update) in updates.into_iter().enumerate() {
            self.fresh.clone_from(&update.fresh);
            let worker = &mut self.workers[ix];
            for (id, ports) in update.new_sets.drain(..) {
                assert!(
                    worker.sets.insert(id, ports).is_none(),
                    "set {id} given twice"
                );
            }
            for id in &update.unwanted_sets {
                let idle = worker.sets[id].used_count() == 0;
                if idle && let Some(ports) = worker.sets.remove(id) {
                    update.returned_sets.push((*id, ports));
                }
            }
            self.state.applied(WorkerIx(ix as u8), &update);
        }
        assert!(self.state.is_settled());
    }

    fn apply(&mut self, config: Config) {
        let updates = self.state.apply(config).expect("room for it");
        self.answer(updates);
    }

    fn collect(&mut self) -> bool {
        let updates = self.state.collect(&self.stats);
        let any = !updates.is_empty();
        self.answer(updates);
        any
    }

    fn slot_of(&self, vip: u8, server: u8) -> Option<ServerIx> {
        let snapshot = self.state.snapshot();
        let service = snapshot.service_at(Ipv4Addr::new(10, 0, 1, vip), 80, 6)?;
        let wanted = Ipv4Addr::new(10, 0, 2, server);
        let found = snapshot.servers.iter().position(|slot| {
            slot.as_ref()
                .is_some_and(|slot| slot.service == service && slot.addr == wanted)
        })?;
        Some(ServerIx(found as u32))
    }

    fn state_of(&self, vip: u8, server: u8) -> Option<ServerState> {
        let slot = self.slot_of(vip, server)?;
        self.state
            .snapshot()
            .server(slot)
            .map(|server| server.state)
    }

    /// A connection on `worker` to the server in this slot.
    fn connect(&mut self, worker: usize, slot: ServerIx) {
        let Some(server) = self.state.snapshot().server(slot) else {
            return;
        };
        let Some(&(_, id)) = server.locals.first() else {
            return;
        };
        let key = self.state.sets.key(id).expect("a set in use has a key");
        let worker_model = &mut self.workers[worker];
        let ports = worker_model
            .sets
            .get_mut(&id)
            .expect("the worker holds the set");
        let port = ports.allocate().expect("a free port").into_port();
        worker_model.lent.push((id, key, port));
        self.stats[worker].server(slot).active.add(1);
    }

    fn end_all(&mut self) {
        for (worker, stats) in self.workers.iter_mut().zip(&self.stats) {
            for (id, _, port) in worker.lent.drain(..) {
                let ports = worker
                    .sets
                    .get_mut(&id)
                    .expect("a set with lent ports is held");
                ports.release(port).expect("the port is lent");
            }
            for slot in 0..16 {
                stats.server(ServerIx(slot)).active.set(0);
            }
        }
    }

    /// Every server in the configuration has sets, held by every worker.
    fn check(&self) {
        let snapshot = self.state.snapshot();
        for server in snapshot.servers.iter().flatten() {
            assert_eq!(
                server.state == ServerState::Removed,
                server.locals.is_empty()
            );
            for (local, id) in &server.locals {
                let key = self.state.sets.key(*id).expect("a key");
                assert_eq!((key.local, *key.server.ip()), (*local, server.addr));
                assert!(
                    self.workers
                        .iter()
                        .all(|worker| worker.sets.contains_key(id))
                );
            }
        }
        for worker in &self.workers {
            for (id, key, _) in &worker.lent {
                assert_eq!(
                    self.state.sets.key(*id),
                    Some(*key),
                    "set {id} has another meaning"
                );
                assert!(
                    snapshot.address(key.local).is_some(),
                    "replies to {} get lost",
                    key.local
                );
            }
        }
    }
}

#[test]
fn a_removed_server_keeps_its_slot_until_its_connections_are_gone() {
    let mut bench = Bench::new(config(&one(&[1, 2]), POOL, ""));
    let slot = bench.slot_of(1, 2).expect("there");
    let losses = bench.state.snapshot().losses;
    bench.connect(1, slot);
    bench.stats[1].server(slot).connections.add(1);
    bench.apply(config(&one(&[1]), POOL, ""));
    assert_eq!(bench.state_of(1, 2), Some(ServerState::Removed));
    assert_eq!(bench.state.snapshot().losses, losses + 1);
    bench.collect();
    bench.apply(config(&one(&[1, 3]), POOL, ""));
    assert_ne!(
        bench.slot_of(1, 3),
        Some(slot),
        "the slot still has a connection"
    );
    bench.end_all();
    while bench.collect() {}
    assert_eq!(bench.slot_of(1, 2), None);
    bench.apply(config(&one(&[1, 3, 4]), POOL, ""));
    assert_eq!(bench.slot_of(1, 4), Some(slot), "the slot is free again");
    let counted = bench.stats.iter().map(|s| s.server(slot).connections.get());
    assert_eq!(counted.sum::<u64>(), 0, "its counters are the new one's");
}

#[test]
fn a_removed_server_that_comes_back_is_revived() {
    let mut bench = Bench::new(config(&one(&[1, 2]), POOL, ""));
    let slot = bench.slot_of(1, 2).expect("there");
    bench.connect(0, slot);
    bench.apply(config(&BTreeMap::new(), POOL, ""));
    bench.check();
    bench.apply(config(&one(&[2]), POOL, ""));
    assert_eq!(bench.slot_of(1, 2), Some(slot));
    assert_eq!(bench.state_of(1, 2), Some(ServerState::Up));
    bench.check();
}

#[test]
fn one_change_at_a_time() {
    let mut bench = Bench::new(config(&one(&[1]), POOL, ""));
    let updates = bench
        .state
        .apply(config(&one(&[2]), POOL, ""))
        .expect("room");
    assert_eq!(
        bench.state.apply(config(&one(&[3]), POOL, "")).err(),
        Some(ApplyError::Busy)
    );
    assert!(bench.state.collect(&bench.stats).is_empty());
    bench.answer(updates);
    bench.apply(config(&one(&[3]), POOL, ""));
}

#[test]
fn what_needs_a_restart_is_refused_by_name() {
    let mut bench = Bench::new(config(&one(&[1]), POOL, ""));
    let before = bench.state.config().clone();
    let refused = |bench: &mut Bench, config| {
        bench
            .state
            .apply(config)
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(
        refused(&mut bench, config(&one(&[1]), POOL, "connections = 5000")).as_deref(),
        Some("runtime.connections: differs from the running gateway's; needs a restart")
    );
    let mut moved = before.clone();
    moved.ports[0].mtu = 1_400;
    assert_eq!(
        refused(&mut bench, moved).as_deref(),
        Some("port[net].mtu: differs from the running gateway's; needs a restart")
    );
    assert_eq!(bench.state.config(), &before);
    bench.apply(config(&one(&[1]), POOL, "resets-per-second = 5"));
    assert_eq!(bench.state.snapshot().limits.resets_per_second, 5);
}

#[test]
fn too_many_servers_are_refused_as_a_whole() {
    let mut bench = Bench::new(config(&one(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), POOL, ""));
    let slot = bench.slot_of(1, 9).expect("there");
    bench.connect(0, slot);
    let others: Vec<u8> = (20..36).collect();
    let error = bench.state.apply(config(&one(&others), POOL, "")).err();
    assert_eq!(
        error,
        Some(ApplyError::NoServerSlot {
            wanted: 16,
            free: 7
        })
    );
    assert_eq!(bench.state_of(1, 9), Some(ServerState::Up));
    bench.check();
}

#[test]
fn a_local_address_out_of_the_pool_stays_ours_while_it_has_connections() {
    let mut bench = Bench::new(config(&one(&[1]), "\"10.0.3.1\"", ""));
    let slot = bench.slot_of(1, 1).expect("there");
    bench.connect(0, slot);
    let local = Ipv4Addr::new(10, 0, 3, 1);
    bench.apply(config(&one(&[1]), "\"10.0.3.2\"", ""));
    bench.check();
    assert!(bench.state.snapshot().address(local).is_some());
    bench.end_all();
    while bench.collect() {}
    assert!(bench.state.snapshot().address(local).is_none());
}

#[test]
fn routes_change_the_route_generation_and_nothing_else_does() {
    let mut bench = Bench::new(config(&one(&[1]), POOL, ""));
    let before = bench.state.snapshot().route_generation;
    bench.apply(config(&one(&[1, 2]), POOL, ""));
    assert_eq!(bench.state.snapshot().route_generation, before);
    let mut routed = bench.state.config().clone();
    routed.routes.push(config::StaticRoute {
        to: "192.0.2.0/24".parse().expect("a network"),
        via: Ipv4Addr::new(10, 0, 9, 9),
    });
    bench.apply(routed);
    let snapshot = bench.state.snapshot();
    assert_eq!(snapshot.route_generation, before + 1);
    let hop = snapshot
        .routes
        .lookup(Ipv4Addr::new(192, 0, 2, 5))
        .expect("a route");
    assert_eq!(hop.addr, Ipv4Addr::new(10, 0, 9, 9));
}

#[test]
fn twenty_thousand_services_and_a_change_of_one() {
    let mut text = "[runtime]\nmax-services = 20000\nmax-servers = 100000\n\
                    local-ports = \"1024-2047\"\n[[port]]\nname = \"net\"\ndevice = \"tap:fg0\"\n\
                    addresses = [\"10.255.0.2/24\"]\ngateway = \"10.255.0.254\"\n[[pool]]\nname = \"default\"\n\
                    addresses = [\"10.255.0.1\"]\n"
        .to_owned();
    for service in 0..20_000_u32 {
        let [.., high, low] = service.to_be_bytes();
        text.push_str(&format!(
            "[[service]]\nname = \"s{service}\"\nvip = \"10.1.{high}.{low}:80\"\n"
        ));
        for server in 2..7 {
            text.push_str(&format!(
                "[[service.server]]\naddress = \"10.{server}.{high}.{low}:80\"\n"
            ));
        }
    }
    let config = Config::parse("large", &text)
        .unwrap_or_else(|problem| panic!("{problem}"))
        .config;
    let changed = config
        .del_server("s7", "10.2.0.7:80")
        .expect("deleted")
        .config;
    let reta = Reta::even(16, 1).expect("a table");
    let key = *steering().toeplitz().key();
    let steering = Steering::new(key, reta, SteeringMode::Software).expect("a strong key");
    let (mut state, updates) =
        State::new(config, Vec::new(), Arc::new(steering), 1, 7).expect("room");
    assert_eq!(updates[0].new_sets.len(), 100_000);
    state.applied(WorkerIx(0), &updates[0]);
    let updates = state.apply(changed).expect("room");
    assert_eq!(
        (updates[0].new_sets.len(), updates[0].unwanted_sets.len()),
        (0, 1)
    );
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Plainly, bool),
    Connect(usize, u32),
    EndAll,
    Collect,
}

fn any_step() -> impl Strategy<Value = Step> {
    let server = (
        0_u32..4,
        prop::sample::select(&["up", "up", "draining", "down"][..]),
    );
    let services = prop::collection::btree_map(
        1_u8..6,
        prop::collection::btree_map(1_u8..6, server, 0..4),
        0..4,
    );
    prop_oneof![
        3 => (services, any::<bool>()).prop_map(|(services, both)| Step::Apply(services, both)),
        4 => (0..WORKERS, 0_u32..16).prop_map(|(worker, slot)| Step::Connect(worker, slot)),
        1 => Just(Step::EndAll),
        2 => Just(Step::Collect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn slots_and_sets_keep_their_meaning(steps in prop::collection::vec(any_step(), 1..25)) {
        let mut bench = Bench::new(config(&BTreeMap::new(), POOL, ""));
        let mut meanings: BTreeMap<u32, (ServiceIx, Ipv4Addr)> = BTreeMap::new();
        for step in steps {
            let before = Arc::clone(bench.state.snapshot());
            let mut refused = false;
            match step {
                Step::Apply(services, both) => {
                    let pool = if both { POOL } else { "\"10.0.3.2\"" };
                    match bench.state.apply(config(&services, pool, "")) {
                        Ok(updates) => bench.answer(updates),
                        // Removed servers with connections fill the slots.
                        Err(ApplyError::NoServerSlot { .. }) => refused = true,
                        Err(error) => panic!("{error}"),
                    }
                }
                Step::Connect(worker, slot) => bench.connect(worker, ServerIx(slot)),
                Step::EndAll => bench.end_all(),
                Step::Collect => {
                    bench.collect();
                }
            }
            bench.check();
            let after = bench.state.snapshot();
            prop_assert!(!refused || after.generation == before.generation);
            for (old, new) in before.servers.iter().zip(&after.servers) {
                if let (Some(old), Some(new)) = (old, new)
                    && old.state != ServerState::Removed
                    && new.state != ServerState::Removed
                {
                    prop_assert_eq!((old.service, old.addr), (new.service, new.addr));
                }
            }
            for slot in 0..16 {
                let connections: u64 =
                    bench.stats.iter().map(|stats| stats.server(ServerIx(slot)).active.get()).sum();
                if connections == 0 {
                    meanings.remove(&slot);
                    continue;
                }
                let server = after.server(ServerIx(slot)).expect("a slot with connections is used");
                let meaning = (server.service, server.addr);
                prop_assert_eq!(*meanings.entry(slot).or_insert(meaning), meaning);
            }
        }
        bench.end_all();
        bench.apply(config(&BTreeMap::new(), POOL, ""));
        while bench.collect() {}
        prop_assert!(bench.state.server_of.is_empty() && bench.state.service_of.is_empty());
        prop_assert_eq!(bench.state.sets.room(), bench.state.max_sets);
        prop_assert!(bench.workers.iter().all(|worker| worker.sets.is_empty()));
    }
}

/// As a service that is announced and one that is not, on two VIPs.
fn announced(services: &Plainly) -> Config {
    let mut config = config(services, POOL, "");
    config.services[0].announce = true;
    config
}

#[test]
fn a_vip_is_announced_while_a_server_is_usable() {
    let servers = |first, second| {
        let mut services = Plainly::from([(1, [(1, first), (2, second)].into())]);
        services.insert(2, one(&[3]).remove(&1).expect("servers"));
        services
    };
    let vip = BTreeSet::from([Ipv4Addr::new(10, 0, 1, 1)]);
    let rows = [
        ((1, "up"), (1, "up"), true),
        ((0, "up"), (1, "up"), true),
        ((0, "up"), (0, "up"), false),
        ((1, "draining"), (1, "up"), true),
        ((1, "draining"), (0, "up"), false),
        ((1, "draining"), (1, "down"), false),
        ((1, "down"), (1, "down"), false),
        ((1, "up"), (1, "down"), true),
    ];
    let mut bench = Bench::new(announced(&servers((1, "up"), (1, "up"))));
    for (first, second, expected) in rows {
        bench.apply(announced(&servers(first, second)));
        let wanted = if expected {
            vip.clone()
        } else {
            BTreeSet::new()
        };
        assert_eq!(bench.state.announced(), wanted, "{first:?} {second:?}");
    }
    let slot = bench.slot_of(1, 1).expect("a slot");
    let down = Some(AdminState::Down);
    assert!(bench.state.impose(slot, down, FULL_SHARE));
    assert!(bench.state.announced().is_empty(), "imposed by health");
    assert!(bench.state.impose(slot, None, FULL_SHARE));
    let updates = bench.state.refresh();
    bench.answer(updates);
    assert_eq!(bench.state.announced(), vip);
    bench.apply(announced(&Plainly::from([(1, BTreeMap::new())])));
    assert!(bench.state.announced().is_empty(), "no server at all");
}
