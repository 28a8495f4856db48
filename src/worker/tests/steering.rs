//! 1 to 16 workers behind one NIC:
//! - where it hashes, every packet of a connection reaches the worker that
//!   made it, and nothing is ever handed over;
//! - where it delivers anywhere, hand-over brings every packet there.

use std::net::Ipv4Addr;

use super::lab::nic::{Delivery, Nic};
use super::lab::{CLIENT, Tcp, VIP, flags};
use crate::conntrack::entry::State;
use crate::ids::WorkerIx;
use crate::snat::steering::Reta;
use crate::wire::proto;

const CONNECTIONS: u16 = 64;

/// Which of the workers hold a client's connection: always the one.
fn holder(nic: &Nic, client: Ipv4Addr, port: u16) -> usize {
    let holders = nic.holders(client, port);
    assert_eq!(holders.len(), 1, "{client}:{port} is with {holders:?}");
    holders[0]
}

fn client(number: u16) -> (Ipv4Addr, u16) {
    let address = CLIENT.to_bits() + u32::from(number % 8);
    (Ipv4Addr::from_bits(address), 20_000 + number * 7)
}

/// Handshake, a request and its response, and the end from either side.
/// Returns the worker that had it.
fn whole_connection(nic: &mut Nic, number: u16) -> usize {
    let (client, port) = client(number);
    let segment = |flags, seq, ack| Tcp {
        src: client,
        ..Tcp::from_client(port, flags).seq(seq).ack(ack)
    };
    let syn = nic.client_sends(segment(flags::SYN, 100, 0)).to_server();
    let owner = holder(nic, client, port);
    let from_server = |nic: &mut Nic, flags, seq, ack, payload: &[u8]| {
        let sent = syn.reply(flags).seq(seq).ack(ack).payload(payload);
        let got = nic.server_sends(sent).to_client();
        assert_eq!((got.src, got.src_port), (VIP, 80));
        assert_eq!((got.dst, got.dst_port), (client, port));
        assert_eq!((got.flags, &got.payload[..]), (flags, payload));
        assert_eq!(holder(nic, client, port), owner);
    };
    let from_client = |nic: &mut Nic, flags, seq, ack, payload: &[u8]| {
        let sent = segment(flags, seq, ack).payload(payload);
        let got = nic.client_sends(sent).to_server();
        assert_eq!((got.src, got.src_port), (syn.src, syn.src_port));
        assert_eq!((got.dst, got.dst_port), (syn.dst, syn.dst_port));
        assert_eq!((got.flags, &got.payload[..]), (flags, payload));
        assert_eq!(holder(nic, client, port), owner);
    };
    from_server(nic, flags::SYN | flags::ACK, 900, 101, b"");
    from_client(nic, flags::ACK, 101, 901, b"");
    from_client(nic, flags::ACK, 101, 901, b"request");
    from_server(nic, flags::ACK, 901, 108, b"response");
    if number.is_multiple_of(2) {
        from_server(nic, flags::FIN | flags::ACK, 909, 108, b"");
        from_client(nic, flags::FIN | flags::ACK, 108, 910, b"");
        from_server(nic, flags::ACK, 910, 109, b"");
    } else {
        from_client(nic, flags::FIN | flags::ACK, 108, 909, b"");
        from_server(nic, flags::FIN | flags::ACK, 909, 109, b"");
        from_client(nic, flags::ACK, 109, 910, b"");
    }
    owner
}

/// A datagram there, an answer back, an ICMP error about one more.
fn datagrams(nic: &mut Nic, number: u16) {
    let (client, port) = client(number);
    let datagram = Tcp {
        src: client,
        dst_port: 53,
        protocol: proto::UDP,
        ..Tcp::from_client(port, 0).payload(b"ask")
    };
    let got = nic.client_sends(datagram.clone()).to_server();
    let answer = nic.server_sends(got.reply(0).payload(b"answer"));
    assert_eq!(answer.to_client().payload, b"answer");
    let got = nic.client_sends(datagram).to_server();
    let (quoted, kind) = nic.server_is_unreachable(&got).quoted_to(client);
    assert_eq!(kind, (3, 3));
    assert_eq!((quoted.src, quoted.src_port), (client, port));
}

/// Every redirection table to try with so many workers: even ones of the usual
/// sizes, and one in which each worker has about half of what is left.
fn tables(workers: u8) -> Vec<Reta> {
    let uneven = (0..128u32)
        .map(|slot| WorkerIx((slot + 1).trailing_zeros().min(u32::from(workers) - 1) as u8))
        .collect();
    [64, 128, 512]
        .into_iter()
        .map(|size| Reta::even(size, workers))
        .chain([Reta::new(uneven)])
        .map(|reta| reta.expect("a table"))
        .collect()
}

#[test]
fn a_nic_that_hashes_leaves_nothing_to_hand_over() {
    for workers in 1..=16 {
        for reta in tables(workers) {
            let mut nic = Nic::new(workers, reta, Delivery::Hashed);
            let mut used = vec![false; usize::from(workers)];
            for number in 0..CONNECTIONS {
                used[whole_connection(&mut nic, number)] = true;
            }
            assert_eq!(nic.handed_over(), 0, "{workers} workers");
            assert_eq!(nic.dropped(), 0);
            assert_eq!(nic.states(), [State::TimeWait; CONNECTIONS as usize]);
            assert!(used.len() < 3 || used.iter().filter(|&&used| used).count() > 1);
        }
    }
}

#[test]
fn a_nic_that_does_not_hash_is_made_good_by_hand_over() {
    for workers in 1..=16 {
        for reta in tables(workers) {
            let mut nic = Nic::new(workers, reta, Delivery::Anywhere);
            for number in 0..CONNECTIONS {
                whole_connection(&mut nic, number);
            }
            assert_eq!(nic.handed_over() > 0, workers > 1, "{workers} workers");
            assert_eq!(nic.dropped(), 0);
            assert_eq!(nic.states(), [State::TimeWait; CONNECTIONS as usize]);
        }
    }
}

/// No NIC hashes the packet that an ICMP error quotes.
#[test]
fn icmp_errors_find_the_worker_of_their_connection() {
    for delivery in [Delivery::Hashed, Delivery::Anywhere] {
        let mut nic = Nic::new(16, Reta::even(128, 16).expect("a table"), delivery);
        for number in 0..CONNECTIONS {
            datagrams(&mut nic, number);
        }
        assert!(nic.handed_over() > 0);
        assert_eq!(nic.dropped(), 0);
    }
}
