//! Room runs short: a full table, local ports all in use, RSTs beyond their
//! rate. What strangers sent gives way, and nobody who is honest is refused.

use std::net::Ipv4Addr;

use super::lab::{CLIENT, ESTABLISHED_MS, Lab, SERVERS, Tcp, flags};
use crate::conntrack::entry::State;
use crate::ids::ServerIx;
use crate::service::schedule::{Plan, Scheduler};
use crate::service::snapshot::{Parts, ServerState};
use crate::stats::{DropReason, EndCause, Event};

/// The `nth` made-up source.
fn stranger(nth: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(CLIENT.to_bits() + 200 + u32::from(nth % 200))
}

fn spoofed_syn(nth: u16) -> Tcp {
    Tcp::from_client(20_000 + nth, flags::SYN)
        .seq(u32::from(nth))
        .from(stranger(nth))
}

fn spoofed_datagram(nth: u16) -> Tcp {
    Tcp::datagram(20_000 + nth, b"?").from(stranger(nth))
}

#[test]
fn a_table_full_of_unanswered_udp_takes_every_tcp_connection() {
    let mut lab = Lab::with_capacity(64);
    for nth in 0..100 {
        lab.client_sends(spoofed_datagram(nth));
    }
    assert_eq!(lab.states(), [State::UdpOneWay; 64]);
    for port in 0..40 {
        lab.connect(4_000 + port);
    }
    assert_eq!(lab.drops(DropReason::TableFull), 0);
    assert_eq!(lab.event(Event::UdpEvicted), 36 + 40);
    // The other way round, none of them goes.
    for nth in 100..200 {
        lab.client_sends(spoofed_datagram(nth));
    }
    let established = |state: &&State| **state == State::Established;
    assert_eq!(lab.states().iter().filter(established).count(), 40);
}

#[test]
fn a_table_full_of_answered_udp_gives_up_what_is_idle() {
    let mut lab = Lab::with_capacity(16);
    let mut call = None;
    for nth in 0..16 {
        let out = lab.client_sends(spoofed_datagram(nth)).to_server();
        lab.server_sends_udp(&out, b"!");
        call = Some(out);
    }
    // The last goes on and on, with pauses.
    let call = call.expect("sent");
    for _ in 0..5 {
        lab.pass(400);
        lab.client_sends(spoofed_datagram(15));
        lab.server_sends_udp(&call, b"!");
    }
    lab.pass(600);
    for port in 0..15 {
        lab.connect(4_000 + port);
    }
    assert_eq!(lab.event(Event::UdpEvicted), 15);
    assert!(lab.states().contains(&State::UdpTwoWay), "the call stays");
    let out = lab.client_sends(Tcp::from_client(5_000, flags::SYN).seq(1));
    assert_eq!(out.to_client().flags, flags::RST | flags::ACK);
    assert_eq!(lab.drops(DropReason::TableFull), 1);
}

#[test]
fn the_oldest_half_open_connection_goes_first() {
    let mut lab = Lab::with_capacity(8);
    for nth in 0..8 {
        lab.client_sends(spoofed_syn(nth));
        lab.pass(8);
    }
    // A client that is slow to answer keeps its place through seven more.
    let syn = Tcp::from_client(4_000, flags::SYN).seq(100);
    let to_server = lab.client_sends(syn).to_server();
    for nth in 8..15 {
        lab.pass(8);
        lab.client_sends(spoofed_syn(nth));
    }
    let syn_ack = to_server
        .reply(flags::SYN | flags::ACK)
        .seq(900)
        .ack(to_server.seq + 1);
    assert_eq!(lab.server_sends(syn_ack).to_client().dst, CLIENT);
    let ack = Tcp::from_client(4_000, flags::ACK).seq(101).ack(901);
    assert_eq!(lab.client_sends(ack).to_server().flags, flags::ACK);
    assert!(lab.states().contains(&State::Established));
}

