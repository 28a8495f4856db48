//! Row 1: a client's segment that matches no connection is answered with a RST
//! at once, or, where its service says so, not at all.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::{
    CLIENT_PORT, Oracle, PORT, ask, connect, conntrack_timeouts, plan, read_error, require_counts,
    require_nothing_sent_again, require_reset, row, service, start, start_servers, wait_for,
};
use crate::Case;
use crate::harness::plan::{Plan, VIP};
use crate::harness::raw::{self, Raw};
use crate::harness::topology::Lab;

/// Connections that idle out in a second, of which nobody is told.
const FORGETFUL: &str = "on-expire = \"silent\"\n\
     timeouts = { established = \"1s\", closed = \"100ms\" }\n";

pub fn list(cases: &mut Vec<Case>) {
    row(
        cases,
        "row01_unknown_client",
        &plan(1),
        Oracle::Faulty,
        request_on_an_expired_connection,
    );
    row(
        cases,
        "row01_unknown_flow_drop",
        &plan(1),
        Oracle::Absent,
        unknown_flow_drop,
    );
}

/// Waits until the gateway has forgotten the connections of `FORGETFUL`.
fn expire(lab: &mut Lab) {
    conntrack_timeouts(lab, 1, &["established"]);
    wait_for(lab, "idled-out", 1, Duration::from_millis(2500));
    // The entry answers for itself a while before it is gone.
    std::thread::sleep(Duration::from_millis(300));
}

fn request_on_an_expired_connection(plan: &Plan) {
    let service = service(plan, FORGETFUL);
    let mut lab = start(plan, &service);
    conntrack_timeouts(&lab, 1, &["established"]);
    let _servers = start_servers(&lab, &service);
    let mut stream = connect(&lab, plan, CLIENT_PORT);
    ask(&stream);
    expire(&mut lab);
    let start = Instant::now();
    stream.write_all(b"?").expect("send");
    require_reset("a request on an expired connection", &stream, start);
    // And so the next one can be made at once.
    let stream = connect(&lab, plan, CLIENT_PORT);
    ask(&stream);
    require_nothing_sent_again(&lab);
    require_counts(
        &mut lab,
        &[("unknown-flow-client", 1), ("reset-unknown-client", 1)],
    );
}

/// The client is left alone; the segments are counted.
fn unknown_flow_drop(plan: &Plan) {
    let service = service(plan, &format!("unknown-flow = \"drop\"\n{FORGETFUL}"));
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    let mut stream = connect(&lab, plan, CLIENT_PORT);
    ask(&stream);
    expire(&mut lab);
    let stray = Raw {
        source: std::net::SocketAddrV4::new(plan.client(), CLIENT_PORT + 1),
        destination: std::net::SocketAddrV4::new(VIP, PORT),
        flags: "A",
        sequence: 1,
        acknowledgment: 1,
        payload: b"",
    };
    raw::send(lab.client(), &[stray; 3]);
    require_counts(
        &mut lab,
        &[("unknown-flow-client", 3), ("reset-unknown-client", 0)],
    );
    stream.write_all(b"?").expect("send");
    let limit = Duration::from_millis(1200);
    stream.set_read_timeout(Some(limit)).expect("set a timeout");
    let (error, _) = read_error(&stream, Instant::now());
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
}
