//! Every view that can be reached in one frame, reading and writing. The first
//! byte says how much of the packet lies outside its first segment.
//!
//! Held against each other on the way: what a rewrite updates incrementally and
//! what a full computation gives.

#![no_main]

use std::hint::black_box;
use std::net::Ipv4Addr;

use fullgate::wire::ParseError;
use fullgate::wire::arp::{self, ArpRepr, ArpView};
use fullgate::wire::checksum::{Delta, checksum};
use fullgate::wire::ethernet::{EtherType, EthernetRepr, EthernetView, MacAddr};
use fullgate::wire::icmp::{self, IcmpError, IcmpView, QuotedTransport};
use fullgate::wire::ipv4::{Ipv4Repr, Ipv4View};
use fullgate::wire::tcp::{self, SACK_EDGES_AT, TSECR_AT, TSVAL_AT, TcpOption, TcpRepr, TcpView};
use fullgate::wire::udp::{self, UdpView};
use libfuzzer_sys::fuzz_target;

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

fuzz_target!(|data: &[u8]| {
    if let Some((&outside, frame)) = data.split_first() {
        // An error is as good an end as any.
        let _ = ethernet(&mut frame.to_vec(), usize::from(outside));
    }
});

fn ethernet(frame: &mut [u8], outside: usize) -> Result<(), ParseError> {
    let mut view = EthernetView::new_checked(frame)?;
    let before = EthernetRepr::parse(&view);
    view.set_src(before.dst);
    view.set_dst(before.src);
    assert_eq!(view.dst(), before.src);
    black_box(before.ethertype.is_vlan());
    let packet = view.payload_mut();
    match before.ethertype {
        EtherType::ARP => arp(packet),
        EtherType::IPV4 => ipv4(packet, outside),
        _ => Ok(()),
    }
}

fn arp(packet: &[u8]) -> Result<(), ParseError> {
    let repr = ArpRepr::parse(&ArpView::new_checked(packet)?);
    let mut emitted = [0xa5; arp::LEN];
    repr.emit(&mut emitted);
    assert_eq!(emitted, packet[..arp::LEN]);
    let mut frame = [0xa5; 60];
    repr.emit_frame(MacAddr::BROADCAST, &mut frame);
    assert_eq!(frame[14..14 + arp::LEN], emitted);
    Ok(())
}

fn ipv4(packet: &mut [u8], outside: usize) -> Result<(), ParseError> {
    let available = packet.len() + outside;
    let view = Ipv4View::new_checked(&*packet, available)?;
    black_box((
        view.dscp(),
        view.ecn(),
        view.more_fragments(),
        view.is_fragment(),
    ));
    black_box((view.verify_checksum(), view.packet().len()));
    if IcmpError::may_answer(&view) {
        let mut buf = [0xa5; 600];
        if let Some(len) = IcmpError::TimeExceeded.emit(&view, &mut buf) {
            assert_eq!(checksum(&buf[..len]), 0);
        }
    }
    let repr = Ipv4Repr::parse(&view);

    let mut view = Ipv4View::new_checked(packet, available)?;
    view.fill_checksum();
    let delta = Delta::new()
        .replace_addr(repr.src, LOCAL)
        .replace_u16(u16::from(repr.ttl) << 8, 0x0100);
    let updated = delta.apply(view.checksum());
    view.set_src(LOCAL);
    view.set_ttl(1);
    view.fill_checksum();
    assert_eq!(updated, view.checksum());

    let payload_len = view.payload_len();
    let payload = view.payload_mut();
    match repr.protocol {
        tcp::PROTOCOL => tcp(payload, &repr),
        udp::PROTOCOL => udp(payload, payload_len, &repr),
        icmp::PROTOCOL => icmp(payload),
        _ => Ok(()),
    }
}

fn tcp(segment: &mut [u8], ip: &Ipv4Repr) -> Result<(), ParseError> {
    let mut view = TcpView::new_checked(segment)?;
    black_box((view.verify_checksum(ip.src, ip.dst), view.urgent()));
    let repr = TcpRepr::parse(&view);
    view.fill_checksum(ip.src, ip.dst);
    let mut offsets = Vec::new();
    for option in view.options() {
        match option? {
            (at, TcpOption::Timestamps { .. }) => offsets.extend([at + TSVAL_AT, at + TSECR_AT]),
            (at, TcpOption::Sack(blocks)) => {
                offsets.extend((at + SACK_EDGES_AT..).step_by(4).take(blocks.len() / 4));
            }
            option => {
                black_box(option);
            }
        }
    }
    let mut delta = Delta::new()
        .replace_addr(ip.src, LOCAL)
        .replace_u16(repr.src_port, 1024)
        .replace_u32(repr.seq, !repr.seq);
    for at in offsets {
        delta = view.replace_option_u32(at, repr.ack, delta);
    }
    let updated = delta.apply(view.checksum());
    view.set_src_port(1024);
    view.set_seq(!repr.seq);
    view.fill_checksum(LOCAL, ip.dst);
    assert_eq!(updated, view.checksum());
    Ok(())
}

fn udp(datagram: &mut [u8], available: usize, ip: &Ipv4Repr) -> Result<(), ParseError> {
    let payload = UdpView::new_checked(&*datagram, available)?.payload().len();
    let mut view = UdpView::new_checked(datagram, available)?;
    assert!(payload + udp::HEADER_LEN <= usize::from(view.length()));
    view.verify_checksum(ip.src, ip.dst);
    view.fill_checksum(ip.src, ip.dst);
    let delta = Delta::new()
        .replace_addr(ip.src, LOCAL)
        .replace_u16(view.dst_port(), 53);
    let updated = delta.apply_udp(view.checksum());
    view.set_dst_port(53);
    view.fill_checksum(LOCAL, ip.dst);
    assert_eq!(updated, view.checksum());
    assert!(view.checksum() == 0 || view.verify_checksum(LOCAL, ip.dst));
    Ok(())
}

fn icmp(message: &mut [u8]) -> Result<(), ParseError> {
    let mut view = IcmpView::new_checked(message)?;
    black_box((view.verify_checksum(), view.code()));
    view.fill_checksum();
    black_box(view.next_hop_mtu());
    if let Some(quoted) = view.quoted_mut() {
        let mut ip = Ipv4View::new_quoted(quoted)?;
        ip.set_dst(LOCAL);
        let mut transport = QuotedTransport::new_checked(ip.payload_mut())?;
        let (src_port, dst_port) = (transport.src_port(), transport.dst_port());
        transport.set_src_port(dst_port);
        transport.set_dst_port(src_port);
        transport.set_tcp_seq(!transport.tcp_seq());
        view.fill_checksum();
    } else {
        view.make_echo_reply();
    }
    assert!(view.verify_checksum());
    Ok(())
}
