//! Captures and the last drops: both legs of every packet, with what became
//! of it, and nothing else.

use std::sync::Arc;

use super::lab::{CLIENT, LOCAL, Lab, SERVERS, Tcp, VIP, flags, fragments_of_a_request};
use crate::capture::{Facts, Fate, Moment, Ring, Tap};
use crate::conntrack::entry::{Direction, State};
use crate::filter::{Filter, Purpose};
use crate::ids::PortIx;
use crate::stats::DropReason;
use crate::worker::message::{Command, DropScan, Reply};

const WAN: Option<PortIx> = Some(PortIx(0));
const LAN: Option<PortIx> = Some(PortIx(1));

/// A capture, and what it has taken.
struct Capture(Arc<Ring>);

impl Capture {
    fn start(lab: &mut Lab, filter: &str) -> Self {
        Self::with_records(lab, filter, 256)
    }

    fn with_records(lab: &mut Lab, filter: &str, records: usize) -> Self {
        let filter = Filter::parse(filter, Purpose::Capture, |_| None).expect("a filter");
        let ring = Arc::new(Ring::new(records, 2048, 2));
        let tap = Tap::new(7, filter, 1, Arc::clone(&ring));
        lab.command(Command::Capture(Box::new(tap)));
        Self(ring)
    }

    fn take(&self) -> Vec<(Facts, Vec<u8>)> {
        let mut taken = Vec::new();
        while let Some(record) = self.0.take() {
            taken.push((record.facts, record.bytes().to_vec()));
            self.0.give_back(record);
        }
        taken
    }

    /// Ports and moments of what it has taken.
    fn moments(&self) -> Vec<(Option<PortIx>, Moment)> {
        let taken = self.take();
        taken
            .iter()
            .map(|(facts, _)| (facts.port, facts.moment))
            .collect()
    }
}

fn syn(port: u16) -> Tcp {
    Tcp::from_client(port, flags::SYN).seq(100)
}

#[test]
fn both_legs_of_a_connection_are_taken() {
    let mut lab = Lab::new();
    // Both servers' MAC addresses are known.
    let _ = (lab.connect(3998), lab.connect(3999));
    let capture = Capture::start(&mut lab, &format!("client {CLIENT}:4000"));
    let mut flow = lab.connect(4000);
    flow.exchange(&mut lab, b"request", b"response");
    let taken = capture.take();
    let received = taken
        .iter()
        .filter(|(facts, _)| facts.moment == Moment::Received(Fate::Sent));
    assert_eq!(received.count() * 2, taken.len(), "{taken:?}");
    for pair in taken.chunks(2) {
        let [(came, _), (left, _)] = pair else {
            panic!("a pair")
        };
        assert_eq!(left.moment, Moment::Sent(Some(came.number)));
        assert_eq!(came.direction, left.direction);
        assert_ne!(came.port, left.port);
        let forward = came.direction == Some(Direction::Forward);
        assert_eq!((forward, !forward), (came.port == WAN, came.port == LAN));
        assert_eq!(came.legs, left.legs);
    }
    let (syn, frame) = &taken[0];
    assert_eq!(syn.state, State::SynSent);
    assert_eq!(frame[26..34], [CLIENT.octets(), VIP.octets()].concat());
    let (_, frame) = &taken[1];
    let server = syn.legs.back.expect("a server")[0];
    assert_eq!(
        frame[26..34],
        [LOCAL.octets(), server.ip().octets()].concat()
    );

    flow.client_closes(&mut lab);
    lab.command(Command::EndCapture(7));
    let before_the_end = capture.take().len();
    assert!(before_the_end > 0);
    flow.server_closes(&mut lab);
    assert!(capture.take().is_empty(), "it has ended");
    let replies = lab.replies();
    assert!(
        matches!(replies[..], [.., Reply::Captured(_)]),
        "{replies:?}"
    );
}

