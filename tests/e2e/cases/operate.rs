//! What operators do while clients go on: add and remove services and servers,
//! reload, look at the tables, stop.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::{add, both, fullgate, start_nginx};
use crate::Case;
use crate::harness::http::{self, Client, Load};
use crate::harness::nginx::Nginx;
use crate::harness::plan::{Plan, Protocol, Service};
use crate::harness::process::until;
use crate::harness::tcp::{LIMIT, NO_TIMER};
use crate::harness::topology::Lab;

const CLIENTS: usize = 4;

pub fn list(cases: &mut Vec<Case>) {
    let fullgate = fullgate();
    add(
        cases,
        "operate::reload_under_load",
        &both(),
        reload_under_load,
    );
    add(
        cases,
        "operate::hang_up_under_load",
        &fullgate,
        hang_up_under_load,
    );
    add(
        cases,
        "operate::server_under_load",
        &fullgate,
        server_under_load,
    );
    add(
        cases,
        "operate::service_under_load",
        &fullgate,
        service_under_load,
    );
    add(
        cases,
        "operate::drain_under_load",
        &fullgate,
        drain_under_load,
    );
    add(cases, "operate::diff_and_save", &fullgate, diff_and_save);
    add(cases, "operate::tables", &fullgate, tables);
    add(cases, "operate::stops_cleanly", &fullgate, stops_cleanly);
    add(
        cases,
        "operate::output_that_nobody_takes",
        &fullgate[..1],
        output_that_nobody_takes,
    );
}

/// No request failed and none waited for a timer.
fn check(plan: &Plan, lab: &Lab, load: Load) {
    let outcome = load.stop();
    assert!(
        outcome.failures.is_empty(),
        "{} of {} requests failed, the first: {}",
        outcome.failures.len(),
        outcome.failures.len() + outcome.answers.len(),
        outcome.failures[0]
    );
    let slow: Vec<Duration> = outcome
        .answers
        .iter()
        .map(|a| a.elapsed)
        .filter(|&elapsed| elapsed >= NO_TIMER)
        .collect();
    assert!(slow.is_empty(), "slow requests: {slow:?}");
    lab.assert_nothing_lost();
    assert!(
        outcome
            .answers
            .iter()
            .all(|answer| plan.is_local(*answer.peer.ip()))
    );
}

/// A web service of two servers and a third that waits, and clients at it.
fn web(plan: &Plan) -> (Service, Service) {
    let all = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let mut two = all.clone();
    two.servers.truncate(2);
    (all, two)
}

/// Whether all the clients' recent answers come from exactly these servers.
fn wait_for_servers(load: &Load, names: &[&str]) {
    until(LIMIT, &format!("answers from {names:?} alone"), || {
        load.servers_seen();
        load.progress(6);
        (load.servers_seen() == names).then_some(())
    });
}

/// A server comes and one goes, and a second service comes and goes, each by
/// replacing the whole configuration.
fn reload_under_load(plan: &Plan) {
    let (all, two) = web(plan);
    let other = Service::new(plan, "other", Protocol::Tcp, 8080, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&two));
    let _servers = start_nginx(&lab, &all);
    let _other = start_other(&lab, &other);
    let load = Load::start(lab.client(), plan.client(), all.vip(), CLIENTS);
    wait_for_servers(&load, &["s0", "s1"]);

    lab.gateway().apply(&[all.clone(), other.clone()]);
    wait_for_servers(&load, &["s0", "s1", "s2"]);
    lab.client()
        .run(|| http::one_shot(plan.client(), other.vip()))
        .expect("the new service");

    let mut draining = all.clone();
    draining.servers[0].weight = 0;
    lab.gateway().apply(std::slice::from_ref(&draining));
    wait_for_servers(&load, &["s1", "s2"]);
    draining.servers.remove(0);
    lab.gateway().apply(std::slice::from_ref(&draining));
    load.progress(10);
    check(plan, &lab, load);
}

/// The same server twice on two ports of one namespace.
fn start_other(lab: &Lab, other: &Service) -> Nginx {
    let server = &other.servers[0];
    Nginx::start(lab.server(0), lab.directory(), "other", server.address)
}

