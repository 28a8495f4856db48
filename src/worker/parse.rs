//! The first look at a frame: what it is and where its headers are, as a small
//! descriptor. No copies; the bytes stay where they are.
//!
//! Lengths are checked here once. Code behind the descriptor may rely on the
//! transport header lying in the contiguous bytes, yet still goes through
//! checked accessors, so that a mistake here is a counted drop and no panic.

use std::net::Ipv4Addr;

use crate::io::{ChecksumStatus, PacketBuf};
use crate::stats::DropReason;
use crate::wire::checksum::fold;
use crate::wire::ethernet::MacAddr;
use crate::wire::proto;

/// Length of an untagged Ethernet header: offset of the IP header.
pub const L3: usize = 14;

/// Version 4 and a header of five words (RFC 791 §3.1).
const PLAIN: u8 = 0x45;
/// In the word of flags and offset.
const FRAGMENT_OFFSET: u16 = 0x1fff;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const ETHERTYPE_QINQ: [u8; 2] = [0x88, 0xa8];

/// The byte of an IPv4 header with the flags, and of the offset the upper bits
/// (RFC 791 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpFlags(pub u8);

impl IpFlags {
    const DONT_FRAGMENT: u8 = 0x40;
    const MORE_FRAGMENTS: u8 = 0x20;

    /// Routers may not fragment the packet.
    #[inline(always)]
    pub const fn dont_fragment(self) -> bool {
        self.0 & Self::DONT_FRAGMENT != 0
    }

    /// More fragments of the datagram follow.
    #[inline(always)]
    pub const fn more_fragments(self) -> bool {
        self.0 & Self::MORE_FRAGMENTS != 0
    }

    /// Of what is at the start of its datagram: it is no fragment, and can't
    /// become one (RFC 6864 §2).
    #[inline(always)]
    pub const fn is_atomic(self) -> bool {
        self.0 & (Self::DONT_FRAGMENT | Self::MORE_FRAGMENTS) == Self::DONT_FRAGMENT
    }
}

/// Where things are in an IPv4 packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Source port, host byte order; 0 where there is none.
    pub src_port: u16,
    /// Destination port, host byte order; 0 where there is none.
    pub dst_port: u16,
    /// Length of the IP packet in bytes, header included.
    pub ip_len: u16,
    /// Offset of the transport header in the frame.
    pub l4: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Whether it is a fragment, or may become one.
    pub flags: IpFlags,
}

/// What a frame turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A whole TCP segment or UDP datagram.
    Flow(Packet),
    /// The first fragment of one, with whole headers.
    FirstFragment(Packet),
    /// An ICMP message.
    Icmp(Packet),
    /// ARP.
    Arp,
    /// A fragment but the first: it has no ports.
    LaterFragment(Packet),
    /// An IPv4 packet of another protocol.
    OtherProtocol(Packet),
    /// Goes no further.
    Drop(DropReason),
}

/// Bytes of the Ethernet, IPv4 and TCP headers where neither has options.
const PLAIN_HEADERS: usize = L3 + 20 + 20;

/// What nearly every frame received on a port with MAC address `mac` is: a whole
/// TCP segment or UDP datagram for us, with a plain IP header. `None` is for
/// [`parse`], which says what it is instead.
///
/// Its own function for the sake of the fast path: one look at the length does
/// for all headers, and since no function writes to the result by address, the
/// compiler keeps it in registers.
#[inline(always)]
pub fn parse_flow<B: PacketBuf>(buf: &B, mac: MacAddr) -> Option<Packet> {
    let bytes = buf.bytes();
    let headers = bytes.first_chunk::<PLAIN_HEADERS>()?;
    let ethertype = [headers[12], headers[13]];
    if headers[..6] != mac.0 || ethertype != ETHERTYPE_IPV4 || headers[L3] != PLAIN {
        return None;
    }
    match parse_header(buf, bytes, headers[L3..].first_chunk()?, 20) {
        Parsed::Flow(packet) => Some(packet),
        _ => None,
    }
}

/// Looks at any frame received on a port with MAC address `mac`.
pub fn parse<B: PacketBuf>(buf: &B, mac: MacAddr) -> Parsed {
    let bytes = buf.bytes();
    let Some(ethernet) = bytes.first_chunk::<L3>() else {
        return Parsed::Drop(DropReason::EthernetShort);
    };
    if ethernet[..6] != mac.0 {
        return parse_for_others(buf, bytes, ethernet);
    }
    match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => parse_ipv4(buf, bytes),
        ETHERTYPE_ARP => Parsed::Arp,
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Parsed::Drop(DropReason::VlanTagged),
        _ => Parsed::Drop(DropReason::EtherTypeUnsupported),
    }
}

/// A frame to another MAC address than the port's: a broadcast or multicast.
#[cold]
#[inline(never)]
fn parse_for_others<B: PacketBuf>(buf: &B, bytes: &[u8], ethernet: &[u8; L3]) -> Parsed {
    if ethernet[0] & 1 == 0 {
        return Parsed::Drop(DropReason::NotForUs);
    }
    let parsed = match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => parse_ipv4(buf, bytes),
        ETHERTYPE_ARP => Parsed::Arp,
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Parsed::Drop(DropReason::VlanTagged),
        _ => Parsed::Drop(DropReason::EtherTypeUnsupported),
    };
    match parsed {
        // RFC 1122 §3.3.6: what is for one host does not come by broadcast.
        Parsed::Flow(at)
        | Parsed::FirstFragment(at)
        | Parsed::Icmp(at)
        | Parsed::LaterFragment(at)
        | Parsed::OtherProtocol(at)
            if !at.dst.is_multicast() && !at.dst.is_broadcast() =>
        {
            Parsed::Drop(DropReason::UnicastInBroadcast)
        }
        other => other,
    }
}

