//! Fragments as kernels put them together: none lost, none mixed, whichever
//! identifications others use at the same time.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::libc;
use socket2::{Domain, Protocol as Number, SockRef, Socket, Type};

use super::{add, workers};
use crate::Case;
use crate::harness::plan::{Plan, Protocol, Service};
use crate::harness::topology::Lab;

/// A second client on the wire of the first.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);

/// Bytes of a datagram, and of its first fragment.
const PAYLOAD: usize = 2_000;
const FIRST: usize = 1_000;

pub fn list(cases: &mut Vec<Case>) {
    add(
        cases,
        "fragments::equal_identifications",
        &workers(),
        equal_identifications,
    );
    add(
        cases,
        "fragments::identification_used_again",
        &workers(),
        identification_used_again,
    );
    add(cases, "fragments::strays", &workers(), strays);
    let narrow = workers().into_iter().map(|plan| Plan {
        lan_mtu: Some(700),
        ..plan
    });
    add(
        cases,
        "fragments::smaller_way_out",
        &narrow.collect::<Vec<_>>(),
        smaller_way_out,
    );
}

/// A UDP datagram without checksum, of so many equal bytes.
fn datagram(from: SocketAddrV4, to: SocketAddrV4, bytes: usize, byte: u8) -> Vec<u8> {
    let length = u16::try_from(8 + bytes).expect("a datagram");
    let mut datagram: Vec<u8> = [from.port(), to.port(), length, 0]
        .iter()
        .flat_map(|field| field.to_be_bytes())
        .collect();
    datagram.resize(8 + bytes, byte);
    datagram
}

/// Part of it as a packet; `word` is that of the flags and the offset. The
/// kernel fills in length and checksum (raw(7)).
fn packet(from: SocketAddrV4, to: SocketAddrV4, ident: u16, word: u16, part: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0];
    packet.extend(ident.to_be_bytes());
    packet.extend(word.to_be_bytes());
    packet.extend([64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(part);
    packet
}

/// A datagram in two fragments with a chosen identification.
fn pieces(from: SocketAddrV4, to: SocketAddrV4, ident: u16, byte: u8) -> [Vec<u8>; 2] {
    let datagram = datagram(from, to, PAYLOAD, byte);
    let (first, second) = datagram.split_at(FIRST);
    let at = u16::try_from(FIRST / 8).expect("an offset");
    [
        packet(from, to, ident, 0x2000, first),
        packet(from, to, ident, at, second),
    ]
}

/// To be called inside of a namespace.
fn raw_socket() -> Socket {
    let number = Number::from(libc::IPPROTO_RAW);
    Socket::new(Domain::IPV4, Type::RAW, Some(number)).expect("a raw socket")
}

fn send(socket: &Socket, to: SocketAddrV4, packet: &[u8]) {
    let to = SocketAddr::V4(SocketAddrV4::new(*to.ip(), 0));
    socket.send_to(packet, &to.into()).expect("send a fragment");
}

/// A lab with both clients, and the server's socket.
fn start(plan: &Plan) -> (Lab, Service, UdpSocket) {
    let service = Service::new(plan, "u", Protocol::Udp, 7_000, &[1]);
    let lab = Lab::start(plan, std::slice::from_ref(&service));
    lab.client().ip(&[format!("addr add {OTHER}/24 dev fg0")]);
    let socket = lab.server(0).udp(service.servers[0].address);
    SockRef::from(&socket)
        .set_recv_buffer_size(4 << 20)
        .expect("set SO_RCVBUF");
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("set a read timeout");
    (lab, service, socket)
}

/// What the server gets until nothing comes any more: how often whole
/// datagrams of each byte came. None is mixed.
fn received(socket: &UdpSocket) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    let mut buffer = vec![0; 65_536];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let byte = buffer[0];
        let pure = buffer[..length].iter().all(|&other| other == byte);
        assert!(
            pure && [PAYLOAD, 1_400].contains(&length),
            "{length} bytes of {peer}, not all {byte:#x}"
        );
        *counts.entry(byte).or_insert(0) += 1;
    }
    counts
}

