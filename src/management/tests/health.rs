//! What becomes of what the checker says; the test is the checker.

use std::sync::Mutex;
use std::sync::mpsc::Sender;

use super::*;
use crate::config::Problem;
use crate::health::{Change, CheckId, Checker, Order, Verdict, Via};
use crate::service::snapshot::ServerState;

/// The checkers' other ends, one for each that was started.
pub(super) type Checkers = Arc<Mutex<Vec<(Receiver<Order>, Sender<Change>)>>>;

pub(super) fn detached(checkers: &Checkers) -> StartChecker {
    let checkers = Arc::clone(checkers);
    Box::new(move || {
        let (checker, orders) = Checker::detached();
        let (changes, changed) = mpsc::channel();
        checkers.lock().expect("no panic").push((orders, changes));
        Ok((checker, changed))
    })
}

const UP: Verdict = Verdict::Up;
const SICK: Verdict = Verdict::Down { silent: false };
const GONE: Verdict = Verdict::Down { silent: true };

impl Fixture {
    /// With the service checked, and another server.
    fn checked(keys: &str) -> Self {
        let text = with_health(keys).unwrap_or_else(|problem| panic!("{problem}"));
        Self::with(&text, metrics::Setup::default())
    }

    /// What the checker was told since the last look: servers, and where each
    /// new one begins.
    fn orders(&self) -> Vec<String> {
        let checkers = self.checkers.lock().expect("no panic");
        let (orders, _) = checkers.last().expect("a checker");
        let line = |order| match order {
            Order::Put {
                id,
                target,
                verdict,
                ..
            } => {
                let up = if verdict.is_up() { "up" } else { "down" };
                let ask = target.check.spec.ask.name();
                format!("{} {ask} {} {up}", id.0, target.address)
            }
            Order::Drop(id) => format!("{} dropped", id.0),
            Order::Stop => "stop".into(),
        };
        orders.try_iter().map(line).collect()
    }

    /// The checker says this of a check.
    fn say(&mut self, id: u64, verdict: Verdict) {
        let change = Change {
            id: CheckId(id),
            verdict,
            reason: (!verdict.is_up()).then(|| "it is so".into()),
            at: self.now,
        };
        let checkers = self.checkers.lock().expect("no panic");
        let (_, changes) = checkers.last().expect("a checker");
        changes.send(change).expect("it listens");
        drop(checkers);
        self.step();
    }

    /// All workers take a snapshot; the servers' states in it.
    fn states(&mut self) -> Vec<ServerState> {
        self.workers.iter_mut().for_each(FakeWorker::apply);
        self.step();
        let snapshot = self.workers[0].snapshot.as_ref().expect("a snapshot");
        let servers = snapshot.servers.iter().flatten();
        servers.map(|server| server.state).collect()
    }

    /// The first server is down, and all workers have it so much later.
    pub(super) fn checks_end_with_a_verdict_after(&mut self, delay: Duration) {
        self.say(0, GONE);
        self.workers.iter_mut().for_each(FakeWorker::apply);
        self.now += delay;
        self.step();
    }

    fn listed(&mut self) -> api::Service {
        let services = self.result("services.list", json!({})).expect("a list");
        let services: api::Services = serde_json::from_value(services).expect("services");
        services.services.into_iter().next().expect("a service")
    }

    fn no_update(&self) {
        assert!(self.workers.iter().all(|worker| worker.next().is_none()));
    }
}

fn with_health(keys: &str) -> Result<String, Problem> {
    let health =
        format!("[service.health]\ncheck = \"tcp\"\nvia = \"host\"\n{keys}\n[[service.server]]");
    let text = CONFIG.replacen("[[service.server]]", &health, 1);
    let text =
        format!("{text}\n[[service.server]]\nname = \"b\"\naddress = \"192.0.2.102:8080\"\n");
    Config::parse("f", &text).map(|_| text)
}

