//! The whole packet path on memory I/O: packets in, packets out, counters.

mod attempts;
mod borrow;
mod captures;
mod clock;
mod explain;
mod forged;
mod fragments;
mod kernel;
mod lab;
mod neighbors;
mod path_mtu;
mod pressure;
mod steering;
mod vlan;

use lab::{CLIENT, Lab, SERVERS, Tcp, VIP, flags};

use crate::conntrack::entry::State;
use crate::service::snapshot::ServerState;
use crate::stats::{DropReason, EndCause, Event};
use crate::wire::ipv4::Ipv4View;

#[test]
fn a_syn_is_translated_on_both_sides() {
    let mut lab = Lab::new();
    let syn = Tcp::from_client(4000, flags::SYN).seq(100);
    let out = lab.client_sends(syn);
    let to_server = out.to_server();
    assert_eq!(to_server.dst, SERVERS[0]);
    assert_eq!(to_server.dst_port, 8080);
    assert!(lab.is_local(to_server.src));
    assert_eq!(to_server.seq, 100);
    assert_eq!(to_server.ttl, 63);

    let reply = to_server.reply(flags::SYN | flags::ACK).seq(900).ack(101);
    let out = lab.server_sends(reply);
    let to_client = out.to_client();
    assert_eq!((to_client.src, to_client.src_port), (VIP, 80));
    assert_eq!((to_client.dst, to_client.dst_port), (CLIENT, 4000));
    assert_eq!((to_client.seq, to_client.ack), (900, 101));
}

#[test]
fn a_whole_connection_ends_in_time_wait_and_its_port_rests() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    flow.exchange(&mut lab, b"request", b"response");
    flow.client_closes(&mut lab);
    flow.server_closes(&mut lab);
    assert_eq!(lab.states(), [State::TimeWait]);
    assert_eq!(lab.active(0), 0);
    lab.pass(59_000);
    assert_eq!(lab.states(), [State::TimeWait]);
    lab.pass(1_100);
    assert!(lab.states().is_empty());
    assert_eq!(lab.ends(), [(EndCause::Closed, 1)]);
    assert_eq!(lab.ports_in_use(), 0);
}

#[test]
fn the_port_of_a_reset_connection_rests_as_long() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    lab.client_sends(Tcp::from_client(4000, flags::RST).seq(flow.client_next));
    assert_eq!(lab.states(), [State::Closed]);
    lab.pass(10_100);
    assert_eq!(lab.states(), [State::Resting]);
    lab.pass(50_000);
    assert_eq!(lab.ports_in_use(), 1, "60 s after the reset");
    lab.pass(10_100);
    assert_eq!(lab.ports_in_use(), 0);
    assert_eq!(lab.ends(), [(EndCause::Reset, 1)]);
}

#[test]
fn requests_go_round_the_servers_in_turn() {
    let mut lab = Lab::new();
    let servers: Vec<_> = (0..4)
        .map(|i| {
            let out = lab.client_sends(Tcp::from_client(4000 + i, flags::SYN));
            out.to_server().dst
        })
        .collect();
    assert_eq!(servers, [SERVERS[0], SERVERS[1], SERVERS[0], SERVERS[1]]);
}

#[test]
fn an_unknown_segment_is_reset_by_the_rule() {
    let mut lab = Lab::new();
    let out = lab.client_sends(
        Tcp::from_client(4000, flags::FIN | flags::ACK)
            .seq(7)
            .ack(99),
    );
    let reset = out.to_client();
    assert_eq!((reset.src, reset.src_port), (VIP, 80));
    assert_eq!((reset.flags, reset.seq), (flags::RST, 99));
    assert_eq!(lab.event(Event::ResetUnknownClient), 1);
    assert_eq!(lab.drops(DropReason::UnknownFlowClient), 1);

    let out = lab.client_sends(Tcp::from_client(4000, flags::RST).seq(7));
    assert!(out.is_empty());
}

#[test]
fn a_server_s_unknown_segment_is_reset_from_the_local_address() {
    let mut lab = Lab::new();
    let stray = Tcp::from_server(0, lab.local(), 2000, flags::ACK)
        .seq(5)
        .ack(77);
    let out = lab.server_sends(stray);
    let reset = out.to_server();
    assert_eq!((reset.flags, reset.seq), (flags::RST, 77));
    assert_eq!(reset.src, lab.local());
    assert_eq!(lab.event(Event::ResetUnknownServer), 1);
}

