//! The metrics as a scraper sees them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;
use crate::ids::ServiceIx;
use crate::stats::readings::Level;
use crate::stats::{DropReason, EndCause, Event};

struct Full;

impl Level for Full {
    fn used(&self) -> u64 {
        30
    }

    fn capacity(&self) -> u64 {
        100
    }
}

fn free_socket() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    (listener, addr)
}

fn served_at(addr: SocketAddr) -> String {
    format!("{CONFIG}\n[metrics]\nlisten = \"{addr}\"\n")
}

fn served() -> (Fixture, SocketAddr) {
    served_with(served_at)
}

fn served_with(text: impl FnOnce(SocketAddr) -> String) -> (Fixture, SocketAddr) {
    let (listener, addr) = free_socket();
    let setup = metrics::Setup {
        listener: Some(listener),
        handovers: vec![vec![Arc::new(Full)], vec![Arc::new(Full)]],
        mempools: vec![("packets".into(), Arc::new(Full))],
    };
    (Fixture::with(&text(addr), setup), addr)
}

/// The body of the metrics at `addr`.
fn scrape(addr: SocketAddr) -> String {
    let mut stream = TcpStream::connect(addr).expect("connected");
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (header, body) = answer.split_once("\r\n\r\n").expect("a header");
    assert!(header.starts_with("HTTP/1.1 200 "), "{header}");
    body.to_owned()
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
}

/// Answers the question for local ports that is out.
fn count_ports(fixture: &mut Fixture, used: u32) {
    for worker in &fixture.workers {
        let Some(Command::Pools(mut scan)) = worker.next() else {
            panic!("no question")
        };
        let wanted = scan.wanted.iter();
        scan.found.extend(wanted.map(|&set| SetUse {
            set,
            capacity: 100,
            used,
            resting: 5,
            failures: 0,
            out: false,
        }));
        worker.tell(Reply::Pools(scan));
    }
    fixture.step();
}

#[test]
fn counters_are_shown() {
    let (fixture, addr) = served();
    for (worker, n) in fixture.management.stats.iter().zip([1, 10]) {
        worker.drop_counter(DropReason::NoRoute).add(n);
        worker.event(Event::ResetIdle).add(n);
        worker.port(PortIx(0)).tx_bytes.add(n);
        worker.server(ServerIx(0)).out_bytes.add(n);
        worker.server(ServerIx(0)).active.add(n);
        worker.service(ServiceIx(0)).no_local_port.add(n);
        worker.service(ServiceIx(0)).ended(EndCause::Reset).add(n);
        worker.service(ServiceIx(0)).connect.note(n as u32);
        worker.connections.set(n);
        worker.generation.set(1);
    }
    let text = scrape(addr);
    for line in [
        "fullgate_dropped_packets_total{worker=\"1\",reason=\"no-route\"} 10",
        "fullgate_events_total{worker=\"0\",event=\"reset-idle\"} 1",
        "fullgate_port_bytes_total{port=\"wan\",worker=\"1\",direction=\"tx\"} 10",
        "fullgate_port_lost_packets_total{port=\"wan\",reason=\"rx-missed\"} 3",
        "fullgate_port_up{port=\"wan\"} 1",
        "fullgate_server_bytes_total{service=\"web\",server=\"a\",direction=\"out\"} 11",
        "fullgate_server_connections{service=\"web\",server=\"a\",state=\"active\"} 11",
        "fullgate_server_state{service=\"web\",server=\"a\",state=\"up\"} 1",
        "fullgate_server_state{service=\"web\",server=\"a\",state=\"down\"} 0",
        "fullgate_server_info{service=\"web\",server=\"a\",address=\"192.0.2.101:8080\"} 1",
        "fullgate_service_refused_connections_total{service=\"web\",reason=\"no-local-port\"} 11",
        "fullgate_service_ended_connections_total{service=\"web\",cause=\"reset\"} 11",
        "fullgate_service_ended_connections_total{service=\"web\",cause=\"closed\"} 0",
        "fullgate_service_connect_duration_seconds_bucket{service=\"web\",le=\"0.001\"} 1",
        "fullgate_service_connect_duration_seconds_bucket{service=\"web\",le=\"+Inf\"} 2",
        "fullgate_service_connect_duration_seconds_sum{service=\"web\"} 0.011",
        "fullgate_worker_connections{worker=\"1\"} 10",
        "fullgate_worker_connections_limit{worker=\"0\"} 1000000",
        "fullgate_worker_config_generation{worker=\"1\"} 1",
        "fullgate_worker_ring_entries{worker=\"1\",ring=\"handover\"} 30",
        "fullgate_worker_ring_entries_limit{worker=\"0\",ring=\"replies\"} 4096",
        "fullgate_packet_buffers{mempool=\"packets\",state=\"free\"} 70",
        "fullgate_config_generation 1",
        "fullgate_config_last_reload_successful 1",
    ] {
        has(&text, line);
    }
    assert!(text.contains("fullgate_build_info{version=\""), "{text}");
}

