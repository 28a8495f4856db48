//! The TCP connection as seen from the middle (RFC 9293 §3.10.7, RFC 5961).
//!
//! Owns the rules by which a segment changes an [`Entry`], and nothing else.
//! The worker calls [`established_fast`] for every segment that matches an
//! entry, and [`forward`] or [`reverse`] where that declines; it stamps
//! `last_seen` on what passes. Pure: no clock, no allocation, no logging.
//!
//! # What is tracked
//! Per direction the end of the stream as it was seen without a gap (`next`) and
//! the furthest acknowledgement of it (`acked`). What comes beyond a gap, since
//! segments were lost or overtaken before the gateway, is kept apart (`ahead`)
//! until the receiver acknowledges it. So nobody who merely hits the window can
//! move `next`, at which a FIN or RST has to be to count. The receiver's RCV.NXT
//! lies between `acked` and `ahead`, and between `acked` and `next` while there
//! is no gap. The window is not tracked but bounded: by 65,535 bytes times the
//! receiver's scale. That is the widest it can have offered, and costs the fast
//! path nothing.
//!
//! # What is believed
//! A FIN at `next` with an acknowledgement that the receiver would take (RFC 5961
//! §5) counts at once. One elsewhere in the window passes and changes nothing,
//! until the receiver acknowledges it: a FIN behind a lost segment is not always
//! sent again, and that acknowledgement is one thing that whoever forged the FIN
//! can't bring about. A RST counts at `next` or `acked`. A SYN changes nothing
//! while either side may still send: the server answers it with a challenge ACK,
//! and only the RST that the client answers with, exact, ends the old connection.
//!
//! # What is refused
//! Only what the receiver would ignore anyway and what would harm the entry:
//! nonsense flags, a RST or SYN that fails the checks of RFC 5961, a duplicate
//! SYN of a finished connection. Data and acknowledgements always pass, even
//! out of window: the receiver answers those, and to swallow one could cost a
//! retransmission timer.
//!
//! # Numbering
//! A segment comes as its sender wrote it. The client's data has two
//! numberings, `seq_delta` apart; the entry keeps the client's. Only the
//! acknowledgement of a server's segment has to be converted.

mod segment;
#[cfg(test)]
mod tests;

pub use crate::wire::tcp::Flags;
pub use segment::{Segment, Verdict};

use super::entry::{Direction, Entry, State, flag, mark};
use crate::stats::DropReason;

const PASS: Verdict = Verdict::Pass { rearm: false };
const PASS_CHANGED: Verdict = Verdict::Pass { rearm: true };

/// RFC 7323 §2.3: a larger shift count is taken as 14.
const MAX_SCALE: u8 = 14;

/// Furthest that a segment may end beyond the stream and still be taken as of
/// it without a look at the window: the longest segment.
const REACH: u32 = 65_535;

/// What [`open`] sets anew.
const TRACKED: u16 = flag::CLIENT_SEEN
    | flag::SERVER_SEEN
    | flag::CLIENT_FIN
    | flag::SERVER_FIN
    | flag::CLIENT_FIN_ACKED
    | flag::SERVER_FIN_ACKED
    | flag::CLIENT_TS
    | flag::TS_SEEN
    | flag::WINDOW_SCALED
    | flag::HANDSHAKE_DONE;

/// `a` is after `b` (RFC 9293 §3.4: modulo 2^32, at most 2^31 apart).
#[inline(always)]
pub(crate) const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

/// `low <= x <= high` modulo 2^32.
#[inline(always)]
const fn between(low: u32, x: u32, high: u32) -> bool {
    x.wrapping_sub(low) <= high.wrapping_sub(low)
}

/// Begins a connection with the client's SYN: state `SynSent`. Tuples, server
/// and the two deltas are set before; counters and links are left alone.
pub fn open(entry: &mut Entry, syn: &Segment) {
    entry.state = State::SynSent;
    entry.flags = entry.flags & !TRACKED | flag::CLIENT_SEEN;
    entry.marks = 0;
    entry.client_isn = syn.seq;
    entry.c_next = syn.end();
    entry.c_acked = syn.seq.wrapping_add(1);
    entry.s_next = 0;
    entry.s_acked = 0;
    entry.c_scale = 0;
    entry.s_scale = 0;
    note_syn_options(entry, syn);
}

