mod captures;
mod drain;
mod endpoint;
mod explain;
mod health;
mod neighbors;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use serde_json::{Value, json};

use super::*;
use crate::api::rpc;
use crate::config::Config;
use crate::conntrack::entry::Entry;
use crate::ids::{PortIx, ServerIx, SetIx};
use crate::service::snapshot::{PortInfo, Snapshot};
use crate::snat::steering::{Reta, Steering, SteeringMode};
use crate::stats::readings::{KernelReading, PortReading};
use crate::time::Millis;
use crate::wire::ethernet::MacAddr;
use crate::worker::message::{Link, Notice, PoolScan};

const CONFIG: &str = r#"
[runtime]
workers = 2

[[port]]
name = "wan"
device = "tap:fg0"
addresses = ["192.0.2.1/24"]
gateway = "192.0.2.254"

[[pool]]
name = "local"
addresses = ["192.0.2.10-192.0.2.11"]

[[service]]
name = "web"
vip = "198.51.100.1:80"

[[service.server]]
name = "a"
address = "192.0.2.101:8080"
"#;

/// A port whose link comes up when the test says so.
struct FakePort(Arc<AtomicBool>);

impl PortStatus for FakePort {
    fn read(&self) -> PortReading {
        PortReading {
            driver: "net_fake".into(),
            link_up: true,
            speed_mbps: Some(10_000),
            rx_missed: 3,
            kernel: Some(KernelReading {
                interface: "fgk0".into(),
                to_kernel: 4,
                from_kernel: 5,
                refused: 6,
            }),
            ..PortReading::default()
        }
    }

    fn link_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A worker of which the test is the thread.
struct FakeWorker {
    link: Link,
    snapshot: Option<Arc<Snapshot>>,
    alive: Option<Alive>,
}

impl FakeWorker {
    fn next(&self) -> Option<Command> {
        self.link.commands.pop()
    }

    fn tell(&self, reply: Reply) {
        self.link.replies.push(reply).expect("room");
    }

    /// Takes the next command, which must be a new snapshot, as a worker does.
    fn apply(&mut self) {
        let Some(Command::Apply(update)) = self.next() else {
            panic!("no update")
        };
        self.put_in_force(update);
    }

    fn put_in_force(&mut self, mut update: Box<Update>) {
        let new = Arc::clone(&update.snapshot);
        if let Some(old) = self.snapshot.replace(new) {
            update.snapshot = old;
        }
        update.new_sets.clear();
        self.tell(Reply::Applied(update));
    }
}

struct Fixture {
    management: Management,
    checkers: health::Checkers,
    workers: Vec<FakeWorker>,
    calls: mpsc::Sender<Call>,
    dir: tempfile::TempDir,
    link: Arc<AtomicBool>,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self::with(CONFIG, metrics::Setup::default())
    }