#[test]
fn ports_held_by_half_open_connections_go_to_new_ones_oldest_first() {
    let mut lab = Lab::with_ports(2000..=2015);
    let mut flow = lab.connect(4000);
    // Both servers' ports, but for that of the connection.
    for nth in 0..31 {
        assert_eq!(
            lab.client_sends(spoofed_syn(nth)).to_server().flags,
            flags::SYN
        );
    }
    assert_eq!(lab.ports_in_use(), 32);
    let mut last = [None; 2];
    for nth in 31..60 {
        let out = lab.client_sends(spoofed_syn(nth)).all_to_server();
        let [reset, syn] = &out[..] else {
            panic!("{out:?}")
        };
        // The server forgets the old one before it hears of the new one.
        assert_eq!((reset.flags, syn.flags), (flags::RST, flags::SYN));
        assert_eq!((reset.src_port, reset.dst), (syn.src_port, syn.dst));
        // Their initial sequence numbers tell their order.
        let taken = Some(reset.seq - 1);
        let last = &mut last[usize::from(reset.dst == SERVERS[1])];
        assert!(taken > *last, "{taken:?} after {last:?}");
        *last = taken;
    }
    assert_eq!(lab.event(Event::HalfOpenPortTaken), 29);
    assert_eq!(lab.drops(DropReason::NoLocalPort), 0);
    for port in 0..20 {
        lab.client_sends(Tcp::from_client(5_000 + port, flags::SYN).seq(1));
    }
    flow.exchange(&mut lab, b"request", b"response");
    assert_eq!(lab.ports_in_use(), 32);
    assert_eq!(lab.ends(), [(EndCause::Evicted, 49)]);
}

#[test]
fn a_client_that_was_given_a_port_a_moment_ago_keeps_it() {
    let mut lab = Lab::with_ports(2000..=2015);
    lab.set_server(1, ServerState::Removed);
    let mut flows = Vec::new();
    for nth in 0..14 {
        if nth == 5 || nth == 7 {
            flows.push(lab.connect(4_000 + nth));
        }
        lab.client_sends(spoofed_syn(nth));
    }
    assert_eq!(lab.ports_in_use(), 16);
    lab.pass(1_100);
    // Their ports go to others: first the one that was taken later.
    let mut honest = Vec::new();
    for port in [5_000, 5_001] {
        let flow = flows.pop().expect("two");
        lab.client_sends(flow.client_segment(flags::RST));
        honest.push(
            lab.client_sends(Tcp::from_client(port, flags::SYN).seq(1))
                .to_server(),
        );
    }
    assert_eq!(lab.event(Event::LocalPortStolen), 2);
    for nth in 14..26 {
        lab.client_sends(spoofed_syn(nth));
    }
    assert_eq!(lab.event(Event::HalfOpenPortTaken), 12);
    for syn in honest {
        let answer = syn
            .reply(flags::SYN | flags::ACK)
            .seq(9)
            .ack(syn.seq.wrapping_add(1));
        assert_eq!(lab.server_sends(answer).to_client().dst, CLIENT);
    }
}

#[test]
fn a_server_without_ports_leaves_the_connection_to_another() {
    let mut lab = Lab::with_ports(2000..=2003);
    for nth in 0..4 {
        lab.connect_with(4_000 + nth, 1, 0);
    }
    for nth in 0..4 {
        let out = lab.client_sends(Tcp::from_client(5_000 + nth, flags::SYN).seq(1));
        assert_eq!(out.to_server().dst, SERVERS[1]);
    }
    assert!(lab.event(Event::LocalPortElsewhere) >= 2);
    assert_eq!(lab.drops(DropReason::NoLocalPort), 0);
}

#[test]
fn ports_of_unanswered_and_of_idle_datagrams_go_to_new_ones() {
    let mut lab = Lab::with_ports(2000..=2007);
    for nth in 0..8 {
        let out = lab.client_sends(spoofed_datagram(nth)).to_server();
        if nth % 2 == 0 {
            lab.server_sends_udp(&out, b"!");
        }
    }
    for nth in 8..12 {
        lab.client_sends(spoofed_datagram(nth)).to_server();
    }
    assert_eq!(lab.event(Event::UdpPortTaken), 4);
    assert!(lab.states().contains(&State::UdpTwoWay));
    // All have been answered now, and are not idle yet.
    for nth in 12..16 {
        let out = lab.client_sends(spoofed_datagram(nth)).to_server();
        lab.server_sends_udp(&out, b"!");
    }
    let out = lab.client_sends(Tcp::datagram(4_000, b"?"));
    assert_eq!(out.icmp_to_client(), Some((3, 3)));
    lab.pass(600);
    let out = lab.client_sends(Tcp::datagram(4_000, b"?"));
    assert_eq!(out.to_server().payload, b"?");
}

