//! Servers that fail SYNs are taken out for a growing time, and come back with
//! their first success.

use std::time::{Duration, Instant};

use super::{
    CLIENT_PORT, Oracle, PORT, ask, connect, plan, require_nothing_sent_again, row, service, start,
    start_servers,
};
use crate::Case;
use crate::harness::capture::Capture;
use crate::harness::plan::Plan;
use crate::harness::process::until;
use crate::harness::tcp::LIMIT;
use crate::harness::topology::Lab;

pub fn list(cases: &mut Vec<Case>) {
    row(cases, "fail_after", &plan(2), Oracle::Absent, fail_after);
}

/// Failed SYNs of the first server, by its counter.
fn failures(lab: &mut Lab) -> u64 {
    let services = lab.fullgate().show("services");
    services["services"][0]["servers"][0]["failures"]
        .as_u64()
        .expect("a count")
}

fn fail_after(plan: &Plan) {
    let service = service(plan, "syn-retry-after = \"50ms\"\nfail-after = 3\n");
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    let dead = plan.server(0);
    lab.server(0).nft(&format!(
        "table ip dead {{\nchain in {{ type filter hook input priority 0; \
         ip daddr {dead} tcp dport {PORT} drop; }}\n}}\n"
    ));
    let at_servers = Capture::start(lab.server(0), lab.directory(), "fg1");

    // Out after 3 failures, for 1 s, then one more try and 2 s, and so on: in
    // 5 s that is 3 SYNs, and one at 1 s and 3 s each.
    let start = Instant::now();
    let mut port = CLIENT_PORT;
    while start.elapsed() < Duration::from_secs(5) {
        assert_eq!(ask(&connect(&lab, plan, port)), "s1");
        port += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(failures(&mut lab), 5);
    let segments = at_servers.stop_when(|segments| !segments.is_empty());
    let tries = segments
        .iter()
        .filter(|s| s.is_syn() && *s.destination.ip() == dead)
        .count();
    assert_eq!(tries, 5);

    // It comes back by itself.
    lab.server(0).nft("delete table ip dead\n");
    until(LIMIT, "the server's return", || {
        port += 1;
        (ask(&connect(&lab, plan, port)) == "s0").then_some(())
    });
    let names: Vec<String> = (0..4)
        .map(|turn| ask(&connect(&lab, plan, port + 1 + turn)))
        .collect();
    assert_eq!(names.iter().filter(|name| *name == "s0").count(), 2);
    assert_eq!(failures(&mut lab), 5);
    require_nothing_sent_again(&lab);
}
