//! Row 7: a connection that idles out is reset at both ends when that happens,
//! not when somebody next tries to use it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{
    CLIENT_PORT, Oracle, PORT, connect, conntrack_timeouts, plan, read_error, require_counts,
    require_nothing_sent_again, row, service, start, try_connect,
};
use crate::Case;
use crate::harness::echo::TcpServer;
use crate::harness::plan::Plan;
use crate::harness::process::until;
use crate::harness::tcp::{LIMIT, NO_TIMER};

const TIMEOUT: Duration = Duration::from_secs(1);

pub fn list(cases: &mut Vec<Case>) {
    row(
        cases,
        "row07_idle_established",
        &plan(1),
        Oracle::Faulty,
        established,
    );
    row(
        cases,
        "row07_idle_half_closed",
        &plan(1),
        Oracle::Faulty,
        half_closed,
    );
    row(
        cases,
        "row07_idle_half_open",
        &plan(1),
        Oracle::Faulty,
        half_open,
    );
}

/// Requires something to have happened at the timeout.
fn require_at_timeout(what: &str, elapsed: Duration) {
    let earliest = TIMEOUT - Duration::from_millis(50);
    assert!(
        (earliest..TIMEOUT + NO_TIMER).contains(&elapsed),
        "{what} after {elapsed:?}"
    );
}

/// Both ends wait for the other, and both get ECONNRESET.
fn established(plan: &Plan) {
    let service = service(plan, "timeouts = { established = \"1s\" }\n");
    let mut lab = start(plan, &service);
    conntrack_timeouts(&lab, 1, &["established"]);
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(
        lab.server(0),
        service.servers[0].address,
        move |mut stream, _| {
            stream.read_exact(&mut [0]).expect("a request");
            stream.write_all(b"!").expect("answer");
            tell.send(read_error(stream, Instant::now()))
                .expect("the test listens");
        },
    );
    let mut stream = connect(&lab, plan, CLIENT_PORT);
    stream.write_all(b"?").expect("ask");
    stream.read_exact(&mut [0]).expect("an answer");
    let (error, elapsed) = read_error(&stream, Instant::now());
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionReset,
        "the client saw {error} after {elapsed:?}"
    );
    require_at_timeout("the client's reset", elapsed);
    let (error, elapsed) = told.recv_timeout(LIMIT).expect("the server's end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    require_at_timeout("the server's reset", elapsed);
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("idled-out", 1), ("reset-idle", 2)]);
}

/// The server has closed its half; the client, which is idle, gets an error on
/// its socket, and the server's is gone.
fn half_closed(plan: &Plan) {
    let service = service(plan, "timeouts = { half-closed = \"1s\" }\n");
    let mut lab = start(plan, &service);
    conntrack_timeouts(&lab, 1, &["close_wait"]);
    let (tell, told) = mpsc::channel();
    let _server = TcpServer::start(
        lab.server(0),
        service.servers[0].address,
        move |stream, _| {
            stream.shutdown(Shutdown::Write).expect("close the half");
            tell.send(read_error(stream, Instant::now()))
                .expect("the test listens");
        },
    );
    let mut stream = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(stream.read(&mut [0]).expect("the server's end"), 0);
    let start = Instant::now();
    until(super::PATIENCE, "an error on the client's socket", || {
        stream.take_error().expect("the socket's error")
    });
    require_at_timeout("the client's error", start.elapsed());
    let (error, elapsed) = told.recv_timeout(LIMIT).expect("the server's end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    require_at_timeout("the server's reset", elapsed);
    require_counts(&mut lab, &[("idled-out", 1), ("reset-idle", 2)]);
}

/// The only server never answers: the client hears it when the gateway gives
/// up, not minutes later.
fn half_open(plan: &Plan) {
    let service = service(plan, "timeouts = { half-open = \"1s\" }\n");
    let mut lab = start(plan, &service);
    conntrack_timeouts(&lab, 1, &["syn_sent"]);
    lab.server(0).nft(&format!(
        "table ip dead {{\nchain in {{ type filter hook input priority 0; \
         tcp dport {PORT} drop; }}\n}}\n"
    ));
    // Its SYNs are further apart than the timeout.
    lab.client().sysctl("net/ipv4/tcp_syn_linear_timeouts", "0");
    let start = Instant::now();
    let Err(error) = try_connect(&lab, plan, CLIENT_PORT) else {
        panic!("connected to nobody");
    };
    let elapsed = start.elapsed();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    // The SYN that the client sends again after a second counts as activity.
    let latest = 2 * TIMEOUT + NO_TIMER;
    assert!(elapsed < latest, "refused after {elapsed:?}");
    require_counts(&mut lab, &[("idled-out", 1)]);
}
