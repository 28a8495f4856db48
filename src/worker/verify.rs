//! TCP and UDP checksums of packets that begin or end something.
//!
//! An established connection's data is never summed: its receiver does that,
//! and a change of addresses keeps a wrong checksum wrong. But what makes state,
//! or changes it for the worse, is believed only if its receiver would believe
//! it too. Called for SYNs, first datagrams and whatever else ends or refuses a
//! connection; never on the fast path.

use super::Worker;
use super::parse::{L3, Packet};
use crate::io::{BurstIo, PacketBuf};
use crate::stats::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::proto;

/// Whether the TCP or UDP checksum of a packet as it was received is right. A
/// first fragment's can't be known, and counts as right.
///
/// The driver's verdict is not asked: the sum over a SYN costs less than a
/// connection by two orders of magnitude, and not all drivers look.
#[cold]
#[inline(never)]
pub(super) fn verifies<B: PacketBuf>(packet: &B, at: &Packet) -> bool {
    if at.flags.more_fragments() {
        return true;
    }
    let (begin, end) = (usize::from(at.l4), L3 + usize::from(at.ip_len));
    let mut len = end.saturating_sub(begin);
    if at.protocol == proto::UDP {
        let field = |from: usize| {
            let bytes = packet.bytes().get(begin + from..)?.first_chunk()?;
            Some(u16::from_be_bytes(*bytes))
        };
        // RFC 768: 0 is "no checksum".
        if field(6) == Some(0) {
            return true;
        }
        // What lies behind the datagram in the IP packet is not summed.
        len = len.min(field(4).unwrap_or(0).into());
    }
    let sum = Sum::pseudo_header(at.src, at.dst, at.protocol, len as u16);
    sums_up(packet, begin, len, sum)
}

/// Whether `len` bytes from `begin` on are all there and make `sum`, which is
/// what else their checksum covers, come out right.
pub(super) fn sums_up<B: PacketBuf>(packet: &B, begin: usize, len: usize, sum: Sum) -> bool {
    // Nearly always all of it lies in the first part.
    if let Some(bytes) = packet.bytes().get(begin..begin + len) {
        return sum.add_bytes(bytes).finish() == 0;
    }
    verifies_in_parts(packet, begin, len, sum)
}

/// The same over all parts of a packet: `len` bytes from `begin` on.
#[cold]
#[inline(never)]
fn verifies_in_parts<B: PacketBuf>(packet: &B, begin: usize, len: usize, mut sum: Sum) -> bool {
    let (mut skip, mut summed) = (begin, 0);
    packet.parts(&mut |part| {
        let before = skip.min(part.len());
        skip -= before;
        let part = &part[before..];
        let part = &part[..part.len().min(len - summed)];
        sum = match summed % 2 {
            0 => sum.add_bytes(part),
            _ => sum.add_bytes_at_odd(part),
        };
        summed += part.len();
    });
    summed == len && sum.finish() == 0
}

/// The reason to drop a packet whose checksum does not verify.
fn reason(at: &Packet) -> DropReason {
    if at.protocol == proto::UDP {
        DropReason::UdpChecksum
    } else {
        DropReason::TcpChecksum
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// Gives a packet back if its checksum is right, else drops it.
    pub(super) fn verified(&mut self, packet: Io::Buf, at: &Packet) -> Option<Io::Buf> {
        if verifies(&packet, at) {
            return Some(packet);
        }
        self.discard(packet, reason(at));
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::io::parts::Parts;

    const SRC: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
    const DST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);

    fn at(protocol: u8, transport: usize) -> Packet {
        Packet {
            src: SRC,
            dst: DST,
            src_port: 0,
            dst_port: 0,
            ip_len: 20 + transport as u16,
            l4: 34,
            protocol,
            flags: crate::worker::parse::IpFlags(0x40),
        }
    }

    /// A frame with a transport header whose checksum field is at `field`.
    fn frame(protocol: u8, transport: &mut [u8], field: usize) -> Vec<u8> {
        transport[field..field + 2].fill(0);
        let checksum = Sum::pseudo_header(SRC, DST, protocol, transport.len() as u16)
            .add_bytes(transport)
            .finish();
        let checksum = crate::wire::checksum::nonzero(checksum);
        transport[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        [&[0; 34], &transport[..]].concat()
    }

    proptest! {
        /// However a segment is cut into parts, and whatever padding follows:
        /// it verifies, and with any bit changed it does not.
        #[test]
        fn of_any_chain(
            mut tcp in vec(any::<u8>(), 20..120),
            cuts in vec(54usize..160, 0..4),
            padding in 0usize..8,
            flip in 0usize..120,
            bit in 0u32..8,
        ) {
            let at = at(proto::TCP, tcp.len());
            let mut bytes = frame(proto::TCP, &mut tcp, 16);
            bytes.resize(bytes.len() + padding, 0x5a);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let chain = |bytes: &[u8]| {
                let mut from = 0;
                let mut parts: Vec<_> = cuts.iter().map(|&cut| {
                    let part = bytes[from..cut].to_vec();
                    from = cut;
                    part
                }).collect();
                parts.push(bytes[from..].to_vec());
                Parts(parts)
            };
            prop_assert!(verifies(&chain(&bytes), &at));
            bytes[34 + flip % tcp.len()] ^= 1 << bit;
            prop_assert!(!verifies(&chain(&bytes), &at));
        }
    }

    #[test]
    fn udp_may_have_none_and_be_shorter_than_its_packet() {
        let mut udp = [1, 2, 3, 4, 0, 11, 0, 0, 7, 8, 9];
        let mut bytes = frame(proto::UDP, &mut udp, 6);
        bytes.extend([0xaa; 5]);
        let at = at(proto::UDP, udp.len() + 5);
        assert!(verifies(&Parts(vec![bytes.clone()]), &at));
        bytes[44] ^= 1;
        assert!(!verifies(&Parts(vec![bytes.clone()]), &at));
        bytes[40..42].fill(0);
        assert!(verifies(&Parts(vec![bytes]), &at));
    }
}
