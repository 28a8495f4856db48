//! Rows for each occasion and state. That both ends believe these numbers is
//! tested with real endpoints, beside the TCP tracker.

use super::*;
use crate::conntrack::tcp::{forward, open, reverse};

const CLIENT_ISN: u32 = u32::MAX - 2;
const SERVER_ISN: u32 = 7_000;
const DELTA: u32 = 1_000_000;

fn segment(flags: Flags, seq: u32, ack: u32, payload_len: u32) -> Segment {
    Segment {
        flags,
        seq,
        ack,
        payload_len,
        ..Segment::default()
    }
}

fn reset(flags: Flags, seq: u32, ack: u32) -> Option<ResetFields> {
    Some(ResetFields { flags, seq, ack })
}

#[test]
fn unmatched_segments_are_answered_as_rfc_9293_says() {
    let rows = [
        (Flags::RST, 5, 6, 0, None),
        (RST_ACK, 5, 6, 0, None),
        (Flags::ACK, 5, 6, 100, reset(Flags::RST, 6, 0)),
        (Flags::SYN | Flags::ACK, 5, 6, 0, reset(Flags::RST, 6, 0)),
        (Flags::FIN | Flags::ACK, 5, 6, 1, reset(Flags::RST, 6, 0)),
        (Flags::SYN, 5, 6, 0, reset(RST_ACK, 0, 6)),
        (Flags::SYN, u32::MAX, 6, 100, reset(RST_ACK, 0, 100)),
        (Flags::FIN, 5, 6, 10, reset(RST_ACK, 0, 16)),
        (Flags(0), 5, 6, 10, reset(RST_ACK, 0, 15)),
    ];
    for (flags, seq, ack, payload_len, expected) in rows {
        let segment = segment(flags, seq, ack, payload_len);
        assert_eq!(for_unmatched(&segment), expected, "{segment:?}");
    }
}

/// A connection after the first `segments` of a whole life.
fn after_segments(count: usize) -> Entry {
    let c = CLIENT_ISN;
    let to_server = |n: u32| c.wrapping_add(n);
    let acked = |n: u32| c.wrapping_add(n).wrapping_add(DELTA);
    let s = |n: u32| SERVER_ISN + n;
    let mut entry = Entry::FREE;
    entry.seq_delta = DELTA;
    let life = [
        (true, segment(Flags::SYN, c, 0, 0)),
        (false, segment(Flags::SYN | Flags::ACK, s(0), acked(1), 0)),
        (true, segment(Flags::ACK, to_server(1), s(1), 0)),
        (true, segment(Flags::ACK, to_server(1), s(1), 50)),
        (false, segment(Flags::ACK, s(1), acked(31), 200)),
        (
            true,
            segment(Flags::FIN | Flags::ACK, to_server(51), s(101), 0),
        ),
        (
            false,
            segment(Flags::FIN | Flags::ACK, s(201), acked(52), 0),
        ),
        (true, segment(Flags::ACK, to_server(52), s(202), 0)),
    ];
    for (ix, (from_client, segment)) in life[..count].iter().enumerate() {
        if ix == 0 {
            open(&mut entry, segment);
        } else {
            let _ = if *from_client {
                forward(&mut entry, segment)
            } else {
                reverse(&mut entry, segment)
            };
        }
    }
    entry
}

#[test]
fn ends_a_connection_with_the_numbers_that_each_end_expects() {
    let client = |n: u32| CLIENT_ISN.wrapping_add(n);
    let server = |n: u32| CLIENT_ISN.wrapping_add(n).wrapping_add(DELTA);
    let s = |n: u32| SERVER_ISN + n;
    let plain = |seq| reset(Flags::RST, seq, 0);
    let acknowledging = |seq, ack| reset(RST_ACK, seq, ack);
    let rows = [
        // Segments, state, to the client, to the server.
        (
            1,
            State::SynSent,
            acknowledging(0, client(1)),
            plain(server(1)),
        ),
        (
            2,
            State::SynReceived,
            acknowledging(s(1), client(1)),
            plain(server(1)),
        ),
        (
            3,
            State::Established,
            acknowledging(s(1), client(1)),
            acknowledging(server(1), s(1)),
        ),
        (
            4,
            State::Established,
            acknowledging(s(1), client(1)),
            acknowledging(server(51), s(1)),
        ),
        (
            5,
            State::Established,
            acknowledging(s(201), client(31)),
            acknowledging(server(51), s(1)),
        ),
        (
            6,
            State::ClientClosed,
            acknowledging(s(201), client(31)),
            acknowledging(server(52), s(101)),
        ),
        (
            7,
            State::Closing,
            acknowledging(s(202), client(52)),
            acknowledging(server(52), s(101)),
        ),
        (8, State::TimeWait, None, None),
    ];
    for (count, state, client, server) in rows {
        let entry = after_segments(count);
        assert_eq!(entry.state, state, "after {count}");
        assert_eq!(to_client(&entry), client, "{state:?}");
        assert_eq!(to_server(&entry), server, "{state:?}");
    }
}

#[test]
fn a_server_that_closed_first_is_reset_like_any_other() {
    let mut entry = after_segments(3);
    let fin = segment(
        Flags::FIN | Flags::ACK,
        SERVER_ISN + 1,
        CLIENT_ISN.wrapping_add(1).wrapping_add(DELTA),
        10,
    );
    let _ = reverse(&mut entry, &fin);
    assert_eq!(entry.state, State::ServerClosed);
    assert_eq!(
        to_client(&entry),
        reset(RST_ACK, SERVER_ISN + 12, CLIENT_ISN.wrapping_add(1))
    );
    assert_eq!(
        to_server(&entry),
        reset(
            RST_ACK,
            CLIENT_ISN.wrapping_add(1).wrapping_add(DELTA),
            SERVER_ISN + 1
        )
    );
}

#[test]
fn entries_with_nothing_to_end_get_none() {
    for state in [
        State::Free,
        State::Closed,
        State::Resting,
        State::UdpOneWay,
        State::UdpTwoWay,
        State::Redirect,
    ] {
        let entry = Entry {
            state,
            ..Entry::FREE
        };
        assert_eq!(
            (to_client(&entry), to_server(&entry)),
            (None, None),
            "{state:?}"
        );
    }
}
