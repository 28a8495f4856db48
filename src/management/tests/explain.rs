//! `flow.explain`, with workers that the tests are.

use super::*;
use crate::conntrack::entry::{Direction, flag};
use crate::neighbor::Condition;
use crate::service::route::NextHop;
use crate::worker::message::probe::{Found, Hop};

const HOP: Hop = Hop {
    next: NextHop {
        port: PortIx(0),
        addr: Ipv4Addr::new(192, 0, 2, 254),
    },
    condition: Some(Condition::Known),
    mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
};

/// Asks, and has each worker change the question into its answer.
fn explain(
    fixture: &mut Fixture,
    source: &str,
    destination: &str,
    answer: impl Fn(usize, &mut Probe),
) -> api::Explained {
    let params = json!({"source": source, "destination": destination});
    let outcome = fixture.ask("flow.explain", params);
    for (ix, worker) in fixture.workers.iter().enumerate() {
        let Some(Command::Explain(mut probe)) = worker.next() else {
            panic!("no question")
        };
        answer(ix, &mut probe);
        worker.tell(Reply::Explained(probe));
    }
    fixture.step();
    let result = soon(&outcome).expect("an explanation");
    serde_json::from_value(result).expect("an explanation")
}

/// What every worker says of a service whose server can be used.
fn usable(_: usize, probe: &mut Probe) {
    probe.entries = (1, 100);
    probe.source_hop = Some(HOP);
    for candidate in &mut probe.candidates {
        candidate.sound = true;
        candidate.free_ports = 9;
        candidate.hop = Some(HOP);
    }
    probe.next = probe.candidates.first().map(|candidate| candidate.server);
}

#[test]
fn a_connection_is_told_by_whoever_has_it() {
    let mut fixture = Fixture::new();
    let snapshot = Arc::clone(fixture.management.state.snapshot());
    let owner = snapshot.steering.owner(
        [203, 0, 113, 1].into(),
        [198, 51, 100, 1].into(),
        40_000,
        80,
    );
    let has = |worker: usize| {
        move |ix: usize, probe: &mut Probe| {
            probe.now = Millis(1_500);
            if ix == worker {
                let mut entry = entry(1);
                entry.flags = flag::CLIENT_SEEN | flag::SERVER_SEEN;
                (entry.client_isn, entry.c_next, entry.c_acked) = (99, 300, 100);
                (entry.s_next, entry.s_acked) = (7, 7);
                probe.found = Some(Found {
                    entry,
                    direction: Direction::Reverse,
                    client_hop: Some(HOP),
                    server_hop: None,
                });
            }
        }
    };
    let (server, local) = ("192.0.2.101:8080", "192.0.2.10:1025");
    let told = explain(&mut fixture, server, local, has(1));
    assert_eq!(told.outcome, "connection");
    assert_eq!(told.service.as_deref(), Some("web"));
    let connection = told.connection.expect("a connection");
    assert_eq!(connection.direction, "server to client");
    assert_eq!(connection.connection.worker, 1);
    assert_eq!(connection.connection.idle_ms, 1_000);
    assert_eq!(connection.client_hash.worker, owner.0);
    let hop = connection.client_hop.expect("a next hop");
    assert_eq!(
        (hop.port.as_str(), hop.mac.as_deref(), hop.state.as_str()),
        ("wan", Some("02:00:00:00:00:09"), "known")
    );
    let tcp = connection.tcp.expect("TCP");
    assert_eq!(tcp.client_bytes, Some(200));
    assert_eq!(tcp.client.and_then(|side| side.unacknowledged), Some(200));
    assert_eq!(tcp.server.and_then(|side| side.unacknowledged), Some(0));

    let (client, vip) = ("203.0.113.1:40000", "198.51.100.1:80");
    let right = explain(&mut fixture, client, vip, has(owner.ix()));
    assert!(
        !right.meaning.contains("another worker"),
        "{}",
        right.meaning
    );
    let wrong = explain(&mut fixture, client, vip, has(1 - owner.ix()));
    assert!(
        wrong.meaning.contains("another worker"),
        "{}",
        wrong.meaning
    );
}

#[test]
fn a_new_flow_has_its_candidates() {
    let mut fixture = Fixture::new();
    let (client, vip) = ("203.0.113.1:40000", "198.51.100.1:80");
    // As the gateway sends it, too.
    for (source, destination) in [(client, vip), (vip, client)] {
        let told = explain(&mut fixture, source, destination, usable);
        assert_eq!(told.source.to_string(), client);
        assert_eq!(told.outcome, "new", "{}", told.meaning);
        assert_eq!(told.service.as_deref(), Some("web"));
        assert_eq!(told.next_server.as_deref(), Some("a"));
        assert!(told.candidates[0].next);
        assert_eq!(told.candidates[0].why_not, None);
        assert!(told.meaning.contains("with a reset"), "{}", told.meaning);
    }
    let full = explain(&mut fixture, client, vip, |ix, probe| {
        usable(ix, probe);
        probe.entries = (100, 100);
    });
    assert!(full.meaning.contains("table is full"), "{}", full.meaning);
    let lost = explain(&mut fixture, client, vip, |ix, probe| {
        usable(ix, probe);
        probe.source_hop = None;
    });
    assert!(lost.meaning.contains("no-route"), "{}", lost.meaning);
}

#[test]
fn each_drop_has_its_reason() {
    let mut fixture = Fixture::new();
    let client = "203.0.113.1:40000";
    for (destination, expected) in [
        ("198.51.100.1:81", "no-service"),
        ("198.51.100.2:80", "not-local-address"),
        ("192.0.2.1:22", "no-service"),
        ("192.0.2.10:1025", "unknown-flow-server"),
    ] {
        let told = explain(&mut fixture, client, destination, usable);
        assert_eq!(told.outcome, "drop", "{destination}");
        assert_eq!(told.reason.as_deref(), Some(expected), "{destination}");
        assert!(told.candidates.is_empty());
    }
    let vip = "198.51.100.1:80";
    let told = explain(&mut fixture, client, vip, |ix, probe| {
        usable(ix, probe);
        probe.next = None;
        probe.candidates[0].sound = false;
    });
    assert_eq!(told.reason.as_deref(), Some("no-server"));
    let why = told.candidates[0].why_not.as_deref();
    assert_eq!(why, Some("failed SYNs of this worker"));
    let told = explain(&mut fixture, client, vip, |ix, probe| {
        usable(ix, probe);
        probe.candidates[0].free_ports = 0;
    });
    assert_eq!(told.reason.as_deref(), Some("no-local-port"));
    let told = explain(&mut fixture, client, vip, |ix, probe| {
        usable(ix, probe);
        probe.candidates[0].hop = None;
    });
    assert_eq!(told.reason.as_deref(), Some("no-route"));
    let wrong = json!({"source": client, "destination": vip, "protocol": "icmp"});
    let error = fixture.result("flow.explain", wrong).expect_err("refused");
    assert!(
        error.message.starts_with("protocol: is \"icmp\""),
        "{error}"
    );
}
