//! Path MTUs below the floor: a real server never hears of them, and the client
//! that has one gets fragments.

use std::net::Ipv4Addr;

use super::lab::{CLIENT, Flow, Lab, Out, Tcp, VIP, flags};
use crate::nat::split::Split;
use crate::stats::{DropReason, Event};
use crate::wire::icmp::IcmpView;
use crate::wire::ipv4::Ipv4View;
use crate::wire::tcp::TcpView;

const FLOOR: u16 = 1_280;

/// A segment of the server that makes an IP packet of so many bytes.
fn segment(flow: &Flow, ip_len: usize) -> Tcp {
    let payload: Vec<u8> = (0..ip_len - 40).map(|at| (at % 251) as u8).collect();
    flow.server_segment(flags::ACK).payload(&payload)
}

/// The MTU of the only ICMP message to the server.
fn mtu_told(out: &Out) -> u16 {
    let packets = out.packets_to_server();
    assert_eq!(packets.len(), 1);
    let ip = Ipv4View::new_checked(&packets[0][..], packets[0].len()).expect("IPv4");
    assert!(ip.verify_checksum(), "IPv4 checksum");
    let icmp = IcmpView::new_checked(ip.payload()).expect("ICMP");
    assert!(icmp.verify_checksum(), "ICMP checksum");
    icmp.next_hop_mtu().expect("fragmentation needed")
}

/// Sends a segment of `ip_len` bytes; somebody before the client says that its
/// way on has this MTU.
fn too_big(lab: &mut Lab, flow: &Flow, ip_len: usize, mtu: u16) -> Out {
    let sent = lab.server_sends(segment(flow, ip_len)).to_client();
    lab.client_sends_too_big(mtu, &sent)
}

/// What a client gets of fragments: the IP payload, put together.
fn put_together(packets: &[Vec<u8>], longest: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let idents = packets.iter().map(|packet| packet[4..6].to_vec());
    let mut idents: Vec<_> = idents.collect();
    idents.dedup();
    assert_eq!(idents.len(), 1, "of one datagram");
    for (at, packet) in packets.iter().enumerate() {
        assert!(packet.len() <= longest, "{} bytes", packet.len());
        let ip = Ipv4View::new_checked(&packet[..], packet.len()).expect("IPv4");
        assert!(ip.verify_checksum(), "IPv4 checksum");
        assert!(!ip.dont_fragment());
        assert_eq!((ip.src(), ip.dst()), (VIP, CLIENT));
        assert_eq!(usize::from(ip.fragment_offset()), bytes.len());
        assert_eq!(ip.more_fragments(), at + 1 < packets.len());
        bytes.extend_from_slice(ip.payload());
    }
    bytes
}

/// The server sends a segment of `ip_len` bytes, and the client gets all of it in
/// packets of at most `longest`.
fn arrives_in_pieces(lab: &mut Lab, flow: &Flow, ip_len: usize, longest: usize) {
    let sent = segment(flow, ip_len);
    let packets = lab.server_sends(sent.clone()).packets_to_client();
    let bytes = put_together(&packets, longest);
    let tcp = TcpView::new_checked(&bytes[..]).expect("TCP");
    assert!(tcp.verify_checksum(VIP, CLIENT), "TCP checksum");
    assert_eq!((tcp.seq(), tcp.payload()), (sent.seq, &sent.payload[..]));
}

fn arrives_whole(lab: &mut Lab, flow: &Flow, ip_len: usize) {
    let packets = lab.server_sends(segment(flow, ip_len)).packets_to_client();
    assert_eq!(packets.len(), 1);
    assert_eq!((packets[0].len(), packets[0][6]), (ip_len, 0x40), "with DF");
}

#[test]
fn a_server_hears_of_no_path_mtu_below_the_floor() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let other = lab.connect(4001);
    let told = too_big(&mut lab, &flow, 1_500, 552);
    assert_eq!(mtu_told(&told), FLOOR);
    assert_eq!(lab.event(Event::PathMtuClamped), 1);
    // What is under way already, what the server sends now, and small ones.
    for ip_len in [1_500, 1_400, 1_280, 553] {
        arrives_in_pieces(&mut lab, &flow, ip_len, 552);
    }
    assert!(lab.event(Event::FragmentsMade) >= 3 + 3 + 3 + 2);
    arrives_whole(&mut lab, &other, 1_500);
    // The other way nothing changes.
    let request = flow.client_segment(flags::ACK).payload(&[1; 1_400]);
    assert_eq!(lab.client_sends(request).to_server().payload, [1; 1_400]);
    assert_eq!(lab.drops(DropReason::MtuExceeded), 0);
}

/// A router behind the one that spoke may be narrower still.
#[test]
fn what_fits_may_be_fragmented_further_on() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let sent = lab.server_sends(segment(&flow, 1_500)).to_client();
    for mtu in [296, 68, 1] {
        assert_eq!(mtu_told(&lab.client_sends_too_big(mtu, &sent)), FLOOR);
        let packets = lab.server_sends(segment(&flow, 552)).packets_to_client();
        assert_eq!(packets.len(), 1);
        assert_eq!(put_together(&packets, 552).len(), 532);
        arrives_in_pieces(&mut lab, &flow, 1_280, 552);
    }
}

#[test]
fn at_and_above_the_floor_messages_are_passed_on_as_they_are() {
    for mtu in [1_280, 1_400, 1_499] {
        let mut lab = Lab::new();
        let flow = lab.connect(4000);
        assert_eq!(mtu_told(&too_big(&mut lab, &flow, 1_500, mtu)), mtu);
        arrives_whole(&mut lab, &flow, 1_280);
        arrives_whole(&mut lab, &flow, 1_500);
        assert_eq!(lab.event(Event::PathMtuClamped), 0);
    }
}

