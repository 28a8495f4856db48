//! One connection: a fixed slot of 128 bytes, plain old data without pointers,
//! so that a later process can map the arena and find its connections again.
//!
//! The first cache line holds what every packet touches. The second holds what
//! set-up, tear-down and expiry touch.

use std::net::Ipv4Addr;

use crate::ids::{NeighborIx, ServerIx, SetIx, WorkerIx};
use crate::time::{Millis, Stamp};

/// Which way a packet goes through the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From the client towards the real server.
    Forward = 0,
    /// From the real server towards the client.
    Reverse = 1,
}

impl Direction {
    /// The other way.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Reverse,
            Self::Reverse => Self::Forward,
        }
    }
}

/// The client-side tuple, as a client's packet shows it: C:cp → V:vp.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientTuple {
    /// Client address.
    pub client: Ipv4Addr,
    /// VIP.
    pub vip: Ipv4Addr,
    /// Client port, host byte order.
    pub client_port: u16,
    /// Service port, host byte order.
    pub vip_port: u16,
    /// IP protocol.
    pub protocol: u8,
}

/// The server-side tuple, as a real server's packet shows it: R:rp → L:lp.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ServerTuple {
    /// Real server address.
    pub server: Ipv4Addr,
    /// Local address.
    pub local: Ipv4Addr,
    /// Real server port, host byte order.
    pub server_port: u16,
    /// Local port, host byte order.
    pub local_port: u16,
    /// IP protocol.
    pub protocol: u8,
}

/// A tuple as a received packet shows it, before it is known which side of a
/// connection it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowTuple {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Source port, host byte order.
    pub src_port: u16,
    /// Destination port, host byte order.
    pub dst_port: u16,
    /// IP protocol.
    pub protocol: u8,
}

impl From<&ClientTuple> for FlowTuple {
    #[inline(always)]
    fn from(tuple: &ClientTuple) -> Self {
        Self {
            src: tuple.client,
            dst: tuple.vip,
            src_port: tuple.client_port,
            dst_port: tuple.vip_port,
            protocol: tuple.protocol,
        }
    }
}

impl From<&ServerTuple> for FlowTuple {
    #[inline(always)]
    fn from(tuple: &ServerTuple) -> Self {
        Self {
            src: tuple.server,
            dst: tuple.local,
            src_port: tuple.server_port,
            dst_port: tuple.local_port,
            protocol: tuple.protocol,
        }
    }
}

/// The connection's state as seen from the middle (RFC 9293 §3.3.2 for TCP).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// The slot is free.
    Free = 0,
    /// TCP: the client's SYN went to the server, no answer yet. Half-open.
    SynSent = 1,
    /// TCP: the server's SYN-ACK went to the client, no ACK yet. Half-open.
    SynReceived = 2,
    /// TCP: handshake complete, no FIN seen.
    Established = 3,
    /// TCP: half-closed, the client sent FIN, the server still sends.
    ClientClosed = 4,
    /// TCP: half-closed, the server sent FIN, the client still sends.
    ServerClosed = 5,
    /// TCP: both sent FIN, not both acknowledged.
    Closing = 6,
    /// TCP: both FINs acknowledged. The local port rests with the entry.
    TimeWait = 7,
    /// TCP: torn down by a RST of either side, or by the gateway.
    Closed = 8,
    /// The client has begun a new connection from the same port, or the UDP
    /// flow's server has answered or can't be reached; only the server-side
    /// tuple is still in the index, while its local port rests.
    Resting = 9,
    /// UDP: packets seen from the client only.
    UdpOneWay = 10,
    /// UDP: packets seen both ways.
    UdpTwoWay = 11,
    /// No connection: its local port is lent to another worker, which has the
    /// connection and gets what the server sends. Only the server-side tuple is
    /// in the index.
    Redirect = 12,
}

