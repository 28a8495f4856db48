//! Fragments, what may become fragments, and what the gateway fragments:
//! - what a receiver puts together is what was sent, whoever else sends with
//!   the same identifications;
//! - a flood of fragments harms only the flooder.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::lab::nic::{Delivery, Nic};
use super::lab::{CLIENT, LOCAL, Lab, SERVERS, Tcp, VIP, flags};
use crate::snat::steering::Reta;
use crate::stats::{DropReason, Event};
use crate::wire::checksum::checksum;
use crate::wire::ipv4::Ipv4View;
use crate::wire::proto;

/// More fragments follow, and don't fragment, in the word of the flags.
const MORE: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;

/// A UDP datagram of a client, to be sent in pieces.
#[derive(Clone)]
pub(super) struct Datagram {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub src_port: u16,
    pub dst_port: u16,
    pub ident: u16,
    pub flags: u16,
    pub payload: Vec<u8>,
}

impl Datagram {
    pub fn from_client(src: Ipv4Addr, src_port: u16, ident: u16, payload: &[u8]) -> Self {
        Self {
            src,
            dst: VIP,
            src_port,
            dst_port: 53,
            ident,
            flags: 0,
            payload: payload.to_vec(),
        }
    }

    /// The UDP datagram, without checksum.
    fn transport(&self) -> Vec<u8> {
        let len = 8 + self.payload.len() as u16;
        let header = [self.src_port, self.dst_port, len, 0];
        let header = header.iter().flat_map(|field| field.to_be_bytes());
        header.chain(self.payload.iter().copied()).collect()
    }

    fn packet(&self, from: usize, to: usize, more: bool, options: &[u8]) -> Vec<u8> {
        let transport = self.transport();
        let mut packet = vec![0; 20];
        packet.extend_from_slice(options);
        let header_len = packet.len();
        packet.extend_from_slice(&transport[from..to]);
        packet[0] = 0x40 | (header_len / 4) as u8;
        let total = packet.len() as u16;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[4..6].copy_from_slice(&self.ident.to_be_bytes());
        let more = if more { MORE } else { 0 };
        let word = self.flags | more | (from / 8) as u16;
        packet[6..8].copy_from_slice(&word.to_be_bytes());
        packet[8] = 64;
        packet[9] = proto::UDP;
        packet[12..16].copy_from_slice(&self.src.octets());
        packet[16..20].copy_from_slice(&self.dst.octets());
        let sum = checksum(&packet[..header_len]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// In one piece.
    pub fn whole(&self) -> Vec<u8> {
        self.packet(0, 8 + self.payload.len(), false, &[])
    }

    /// In one piece, with IP options.
    pub fn whole_with(&self, options: &[u8]) -> Vec<u8> {
        self.packet(0, 8 + self.payload.len(), false, options)
    }

    /// In pieces of `size` bytes, a multiple of 8.
    pub fn pieces(&self, size: usize) -> Vec<Vec<u8>> {
        let len = 8 + self.payload.len();
        (0..len)
            .step_by(size)
            .map(|from| self.packet(from, (from + size).min(len), from + size < len, &[]))
            .collect()
    }
}

/// A datagram as a receiver gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Received {
    pub src: Ipv4Addr,
    pub src_port: u16,
    pub dst: Ipv4Addr,
    pub dst_port: u16,
    pub payload: Vec<u8>,
}

/// Source, destination, protocol and identification.
type Key = (Ipv4Addr, Ipv4Addr, u8, u16);

/// Where it begins, whether more follow, and the bytes.
type Part = (usize, bool, Vec<u8>);

/// Puts fragments together as RFC 791 §3.2 has it, and as a kernel does: by
/// addresses, protocol and identification.
#[derive(Default)]
pub(super) struct Receiver {
    parts: HashMap<Key, Vec<Part>>,
}

impl Receiver {
    /// Takes packets; returns the datagrams that are whole with them.
    pub fn take(&mut self, packets: &[Vec<u8>]) -> Vec<Received> {
        packets
            .iter()
            .filter_map(|packet| self.take_one(packet))
            .collect()
    }

