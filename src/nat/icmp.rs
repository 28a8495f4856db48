//! Translating ICMP errors, which quote a packet the gateway translated
//! (RFC 5508 §4.2): the quoted packet becomes the one its receiver once sent.

use std::net::Ipv4Addr;

use super::rewrite::{
    Mapping, Truncated, checksum_offset, decrement_ttl, replace_addresses, replace_ports,
    update_transport,
};
use crate::wire::icmp::{IcmpView, QuotedTransport};
use crate::wire::ipv4::Ipv4View;
use crate::wire::proto;

/// The parts of a quoted packet by which its connection is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quote {
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// Source and destination, as the gateway sent the packet.
    pub tuple: Mapping,
    /// Of a TCP segment the sequence number, as the gateway sent it.
    pub tcp_seq: Option<u32>,
    /// Length of the quoted packet as a whole, bytes.
    pub ip_len: u16,
    /// Of a "fragmentation needed" the MTU that it tells; 0: it tells none.
    pub next_hop_mtu: Option<u16>,
}

/// Reads the quoted packet of an ICMP error. `None` where it is truncated
/// before the ports, is a later fragment, or is neither TCP nor UDP.
pub fn quote(icmp: &IcmpView<&[u8]>) -> Option<Quote> {
    let ip = Ipv4View::new_quoted(icmp.quoted()?).ok()?;
    if ip.fragment_offset() != 0 || !matches!(ip.protocol(), proto::TCP | proto::UDP) {
        return None;
    }
    let transport = QuotedTransport::new_checked(ip.payload()).ok()?;
    Some(Quote {
        tcp_seq: (ip.protocol() == proto::TCP).then(|| transport.tcp_seq()),
        protocol: ip.protocol(),
        ip_len: ip.total_len(),
        next_hop_mtu: icmp.next_hop_mtu(),
        tuple: Mapping {
            src: ip.src(),
            dst: ip.dst(),
            src_port: transport.src_port(),
            dst_port: transport.dst_port(),
        },
    })
}

/// Rewrites an ICMP error. `packet` is the IPv4 packet, `l4` the offset of its
/// ICMP header. `outer_src` and `outer_dst` replace the outer addresses, `inner`
/// the quoted ones, and `shift_seq` is added to a quoted TCP sequence number.
/// The quoted transport checksum is updated where it is quoted; the ICMP
/// checksum is made anew.
pub fn translate_error(
    packet: &mut [u8],
    l4: usize,
    outer_src: Ipv4Addr,
    outer_dst: Ipv4Addr,
    inner: &Mapping,
    shift_seq: u32,
) -> Result<(), Truncated> {
    let (outer, message) = packet.split_at_mut_checked(l4).ok_or(Truncated)?;
    let outer = outer.first_chunk_mut::<20>().ok_or(Truncated)?;
    let delta = replace_addresses(outer, outer_src, outer_dst);
    decrement_ttl(outer, delta);

    let mut icmp = IcmpView::new_checked(message).map_err(|_| Truncated)?;
    translate_quote(icmp.quoted_mut().ok_or(Truncated)?, inner, shift_seq)?;
    icmp.fill_checksum();
    Ok(())
}

/// Rewrites the quoted packet. Its TTL stays: it tells the sender how far the
/// packet came.
fn translate_quote(quoted: &mut [u8], inner: &Mapping, shift_seq: u32) -> Result<(), Truncated> {
    let header_len = Ipv4View::new_quoted(&*quoted)
        .map_err(|_| Truncated)?
        .header_len();
    let (ip, transport) = quoted.split_at_mut_checked(header_len).ok_or(Truncated)?;
    let ip = ip.first_chunk_mut::<20>().ok_or(Truncated)?;
    let protocol = ip[9];
    let mut delta = replace_addresses(ip, inner.src, inner.dst);
    let checksum = delta.apply(u16::from_ne_bytes([ip[10], ip[11]]));
    ip[10..12].copy_from_slice(&checksum.to_ne_bytes());

    delta = delta.merge(replace_ports(transport, inner)?);
    if protocol == proto::TCP {
        let mut tcp = QuotedTransport::new_checked(&mut *transport).map_err(|_| Truncated)?;
        let (old, new) = (tcp.tcp_seq(), tcp.tcp_seq().wrapping_add(shift_seq));
        tcp.set_tcp_seq(new);
        delta = delta.replace_u32(old.to_be(), new.to_be());
    }
    if transport.len() >= checksum_offset(protocol) + 2 {
        update_transport(transport, protocol, delta)?;
    }
    Ok(())
}
