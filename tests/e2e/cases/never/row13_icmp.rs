//! Row 13: ICMP errors about translated packets reach whom they are about, so
//! that nobody retransmits into a black hole.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{
    CLIENT_PORT, Oracle, PORT, connect, plan, require_counts, require_quick,
    require_refused_datagram, row, service, start, wait_for,
};
use crate::Case;
use crate::harness::echo::TcpServer;
use crate::harness::pattern;
use crate::harness::plan::{Plan, Protocol, Service};
use crate::harness::tcp::{self, LIMIT};
use crate::harness::topology::NARROW_MTU;

const TRANSFER: u64 = 1 << 20;

pub fn list(cases: &mut Vec<Case>) {
    let far_server = Plan {
        far_server: true,
        ..plan(1)
    };
    let far_client = Plan {
        far_client: true,
        ..plan(1)
    };
    row(
        cases,
        "row13_too_big_to_the_server",
        &far_server,
        Oracle::Sound,
        to_the_server,
    );
    row(
        cases,
        "row13_too_big_to_the_client",
        &far_client,
        Oracle::Sound,
        to_the_client,
    );
    row(
        cases,
        "row13_port_unreachable",
        &plan(1),
        Oracle::Sound,
        port_unreachable,
    );
}

/// The narrow link is behind the gateway; the client hears of it.
fn to_the_server(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(lab.server(0), service.servers[0].address, move |s, _| {
        tell.send(pattern::receive(s)).expect("the test listens");
    });
    let stream = connect(&lab, plan, CLIENT_PORT);
    assert!(tcp::path_mtu(&stream) > NARROW_MTU, "nothing to discover");
    let start = Instant::now();
    pattern::send(&stream, TRANSFER);
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("close the half");
    assert_eq!(told.recv_timeout(LIMIT), Ok(TRANSFER));
    require_quick("the transfer", start.elapsed());
    assert_eq!(tcp::path_mtu(&stream), NARROW_MTU);
    wait_for(&mut lab, "icmp-translated", 1, Duration::ZERO);
}

/// The narrow link is before the gateway; the server hears of it.
fn to_the_client(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(lab.server(0), service.servers[0].address, move |s, _| {
        pattern::send(s, TRANSFER);
        tell.send(tcp::path_mtu(s)).expect("the test listens");
    });
    let stream = connect(&lab, plan, CLIENT_PORT);
    let start = Instant::now();
    assert_eq!(pattern::receive(&stream), TRANSFER);
    require_quick("the transfer", start.elapsed());
    assert_eq!(told.recv_timeout(LIMIT), Ok(NARROW_MTU));
    wait_for(&mut lab, "icmp-translated", 1, Duration::ZERO);
}

/// Nobody listens at the server, and the client hears that at once.
fn port_unreachable(plan: &Plan) {
    let service = Service::new(plan, "u", Protocol::Udp, PORT, &[1]);
    let mut lab = start(plan, &service);
    require_refused_datagram(&lab, plan);
    require_counts(&mut lab, &[("icmp-translated", 1), ("icmp-unmatched", 0)]);
}
