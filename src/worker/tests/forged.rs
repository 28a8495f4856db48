//! Who may send what, what forged segments and errors do, and how much is
//! answered.

use std::net::Ipv4Addr;

use super::lab::{CLIENT, LOCAL, Lab, SERVERS, Tcp, VIP, fill_ip_checksum, flags, good_syn};
use crate::conntrack::entry::State;
use crate::service::snapshot::Rpf;
use crate::stats::{DropReason, EndCause, Event};

fn syn_from(src: Ipv4Addr) -> Tcp {
    Tcp {
        src,
        ..Tcp::from_client(4000, flags::SYN)
    }
}

#[test]
fn our_own_addresses_send_nothing() {
    let own = Ipv4Addr::new(10, 1, 0, 1);
    for src in [VIP, LOCAL, own] {
        let mut lab = Lab::new();
        assert!(lab.client_sends(syn_from(src)).is_empty());
        assert!(lab.ping_from(src, VIP).is_empty());
        let mut datagram = syn_from(src);
        datagram.protocol = 17;
        datagram.dst_port = 53;
        assert!(lab.client_sends(datagram).is_empty());
        assert_eq!(lab.drops(DropReason::SourceOurs), 3, "{src}");
        assert!(lab.states().is_empty());
    }
}

#[test]
fn a_host_of_another_port_s_network_comes_in_by_that_port_only() {
    let mut lab = Lab::new();
    assert!(lab.client_sends(syn_from(SERVERS[0])).is_empty());
    assert!(lab.ping_from(SERVERS[0], VIP).is_empty());
    assert_eq!(lab.drops(DropReason::SourceElsewhere), 2);
    // The same host by its own port is a client like others.
    let _ = lab.server_sends(syn_from(SERVERS[0])).to_server();
    assert_eq!(lab.states(), [State::SynSent]);
}

#[test]
fn strict_takes_what_the_routes_have_behind_the_port() {
    let far = Ipv4Addr::new(192, 0, 2, 9);
    for (rpf, taken) in [(Rpf::Off, true), (Rpf::Loose, true), (Rpf::Strict, false)] {
        let mut lab = Lab::new();
        lab.set_rpf(rpf);
        let _ = lab.client_sends(syn_from(far));
        assert_eq!(!lab.states().is_empty(), taken, "{rpf:?}");
        assert_eq!(lab.drops(DropReason::SourceElsewhere), u64::from(!taken));
        let _ = lab
            .client_sends(Tcp::from_client(4001, flags::SYN))
            .to_server();
    }
    let mut lab = Lab::new();
    lab.set_rpf(Rpf::Off);
    let _ = lab.client_sends(syn_from(SERVERS[0])).to_server();
    assert_eq!(lab.drops(DropReason::SourceElsewhere), 0);
}

#[test]
fn a_network_s_broadcast_address_is_no_source() {
    let mut lab = Lab::new();
    let lan = [Ipv4Addr::new(10, 2, 0, 0), Ipv4Addr::new(10, 2, 0, 255)];
    let wan = [Ipv4Addr::new(10, 1, 0, 0), Ipv4Addr::new(10, 1, 255, 255)];
    for src in wan.into_iter().chain(lan) {
        assert!(lab.client_sends(syn_from(src)).is_empty());
    }
    assert_eq!(lab.drops(DropReason::Ipv4Martian), 4);
}

#[test]
fn fragments_of_a_forged_source_wait_for_nothing() {
    let mut lab = Lab::new();
    let later = |src: Ipv4Addr, dst: Ipv4Addr| {
        let mut packet = Tcp {
            dst,
            ..syn_from(src)
        }
        .packet();
        packet[6..8].copy_from_slice(&5_u16.to_be_bytes());
        let mut frame = [&[0; 14][..], &packet].concat();
        fill_ip_checksum(&mut frame);
        frame[14..].to_vec()
    };
    let _ = lab.client_sends_packet(&later(VIP, VIP));
    let _ = lab.client_sends_packet(&later(SERVERS[0], VIP));
    let _ = lab.client_sends_packet(&later(CLIENT, Ipv4Addr::new(8, 8, 8, 8)));
    assert_eq!(lab.fragments_waiting(), 0);
    assert_eq!(lab.drops(DropReason::SourceOurs), 1);
    assert_eq!(lab.drops(DropReason::SourceElsewhere), 1);
    assert_eq!(lab.drops(DropReason::NotLocalAddress), 1);
    let _ = lab.client_sends_packet(&later(CLIENT, VIP));
    assert_eq!(lab.fragments_waiting(), 1);
}