/// SIGHUP, again and again: nothing lost, and a wrong file changes nothing.
fn hang_up_under_load(plan: &Plan) {
    let (all, two) = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&two));
    let _servers = start_nginx(&lab, &all);
    let load = Load::start(lab.client(), plan.client(), all.vip(), CLIENTS);
    let mut held = lab
        .client()
        .run(|| Client::connect(plan.client(), all.vip()))
        .expect("a connection to keep");
    let first = held.get(true).expect("a request on it");

    lab.fullgate().hang_up(std::slice::from_ref(&all));
    wait_for_servers(&load, &["s0", "s1", "s2"]);
    for _ in 0..20 {
        lab.fullgate().hang_up(std::slice::from_ref(&all));
        load.progress(2);
    }
    let mut wrong = all.clone();
    wrong.servers[1].name = wrong.servers[0].name.clone();
    lab.fullgate().hang_up(std::slice::from_ref(&wrong));
    load.progress(10);
    wait_for_servers(&load, &["s0", "s1", "s2"]);
    let again = held.get(true).expect("a request on the kept connection");
    assert_eq!((again.server, again.peer), (first.server, first.peer));
    check(plan, &lab, load);
}

/// A server is added, drained and removed through `fullgatectl`.
fn server_under_load(plan: &Plan) {
    let (all, two) = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&two));
    let _servers = start_nginx(&lab, &all);
    let load = Load::start(lab.client(), plan.client(), all.vip(), CLIENTS);
    wait_for_servers(&load, &["s0", "s1"]);
    let third = all.servers[2].address.to_string();
    lab.fullgate().ctl(&[
        "server", "add", "web", &third, "--name", "s2", "--weight", "1",
    ]);
    wait_for_servers(&load, &["s0", "s1", "s2"]);
    lab.fullgate()
        .ctl(&["server", "edit", "web", "s0", "--weight", "0"]);
    wait_for_servers(&load, &["s1", "s2"]);
    lab.fullgate().ctl(&["server", "del", "web", "s0"]);
    load.progress(10);
    check(plan, &lab, load);
}

/// A server is drained: its connection goes on until the deadline and is reset
/// then, nobody else's notices anything, and who drains sees how far it is.
fn drain_under_load(plan: &Plan) {
    let (all, _) = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&all));
    let _servers = start_nginx(&lab, &all);
    let load = Load::start(lab.client(), plan.client(), all.vip(), CLIENTS);
    wait_for_servers(&load, &["s0", "s1", "s2"]);
    let mut held = lab
        .client()
        .run(|| Client::connect(plan.client(), all.vip()))
        .expect("a connection to keep");
    let name = held.get(true).expect("a request on it").server;
    lab.fullgate()
        .ctl(&["server", "drain", "web", &name, "--no-wait"]);
    let others: Vec<&str> = ["s0", "s1", "s2"]
        .into_iter()
        .filter(|other| *other != name)
        .collect();
    wait_for_servers(&load, &others);
    held.get(true).expect("a request while it drains");
    let said = lab
        .fullgate()
        .ctl(&["server", "drain", "web", &name, "--deadline", "2s"]);
    assert!(
        said.starts_with(&format!("{name}: draining, 1 active")),
        "{said}"
    );
    assert!(said.ends_with("is down\n"), "{said}");
    held.get(true).expect_err("a request after the deadline");
    load.progress(10);
    check(plan, &lab, load);
}

/// `diff` foretells what `reload` does, and `save` leaves nothing to foretell.
fn diff_and_save(plan: &Plan) {
    let (all, two) = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&two));
    let file = lab.fullgate().config().file.clone();
    let path = file.to_str().expect("a path of text");
    let third = all.servers[2].address.to_string();
    lab.fullgate().ctl(&["server", "add", "web", &third]);
    let said = lab.fullgate().ctl(&["diff", path]);
    assert!(
        said.starts_with(&format!("- service[web].server[{third}]: ")),
        "{said}"
    );
    lab.fullgate().ctl(&["save"]);
    assert_eq!(lab.fullgate().ctl(&["diff", path]), "no differences\n");
    lab.fullgate().ctl(&["reload"]);
    assert!(lab.fullgate().ctl(&["show", "services"]).contains(&third));
}

