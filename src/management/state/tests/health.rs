//! What is imposed on servers: how long it holds, what it does to the choice of
//! servers, and what the workers are told to forget.

use super::*;
use crate::health::FULL_SHARE;

/// A service with these keys in `[service.health]` and servers of these weights,
/// by octet.
fn checked(keys: &str, servers: &[(u8, u32)]) -> Config {
    let servers = servers
        .iter()
        .map(|&(server, weight)| (server, (weight, "up")))
        .collect();
    let mut config = config(&BTreeMap::from([(1, servers)]), POOL, "");
    let keys = format!("check = \"tcp\"\nvia = \"host\"\n{keys}");
    let text = format!("{}\n[service.health]\n{keys}", config.to_toml());
    // The service is the last table of the file but for its servers.
    let (head, service) = text.split_once("[[service.server]]").expect("a server");
    let (service, health) = service.split_once("[service.health]").expect("health");
    let text = format!("{head}[service.health]{health}\n[[service.server]]{service}");
    config = Config::parse("checked", &text)
        .unwrap_or_else(|problem| panic!("{problem}\n{text}"))
        .config;
    config
}

impl Bench {
    fn impose(&mut self, server: u8, imposed: Option<AdminState>, share: u32) {
        let slot = self.slot_of(1, server).expect("there");
        assert!(self.state.impose(slot, imposed, share));
        let updates = self.state.refresh();
        self.answer(updates);
    }

    /// How often each server gets one of `count` connections.
    fn picked(&self, count: usize) -> BTreeMap<u8, usize> {
        let snapshot = self.state.snapshot();
        let plan = &snapshot.services[0].as_ref().expect("there").plan;
        let mut cursor = Default::default();
        let mut picked = BTreeMap::new();
        for _ in 0..count {
            let server = plan.pick(&mut cursor, [192, 0, 2, 1].into(), |_| 0, |_| true);
            if let Some(server) = server.and_then(|server| snapshot.server(server)) {
                *picked.entry(server.addr.octets()[3]).or_default() += 1;
            }
        }
        picked
    }

    fn states(&self) -> Vec<Option<ServerState>> {
        (1..4).map(|server| self.state_of(1, server)).collect()
    }
}

const DOWN: Option<AdminState> = Some(AdminState::Down);
const DRAINING: Option<AdminState> = Some(AdminState::Draining);

fn key() -> ServiceKey {
    (
        "10.0.1.1:80".parse().expect("an address"),
        config::Protocol::Tcp,
    )
}

#[test]
fn imposed_states_hold_until_taken_back() {
    let mut bench = Bench::new(checked("", &[(1, 1), (2, 1)]));
    let losses = bench.state.snapshot().losses;
    bench.impose(2, DOWN, FULL_SHARE);
    assert_eq!(bench.state_of(1, 2), Some(ServerState::Down));
    assert_eq!(bench.state.snapshot().losses, losses + 1);
    assert_eq!(bench.picked(4), BTreeMap::from([(1, 4)]));
    bench.apply(checked("", &[(1, 1), (2, 1), (3, 1)]));
    let (up, down) = (Some(ServerState::Up), Some(ServerState::Down));
    assert_eq!(bench.states(), [up, down, up], "a reload does not end it");
    bench.impose(2, None, FULL_SHARE);
    assert_eq!(bench.states(), [up, up, up]);
    assert!(!bench.state.impose(ServerIx(15), None, FULL_SHARE));
    bench.impose(2, DRAINING, FULL_SHARE);
    assert_eq!(bench.state_of(1, 2), Some(ServerState::Draining));
    assert_eq!(
        bench.state.snapshot().losses,
        losses + 1,
        "its connections go on"
    );
    bench.apply(config(&one(&[1, 2]), POOL, ""));
    assert_eq!(bench.state_of(1, 2), up, "there are no checks any more");
}

#[test]
fn what_is_imposed_waits_for_the_workers() {
    let mut bench = Bench::new(checked("", &[(1, 1), (2, 1), (3, 1)]));
    let [one, two] = [1, 2].map(|server| bench.slot_of(1, server).expect("there"));
    assert!(bench.state.refresh().is_empty(), "there is nothing new");
    bench.state.impose(one, DOWN, FULL_SHARE);
    let updates = bench.state.refresh();
    bench.state.impose(two, DOWN, FULL_SHARE);
    assert!(bench.state.refresh().is_empty(), "the workers are busy");
    bench.answer(updates);
    assert_eq!(bench.state_of(1, 2), Some(ServerState::Up));
    let updates = bench.state.refresh();
    bench.answer(updates);
    assert_eq!(bench.state_of(1, 2), Some(ServerState::Down));
    assert!(bench.state.refresh().is_empty());
    // A change of the configuration brings it along.
    bench.state.impose(one, None, FULL_SHARE);
    bench.apply(checked("", &[(1, 1), (2, 1)]));
    assert_eq!(bench.state_of(1, 1), Some(ServerState::Up));
    assert!(bench.state.refresh().is_empty());
}