#[test]
fn a_filter_on_the_server_side_takes_the_client_s_leg_too() {
    for filter in [
        format!("server {}", SERVERS[0]),
        format!("local {LOCAL} server :8080"),
        "proto tcp host 10.2.0.101:8080".into(),
    ] {
        let mut lab = Lab::new();
        let capture = Capture::start(&mut lab, &filter);
        let flow = lab.connect(4000);
        assert_eq!(flow.to_server.dst, SERVERS[0]);
        let taken = capture.take();
        // ARP is of nobody, and belongs to no server.
        let of_it = taken.iter().filter(|(facts, _)| facts.legs.protocol == 6);
        assert_eq!(of_it.count(), 6, "{filter}: {taken:?}");
        assert_eq!(taken[0].0.port, WAN);
    }
}

#[test]
fn a_drop_and_its_answer_are_taken_with_the_reason() {
    let mut lab = Lab::new();
    let _ = lab.connect(3999);
    let stray = || Tcp::from_client(4000, flags::ACK).seq(7).ack(9);
    let dropped = Moment::Received(Fate::Dropped(DropReason::UnknownFlowClient));
    for filter in [
        "",
        "drops",
        "reason unknown-flow-client",
        &format!("vip {VIP}"),
        &format!("client {CLIENT} drops"),
    ] {
        let capture = Capture::start(&mut lab, filter);
        let _ = lab.client_sends(stray());
        let taken = capture.take();
        assert_eq!(taken.len(), 2, "{filter}: {taken:?}");
        assert_eq!((taken[0].0.port, taken[0].0.moment), (WAN, dropped));
        assert_eq!(taken[0].0.state, State::Free);
        let because = Moment::Sent(Some(taken[0].0.number));
        assert_eq!((taken[1].0.port, taken[1].0.moment), (WAN, because));
        lab.command(Command::EndCapture(7));
    }
    for filter in ["reason no-route", "server 10.0.0.0/8", "drops proto udp"] {
        let capture = Capture::start(&mut lab, filter);
        let _ = lab.client_sends(stray());
        assert_eq!(capture.take().len(), 0, "{filter}");
        lab.command(Command::EndCapture(7));
    }
}

#[test]
fn what_a_connection_s_drops_are_is_found_by_either_side() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let capture = Capture::start(&mut lab, &format!("drops client {CLIENT}:4000"));
    // A RST far out of window, from the server's side.
    let rst = flow.to_server.reply(flags::RST).seq(5_000_000);
    let _ = lab.server_sends(rst);
    let taken = capture.take();
    assert_eq!(taken.len(), 1, "{taken:?}");
    let reason = DropReason::TcpRstOutOfWindow;
    let expected = Moment::Received(Fate::Dropped(reason));
    assert_eq!((taken[0].0.port, taken[0].0.moment), (LAN, expected));
    assert_eq!(taken[0].0.direction, Some(Direction::Reverse));
    assert_eq!(taken[0].0.state, State::Established);
}

#[test]
fn waiting_and_giving_up_are_told() {
    let mut lab = Lab::unresolved();
    let capture = Capture::start(&mut lab, "proto tcp");
    let _ = lab.client_sends(syn(4000));
    assert_eq!(capture.moments(), [(WAN, Moment::Received(Fate::Waits))]);
    let _ = lab.pass(1_200);
    let moments = capture.moments();
    let given_up = (None, Moment::GivenUp(DropReason::NeighborUnreachable));
    assert!(moments.contains(&given_up), "{moments:?}");
}

#[test]
fn what_had_waited_is_taken_when_it_is_sent() {
    let mut lab = Lab::unresolved();
    let capture = Capture::start(&mut lab, "proto tcp");
    let _ = lab.client_sends(syn(4000));
    let _ = lab.arp_answer(SERVERS[0]);
    let taken = capture.take();
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert_eq!(taken[1].0.port, LAN);
    assert_eq!(taken[1].0.legs, taken[0].0.legs);
    assert_eq!(taken[1].0.direction, Some(Direction::Forward));
}