pub(super) fn checked_and_served_at(addr: std::net::SocketAddr) -> String {
    let text = with_health("").unwrap_or_else(|problem| panic!("{problem}"));
    format!("{text}\n[metrics]\nlisten = \"{addr}\"\n")
}

#[test]
fn a_verdict_reaches_all_workers_and_is_listed() {
    let mut fixture = Fixture::checked("");
    assert_eq!(
        fixture.orders(),
        ["0 tcp 192.0.2.101:8080 up", "1 tcp 192.0.2.102:8080 up"]
    );
    fixture.no_update();
    fixture.say(0, GONE);
    assert_eq!(fixture.states(), [ServerState::Down, ServerState::Up]);
    let service = fixture.listed();
    let health = service.servers[0].health.as_ref().expect("checks");
    assert!(!health.up && service.servers[1].health.as_ref().is_some_and(|h| h.up));
    fixture.say(0, UP);
    assert_eq!(fixture.states(), [ServerState::Up; 2]);
    fixture.no_update();
    // Of a check that is not known nothing comes.
    fixture.say(99, GONE);
    fixture.no_update();
}

#[test]
fn verdicts_wait_while_the_workers_take_something_else() {
    let mut fixture = Fixture::checked("");
    let outcome = fixture.add_server("c", "192.0.2.103:8080");
    fixture.say(0, GONE);
    assert_eq!(fixture.states(), [ServerState::Up; 3]);
    assert!(outcome.try_recv().is_ok());
    let states = fixture.states();
    assert_eq!(
        states,
        [ServerState::Down, ServerState::Up, ServerState::Up]
    );
    fixture.no_update();
}

#[test]
fn on_down_decides_about_connections() {
    use ServerState::{Down, Draining, Up};
    let rows = [
        ("", SICK, Draining),
        ("", GONE, Down),
        ("on-down = \"reset\"", SICK, Down),
        ("on-down = \"keep\"", GONE, Draining),
    ];
    for (keys, verdict, state) in rows {
        let mut fixture = Fixture::checked(keys);
        fixture.say(0, verdict);
        assert_eq!(fixture.states(), [state, Up], "{keys}");
    }
    // Who answers wrongly may fall silent.
    let mut fixture = Fixture::checked("");
    fixture.say(0, SICK);
    assert_eq!(fixture.states(), [Draining, Up]);
    fixture.say(0, GONE);
    assert_eq!(fixture.states(), [Down, Up]);
}

#[test]
fn a_reload_keeps_what_stays() {
    let mut fixture = Fixture::checked("");
    fixture.orders();
    fixture.say(0, GONE);
    fixture.states();
    let keys = "path = \"/\"\non-down = \"keep\"";
    let text = with_health(keys).unwrap_or_default();
    assert_eq!(text, "", "a wrong key");
    let text = with_health("on-down = \"keep\"").expect("a configuration");
    std::fs::write(fixture.dir.path().join("fullgate.toml"), &text).expect("written");
    fixture.ask("reload", json!({}));
    assert_eq!(fixture.states(), [ServerState::Down, ServerState::Up]);
    assert_eq!(fixture.states(), [ServerState::Draining, ServerState::Up]);
    assert_eq!(fixture.orders(), [""; 0], "nothing is asked otherwise");

    let edit = json!({"name": "web", "health": {"check": "icmp", "interval": "1s"}});
    fixture.ask("service.edit", edit);
    assert_eq!(fixture.states(), [ServerState::Draining, ServerState::Up]);
    assert_eq!(
        fixture.orders(),
        ["0 icmp 192.0.2.101:8080 down", "1 icmp 192.0.2.102:8080 up"]
    );
    fixture.ask("server.del", json!({"service": "web", "server": "b"}));
    fixture.states();
    assert_eq!(fixture.orders(), ["1 dropped"]);
    let edit = json!({"name": "web", "health": {"check": "none"}});
    fixture.ask("service.edit", edit);
    assert_eq!(fixture.states()[0], ServerState::Up);
    assert_eq!(fixture.orders(), ["0 dropped", "stop"]);
    assert!(fixture.listed().servers[0].health.is_none());
}

