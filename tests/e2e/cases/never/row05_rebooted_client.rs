//! Row 5: a client that has lost its memory connects from the port of a
//! connection that is still established. The server challenges it, the client
//! resets, and its SYN, which the gateway has kept, becomes a new connection.

use super::{
    CLIENT_PORT, Oracle, PORT, ask, connect, forget, plan, require_counts,
    require_nothing_sent_again, row, service, start, start_servers,
};
use crate::Case;
use crate::harness::capture::Capture;
use crate::harness::plan::Plan;

pub fn list(cases: &mut Vec<Case>) {
    row(
        cases,
        "row05_rebooted_client",
        &plan(2),
        Oracle::Faulty,
        rebooted_client,
    );
    row(
        cases,
        "row05_both_rebooted",
        &plan(2),
        Oracle::Faulty,
        both_rebooted,
    );
}

fn rebooted_client(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    let mut stream = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&stream), "s0");
    let at_client = Capture::start(lab.client(), lab.directory(), "fg0");
    for server in ["s1", "s0", "s1"] {
        forget(lab.client(), stream);
        stream = connect(&lab, plan, CLIENT_PORT);
        assert_eq!(ask(&stream), server, "not scheduled afresh");
    }
    let segments =
        at_client.stop_when(|segments| segments.iter().filter(|s| s.length == 2).count() == 3);
    assert_eq!(segments.iter().filter(|s| s.is_syn()).count(), 3);
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("syn-on-established", 3), ("syn-replayed", 3)]);
}

/// The server has forgotten the connection too: it answers the SYN as a new
/// one, on the old local port, in the wrong numbers for the old connection.
fn both_rebooted(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let servers = start_servers(&lab, &service);
    let stream = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&stream), "s0");
    lab.server(0).nft(&format!(
        "table ip dead {{\nchain out {{ type filter hook output priority 0; \
         tcp sport {PORT} drop; }}\n\
         chain in {{ type filter hook input priority 0; tcp dport {PORT} drop; }}\n}}\n"
    ));
    forget(lab.client(), stream);
    drop(servers);
    kill_sockets(&lab);
    lab.server(0).nft("delete table ip dead\n");
    let _servers = start_servers(&lab, &service);
    let stream = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&stream), "s1", "not scheduled afresh");
    require_counts(&mut lab, &[("syn-on-established", 1), ("syn-replayed", 1)]);
}

/// Ends every TCP socket of the servers; what that sends is dropped by the
/// rules in force.
fn kill_sockets(lab: &crate::harness::topology::Lab) {
    let output = crate::harness::process::output_of(lab.server(0), "ss", &["-K", "-t"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