    fn with(text: &str, metrics: metrics::Setup) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config_path = dir.path().join("fullgate.toml");
        std::fs::write(&config_path, text).expect("written");
        let config = Config::load(&config_path).expect("valid").config;
        let (state, first) = first_state(config);
        let (calls, received) = mpsc::channel();
        let mut workers = Vec::new();
        let mut links = Vec::new();
        for update in first {
            let link = Link::new();
            let stats = Arc::new(WorkerStats::new(1, 64, 64));
            let (worker, alive) = WorkerLink::new(link.clone(), stats);
            links.push(worker);
            let mut worker = FakeWorker {
                link,
                snapshot: None,
                alive: Some(alive),
            };
            worker.put_in_force(Box::new(update));
            workers.push(worker);
        }
        let checkers = health::Checkers::default();
        let link = Arc::new(AtomicBool::new(false));
        let management = Management::new(Setup {
            state,
            workers: links,
            ports: vec![Arc::new(FakePort(Arc::clone(&link)))],
            config_path,
            calls: received,
            signals: Signals::default(),
            supervisor: Supervisor::default(),
            metrics,
            kernel: Kernel::none(),
            checker: health::detached(&checkers),
            tsc: || 0,
        });
        let mut fixture = Self {
            management,
            checkers,
            workers,
            calls,
            dir,
            link,
            now: Instant::now(),
        };
        fixture.step();
        fixture
    }

    /// One round, and those until a configuration that is being made is there;
    /// what the loop has given away is done, too.
    fn step(&mut self) {
        loop {
            self.management.step(self.now, Duration::from_millis(1));
            let (tell, told) = mpsc::channel();
            let done = move || tell.send(()).expect("told");
            self.management.changing.run(done);
            told.recv().expect("all jobs done");
            if self.management.preparing.is_none() || !self.management.changes.is_free() {
                break;
            }
        }
    }

    fn ask(&mut self, method: &str, params: Value) -> Receiver<Outcome> {
        let line = rpc::request(1, method, &params);
        let request = rpc::parse(line.trim_end().as_bytes()).expect("a request");
        let (reply, outcome) = mpsc::sync_channel(1);
        self.calls.send(Call { request, reply }).expect("sent");
        self.step();
        outcome
    }

    /// What is answered without the workers.
    fn result(&mut self, method: &str, params: Value) -> Outcome {
        let outcome = self.ask(method, params);
        soon(&outcome)
    }

    fn add_server(&mut self, name: &str, address: &str) -> Receiver<Outcome> {
        self.ask(
            "server.add",
            json!({"service": "web", "name": name, "address": address}),
        )
    }

    fn server_names(&mut self) -> Vec<String> {
        let services = self.result("services.list", json!({})).expect("a list");
        let services: api::Services = serde_json::from_value(services).expect("services");
        services
            .services
            .iter()
            .flat_map(|s| s.servers.iter().map(|s| s.name.clone()))
            .collect()
    }
}

/// What a thread is about to say.
fn soon(outcome: &Receiver<Outcome>) -> Outcome {
    let limit = Duration::from_secs(20);
    outcome.recv_timeout(limit).expect("an outcome")
}

#[test]
fn a_change_is_answered_when_all_workers_have_it() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.server_names(), ["a"]);
    let outcome = fixture.ask(
        "service.add",
        json!({"name": "dns", "vip": "198.51.100.1:53", "protocol": "udp",
               "server": [{"address": "192.0.2.102:53"}]}),
    );
    fixture.workers[0].apply();
    fixture.step();
    assert!(outcome.try_recv().is_err(), "worker 1 has not taken it");
    fixture.workers[1].apply();
    fixture.step();
    let changed = outcome.try_recv().expect("answered").expect("done");
    for worker in &fixture.workers {
        let snapshot = worker.snapshot.as_ref().expect("a snapshot");
        assert_eq!(json!(snapshot.generation), changed["generation"]);
        assert!(
            snapshot
                .service_at([198, 51, 100, 1].into(), 53, 17)
                .is_some()
        );
    }
    assert_eq!(fixture.server_names(), ["a", "192.0.2.102:53"]);
}

