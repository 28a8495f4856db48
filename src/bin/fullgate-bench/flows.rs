//! Connection numbers to addresses and back. A packet that opens a connection
//! carries its number as sequence number (UDP: in its payload), so what the
//! gateway made of it is recognised wherever it appears.

use std::net::Ipv4Addr;

use fullgate::arena::prefetch_slice;
use fullgate::wire::tcp::Flags;

use super::frame::{Frame, Seen, TCP};
use super::gateway::{self, SERVICE_PORT, VIP};

/// From one port of a client to its next.
const PORT_STEP: u16 = 4000;

/// Sixteen ports of each client address.
pub fn client(number: u32) -> (Ipv4Addr, u16) {
    let address = 0x0b00_0000 | (number >> 4 & 0x00ff_ffff);
    let port = 1024 + (number & 15) as u16 * PORT_STEP + (number >> 28) as u16;
    (Ipv4Addr::from_bits(address), port)
}

/// A client that never opened a connection.
pub fn stranger(number: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from_bits(0x0c00_0000 | number >> 8), 40_000)
}

/// One connection's state at its two ends.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    local: Ipv4Addr,
    local_port: u16,
    client_port: u16,
    server: u16,
    /// Next sequence number of the client, and of the server.
    c_seq: u32,
    s_seq: u32,
}

impl Flow {
    /// A connection that its first packet is about to open.
    pub fn new(number: u32) -> Self {
        Self {
            local: Ipv4Addr::UNSPECIFIED,
            local_port: 0,
            client_port: client(number).1,
            server: u16::MAX,
            c_seq: number,
            s_seq: number,
        }
    }

    /// The same from another port of the client, one that `wanted` accepts.
    pub fn at_port(mut self, number: u32, wanted: impl Fn(Ipv4Addr, u16) -> bool) -> Self {
        let (address, first) = client(number);
        let mut ports = first..first + PORT_STEP;
        self.client_port = ports.find(|&port| wanted(address, port)).unwrap_or(first);
        self
    }

    /// Takes note of what the gateway made of the first packet.
    pub fn opened(&mut self, seen: &Seen) {
        self.local = seen.src;
        self.local_port = seen.src_port;
        self.server = gateway::server_number(seen.dst);
    }

    /// Whether that is what the gateway makes of the client's packets.
    pub fn is_of(&self, seen: &Seen) -> bool {
        self.local == seen.src
            && self.local_port == seen.src_port
            && self.server == gateway::server_number(seen.dst)
    }

    pub fn is_open(&self) -> bool {
        self.server != u16::MAX
    }

    /// The client's next packet of connection `number`.
    #[inline]
    pub fn forward(&mut self, number: u32, protocol: u8, flags: Flags, payload: usize) -> Frame {
        let seq = self.c_seq;
        self.c_seq = seq.wrapping_add(consumed(protocol, flags, payload));
        Frame {
            src: client(number).0,
            src_port: self.client_port,
            dst: VIP,
            dst_port: SERVICE_PORT,
            protocol,
            flags,
            seq,
            ack: self.s_seq,
            payload,
        }
    }

    /// The server's next packet.
    #[inline]
    pub fn reverse(&mut self, protocol: u8, flags: Flags, payload: usize) -> Frame {
        let seq = self.s_seq;
        self.s_seq = seq.wrapping_add(consumed(protocol, flags, payload));
        Frame {
            src: gateway::server_addr(self.server),
            src_port: SERVICE_PORT,
            dst: self.local,
            dst_port: self.local_port,
            protocol,
            flags,
            seq,
            ack: self.c_seq,
            payload,
        }
    }
}

/// Sequence numbers that a segment takes.
fn consumed(protocol: u8, flags: Flags, payload: usize) -> u32 {
    if protocol != TCP {
        return 0;
    }
    payload as u32 + u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN))
}

/// A small generator, so that its own cost does not show.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    #[inline]
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(end)) >> 32) as u32
    }
}

/// Starts loading flows that a batch is about to be made of.
pub fn prefetch(flows: &[Flow], numbers: &[u32]) {
    for &number in numbers {
        prefetch_slice(flows, number as usize);
    }
}
