//! Row 4: a SYN whose server does not answer, or refuses, goes to another one
//! before the client's timer runs out.

use std::time::Instant;

use super::{
    CLIENT_PORT, Oracle, PORT, ask, connect, plan, require_counts, require_nothing_sent_again, row,
    service, start, start_server, try_connect,
};
use crate::Case;
use crate::harness::capture::Capture;
use crate::harness::plan::Plan;

pub fn list(cases: &mut Vec<Case>) {
    row(
        cases,
        "row04_silent_server",
        &plan(2),
        Oracle::Faulty,
        silent_server,
    );
    row(
        cases,
        "row04_late_server",
        &plan(2),
        Oracle::Faulty,
        late_server,
    );
    row(
        cases,
        "row04_refusing_server",
        &plan(2),
        Oracle::Faulty,
        refusing_server,
    );
    // From another local address a server is asked once more.
    let one_local = Plan {
        local_addresses: 1,
        ..plan(2)
    };
    row(
        cases,
        "row04_all_refuse",
        &one_local,
        Oracle::Sound,
        all_refuse,
    );
}

/// The first server's host is dead: nothing comes back.
fn silent_server(plan: &Plan) {
    let service = service(plan, "fail-after = 0\n");
    let mut lab = start(plan, &service);
    let _server = start_server(&lab, &service, 1);
    lab.server(0).nft(&format!(
        "table ip dead {{\nchain in {{ type filter hook input priority 0; \
         ip daddr {} tcp dport {PORT} drop; }}\n}}\n",
        plan.server(0)
    ));
    for turn in 0..4 {
        let stream = connect(&lab, plan, CLIENT_PORT + turn);
        assert_eq!(ask(&stream), "s1");
    }
    require_nothing_sent_again(&lab);
    // Each took the dead server's turn and the living one's.
    require_counts(&mut lab, &[("syn-moved", 4)]);
}

/// The first server answers after its connection has gone to another: it is
/// reset, and keeps nothing.
fn late_server(plan: &Plan) {
    let service = service(plan, "fail-after = 0\n");
    let mut lab = start(plan, &service);
    let _servers = super::start_servers(&lab, &service);
    lab.server(0).nft(&format!(
        "table ip slow {{\nchain out {{ type filter hook output priority 0; \
         ip saddr {} tcp sport {PORT} drop; }}\n}}\n",
        plan.server(0)
    ));
    let at_servers = Capture::start(lab.server(0), lab.directory(), "fg1");
    let stream = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&stream), "s1");
    // Its next SYN-ACK, a second after the first, comes through.
    lab.server(0).nft("delete table ip slow\n");
    let slow = plan.server(0);
    let segments = at_servers.stop_when(|segments| {
        segments
            .iter()
            .any(|s| s.rst && *s.destination.ip() == slow)
    });
    let late = segments
        .iter()
        .find(|s| s.syn && s.ack && *s.source.ip() == slow)
        .expect("the late SYN-ACK");
    let reset = segments
        .iter()
        .find(|s| s.rst && *s.destination.ip() == slow)
        .expect("its reset");
    // RFC 9293 §3.10.7.1: the sequence number is the acknowledgement.
    assert_eq!(
        (reset.source, reset.sequence, reset.ack),
        (late.destination, late.acknowledgment, false)
    );
    assert_eq!(ask(&stream), "s1");
    require_counts(&mut lab, &[("syn-moved", 1), ("reset-abandoned", 1)]);
}

/// The first server's process is gone: its host refuses.
fn refusing_server(plan: &Plan) {
    let service = service(plan, "fail-after = 0\n");
    let mut lab = start(plan, &service);
    let _server = start_server(&lab, &service, 1);
    for turn in 0..4 {
        let stream = connect(&lab, plan, CLIENT_PORT + turn);
        assert_eq!(ask(&stream), "s1");
    }
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("server-refused", 4), ("syn-moved", 4)]);
}

/// Where every server refuses, the client hears it at once.
fn all_refuse(plan: &Plan) {
    let service = service(plan, "fail-after = 0\n");
    let mut lab = start(plan, &service);
    let start = Instant::now();
    let error = match try_connect(&lab, plan, CLIENT_PORT) {
        Err(error) => error,
        Ok(_) => panic!("connected to nobody"),
    };
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "{error}"
    );
    super::require_quick("the refusal", start.elapsed());
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("server-refused", 2), ("syn-moved", 1)]);
}