    fn take_one(&mut self, packet: &[u8]) -> Option<Received> {
        let ip = Ipv4View::new_checked(packet, packet.len()).expect("IPv4");
        assert!(ip.verify_checksum(), "IPv4 checksum");
        let key = (ip.src(), ip.dst(), ip.protocol(), ip.ident());
        let at = usize::from(ip.fragment_offset());
        let parts = self.parts.entry(key).or_default();
        parts.push((at, ip.more_fragments(), ip.payload().to_vec()));
        parts.sort_by_key(|&(at, ..)| at);
        let mut bytes = Vec::new();
        let mut last = false;
        for (at, more, part) in parts.iter() {
            if *at != bytes.len() {
                return None;
            }
            bytes.extend_from_slice(part);
            last = !more;
        }
        if !last {
            return None;
        }
        self.parts.remove(&key);
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!(usize::from(half(4)), bytes.len(), "UDP length");
        Some(Received {
            src: ip.src(),
            src_port: half(0),
            dst: ip.dst(),
            dst_port: half(2),
            payload: bytes[8..].to_vec(),
        })
    }
}

fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, number)
}

fn send(lab: &mut Lab, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let sent = packets
        .iter()
        .flat_map(|packet| lab.client_sends_packet(packet).packets_to_server());
    sent.collect()
}

fn idents(packets: &[Vec<u8>]) -> Vec<u16> {
    let ident = |packet: &Vec<u8>| u16::from_be_bytes([packet[4], packet[5]]);
    packets.iter().map(ident).collect()
}

/// One local address speaks for both clients. Without UDP checksum nobody
/// behind the gateway could tell their bytes apart.
#[test]
fn equal_identifications_of_two_clients_are_not_mixed() {
    let mut lab = Lab::new();
    let mut server = Receiver::default();
    for ident in 0..100 {
        let [a, b] = [(2, 0xaa), (3, 0xbb)].map(|(host, byte)| {
            Datagram::from_client(client(host), 5_000, ident, &[byte; 100]).pieces(56)
        });
        let crossed = [&a[0], &b[0], &a[1], &b[1]].map(Vec::clone);
        let got = server.take(&send(&mut lab, &crossed));
        let payloads: Vec<&[u8]> = got.iter().map(|got| &got.payload[..]).collect();
        assert_eq!(
            payloads,
            [[0xaa; 100], [0xbb; 100]],
            "identification {ident}"
        );
        assert_ne!(got[0].src_port, got[1].src_port);
    }
}

#[test]
fn equal_identifications_of_two_ports_follow_their_own_first() {
    let mut lab = Lab::new();
    let mut server = Receiver::default();
    let mut seen = Vec::new();
    for round in 0..6u8 {
        let port = 5_000 + u16::from(round);
        let pieces = Datagram::from_client(CLIENT, port, 7, &[round; 100]).pieces(56);
        let got = server.take(&send(&mut lab, &pieces));
        assert_eq!(got.len(), 1, "round {round}");
        assert_eq!(got[0].payload, [round; 100]);
        assert!(!seen.contains(&got[0].src_port), "its own connection");
        seen.push(got[0].src_port);
        let _ = lab.pass(200);
    }
}

/// The identification is used again, and a later fragment comes first: it is
/// of no datagram that is through.
#[test]
fn a_later_fragment_that_overtakes_waits_for_its_own_first() {
    let mut lab = Lab::new();
    let mut server = Receiver::default();
    for round in 0..4u8 {
        let port = 5_000 + u16::from(round);
        let mut pieces = Datagram::from_client(CLIENT, port, 7, &[round; 150]).pieces(56);
        if round > 0 {
            pieces.reverse();
        }
        let got = server.take(&send(&mut lab, &pieces));
        assert_eq!(got.len(), 1, "round {round}");
        assert_eq!(got[0].payload, [round; 150]);
    }
    assert_eq!(lab.drops(DropReason::Ipv4Fragment), 0);
}