#[test]
fn changes_go_out_one_after_the_other() {
    let mut fixture = Fixture::new();
    let first = fixture.add_server("b", "192.0.2.102:8080");
    let second = fixture.add_server("c", "192.0.2.103:8080");
    for worker in &mut fixture.workers {
        worker.apply();
        assert!(worker.next().is_none(), "the second waits for the first");
    }
    fixture.step();
    assert!(first.try_recv().expect("answered").is_ok());
    assert!(second.try_recv().is_err());
    for worker in &mut fixture.workers {
        worker.apply();
    }
    fixture.step();
    assert!(second.try_recv().expect("answered").is_ok());
    assert_eq!(fixture.server_names(), ["a", "b", "c"]);
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut fixture = Fixture::new();
    let before = fixture.result("config.get", json!({}));
    for (method, params, code, part) in [
        (
            "server.del",
            json!({"service": "wbe", "server": "a"}),
            rpc::FAILED,
            "wbe",
        ),
        (
            "server.add",
            json!({"service": "web", "address": "nowhere"}),
            rpc::FAILED,
            "address",
        ),
        (
            "server.add",
            json!({"address": "192.0.2.9:1"}),
            rpc::INVALID_PARAMS,
            "service",
        ),
        (
            "server.add",
            json!({"service": 3, "address": "192.0.2.9:1"}),
            rpc::INVALID_PARAMS,
            "service",
        ),
        (
            "server.edit",
            json!({"service": "web", "server": "a", "wieght": 3}),
            rpc::INVALID_PARAMS,
            "wieght",
        ),
        (
            "server.edit",
            json!({"service": "web", "server": "a", "weight": "x"}),
            rpc::INVALID_PARAMS,
            "weight",
        ),
        (
            "service.del",
            json!({"name": "web", "force": true}),
            rpc::INVALID_PARAMS,
            "force",
        ),
        ("ping", json!({"x": 1}), rpc::INVALID_PARAMS, "x"),
        (
            "connections.list",
            json!({"limit": 0}),
            rpc::INVALID_PARAMS,
            "limit",
        ),
        (
            "connections.list",
            json!({"limit": 1_000_000}),
            rpc::INVALID_PARAMS,
            "limit",
        ),
        (
            "connections.list",
            json!({"state": "OPEN"}),
            rpc::INVALID_PARAMS,
            "ESTABLISHED",
        ),
        (
            "connections.list",
            json!({"protocol": "sctp"}),
            rpc::INVALID_PARAMS,
            "protocol",
        ),
        (
            "connections.list",
            json!({"client": "::1"}),
            rpc::INVALID_PARAMS,
            "client",
        ),
        (
            "config.check",
            json!({"path": "/nowhere/at/all.toml"}),
            rpc::FAILED,
            "/nowhere/at/all.toml",
        ),
        ("server.ad", json!({}), rpc::UNKNOWN_METHOD, "server.add"),
    ] {
        let error = fixture.result(method, params.clone()).expect_err("refused");
        assert_eq!(error.code, code, "{method} {params}: {error}");
        assert!(error.message.contains(part), "{method} {params}: {error}");
        assert!(!error.message.contains('\n'));
    }
    assert_eq!(fixture.result("config.get", json!({})), before);
    assert!(fixture.workers.iter().all(|worker| worker.next().is_none()));
}

#[test]
fn a_rejected_reload_leaves_everything_as_it_was() {
    let mut fixture = Fixture::new();
    let path = fixture.dir.path().join("fullgate.toml");
    let before = fixture.result("config.get", json!({}));
    std::fs::write(&path, CONFIG.replace("192.0.2.101:8080", "192.0.2.101")).expect("written");
    let error = fixture.result("reload", json!({})).expect_err("rejected");
    assert!(error.message.contains("fullgate.toml:"), "{error}");
    assert_eq!(fixture.result("config.get", json!({})), before);
    fixture.management.signals.ask_reload();
    fixture.step();
    assert!(fixture.workers.iter().all(|worker| worker.next().is_none()));

    std::fs::write(&path, CONFIG.replace("\"a\"", "\"z\"")).expect("written");
    fixture.management.signals.ask_reload();
    fixture.step();
    for worker in &mut fixture.workers {
        worker.apply();
    }
    fixture.step();
    assert_eq!(fixture.server_names(), ["z"]);
}

