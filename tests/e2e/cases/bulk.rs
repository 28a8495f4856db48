//! Many bytes and many connections.

use std::collections::HashSet;
use std::io::Read as _;
use std::net::{Shutdown, SocketAddrV4};
use std::sync::mpsc;
use std::time::Duration;

use super::{add, start_nginx, tally, workers};
use crate::Case;
use crate::harness::echo::TcpServer;
use crate::harness::http::{self, Client};
use crate::harness::machine;
use crate::harness::pattern;
use crate::harness::plan::{Plan, Protocol, Service};
use crate::harness::tcp;
use crate::harness::topology::Lab;

const TRANSFER: u64 = 1 << 30;
const CONNECTIONS: usize = 10_000;

pub fn list(cases: &mut Vec<Case>) {
    add(
        cases,
        "bulk::gigabyte_each_way",
        &workers(),
        gigabyte_each_way,
    );
    add(
        cases,
        "bulk::ten_thousand_connections",
        &workers(),
        ten_thousand_connections,
    );
}

fn gigabyte_each_way(plan: &Plan) {
    each_way(plan, TRANSFER);
}

/// Every byte arrives as it was sent, up and then down.
pub(super) fn each_way(plan: &Plan, bytes: u64) {
    let service = Service::new(plan, "t", Protocol::Tcp, 7000, &[1]);
    let lab = Lab::start(plan, std::slice::from_ref(&service));
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(lab.server(0), service.servers[0].address, move |s, peer| {
        let received = pattern::receive(s);
        tell.send((received, peer)).expect("the test listens");
        pattern::send(s, bytes);
    });
    lab.client().run(move || {
        let source = SocketAddrV4::new(plan.client(), 0);
        let mut stream = tcp::connect(source, service.vip()).expect("connect").stream;
        pattern::send(&stream, bytes);
        stream.shutdown(Shutdown::Write).expect("close the half");
        let (received, peer) = told.recv_timeout(Duration::from_secs(60)).expect("a count");
        assert_eq!(received, bytes);
        assert!(plan.is_local(*peer.ip()), "the server saw {peer}");
        assert_eq!(pattern::receive(&stream), bytes);
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    });
}

/// All are held at once, and all are alive: each answers a request after the
/// last of them was opened.
fn ten_thousand_connections(plan: &Plan) {
    machine::raise_file_limit(20_000);
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    lab.client().run(|| {
        let mut slowest = Duration::ZERO;
        let mut clients: Vec<Client> = (0..CONNECTIONS)
            .map(|number| {
                let client = Client::connect(plan.client(), web.vip())
                    .unwrap_or_else(|error| panic!("connection {number}: {error}"));
                slowest = slowest.max(client.connected_in);
                client
            })
            .collect();
        assert!(
            slowest < tcp::NO_TIMER,
            "the slowest took {slowest:?} to connect"
        );
        let answers = http::ask_in_waves(&mut clients);
        let peers: HashSet<_> = answers.iter().map(|a| (&a.server, a.peer)).collect();
        assert_eq!(peers.len(), CONNECTIONS, "two connections share a tuple");
        let spread = tally(answers.iter().map(|answer| answer.server.as_str()));
        assert_eq!(spread.len(), 3, "{spread:?}");
    });
    lab.assert_nothing_lost();
}
