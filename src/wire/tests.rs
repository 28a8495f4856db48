//! Properties over all protocols at once: no bytes make a view panic, and
//! another parser reads the same from the same bytes.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;

use super::checksum::Delta;
use super::ethernet::{EtherType, EthernetRepr, EthernetView};
use super::icmp::{IcmpError, IcmpView, QuotedTransport};
use super::ipv4::{Ipv4Repr, Ipv4View};
use super::tcp::{SACK_EDGES_AT, TcpOption, TcpRepr, TcpView};
use super::udp::UdpView;
use super::{ParseError, arp, icmp, tcp, udp};

/// Calls everything that can be called on a frame, as far as its checks let.
fn touch(frame: &mut [u8], total_len: usize) -> Result<(), ParseError> {
    let mut ethernet = EthernetView::new_checked(frame)?;
    EthernetRepr::parse(&ethernet);
    let ethertype = ethernet.ethertype();
    let packet = ethernet.payload_mut();
    if ethertype == EtherType::ARP {
        let view = arp::ArpView::new_checked(packet)?;
        arp::ArpRepr::parse(&view);
        return Ok(());
    }
    touch_ipv4(packet, total_len)
}

fn touch_ipv4(packet: &mut [u8], total_len: usize) -> Result<(), ParseError> {
    let view = Ipv4View::new_checked(&*packet, total_len)?;
    Ipv4Repr::parse(&view);
    view.verify_checksum();
    let (src, dst, protocol, payload_len) =
        (view.src(), view.dst(), view.protocol(), view.payload_len());
    if IcmpError::may_answer(&view) {
        let mut buf = [0; icmp::MAX_ERROR_LEN];
        IcmpError::PortUnreachable.emit(&view, &mut buf);
    }
    let mut view = Ipv4View::new_checked(packet, total_len)?;
    view.fill_checksum();
    let payload = view.payload_mut();
    match protocol {
        tcp::PROTOCOL => {
            let mut view = TcpView::new_checked(payload)?;
            TcpRepr::parse(&view);
            view.verify_checksum(src, dst);
            let offsets: Vec<usize> = view
                .options()
                .filter_map(|option| match option {
                    Ok((at, TcpOption::Sack(_))) => Some(at + SACK_EDGES_AT),
                    _ => None,
                })
                .collect();
            for at in offsets {
                let _ = view.replace_option_u32(at, 7, Delta::new());
            }
            view.fill_checksum(src, dst);
        }
        udp::PROTOCOL => {
            let mut view = UdpView::new_checked(payload, payload_len)?;
            view.verify_checksum(src, dst);
            view.fill_checksum(src, dst);
        }
        icmp::PROTOCOL => {
            let mut view = IcmpView::new_checked(payload)?;
            view.verify_checksum();
            view.next_hop_mtu();
            if let Some(quoted) = view.quoted_mut() {
                let mut ip = Ipv4View::new_quoted(quoted)?;
                let mut transport = QuotedTransport::new_checked(ip.payload_mut())?;
                transport.set_tcp_seq(transport.tcp_seq().wrapping_add(1));
            }
            view.fill_checksum();
        }
        _ => {}
    }
    Ok(())
}