#[test]
fn a_worker_that_takes_no_change_is_named() {
    let mut fixture = Fixture::new();
    let first = fixture.add_server("b", "192.0.2.102:8080");
    let second = fixture.add_server("c", "192.0.2.103:8080");
    fixture.workers[1].apply();
    fixture.step();
    fixture.now += PATIENCE;
    fixture.step();
    for outcome in [first, second] {
        let error = outcome.try_recv().expect("answered").expect_err("late");
        assert!(error.message.contains("worker 0"), "{error}");
    }
    assert!(fixture.result("ping", json!({})).is_ok());
    // It was late, not lost; the other change was given up.
    fixture.workers[0].apply();
    fixture.step();
    let third = fixture.add_server("d", "192.0.2.104:8080");
    for worker in &mut fixture.workers {
        worker.apply();
    }
    fixture.step();
    assert!(third.try_recv().expect("answered").is_ok());
    assert_eq!(fixture.server_names(), ["a", "b", "d"]);
}

#[test]
fn a_full_ring_loses_no_command() {
    let mut fixture = Fixture::new();
    let total = 3000;
    for number in 0..total {
        fixture.management.workers[0].send(Command::EndCapture(number));
    }
    let outcome = fixture.add_server("b", "192.0.2.102:8080");
    let mut seen = HashSet::new();
    for round in 0..20 {
        fixture.step();
        while let Some(command) = fixture.workers[0].next() {
            match command {
                Command::EndCapture(number) => assert!(seen.insert(number), "{number} twice"),
                Command::Apply(update) => fixture.workers[0].put_in_force(update),
                other => panic!("{other:?}"),
            }
        }
        if round == 0 {
            assert!(seen.len() < total as usize, "the ring was full");
            fixture.workers[1].apply();
        }
    }
    assert_eq!(seen.len(), total as usize);
    assert!(outcome.try_recv().expect("answered").is_ok());
}

fn entry(last: u8) -> Entry {
    Entry {
        client: [203, 0, 113, last].into(),
        client_port: 40000,
        vip: [198, 51, 100, 1].into(),
        vip_port: 80,
        local: [192, 0, 2, 10].into(),
        local_port: 1024 + u16::from(last),
        server_addr: [192, 0, 2, 101].into(),
        server_port: 8080,
        server: ServerIx(0),
        protocol: 6,
        state: crate::conntrack::entry::State::Established,
        last_seen: crate::time::Stamp(500),
        ..Entry::FREE
    }
}

fn scan(fixture: &mut Fixture, params: Value, tables: [Vec<Entry>; 2]) -> api::Connections {
    let outcome = fixture.ask("connections.list", params);
    for (worker, table) in fixture.workers.iter().zip(tables) {
        let Some(Command::Scan(mut scan)) = worker.next() else {
            panic!("no scan")
        };
        let matching = table
            .iter()
            .filter(|entry| scan.filter.matches_entry(entry));
        let limit = scan.limit;
        scan.found.extend(matching.take(limit));
        scan.now = Millis(1500);
        worker.tell(Reply::Scanned(scan));
    }
    fixture.step();
    let result = soon(&outcome).expect("a list");
    serde_json::from_value(result).expect("connections")
}

#[test]
fn connections_of_all_workers_are_listed() {
    let mut fixture = Fixture::new();
    let tables = || [vec![entry(1), entry(2)], vec![entry(3)]];
    let list = scan(&mut fixture, json!({}), tables());
    let workers: Vec<u8> = list
        .connections
        .iter()
        .map(|connection| connection.worker)
        .collect();
    assert_eq!((workers, list.truncated), (vec![0, 0, 1], false));
    let first = &list.connections[0];
    assert_eq!(first.client.to_string(), "203.0.113.1:40000");
    assert_eq!(first.service.as_deref(), Some("web"));
    assert_eq!(first.server_name.as_deref(), Some("a"));
    assert_eq!((first.idle_ms, first.age_ms), (1000, 1500));
    assert_eq!(first.expires_ms, Some(7_439_000));

    let list = scan(
        &mut fixture,
        json!({"client": "203.0.113.3", "state": "established"}),
        tables(),
    );
    assert_eq!(list.connections.len(), 1);
    let list = scan(&mut fixture, json!({"limit": 2}), tables());
    assert_eq!((list.connections.len(), list.truncated), (2, true));
    let list = scan(&mut fixture, json!({"limit": 3}), tables());
    assert_eq!((list.connections.len(), list.truncated), (3, false));
}

