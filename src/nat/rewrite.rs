//! Rewriting addresses, ports, TTL and sequence numbers in place, checksums by
//! incremental update.
//!
//! RFC 1624 eqn. 3: HC' = ~(~HC + ~m + m'). One's complement sums don't depend
//! on byte order (RFC 1071 §2(B)), so 32-bit words are added as they lie in
//! memory and folded at the end.

use std::net::Ipv4Addr;

use crate::conntrack::entry::proto;

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

/// A running one's complement difference, in memory byte order.
#[derive(Clone, Copy, Default)]
pub(super) struct Difference(u64);

impl Difference {
    #[inline(always)]
    pub(super) fn replace(self, old: u32, new: u32) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    #[inline(always)]
    pub(super) fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = self.0 + u64::from(!u16::from_ne_bytes(checksum));
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }
}

#[inline(always)]
pub(super) fn word(bytes: &[u8; 4]) -> u32 {
    u32::from_ne_bytes(*bytes)
}

/// Offset of the checksum in the transport header.
#[inline(always)]
pub(super) fn checksum_offset(protocol: u8) -> usize {
    if protocol == proto::TCP { 16 } else { 6 }
}

/// Rewrites addresses and ports and takes one hop off the TTL. `packet` starts
/// at the IPv4 header; `l4` is the transport header's offset in it. A UDP
/// checksum of 0 ("none", RFC 768) stays 0.
#[inline]
pub fn translate(
    packet: &mut [u8],
    l4: usize,
    protocol: u8,
    to: &Mapping,
) -> Result<(), Truncated> {
    let (ip, transport) = packet.split_at_mut_checked(l4).ok_or(Truncated)?;
    let ip = ip.first_chunk_mut::<20>().ok_or(Truncated)?;
    let addresses = Difference::default()
        .replace(
            word(ip[12..16].first_chunk().ok_or(Truncated)?),
            word(&to.src.octets()),
        )
        .replace(
            word(ip[16..20].first_chunk().ok_or(Truncated)?),
            word(&to.dst.octets()),
        );
    ip[12..16].copy_from_slice(&to.src.octets());
    ip[16..20].copy_from_slice(&to.dst.octets());
    decrement_ttl(ip, addresses);

    let ports_new = {
        let [a, b] = to.src_port.to_be_bytes();
        let [c, d] = to.dst_port.to_be_bytes();
        [a, b, c, d]
    };
    let at = checksum_offset(protocol);
    let ports_old: &mut [u8; 4] = transport.first_chunk_mut().ok_or(Truncated)?;
    let difference = addresses.replace(word(ports_old), word(&ports_new));
    *ports_old = ports_new;
    update_transport_checksum(transport, at, protocol, difference)
}

#[inline(always)]
pub(super) fn update_transport_checksum(
    transport: &mut [u8],
    at: usize,
    protocol: u8,
    difference: Difference,
) -> Result<(), Truncated> {
    let checksum: &mut [u8; 2] = transport
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut())
        .ok_or(Truncated)?;
    if protocol == proto::UDP {
        if *checksum == [0, 0] {
            return Ok(());
        }
        let updated = difference.apply(*checksum);
        *checksum = if updated == [0, 0] {
            [0xff, 0xff]
        } else {
            updated
        };
    } else {
        *checksum = difference.apply(*checksum);
    }
    Ok(())
}

/// Takes one hop off the TTL, and puts `difference` into the header checksum
/// as well.
#[inline(always)]
pub(super) fn decrement_ttl(ip: &mut [u8; 20], difference: Difference) {
    let old = u32::from(u16::from_ne_bytes([ip[8], ip[9]]));
    ip[8] = ip[8].saturating_sub(1);
    let new = u32::from(u16::from_ne_bytes([ip[8], ip[9]]));
    let updated = difference.replace(old, new).apply([ip[10], ip[11]]);
    ip[10..12].copy_from_slice(&updated);
}

/// A shift of one connection's TCP numbering; see `Entry::seq_delta`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shift {
    /// Added to the client's sequence numbers towards the server.
    pub seq: u32,
    /// Added to the client's timestamp values towards the server.
    pub ts: u32,
}

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_SACK: u8 = 5;
const OPTION_TIMESTAMPS: u8 = 8;