/// The datagram before it is not through, but has had these bytes.
#[test]
fn a_later_fragment_that_fits_no_datagram_waits_for_its_own_first() {
    let mut lab = Lab::new();
    let mut server = Receiver::default();
    let lost = Datagram::from_client(CLIENT, 5_000, 7, &[1; 150]).pieces(56);
    assert_eq!(server.take(&send(&mut lab, &lost[..2])), []);
    let next = Datagram::from_client(CLIENT, 5_001, 7, &[2; 150]).pieces(56);
    let order = [&next[1], &next[0], &next[2]].map(Vec::clone);
    let got = server.take(&send(&mut lab, &order));
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].payload, [2; 150]);
}

/// A network may deliver a fragment twice.
#[test]
fn duplicates_harm_nothing() {
    for again in 0..3 {
        let mut lab = Lab::new();
        let mut server = Receiver::default();
        let pieces = Datagram::from_client(CLIENT, 5_000, 7, &[1; 150]).pieces(56);
        for (at, piece) in pieces.iter().enumerate() {
            let mut got = server.take(&send(&mut lab, std::slice::from_ref(piece)));
            if at == again && at < 2 {
                let twice = send(&mut lab, std::slice::from_ref(piece));
                let of_ours = idents(&twice);
                assert!(
                    of_ours.is_empty() || at == 0,
                    "a duplicate of a later one waits"
                );
            }
            if at == 2 {
                assert_eq!(got.remove(0).payload, [1; 150], "fragment {again} twice");
            }
        }
    }
}

/// RFC 6864: where DF is set, the identification has no meaning.
#[test]
fn atomic_datagrams_keep_their_identification() {
    let mut lab = Lab::new();
    let datagram = Datagram {
        flags: DONT_FRAGMENT,
        ..Datagram::from_client(CLIENT, 5_000, 77, b"atomic")
    };
    let sent = send(&mut lab, &[datagram.whole(), datagram.whole()]);
    assert_eq!(idents(&sent), [77, 77]);
}

/// Both ways, UDP and TCP: somebody behind us may fragment them.
#[test]
fn what_may_be_fragmented_gets_an_identification_of_ours() {
    let mut lab = Lab::new();
    let mut sent = Vec::new();
    for host in [2, 3, 4] {
        for port in [5_000, 5_001] {
            let datagram = Datagram::from_client(client(host), port, 77, b"may be fragmented");
            sent.extend(send(&mut lab, &[datagram.whole()]));
        }
    }
    let mut tcp = Tcp::from_client(6_000, flags::SYN).packet();
    tcp[6] = 0;
    super::lab::fill_header_checksum(&mut tcp);
    let syn = lab.client_sends_packet(&tcp);
    let _ = syn.to_server();
    let mut all = idents(&sent);
    assert!(!all.contains(&77), "{all:?}");
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 6);

    // The same identification to two ports of one client, from the server.
    let mut back = Vec::new();
    for packet in &sent[..2] {
        let answer = Datagram {
            src: SERVERS[0],
            dst: LOCAL,
            src_port: 9_090,
            dst_port: u16::from_be_bytes([packet[20], packet[21]]),
            ident: 77,
            flags: 0,
            payload: b"answer".to_vec(),
        };
        back.extend(lab.server_sends_packet(&answer.whole()).packets_to_client());
    }
    let got = Receiver::default().take(&back);
    assert_eq!(got.len(), 2);
    assert_eq!((got[0].dst_port, got[1].dst_port), (5_000, 5_001));
    let all = idents(&back);
    assert!(all[0] != all[1] && !all.contains(&77), "{all:?}");
}

