//! Row 11: packets wait for the next hop's MAC address and leave with the
//! answer, even if the first answers are lost.

use super::{
    CLIENT_PORT, Oracle, ask, connect, plan, require_nothing_sent_again, row, service, start,
    start_servers, wait_for,
};
use crate::Case;
use crate::harness::plan::Plan;
use std::time::Duration;

pub fn list(cases: &mut Vec<Case>) {
    row(cases, "row11_next_hop", &plan(3), Oracle::Sound, unresolved);
    row(
        cases,
        "row11_lost_answers",
        &plan(1),
        Oracle::Faulty,
        lost_answers,
    );
}

/// The first SYN towards each server finds no MAC address.
fn unresolved(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    for turn in 0..3 {
        let stream = connect(&lab, plan, CLIENT_PORT + turn);
        assert_eq!(ask(&stream), format!("s{turn}"));
    }
    require_nothing_sent_again(&lab);
    wait_for(&mut lab, "neighbor-held", 3, Duration::ZERO);
}

/// ARP answers are lost for a while, though not for as long as the client's
/// patience.
fn lost_answers(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    lab.server(0).nft(
        "table arp mute {\nchain out { type filter hook output priority 0; \
         arp operation reply drop; }\n}\n",
    );
    let name = lab.server(0).name().to_owned();
    let speaks_again = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        let status = std::process::Command::new("ip")
            .args(["netns", "exec", &name, "nft", "delete table arp mute"])
            .status();
        assert!(status.expect("start nft").success());
    });
    let stream = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&stream), "s0");
    speaks_again.join().expect("the rule is gone");
    require_nothing_sent_again(&lab);
    wait_for(&mut lab, "neighbor-held", 1, Duration::ZERO);
}
