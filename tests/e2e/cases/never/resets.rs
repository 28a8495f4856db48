//! The numbers of the gateway's resets, and their limit.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::{CLIENT_PORT, Oracle, PORT, count, plan, require_counts, row, service, start};
use crate::Case;
use crate::harness::capture::{Capture, Segment};
use crate::harness::netns::Netns;
use crate::harness::plan::{Plan, VIP};
use crate::harness::process::until;
use crate::harness::raw::{self, Raw};
use crate::harness::tcp::LIMIT;
use crate::harness::topology::Lab;

pub fn list(cases: &mut Vec<Case>) {
    row(cases, "reset_numbers", &plan(1), Oracle::Absent, numbers);
    let limited = Plan {
        runtime: "resets-per-second = 20\n".to_owned(),
        ..plan(1)
    };
    row(cases, "reset_limit", &limited, Oracle::Absent, limit);
}

/// `(flags, payload)` of a stray segment and the reset it gets: whether that
/// acknowledges, and what.
type Stray = (&'static str, &'static [u8], Option<Expected>);

#[derive(Clone, Copy)]
enum Expected {
    /// `<SEQ=SEG.ACK><CTL=RST>`
    Sequence,
    /// `<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>`
    Acknowledges(u32),
}

/// RFC 9293 §3.10.7.1, from either side. Nothing answers a RST.
const STRAYS: [Stray; 6] = [
    ("A", b"", Some(Expected::Sequence)),
    ("PA", b"data", Some(Expected::Sequence)),
    ("FA", b"", Some(Expected::Sequence)),
    ("SA", b"", Some(Expected::Sequence)),
    ("R", b"", None),
    ("RA", b"", None),
];

const SEQUENCE: u32 = 0xffff_fffe;
const ACKNOWLEDGMENT: u32 = 0x8000_0001;

fn numbers(plan: &Plan) {
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let vip = SocketAddrV4::new(VIP, PORT);
    let (local, _) = plan.locals();
    check(&lab, lab.client(), "fg0", (plan.client(), vip), &STRAYS);
    let local = SocketAddrV4::new(local, 2000);
    check(&lab, lab.server(0), "fg1", (plan.server(0), local), &STRAYS);
    // Neither SYN, RST nor ACK: no host sends that.
    let nonsense: [Stray; 2] = [("P", b"data", None), ("A", b"", Some(Expected::Sequence))];
    check(&lab, lab.client(), "fg0", (plan.client(), vip), &nonsense);
    // A port of the VIP without a service: as a host without a listener.
    let closed = SocketAddrV4::new(VIP, PORT + 1);
    let syn: [Stray; 1] = [("S", b"", Some(Expected::Acknowledges(1)))];
    check(&lab, lab.client(), "fg0", (plan.client(), closed), &syn);
    require_counts(
        &mut lab,
        &[
            ("unknown-flow-client", 7),
            ("reset-unknown-client", 5),
            ("tcp-bad-flags", 1),
            ("unknown-flow-server", 6),
            ("reset-unknown-server", 4),
            ("no-service", 1),
            ("reset-refused", 1),
        ],
    );
}

/// Sends each stray from a port of its own and compares what comes back.
fn check(
    lab: &Lab,
    netns: &Netns,
    device: &str,
    (from, to): (std::net::Ipv4Addr, SocketAddrV4),
    strays: &[Stray],
) {
    let capture = Capture::start(netns, lab.directory(), device);
    let source = |index: usize| SocketAddrV4::new(from, CLIENT_PORT + index as u16);
    let segments: Vec<Raw> = strays
        .iter()
        .enumerate()
        .map(|(index, &(flags, payload, _))| Raw {
            source: source(index),
            destination: to,
            flags,
            sequence: SEQUENCE,
            acknowledgment: ACKNOWLEDGMENT,
            payload,
        })
        .collect();
    raw::send(netns, &segments);
    let wanted = strays.iter().filter(|stray| stray.2.is_some()).count();
    let answers = |segments: &[Segment]| -> Vec<Segment> {
        let from_gateway = segments.iter().filter(|segment| segment.source == to);
        from_gateway.copied().collect()
    };
    // Any that should not be there would be ahead of the last that should.
    let captured = capture.stop_when(|segments| answers(segments).len() >= wanted);
    let answers = answers(&captured);
    assert_eq!(answers.len(), wanted, "{answers:#?}");
    for (index, (flags, _, expected)) in strays.iter().enumerate() {
        let answer = answers.iter().find(|a| a.destination == source(index));
        let found = answer.map(|a| (a.rst, a.ack, a.sequence, a.acknowledgment));
        let expected = expected.map(|expected| match expected {
            Expected::Sequence => (true, false, ACKNOWLEDGMENT, 0),
            Expected::Acknowledges(length) => (true, true, 0, SEQUENCE.wrapping_add(length)),
        });
        assert_eq!(found, expected, "answer to {flags}");
    }
}

/// Strays beyond the limit are dropped, counted, and not answered.
fn limit(plan: &Plan) {
    const STRAYS: u64 = 500;
    let service = service(plan, "");
    let mut lab = start(plan, &service);
    let stray = Raw {
        source: SocketAddrV4::new(plan.client(), CLIENT_PORT),
        destination: SocketAddrV4::new(VIP, PORT),
        flags: "A",
        sequence: 1,
        acknowledgment: 1,
        payload: b"",
    };
    let started = std::time::Instant::now();
    raw::send(lab.client(), &[stray; STRAYS as usize]);
    until(LIMIT, "all strays counted", || {
        (count(&mut lab, "unknown-flow-client") == STRAYS).then_some(())
    });
    let seconds = started.elapsed().as_secs() + 1;
    let sent = count(&mut lab, "reset-unknown-client");
    let withheld = count(&mut lab, "reset-withheld");
    assert_eq!(sent + withheld, STRAYS);
    assert!((20..=20 + 20 * seconds).contains(&sent), "{sent} sent");
    // The limit lets more through as time passes.
    std::thread::sleep(Duration::from_millis(500));
    raw::send(lab.client(), &[stray]);
    require_counts(
        &mut lab,
        &[
            ("unknown-flow-client", STRAYS + 1),
            ("reset-unknown-client", sent + 1),
        ],
    );
}