/// A NIC that does not hash may deliver each fragment to another worker.
#[test]
fn fragments_that_several_workers_receive_are_one_datagram() {
    for workers in [1, 2, 3, 16] {
        let reta = Reta::even(128, workers).expect("a table");
        let mut nic = Nic::new(workers, reta, Delivery::Anywhere);
        let mut server = Receiver::default();
        for round in 0..64u8 {
            let port = 5_000 + u16::from(round);
            let source = client(2 + round % 8);
            let mut pieces = Datagram::from_client(source, port, 7, &[round; 300]).pieces(56);
            if round % 2 == 1 {
                pieces.reverse();
            }
            let got = pieces.iter().flat_map(|piece| {
                let sent = nic.client_sends_packet(piece).packets_to_server();
                server.take(&sent)
            });
            let got: Vec<Received> = got.collect();
            assert_eq!(got.len(), 1, "{workers} workers, round {round}");
            assert_eq!(got[0].payload, [round; 300]);
        }
        assert_eq!(nic.dropped(), 0);
    }
}

#[test]
fn stray_fragments_of_one_source_keep_nobody_elses_from_waiting() {
    let mut lab = Lab::new();
    let mut server = Receiver::default();
    for round in 0..40u16 {
        for stray in 0..100 {
            let ident = round * 100 + stray;
            let pieces = Datagram::from_client(client(9), 1, ident, &[0; 100]).pieces(56);
            assert_eq!(send(&mut lab, &pieces[1..]).len(), 0);
        }
        let mut pieces = Datagram::from_client(CLIENT, 5_000, round, &[7; 300]).pieces(56);
        pieces.reverse();
        let got = server.take(&send(&mut lab, &pieces));
        assert_eq!(got.len(), 1, "round {round}");
    }
}

/// Strays from everywhere: the oldest go first.
#[test]
fn stray_fragments_of_many_sources_keep_nobody_elses_from_waiting() {
    let mut lab = Lab::new();
    let mut server = Receiver::default();
    for round in 0..20u16 {
        for stray in 0..250 {
            let source = Ipv4Addr::new(10, 1, 1 + round as u8, stray);
            let pieces = Datagram::from_client(source, 1, round, &[0; 100]).pieces(56);
            assert_eq!(send(&mut lab, &pieces[1..]).len(), 0);
        }
        let mut pieces = Datagram::from_client(CLIENT, 5_000, round, &[7; 300]).pieces(56);
        pieces.reverse();
        let got = server.take(&send(&mut lab, &pieces));
        assert_eq!(got.len(), 1, "round {round}");
    }
}

#[test]
fn many_datagrams_at_a_time_all_arrive() {
    let mut lab = Lab::new();
    let mut server = Receiver::default();
    let datagrams: Vec<Vec<Vec<u8>>> = (0..400u16)
        .map(|number| {
            let host = client(101 + (number % 150) as u8);
            let port = 5_000 + number;
            Datagram::from_client(host, port, number, &[number as u8; 100]).pieces(56)
        })
        .collect();
    let firsts: Vec<_> = datagrams.iter().map(|pieces| pieces[0].clone()).collect();
    let seconds: Vec<_> = datagrams.iter().map(|pieces| pieces[1].clone()).collect();
    assert_eq!(server.take(&send(&mut lab, &firsts)).len(), 0);
    assert_eq!(server.take(&send(&mut lab, &seconds)).len(), 400);
}

/// First fragments of one source, as many as it likes.
#[test]
fn a_flood_of_first_fragments_pushes_nobody_elses_out() {
    let mut lab = Lab::new();
    let mut server = Receiver::default();
    let honest: Vec<_> = (0..50u16)
        .map(|number| Datagram::from_client(client(2), 5_000, number, &[1; 100]).pieces(56))
        .collect();
    for pieces in &honest {
        assert_eq!(server.take(&send(&mut lab, &pieces[..1])).len(), 0);
    }
    for ident in 0..6_000 {
        let flood = Datagram::from_client(client(9), 5_000, ident, &[0; 100]).pieces(56);
        let _ = lab.client_sends_packet(&flood[0]);
    }
    for pieces in &honest {
        assert_eq!(server.take(&send(&mut lab, &pieces[1..])).len(), 1);
    }
}