/// Two clients send 100 datagrams each with the same identifications, their
/// fragments crossed.
fn equal_identifications(plan: &Plan) {
    let (lab, service, server) = start(plan);
    let (one, other) = (
        SocketAddrV4::new(plan.client(), 5_000),
        SocketAddrV4::new(OTHER, 5_000),
    );
    lab.client().run(|| {
        let socket = raw_socket();
        for ident in 1..=100 {
            let a = pieces(one, service.vip(), ident, 0xaa);
            let b = pieces(other, service.vip(), ident, 0xbb);
            for packet in [&a[0], &b[0], &a[1], &b[1]] {
                send(&socket, service.vip(), packet);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let counts = received(&server);
    assert_eq!(counts, BTreeMap::from([(0xaa, 100), (0xbb, 100)]));
}

/// Datagrams of six ports with one identification, one after the other, every
/// other one with its fragments exchanged.
fn identification_used_again(plan: &Plan) {
    let (lab, service, server) = start(plan);
    lab.client().run(|| {
        let socket = raw_socket();
        for round in 0..6u8 {
            let from = SocketAddrV4::new(plan.client(), 5_000 + u16::from(round));
            let mut sent = pieces(from, service.vip(), 7, round);
            if round % 2 == 1 {
                sent.reverse();
            }
            for packet in &sent {
                send(&socket, service.vip(), packet);
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let counts = received(&server);
    assert_eq!(counts, (0..6).map(|round| (round, 1)).collect());
}

/// Another client sends later fragments without end and no first one; the
/// honest one's come before their first.
fn strays(plan: &Plan) {
    let (lab, service, server) = start(plan);
    let done = AtomicBool::new(false);
    let (lab, service) = (&lab, &service);
    std::thread::scope(|scope| {
        let stray = scope.spawn(|| {
            lab.client().run(|| {
                let socket = raw_socket();
                let (begun, mut sent) = (Instant::now(), 0u16);
                while !done.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(20) {
                    let from = SocketAddrV4::new(OTHER, 5_000);
                    let [_, later] = pieces(from, service.vip(), sent, 0xff);
                    send(&socket, service.vip(), &later);
                    sent = sent.wrapping_add(1);
                    std::thread::sleep(Duration::from_micros(700));
                }
                sent
            })
        });
        lab.client().run(|| {
            let socket = raw_socket();
            std::thread::sleep(Duration::from_millis(500));
            for ident in 1..=40 {
                let from = SocketAddrV4::new(plan.client(), 5_000);
                let [first, later] = pieces(from, service.vip(), ident, 0xaa);
                send(&socket, service.vip(), &later);
                std::thread::sleep(Duration::from_millis(20));
                send(&socket, service.vip(), &first);
            }
        });
        done.store(true, Ordering::Relaxed);
        let strays = stray.join().expect("the flood's thread");
        assert!(strays > 300, "{strays} strays");
    });
    assert_eq!(received(&server), BTreeMap::from([(0xaa, 40)]));
}

/// Datagrams in one piece and in two, all of them larger than the way to the
/// server.
fn smaller_way_out(plan: &Plan) {
    let (lab, service, server) = start(plan);
    let from = SocketAddrV4::new(plan.client(), 5_000);
    lab.client().run(|| {
        let socket = raw_socket();
        for ident in 1..=50 {
            let whole = datagram(from, service.vip(), 1_400, 0xbb);
            send(
                &socket,
                service.vip(),
                &packet(from, service.vip(), ident, 0, &whole),
            );
            for piece in pieces(from, service.vip(), 1_000 + ident, 0xaa) {
                send(&socket, service.vip(), &piece);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let counts = received(&server);
    assert_eq!(counts, BTreeMap::from([(0xaa, 50), (0xbb, 50)]));
}