fn parse_ipv4<B: PacketBuf>(buf: &B, bytes: &[u8]) -> Parsed {
    let Some(ip) = bytes.get(L3..).and_then(|rest| rest.first_chunk::<20>()) else {
        return Parsed::Drop(DropReason::Ipv4Malformed);
    };
    if ip[0] >> 4 != 4 {
        return Parsed::Drop(DropReason::Ipv4Malformed);
    }
    let header_len = usize::from(ip[0] & 0xf) * 4;
    let parsed = parse_header(buf, bytes, ip, header_len);
    let options = bytes.get(L3 + 20..L3 + header_len).unwrap_or_default();
    match (parsed, option_fault(options)) {
        (Parsed::Drop(reason), _) => Parsed::Drop(reason),
        (_, Some(reason)) => Parsed::Drop(reason),
        (parsed, None) => parsed,
    }
}

/// What is wrong with the options of an IPv4 header (RFC 791 §3.1). A source
/// route would lead our answer past the checks on the way (RFC 7126 §4.3, 4.4);
/// the others change nothing here.
fn option_fault(mut options: &[u8]) -> Option<DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    loop {
        let len = match options {
            [] | [END, ..] => return None,
            [NO_OPERATION, ..] => 1,
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Some(DropReason::SourceRoute),
            [_, len, ..] if *len >= 2 => usize::from(*len),
            _ => return Some(DropReason::Ipv4Malformed),
        };
        match options.get(len..) {
            Some(rest) => options = rest,
            None => return Some(DropReason::Ipv4Malformed),
        }
    }
}

#[inline(always)]
fn parse_header<B: PacketBuf>(buf: &B, bytes: &[u8], ip: &[u8; 20], header_len: usize) -> Parsed {
    let ip_len = u16::from_be_bytes([ip[2], ip[3]]);
    let l4 = L3 + header_len;
    if header_len < 20
        || usize::from(ip_len) < header_len
        || usize::from(ip_len) > buf.total_len() - L3
        || bytes.len() < l4
    {
        return Parsed::Drop(DropReason::Ipv4Malformed);
    }
    let checksum = buf.ipv4_checksum();
    if checksum != ChecksumStatus::Good
        && (checksum == ChecksumStatus::Bad || !header_verifies(&bytes[L3..l4]))
    {
        return Parsed::Drop(DropReason::Ipv4Checksum);
    }
    // The words that `header_verifies` has read: else the compiler puts an
    // address together from the bytes that others have looked at.
    let src = u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]);
    let dst = u32::from_ne_bytes([ip[16], ip[17], ip[18], ip[19]]);
    let (src, dst) = (src.to_ne_bytes(), dst.to_ne_bytes());
    // RFC 1122 §3.2.1.3: no host sends from these.
    if matches!(src[0], 0 | 127 | 224..=255) {
        return Parsed::Drop(DropReason::Ipv4Martian);
    }
    let mut packet = Packet {
        src: src.into(),
        dst: dst.into(),
        src_port: 0,
        dst_port: 0,
        ip_len,
        l4: l4 as u16,
        protocol: ip[9],
        flags: IpFlags(ip[6]),
    };
    if u16::from_be_bytes([ip[6], ip[7]]) & FRAGMENT_OFFSET != 0 {
        return Parsed::LaterFragment(packet);
    }
    let transport_len = usize::from(ip_len) - header_len;
    let transport = &bytes[l4..];
    match packet.protocol {
        proto::TCP => {
            let Some(tcp) = transport.first_chunk::<20>() else {
                return Parsed::Drop(DropReason::TcpMalformed);
            };
            let data_offset = usize::from(tcp[12] >> 4) * 4;
            if data_offset < 20 || data_offset > transport_len || data_offset > transport.len() {
                return Parsed::Drop(DropReason::TcpMalformed);
            }
            packet.src_port = u16::from_be_bytes([tcp[0], tcp[1]]);
            packet.dst_port = u16::from_be_bytes([tcp[2], tcp[3]]);
            whole_or_first(packet)
        }
        proto::UDP => {
            let Some(udp) = transport.first_chunk::<8>() else {
                return Parsed::Drop(DropReason::UdpMalformed);
            };
            let udp_len = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
            // The length is that of the whole datagram.
            if udp_len < 8 || udp_len > transport_len && !packet.flags.more_fragments() {
                return Parsed::Drop(DropReason::UdpMalformed);
            }
            packet.src_port = u16::from_be_bytes([udp[0], udp[1]]);
            packet.dst_port = u16::from_be_bytes([udp[2], udp[3]]);
            whole_or_first(packet)
        }
        proto::ICMP => {
            if transport_len < 8 || transport.len() < 8 {
                return Parsed::Drop(DropReason::IcmpMalformed);
            }
            if packet.flags.more_fragments() {
                return Parsed::Drop(DropReason::Ipv4Fragment);
            }
            Parsed::Icmp(packet)
        }
        _ => Parsed::OtherProtocol(packet),
    }
}

#[inline(always)]
fn whole_or_first(packet: Packet) -> Parsed {
    if packet.flags.more_fragments() {
        Parsed::FirstFragment(packet)
    } else {
        Parsed::Flow(packet)
    }
}

/// RFC 1071 over the header; its words are added as they lie in memory.
#[inline(always)]
fn header_verifies(header: &[u8]) -> bool {
    let number = |word: &[u8; 4]| u64::from(u32::from_ne_bytes(*word));
    let (words, _) = header.as_chunks::<4>();
    let sum = match words {
        // Nearly every header: no options, and so no loop.
        [a, b, c, d, e] => number(a) + number(b) + number(c) + number(d) + number(e),
        words => words.iter().map(number).sum(),
    };
    fold(sum) == 0xffff
}