/// A plain segment of an established connection: returns whether it was one,
/// and if so has taken note of it, and it passes. The caller need not have
/// read options. Same effect as [`forward`] or [`reverse`].
#[inline(always)]
pub fn established_fast(entry: &mut Entry, direction: Direction, segment: &Segment) -> bool {
    if entry.state != State::Established || !segment.flags.is_plain_ack() {
        return false;
    }
    let end = segment.seq.wrapping_add(segment.payload_len);
    let (next, ack, peer_next, peer_acked) = match direction {
        Direction::Forward => (
            &mut entry.c_next,
            segment.ack,
            entry.s_next,
            &mut entry.s_acked,
        ),
        Direction::Reverse => (
            &mut entry.s_next,
            segment.ack.wrapping_sub(entry.seq_delta),
            entry.c_next,
            &mut entry.c_acked,
        ),
    };
    if !between(*peer_acked, ack, peer_next) {
        return false;
    }
    // Nearly always the next in line: asked first, and it need not be after.
    if segment.seq == *next {
        *next = end;
    } else if after(end, *next) {
        return false;
    }
    *peer_acked = ack;
    true
}

/// A segment from the client.
pub fn forward(entry: &mut Entry, segment: &Segment) -> Verdict {
    if segment.flags.is_nonsense() {
        return Verdict::Drop(DropReason::TcpBadFlags);
    }
    if segment.flags.has(Flags::SYN) {
        return client_syn(entry, segment);
    }
    let verdict = match entry.state {
        State::SynSent if segment.flags.has(Flags::RST) => {
            if !between(entry.client_isn, segment.seq, entry.c_next) {
                return Verdict::Drop(DropReason::TcpRstOutOfWindow);
            }
            entry.state = State::Closed;
            PASS_CHANGED
        }
        // An acknowledgement of nothing: the server resets it, and that RST
        // is told apart in `reverse`.
        State::SynSent => PASS,
        State::SynReceived
        | State::Established
        | State::ClientClosed
        | State::ServerClosed
        | State::Closing => synchronized(entry, Direction::Forward, segment),
        // A RST in TIME-WAIT changes nothing (RFC 1337).
        State::TimeWait | State::Closed => PASS,
        State::Free | State::Resting | State::UdpOneWay | State::UdpTwoWay | State::Redirect => {
            Verdict::Unmatched
        }
    };
    if matches!(verdict, Verdict::Pass { .. }) {
        note_timestamp(entry, segment);
    }
    verdict
}

/// A segment from the server, its acknowledgement in the server's numbering.
pub fn reverse(entry: &mut Entry, segment: &Segment) -> Verdict {
    if segment.flags.is_nonsense() {
        return Verdict::Drop(DropReason::TcpBadFlags);
    }
    if matches!(
        entry.state,
        State::Free | State::Resting | State::UdpOneWay | State::UdpTwoWay | State::Redirect
    ) {
        return Verdict::Unmatched;
    }
    let segment = &Segment {
        ack: segment.ack.wrapping_sub(entry.seq_delta),
        ..*segment
    };
    if segment.flags.has(Flags::SYN) {
        return server_syn(entry, segment);
    }
    let acks_syn = segment.flags.has(Flags::ACK) && acknowledges_syn(entry, segment.ack);
    match entry.state {
        State::SynSent if segment.flags.has(Flags::RST) => {
            // RFC 9293 §3.10.7.3: valid only if it acknowledges the SYN.
            if !acks_syn {
                return Verdict::Drop(DropReason::TcpRstOutOfWindow);
            }
            entry.state = State::Closed;
            Verdict::Refused
        }
        // Overtook its SYN-ACK; the client knows what to do.
        State::SynSent if acks_syn => PASS,
        State::SynSent => Verdict::StaleServer,
        // The SYN-ACK may have been lost: a client still in SYN-SENT takes
        // this RST for its acknowledgement.
        State::SynReceived if segment.flags.has(Flags::RST) && acks_syn => {
            entry.state = State::Closed;
            PASS_CHANGED
        }
        State::TimeWait | State::Closed => PASS,
        _ => synchronized(entry, Direction::Reverse, segment),
    }
}

