//! Rewriting addresses, ports, TTL and sequence numbers in place, checksums by
//! incremental update (RFC 1624, see [`crate::wire::checksum`]).

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use crate::wire::checksum::Delta;
use crate::wire::proto;
use crate::wire::tcp::{SACK_EDGES_AT, TSECR_AT, TSVAL_AT, TcpOption, TcpView};

/// What the four address parts of a packet become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// New source address.
    pub src: Ipv4Addr,
    /// New destination address.
    pub dst: Ipv4Addr,
    /// New source port, host byte order.
    pub src_port: u16,
    /// New destination port, host byte order.
    pub dst_port: u16,
}

/// A packet's headers do not have room for what is to be rewritten: the
/// parser let something through that it must not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncated;

/// Rewrites addresses and ports and takes one hop off the TTL. `packet` starts
/// at the IPv4 header; `l4` is the transport header's offset in it. A UDP
/// checksum of 0 ("none", RFC 768) stays 0.
#[inline(always)]
pub fn translate(
    packet: &mut [u8],
    l4: usize,
    protocol: u8,
    to: &Mapping,
) -> Result<(), Truncated> {
    let (ip, transport) = packet.split_at_mut_checked(l4).ok_or(Truncated)?;
    let ip = ip.first_chunk_mut::<20>().ok_or(Truncated)?;
    let addresses = replace_addresses(ip, to.src, to.dst);
    decrement_ttl(ip, addresses);
    // Cut to what is changed of it, so that one look at the length does.
    if protocol == proto::TCP {
        let header = transport.first_chunk_mut::<18>().ok_or(Truncated)?;
        translate_transport(header, proto::TCP, to, addresses)
    } else {
        let header = transport.first_chunk_mut::<8>().ok_or(Truncated)?;
        translate_transport(header, protocol, to, addresses)
    }
}

/// Rewrites the ports, and brings the checksum in line with all changes.
#[inline(always)]
fn translate_transport(
    header: &mut [u8],
    protocol: u8,
    to: &Mapping,
    addresses: Delta,
) -> Result<(), Truncated> {
    let ports = replace_ports(header, to)?;
    update_transport(header, protocol, addresses.merge(ports))
}

/// Rewrites the addresses of a fragment that holds no transport header, and
/// takes one hop off the TTL.
pub fn translate_fragment(packet: &mut [u8], to: &Mapping) -> Result<(), Truncated> {
    let ip = packet.first_chunk_mut::<20>().ok_or(Truncated)?;
    let addresses = replace_addresses(ip, to.src, to.dst);
    decrement_ttl(ip, addresses);
    Ok(())
}

/// Replaces the identification of an IPv4 packet.
pub fn set_ident(packet: &mut [u8], ident: u16) -> Result<(), Truncated> {
    let ip = packet.first_chunk_mut::<20>().ok_or(Truncated)?;
    let old = u16::from_ne_bytes([ip[4], ip[5]]);
    let new = ident.to_be();
    let checksum = Delta::new()
        .replace_u16(old, new)
        .apply(u16::from_ne_bytes([ip[10], ip[11]]));
    ip[4..6].copy_from_slice(&new.to_ne_bytes());
    ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
    Ok(())
}

/// Lets an IPv4 packet be fragmented: clears DF.
pub fn allow_fragments(packet: &mut [u8]) -> Result<(), Truncated> {
    const DONT_FRAGMENT: u8 = 0x40;
    let ip = packet.first_chunk_mut::<20>().ok_or(Truncated)?;
    let old = u16::from_ne_bytes([ip[6], ip[7]]);
    ip[6] &= !DONT_FRAGMENT;
    let checksum = Delta::new()
        .replace_u16(old, u16::from_ne_bytes([ip[6], ip[7]]))
        .apply(u16::from_ne_bytes([ip[10], ip[11]]));
    ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
    Ok(())
}