/// RFC 1191 §5: routers that don't tell.
#[test]
fn an_mtu_that_is_not_told_is_below_the_floor() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    assert_eq!(mtu_told(&too_big(&mut lab, &flow, 1_500, 0)), FLOOR);
    arrives_in_pieces(&mut lab, &flow, 1_280, 552);
}

/// The server's packets are at most as large as the floor: it has nothing to
/// learn.
#[test]
fn a_packet_no_larger_than_the_floor_tells_the_server_nothing() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    assert!(too_big(&mut lab, &flow, 1_280, 600).is_empty());
    assert_eq!(lab.drops(DropReason::PathMtuFloor), 1);
    assert_eq!(lab.event(Event::PathMtuClamped), 0);
    arrives_in_pieces(&mut lab, &flow, 1_280, 600);
}

#[test]
fn the_narrowest_that_was_told_holds_as_long_as_the_connection() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let sent = lab.server_sends(segment(&flow, 1_500)).to_client();
    for mtu in [1_000, 600, 1_200] {
        assert_eq!(mtu_told(&lab.client_sends_too_big(mtu, &sent)), FLOOR);
    }
    arrives_in_pieces(&mut lab, &flow, 1_280, 600);
    for _ in 0..100 {
        let _ = lab.pass(6_000);
        let _ = lab.client_sends(flow.client_segment(flags::ACK));
        arrives_in_pieces(&mut lab, &flow, 1_280, 600);
    }
    // The client's next one from the same port begins anew.
    let _ = lab.client_sends(flow.client_segment(flags::RST));
    let next = lab.connect_with(4000, 9_000_000, 0);
    arrives_whole(&mut lab, &next, 1_400);
}

/// Other clients' are not, and nobody can make them so by a forged datagram.
#[test]
fn the_next_connections_of_the_client_begin_narrow() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let _ = too_big(&mut lab, &flow, 1_500, 600);
    let next = lab.connect(4001);
    arrives_in_pieces(&mut lab, &next, 1_280, 600);
    assert_eq!(lab.drops(DropReason::PathMtuFloor), 0, "nothing was lost");

    let other = Ipv4Addr::new(10, 1, 0, 3);
    for port in [5_000, 5_001] {
        let request = Tcp::datagram(port, b"question").from(other);
        let request = lab.client_sends(request).to_server();
        let answer = lab.server_sends_udp(&request, &[7; 1_472]).to_client();
        assert_eq!(answer.dst, other);
        let _ = lab.client_sends_too_big(552, &answer);
    }
    lab.jump(600_000);
    let next = lab.connect(4002);
    arrives_whole(&mut lab, &next, 1_400);
}

#[test]
fn a_quote_of_nothing_that_is_under_way_changes_nothing() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let mut quoted = lab.server_sends(segment(&flow, 1_500)).to_client();
    quoted.seq = quoted.seq.wrapping_sub(100_000);
    assert!(lab.client_sends_too_big(552, &quoted).is_empty());
    assert_eq!(lab.drops(DropReason::IcmpOutOfWindow), 1);
    arrives_whole(&mut lab, &flow, 1_500);
}

/// What went to the server is another matter: each client keeps its own.
#[test]
fn clients_hear_of_every_path_mtu() {
    let mut lab = Lab::new();
    let flow = lab.connect(4000);
    let request = flow.client_segment(flags::ACK).payload(&[1; 1_400]);
    let sent = lab.client_sends(request).to_server();
    let out = lab.server_sends_too_big(552, &sent);
    assert_eq!(out.icmp_to_client(), Some((3, 4)));
    let packets = out.packets_to_client();
    assert_eq!(packets[0][26..28], 552_u16.to_be_bytes());
    arrives_whole(&mut lab, &flow, 1_500);
}

#[test]
fn a_floor_of_68_is_none() {
    let mut lab = Lab::new();
    lab.reconfigure(|parts| parts.limits.min_path_mtu = 68);
    let flow = lab.connect(4000);
    for mtu in [552, 68, 0] {
        assert_eq!(mtu_told(&too_big(&mut lab, &flow, 1_500, mtu)), mtu);
    }
    arrives_whole(&mut lab, &flow, 1_280);
}

/// Also what comes in fragments already, without DF.
#[test]
fn datagrams_for_a_narrow_path_leave_in_fragments() {
    let mut lab = Lab::new();
    let request = lab.client_sends_udp(5_000, b"question").to_server();
    let answer = lab.server_sends_udp(&request, &[7; 1_472]).to_client();
    assert_eq!(mtu_told(&lab.client_sends_too_big(576, &answer)), FLOOR);
    let packets = lab
        .server_sends_udp(&request, &[7; 1_472])
        .packets_to_client();
    let bytes = put_together(&packets, 576);
    assert_eq!(bytes[8..], [7; 1_472]);

    // As the server's kernel sends it, now that it knows of 1,280 bytes.
    let whole = request.reply(0).payload(&[8; 3_000]).packet();
    let split = Split::new(&whole, FLOOR).expect("can be split");
    let mut got = Vec::new();
    for piece in split {
        let from = 20 + piece.from;
        let mut packet = piece.header.to_vec();
        packet.extend_from_slice(&whole[from..from + piece.len]);
        packet[4..6].copy_from_slice(&[0, 9]);
        packet[6] &= !0x40;
        super::lab::fill_header_checksum(&mut packet);
        got.extend(lab.server_sends_packet(&packet).packets_to_client());
    }
    let bytes = put_together(&got, 576);
    assert_eq!(bytes.len(), 3_008);
    assert_eq!(bytes[8..], [8; 3_000]);
}