impl State {
    /// All states that an entry in use can have.
    pub const ALL: [Self; 12] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::ClientClosed,
        Self::ServerClosed,
        Self::Closing,
        Self::TimeWait,
        Self::Closed,
        Self::Resting,
        Self::UdpOneWay,
        Self::UdpTwoWay,
        Self::Redirect,
    ];

    /// The name `fullgatectl` prints, as LVS people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynReceived => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::ClientClosed => "CLIENT_CLOSED",
            Self::ServerClosed => "SERVER_CLOSED",
            Self::Closing => "CLOSING",
            Self::TimeWait => "TIME_WAIT",
            Self::Closed => "CLOSED",
            Self::Resting => "RESTING",
            Self::UdpOneWay => "UDP_ONEWAY",
            Self::UdpTwoWay => "UDP",
            Self::Redirect => "REDIRECT",
        }
    }

    /// Whether an entry in this state is in the index under its client-side
    /// tuple, too.
    #[inline(always)]
    pub const fn has_client_side(self) -> bool {
        !matches!(self, Self::Free | Self::Resting | Self::Redirect)
    }

    /// Counted as an active connection of its server.
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::SynReceived
                | Self::Established
                | Self::ClientClosed
                | Self::ServerClosed
                | Self::UdpOneWay
                | Self::UdpTwoWay
        )
    }

    /// The handshake is not complete: the first to go when the table is full.
    #[inline(always)]
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived)
    }

    /// The connection is over; a new SYN of its client starts another one.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        matches!(
            self,
            Self::Closing | Self::TimeWait | Self::Closed | Self::Resting
        )
    }

    /// The connection is over, and a new one may take its local port if need be.
    pub const fn rests(self) -> bool {
        matches!(self, Self::TimeWait | Self::Closed | Self::Resting)
    }
}

/// Bits of [`Entry::flags`].
pub mod flag {
    /// Sequence numbers are shifted by `seq_delta` between client and server.
    pub const TRANSLATE_SEQ: u16 = 1 << 0;
    /// TCP timestamps are shifted by `ts_delta`.
    pub const TRANSLATE_TS: u16 = 1 << 1;
    /// `c_next`, `c_acked` hold what the client sent; set with its first segment.
    pub const CLIENT_SEEN: u16 = 1 << 2;
    /// `s_next`, `s_acked` hold what the server sent; set with its SYN-ACK.
    pub const SERVER_SEEN: u16 = 1 << 3;
    /// The client's FIN was seen; its end is `c_next`.
    pub const CLIENT_FIN: u16 = 1 << 4;
    /// The server's FIN was seen; its end is `s_next`.
    pub const SERVER_FIN: u16 = 1 << 5;
    /// The server acknowledged the client's FIN.
    pub const CLIENT_FIN_ACKED: u16 = 1 << 6;
    /// The client acknowledged the server's FIN.
    pub const SERVER_FIN_ACKED: u16 = 1 << 7;
    /// A SYN of the client is held for this entry; `Entry::held` names it.
    pub const SYN_HELD: u16 = 1 << 8;
    /// Counted as active at its server.
    pub const COUNTED_ACTIVE: u16 = 1 << 9;
    /// The client's SYN carried a timestamp option.
    pub const CLIENT_TS: u16 = 1 << 10;
    /// `last_ts` holds the newest timestamp value sent to the server.
    pub const TS_SEEN: u16 = 1 << 11;
    /// A window scale was offered by both sides (RFC 7323 §2.2); before the
    /// server's SYN-ACK: by the client.
    pub const WINDOW_SCALED: u16 = 1 << 12;
    /// The three-way handshake was completed.
    pub const HANDSHAKE_DONE: u16 = 1 << 13;
    /// Ended by the gateway, and both ends are still owed their RST.
    pub const RESET_OWED: u16 = 1 << 14;
    /// The path to the client is narrower than real servers are told;
    /// `client_mtu` says how narrow.
    pub const NARROW: u16 = 1 << 15;
}