/// A SYN with these options in its IP header.
fn syn_with_options(options: &[u8]) -> Vec<u8> {
    let mut frame = good_syn();
    frame.splice(34..34, options.iter().copied());
    frame[14] = 0x45 + (options.len() / 4) as u8;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    let header = 14..34 + options.len();
    frame[24..26].fill(0);
    let checksum = crate::wire::checksum::checksum(&frame[header]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

#[test]
fn source_routes_are_refused_wherever_they_stand() {
    let mut lab = Lab::new();
    for options in [
        [131, 7, 4, 10, 9, 9, 9, 0],
        [137, 7, 4, 10, 9, 9, 9, 0],
        [1, 131, 7, 4, 10, 9, 9, 9],
        [148, 4, 0, 0, 131, 3, 4, 0],
    ] {
        lab.client_sends_frame(&syn_with_options(&options));
    }
    assert_eq!(lab.drops(DropReason::SourceRoute), 4);
    for options in [[7, 1, 4, 0], [7, 0, 4, 0], [7, 9, 4, 0], [1, 1, 1, 7]] {
        lab.client_sends_frame(&syn_with_options(&options));
    }
    assert_eq!(lab.drops(DropReason::Ipv4Malformed), 4);
    assert!(lab.states().is_empty());
    // Router alert, and a source route behind the end of the list.
    for options in [[148, 4, 0, 0], [0, 131, 7, 4]] {
        let mut lab = Lab::new();
        lab.client_sends_frame(&syn_with_options(&options));
        assert_eq!(lab.states(), [State::SynSent]);
    }
}

#[test]
fn a_packet_for_one_does_not_come_by_broadcast() {
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let mut lab = Lab::new();
        let mut frame = good_syn();
        frame[..6].copy_from_slice(&mac);
        lab.client_sends_frame(&frame);
        assert_eq!(lab.drops(DropReason::UnicastInBroadcast), 1);
        assert!(lab.states().is_empty());
        frame[30..34].copy_from_slice(&[224, 0, 0, 5]);
        fill_ip_checksum(&mut frame);
        lab.client_sends_frame(&frame);
        assert_eq!(lab.drops(DropReason::NotLocalAddress), 1);
    }
}

/// One SYN with whatever number once killed it.
#[test]
fn a_syn_on_a_half_closed_connection_ends_it_only_by_the_challenge() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    flow.server_closes(&mut lab);
    let syn = Tcp::from_client(4000, flags::SYN).seq(5_000_000);
    let passed = lab.client_sends(syn).to_server();
    assert_eq!(
        (passed.flags, passed.src_port),
        (flags::SYN, flow.local_port)
    );
    assert_eq!(lab.states(), [State::ServerClosed]);
    assert_eq!(lab.held_syns(), 1);
    let sent = flow.client_segment(flags::ACK).payload(b"still here");
    let _ = lab.client_sends(sent).to_server();

    // The server's challenge, and the client knows nothing of it any more.
    let challenge = flow.server_segment(flags::ACK);
    let seen = lab.server_sends(challenge).to_client();
    assert_eq!(seen.ack, flow.client_next);
    let reset = Tcp::from_client(4000, flags::RST).seq(seen.ack);
    let packets = lab.client_sends(reset).all_to_server();
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[0].flags, flags::RST);
    assert_eq!((packets[1].flags, packets[1].seq), (flags::SYN, 5_000_000));
    assert_eq!(lab.states(), [State::Resting, State::SynSent]);
    assert_eq!(lab.event(Event::SynReplayed), 1);
    assert_eq!(lab.ends(), [(EndCause::Reset, 1)]);
}

#[test]
fn a_server_that_forgot_a_half_closed_connection_gets_the_syn_again() {
    for refuses in [false, true] {
        let mut lab = Lab::new();
        let mut flow = lab.connect(4000);
        flow.client_closes(&mut lab);
        assert_eq!(lab.states(), [State::ClientClosed]);
        let syn = Tcp::from_client(4000, flags::SYN).seq(5_000_000);
        let passed = lab.client_sends(syn).to_server();
        let answer = if refuses {
            passed.reply(flags::RST | flags::ACK).ack(passed.seq + 1)
        } else {
            let answer = passed.reply(flags::SYN | flags::ACK);
            answer.seq(99_000_000).ack(passed.seq + 1)
        };
        let packets = lab.server_sends(answer).all_to_server();
        let last = packets.last().expect("a packet");
        assert_eq!((last.flags, last.seq), (flags::SYN, 5_000_000));
        assert_eq!(lab.states(), [State::Resting, State::SynSent]);
    }
}