/// Connections that idle out at the same moment end at that moment, and their
/// RSTs go as the rate allows for as long as their entries are there.
#[test]
fn connections_idle_out_in_time_whatever_the_rate_of_resets() {
    for (rate, connections, sent) in [
        (0, 40, 0..=0),
        (1, 40, 10..=12),
        (10, 40, 80..=80),
        (10, 100, 100..=110),
        (1_000, 40, 80..=80),
    ] {
        let mut lab = Lab::new();
        lab.reconfigure(|parts| parts.limits.resets_per_second = rate);
        for port in 0..connections {
            lab.connect(4_000 + port);
        }
        lab.pass(u64::from(ESTABLISHED_MS) + 50);
        assert_eq!(
            lab.states(),
            vec![State::Closed; usize::from(connections)],
            "{rate}"
        );
        assert_eq!(lab.ends(), [(EndCause::Idle, connections.into())]);
        lab.pass(10_100);
        let resets = lab.event(Event::ResetIdle);
        assert!(sent.contains(&resets), "{rate}: {resets}");
        let withheld = lab.event(Event::ResetWithheldIdle);
        assert_eq!(resets + withheld, 2 * u64::from(connections), "{rate}");
        lab.pass(60_100);
        assert_eq!(lab.ports_in_use(), 0, "{rate}");
    }
}

#[test]
fn a_reset_that_waited_has_the_right_numbers() {
    let mut lab = Lab::new();
    lab.reconfigure(|parts| parts.limits.resets_per_second = 2);
    let flows = [lab.connect(4_000), lab.connect(4_001)];
    let out = lab.pass(u64::from(ESTABLISHED_MS) + 1_200);
    let resets = out.all_to_client();
    assert_eq!(resets.len(), 2, "{resets:?}");
    for reset in resets {
        let flow = &flows[usize::from(reset.dst_port - 4_000)];
        assert_eq!(reset.flags, flags::RST | flags::ACK);
        assert_eq!((reset.seq, reset.ack), (flow.server_next, flow.client_next));
    }
    assert_eq!(out.all_to_server().len(), 2);
}

#[test]
fn connections_of_a_gone_server_end_and_routes_change_whatever_the_rate() {
    let mut lab = Lab::new();
    lab.reconfigure(|parts| parts.limits.resets_per_second = 0);
    for port in 0..20 {
        lab.connect(4_000 + port);
    }
    let out = lab.client_sends_udp(5_000, b"?").to_server();
    lab.server_sends_udp(&out, b"!");
    assert_eq!(lab.without_hops(), 0);
    lab.reconfigure(|parts| {
        parts.limits.resets_per_second = 0;
        parts.losses = 1;
        parts.route_generation = 2;
        for ix in [0, 2] {
            let server = parts.servers[ix].as_mut().expect("a server");
            server.state = ServerState::Down;
        }
    });
    lab.pass(8);
    assert_eq!(
        lab.without_hops(),
        20,
        "all but the UDP flow, which is gone"
    );
    let states = lab.states();
    let count = |wanted| states.iter().filter(|&&state| state == wanted).count();
    assert_eq!((count(State::Closed), count(State::Established)), (10, 10));
    assert_eq!(lab.event(Event::ResetWithheldGone), 20);
    // Who sends something hears of it, if the rate allows.
    lab.reconfigure(|_| {});
    let out = lab.client_sends(Tcp::from_client(4_000, flags::ACK).seq(1_001).ack(1));
    assert_eq!(out.to_client().flags, flags::RST);
}

#[test]
fn unanswered_datagrams_are_forgotten_soon_and_answered_ones_are_not() {
    let mut lab = Lab::new();
    lab.client_sends_udp(5_000, b"?");
    let out = lab.client_sends_udp(5_001, b"?").to_server();
    lab.server_sends_udp(&out, b"!");
    lab.pass(30_100);
    assert_eq!(lab.states(), [State::UdpTwoWay]);
}