/// Replaces the addresses of an IPv4 header, but not its checksum. All sums here
/// are of words as memory holds them, which spares turning every word round.
#[inline(always)]
pub(super) fn replace_addresses(ip: &mut [u8; 20], src: Ipv4Addr, dst: Ipv4Addr) -> Delta {
    let old_src = u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]);
    let old_dst = u32::from_ne_bytes([ip[16], ip[17], ip[18], ip[19]]);
    ip[12..16].copy_from_slice(&src.octets());
    ip[16..20].copy_from_slice(&dst.octets());
    Delta::new()
        .replace_u32(old_src, u32::from_ne_bytes(src.octets()))
        .replace_u32(old_dst, u32::from_ne_bytes(dst.octets()))
}

/// Replaces the ports of a TCP or UDP header, but not its checksum. As memory
/// holds them.
#[inline(always)]
pub(super) fn replace_ports(transport: &mut [u8], to: &Mapping) -> Result<Delta, Truncated> {
    let ports = transport.first_chunk_mut::<4>().ok_or(Truncated)?;
    let new = (u32::from(to.src_port) << 16 | u32::from(to.dst_port)).to_be();
    let delta = Delta::new().replace_u32(u32::from_ne_bytes(*ports), new);
    *ports = new.to_ne_bytes();
    Ok(delta)
}

/// Offset of the checksum in the transport header.
#[inline(always)]
pub(super) const fn checksum_offset(protocol: u8) -> usize {
    if protocol == proto::TCP { 16 } else { 6 }
}

/// Brings the transport checksum in line with what was replaced, as memory
/// holds it.
#[inline(always)]
pub(super) fn update_transport(
    transport: &mut [u8],
    protocol: u8,
    delta: Delta,
) -> Result<(), Truncated> {
    let checksum = transport
        .get_mut(checksum_offset(protocol)..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
        .ok_or(Truncated)?;
    let old = u16::from_ne_bytes(*checksum);
    let new = if protocol == proto::UDP {
        delta.apply_udp(old)
    } else {
        delta.apply(old)
    };
    *checksum = new.to_ne_bytes();
    Ok(())
}

/// Takes one hop off the TTL, and puts `delta`, of words as memory holds them,
/// into the header checksum as well.
#[inline(always)]
pub(super) fn decrement_ttl(ip: &mut [u8; 20], delta: Delta) {
    let hop = ip[8].min(1);
    ip[8] -= hop;
    // What is taken off the word counts as if it were a word of its own.
    let checksum = delta
        .replace_u16(u16::from_ne_bytes([hop, 0]), 0)
        .apply(u16::from_ne_bytes([ip[10], ip[11]]));
    ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
}

/// A shift of one connection's TCP numbering; see `Entry::seq_delta`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shift {
    /// Added to the client's sequence numbers towards the server.
    pub seq: u32,
    /// Added to the client's timestamp values towards the server.
    pub ts: u32,
}