#[test]
fn a_syn_on_a_finished_connection_starts_afresh_at_once() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    flow.server_closes(&mut lab);
    flow.client_closes(&mut lab);
    assert_eq!(lab.states(), [State::TimeWait]);
    let out = lab.client_sends(Tcp::from_client(4000, flags::SYN).seq(5_000_000));
    let syn = out.to_server();
    assert_eq!(syn.dst, SERVERS[1], "scheduled afresh");
    assert_ne!(syn.src_port, flow.local_port, "on a local port that rested");
    assert_eq!(lab.states(), [State::Resting, State::SynSent]);
    assert_eq!(lab.event(Event::ClientPortReused), 1);
}

#[test]
fn a_silent_server_s_syn_moves_within_a_quarter_second() {
    let mut lab = Lab::new();
    let out = lab.client_sends(Tcp::from_client(4000, flags::SYN).seq(100));
    let first = out.to_server();
    let out = lab.pass(280);
    let second = out.to_server();
    assert_eq!((first.dst, second.dst), (SERVERS[0], SERVERS[1]));
    assert_eq!((second.flags, second.seq), (flags::SYN, 100));
    assert_eq!(lab.event(Event::SynMoved), 1);
    assert_eq!(lab.failures(0), 1);

    let out = lab.server_sends(second.reply(flags::SYN | flags::ACK).seq(900).ack(101));
    assert_eq!(out.to_client().flags, flags::SYN | flags::ACK);

    let late = lab.server_sends(first.reply(flags::SYN | flags::ACK).seq(33).ack(101));
    let reset = late.to_server();
    assert_eq!(
        (reset.dst, reset.flags, reset.seq),
        (SERVERS[0], flags::RST, 101)
    );
    assert_eq!(lab.event(Event::ResetAbandoned), 1);
}

#[test]
fn a_server_that_came_back_is_trusted_again() {
    let syn = || Tcp::from_client(4000, flags::SYN).seq(100);
    let tried = |lab: &mut Lab| lab.pass(280).all_to_server().len();
    // Where nobody else is left, a refusing server is not asked again.
    let mut lab = Lab::new();
    let first = lab.client_sends(syn()).to_server();
    lab.server_sends(first.reply(flags::RST | flags::ACK).ack(101));
    assert_eq!(tried(&mut lab), 0);
    // A silent one is.
    let mut lab = Lab::new();
    lab.client_sends(syn());
    assert_eq!((tried(&mut lab), tried(&mut lab)), (1, 1));
    // And what is held against it ends when it goes down and comes back.
    lab.set_server(0, ServerState::Down);
    lab.set_server(0, ServerState::Up);
    lab.pass(8);
    assert!(lab.worker.health[0].usable(lab.now(), true));
}

#[test]
fn a_refusing_server_s_syn_moves_at_once_and_the_last_refusal_passes() {
    let mut lab = Lab::new();
    let first = lab
        .client_sends(Tcp::from_client(4000, flags::SYN).seq(100))
        .to_server();
    let out = lab.server_sends(first.reply(flags::RST | flags::ACK).ack(101));
    let second = out.to_server();
    assert_eq!(second.dst, SERVERS[1]);
    let out = lab.server_sends(second.reply(flags::RST | flags::ACK).ack(101));
    let refusal = out.to_client();
    assert_eq!(refusal.flags, flags::RST | flags::ACK);
    assert_eq!(refusal.ack, 101);
    assert_eq!(lab.event(Event::ServerRefused), 2);
    assert_eq!(lab.ends(), [(EndCause::Refused, 1)]);
    assert_eq!(lab.accepted(), [0; 11]);
}