/// A frame that etherparse made: TCP with options, or UDP, or an ICMP error
/// that quotes one.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let fields = (
        any::<[u8; 4]>(),
        any::<[u8; 4]>(),
        any::<u16>(),
        any::<u16>(),
    );
    (fields, any::<u32>(), vec(any::<u8>(), 0..40), 0..3).prop_map(
        |((src, dst, src_port, dst_port), seq, payload, kind)| {
            let mut frame = Vec::new();
            let base =
                PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(src, dst, 64);
            match kind {
                0 => base
                    .tcp(src_port, dst_port, seq, 1000)
                    .ack(seq ^ 0xffff)
                    .options(&[
                        etherparse::TcpOptionElement::Timestamp(seq, 9),
                        etherparse::TcpOptionElement::SelectiveAcknowledgement(
                            (seq, seq),
                            [None; 3],
                        ),
                    ])
                    .expect("fit")
                    .write(&mut frame, &payload),
                1 => base.udp(src_port, dst_port).write(&mut frame, &payload),
                _ => {
                    let mut quoted = Vec::new();
                    PacketBuilder::ipv4(dst, src, 60)
                        .udp(dst_port, src_port)
                        .write(&mut quoted, &payload)
                        .expect("writes to memory");
                    base.icmpv4_raw(3, 1, [0; 4]).write(&mut frame, &quoted)
                }
            }
            .expect("writes to memory");
            frame
        },
    )
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        mut bytes in vec(any::<u8>(), 0..200), ethertype in 0..3usize, version: bool,
        protocol in prop_oneof![Just(1u8), Just(6), Just(17), any::<u8>()], total_len in 0usize..300,
    ) {
        if let Some(field) = bytes.get_mut(12..14) {
            field.copy_from_slice(&[[0x08, 0x00], [0x08, 0x06], [0x81, 0x00]][ethertype]);
        }
        if version && let Some(ip) = bytes.get_mut(14..24) {
            (ip[0], ip[2], ip[3]) = (0x40 | ip[0] & 0x0f, 0, ip[3] % 200);
            ip[9] = protocol;
        }
        let _ = touch(&mut bytes, total_len);
    }

    #[test]
    fn mutated_packets_never_panic(
        mut bytes in valid(), changes in vec((any::<usize>(), any::<u8>()), 0..6), cut: usize,
    ) {
        let total_len = bytes.len() - 14;
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(14 + cut % (total_len + 1));
        let _ = touch(&mut bytes, total_len);
    }

    /// What was right stays right when every checksum is filled in again, and
    /// every field is what etherparse reads.
    #[test]
    fn reads_what_etherparse_reads(mut bytes in valid()) {
        let before = bytes.clone();
        let parsed = SlicedPacket::from_ethernet(&before).expect("valid");
        let Some(NetSlice::Ipv4(theirs)) = &parsed.net else { panic!("IPv4 was written") };
        let theirs = theirs.header();
        let view = Ipv4View::new_checked(&before[14..], before.len() - 14).expect("valid");
        prop_assert!(view.verify_checksum());
        prop_assert_eq!((view.src(), view.dst()), (theirs.source_addr(), theirs.destination_addr()));
        prop_assert_eq!(view.total_len(), theirs.total_len());
        prop_assert_eq!(view.dont_fragment(), theirs.dont_fragment());
        prop_assert_eq!((view.ttl(), view.ident()), (theirs.ttl(), theirs.identification()));
        match parsed.transport.expect("written") {
            TransportSlice::Tcp(theirs) => {
                let tcp = TcpView::new_checked(view.payload()).expect("valid");
                prop_assert!(tcp.verify_checksum(view.src(), view.dst()));
                prop_assert_eq!(tcp.src_port(), theirs.source_port());
                prop_assert_eq!(tcp.dst_port(), theirs.destination_port());
                prop_assert_eq!(tcp.seq(), theirs.sequence_number());
                prop_assert_eq!(tcp.ack(), theirs.acknowledgment_number());
                prop_assert_eq!(tcp.window(), theirs.window_size());
                prop_assert_eq!(tcp.payload(), theirs.payload());
                prop_assert_eq!(tcp.options().count(), 2);
            }
            TransportSlice::Udp(theirs) => {
                let udp = UdpView::new_checked(view.payload(), view.payload_len()).expect("valid");
                prop_assert!(udp.verify_checksum(view.src(), view.dst()));
                prop_assert_eq!(udp.src_port(), theirs.source_port());
                prop_assert_eq!(udp.dst_port(), theirs.destination_port());
                prop_assert_eq!(udp.length(), theirs.length());
                prop_assert_eq!(udp.payload(), theirs.payload());
            }
            TransportSlice::Icmpv4(theirs) => {
                let icmp = IcmpView::new_checked(view.payload()).expect("valid");
                prop_assert!(icmp.verify_checksum());
                prop_assert_eq!(icmp.quoted(), Some(theirs.payload()));
                let quoted = Ipv4View::new_quoted(theirs.payload()).expect("valid");
                prop_assert_eq!((quoted.src(), quoted.dst()), (view.dst(), view.src()));
                // `touch` changes what is quoted.
                return Ok(());
            }
            TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => panic!("was not written"),
        }
        let sack = before[14 + 9] == tcp::PROTOCOL;
        touch(&mut bytes, before.len() - 14).expect("valid");
        prop_assert!(sack || bytes == before);
    }

    /// Headers that the gateway writes are what etherparse takes for valid.
    #[test]
    fn etherparse_reads_what_we_write(
        src: u32, dst: u32, ttl: u8, ident: u16, seq: u32, ack: u32, flags in 0u8..64,
    ) {
        let (src, dst) = (src.into(), dst.into());
        let mut frame = [0xa5; 54];
        let (ethernet, packet) = frame.split_first_chunk_mut().expect("54 bytes");
        let (ip, segment) = packet.split_first_chunk_mut().expect("40 bytes");
        let mac = super::ethernet::MacAddr([2, 0, 0, 0, 0, 1]);
        EthernetRepr { dst: mac, src: mac, ethertype: EtherType::IPV4 }.emit(ethernet);
        Ipv4Repr {
            src, dst, protocol: tcp::PROTOCOL, payload_len: 20, ttl, ident,
            dont_fragment: true, dscp: 0,
        }.emit(ip);
        TcpRepr { src_port: 1, dst_port: 2, seq, ack, flags: tcp::Flags(flags), window: 5 }
            .emit(src, dst, segment.first_chunk_mut().expect("20 bytes"));

        let parsed = SlicedPacket::from_ethernet(&frame).expect("valid");
        let Some(NetSlice::Ipv4(ip)) = &parsed.net else { panic!("IPv4 was written") };
        let ip = ip.header().to_header();
        prop_assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
        prop_assert_eq!((ip.time_to_live, ip.identification), (ttl, ident));
        let Some(TransportSlice::Tcp(theirs)) = &parsed.transport else { panic!("TCP was written") };
        let header = theirs.to_header();
        prop_assert_eq!(header.calc_checksum_ipv4(&ip, &[]), Ok(header.checksum));
        prop_assert_eq!((header.sequence_number, header.acknowledgment_number), (seq, ack));
        prop_assert_eq!((header.syn, header.rst), (flags & 2 != 0, flags & 4 != 0));
    }
}
