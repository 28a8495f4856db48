//! Attempts to connect: SYNs with data, servers far away, a local address that a
//! server does not answer, SYNs that no server would answer, and a server's
//! return.

use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use nix::libc;
use socket2::{Domain, Socket, Type};

use super::{
    CLIENT_PORT, Oracle, PORT, ask, connect, count, plan, require_counts,
    require_nothing_sent_again, require_quick, row, service, start, start_server, start_servers,
    try_connect,
};
use crate::Case;
use crate::harness::delay::Delay;
use crate::harness::plan::{Plan, VIP};
use crate::harness::raw::{self, Raw};
use crate::harness::tcp::LIMIT;
use crate::harness::topology::Lab;

/// How far the far servers are away.
const FAR: Duration = Duration::from_millis(300);

/// A connection to a far server takes at most: its time, and what a busy machine
/// adds; but no second attempt that begins after 250 ms, and takes as long.
const FAR_CONNECT: Duration = Duration::from_millis(500);

pub fn list(cases: &mut Vec<Case>) {
    let mut case = |name, plan: &Plan, oracle, body| row(cases, name, plan, oracle, body);
    case("attempts_syn_data", &plan(2), Oracle::Faulty, syn_data);
    case("attempts_all_far", &plan(2), Oracle::Absent, all_far);
    case("attempts_one_far", &plan(2), Oracle::Absent, one_far);
    let locals = Plan {
        local_addresses: 2,
        ..plan(2)
    };
    case("attempts_bad_local", &locals, Oracle::Absent, bad_local);
    case("attempts_corrupted", &plan(2), Oracle::Absent, corrupted);
    case("attempts_return", &plan(2), Oracle::Absent, comes_back);
}

/// The servers drop what `matches`.
fn silence(lab: &Lab, matches: &str) {
    lab.server(0).nft(&format!(
        "table ip silent {{\nchain in {{ type filter hook input priority 0; \
         {matches} tcp dport {PORT} drop; }}\n}}\n"
    ));
}

/// The name of a server, as [`ask`] has it, from a connection whose SYN carries
/// 300 bytes (RFC 7413).
fn ask_in_syn(lab: &Lab, plan: &Plan, port: u16) -> String {
    let stream: TcpStream = lab.client().run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let source = SocketAddr::V4(SocketAddrV4::new(plan.client(), port));
        socket.bind(&source.into()).expect("bind");
        socket.set_read_timeout(Some(LIMIT)).expect("a time limit");
        let target = SocketAddr::V4(SocketAddrV4::new(VIP, PORT));
        let sent = socket.send_to_with_flags(&[b'?'; 300], &target.into(), libc::MSG_FASTOPEN);
        assert_eq!(sent.expect("connect"), 300);
        socket.into()
    });
    ask(&stream)
}

/// One of two servers is dead, and the SYN carries data.
fn syn_data(plan: &Plan) {
    let service = service(plan, "fail-after = 0\n");
    let mut lab = start(plan, &service);
    silence(&lab, &format!("ip daddr {}", plan.server(0)));
    // Data without a cookie: at the client, and at servers that begin to listen.
    lab.client().sysctl("net/ipv4/tcp_fastopen", "5");
    lab.server(1).sysctl("net/ipv4/tcp_fastopen", "1538");
    let _server = start_server(&lab, &service, 1);
    for turn in 0..4 {
        let start = Instant::now();
        assert_eq!(ask_in_syn(&lab, plan, CLIENT_PORT + turn), "s1");
        require_quick("a connection", start.elapsed());
    }
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("syn-moved", 4)]);
}

/// The gateway's local addresses, as a network.
const LOCALS: &str = "10.2.0.8/29";

fn connect_far(lab: &Lab, plan: &Plan, port: u16) -> (TcpStream, Duration) {
    let connected = try_connect(lab, plan, port).expect("connect");
    let elapsed = connected.elapsed;
    assert!(elapsed < FAR_CONNECT, "port {port}: {elapsed:?}");
    (connected.stream, elapsed)
}