#[test]
fn a_timeout_that_changes_holds_for_what_is_there() {
    let mut lab = Lab::new();
    let out = lab.client_sends_udp(5_000, b"?").to_server();
    lab.server_sends_udp(&out, b"!");
    let _flow = lab.connect(4_000);
    lab.reconfigure(|parts| {
        parts.timeout_generation = 1;
        for service in parts.services.iter_mut().flatten() {
            service.timeouts.udp = 1_000;
            service.timeouts.established = 2_000;
        }
    });
    lab.pass(1_100);
    assert_eq!(lab.states(), [State::Established]);
    lab.pass(1_000);
    assert_eq!(lab.states(), [State::Closed]);
}

#[test]
fn a_question_and_its_answer_may_be_all_of_a_flow() {
    let mut lab = Lab::new();
    let one_answer = |parts: &mut Parts| {
        let services = parts.services.iter_mut().flatten();
        services.for_each(|service| service.one_answer = true);
    };
    lab.reconfigure(one_answer);
    // Two questions at once, as resolvers ask for A and AAAA.
    let first = lab.client_sends_udp(5_000, b"A?").to_server();
    let second = lab.client_sends_udp(5_000, b"AAAA?").to_server();
    assert_eq!(first.src_port, second.src_port);
    for answer in [b"A", b"!"] {
        let got = lab.server_sends_udp(&first, answer).to_client();
        assert_eq!((got.dst_port, &got.payload[..]), (5_000, &answer[..]));
        assert_eq!(lab.states(), [State::Resting]);
    }
    let third = lab.client_sends_udp(5_000, b"A?").to_server();
    assert_ne!(third.src_port, first.src_port);
    assert_eq!(lab.active(2), 1);
    lab.pass(10_100);
    assert_eq!(lab.states(), [State::UdpOneWay]);
    lab.pass(20_100);
    assert_eq!(lab.ports_in_use(), 0);

    // Ports that rest are for the taking.
    let mut lab = Lab::with_ports(2000..=2003);
    lab.reconfigure(one_answer);
    for port in 0..40 {
        let out = lab.client_sends_udp(5_000 + port, b"?").to_server();
        lab.server_sends_udp(&out, b"!");
    }
    assert_eq!(lab.event(Event::LocalPortStolen), 36);
    assert_eq!(lab.drops(DropReason::NoLocalPort), 0);
}

#[test]
fn a_datagram_that_a_server_refuses_goes_to_another_at_once() {
    let mut lab = Lab::new();
    lab.add_udp_server();
    let refused = lab.client_sends_udp(5_000, b"question").to_server();
    let out = lab.server_sends_icmp(3, 3, &refused);
    let again = out.to_server();
    assert_ne!(again.dst, refused.dst);
    assert_eq!(again.payload, b"question");
    assert_eq!(lab.event(Event::UdpResent), 1);
    let answer = lab.server_sends_udp(&again, b"answer").to_client();
    assert_eq!(
        (answer.dst_port, &answer.payload[..]),
        (5_000, &b"answer"[..])
    );
    // The flow stays there, and new ones go there while the other just failed.
    for port in [5_000, 5_001, 5_002] {
        let out = lab.client_sends_udp(port, b"more").to_server();
        assert_eq!(out.dst, again.dst);
    }
    // That one fails too: the client hears of it.
    let refused = lab.client_sends_udp(5_003, b"question").to_server();
    let out = lab.server_sends_icmp(3, 3, &refused);
    assert_eq!(out.icmp_to_client(), Some((3, 3)));
}

#[test]
fn a_flow_whose_server_is_gone_moves_with_its_next_datagram() {
    let mut lab = Lab::new();
    lab.add_udp_server();
    let first = lab.client_sends_udp(5_000, b"question").to_server();
    lab.server_sends_udp(&first, b"answer");
    let refused = lab.client_sends_udp(5_000, b"more").to_server();
    assert_eq!(refused.dst, first.dst);
    let out = lab.server_sends_short_icmp(3, 3, &refused);
    assert_eq!(out.icmp_to_client(), Some((3, 3)), "not quoted whole");
    let moved = lab.client_sends_udp(5_000, b"more").to_server();
    assert_ne!(moved.dst, first.dst);
    assert_eq!(lab.event(Event::UdpMoved), 1);
    // Path MTU discovery is no reason to leave.
    let out = lab.server_sends_icmp(3, 4, &moved);
    assert_eq!(out.icmp_to_client(), Some((3, 4)));
    let stays = lab.client_sends_udp(5_000, b"more").to_server();
    assert_eq!(stays.dst, moved.dst);
}