#[test]
fn servers_may_begin_down_and_be_asked_elsewhere() {
    let mut fixture = Fixture::checked("start = \"down\"\nport = 81");
    assert_eq!(
        fixture.orders(),
        ["0 tcp 192.0.2.101:81 down", "1 tcp 192.0.2.102:81 down"]
    );
    fixture.say(0, UP);
    assert_eq!(fixture.states(), [ServerState::Up, ServerState::Down]);
    let edit = json!({"service": "web", "server": "b", "health-address": "192.0.2.77:82"});
    fixture.ask("server.edit", edit);
    fixture.states();
    assert_eq!(fixture.orders(), ["1 tcp 192.0.2.77:82 down"]);
}

#[test]
fn checks_leave_by_the_port_that_leads_there() {
    let text = with_health("").unwrap_or_default();
    let text = text
        .replace("via = \"host\"", "via = \"port\"")
        .replace("[[pool]]", "kernel-interface = \"fgwan\"\n[[pool]]")
        .replace("192.0.2.102:8080", "203.0.113.9:8080");
    let fixture = Fixture::with(&text, metrics::Setup::default());
    let checkers = fixture.checkers.lock().expect("no panic");
    let via = |order| match order {
        Order::Put { target, .. } => Some(target.via.clone()),
        _ => None,
    };
    let found: Vec<_> = checkers[0].0.try_iter().filter_map(via).collect();
    let interface = |router: Option<[u8; 4]>| Via::Interface {
        name: "fgwan".into(),
        source: [192, 0, 2, 1].into(),
        router: router.map(Into::into),
    };
    assert_eq!(found, [interface(None), interface(Some([192, 0, 2, 254]))]);
}

#[test]
fn a_checker_that_ends_is_started_again_where_it_was() {
    let mut fixture = Fixture::checked("");
    fixture.say(1, SICK);
    fixture.states();
    let ended = fixture.checkers.lock().expect("no panic").pop();
    drop(ended);
    fixture.step();
    assert_eq!(
        fixture.orders(),
        ["0 tcp 192.0.2.101:8080 up", "1 tcp 192.0.2.102:8080 down"]
    );
    fixture.say(1, UP);
    assert_eq!(fixture.states(), [ServerState::Up; 2]);
}

#[test]
fn a_slow_start_goes_step_by_step() {
    let mut fixture = Fixture::checked("slow-start = \"20s\"");
    let share = |fixture: &mut Fixture| {
        let service = fixture.listed();
        let health = service.servers[0].health.as_ref().expect("checks");
        health.share
    };
    fixture.say(0, GONE);
    fixture.states();
    assert_eq!(share(&mut fixture), 100);
    fixture.say(0, UP);
    fixture.states();
    assert_eq!(share(&mut fixture), 5);
    fixture.no_update();
    fixture.now += Duration::from_secs(2);
    fixture.step();
    fixture.states();
    assert_eq!(share(&mut fixture), 10);
    // One that fails again has to begin anew.
    fixture.say(0, GONE);
    fixture.states();
    fixture.now += Duration::from_secs(30);
    fixture.step();
    fixture.no_update();
    fixture.say(0, UP);
    fixture.states();
    assert_eq!(share(&mut fixture), 5);
    fixture.now += Duration::from_secs(20);
    fixture.step();
    fixture.states();
    assert_eq!(share(&mut fixture), 100);
    fixture.now += Duration::from_secs(20);
    fixture.step();
    fixture.no_update();
}

#[test]
fn all_down_is_listed() {
    let mut fixture = Fixture::checked("all-down = \"use-all\"");
    for id in [0, 1] {
        fixture.say(id, GONE);
        fixture.states();
    }
    let service = fixture.listed();
    assert!(service.health_ignored);
    assert!(service.servers.iter().all(|server| server.state == "up"));
}