/// Of no protocol that we translate, or to no address of ours: nothing to wait
/// for.
#[test]
fn fragments_that_can_go_nowhere_do_not_wait() {
    let mut lab = Lab::new();
    let stray = Datagram::from_client(CLIENT, 1, 1, &[0; 100]);
    let mut icmp = stray.pieces(56).remove(1);
    icmp[9] = proto::ICMP;
    super::lab::fill_header_checksum(&mut icmp);
    assert!(lab.client_sends_packet(&icmp).is_empty());
    assert_eq!(lab.drops(DropReason::Ipv4Fragment), 1);
    let elsewhere = Datagram {
        dst: Ipv4Addr::new(192, 0, 2, 1),
        ..stray
    };
    for piece in elsewhere.pieces(56) {
        assert!(lab.client_sends_packet(&piece).is_empty());
    }
    assert_eq!(lab.drops(DropReason::NotLocalAddress), 2);
}

/// RFC 791 §3.2: all but the last are multiples of 8 bytes, and none ends
/// behind 65,535.
#[test]
fn fragments_that_fit_no_datagram_are_malformed() {
    let mut lab = Lab::new();
    let datagram = Datagram::from_client(CLIENT, 5_000, 1, &[0; 100]);
    let odd = datagram.packet(56, 61, true, &[]);
    let empty = datagram.packet(56, 56, false, &[]);
    let mut beyond = datagram.packet(56, 108, false, &[]);
    beyond[6..8].copy_from_slice(&0x1fff_u16.to_be_bytes());
    super::lab::fill_header_checksum(&mut beyond);
    for packet in [odd, empty, beyond] {
        assert!(lab.client_sends_packet(&packet).is_empty());
    }
    assert_eq!(lab.drops(DropReason::Ipv4Malformed), 3);
}

/// All fragments reach one worker, the first ones' ports belong to others, and
/// those share the local address: equal identifications, in crossed order.
#[test]
fn fragments_of_many_workers_are_not_mixed() {
    for workers in [2, 5, 16] {
        let reta = Reta::even(128, workers).expect("a table");
        let mut nic = Nic::new(workers, reta, Delivery::Hashed);
        let mut server = Receiver::default();
        for round in 0..8u16 {
            let datagrams: Vec<Vec<Vec<u8>>> = (0..16)
                .map(|number| {
                    let port = 5_000 + round * 16 + u16::from(number);
                    let src = client(2 + number);
                    let datagram = Datagram::from_client(src, port, 9, &[number; 150]);
                    let mut pieces = datagram.pieces(56);
                    pieces.rotate_left(usize::from(round) % 3);
                    pieces
                })
                .collect();
            let mut got = Vec::new();
            for at in 0..3 {
                for pieces in &datagrams {
                    let sent = nic.client_sends_packet(&pieces[at]).packets_to_server();
                    got.extend(server.take(&sent));
                }
            }
            assert_eq!(got.len(), 16, "{workers} workers");
            for datagram in got {
                assert_eq!(datagram.payload, [datagram.payload[0]; 150]);
            }
        }
        assert!(nic.handed_over() > 0);
        assert_eq!(nic.dropped(), 0);
    }
}

/// All of `packets` are at most as long.
fn longest(packets: &[Vec<u8>]) -> usize {
    packets.iter().map(Vec::len).max().unwrap_or(0)
}