/// Bits of [`Entry::marks`], which no packet of the fast path looks at.
pub mod mark {
    /// The client sent something beyond a gap; see [`super::Entry::c_ahead`].
    pub const CLIENT_AHEAD: u8 = 1;
    /// The server did.
    pub const SERVER_AHEAD: u8 = 1 << 1;
    /// What lies at the end of [`super::Entry::c_ahead`] is a FIN.
    pub const CLIENT_FIN_AHEAD: u8 = 1 << 2;
    /// What lies at the end of [`super::Entry::s_ahead`] is a FIN.
    pub const SERVER_FIN_AHEAD: u8 = 1 << 3;
    /// The gateway ended the connection, not a RST of either side.
    pub const ENDED_HERE: u8 = 1 << 4;
    /// The SYN went elsewhere before the server answered. Its late answer may
    /// still be taken.
    pub const UNANSWERED: u8 = 1 << 5;
    /// UDP: no answer came in time, and the next hop was asked whether it is
    /// still there.
    pub const DOUBTED: u8 = 1 << 6;
    /// The local port belongs to another worker, [`super::Entry::partner`].
    pub const BORROWED: u8 = 1 << 7;
}

/// No slot: the end of an intrusive list, or a link not in use.
pub const NIL: u32 = u32::MAX;

/// One connection. See the module's head for the layout's reasons.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct Entry {
    /// Client address.
    pub client: Ipv4Addr,
    /// VIP.
    pub vip: Ipv4Addr,
    /// Local address.
    pub local: Ipv4Addr,
    /// Real server address.
    pub server_addr: Ipv4Addr,
    /// Client port, host byte order.
    pub client_port: u16,
    /// Service port, host byte order.
    pub vip_port: u16,
    /// Local port, host byte order.
    pub local_port: u16,
    /// Real server port, host byte order.
    pub server_port: u16,
    /// When the last packet of the connection passed.
    pub last_seen: Stamp,
    /// TCP or UDP state.
    pub state: State,
    /// IP protocol.
    pub protocol: u8,
    /// Bits of [`flag`].
    pub flags: u16,
    /// The real server's slot in the snapshot.
    pub server: ServerIx,
    /// Next hop towards the client, or [`Entry::NO_NEIGHBOR`].
    pub client_hop: NeighborIx,
    /// Next hop towards the real server, or [`Entry::NO_NEIGHBOR`].
    pub server_hop: NeighborIx,
    /// End of the furthest segment the client sent, in the client's numbering.
    pub c_next: u32,
    /// End of the furthest segment the server sent, in the server's numbering.
    pub s_next: u32,
    /// Furthest acknowledgement the server sent, in the client's numbering: the
    /// lowest sequence number it can be waiting for. The window above it is
    /// bounded by the scale, not tracked, so that a packet of an established
    /// connection needs nothing of the second cache line.
    pub c_acked: u32,
    /// Furthest acknowledgement the client sent, in the server's numbering.
    pub s_acked: u32,
    /// Server-side minus client-side sequence number of the client's data; 0
    /// without [`flag::TRANSLATE_SEQ`].
    pub seq_delta: u32,
    /// Server-side minus client-side timestamp value of the client; 0 without
    /// [`flag::TRANSLATE_TS`].
    pub ts_delta: u32,

    // Second cache line.
    /// When the connection was created.
    pub created: Millis,
    /// Initial sequence number of the client's SYN, in the client's numbering.
    pub client_isn: u32,
    /// The local-port set that lent `local_port`.
    pub set: SetIx,
    /// The held SYN of this connection, where [`flag::SYN_HELD`] is set.
    pub held: u32,
    /// Newest timestamp value sent to the server, as the server saw it.
    pub last_ts: u32,
    /// Next slot in the timer wheel's list, or [`NIL`].
    pub timer_next: u32,
    /// Previous slot in the timer wheel's list, or the list's head (the wheel
    /// knows which), or [`NIL`].
    pub timer_prev: u32,
    /// Window scale of the client (RFC 7323), 0–14.
    pub c_scale: u8,
    /// Window scale of the server.
    pub s_scale: u8,
    /// SYNs sent to real servers for this connection.
    pub attempts: u8,
    /// Bits of [`mark`].
    pub marks: u8,
    /// The attempt to open this connection before this one, or [`NIL`]. That
    /// slot may have changed hands since.
    pub earlier: u32,
    /// End of the furthest segment beyond a gap in what the client sent, where
    /// [`mark::CLIENT_AHEAD`] is set.
    pub c_ahead: u32,
    /// The same of the server, where [`mark::SERVER_AHEAD`] is set.
    pub s_ahead: u32,
    /// Times that its SYN waited for an answer, and nobody else was left to ask.
    pub waits: u8,
    /// SYNs of the client that went to the same server once more.
    pub repeats: u8,
    /// Largest packet that goes to the client in one piece, where
    /// [`flag::NARROW`] is set.
    pub client_mtu: u16,
    /// The worker that lent the local port, where [`mark::BORROWED`] is set; of
    /// a [`State::Redirect`], the one that borrowed it.
    pub partner: WorkerIx,
    /// Unused; keeps the layout explicit.
    pub reserved: [u8; 3],
    /// The lender's number of that loan.
    pub loan: u32,
    /// Unused; keeps the layout explicit.
    pub reserved_tail: [u8; 4],
}