/// A SYN from the client, no RST or FIN with it.
fn client_syn(entry: &mut Entry, segment: &Segment) -> Verdict {
    // The client's half of a simultaneous open, which needs a server that
    // opens connections to its clients.
    if segment.flags.has(Flags::ACK) {
        return Verdict::Drop(DropReason::TcpUnexpected);
    }
    let same = segment.seq == entry.client_isn;
    match entry.state {
        State::SynSent | State::SynReceived if same => {
            // Behind a FIN there is nothing, whatever the repeated SYN carries.
            let ends = entry.has(flag::CLIENT_FIN) || entry.marks & mark::CLIENT_FIN_AHEAD != 0;
            if !ends && after(segment.end(), entry.c_next) {
                entry.c_next = segment.end();
            }
            note_syn_options(entry, segment);
            Verdict::Retransmitted
        }
        State::SynSent | State::SynReceived => Verdict::NewAttempt,
        State::Established | State::ClientClosed | State::ServerClosed | State::Closing if same => {
            PASS
        }
        State::Established | State::ClientClosed | State::ServerClosed | State::Closing => {
            Verdict::SynOnEstablished
        }
        // A client that was refused may not have heard of it and asks again.
        State::Closed if same && entry.has(flag::HANDSHAKE_DONE) => {
            duplicate_or_reuse(entry, segment)
        }
        State::TimeWait if same => duplicate_or_reuse(entry, segment),
        State::TimeWait | State::Closed => Verdict::Reuse,
        State::Free | State::Resting | State::UdpOneWay | State::UdpTwoWay | State::Redirect => {
            Verdict::Unmatched
        }
    }
}

/// A SYN with the initial sequence number of the connection that it would
/// follow: an old duplicate, unless its timestamp is newer (RFC 6191 §2).
fn duplicate_or_reuse(entry: &Entry, syn: &Segment) -> Verdict {
    match syn.timestamp {
        Some(value)
            if entry.has(flag::TS_SEEN)
                && after(value.wrapping_add(entry.ts_delta), entry.last_ts) =>
        {
            Verdict::Reuse
        }
        _ => Verdict::Drop(DropReason::TcpOldDuplicate),
    }
}

/// A SYN or SYN-ACK from the server, its acknowledgement in the client's
/// numbering.
fn server_syn(entry: &mut Entry, segment: &Segment) -> Verdict {
    if !segment.flags.has(Flags::ACK) {
        return Verdict::Drop(DropReason::TcpUnexpected);
    }
    match entry.state {
        State::SynSent | State::SynReceived if acknowledges_syn(entry, segment.ack) => {
            // A server may answer a repeated SYN with another sequence number,
            // by cookie or by a fresh start. The latest counts.
            let first = entry.state == State::SynSent;
            if first || segment.seq.wrapping_add(1) != entry.s_acked {
                entry.s_next = segment.end();
                entry.s_acked = segment.seq.wrapping_add(1);
                entry.marks &= !(mark::SERVER_AHEAD | mark::SERVER_FIN_AHEAD);
                match segment.window_scale {
                    Some(scale) => entry.s_scale = scale.min(MAX_SCALE),
                    None => entry.flags &= !flag::WINDOW_SCALED,
                }
            }
            entry.c_acked = segment.ack;
            entry.flags |= flag::SERVER_SEEN;
            entry.state = State::SynReceived;
            Verdict::Pass { rearm: first }
        }
        State::SynSent => Verdict::StaleServer,
        State::SynReceived => Verdict::Drop(DropReason::TcpUnexpected),
        // The SYN-ACK once more, which acknowledged the SYN and at most the
        // one segment of data in it (RFC 7413).
        _ if segment.ack.wrapping_sub(entry.client_isn).wrapping_sub(1) <= REACH => PASS,
        state if holds_syn(entry, state) => Verdict::AnswersHeldSyn,
        _ => Verdict::Drop(DropReason::TcpSynOutOfWindow),
    }
}

