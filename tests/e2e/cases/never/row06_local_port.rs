//! Row 6: local ports have to be used again while the server still holds their
//! last connections in TIME_WAIT. The gateway has one local address with 1024
//! ports towards one server, and the server closes first: from the 1025th
//! connection on, each takes a port that rests.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use super::{Oracle, PATIENCE, PORT, count, plan, require_quick, row, service, start};
use crate::Case;
use crate::harness::echo::TcpServer;
use crate::harness::pattern;
use crate::harness::plan::{Plan, VIP};
use crate::harness::tcp;
use crate::harness::topology::Lab;

const PORTS: u64 = 1024;
const CONNECTIONS: u64 = 3000;

/// Hosts with a clock each, as the server sees it: Linux offsets its
/// timestamps by a secret of the two addresses.
const CLIENTS: u8 = 8;

/// What one connection moves that is then followed on the same local port.
const LARGE: u64 = 256 << 20;

pub fn list(cases: &mut Vec<Case>) {
    let plan = Plan {
        local_addresses: 1,
        local_ports: 1024..=2047,
        ..plan(1)
    };
    row(
        cases,
        "row06_local_port",
        &plan,
        Oracle::Faulty,
        with_timestamps,
    );
    row(
        cases,
        "row06_local_port_no_timestamps",
        &plan,
        Oracle::Varies,
        without_timestamps,
    );
    row(
        cases,
        "row06_local_port_after_bulk",
        &plan,
        Oracle::Absent,
        after_bulk,
    );
}

fn with_timestamps(plan: &Plan) {
    let mut lab = prepare(plan, true);
    let _server = closing_server(&lab, plan);
    run(&mut lab, CONNECTIONS);
}

fn without_timestamps(plan: &Plan) {
    let mut lab = prepare(plan, false);
    let _server = closing_server(&lab, plan);
    run(&mut lab, CONNECTIONS);
}

fn prepare(plan: &Plan, timestamps: bool) -> Lab {
    let lab = start(plan, &service(plan, ""));
    let addresses: Vec<String> = (1..CLIENTS)
        .map(|host| format!("addr add {}/24 dev fg0", client(host)))
        .collect();
    lab.client().ip(&addresses);
    let value = if timestamps { "1" } else { "0" };
    lab.client().sysctl("net/ipv4/tcp_timestamps", value);
    lab
}

fn client(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, 2 + host)
}

/// Answers a request with 1 KiB of the pattern and closes first. A request
/// that begins with `L` asks for nothing, but brings `LARGE` bytes.
fn closing_server(lab: &Lab, plan: &Plan) -> TcpServer {
    let address = SocketAddrV4::new(plan.server(0), PORT);
    TcpServer::start(lab.server(0), address, |mut stream, _| {
        let mut kind = [0];
        if stream.read_exact(&mut kind).is_err() {
            return;
        }
        if kind == *b"L" {
            assert_eq!(pattern::receive(stream), LARGE);
        }
        pattern::send(stream, 1024);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0]);
    })
}

/// One connection after the other; each as quick as the first.
fn run(lab: &mut Lab, connections: u64) {
    let before = lab
        .router()
        .is_none()
        .then(|| count(lab, "local-port-stolen"));
    let sent_again = lab.retransmissions();
    lab.client().run(|| {
        for number in 0..connections {
            let host = (number % u64::from(CLIENTS)) as u8;
            require_quick(&format!("connection {number}"), one_connection(host));
        }
    });
    assert_eq!(lab.retransmissions(), sent_again, "segments sent again");
    if let Some(before) = before {
        let stolen = count(lab, "local-port-stolen") - before;
        assert!(stolen >= connections - PORTS, "{stolen} stolen");
    }
}

fn one_connection(host: u8) -> Duration {
    let start = Instant::now();
    let mut stream = open(host).unwrap_or_else(|error| {
        panic!("{error} after {:?}", start.elapsed());
    });
    stream.write_all(b"?").expect("ask");
    assert_eq!(pattern::receive(&stream), 1024);
    let elapsed = start.elapsed();
    assert_eq!(tcp::retransmissions(&stream), 0);
    elapsed
}

fn open(host: u8) -> std::io::Result<TcpStream> {
    let source = SocketAddrV4::new(client(host), 0);
    let target = SocketAddrV4::new(VIP, PORT);
    Ok(tcp::connect_within(PATIENCE, source, target)?.stream)
}

/// A connection whose numbers are translated moves `LARGE` bytes to the
/// server; its port is then used again and again.
fn after_bulk(plan: &Plan) {
    let mut lab = prepare(plan, true);
    let _server = closing_server(&lab, plan);
    run(&mut lab, PORTS + 16);
    lab.client().run(|| {
        let mut stream = open(3).expect("connect");
        stream.write_all(b"L").expect("announce");
        pattern::send(&stream, LARGE);
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("close the half");
        assert_eq!(pattern::receive(&stream), 1024);
    });
    run(&mut lab, 2 * PORTS);
}
