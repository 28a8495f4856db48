//! Who may send what: sources that no host on the clients' side can have make no
//! connection, and get no answer.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::add;
use crate::Case;
use crate::harness::echo::TcpServer;
use crate::harness::plan::{GATEWAY, Kind, Plan, Protocol, Service, VIP};
use crate::harness::process::until;
use crate::harness::raw::{self, Raw};
use crate::harness::tcp::{self, LIMIT};
use crate::harness::topology::Lab;

const PORT: u16 = 7000;

/// SYNs of each source.
const EACH: u64 = 20;

pub fn list(cases: &mut Vec<Case>) {
    add(
        cases,
        "sources::forged",
        &[Plan::new(Kind::Fullgate)],
        forged,
    );
}

fn forged(plan: &Plan) {
    let service = Service::new(plan, "t", Protocol::Tcp, PORT, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let address = service.servers[0].address;
    let _server = TcpServer::start(lab.server(0), address, |_, _| {});
    let (local, _) = plan.locals();
    let syns = |source: Ipv4Addr| -> Vec<Raw> {
        (0..EACH as u16)
            .map(|port| Raw {
                source: SocketAddrV4::new(source, 30_000 + port),
                destination: SocketAddrV4::new(VIP, PORT),
                flags: "S",
                sequence: 1,
                acknowledgment: 0,
                payload: b"",
            })
            .collect()
    };
    for source in [VIP, GATEWAY, local, plan.server(0)] {
        raw::send(lab.client(), &syns(source));
    }
    let wanted = [("source-ours", 3 * EACH), ("source-elsewhere", EACH)];
    until(LIMIT, "the drops", || {
        let table = lab.fullgate().show("drops");
        let rows = table["drops"].as_array().cloned().unwrap_or_default();
        let count = |reason: &str| {
            let row = rows.iter().find(|row| row["reason"] == reason);
            row.and_then(|row| row["count"].as_u64()).unwrap_or(0)
        };
        wanted
            .iter()
            .all(|(reason, wanted)| count(reason) == *wanted)
            .then_some(())
    });
    let shown = lab.fullgate().show("connections");
    let connections = shown["connections"].as_array().map_or(0, Vec::len);
    assert_eq!(connections, 0, "{shown}");
    // The same port takes those who are there.
    lab.client().run(|| {
        let source = SocketAddrV4::new(plan.client(), 0);
        let connected = tcp::connect(source, service.vip()).expect("connect");
        assert!(connected.elapsed < tcp::NO_TIMER);
    });
}
