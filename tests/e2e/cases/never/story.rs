//! The two faults that this project comes from, as they were met.
//!
//! 1. A server closes an idle connection; the client, whose pool had kept it,
//!    closes its half minutes later. The balancer has forgotten the connection
//!    by then, and the FIN is never answered: the client hangs in its close.
//! 2. A client re-uses its source port right after closing. The balancer still
//!    has the old connection, and the first SYN is lost: one second.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{
    Body, CLIENT_PORT, Oracle, PATIENCE, PORT, ask, connect, conntrack_timeouts, count, plan,
    require_counts, require_nothing_sent_again, require_quick, row, service, start,
};
use crate::Case;
use crate::harness::capture::Capture;
use crate::harness::echo::TcpServer;
use crate::harness::plan::{Plan, VIP};
use crate::harness::tcp;
use crate::harness::topology::Lab;

/// Times in a row that a source port is used again.
const REUSES: usize = 3000;

pub fn list(cases: &mut Vec<Case>) {
    row(
        cases,
        "story1_client_closes_minutes_later",
        &plan(1),
        Oracle::Faulty,
        |plan| closes_later(plan, "reset"),
    );
    row(
        cases,
        "story1_client_closes_minutes_later_silent",
        &plan(1),
        Oracle::Faulty,
        |plan| closes_later(plan, "silent"),
    );
    row(
        cases,
        "story1_client_closes_in_time",
        &plan(1),
        Oracle::Sound,
        closes_in_time,
    );
    let variants: [(&str, Body); 4] = [
        ("server_closes", |plan| reuse(plan, true, true)),
        ("server_closes_no_timestamps", |plan| {
            reuse(plan, true, false)
        }),
        ("client_closes", |plan| reuse(plan, false, true)),
        ("client_closes_no_timestamps", |plan| {
            reuse(plan, false, false)
        }),
    ];
    for (variant, body) in variants {
        let name = format!("story2_source_port_reused_{variant}");
        row(cases, &name, &plan(2), Oracle::Varies, body);
    }
}

/// A server that answers one request and closes.
fn closing_servers(lab: &Lab, service: &crate::harness::plan::Service) -> Vec<TcpServer> {
    let start = |(index, server): (usize, &crate::harness::plan::Server)| {
        let name = server.name.clone();
        TcpServer::start(lab.server(index), server.address, move |mut stream, _| {
            let mut kind = [0];
            if stream.read_exact(&mut kind).is_err() {
                return;
            }
            let _ = stream.write_all(name.as_bytes());
            // `?` is for the server to close first, `c` for the client.
            if kind == *b"?" {
                let _ = stream.shutdown(Shutdown::Write);
            }
            let _ = stream.read(&mut [0]);
        })
    };
    service.servers.iter().enumerate().map(start).collect()
}

/// Closes as a client does that waits until its last words are acknowledged;
/// how long that took.
fn close(stream: std::net::TcpStream) -> Duration {
    SockRef::from(&stream)
        .set_linger(Some(PATIENCE))
        .expect("set SO_LINGER");
    let start = Instant::now();
    drop(stream);
    start.elapsed()
}

/// The connection idles beyond the gateway's timeout for half-closed ones.
/// Told of it or not, the client's close takes no time.
fn closes_later(plan: &Plan, on_expire: &str) {
    let service = service(
        plan,
        &format!(
            "on-expire = \"{on_expire}\"\n\
             timeouts = {{ half-closed = \"1s\", closed = \"100ms\" }}\n"
        ),
    );
    let mut lab = start(plan, &service);
    // Of the 60 s that conntrack really gives it.
    conntrack_timeouts(&lab, 1, &["close_wait"]);
    let _servers = closing_servers(&lab, &service);
    let stream = connect(&lab, plan, CLIENT_PORT);
    ask(&stream);
    let at_client = Capture::start(lab.client(), lab.directory(), "fg0");
    std::thread::sleep(Duration::from_millis(2500));
    require_quick("close", close(stream));
    // The next request of the same client.
    let stream = connect(&lab, plan, CLIENT_PORT);
    ask(&stream);
    let segments = at_client.stop_when(|segments| segments.iter().any(|s| s.length == 2));
    assert_eq!(segments.iter().filter(|s| s.is_syn()).count(), 1);
    require_nothing_sent_again(&lab);
    if on_expire == "reset" {
        require_counts(&mut lab, &[("reset-idle", 2), ("unknown-flow-client", 0)]);
    } else {
        require_counts(&mut lab, &[("reset-idle", 0), ("reset-unknown-client", 1)]);
    }
}

/// While the gateway knows the connection, the FIN reaches the server.
fn closes_in_time(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = closing_servers(&lab, &service);
    let stream = connect(&lab, plan, CLIENT_PORT);
    ask(&stream);
    std::thread::sleep(Duration::from_millis(500));
    require_quick("close", close(stream));
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("unknown-flow-client", 0), ("reset-idle", 0)]);
}

/// The same source port, again and again, without a pause.
fn reuse(plan: &Plan, server_closes: bool, timestamps: bool) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = closing_servers(&lab, &service);
    let client = lab.client();
    let value = if timestamps { "1" } else { "0" };
    client.sysctl("net/ipv4/tcp_timestamps", value);
    if !server_closes {
        // Else the client's own kernel keeps it from using its port again.
        client.sysctl("net/ipv4/tcp_max_tw_buckets", "0");
    }
    client.run(|| {
        let source = SocketAddrV4::new(plan.client(), CLIENT_PORT);
        let target = SocketAddrV4::new(VIP, PORT);
        for number in 0..REUSES {
            one_use(source, target, server_closes, number);
        }
    });
    require_nothing_sent_again(&lab);
    if lab.router().is_none() {
        let reused = count(&mut lab, "client-port-reused");
        // The last FIN of one connection and the SYN of the next may cross.
        assert!(reused > REUSES as u64 / 2, "{reused} of {REUSES}");
    }
    require_counts(&mut lab, &[("unknown-flow-client", 0)]);
}

fn one_use(source: SocketAddrV4, target: SocketAddrV4, server_closes: bool, number: usize) {
    let start = Instant::now();
    let connected = tcp::connect_within(PATIENCE, source, target);
    let connected = connected.unwrap_or_else(|error| {
        panic!("connection {number}: {error} after {:?}", start.elapsed());
    });
    require_quick(&format!("connect {number}"), connected.elapsed);
    let mut stream = connected.stream;
    let kind = if server_closes { b"?" } else { b"c" };
    stream.write_all(kind).expect("ask");
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).expect("an answer");
    if !server_closes {
        stream.shutdown(Shutdown::Write).expect("close");
    }
    assert_eq!(stream.read(&mut answer).expect("the server's end"), 0);
    require_quick(&format!("use {number}"), start.elapsed());
    assert_eq!(tcp::retransmissions(&stream), 0);
    // Until the FIN is acknowledged: the port must be free in the kernel.
    require_quick("close", close(stream));
}
