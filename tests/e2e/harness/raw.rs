//! Segments that no kernel would send: forged, stray, or of a host that has
//! forgotten everything.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, Ordering};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder, TcpHeader, UdpHeader};
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

fn open() -> io::Result<Socket> {
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    Socket::new(Domain::IPV4, Type::RAW, Some(protocol))
}

/// Sends a datagram in fragments, the last one first, as some hosts do, from
/// inside the namespace of the calling thread.
pub fn send_last_first(
    source: SocketAddrV4,
    destination: SocketAddrV4,
    payload: &[u8],
) -> io::Result<()> {
    /// No two datagrams have the same for as long as fragments may live.
    static IDENTIFICATION: AtomicU16 = AtomicU16::new(1);
    /// Of a packet that fits an Ethernet frame.
    const FRAGMENT: usize = 1480;
    let (from, to) = (source.ip().octets(), destination.ip().octets());
    let ip = Ipv4Header::new(0, 64, IpNumber::UDP, from, to).map_err(io::Error::other)?;
    let (port, vip_port) = (source.port(), destination.port());
    let udp =
        UdpHeader::with_ipv4_checksum(port, vip_port, &ip, payload).map_err(io::Error::other)?;
    let mut datagram = udp.to_bytes().to_vec();
    datagram.extend(payload);
    let identification = IDENTIFICATION.fetch_add(1, Ordering::Relaxed);
    let socket = open()?;
    let last = datagram.chunks(FRAGMENT).count() - 1;
    for (number, bytes) in datagram.chunks(FRAGMENT).enumerate().rev() {
        let mut ip = ip.clone();
        ip.set_payload_len(bytes.len()).map_err(io::Error::other)?;
        ip.identification = identification;
        ip.dont_fragment = false;
        ip.more_fragments = number < last;
        let words = u16::try_from(number * FRAGMENT / 8).expect("within a datagram");
        ip.fragment_offset = IpFragOffset::try_new(words).expect("within a datagram");
        ip.header_checksum = ip.calc_header_checksum();
        let packet = [&ip.to_bytes()[..], bytes].concat();
        let to = SocketAddr::V4(SocketAddrV4::new(*destination.ip(), 0));
        socket.send_to(&packet, &to.into())?;
    }
    Ok(())
}

/// Sends segments, one after the other, from inside `netns`.
pub fn send(netns: &Netns, segments: &[Raw]) {
    send_changed(netns, segments, |_| {});
}

/// The same with TCP checksums that are wrong by one bit.
pub fn send_corrupted(netns: &Netns, segments: &[Raw]) {
    send_changed(netns, segments, |packet| packet[20 + 16] ^= 1);
}

fn send_changed(netns: &Netns, segments: &[Raw], change: fn(&mut [u8])) {
    netns.run(|| {
        let socket = open().expect("a raw socket");
        for segment in segments {
            let to = SocketAddr::V4(SocketAddrV4::new(*segment.destination.ip(), 0));
            let mut packet = segment.packet();
            change(&mut packet);
            socket
                .send_to(&packet, &to.into())
                .expect("send a raw packet");
        }
    });
}