/// RFC 1812 §4.2.2.7: the servers' port has a smaller MTU.
#[test]
fn what_is_too_large_for_the_way_out_leaves_in_fragments() {
    let mut lab = Lab::with_mtu(600);
    let mut server = Receiver::default();
    let payload: Vec<u8> = (0..1_400u16).map(|byte| byte as u8).collect();
    // Router alert (RFC 2113) goes into all of them.
    let alert = [0x94, 4, 0, 0];
    for options in [&[][..], &alert] {
        let datagram = Datagram::from_client(CLIENT, 5_000, 7, &payload);
        let sent = send(&mut lab, &[datagram.whole_with(options)]);
        assert_eq!(sent.len(), 3);
        assert!(longest(&sent) <= 600);
        for packet in &sent {
            assert_eq!(packet[20..20 + options.len()], *options);
        }
        let got = server.take(&sent);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].dst, got[0].dst_port), (SERVERS[0], 9_090));
        assert_eq!(got[0].payload, payload);
    }
    assert_eq!(lab.event(Event::FragmentsMade), 6);
    assert_eq!(lab.drops(DropReason::MtuExceeded), 0);
}

/// Fragments that are too large themselves, in any order.
#[test]
fn fragments_that_are_too_large_are_fragmented_again() {
    let mut lab = Lab::with_mtu(600);
    let mut server = Receiver::default();
    let payload: Vec<u8> = (0..4_000u16).map(|byte| (byte % 251) as u8).collect();
    let mut pieces = Datagram::from_client(CLIENT, 5_000, 7, &payload).pieces(1_400);
    for round in 0..pieces.len() {
        let sent = send(&mut lab, &pieces);
        assert!(longest(&sent) <= 600);
        let got = server.take(&sent);
        assert_eq!(got.len(), 1, "round {round}");
        assert_eq!(got[0].payload, payload);
        pieces.rotate_left(1);
    }
}

/// RFC 1191 for the first, and RFC 1122 §3.2.2 for the others.
#[test]
fn what_may_not_be_fragmented_is_not() {
    let mut lab = Lab::with_mtu(600);
    let datagram = Datagram {
        flags: DONT_FRAGMENT,
        ..Datagram::from_client(CLIENT, 5_000, 7, &[1; 1_400])
    };
    let out = lab.client_sends_packet(&datagram.whole());
    assert_eq!(out.icmp_to_client(), Some((3, 4)));
    // A first fragment that fits, so that the others have somewhere to go.
    let [mut first, mut second] = [
        datagram.packet(0, 400, true, &[]),
        datagram.packet(400, 1_408, false, &[]),
    ];
    for packet in [&mut first, &mut second] {
        packet[6] |= 0x40;
        super::lab::fill_header_checksum(packet);
    }
    assert_eq!(lab.client_sends_packet(&first).packets_to_server().len(), 1);
    assert!(lab.client_sends_packet(&second).is_empty());
    assert_eq!(lab.drops(DropReason::MtuExceeded), 2);
    assert_eq!(lab.event(Event::FragmentsMade), 0);
}

#[test]
fn without_buffers_for_all_fragments_none_leaves() {
    let mut lab = Lab::with_mtu(600);
    let datagram = Datagram::from_client(CLIENT, 5_000, 7, &[1; 1_400]);
    // The next hop is known, and the connection.
    assert_eq!(send(&mut lab, &[datagram.whole()]).len(), 3);
    lab.worker.io_mut().free = 2;
    assert_eq!(send(&mut lab, &[datagram.whole()]).len(), 0);
    assert_eq!(lab.drops(DropReason::NoBuffer), 1);
}

/// An ICMP message of ours or others' may be fragmented further on as well.
#[test]
fn icmp_messages_get_identifications_of_ours() {
    let mut lab = Lab::new();
    let mut ping = Datagram::from_client(CLIENT, 0x0800, 77, b"").whole();
    ping[9] = proto::ICMP;
    ping[20..].copy_from_slice(&[8, 0, 0, 0, 0, 1, 0, 1]);
    let sum = checksum(&ping[20..]);
    ping[22..24].copy_from_slice(&sum.to_be_bytes());
    super::lab::fill_header_checksum(&mut ping);
    let replies = [(); 2].map(|()| lab.client_sends_packet(&ping).packets_to_client());
    let all = idents(&replies.concat());
    assert!(
        all.len() == 2 && all[0] != all[1] && !all.contains(&77),
        "{all:?}"
    );
}