#[test]
fn a_rebooted_client_s_held_syn_is_replayed_after_its_reset() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let syn = Tcp::from_client(4000, flags::SYN).seq(8_000_000);
    let passed = lab.client_sends(syn).to_server();
    assert_eq!(
        passed.src_port, flow.local_port,
        "the server may challenge it"
    );
    let challenge = passed
        .reply(flags::ACK)
        .seq(flow.server_next)
        .ack(flow.client_next);
    let out = lab.server_sends(challenge);
    let challenge = out.to_client();
    assert_eq!(challenge.ack, flow.client_next);
    let out = lab.client_sends(Tcp::from_client(4000, flags::RST).seq(flow.client_next));
    let packets = out.all_to_server();
    assert_eq!(packets[0].flags, flags::RST);
    assert_eq!((packets[1].flags, packets[1].seq), (flags::SYN, 8_000_000));
    assert_ne!(packets[1].src_port, flow.local_port);
    assert_eq!(lab.event(Event::SynReplayed), 1);
}

#[test]
fn a_forged_syn_is_not_held_for_long() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    lab.client_sends(Tcp::from_client(4000, flags::SYN).seq(8_000_000));
    assert_eq!(lab.held_syns(), 1);
    lab.pass(1_100);
    assert_eq!(lab.held_syns(), 0);
    flow.exchange(&mut lab, b"request", b"response");
    assert_eq!(lab.states(), [State::Established]);
}

#[test]
fn a_forged_reset_changes_nothing() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let forged = Tcp::from_client(4000, flags::RST).seq(flow.client_next.wrapping_add(1 << 30));
    assert!(lab.client_sends(forged).is_empty());
    assert_eq!(lab.states(), [State::Established]);
    assert_eq!(lab.drops(DropReason::TcpRstOutOfWindow), 1);
}

#[test]
fn how_long_a_server_took_to_accept_is_counted_from_its_own_syn() {
    let mut lab = Lab::new();
    lab.client_sends(Tcp::from_client(4000, flags::SYN).seq(100));
    // The first server is silent; the second gets the SYN some 250 ms later.
    let second = lab.pass(280).to_server();
    lab.pass(16);
    lab.server_sends(second.reply(flags::SYN | flags::ACK).seq(900).ack(101));
    let accepted = lab.accepted();
    assert_eq!(accepted.iter().sum::<u64>(), 1);
    // 25 to 50 ms.
    assert_eq!(accepted[5], 1, "{accepted:?}");
}

#[test]
fn an_idle_connection_is_reset_at_both_ends() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let out = lab.pass(u64::from(lab::ESTABLISHED_MS) + 100);
    let (client, server) = (out.to_client(), out.to_server());
    assert_eq!(client.flags & flags::RST, flags::RST);
    assert_eq!(client.seq, flow.server_next);
    assert_eq!(server.flags & flags::RST, flags::RST);
    assert_eq!(server.seq, flow.client_next);
    assert_eq!(lab.event(Event::ResetIdle), 2);
    assert_eq!(lab.ends(), [(EndCause::Idle, 1)]);
}

#[test]
fn a_mass_of_idle_connections_makes_no_other_timer_late() {
    let mut lab = Lab::new();
    for port in 10_000..13_000 {
        lab.connect(port);
    }
    // Far more at once than RSTs may be sent.
    lab.pass(u64::from(lab::ESTABLISHED_MS) + 500);
    assert_eq!(lab.event(Event::IdledOut), 3_000);
    let reset = lab.event(Event::ResetIdle);
    assert!((1_000..=1_600).contains(&reset), "{reset}");
    lab.client_sends(Tcp::from_client(4000, flags::SYN).seq(100));
    lab.pass(280);
    assert_eq!(lab.event(Event::SynMoved), 1);
    lab.pass(6_000);
    assert_eq!(lab.event(Event::ResetIdle), 6_000);
}

#[test]
fn connections_of_a_removed_server_are_reset_at_once() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    lab.set_server(0, ServerState::Removed);
    let out = lab.pass(5);
    assert_eq!(out.to_client().seq, flow.server_next);
    assert_eq!(out.to_server().seq, flow.client_next);
    assert_eq!(lab.event(Event::ResetServerGone), 2);
    assert_eq!(lab.ends(), [(EndCause::ServerGone, 1)]);
}