#[test]
fn new_servers_begin_as_wanted_and_known_ones_stay_as_they_are() {
    let mut bench = Bench::new(checked("start = \"down\"", &[(1, 1)]));
    let (up, down) = (Some(ServerState::Up), Some(ServerState::Down));
    assert_eq!(bench.state_of(1, 1), down);
    bench.impose(1, None, FULL_SHARE);
    bench.apply(checked("start = \"down\"", &[(1, 1), (2, 1)]));
    assert_eq!(bench.states()[..2], [up, down]);
    // Nor does it take a server down that serves without checks.
    let mut bench = Bench::new(config(&one(&[1]), POOL, ""));
    bench.apply(checked("start = \"down\"", &[(1, 1)]));
    assert_eq!(bench.state_of(1, 1), up);
    // One that was removed is new when it comes back.
    bench.apply(checked("start = \"down\"", &[(2, 1)]));
    bench.apply(checked("start = \"down\"", &[(1, 1), (2, 1)]));
    assert_eq!(bench.states()[..2], [down, down]);
}

#[test]
fn where_all_are_down_they_are_refused_or_all_used() {
    let mut bench = Bench::new(checked("", &[(1, 1), (2, 1)]));
    for server in [1, 2] {
        bench.impose(server, DOWN, FULL_SHARE);
    }
    assert!(!bench.state.has_usable_server(key()) && !bench.state.ignores_health(key()));
    assert_eq!(bench.picked(4), BTreeMap::new());

    let use_all = |weight| checked("all-down = \"use-all\"", &[(1, 1), (2, 1), (3, weight)]);
    bench.apply(use_all(0));
    assert!(bench.state.has_usable_server(key()) && bench.state.ignores_health(key()));
    assert_eq!(bench.picked(4), BTreeMap::from([(1, 2), (2, 2)]));
    bench.impose(2, None, FULL_SHARE);
    assert!(!bench.state.ignores_health(key()));
    assert_eq!(bench.picked(4), BTreeMap::from([(2, 4)]));
    // The last one to go does not take its connections along.
    let losses = bench.state.snapshot().losses;
    bench.impose(2, DOWN, FULL_SHARE);
    assert_eq!(bench.state.snapshot().losses, losses);
    assert_eq!(bench.picked(4), BTreeMap::from([(1, 2), (2, 2)]));
    // One that passes counts only if it can be used.
    bench.impose(3, None, FULL_SHARE);
    assert!(bench.state.ignores_health(key()));
    bench.apply(use_all(1));
    assert_eq!(bench.picked(4), BTreeMap::from([(3, 4)]));
}

#[test]
fn a_share_scales_the_weight() {
    let mut bench = Bench::new(checked("", &[(1, 1), (2, 3)]));
    assert_eq!(bench.picked(400), BTreeMap::from([(1, 100), (2, 300)]));
    bench.impose(2, None, 1);
    // 1 · 20 to 3 · 1.
    assert_eq!(bench.picked(230), BTreeMap::from([(1, 200), (2, 30)]));
    bench.impose(2, None, FULL_SHARE / 2);
    assert_eq!(bench.picked(250), BTreeMap::from([(1, 100), (2, 150)]));
    bench.impose(2, None, FULL_SHARE);
    assert_eq!(bench.picked(400), BTreeMap::from([(1, 100), (2, 300)]));
}

#[test]
fn workers_forget_the_failures_of_who_came_back() {
    let mut bench = Bench::new(checked("", &[(1, 1), (2, 1)]));
    let slot = bench.slot_of(1, 1).expect("there");
    assert_eq!(bench.fresh.len(), 2, "both are new");
    bench.impose(1, DOWN, FULL_SHARE);
    assert_eq!(bench.fresh, []);
    bench.impose(1, None, FULL_SHARE);
    assert_eq!(bench.fresh, [slot]);
    bench.impose(1, None, 7);
    assert_eq!(bench.fresh, [], "a share is no return");
    bench.apply(checked("", &[(1, 1), (2, 1), (3, 1)]));
    assert_eq!(bench.fresh, [bench.slot_of(1, 3).expect("there")]);
}