#[test]
fn a_held_syn_goes_out_when_the_old_connection_closes_after_all() {
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    flow.client_closes(&mut lab);
    let _ = lab.client_sends(Tcp::from_client(4000, flags::SYN).seq(5_000_000));
    let fin = flow.server_segment(flags::FIN | flags::ACK);
    let _ = lab.server_sends(fin);
    assert_eq!((lab.states(), lab.held_syns()), (vec![State::Closing], 1));
    lab.pass(1_100);
    assert_eq!(lab.held_syns(), 0, "it is not kept as long as the state");
}

/// What only looks like an end: one bit wrong on the way.
#[test]
fn a_wrong_checksum_ends_nothing() {
    for letters in [flags::RST, flags::FIN | flags::ACK, flags::SYN] {
        let mut lab = Lab::new();
        let mut flow = lab.connect(4000);
        let mut packet = flow.client_segment(letters).packet();
        packet[36] ^= 0x40;
        assert!(lab.client_sends_packet(&packet).is_empty());
        assert_eq!(lab.drops(DropReason::TcpChecksum), 1);
        assert_eq!(
            (lab.states(), lab.held_syns()),
            (vec![State::Established], 0)
        );
        flow.exchange(&mut lab, b"request", b"response");
    }
}

#[test]
fn what_a_side_has_reset_is_told_from_what_the_gateway_ended() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let _ = lab.server_sends(flow.server_segment(flags::RST));
    let late = flow.client_segment(flags::ACK).payload(b"late");
    let reset = lab.client_sends(late).to_client();
    assert_eq!(reset.flags, flags::RST);
    assert_eq!(lab.drops(DropReason::ConnectionReset), 1);
    assert_eq!(lab.drops(DropReason::ConnectionEnded), 0);

    let mut lab = Lab::new();
    let flow = lab.connect_with(4000, 1_000, 0);
    lab.set_server(0, crate::service::snapshot::ServerState::Down);
    lab.pass(50);
    let _ = lab.client_sends(flow.client_segment(flags::ACK).payload(b"late"));
    assert_eq!(lab.drops(DropReason::ConnectionReset), 0);
    assert_eq!(lab.drops(DropReason::ConnectionEnded), 1);
}

#[test]
fn an_icmp_error_quotes_what_is_outstanding() {
    const FRAG_NEEDED: (u8, u8) = (3, 4);
    let mut lab = Lab::new();
    let mut flow = lab.connect(4000);
    flow.exchange(&mut lab, b"request", b"response");
    let _ = lab.client_sends(flow.client_segment(flags::ACK));
    // Somebody who has seen nothing, towards either side.
    for distance in [1_u32, 100_000, 1 << 31] {
        let mut sent = flow.server_segment(flags::ACK).payload(&[7; 1_400]);
        sent.seq = sent.seq.wrapping_sub(distance);
        let quoted = Tcp {
            src: VIP,
            src_port: 80,
            dst: CLIENT,
            dst_port: 4000,
            ..sent
        };
        assert!(
            lab.client_sends_icmp(FRAG_NEEDED.0, FRAG_NEEDED.1, &quoted)
                .is_empty()
        );
        let mut sent = flow.to_server.clone();
        sent.seq = flow.seen_next.wrapping_sub(distance);
        assert!(lab.server_sends_icmp(3, 1, &sent).is_empty());
    }
    assert_eq!(lab.drops(DropReason::IcmpOutOfWindow), 6);
    // About a segment that is under way.
    let sent = flow.server_segment(flags::ACK).payload(&[7; 1_400]);
    let quoted = lab.server_sends(sent).to_client();
    let out = lab.client_sends_icmp(FRAG_NEEDED.0, FRAG_NEEDED.1, &quoted);
    assert!(!out.is_empty());
    assert_eq!(lab.event(Event::IcmpTranslated), 1);
}

#[test]
fn pings_take_nothing_from_other_answers_and_are_counted_when_withheld() {
    let mut lab = Lab::new();
    let pings = 3_000;
    let answered = (0..pings).filter(|_| !lab.ping(VIP).is_empty()).count() as u64;
    assert_eq!(answered, 1_000);
    assert_eq!(lab.event(Event::EchoReplies), answered);
    assert_eq!(lab.drops(DropReason::EchoWithheld), pings - answered);
    assert_eq!(lab.event(Event::IcmpWithheld), 0);
    // Other kinds are answered, each at its own rate.
    let mut nowhere = Tcp::from_client(4000, 0).payload(b"?");
    nowhere.protocol = 17;
    nowhere.dst_port = 99;
    assert!(!lab.client_sends(nowhere).is_empty(), "port unreachable");
}