/// Shifts a segment from the client into the server's numbering: its sequence
/// number and timestamp value. `segment` starts at the TCP header.
pub fn shift_forward(segment: &mut [u8], shift: Shift) -> Result<(), Truncated> {
    let mut tcp = TcpView::new_checked(segment).map_err(|_| Truncated)?;
    let (old, new) = (tcp.seq(), tcp.seq().wrapping_add(shift.seq));
    tcp.set_seq(new);
    let mut delta = Delta::new().replace_u32(old, new);
    let timestamps = tcp
        .options()
        .flatten()
        .find_map(|(at, option)| match option {
            TcpOption::Timestamps { value, .. } => Some((at, value)),
            _ => None,
        });
    if let Some((at, value)) = timestamps {
        delta = tcp.replace_option_u32(at + TSVAL_AT, value.wrapping_add(shift.ts), delta);
    }
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

/// Shifts a segment from the server back into the client's numbering: its
/// acknowledgement, SACK blocks (RFC 2018) and timestamp echo (RFC 7323).
/// Without ACK the first and the last mean nothing, and stay.
pub fn shift_reverse(segment: &mut [u8], shift: Shift) -> Result<(), Truncated> {
    /// Edges of the blocks that fit into 40 bytes of options, and an echo.
    const MOST: usize = 9;
    let mut tcp = TcpView::new_checked(segment).map_err(|_| Truncated)?;
    if !tcp.flags().has(crate::wire::tcp::Flags::ACK) {
        return Ok(());
    }
    let (old, new) = (tcp.ack(), tcp.ack().wrapping_sub(shift.seq));
    let mut replaced = ArrayVec::<(usize, u32), MOST>::new();
    for (at, option) in tcp.options().flatten() {
        match option {
            TcpOption::Sack(edges) => {
                for (i, edge) in edges.as_chunks::<4>().0.iter().enumerate() {
                    let edge = u32::from_be_bytes(*edge).wrapping_sub(shift.seq);
                    let _ = replaced.try_push((at + SACK_EDGES_AT + 4 * i, edge));
                }
            }
            TcpOption::Timestamps { echo, .. } => {
                let _ = replaced.try_push((at + TSECR_AT, echo.wrapping_sub(shift.ts)));
            }
            _ => {}
        }
    }
    tcp.set_ack(new);
    let mut delta = Delta::new().replace_u32(old, new);
    for (offset, value) in replaced {
        delta = tcp.replace_option_u32(offset, value, delta);
    }
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOP: u8 = 1;

    fn sum(bytes: &[u8], mut acc: u32) -> u32 {
        for pair in bytes.chunks(2) {
            acc += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while acc > 0xffff {
            acc = (acc & 0xffff) + (acc >> 16);
        }
        acc
    }

    fn pseudo(packet: &[u8], l4: usize) -> u32 {
        let len = (packet.len() - l4) as u32;
        sum(&packet[12..20], u32::from(packet[9]) + len)
    }

    fn fill(packet: &mut [u8], l4: usize) {
        packet[10..12].fill(0);
        let ip = !(sum(&packet[..l4], 0) as u16);
        packet[10..12].copy_from_slice(&ip.to_be_bytes());
        let at = l4 + checksum_offset(packet[9]);
        packet[at..at + 2].fill(0);
        let mut transport = !(sum(&packet[l4..], pseudo(packet, l4)) as u16);
        if packet[9] == proto::UDP && transport == 0 {
            transport = 0xffff;
        }
        packet[at..at + 2].copy_from_slice(&transport.to_be_bytes());
    }

    fn verifies(packet: &[u8], l4: usize) -> bool {
        sum(&packet[..l4], 0) == 0xffff && sum(&packet[l4..], pseudo(packet, l4)) == 0xffff
    }

    fn packet(
        protocol: u8,
        ip_options: usize,
        noise: &[u8],
        tcp_options: &[u8],
    ) -> (Vec<u8>, usize) {
        let l4 = 20 + ip_options * 4;
        let header = if protocol == proto::TCP {
            20 + tcp_options.len().div_ceil(4) * 4
        } else {
            8
        };
        let mut bytes = vec![0u8; l4];
        bytes.resize(l4 + header, 0);
        bytes.extend_from_slice(noise);
        bytes[0] = 0x40 | (l4 / 4) as u8;
        bytes[8] = 64;
        bytes[9] = protocol;
        for (i, b) in noise.iter().take(8).enumerate() {
            bytes[12 + i] = *b;
        }
        if protocol == proto::TCP {
            bytes[l4 + 12] = ((header / 4) << 4) as u8;
            bytes[l4 + 13] = 0x10;
            bytes[l4 + 20..l4 + 20 + tcp_options.len()].copy_from_slice(tcp_options);
        }
        fill(&mut bytes, l4);
        (bytes, l4)
    }

    proptest! {
        /// A translated packet verifies, and translating back restores it.
        #[test]
        fn round_trip(
            protocol in prop_oneof![Just(proto::TCP), Just(proto::UDP)],
            ip_options in 0usize..=10,
            noise in proptest::collection::vec(any::<u8>(), 8..64),
            src: u32, dst: u32, src_port: u16, dst_port: u16,
        ) {
            let (mut bytes, l4) = packet(protocol, ip_options, &noise, &[]);
            let before = bytes.clone();
            let back = Mapping {
                src: Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]),
                dst: Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]),
                src_port: 0,
                dst_port: 0,
            };
            let to = Mapping { src: src.into(), dst: dst.into(), src_port, dst_port };
            translate(&mut bytes, l4, protocol, &to).expect("whole");
            prop_assert!(verifies(&bytes, l4));
            prop_assert_eq!(bytes[8], 63);
            translate(&mut bytes, l4, protocol, &back).expect("whole");
            prop_assert!(verifies(&bytes, l4));
            bytes[8] = 64;
            fill(&mut bytes, l4);
            prop_assert_eq!(bytes, before);
        }

        /// Shifted numbers verify, whatever the option's alignment, and the
        /// reverse shift undoes the forward one on the echoed fields.
        #[test]
        fn shifted_segments_verify(
            pad in 0usize..4, seq: u32, ack: u32, ts: u32, ecr: u32, by_seq: u32, by_ts: u32,
        ) {
            let mut options = vec![NOP; pad];
            options.extend_from_slice(&[8, 10]);
            options.extend_from_slice(&ts.to_be_bytes());
            options.extend_from_slice(&ecr.to_be_bytes());
            options.extend_from_slice(&[5, 10]);
            options.extend_from_slice(&ack.to_be_bytes());
            options.extend_from_slice(&seq.to_be_bytes());
            let (mut bytes, l4) = packet(proto::TCP, 0, &[7; 9], &options);
            bytes[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
            bytes[l4 + 8..l4 + 12].copy_from_slice(&ack.to_be_bytes());
            fill(&mut bytes, l4);
            let read = |bytes: &[u8], at: usize| {
                u32::from_be_bytes(*bytes[l4 + at..].first_chunk().expect("whole"))
            };
            let shift = Shift { seq: by_seq, ts: by_ts };

            let mut forward = bytes.clone();
            shift_forward(&mut forward[l4..], shift).expect("whole");
            prop_assert!(verifies(&forward, l4));
            prop_assert_eq!(read(&forward, 4), seq.wrapping_add(by_seq));
            prop_assert_eq!(read(&forward, 8), ack);
            prop_assert_eq!(read(&forward, 20 + pad + 2), ts.wrapping_add(by_ts));
            prop_assert_eq!(read(&forward, 20 + pad + 6), ecr);

            let mut reverse = bytes.clone();
            shift_reverse(&mut reverse[l4..], shift).expect("whole");
            prop_assert!(verifies(&reverse, l4));
            prop_assert_eq!(read(&reverse, 4), seq);
            prop_assert_eq!(read(&reverse, 8), ack.wrapping_sub(by_seq));
            prop_assert_eq!(read(&reverse, 20 + pad + 2), ts);
            prop_assert_eq!(read(&reverse, 20 + pad + 6), ecr.wrapping_sub(by_ts));
            prop_assert_eq!(read(&reverse, 20 + pad + 12), ack.wrapping_sub(by_seq));
            prop_assert_eq!(read(&reverse, 20 + pad + 16), seq.wrapping_sub(by_seq));
        }

        /// Whatever the bytes, nothing panics.
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), l4 in 0usize..70, protocol: u8) {
            let to = Mapping { src: [1, 2, 3, 4].into(), dst: [5, 6, 7, 8].into(), src_port: 1, dst_port: 2 };
            let _ = translate(&mut bytes, l4, protocol, &to);
            let _ = shift_forward(&mut bytes, Shift { seq: 1, ts: 2 });
            let _ = shift_reverse(&mut bytes, Shift { seq: 1, ts: 2 });
        }
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        let (mut bytes, l4) = packet(proto::UDP, 0, &[1; 12], &[]);
        bytes[l4 + 6..l4 + 8].fill(0);
        let to = Mapping {
            src: [1, 2, 3, 4].into(),
            dst: [5, 6, 7, 8].into(),
            src_port: 1,
            dst_port: 2,
        };
        translate(&mut bytes, l4, proto::UDP, &to).expect("whole");
        assert_eq!(bytes[l4 + 6..l4 + 8], [0, 0]);
    }
}