/// Whether `ack` acknowledges the client's SYN and nothing that was not sent.
pub(crate) const fn acknowledges_syn(entry: &Entry, ack: u32) -> bool {
    between(entry.client_isn.wrapping_add(1), ack, entry.c_next)
}

/// Whether `sender` has sent a segment with this sequence number, in the
/// numbering of the entry, that is not acknowledged yet: only about such a one
/// an ICMP error can be true (RFC 5927 §4.1). An acknowledgement without data
/// has the number after all of it.
pub fn is_outstanding(entry: &Entry, sender: Direction, seq: u32) -> bool {
    let half = Half::of(entry, sender);
    // Its SYN may be meant, also that of an attempt that was given up.
    let begins = !entry.has(flag::HANDSHAKE_DONE);
    let lowest = match sender {
        Direction::Forward if begins => entry.client_isn,
        Direction::Reverse if begins => half.acked.wrapping_sub(1),
        _ => half.acked,
    };
    between(lowest, seq, half.far())
}

/// Whether a new SYN of the client is held while the old connection goes on.
fn holds_syn(entry: &Entry, state: State) -> bool {
    entry.has(flag::SYN_HELD)
        && matches!(
            state,
            State::Established | State::ClientClosed | State::ServerClosed | State::Closing
        )
}

/// One direction of the stream, as the sender of a segment stands in it.
struct Half {
    /// End of what the sender was seen to send without a gap.
    next: u32,
    /// Lowest RCV.NXT its receiver can have.
    acked: u32,
    /// End of what was seen beyond a gap.
    ahead: Option<u32>,
    /// That end is of a FIN.
    fin_ahead: bool,
    /// Widest window its receiver can have offered.
    window: u32,
}

impl Half {
    fn of(entry: &Entry, sender: Direction) -> Self {
        let (next, acked, ahead, receiver_scale) = match sender {
            Direction::Forward => (entry.c_next, entry.c_acked, entry.c_ahead, entry.s_scale),
            Direction::Reverse => (entry.s_next, entry.s_acked, entry.s_ahead, entry.c_scale),
        };
        let (has_ahead, fin_ahead) = marks_of(sender);
        let scale = if entry.has(flag::WINDOW_SCALED) {
            receiver_scale
        } else {
            0
        };
        let window = 65_535 << scale;
        // The fast path, which closes gaps too, leaves the mark standing.
        let is_ahead =
            entry.marks & has_ahead != 0 && ahead.wrapping_sub(next).wrapping_sub(1) <= window;
        Self {
            next,
            acked,
            ahead: is_ahead.then_some(ahead),
            fin_ahead: is_ahead && entry.marks & fin_ahead != 0,
            window,
        }
    }

    /// End of everything seen.
    fn far(&self) -> u32 {
        self.ahead.unwrap_or(self.next)
    }

    /// Whether a segment that ends at `end` may belong to the stream. One
    /// beyond the window: a FIN or a probe may lie just outside.
    fn reaches(&self, end: u32) -> bool {
        end.wrapping_sub(self.acked) <= self.window + 1 || end.wrapping_sub(self.next) <= REACH
    }

    /// Whether the receiver of this half, as the sender of a segment with the
    /// acknowledgement `ack`, would be listened to (RFC 5961 §5.2).
    fn may_acknowledge(&self, ack: u32) -> bool {
        between(self.acked.wrapping_sub(self.window), ack, self.far())
    }
}

/// The marks of what `sender` sent beyond a gap, and of a FIN at its end.
const fn marks_of(sender: Direction) -> (u8, u8) {
    match sender {
        Direction::Forward => (mark::CLIENT_AHEAD, mark::CLIENT_FIN_AHEAD),
        Direction::Reverse => (mark::SERVER_AHEAD, mark::SERVER_FIN_AHEAD),
    }
}

