//! The generator's frames: complete, with right checksums.

use std::net::Ipv4Addr;

use fullgate::wire::checksum::{Sum, nonzero};
use fullgate::wire::ethernet::{EtherType, EthernetRepr, MIN_FRAME_LEN, MacAddr};
use fullgate::wire::ipv4::Ipv4Repr;
use fullgate::wire::tcp::Flags;

/// Ethernet and IPv4 header.
const L4: usize = 14 + 20;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// A packet to be made.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub src_port: u16,
    pub dst_port: u16,
    pub protocol: u8,
    pub flags: Flags,
    pub seq: u32,
    pub ack: u32,
    /// Bytes after the transport header. Zeros; of UDP, the first four are
    /// `seq`.
    pub payload: usize,
}

/// Bytes of TCP or UDP header.
pub const fn header_len(protocol: u8) -> usize {
    if protocol == TCP { 20 } else { 8 }
}

/// What a frame of `size` bytes, its checksum included, carries.
pub fn payload_of(size: u16, protocol: u8) -> usize {
    usize::from(size) - 4 - L4 - header_len(protocol)
}

impl Frame {
    /// Bytes of the frame without its checksum, padding included.
    pub fn len(&self) -> usize {
        (L4 + header_len(self.protocol) + self.payload).max(MIN_FRAME_LEN)
    }

    /// Writes the frame into `bytes`, which are as many as [`Frame::len`] says.
    pub fn write(&self, bytes: &mut [u8], src: MacAddr, dst: MacAddr) {
        let transport_len = (header_len(self.protocol) + self.payload) as u16;
        let (ethernet, rest) = bytes.split_first_chunk_mut().expect("whole header");
        EthernetRepr {
            dst,
            src,
            ethertype: EtherType::IPV4,
        }
        .emit(ethernet);
        let (ip, rest) = rest.split_first_chunk_mut().expect("whole header");
        Ipv4Repr {
            src: self.src,
            dst: self.dst,
            protocol: self.protocol,
            payload_len: transport_len,
            ttl: 64,
            ident: 0,
            dont_fragment: true,
            dscp: 0,
        }
        .emit(ip);
        rest.fill(0);
        rest[0..2].copy_from_slice(&self.src_port.to_be_bytes());
        rest[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        let pseudo = Sum::pseudo_header(self.src, self.dst, self.protocol, transport_len);
        if self.protocol == TCP {
            rest[4..8].copy_from_slice(&self.seq.to_be_bytes());
            rest[8..12].copy_from_slice(&self.ack.to_be_bytes());
            rest[12] = 5 << 4;
            rest[13] = self.flags.0;
            rest[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
            let sum = pseudo.add_bytes(&rest[..20]).finish();
            rest[16..18].copy_from_slice(&sum.to_be_bytes());
        } else {
            rest[4..6].copy_from_slice(&transport_len.to_be_bytes());
            rest[8..12].copy_from_slice(&self.seq.to_be_bytes());
            let sum = nonzero(pseudo.add_bytes(&rest[..12]).finish());
            rest[6..8].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// What the sink wants of a packet the gateway sent.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub src_port: u16,
    /// The sequence number; of UDP, the first four bytes of the payload.
    pub seq: u32,
    /// Of TCP; else none.
    pub flags: Flags,
}

impl Seen {
    /// Reads an IPv4 frame without options, as the generator makes them.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..)?.first_chunk().copied();
        let (seq_at, flags) = match bytes.get(14 + 9)? {
            &TCP => (L4 + 4, Flags(*bytes.get(L4 + 13)?)),
            _ => (L4 + 8, Flags::default()),
        };
        Some(Self {
            src: Ipv4Addr::from(word(14 + 12)?),
            dst: Ipv4Addr::from(word(14 + 16)?),
            src_port: u16::from_be_bytes(*bytes.get(L4..)?.first_chunk()?),
            seq: u32::from_be_bytes(word(seq_at)?),
            flags,
        })
    }
}