/// A number in a TCP header that moves, at any byte offset: RFC 1071 §2(B)
/// lets an odd offset count as the byte-swapped sum.
pub(super) fn shift_u32(header: &mut [u8], at: usize, by: u32, difference: &mut Difference) {
    let Some(field) = header
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<4>())
    else {
        return;
    };
    let old = *field;
    *field = u32::from_be_bytes(old).wrapping_add(by).to_be_bytes();
    let swap = |bytes: [u8; 4]| {
        let [a, b, c, d] = bytes;
        if at % 2 == 0 {
            [a, b, c, d]
        } else {
            [b, a, d, c]
        }
    };
    *difference = difference.replace(word(&swap(old)), word(&swap(*field)));
}

/// Shifts a segment from the client into the server's numbering: its sequence
/// number and timestamp value. `segment` starts at the TCP header.
pub fn shift_forward(segment: &mut [u8], shift: Shift) -> Result<(), Truncated> {
    let mut difference = Difference::default();
    shift_u32(segment, 4, shift.seq, &mut difference);
    for_each_option(segment, |segment, kind, at, len| {
        if kind == OPTION_TIMESTAMPS && len == 10 {
            shift_u32(segment, at + 2, shift.ts, &mut difference);
        }
    });
    update_transport_checksum(segment, 16, proto::TCP, difference)
}

/// Shifts a segment from the server back into the client's numbering: its
/// acknowledgement, SACK blocks (RFC 2018) and timestamp echo (RFC 7323).
pub fn shift_reverse(segment: &mut [u8], shift: Shift) -> Result<(), Truncated> {
    let back_seq = shift.seq.wrapping_neg();
    let back_ts = shift.ts.wrapping_neg();
    let mut difference = Difference::default();
    // Without ACK the field means nothing (RFC 9293 §3.1) and stays as it is.
    if segment.get(13).is_some_and(|flags| flags & 0x10 != 0) {
        shift_u32(segment, 8, back_seq, &mut difference);
    }
    for_each_option(segment, |segment, kind, at, len| match kind {
        OPTION_SACK => {
            for edge in (at + 2..at + len).step_by(4) {
                if edge + 4 <= at + len {
                    shift_u32(segment, edge, back_seq, &mut difference);
                }
            }
        }
        // An echo of 0 on a SYN without ACK is no echo; on others it is valid.
        OPTION_TIMESTAMPS if len == 10 => shift_u32(segment, at + 6, back_ts, &mut difference),
        _ => {}
    });
    update_transport_checksum(segment, 16, proto::TCP, difference)
}

/// Calls `visit(segment, kind, offset, length)` for each well-formed option
/// with a length, up to the end of the header or the first malformed one.
fn for_each_option(segment: &mut [u8], mut visit: impl FnMut(&mut [u8], u8, usize, usize)) {
    let end = segment
        .get(12)
        .map_or(0, |b| usize::from(b >> 4) * 4)
        .min(segment.len());
    let mut at = 20;
    while at < end {
        match segment[at] {
            OPTION_END => return,
            OPTION_NOP => at += 1,
            kind => {
                let Some(&len) = segment.get(at + 1) else {
                    return;
                };
                let len = usize::from(len);
                if len < 2 || at + len > end {
                    return;
                }
                visit(segment, kind, at, len);
                at += len;
            }
        }
    }
}

/// The timestamp value (TSval) of a segment, or `None` without the option.
/// `segment` starts at the TCP header.
pub fn timestamp_value(segment: &mut [u8]) -> Option<u32> {
    let mut value = None;
    for_each_option(segment, |segment, kind, at, len| {
        if kind == OPTION_TIMESTAMPS && len == 10 {
            value = segment[at + 2..]
                .first_chunk()
                .map(|b| u32::from_be_bytes(*b));
        }
    });
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            let mut options = vec![OPTION_NOP; pad];
            options.extend_from_slice(&[OPTION_TIMESTAMPS, 10]);
            options.extend_from_slice(&ts.to_be_bytes());
            options.extend_from_slice(&ecr.to_be_bytes());
            options.extend_from_slice(&[OPTION_SACK, 10]);
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
            prop_assert_eq!(timestamp_value(&mut forward[l4..]), Some(ts.wrapping_add(by_ts)));
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
            let _ = timestamp_value(&mut bytes);
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
