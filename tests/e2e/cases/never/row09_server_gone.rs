//! Row 9: the connections of a server that is removed or marked down are reset
//! at once, at both ends; those of one that drains go on.

use std::io::{Read as _, Write as _};
use std::net::SocketAddrV4;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{
    CLIENT_PORT, Oracle, PORT, ask, connect, plan, read_error, require_counts,
    require_nothing_sent_again, require_quick, row, service, start,
};
use crate::Case;
use crate::harness::echo::TcpServer;
use crate::harness::plan::{Plan, Service};
use crate::harness::tcp::{self, LIMIT};
use crate::harness::topology::Lab;

pub fn list(cases: &mut Vec<Case>) {
    row(
        cases,
        "row09_server_removed",
        &plan(1),
        Oracle::Faulty,
        removed,
    );
    row(cases, "row09_server_down", &plan(1), Oracle::Absent, down);
    row(
        cases,
        "row09_removed_before_its_answer",
        &plan(2),
        Oracle::Faulty,
        removed_before_its_answer,
    );
    row(
        cases,
        "row09_server_drained",
        &plan(2),
        Oracle::Absent,
        drained,
    );
}

fn removed(plan: &Plan) {
    gone(plan, |lab, service| {
        let mut without = service.clone();
        without.servers.clear();
        lab.gateway().apply(&[without]);
    });
}

fn down(plan: &Plan) {
    gone(plan, |lab, _| {
        let arguments = ["server", "edit", "t", "s0", "--state", "down"];
        lab.fullgate().ctl(&arguments);
    });
}

/// Client and server wait for each other when the server's entry in the
/// configuration goes.
fn gone(plan: &Plan, remove: impl FnOnce(&mut Lab, &Service)) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(
        lab.server(0),
        service.servers[0].address,
        move |mut stream, _| {
            stream.read_exact(&mut [0]).expect("a request");
            stream.write_all(b"s0").expect("answer");
            let (error, _) = read_error(stream, Instant::now());
            tell.send((error, Instant::now()))
                .expect("the test listens");
        },
    );
    let stream = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&stream), "s0");
    let client = lab.client().spawn(move || {
        let (error, _) = read_error(&stream, Instant::now());
        (error, Instant::now())
    });
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    remove(&mut lab, &service);
    let (error, at) = client.join().expect("the client's end");
    let elapsed = at.duration_since(start);
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionReset,
        "the client saw {error} after {elapsed:?}"
    );
    require_quick("the client's reset", elapsed);
    let (error, at) = told.recv_timeout(LIMIT).expect("the server's end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    require_quick("the server's reset", at.duration_since(start));
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("reset-server-gone", 2)]);
}

/// A server that is silent is removed: who waits for it goes to another.
fn removed_before_its_answer(plan: &Plan) {
    let service = service(plan, "syn-retry-after = \"0ms\"\n");
    let mut lab = start(plan, &service);
    let _server = super::start_server(&lab, &service, 1);
    lab.server(0).nft(&format!(
        "table ip dead {{\nchain in {{ type filter hook input priority 0; \
         ip daddr {} tcp dport {PORT} drop; }}\n}}\n",
        plan.server(0)
    ));
    let source = SocketAddrV4::new(plan.client(), CLIENT_PORT);
    let target = service.vip();
    let connecting = lab
        .client()
        .spawn(move || tcp::connect_within(super::PATIENCE, source, target));
    std::thread::sleep(Duration::from_millis(100));
    let mut without = service.clone();
    without.servers.remove(0);
    lab.gateway().apply(&[without]);
    let connected = connecting.join().expect("the client's thread");
    let connected = connected.expect("connect");
    require_quick("connect", connected.elapsed);
    assert_eq!(ask(&connected.stream), "s1");
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("syn-moved", 1), ("reset-server-gone", 0)]);
}

/// A draining server keeps its connection and gets no new one.
fn drained(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = super::start_servers(&lab, &service);
    let kept = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&kept), "s0");
    let arguments = ["server", "edit", "t", "s0", "--state", "draining"];
    lab.fullgate().ctl(&arguments);
    for turn in 1..6 {
        assert_eq!(ask(&connect(&lab, plan, CLIENT_PORT + turn)), "s1");
        assert_eq!(ask(&kept), "s0");
    }
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("reset-server-gone", 0)]);
}