/// Sets where the stream of `sender` stands without a gap.
fn set_next(entry: &mut Entry, sender: Direction, next: u32) {
    let (numbers, ahead) = match sender {
        Direction::Forward => (&mut entry.c_next, entry.c_ahead),
        Direction::Reverse => (&mut entry.s_next, entry.s_ahead),
    };
    *numbers = next;
    if !after(ahead, next) {
        let (has_ahead, fin_ahead) = marks_of(sender);
        entry.marks &= !(has_ahead | fin_ahead);
    }
}

/// A segment without SYN after both sides' SYNs were seen, its acknowledgement
/// in the numbering of the entry.
fn synchronized(entry: &mut Entry, sender: Direction, segment: &Segment) -> Verdict {
    let half = Half::of(entry, sender);
    if segment.flags.has(Flags::RST) {
        return reset(entry, sender, &half, segment);
    }
    let peer = Half::of(entry, sender.opposite());
    let valid_ack = between(peer.acked, segment.ack, peer.next);

    if !entry.has(flag::HANDSHAKE_DONE) {
        let complete = match sender {
            Direction::Forward => valid_ack,
            // A server that sends data or acknowledges some has accepted the
            // connection, though the client's ACK was not recognized: it may
            // have answered an earlier SYN-ACK with another sequence number.
            Direction::Reverse => {
                segment.sequence_len() > 0 || valid_ack && segment.ack != peer.acked
            }
        };
        if complete {
            entry.flags |= flag::HANDSHAKE_DONE;
            if sender == Direction::Reverse && !half.reaches(segment.end()) {
                entry.s_next = segment.seq;
                entry.s_acked = segment.seq;
                entry.marks &= !(mark::SERVER_AHEAD | mark::SERVER_FIN_AHEAD);
            }
        }
    }

    note_stream(entry, sender, segment, peer.may_acknowledge(segment.ack));
    let half = Half::of(entry, sender);
    if valid_ack {
        set_acked(entry, sender.opposite(), segment.ack);
    } else if entry.has(flag::HANDSHAKE_DONE) && between(half.acked, segment.seq, half.far()) {
        note_acknowledged_gap(entry, sender.opposite(), &peer, segment.ack);
    }
    if entry.has(flag::CLIENT_FIN) && entry.c_acked == entry.c_next {
        entry.flags |= flag::CLIENT_FIN_ACKED;
    }
    if entry.has(flag::SERVER_FIN) && entry.s_acked == entry.s_next {
        entry.flags |= flag::SERVER_FIN_ACKED;
    }

    let before = entry.state;
    entry.state = state_of(entry.flags);
    Verdict::Pass {
        rearm: entry.state != before,
    }
}

/// Takes note of the sequence numbers that a segment covers. A FIN is the
/// stream's end: nothing beyond it counts.
fn note_stream(entry: &mut Entry, sender: Direction, segment: &Segment, acceptable: bool) {
    let half = Half::of(entry, sender);
    let fin = match sender {
        Direction::Forward => flag::CLIENT_FIN,
        Direction::Reverse => flag::SERVER_FIN,
    };
    if entry.has(fin) {
        return;
    }
    let (end, is_fin) = (segment.end(), segment.flags.has(Flags::FIN));
    let in_line = half.next.wrapping_sub(segment.seq) < segment.sequence_len();
    if in_line && (acceptable || !is_fin) {
        set_next(entry, sender, end);
        if is_fin {
            let (has_ahead, fin_ahead) = marks_of(sender);
            entry.marks &= !(has_ahead | fin_ahead);
            entry.flags |= fin;
        }
    } else if after(end, half.next) && half.reaches(end) && (is_fin || after(end, half.far())) {
        let (has_ahead, fin_ahead) = marks_of(sender);
        match sender {
            Direction::Forward => entry.c_ahead = end,
            Direction::Reverse => entry.s_ahead = end,
        }
        entry.marks = entry.marks & !fin_ahead | has_ahead;
        if is_fin {
            entry.marks |= fin_ahead;
        }
    }
}