#[test]
fn a_connection_of_a_server_that_is_gone_has_no_names() {
    let mut fixture = Fixture::new();
    let stranger = Entry {
        server_port: 9,
        ..entry(1)
    };
    let list = scan(&mut fixture, json!({}), [vec![stranger], vec![]]);
    let connection = &list.connections[0];
    assert_eq!((&connection.service, connection.expires_ms), (&None, None));
}

#[test]
fn a_connection_of_months_is_shown_as_old_as_it_is() {
    let fixture = Fixture::new();
    let created = Millis(77);
    for days in [25, 30, 60] {
        let now = created.plus(days * 86_400_000);
        let entry = Entry {
            created,
            last_seen: Millis(now.0 - 2_000).stamp(),
            ..entry(1)
        };
        let snapshot = fixture.management.state.snapshot();
        let shown = report::connection(snapshot, WorkerIx(0), &entry, now);
        assert_eq!((shown.age_ms, shown.idle_ms), (days * 86_400_000, 2_000));
        assert_eq!(shown.expires_ms, Some(7_438_000));
    }
}

#[test]
fn scans_go_out_one_after_the_other() {
    let mut fixture = Fixture::new();
    let first = fixture.ask("connections.list", json!({}));
    let second = fixture.ask("connections.list", json!({}));
    for outcome in [first, second] {
        for worker in &fixture.workers {
            let Some(Command::Scan(scan)) = worker.next() else {
                panic!("no scan")
            };
            assert!(worker.next().is_none());
            worker.tell(Reply::Scanned(scan));
        }
        fixture.step();
        assert!(soon(&outcome).is_ok());
    }
}

#[test]
fn local_ports_add_up_over_the_workers() {
    let mut fixture = Fixture::new();
    let outcome = fixture.ask("pools.list", json!({}));
    for worker in &fixture.workers {
        let Some(Command::Pools(mut scan)) = worker.next() else {
            panic!("no scan")
        };
        assert_eq!(scan.wanted.len(), 2, "one set for each local address");
        assert!(scan.found.capacity() >= scan.wanted.len());
        let wanted = scan.wanted.clone();
        scan.found.extend(wanted.iter().map(|&set| SetUse {
            set,
            capacity: 100,
            used: 10,
            resting: 5,
            failures: 3,
            out: set == wanted[0],
        }));
        worker.tell(Reply::Pools(scan));
    }
    fixture.step();
    let result = soon(&outcome).expect("a list");
    let one = |address: &str, out_at: u64| {
        json!({"address": address, "servers": [{
            "server": "192.0.2.101:8080", "protocol": "tcp",
            "capacity": 200, "used": 20, "resting": 10, "free": 170,
            "failures": 6, "out_at": out_at,
        }]})
    };
    let addresses = [one("192.0.2.10", 2), one("192.0.2.11", 0)];
    let expected = json!({"pools": [{"name": "local", "addresses": addresses}]});
    assert_eq!(result, expected);
}