#[test]
fn a_moved_syn_shows_the_second_server() {
    let mut lab = Lab::new();
    let capture = Capture::start(&mut lab, &format!("client {CLIENT}"));
    let _ = lab.client_sends(syn(4000));
    let _ = lab.pass(280);
    let taken = capture.take();
    let to: Vec<_> = taken
        .iter()
        .filter(|(facts, _)| facts.port == LAN)
        .map(|(facts, _)| *facts.legs.back.expect("a server")[0].ip())
        .collect();
    assert_eq!(to, SERVERS);
}

#[test]
fn fragments_are_of_their_connection() {
    let mut lab = Lab::new();
    let _ = lab.client_sends_udp(4999, b"x");
    let capture = Capture::start(&mut lab, &format!("client {CLIENT}:5000 proto udp"));
    let [first, second, third] = fragments_of_a_request(5000);
    for fragment in [&second, &first, &third] {
        let _ = lab.client_sends_packet(fragment);
    }
    let moments: Vec<_> = capture.moments();
    let count =
        |wanted: fn(&Moment) -> bool| moments.iter().filter(|(_, moment)| wanted(moment)).count();
    assert_eq!(count(|m| matches!(m, Moment::Sent(_))), 3, "{moments:?}");
    // The one that overtook is of nobody known when it comes.
    assert_eq!(
        count(|m| matches!(m, Moment::Received(_))),
        2,
        "{moments:?}"
    );
}

#[test]
fn a_full_ring_loses_packets_and_counts_them() {
    let mut lab = Lab::new();
    let _ = lab.connect(3999);
    let capture = Capture::with_records(&mut lab, &format!("client {CLIENT}:4000"), 3);
    let _ = lab.connect(4000);
    assert_eq!(capture.0.lost().sum::<u64>(), 3);
    assert_eq!(capture.take().len(), 3);
    let _ = lab.client_sends(syn(4000));
    assert!(!capture.take().is_empty(), "it goes on");
}

#[test]
fn captures_do_not_change_what_is_sent() {
    let traffic = |capture: bool| {
        let mut lab = Lab::new();
        if capture {
            for filter in ["", "drops", "client 192.0.2.1"] {
                let filter = Filter::parse(filter, Purpose::Capture, |_| None).expect("a filter");
                let ring = Arc::new(Ring::new(4, 64, 2));
                let tap = Tap::new(1, filter, 1, ring);
                lab.command(Command::Capture(Box::new(tap)));
            }
        }
        let mut flow = lab.connect(4000);
        flow.exchange(&mut lab, b"request", b"response");
        let stray = lab.client_sends(Tcp::from_client(4001, flags::ACK).ack(5));
        let udp = lab.client_sends_udp(5000, b"x");
        let ping = lab.ping(VIP);
        flow.server_closes(&mut lab);
        flow.client_closes(&mut lab);
        let counts: Vec<u64> = DropReason::ALL.iter().map(|&r| lab.drops(r)).collect();
        (format!("{stray:?} {udp:?} {ping:?}"), lab.states(), counts)
    };
    assert_eq!(traffic(false), traffic(true));
}

#[test]
fn the_last_drops_are_kept_with_port_and_headers() {
    let mut lab = Lab::new();
    let _ = lab.client_sends(Tcp::from_client(4000, flags::ACK).seq(7).ack(9));
    let stray = Tcp::from_server(0, LOCAL, 2000, flags::ACK).ack(77);
    let _ = lab.server_sends(stray);
    lab.command(Command::LastDrops(Box::new(DropScan::new(None))));
    let _ = lab.pass(100);
    let replies = lab.replies();
    let scan = replies.iter().find_map(|reply| match reply {
        Reply::LastDrops(scan) => Some(scan),
        _ => None,
    });
    let found: Vec<_> = scan
        .expect("an answer")
        .found
        .iter()
        .map(|(reason, dropped)| (*reason, dropped.port, dropped.bytes()[26..30].to_vec()))
        .collect();
    assert_eq!(
        found,
        [
            (DropReason::UnknownFlowClient, WAN, CLIENT.octets().to_vec()),
            (
                DropReason::UnknownFlowServer,
                LAN,
                SERVERS[0].octets().to_vec()
            ),
        ]
    );
}