/// The receiver acknowledges what the gateway saw beyond a gap: it has the gap,
/// too. Where that is a FIN, it is proof of it.
fn note_acknowledged_gap(entry: &mut Entry, sender: Direction, half: &Half, ack: u32) {
    let Some(ahead) = half.ahead.filter(|&ahead| between(half.next, ack, ahead)) else {
        return;
    };
    set_next(entry, sender, ack);
    set_acked(entry, sender, ack);
    if half.fin_ahead && ack == ahead {
        entry.flags |= match sender {
            Direction::Forward => flag::CLIENT_FIN,
            Direction::Reverse => flag::SERVER_FIN,
        };
    }
}

fn set_acked(entry: &mut Entry, sender: Direction, ack: u32) {
    match sender {
        Direction::Forward => entry.c_acked = ack,
        Direction::Reverse => entry.s_acked = ack,
    }
}

/// A RST after both sides' SYNs were seen (RFC 5961 §3.2). At the receiver's
/// RCV.NXT, it ends the connection. Elsewhere in the window the receiver
/// answers with a challenge ACK, and if the sender meant it, an exact one
/// follows; the connection goes on until then. One behind a gap that is filled
/// while it is under way is taken for inexact here and exact there: the entry
/// then idles out.
fn reset(entry: &mut Entry, sender: Direction, half: &Half, segment: &Segment) -> Verdict {
    if segment.seq == half.next || segment.seq == half.acked {
        entry.state = State::Closed;
        return PASS_CHANGED;
    }
    let in_window = segment.seq.wrapping_sub(half.acked) <= half.window;
    // What knows no connection answers a SYN with sequence number 0 (RFC 9293
    // §3.10.7.1), which may lie in the window of the old one.
    if sender == Direction::Reverse
        && segment.flags.has(Flags::ACK)
        && holds_syn(entry, entry.state)
        && (segment.seq == 0 || !in_window)
    {
        Verdict::AnswersHeldSyn
    } else if in_window {
        PASS
    } else {
        Verdict::Drop(DropReason::TcpRstOutOfWindow)
    }
}

/// The state that the flags amount to, once a SYN-ACK was seen.
const fn state_of(flags: u16) -> State {
    const ACKED: u16 = flag::CLIENT_FIN_ACKED | flag::SERVER_FIN_ACKED;
    if flags & flag::HANDSHAKE_DONE == 0 {
        return State::SynReceived;
    }
    match (flags & flag::CLIENT_FIN != 0, flags & flag::SERVER_FIN != 0) {
        (false, false) => State::Established,
        (true, false) => State::ClientClosed,
        (false, true) => State::ServerClosed,
        (true, true) if flags & ACKED == ACKED => State::TimeWait,
        (true, true) => State::Closing,
    }
}

/// The client's offers: kept from any of its SYNs, since the server may answer
/// any, and only a server that saw an option answers with it.
fn note_syn_options(entry: &mut Entry, syn: &Segment) {
    if let Some(scale) = syn.window_scale {
        entry.c_scale = scale.min(MAX_SCALE);
        if entry.state == State::SynSent {
            entry.flags |= flag::WINDOW_SCALED;
        }
    }
    if syn.timestamp.is_some() {
        entry.flags |= flag::CLIENT_TS;
    }
    note_timestamp(entry, syn);
}

/// Keeps the newest timestamp value as the server sees it.
fn note_timestamp(entry: &mut Entry, segment: &Segment) {
    let Some(value) = segment.timestamp else {
        return;
    };
    let value = value.wrapping_add(entry.ts_delta);
    if entry.has(flag::CLIENT_TS) && (!entry.has(flag::TS_SEEN) || after(value, entry.last_ts)) {
        entry.last_ts = value;
        entry.flags |= flag::TS_SEEN;
    }
}