#[test]
fn counters_add_up_over_the_workers() {
    let mut fixture = Fixture::new();
    for (worker, n) in fixture.management.stats.iter().zip([1, 10]) {
        worker
            .drop_counter(crate::stats::DropReason::NoRoute)
            .add(n);
        worker.event(crate::stats::Event::IcmpSent).add(n);
        worker.port(PortIx(0)).rx_packets.add(n);
        worker.server(ServerIx(0)).active.add(n);
        worker.connections.set(n);
    }
    let drops = fixture.result("drops.list", json!({})).expect("a list");
    let drops: api::Drops = serde_json::from_value(drops).expect("drops");
    let no_route = drops
        .drops
        .iter()
        .find(|drop| drop.reason == "no-route")
        .expect("listed");
    assert_eq!(
        (no_route.count, &no_route.per_worker[..]),
        (11, &[1, 10][..])
    );
    let sent = drops
        .events
        .iter()
        .find(|event| event.event == "icmp-sent")
        .expect("listed");
    assert_eq!(sent.count, 11);
    let ports = fixture.result("ports.list", json!({})).expect("a list");
    let port = &ports["ports"][0];
    assert_eq!(
        (&port["name"], &port["driver"]),
        (&json!("wan"), &json!("net_fake"))
    );
    assert_eq!(
        (&port["rx_packets"], &port["rx_missed"]),
        (&json!(11), &json!(3))
    );
    let services = fixture.result("services.list", json!({})).expect("a list");
    assert_eq!(services["services"][0]["servers"][0]["active"], json!(11));
    let workers = fixture.result("workers.list", json!({})).expect("a list");
    assert_eq!(workers["workers"][1]["connections"], json!(10));
}

#[test]
fn every_method_is_known() {
    let mut fixture = Fixture::new();
    for method in crate::api::METHODS {
        // Some want parameters, some wait for the workers; none is unknown.
        if let Ok(Err(error)) = fixture.ask(method, json!({})).try_recv() {
            assert_ne!(error.code, rpc::UNKNOWN_METHOD, "{method}");
        }
    }
}

#[test]
fn news_of_servers_and_sets_that_are_gone_are_survived() {
    let mut fixture = Fixture::new();
    let worker = &fixture.workers[0];
    worker.tell(Reply::ServerFailed(ServerIx(999)));
    worker.tell(Reply::ServerAnswered(ServerIx(0)));
    worker.tell(Reply::Notice(Notice::TableFull));
    worker.tell(Reply::Notice(Notice::NoLocalPort(ServerIx(999))));
    worker.tell(Reply::Pools(Box::new(PoolScan::new([SetIx(7)].into()))));
    fixture.step();
    assert_eq!(fixture.result("ping", json!({})), Ok(json!("pong")));
}

/// Runs the loop in a thread of its own, as `main` does.
fn run(
    fixture: Fixture,
) -> (
    Vec<FakeWorker>,
    Signals,
    std::thread::JoinHandle<Result<(), String>>,
) {
    let Fixture {
        management,
        workers,
        calls,
        ..
    } = fixture;
    let signals = management.signals.clone();
    let running = std::thread::spawn(move || {
        let _calls = calls;
        management.run()
    });
    (workers, signals, running)
}

fn wait_for_stop(worker: &FakeWorker) {
    loop {
        match worker.next() {
            Some(Command::Stop) => return,
            _ => std::thread::yield_now(),
        }
    }
}

#[test]
fn a_stop_waits_for_all_workers() {
    let (mut workers, signals, running) = run(Fixture::new());
    signals.ask_stop();
    for worker in &workers {
        wait_for_stop(worker);
    }
    workers[0].tell(Reply::Stopped);
    assert!(!running.is_finished());
    // A thread that is over has stopped too.
    workers[1].alive.take();
    assert_eq!(running.join().expect("the loop"), Ok(()));
}

#[test]
fn a_worker_that_dies_ends_the_others() {
    let (mut workers, _signals, running) = run(Fixture::new());
    workers[1].alive.take();
    wait_for_stop(&workers[0]);
    workers[0].tell(Reply::Stopped);
    let error = running.join().expect("the loop").expect_err("dead");
    assert_eq!(error, "worker 1 ended unexpectedly");
}

fn first_state(config: Config) -> (State, Vec<Update>) {
    let reta = Reta::even(128, 2).expect("a table");
    let steering = Steering::new([7; 40], reta, SteeringMode::Software).expect("steering");
    let port = PortInfo::opened("wan", MacAddr([2, 0, 0, 0, 0, 1]), 1500);
    State::new(config, vec![port], Arc::new(steering), 2, 7).expect("a state")
}