/// Every server takes longer to answer than a SYN normally waits for one: no
/// connection takes longer than that.
fn all_far(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    let _delay = Delay::start(
        lab.server(0),
        &[plan.server(0), plan.server(1)],
        LOCALS,
        FAR,
    );
    let mut names = Vec::new();
    for turn in 0..12 {
        let (stream, elapsed) = connect_far(&lab, plan, CLIENT_PORT + turn);
        assert!(elapsed >= FAR, "not delayed: {elapsed:?}");
        names.push(ask(&stream));
    }
    let of_first = names.iter().filter(|name| *name == "s0").count();
    assert!((5..=7).contains(&of_first), "{names:?}");
    // The first of each may have been asked in vain.
    let moved = count(&mut lab, "syn-moved");
    assert!(moved <= 2, "{moved} SYNs moved");
}

/// One server is far, the other near: both get connections.
fn one_far(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    let _delay = Delay::start(lab.server(0), &[plan.server(0)], LOCALS, FAR);
    let names: Vec<_> = (0..12)
        .map(|turn| ask(&connect_far(&lab, plan, CLIENT_PORT + turn).0))
        .collect();
    let of_far = names.iter().filter(|name| *name == "s0").count();
    assert!((4..=6).contains(&of_far), "{names:?}");
    let moved = count(&mut lab, "syn-moved");
    assert!(moved <= 2, "{moved} SYNs moved");
}

/// The servers' firewall drops one of the gateway's two local addresses.
fn bad_local(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    let bad = plan.locals().0;
    silence(&lab, &format!("ip saddr {bad}"));
    let names: Vec<_> = (0..40)
        .map(|turn| ask(&connect(&lab, plan, CLIENT_PORT + turn)))
        .collect();
    require_nothing_sent_again(&lab);
    for name in ["s0", "s1"] {
        let count = names.iter().filter(|other| *other == name).count();
        assert!((12..=28).contains(&count), "{names:?}");
    }
    // Three from that address towards a server, and then it is out there.
    let moved = count(&mut lab, "syn-moved");
    assert!((3..=8).contains(&moved), "{moved} SYNs moved");
    let pools = lab.fullgate().show("pools");
    let mut failures = 0;
    for address in pools["pools"][0]["addresses"].as_array().expect("a list") {
        for towards in address["servers"].as_array().expect("a list") {
            let failed = towards["failures"].as_u64().expect("a count");
            assert_eq!(towards["out_at"] == 1, failed >= 3, "{pools}");
            assert!(
                failed == 0 || address["address"] == bad.to_string(),
                "{pools}"
            );
            failures += failed;
        }
    }
    assert_eq!(failures, moved);
    let log = lab.fullgate().output();
    assert!(!log.contains("does not accept connections"), "{log}");
}

/// SYNs whose checksum is wrong prove nothing about any server.
fn corrupted(plan: &Plan) {
    const EACH: u16 = 25;
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    let syn = |port| Raw {
        source: SocketAddrV4::new(plan.client(), port),
        destination: SocketAddrV4::new(VIP, PORT),
        flags: "S",
        sequence: 1_000,
        acknowledgment: 0,
        payload: b"",
    };
    for turn in 0..20 {
        let first = 40_000 + turn * EACH;
        let syns: Vec<_> = (first..first + EACH).map(syn).collect();
        raw::send_corrupted(lab.client(), &syns);
        ask(&connect(&lab, plan, CLIENT_PORT + turn));
        std::thread::sleep(Duration::from_millis(50));
    }
    require_nothing_sent_again(&lab);
    require_counts(
        &mut lab,
        &[("tcp-checksum", u64::from(20 * EACH)), ("syn-moved", 0)],
    );
    let services = lab.fullgate().show("services");
    for server in 0..2 {
        assert_eq!(services["services"][0]["servers"][server]["failures"], 0);
    }
}

/// A server refuses for a while, and then does not.
fn comes_back(plan: &Plan) {
    let service = service(plan, "");
    let lab = start(plan, &service);
    let _other = start_server(&lab, &service, 1);
    let mut ports = CLIENT_PORT..;
    let mut name = || {
        let port = ports.next().expect("a port");
        ask(&connect(&lab, plan, port))
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(12) {
        assert_eq!(name(), "s1");
        std::thread::sleep(Duration::from_millis(50));
    }
    let _back = start_server(&lab, &service, 0);
    let start = Instant::now();
    while name() != "s0" {
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_millis(2_500), "{elapsed:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let names: Vec<_> = (0..4).map(|_| name()).collect();
    let of_first = names.iter().filter(|name| *name == "s0").count();
    assert_eq!(of_first, 2, "back in full: {names:?}");
    require_nothing_sent_again(&lab);
}
