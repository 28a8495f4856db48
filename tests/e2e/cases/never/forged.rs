//! What somebody who guesses addresses and ports, but not sequence numbers,
//! can do to an established connection: nothing (RFC 5961).

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddrV4};
use std::time::{Duration, Instant};

use super::{
    CLIENT_PORT, Oracle, PORT, ask, connect, plan, require_counts, require_nothing_sent_again,
    require_quick, row, service, start, start_servers,
};
use crate::Case;
use crate::harness::capture::{Capture, Segment};
use crate::harness::echo::TcpServer;
use crate::harness::netns::Netns;
use crate::harness::plan::{Plan, VIP};
use crate::harness::raw::{self, Raw};
use crate::harness::tcp::LIMIT;

pub fn list(cases: &mut Vec<Case>) {
    row(
        cases,
        "forged_segments",
        &plan(1),
        Oracle::Absent,
        forged_segments,
    );
    row(
        cases,
        "forged_syn_on_half_closed",
        &plan(1),
        Oracle::Absent,
        half_closed,
    );
}

/// SYNs in the name of a client that has closed its half, while the server
/// still sends.
fn half_closed(plan: &Plan) {
    const BYTES: usize = 16;
    // One that is still held when both have closed begins a connection, as it
    // would a moment later; so the last ones come over a second before that.
    const SYNS: usize = 10;
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let address = service.servers[0].address;
    let _server = TcpServer::start(lab.server(0), address, move |mut stream, _| {
        assert_eq!(stream.read(&mut [0]).expect("the client's end"), 0);
        for _ in 0..BYTES {
            stream.write_all(b".").expect("send");
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let mut stream = connect(&lab, plan, CLIENT_PORT);
    stream.shutdown(Shutdown::Write).expect("close the half");
    for received in 0..BYTES {
        let start = Instant::now();
        stream.read_exact(&mut [0]).expect("a byte of the server");
        require_quick(
            "a byte",
            start.elapsed().saturating_sub(Duration::from_millis(200)),
        );
        if received >= SYNS {
            continue;
        }
        let syn = Raw {
            source: SocketAddrV4::new(plan.client(), CLIENT_PORT),
            destination: SocketAddrV4::new(VIP, PORT),
            flags: "S",
            sequence: (received as u32).wrapping_mul(0x1234_5678),
            acknowledgment: 0,
            payload: b"",
        };
        raw::send(lab.client(), &[syn]);
    }
    assert_eq!(stream.read(&mut [0]).expect("the server's end"), 0);
    require_nothing_sent_again(&lab);
    require_counts(&mut lab, &[("syn-replayed", 0), ("client-port-reused", 0)]);
}

/// Half of all sequence numbers away.
const FAR: u32 = 1 << 31;

fn forged_segments(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let _servers = start_servers(&lab, &service);
    let at_client = Capture::start(lab.client(), lab.directory(), "fg0");
    let at_server = Capture::start(lab.server(0), lab.directory(), "fg1");
    let stream = connect(&lab, plan, CLIENT_PORT);
    assert_eq!(ask(&stream), "s0");

    let to_client = |s: &Segment| *s.destination.ip() == plan.client();
    let to_server = |s: &Segment| *s.destination.ip() == plan.server(0);
    let isn = |capture: &Capture, of: &dyn Fn(&Segment) -> bool| {
        crate::harness::process::until(LIMIT, "a captured SYN", || {
            capture.segments().into_iter().find(|s| s.syn && of(s))
        })
    };
    let syn = isn(&at_server, &to_server);
    let syn_ack = isn(&at_client, &to_client);
    // One byte has gone there, two have come back.
    let client_next = syn.sequence.wrapping_add(2);
    let server_next = syn_ack.sequence.wrapping_add(3);

    let from_client = |flags, sequence: u32, acknowledgment| Raw {
        source: SocketAddrV4::new(plan.client(), CLIENT_PORT),
        destination: SocketAddrV4::new(VIP, PORT),
        flags,
        sequence,
        acknowledgment,
        payload: b"",
    };
    let from_server = |flags, sequence: u32, acknowledgment| Raw {
        source: SocketAddrV4::new(plan.server(0), PORT),
        destination: syn.source,
        flags,
        sequence,
        acknowledgment,
        payload: b"",
    };
    // In the client's name: the server answers what reaches it with an ACK.
    let client: [(Raw, bool); 6] = [
        (from_client("R", client_next.wrapping_add(FAR), 0), false),
        (from_client("R", client_next.wrapping_add(1000), 0), true),
        (from_client("S", client_next.wrapping_add(FAR), 0), true),
        (from_client("S", client_next.wrapping_add(1000), 0), true),
        // The end of the stream, somewhere in the window, and then a SYN.
        (
            from_client("FA", client_next.wrapping_add(1000), server_next),
            true,
        ),
        (from_client("S", client_next.wrapping_add(FAR), 0), true),
    ];
    attack(lab.client(), &client, &at_client, &to_client, &stream);
    // In the server's.
    let server: [(Raw, bool); 4] = [
        (
            from_server("R", server_next.wrapping_add(FAR), client_next),
            false,
        ),
        (
            from_server("RA", server_next.wrapping_add(1000), client_next),
            true,
        ),
        (
            from_server("SA", server_next, client_next.wrapping_add(FAR)),
            false,
        ),
        (from_server("S", server_next.wrapping_add(FAR), 0), false),
    ];
    attack(lab.server(0), &server, &at_server, &to_server, &stream);
    require_nothing_sent_again(&lab);
    require_counts(
        &mut lab,
        &[
            ("tcp-rst-out-of-window", 2),
            ("syn-on-established", 3),
            ("syn-replayed", 0),
        ],
    );
}

/// Sends each forged segment, sees whether it was challenged, and uses the
/// connection again.
fn attack(
    netns: &Netns,
    forged: &[(Raw, bool)],
    capture: &Capture,
    towards_forger: &dyn Fn(&Segment) -> bool,
    stream: &std::net::TcpStream,
) {
    let bare_acks = || {
        let segments = capture.segments();
        let towards = segments.into_iter().filter(|s| towards_forger(s));
        towards.filter(|s| s.ack && s.length == 0 && !s.syn).count()
    };
    for (number, (segment, challenged)) in forged.iter().enumerate() {
        // A host challenges one connection twice a second at most.
        std::thread::sleep(std::time::Duration::from_millis(600));
        let before = bare_acks();
        raw::send(netns, std::slice::from_ref(segment));
        if *challenged {
            crate::harness::process::until(LIMIT, &format!("challenge {number}"), || {
                (bare_acks() > before).then_some(())
            });
        }
        assert_eq!(ask(stream), "s0");
    }
}