#[test]
fn a_syn_to_a_removed_server_moves_to_another() {
    let mut lab = Lab::new();
    let first = lab
        .client_sends(Tcp::from_client(4000, flags::SYN).seq(100))
        .to_server();
    lab.set_server(0, ServerState::Removed);
    let second = lab.pass(5).to_server();
    assert_eq!((first.dst, second.dst), (SERVERS[0], SERVERS[1]));
    assert_eq!((second.flags, second.seq), (flags::SYN, 100));
    assert_eq!(lab.event(Event::SynMoved), 1);
    assert_eq!(lab.event(Event::ResetServerGone), 0);
    lab.set_server(1, ServerState::Removed);
    let refusal = lab.pass(5).to_client();
    assert_eq!((refusal.flags, refusal.ack), (flags::RST | flags::ACK, 101));
}

#[test]
fn connections_of_a_draining_server_go_on() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    lab.set_server(0, ServerState::Draining);
    lab.pass(50);
    flow.exchange(&mut lab, b"more", b"of it");
    for port in 5000..5004 {
        let out = lab.client_sends(Tcp::from_client(port, flags::SYN));
        assert_eq!(out.to_server().dst, SERVERS[1]);
    }
}

#[test]
fn without_a_server_a_syn_is_refused_at_once() {
    let mut lab = Lab::new();
    lab.set_server(0, ServerState::Down);
    lab.set_server(1, ServerState::Down);
    let out = lab.client_sends(Tcp::from_client(4000, flags::SYN).seq(100));
    let reset = out.to_client();
    assert_eq!((reset.flags, reset.ack), (flags::RST | flags::ACK, 101));
    assert_eq!(lab.drops(DropReason::NoServer), 1);
}

#[test]
fn without_a_rested_port_one_is_stolen_and_the_sequence_moves() {
    let mut lab = Lab::with_ports(2000..=2001);
    for (port, isn) in [(4000, 1_000), (4001, 2_000)] {
        let mut flow = lab.connect_with(port, isn, 0);
        flow.server_closes(&mut lab);
        flow.client_closes(&mut lab);
    }
    let mut flow = lab.connect_with(4002, 4_000_000_000, 0);
    assert_eq!(lab.event(Event::LocalPortStolen), 1);
    assert!(
        flow.server_saw_isn.wrapping_sub(1_000) < 1 << 31,
        "after the old connection: {}",
        flow.server_saw_isn
    );
    flow.exchange(&mut lab, b"request", b"response");
}

#[test]
fn all_ports_in_use_is_refused_at_once() {
    let mut lab = Lab::with_ports(2000..=2000);
    let _first = lab.connect_with(4000, 1, 0);
    let _second = lab.connect_with(4001, 1, 1);
    let out = lab.client_sends(Tcp::from_client(4002, flags::SYN).seq(5));
    assert_eq!(out.to_client().flags, flags::RST | flags::ACK);
    assert_eq!(lab.drops(DropReason::NoLocalPort), 1);
}

#[test]
fn a_full_table_gives_up_half_open_connections_first() {
    let mut lab = Lab::with_capacity(4);
    let _established = lab.connect(4000);
    for port in 5000..5010 {
        let out = lab.client_sends(Tcp::from_client(port, flags::SYN).seq(1));
        assert_eq!(out.to_server().flags, flags::SYN);
    }
    assert!(lab.event(Event::HalfOpenEvicted) >= 7);
    assert!(lab.states().contains(&State::Established));
    let evicted = lab.event(Event::HalfOpenEvicted);
    assert_eq!(lab.ends(), [(EndCause::Evicted, evicted)]);
}

#[test]
fn packets_wait_for_the_next_hop_and_leave_with_its_answer() {
    let mut lab = Lab::unresolved();
    let out = lab.client_sends(Tcp::from_client(4000, flags::SYN).seq(1));
    assert!(out.all_to_server().is_empty());
    let request = out.arp_request().expect("asked at once");
    assert_eq!(request.target_ip, SERVERS[0]);
    let out = lab.arp_answer(SERVERS[0]);
    assert_eq!(out.to_server().flags, flags::SYN);
    assert_eq!(lab.event(Event::NeighborHeld), 1);
}

#[test]
fn udp_is_balanced_and_answers_come_from_the_vip() {
    let mut lab = Lab::new();
    let to_server = lab.client_sends_udp(5353, b"ask").to_server();
    assert_eq!(to_server.dst_port, 9090);
    let to_client = lab.server_sends_udp(&to_server, b"answer").to_client();
    assert_eq!((to_client.src, to_client.src_port), (VIP, 53));
    assert_eq!(lab.states(), [State::UdpTwoWay]);
}

