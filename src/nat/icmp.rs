//! Translating ICMP errors, which quote a packet the gateway translated
//! (RFC 5508 §4.2): the quoted packet becomes the one its receiver once sent.

use std::net::Ipv4Addr;

use super::rewrite::{
    Difference, Mapping, Truncated, checksum_offset, decrement_ttl, shift_u32,
    update_transport_checksum, word,
};
use crate::conntrack::entry::proto;

/// Offset of the quoted packet in an ICMP error.
pub const QUOTE: usize = 8;

/// The parts of a quoted packet by which its connection is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quote {
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// Source and destination, as the gateway sent the packet.
    pub tuple: Mapping,
}

/// Reads the quoted packet of an ICMP error; `icmp` starts at the ICMP header.
/// `None` where it is truncated before the ports, is itself a later fragment,
/// or is neither TCP nor UDP.
pub fn quote(icmp: &[u8]) -> Option<Quote> {
    let inner = icmp.get(QUOTE..)?;
    let ip = inner.first_chunk::<20>()?;
    let l4 = usize::from(ip[0] & 0xf) * 4;
    let offset = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff;
    if ip[0] >> 4 != 4 || l4 < 20 || offset != 0 || !matches!(ip[9], proto::TCP | proto::UDP) {
        return None;
    }
    let ports = inner.get(l4..)?.first_chunk::<8>()?;
    Some(Quote {
        protocol: ip[9],
        tuple: Mapping {
            src: Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]),
            dst: Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]),
            src_port: u16::from_be_bytes([ports[0], ports[1]]),
            dst_port: u16::from_be_bytes([ports[2], ports[3]]),
        },
    })
}

/// Rewrites an ICMP error. `packet` starts at the outer IPv4 header and ends
/// with the packet; `l4` is the ICMP header's offset. `outer_src` and
/// `outer_dst` replace the outer addresses, `inner` the quoted ones, and
/// `shift_seq` is added to a quoted TCP sequence number. The quoted transport
/// checksum is updated where it is quoted; the ICMP checksum is made anew.
pub fn translate_error(
    packet: &mut [u8],
    l4: usize,
    outer_src: Ipv4Addr,
    outer_dst: Ipv4Addr,
    inner: &Mapping,
    shift_seq: u32,
) -> Result<(), Truncated> {
    let (outer, icmp) = packet.split_at_mut_checked(l4).ok_or(Truncated)?;
    let outer = outer.first_chunk_mut::<20>().ok_or(Truncated)?;
    let difference = replace_addresses(outer, outer_src, outer_dst)?;
    decrement_ttl(outer, difference);

    let quoted = icmp.get_mut(QUOTE..).ok_or(Truncated)?;
    let inner_l4 = usize::from(quoted.first().ok_or(Truncated)? & 0xf) * 4;
    let (ip, transport) = quoted.split_at_mut_checked(inner_l4).ok_or(Truncated)?;
    let ip = ip.first_chunk_mut::<20>().ok_or(Truncated)?;
    let protocol = ip[9];
    let mut difference = replace_addresses(ip, inner.src, inner.dst)?;
    let checksum = difference.apply([ip[10], ip[11]]);
    ip[10..12].copy_from_slice(&checksum);

    let [a, b] = inner.src_port.to_be_bytes();
    let [c, d] = inner.dst_port.to_be_bytes();
    let ports: &mut [u8; 4] = transport.first_chunk_mut().ok_or(Truncated)?;
    difference = difference.replace(word(ports), word(&[a, b, c, d]));
    *ports = [a, b, c, d];
    if protocol == proto::TCP {
        shift_u32(transport, 4, shift_seq, &mut difference);
    }
    if transport.len() >= checksum_offset(protocol) + 2 {
        update_transport_checksum(transport, checksum_offset(protocol), protocol, difference)?;
    }

    icmp[2..4].fill(0);
    let checksum = crate::wire::checksum::checksum(icmp);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

fn replace_addresses(
    ip: &mut [u8; 20],
    src: Ipv4Addr,
    dst: Ipv4Addr,
) -> Result<Difference, Truncated> {
    let difference = Difference::default()
        .replace(
            word(ip[12..16].first_chunk().ok_or(Truncated)?),
            word(&src.octets()),
        )
        .replace(
            word(ip[16..20].first_chunk().ok_or(Truncated)?),
            word(&dst.octets()),
        );
    ip[12..16].copy_from_slice(&src.octets());
    ip[16..20].copy_from_slice(&dst.octets());
    Ok(difference)
}
