//! Segments that no kernel would send: forged, stray, or of a host that has
//! forgotten everything.

use std::net::{SocketAddr, SocketAddrV4};

use etherparse::{PacketBuilder, TcpHeader};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::Netns;

/// A TCP segment to be sent as it is.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    /// Any of `S`, `A`, `F`, `R`, `P`.
    pub flags: &'static str,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub payload: &'static [u8],
}

impl Raw {
    /// The segment as an IP packet with correct checksums.
    fn packet(&self) -> Vec<u8> {
        let mut tcp = TcpHeader::new(
            self.source.port(),
            self.destination.port(),
            self.sequence,
            1024,
        );
        tcp.acknowledgment_number = self.acknowledgment;
        let has = |flag| self.flags.contains(flag);
        (tcp.syn, tcp.ack, tcp.fin) = (has('S'), has('A'), has('F'));
        (tcp.rst, tcp.psh) = (has('R'), has('P'));
        let builder = PacketBuilder::ipv4(
            self.source.ip().octets(),
            self.destination.ip().octets(),
            64,
        )
        .tcp_header(tcp);
        let mut packet = Vec::with_capacity(builder.size(self.payload.len()));
        builder
            .write(&mut packet, self.payload)
            .expect("write to memory");
        packet
    }
}

/// Sends segments, one after the other, from inside `netns`.
pub fn send(netns: &Netns, segments: &[Raw]) {
    netns.run(|| {
        let protocol = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).expect("a raw socket");
        for segment in segments {
            let to = SocketAddr::V4(SocketAddrV4::new(*segment.destination.ip(), 0));
            socket
                .send_to(&segment.packet(), &to.into())
                .expect("send a raw packet");
        }
    });
}