#[test]
fn fragments_go_the_way_of_their_first_in_any_order() {
    let mut lab = Lab::new();
    let [first, second, third] = lab::fragments_of_a_request(5353);
    assert!(lab.client_sends_packet(&third).is_empty(), "it waits");
    assert_eq!(lab.client_sends_packet(&first).all_fragments_to_server(), 2);
    assert_eq!(
        lab.client_sends_packet(&second).all_fragments_to_server(),
        1
    );
    assert_eq!(lab.event(Event::Fragmented), 3);
}

#[test]
fn every_fragment_counts_for_its_server() {
    let mut lab = Lab::new();
    let fragments = lab::fragments_of_a_request(5353);
    for fragment in &fragments {
        let _ = lab.client_sends_packet(fragment);
    }
    let bytes: usize = fragments.iter().map(Vec::len).sum();
    assert_eq!(lab.sent_to_server(2), (3, bytes as u64));
}

/// RFC 1122 §3.2.2: no ICMP error about a fragment other than the first.
#[test]
fn ttl_of_a_later_fragment_ends_in_silence() {
    let mut lab = Lab::new();
    let [first, mut second, _] = lab::fragments_of_a_request(5353);
    second[8] = 1;
    let mut ip = Ipv4View::new_quoted(&mut second[..]).expect("whole");
    ip.fill_checksum();
    let _ = lab.client_sends_packet(&first);
    assert!(lab.client_sends_packet(&second).is_empty());
    assert_eq!(lab.drops(DropReason::TtlExpired), 1);
}

#[test]
fn a_fragment_whose_first_never_comes_is_given_up() {
    let mut lab = Lab::new();
    let [_, second, _] = lab::fragments_of_a_request(5353);
    assert!(lab.client_sends_packet(&second).is_empty());
    lab.pass(1_100);
    assert_eq!(lab.drops(DropReason::Ipv4Fragment), 1);
}

#[test]
fn ttl_ends_at_the_gateway_with_time_exceeded() {
    let mut lab = Lab::new();
    let out = lab.client_sends(Tcp::from_client(4000, flags::SYN).ttl(1));
    assert_eq!(out.icmp_to_client(), Some((11, 0)));
    assert_eq!(lab.drops(DropReason::TtlExpired), 1);
}

#[test]
fn pings_to_vip_and_local_address_are_answered() {
    let mut lab = Lab::new();
    assert_eq!(lab.ping(VIP).icmp_to_client(), Some((0, 0)));
    assert_eq!(lab.ping(lab.local()).icmp_to_client(), Some((0, 0)));
    assert_eq!(lab.event(Event::EchoReplies), 2);
}

/// As those of networks with jumbo frames are.
#[test]
fn pings_in_several_buffers_are_answered_whole_or_not_at_all() {
    let mut lab = Lab::new();
    lab.ping(VIP);
    for first in [42, 43, 600] {
        let answer = lab.ping_in_parts(1_000, first, false);
        assert_eq!(answer.icmp_to_client(), Some((0, 0)));
        let answer = &answer.packets_to_client()[0];
        assert_eq!(answer.len(), 20 + 8 + 1_000);
        assert!(answer[28..].iter().all(|&byte| byte == 0x5a));
        assert!(lab.ping_in_parts(1_000, first, true).is_empty());
    }
    assert_eq!(lab.event(Event::EchoReplies), 1 + 3);
    assert_eq!(lab.drops(DropReason::IcmpMalformed), 3);
}

#[test]
fn icmp_errors_reach_the_client_with_its_own_packet_quoted() {
    let mut lab = Lab::new();
    let to_server = lab.client_sends_udp(5353, b"ask").to_server();
    let out = lab.server_sends_icmp(3, 3, &to_server);
    let (quote, kind) = out.quoted_to_client();
    assert_eq!(kind, (3, 3));
    assert_eq!((quote.src, quote.src_port), (CLIENT, 5353));
    assert_eq!((quote.dst, quote.dst_port), (VIP, 53));
}