const _: () = assert!(size_of::<Entry>() == 128);
const _: () = assert!(std::mem::offset_of!(Entry, created) == 64);

impl Entry {
    /// Whether a datagram that goes this way is the server's first.
    #[inline(always)]
    pub fn is_first_answer(&self, direction: Direction) -> bool {
        direction == Direction::Reverse && self.state == State::UdpOneWay
    }

    /// A next hop that has to be looked up.
    pub const NO_NEIGHBOR: NeighborIx = NeighborIx(u16::MAX);

    /// A free slot.
    pub const FREE: Self = Self {
        client: Ipv4Addr::UNSPECIFIED,
        vip: Ipv4Addr::UNSPECIFIED,
        local: Ipv4Addr::UNSPECIFIED,
        server_addr: Ipv4Addr::UNSPECIFIED,
        client_port: 0,
        vip_port: 0,
        local_port: 0,
        server_port: 0,
        last_seen: Stamp(0),
        state: State::Free,
        protocol: 0,
        flags: 0,
        server: ServerIx(u32::MAX),
        client_hop: Self::NO_NEIGHBOR,
        server_hop: Self::NO_NEIGHBOR,
        c_next: 0,
        s_next: 0,
        c_acked: 0,
        s_acked: 0,
        seq_delta: 0,
        ts_delta: 0,
        created: Millis(0),
        client_isn: 0,
        set: SetIx(u32::MAX),
        held: NIL,
        last_ts: 0,
        timer_next: NIL,
        timer_prev: NIL,
        c_scale: 0,
        s_scale: 0,
        attempts: 0,
        marks: 0,
        earlier: NIL,
        c_ahead: 0,
        s_ahead: 0,
        waits: 0,
        repeats: 0,
        client_mtu: 0,
        partner: WorkerIx(0),
        reserved: [0; 3],
        loan: 0,
        reserved_tail: [0; 4],
    };

    /// The client-side tuple.
    #[inline(always)]
    pub const fn client_tuple(&self) -> ClientTuple {
        ClientTuple {
            client: self.client,
            vip: self.vip,
            client_port: self.client_port,
            vip_port: self.vip_port,
            protocol: self.protocol,
        }
    }

    /// The server-side tuple.
    #[inline(always)]
    pub const fn server_tuple(&self) -> ServerTuple {
        ServerTuple {
            server: self.server_addr,
            local: self.local,
            server_port: self.server_port,
            local_port: self.local_port,
            protocol: self.protocol,
        }
    }

    /// Whether the mark is set.
    #[inline(always)]
    pub const fn is_marked(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// Whether every bit of `mask` is set.
    #[inline(always)]
    pub const fn has(&self, mask: u16) -> bool {
        self.flags & mask == mask
    }
}
