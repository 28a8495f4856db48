//! Drains, and what a file would change.

use super::*;
use crate::service::snapshot::ServerState;

impl Fixture {
    /// Takes what is out, and gives the answer.
    fn done(&mut self, outcome: Receiver<Outcome>) -> Outcome {
        self.apply();
        outcome.try_recv().expect("answered")
    }

    fn apply(&mut self) {
        for worker in &mut self.workers {
            worker.apply();
        }
        self.step();
    }

    fn drain(&mut self, params: Value) -> Outcome {
        let outcome = self.ask("server.drain", params);
        self.done(outcome)
    }

    fn state(&self) -> ServerState {
        let snapshot = self.management.state.snapshot();
        snapshot.server(ServerIx(0)).expect("a server").state
    }

    fn drain_ms(&mut self) -> Value {
        let services = self.result("services.list", json!({})).expect("a list");
        services["services"][0]["servers"][0]["drain_ms"].clone()
    }
}

fn ten_minutes() -> Value {
    json!({"service": "web", "server": "192.0.2.101:8080", "deadline": "10m"})
}

#[test]
fn at_its_deadline_a_server_goes_down() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.drain_ms(), Value::Null);
    fixture.drain(ten_minutes()).expect("begun");
    assert_eq!(fixture.state(), ServerState::Draining);
    assert_eq!(fixture.drain_ms(), json!(600_000));
    let config = fixture.result("config.get", json!({})).expect("a file");
    let toml = config["toml"].as_str().expect("a text");
    assert!(toml.contains("state = \"draining\""), "{toml}");

    fixture.now += Duration::from_secs(599);
    fixture.step();
    assert_eq!(fixture.state(), ServerState::Draining);
    assert_eq!(fixture.drain_ms(), json!(1_000));
    fixture.now += Duration::from_secs(1);
    fixture.step();
    fixture.apply();
    assert_eq!(fixture.state(), ServerState::Down);
    assert_eq!(fixture.drain_ms(), Value::Null);
    let error = fixture
        .result("server.drain", ten_minutes())
        .expect_err("down");
    assert!(error.message.contains("is down"), "{error}");
}

#[test]
fn without_a_deadline_it_goes_on() {
    let mut fixture = Fixture::new();
    fixture.drain(ten_minutes()).expect("begun");
    fixture
        .drain(json!({"service": "web", "server": "a"}))
        .expect("begun anew");
    fixture.now += Duration::from_secs(86_400);
    fixture.step();
    assert!(fixture.workers.iter().all(|worker| worker.next().is_none()));
    assert_eq!(fixture.state(), ServerState::Draining);
}

#[test]
fn a_server_that_is_up_again_stays_up() {
    let mut fixture = Fixture::new();
    fixture.drain(ten_minutes()).expect("begun");
    let outcome = fixture.ask(
        "server.edit",
        json!({"service": "web", "server": "a", "state": "up"}),
    );
    fixture.done(outcome).expect("edited");
    fixture.now += Duration::from_secs(600);
    fixture.step();
    assert!(fixture.workers.iter().all(|worker| worker.next().is_none()));
    assert_eq!(fixture.state(), ServerState::Up);
}

#[test]
fn a_drain_that_cannot_be_is_refused() {
    let mut fixture = Fixture::new();
    for (params, part) in [
        (json!({"service": "web", "server": "b"}), "no server \"b\""),
        (
            json!({"service": "wbe", "server": "a"}),
            "no service \"wbe\"",
        ),
        (
            json!({"service": "web", "server": "a", "deadline": "soon"}),
            "deadline: ",
        ),
        (
            json!({"service": "web", "server": "a", "deadline": "8d"}),
            "at most \"7d\"",
        ),
    ] {
        let error = fixture
            .result("server.drain", params.clone())
            .expect_err("refused");
        assert!(error.message.contains(part), "{params}: {error}");
    }
    assert_eq!(fixture.state(), ServerState::Up);
}

#[test]
fn a_diff_changes_nothing_and_names_what_needs_a_restart() {
    let mut fixture = Fixture::new();
    let path = fixture.dir.path().join("other.toml");
    let text = CONFIG
        .replace("workers = 2", "workers = 3\nmemory = \"128M\"")
        .replace("\"a\"", "\"a\"\nweight = 2");
    std::fs::write(&path, text).expect("written");
    let before = fixture.result("config.get", json!({}));
    let diff = fixture.result("config.diff", json!({"path": path}));
    let expected = json!({
        "differences": [
            {"change": "changed", "key": "runtime.memory", "from": null, "to": "128M", "restart": true},
            {"change": "changed", "key": "runtime.workers", "from": 2, "to": 3, "restart": true},
            {"change": "changed", "key": "service[web].server[a].weight", "from": null, "to": 2, "restart": false},
        ],
        "restart": ["runtime.workers", "runtime.memory"],
        "warnings": [],
    });
    assert_eq!(diff, Ok(expected));
    assert_eq!(fixture.result("config.get", json!({})), before);
    assert!(fixture.workers.iter().all(|worker| worker.next().is_none()));
    let same = fixture.dir.path().join("fullgate.toml");
    let diff = fixture.result("config.diff", json!({"path": same}));
    assert_eq!(
        diff,
        Ok(json!({"differences": [], "restart": [], "warnings": []}))
    );
}