#[test]
fn a_datagram_whose_server_answers_no_arp_goes_to_another() {
    let mut lab = Lab::unresolved();
    lab.add_udp_server();
    for port in [5_000, 5_001] {
        lab.client_sends_udp(port, &port.to_be_bytes());
    }
    let out = lab.arp_answer(SERVERS[1]);
    let there = out.to_server();
    let out = lab.pass(1_200);
    let again = out.to_server();
    assert_eq!((there.dst, again.dst), (SERVERS[1], SERVERS[1]));
    assert_ne!(there.payload, again.payload);
    assert_eq!(lab.drops(DropReason::NeighborUnreachable), 0);
}

/// RFC 1812 §5.2.7.1.
#[test]
fn a_client_hears_at_once_that_its_only_server_answers_no_arp() {
    let mut lab = Lab::unresolved();
    lab.client_sends_udp(5_000, b"question");
    lab.pass(1_100);
    let (quoted, kind) = lab.client_answers_arp().quoted_to_client();
    assert_eq!(kind, (3, 1));
    assert_eq!((quoted.src, quoted.src_port), (CLIENT, 5_000));
    assert_eq!(lab.drops(DropReason::NeighborUnreachable), 1);
}

/// The hand looks for somebody who may go before the table is full, so that
/// nobody is refused for one who is far from where it stood.
#[test]
fn a_guest_anywhere_in_the_table_is_found() {
    let mut lab = Lab::with_capacity(1_000);
    for port in 0..999 {
        lab.connect(4_000 + port);
    }
    lab.client_sends(spoofed_syn(0));
    lab.pass(32);
    lab.connect(3_000);
    assert_eq!(lab.event(Event::HalfOpenEvicted), 1);
    assert_eq!(lab.drops(DropReason::TableFull), 0);
}

/// A server that answers nothing for a second is asked for its MAC address.
#[test]
fn a_flow_without_an_answer_casts_doubt_on_the_next_hop() {
    let mut lab = Lab::new();
    lab.client_sends_udp(5_000, b"?");
    lab.pass(900);
    let before = lab.event(Event::ArpRequests);
    lab.pass(400);
    assert!(lab.event(Event::ArpRequests) > before);
}

/// Where a client belongs by its address it stays, but for the time that its
/// server just failed.
#[test]
fn source_hashing_holds_for_flows_whose_server_is_fine() {
    let mut lab = Lab::new();
    lab.add_udp_server();
    let hashed = |parts: &mut Parts| {
        let servers = [(ServerIx(2), 1), (ServerIx(3), 1)];
        let service = parts.services[1].as_mut().expect("the UDP service");
        service.plan = Plan::build(Scheduler::SourceHash, &servers);
    };
    lab.reconfigure(hashed);
    let own = lab.client_sends_udp(5_000, b"?").to_server();
    let failed = lab.client_sends_udp(5_001, b"?").to_server();
    assert_eq!(failed.dst, own.dst);
    let moved = lab.server_sends_icmp(3, 3, &failed).to_server();
    assert_ne!(moved.dst, own.dst);
    // The other flow knows nothing of it, and new ones come back in a second.
    assert_eq!(lab.client_sends_udp(5_000, b"?").to_server().dst, own.dst);
    assert_eq!(lab.client_sends_udp(5_002, b"?").to_server().dst, moved.dst);
    lab.pass(1_100);
    assert_eq!(lab.client_sends_udp(5_003, b"?").to_server().dst, own.dst);
}

/// Answered flows are many, and give way before a question that was just asked.
#[test]
fn a_question_just_asked_is_not_the_first_to_go() {
    let mut lab = Lab::with_capacity(32);
    for nth in 0..31 {
        let out = lab.client_sends(spoofed_datagram(nth)).to_server();
        lab.server_sends_udp(&out, b"!");
    }
    lab.pass(600);
    let asked = lab.client_sends_udp(5_000, b"question").to_server();
    for nth in 31..41 {
        lab.client_sends(spoofed_datagram(nth));
    }
    let answer = lab.server_sends_udp(&asked, b"answer").to_client();
    assert_eq!((answer.dst, answer.dst_port), (CLIENT, 5_000));
}
