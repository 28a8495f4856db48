//! The resets that the gateway makes: which numbers they carry. The worker
//! writes and sends them, within its rate limit.
//!
//! Three occasions: a segment that matches no connection, a connection that the
//! gateway ends by itself (idle, server removed or down), and a server that
//! answers out of an old connection. Pure: no clock, no allocation.

use crate::conntrack::entry::{Entry, State};
use crate::conntrack::tcp::{Flags, Segment};

/// The numbers of a reset, as on the wire of its receiver, host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResetFields {
    /// RST, or RST and ACK.
    pub flags: Flags,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; 0 without ACK.
    pub ack: u32,
}

const RST_ACK: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

impl ResetFields {
    const fn plain(seq: u32) -> Self {
        Self {
            flags: Flags::RST,
            seq,
            ack: 0,
        }
    }

    const fn acknowledging(seq: u32, ack: u32) -> Self {
        Self {
            flags: RST_ACK,
            seq,
            ack,
        }
    }
}

/// The answer to a segment that matches no connection (RFC 9293 §3.10.7.1);
/// none to a RST. It goes back to the segment's sender.
pub const fn for_unmatched(segment: &Segment) -> Option<ResetFields> {
    if segment.flags.has(Flags::RST) {
        None
    } else if segment.flags.has(Flags::ACK) {
        Some(ResetFields::plain(segment.ack))
    } else {
        Some(ResetFields::acknowledging(0, segment.end()))
    }
}

/// Ends the connection at the client, in the server's name. None where the
/// client has nothing left to end, or the entry is no TCP connection.
///
/// The sequence number is the end of what the server sent: RFC 5961 §3.2 has
/// the client take only its exact RCV.NXT. If data was lost on the way to the
/// client, it answers with a challenge ACK instead; [`for_unmatched`] is then
/// exact. A client still in SYN-SENT looks at the acknowledgement alone (RFC
/// 9293 §3.10.7.3), and while its handshake is open it may be in either state,
/// so the acknowledgement is always one that suits both.
pub const fn to_client(entry: &Entry) -> Option<ResetFields> {
    match entry.state {
        State::SynSent => Some(ResetFields::acknowledging(
            0,
            entry.client_isn.wrapping_add(1),
        )),
        State::SynReceived
        | State::Established
        | State::ClientClosed
        | State::ServerClosed
        | State::Closing => Some(ResetFields::acknowledging(entry.s_next, entry.c_acked)),
        _ => None,
    }
}

/// Ends the connection at the server, in the client's name; sequence numbers in
/// the server's numbering. None where the server has nothing left to end, or
/// the entry is no TCP connection.
///
/// The server may have answered the SYN though its SYN-ACK never came; its
/// RCV.NXT is then the end of the SYN. While the handshake is open there is no
/// ACK: which one the server would accept is not known (its SYN-ACK may have
/// changed), and a server in SYN-RECEIVED looks at the acknowledgement first.
pub const fn to_server(entry: &Entry) -> Option<ResetFields> {
    let seq = entry.c_next.wrapping_add(entry.seq_delta);
    match entry.state {
        State::SynSent | State::SynReceived => Some(ResetFields::plain(seq)),
        State::Established | State::ClientClosed | State::ServerClosed | State::Closing => {
            Some(ResetFields::acknowledging(seq, entry.s_acked))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