#[test]
fn local_ports_are_looked_at_while_somebody_can_see_them() {
    let (mut fixture, addr) = served();
    count_ports(&mut fixture, 80);
    let towards = "pool=\"local\",server=\"192.0.2.101:8080\",protocol=\"tcp\"";
    let text = scrape(addr);
    has(
        &text,
        &format!("fullgate_pool_ports{{{towards},state=\"used\"}} 320"),
    );
    has(
        &text,
        &format!("fullgate_pool_ports_free_lowest_ratio{{{towards}}} 0.15"),
    );
    fixture.step();
    assert!(fixture.workers[0].next().is_none(), "not yet again");
    fixture.now += SAMPLE_EVERY;
    fixture.step();
    count_ports(&mut fixture, 0);
    let text = scrape(addr);
    has(
        &text,
        &format!("fullgate_pool_ports{{{towards},state=\"free\"}} 380"),
    );
    has(
        &text,
        &format!("fullgate_pool_ports_free_lowest{{{towards}}} 60"),
    );

    let mut unseen = Fixture::new();
    unseen.now += SAMPLE_EVERY;
    unseen.step();
    assert!(unseen.workers[0].next().is_none());
}

#[test]
fn a_reload_moves_and_closes_the_endpoint() {
    let (mut fixture, first) = served();
    count_ports(&mut fixture, 0);
    let path = fixture.dir.path().join("fullgate.toml");
    let reload = |fixture: &mut Fixture| {
        let outcome = fixture.ask("reload", json!({}));
        for worker in &mut fixture.workers {
            if let Some(Command::Apply(update)) = worker.next() {
                worker.put_in_force(update);
            }
        }
        fixture.step();
        outcome.try_recv().expect("answered")
    };
    std::fs::write(&path, "wrong").expect("written");
    reload(&mut fixture).expect_err("refused");
    has(&scrape(first), "fullgate_config_last_reload_successful 0");

    let (taken, second) = free_socket();
    std::fs::write(&path, served_at(second)).expect("written");
    let error = reload(&mut fixture).expect_err("in use");
    assert!(error.message.starts_with("metrics.listen: "), "{error}");
    has(&scrape(first), "fullgate_config_generation 1");
    drop(taken);
    reload(&mut fixture).expect("in force");
    assert!(TcpStream::connect(first).is_err());
    has(&scrape(second), "fullgate_config_last_reload_successful 1");

    std::fs::write(&path, CONFIG).expect("written");
    reload(&mut fixture).expect("in force");
    assert!(TcpStream::connect(second).is_err());
}

#[test]
fn health_is_shown() {
    let (mut fixture, addr) = served_with(health::checked_and_served_at);
    count_ports(&mut fixture, 0);
    fixture.checks_end_with_a_verdict_after(Duration::from_millis(3));
    let text = scrape(addr);
    for line in [
        "fullgate_health_up{service=\"web\",server=\"a\"} 1",
        "fullgate_health_up{service=\"web\",server=\"b\"} 1",
        "fullgate_health_weight_ratio{service=\"web\",server=\"a\"} 1",
        "fullgate_health_checks_total{service=\"web\",server=\"a\",result=\"unmade\"} 0",
        "fullgate_health_transitions_total{service=\"web\",server=\"b\",to=\"down\"} 0",
        "fullgate_health_check_failures_total{service=\"web\",cause=\"no-answer\"} 0",
        "fullgate_health_check_duration_seconds_count{service=\"web\"} 0",
        "fullgate_health_change_delay_seconds_bucket{le=\"0.0025\"} 0",
        "fullgate_health_change_delay_seconds_bucket{le=\"0.005\"} 1",
        "fullgate_health_change_delay_seconds_bucket{le=\"+Inf\"} 1",
        "fullgate_health_change_delay_seconds_sum 0.003",
    ] {
        has(&text, line);
    }
}

/// Names of ours in a text.
fn names(text: &str) -> BTreeSet<String> {
    let word = |byte: char| byte.is_ascii_lowercase() || byte == '_';
    let starts = text.match_indices("fullgate_").map(|(at, _)| &text[at..]);
    let names = starts.map(|rest| rest.chars().take_while(|&c| word(c)).collect());
    names.collect()
}

#[test]
fn dashboard_and_alerts_name_metrics_that_exist() {
    let (mut fixture, addr) = served_with(health::checked_and_served_at);
    count_ports(&mut fixture, 0);
    let text = scrape(addr);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let shown: BTreeSet<String> = samples.flat_map(names).collect();
    let dashboard = include_str!("../../../config/grafana/fullgate.json");
    let parsed: Value = serde_json::from_str(dashboard).expect("JSON");
    let panels = parsed["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let queries: Vec<&str> = targets
        .flatten()
        .map(|target| target["expr"].as_str().expect("a query"))
        .collect();
    assert!(queries.len() > 30, "{queries:?}");
    for query in queries {
        let named = names(query);
        assert!(!named.is_empty(), "{query}");
        assert!(named.is_subset(&shown), "{query}");
    }
    let alerts = include_str!("../../../config/prometheus/alerts.yml");
    let named = names(alerts);
    assert!(named.len() > 10);
    let unknown: Vec<_> = named.difference(&shown).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // And what of it nobody looks at, the page at least explains.
    let page = include_str!("../../../docs/metrics.md");
    for alert in alerts
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- alert: "))
    {
        assert!(page.contains(&format!("| `{alert}` |")), "{alert}");
    }
}
