//! What the tracker sees of a segment, and what it says about it.

use crate::stats::DropReason;
use crate::wire::tcp::Flags;

/// What the tracker needs of a segment. Numbers are in host byte order and as
/// on the wire of the segment's sender: those of a segment from the server are
/// not yet translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Control bits.
    pub flags: Flags,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without ACK.
    pub ack: u32,
    /// Bytes after the TCP header, by the IP header's length.
    pub payload_len: u32,
    /// Shift count of the window scale option (RFC 7323 §2.2); read of SYNs.
    pub window_scale: Option<u8>,
    /// Timestamp value (RFC 7323 §3.2); read of segments that the fast path
    /// declined.
    pub timestamp: Option<u32>,
}

impl Segment {
    /// Sequence numbers the segment takes: its bytes, SYN and FIN (RFC 9293
    /// §3.4).
    #[inline(always)]
    pub const fn sequence_len(&self) -> u32 {
        self.payload_len
            .wrapping_add(self.flags.has(Flags::SYN) as u32)
            .wrapping_add(self.flags.has(Flags::FIN) as u32)
    }

    /// The sequence number after the segment.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.seq.wrapping_add(self.sequence_len())
    }
}

/// What to do with a segment.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Translate and send.
    Pass {
        /// The state has changed, and with it the timeout.
        rearm: bool,
    },
    /// The client's SYN again, with the same sequence number, before the
    /// handshake was complete. In `SynSent` the caller may send it to another
    /// server (and then calls [`super::open`] with it); otherwise it passes.
    Retransmitted,
    /// The client gave its half-open connection up and begins another with a
    /// new sequence number. The caller opens a new connection; the entry is
    /// as before.
    NewAttempt,
    /// A SYN on a connection that is over: the client has begun a new one from
    /// the same port. The caller opens it afresh and lets the old entry rest;
    /// the entry is as before.
    Reuse,
    /// A SYN with another sequence number on an established or half-closed
    /// connection. It passes; the server answers with a challenge ACK (RFC 5961 §4), and if
    /// the client had lost the connection, its exact RST follows. The caller
    /// holds a copy and sends it as a new connection when the entry closes.
    SynOnEstablished,
    /// With `SYN_HELD` on such a connection: the server did not know
    /// the connection any more and answers the client's new SYN (SYN-ACK or
    /// RST). If [`Segment::ack`] less `seq_delta` is the held SYN's sequence
    /// number plus 1 (plus its payload, at most), the caller calls
    /// [`super::open`] with the held SYN and then [`super::reverse`] again with
    /// this segment. Otherwise it drops it as `TcpSynOutOfWindow` or
    /// `TcpRstOutOfWindow`. The entry is as before.
    AnswersHeldSyn,
    /// In `SynSent`: the server acknowledges something that this client never
    /// sent, so it still holds an older connection of the same tuple. A client
    /// that saw this would reset it and send its SYN again a second later
    /// (RFC 9293 §3.5.1). The caller need not wait: it answers the server with
    /// [`crate::nat::reset::for_unmatched`] (sequence number = the segment's
    /// acknowledgement), sends the held SYN at once, and drops the segment.
    /// Without a held SYN it passes the segment on, and the client does all
    /// that itself.
    StaleServer,
    /// In `SynSent`: the server answered with a valid RST. The state is now
    /// `Closed`. The caller passes it on, or tries another server (and then
    /// calls [`super::open`]).
    Refused,
    /// The entry is no longer the client's (`Resting`) or no TCP connection:
    /// to be answered like a segment that matches no connection.
    Unmatched,
    /// Not to be sent; the entry is as before.
    Drop(DropReason),
}
