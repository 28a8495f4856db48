//! Views over the bytes of a packet, one file per protocol.
//!
//! A view checks its buffer once, in `new_checked`; its accessors then never
//! panic, whatever the bytes are. Its setters never change a length that was
//! checked. A `Repr` is a header as a value, for what the gateway itself sends.
//!
//! The worker calls this for every packet: nothing here allocates, locks, logs
//! or reads a clock. Numbers go in and out in host byte order.

pub mod arp;
pub mod checksum;
pub mod describe;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod proto;
pub mod tcp;
pub mod udp;

use std::net::Ipv4Addr;
use std::ops::Range;

/// Why bytes are not the packet they should be: one variant per cause.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ParseError {
    /// Fewer than 14 bytes.
    #[error("frame shorter than an Ethernet header")]
    EthernetTruncated,
    /// Fewer than 28 bytes.
    #[error("ARP packet truncated")]
    ArpTruncated,
    /// Hardware type other than 1 (Ethernet).
    #[error("ARP hardware type is not Ethernet")]
    ArpHardwareType,
    /// Protocol type other than 0x0800 (IPv4).
    #[error("ARP protocol type is not IPv4")]
    ArpProtocolType,
    /// Address lengths other than 6 and 4.
    #[error("ARP address lengths are not those of Ethernet and IPv4")]
    ArpAddressLength,
    /// Neither request nor reply.
    #[error("ARP operation is neither request nor reply")]
    ArpOperation,
    /// Fewer than 20 bytes.
    #[error("IPv4 header truncated")]
    Ipv4Truncated,
    /// Version other than 4.
    #[error("IP version is not 4")]
    Ipv4Version,
    /// IHL below 5.
    #[error("IPv4 header length below 20 bytes")]
    Ipv4HeaderLength,
    /// The options that IHL announces are not in the buffer.
    #[error("IPv4 options truncated")]
    Ipv4OptionsTruncated,
    /// Total length below the header's length.
    #[error("IPv4 total length does not cover the header")]
    Ipv4TotalLengthShort,
    /// Total length beyond what was received.
    #[error("IPv4 total length exceeds the packet")]
    Ipv4TotalLengthLong,
    /// Fewer than 20 bytes.
    #[error("TCP header truncated")]
    TcpTruncated,
    /// Data offset below 5.
    #[error("TCP data offset below 20 bytes")]
    TcpDataOffsetShort,
    /// Data offset beyond the segment.
    #[error("TCP data offset exceeds the segment")]
    TcpDataOffsetLong,
    /// An option's length is below 2 or reaches beyond the header.
    #[error("TCP option length malformed")]
    TcpOptionLength,
    /// Fewer than 8 bytes.
    #[error("UDP header truncated")]
    UdpTruncated,
    /// Length below 8.
    #[error("UDP length does not cover the header")]
    UdpLengthShort,
    /// Length beyond the IP payload.
    #[error("UDP length exceeds the IP payload")]
    UdpLengthLong,
    /// Fewer than 8 bytes.
    #[error("ICMP header truncated")]
    IcmpTruncated,
    /// Fewer than the 8 bytes of transport header that RFC 792 has quoted.
    #[error("quoted transport header truncated")]
    QuoteTruncated,
}

/// A header field's place: offsets in bytes from the header's start.
type Field = Range<usize>;

// Each view has checked that its fields lie inside its buffer.

#[inline(always)]
fn get_u16(bytes: &[u8], field: Field) -> u16 {
    let bytes = &bytes[field];
    u16::from_be_bytes([bytes[0], bytes[1]])
}

#[inline(always)]
fn get_u32(bytes: &[u8], field: Field) -> u32 {
    let bytes = &bytes[field];
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[inline(always)]
fn get_addr(bytes: &[u8], field: Field) -> Ipv4Addr {
    Ipv4Addr::from_bits(get_u32(bytes, field))
}

#[inline(always)]
fn set_u16(bytes: &mut [u8], field: Field, value: u16) {
    bytes[field].copy_from_slice(&value.to_be_bytes());
}

#[inline(always)]
fn set_u32(bytes: &mut [u8], field: Field, value: u32) {
    bytes[field].copy_from_slice(&value.to_be_bytes());
}

#[inline(always)]
fn set_addr(bytes: &mut [u8], field: Field, value: Ipv4Addr) {
    bytes[field].copy_from_slice(&value.octets());
}

#[cfg(test)]
mod tests;