/// Each row: what a frame on the client's port is dropped for, and the frame.
#[test]
fn broken_and_foreign_frames_are_counted_by_reason() {
    use DropReason as R;
    let syn = lab::good_syn();
    let edited = |edit: fn(&mut Vec<u8>)| {
        let mut frame = syn.clone();
        edit(&mut frame);
        frame
    };
    let resummed = |edit: fn(&mut Vec<u8>)| {
        let mut frame = syn.clone();
        edit(&mut frame);
        lab::fill_ip_checksum(&mut frame);
        frame
    };
    let rows = [
        (R::EthernetShort, edited(|f| f.truncate(13))),
        (R::NotForUs, edited(|f| f[5] ^= 1)),
        (
            R::VlanTagged,
            edited(|f| f[12..14].copy_from_slice(&[0x81, 0])),
        ),
        (
            R::EtherTypeUnsupported,
            edited(|f| f[12..14].copy_from_slice(&[0x86, 0xdd])),
        ),
        (
            R::ArpMalformed,
            edited(|f| f[12..14].copy_from_slice(&[0x08, 0x06])),
        ),
        (R::Ipv4Malformed, edited(|f| f.truncate(30))),
        (R::Ipv4Malformed, resummed(|f| f[14] = 0x44)),
        (
            R::Ipv4Malformed,
            resummed(|f| f[16..18].copy_from_slice(&[9, 9])),
        ),
        (R::Ipv4Checksum, edited(|f| f[24] ^= 1)),
        (R::Ipv4Martian, resummed(|f| f[26] = 127)),
        (R::NotLocalAddress, resummed(|f| f[33] ^= 64)),
        (R::ProtocolUnsupported, resummed(|f| f[23] = 47)),
        (R::TcpMalformed, edited(|f| f[46] = 0x40)),
        (R::TcpMalformed, edited(|f| f[46] = 0xf0)),
        (R::TcpBadFlags, edited(|f| f[47] = flags::SYN | flags::FIN)),
        (R::UdpMalformed, resummed(|f| f[23] = 17)),
        (R::IcmpMalformed, resummed(|f| f[23] = 1)),
        (R::NoService, edited(|f| f[37] = 81)),
        (R::TtlExpired, resummed(|f| f[22] = 1)),
    ];
    for (reason, frame) in rows {
        let mut lab = Lab::new();
        let before = lab.drops(reason);
        lab.client_sends_frame(&frame);
        assert_eq!(lab.drops(reason), before + 1, "{}", reason.name());
        let total: u64 = R::ALL.iter().map(|reason| lab.drops(*reason)).sum();
        assert_eq!(total, before + 1, "{}: one reason only", reason.name());
    }
}

#[test]
fn what_can_not_be_sent_is_counted_too() {
    let mut lab = Lab::new();
    lab.worker.io_mut().free = 0;
    lab.client_sends(Tcp::from_client(4000, flags::ACK));
    assert_eq!(lab.drops(DropReason::NoBuffer), 1, "the RST");

    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    lab.worker.io_mut().tx_room = 0;
    for _ in 0..crate::io::TX_BURST {
        lab.client_sends(Tcp::from_client(4001, flags::ACK));
    }
    assert_eq!(lab.drops(DropReason::TxFull), 0);
    lab.client_sends(Tcp::from_client(4001, flags::ACK));
    assert_eq!(lab.drops(DropReason::TxFull), 1);
    lab.worker.io_mut().tx_room = usize::MAX;
    lab.pass(8);
    flow.exchange(&mut lab, b"still", b"there");
}

#[test]
fn a_next_hop_that_never_answers_is_unreachable_after_a_second() {
    let mut lab = Lab::unresolved();
    lab.client_sends_udp(5353, b"ask");
    lab.pass(1_100);
    assert_eq!(lab.drops(DropReason::NeighborUnreachable), 1);
}

#[test]
fn resets_beyond_the_rate_limit_are_withheld_and_counted() {
    let mut lab = Lab::new();
    for _ in 0..1_010 {
        lab.client_sends(Tcp::from_client(4000, flags::ACK).ack(1));
    }
    assert_eq!(lab.event(Event::ResetUnknownClient), 1_000);
    assert_eq!(lab.event(Event::ResetWithheld), 10);
    assert_eq!(lab.drops(DropReason::UnknownFlowClient), 1_010);
}