/// A service is added, used and removed through `fullgatectl` while another
/// one is under load.
fn service_under_load(plan: &Plan) {
    let (all, _) = web(plan);
    let other = Service::new(plan, "other", Protocol::Tcp, 8080, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&all));
    let _servers = start_nginx(&lab, &all);
    let _other = start_other(&lab, &other);
    let load = Load::start(lab.client(), plan.client(), all.vip(), CLIENTS);
    load.progress(5);
    let (vip, server) = (
        other.vip().to_string(),
        other.servers[0].address.to_string(),
    );
    for _ in 0..3 {
        lab.fullgate().ctl(&[
            "service",
            "add",
            "other",
            "--vip",
            &vip,
            "--protocol",
            "tcp",
        ]);
        lab.fullgate().ctl(&[
            "server", "add", "other", &server, "--name", "s0", "--weight", "1",
        ]);
        let answer = lab
            .client()
            .run(|| http::one_shot(plan.client(), other.vip()));
        let answer = answer.expect("the new service");
        assert!(answer.elapsed < NO_TIMER, "{:?}", answer.elapsed);
        lab.fullgate().ctl(&["service", "del", "other"]);
        load.progress(5);
    }
    check(plan, &lab, load);
}

/// Every table says what is there, to people and to programs.
fn tables(plan: &Plan) {
    let (all, _) = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&all));
    let _servers = start_nginx(&lab, &all);
    let held: Vec<Client> = lab.client().run(|| {
        (0..6)
            .map(|_| {
                let mut client = Client::connect(plan.client(), all.vip()).expect("connect");
                client.get(true).expect("a request");
                client
            })
            .collect()
    });
    let gateway = lab.fullgate();
    gateway.call("ping", json!({})).expect("the ping method");
    gateway
        .call("no-such-method", json!({}))
        .expect_err("an unknown method");
    for table in [
        "services",
        "connections",
        "workers",
        "ports",
        "drops",
        "pools",
        "neighbors",
    ] {
        assert!(
            gateway.ctl(&["show", table]).lines().count() > 1,
            "show {table}"
        );
        let value = gateway.show(table);
        assert!(value.is_array() || value.is_object(), "{table}: {value}");
    }
    let services = gateway.ctl(&["show", "services"]);
    for text in ["web", "10.1.0.100:80", "10.2.0.101:80", "10.2.0.103:80"] {
        assert!(services.contains(text), "{text} in\n{services}");
    }
    let connections = gateway.ctl(&["show", "connections"]);
    for client in &held {
        let port = client.stream().local_addr().expect("an address").port();
        assert!(
            connections.contains(&format!("10.1.0.2:{port}")),
            "{port} in\n{connections}"
        );
    }
    assert!(!gateway.try_ctl(&["show", "nonsense"]).status.success());
}

/// SIGTERM ends it with status 0, and its socket and ports are gone.
fn stops_cleanly(plan: &Plan) {
    let (all, _) = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&all));
    let _servers = start_nginx(&lab, &all);
    lab.client()
        .run(|| http::one_shot(plan.client(), all.vip()))
        .expect("a request");
    let status = lab.fullgate().terminate();
    assert_eq!(
        status.code(),
        Some(0),
        "{status}:\n{}",
        lab.fullgate().output()
    );
    let output = lab.fullgate().output();
    let complaint = output
        .lines()
        .find(|line| ["WARN", "ERROR"].iter().any(|level| line.contains(level)));
    assert_eq!(complaint, None, "a clean stop:\n{output}");
    assert!(
        !lab.fullgate().config().socket.exists(),
        "the admin socket is still there"
    );
    let device = lab
        .client()
        .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
    assert!(
        !device.expect("a list of devices").contains("fg0:"),
        "the port is still there"
    );
}

/// A reader that has seen enough ends `fullgatectl` quietly; a full disk is said.
fn output_that_nobody_takes(plan: &Plan) {
    let (all, _) = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&all));
    let run = |socket: &Path, to: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fullgatectl"));
        command.arg("--socket").arg(socket).args(["show", "config"]);
        let output = command.stdout(to).output().expect("start fullgatectl");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let socket = lab.fullgate().config().socket.clone();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(run(&socket, writer.into()), (Some(0), String::new()));
    let full = File::create("/dev/full").expect("/dev/full");
    let (code, said) = run(&socket, full.into());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("fullgatectl: standard output: "), "{said}");
}
