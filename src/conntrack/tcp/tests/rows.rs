//! One row per segment: who sends it, its flags, sequence number relative to
//! the sender's ISN, acknowledgement relative to the receiver's, length, then
//! the verdict and the state after it.

use super::*;
use Direction::{Forward as C, Reverse as S};
use State::{
    ClientClosed, Closed, Closing, Established, ServerClosed, SynReceived, SynSent, TimeWait,
};
use Verdict::{
    AnswersHeldSyn, Drop, NewAttempt, Refused, Retransmitted, Reuse, StaleServer, SynOnEstablished,
    Unmatched,
};

const BAD_FLAGS: Verdict = Drop(DropReason::TcpBadFlags);
const BAD_RST: Verdict = Drop(DropReason::TcpRstOutOfWindow);
const BAD_SYN: Verdict = Drop(DropReason::TcpSynOutOfWindow);
const DUPLICATE: Verdict = Drop(DropReason::TcpOldDuplicate);
const UNEXPECTED: Verdict = Drop(DropReason::TcpUnexpected);

type Row = (Direction, &'static str, u32, u32, u32, Verdict, State);

/// A number relative to an ISN, before it.
const fn before(n: u32) -> u32 {
    n.wrapping_neg()
}

const HANDSHAKE: [Row; 2] = [
    (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
    (C, "A", 1, 1, 0, PASS_CHANGED, Established),
];

fn segment(row: &Row, (c_isn, s_isn, delta): (u32, u32, u32)) -> Segment {
    let &(sender, letters, seq, ack, payload_len, ..) = row;
    let (seq, ack) = match sender {
        C => (c_isn.wrapping_add(seq), s_isn.wrapping_add(ack)),
        S => (
            s_isn.wrapping_add(seq),
            c_isn.wrapping_add(ack).wrapping_add(delta),
        ),
    };
    Segment {
        flags: flags(letters),
        seq,
        ack,
        payload_len,
        ..Segment::default()
    }
}

/// Runs the rows after the client's SYN in every numbering; `prepare` sees the
/// opened entry.
fn run_with(rows: &[Row], prepare: impl Fn(&mut Entry)) {
    for numbering in NUMBERINGS {
        let mut entry = fresh(numbering.2);
        let syn = (C, "S", 0, 0, 0, PASS, SynSent);
        open(&mut entry, &segment(&syn, numbering));
        assert_eq!(entry.state, SynSent);
        prepare(&mut entry);
        for (ix, row) in rows.iter().enumerate() {
            let segment = segment(row, numbering);
            let verdict = match row.0 {
                C => forward(&mut entry, &segment),
                S => reverse(&mut entry, &segment),
            };
            assert_eq!(
                (verdict, entry.state),
                (row.5, row.6),
                "row {ix} {row:?} at {numbering:?}"
            );
        }
    }
}

fn run(rows: &[Row]) {
    run_with(rows, |_| {});
}

/// As [`run`], on an established connection.
fn established(rows: &[Row]) {
    run(&[&HANDSHAKE, rows].concat());
}

/// As [`established`], with a SYN held.
fn established_holding(rows: &[Row]) {
    run_with(&[&HANDSHAKE, rows].concat(), |entry| {
        entry.flags |= flag::SYN_HELD;
    });
}

#[test]
fn nonsense_flags_are_refused_in_every_state_and_direction() {
    for sender in [C, S] {
        for letters in ["", "P", "F", "SF", "SR", "SFA", "SRA", "SFRA"] {
            established(&[(sender, letters, 1, 1, 0, BAD_FLAGS, Established)]);
            run(&[(sender, letters, 1, 1, 0, BAD_FLAGS, SynSent)]);
        }
    }
}

#[test]
fn opens_transfers_and_closes_from_the_client() {
    established(&[
        (C, "PA", 1, 1, 100, PASS, Established),
        (S, "A", 1, 101, 0, PASS, Established),
        (S, "PA", 1, 101, 1_000, PASS, Established),
        (C, "FA", 101, 1_001, 0, PASS_CHANGED, ClientClosed),
        (S, "A", 1_001, 102, 0, PASS, ClientClosed),
        (S, "PA", 1_001, 102, 5_000, PASS, ClientClosed),
        (C, "A", 102, 6_001, 0, PASS, ClientClosed),
        (S, "FA", 6_001, 102, 0, PASS_CHANGED, Closing),
        (C, "A", 102, 6_002, 0, PASS_CHANGED, TimeWait),
        (S, "FA", 6_001, 102, 0, PASS, TimeWait),
        (C, "A", 102, 6_002, 0, PASS, TimeWait),
    ]);
}

#[test]
fn closes_from_the_server_while_the_client_still_sends() {
    established(&[
        (S, "FA", 1, 1, 500, PASS_CHANGED, ServerClosed),
        (C, "A", 1, 502, 0, PASS, ServerClosed),
        (C, "PA", 1, 502, 200, PASS, ServerClosed),
        (S, "A", 502, 201, 0, PASS, ServerClosed),
        (C, "FA", 201, 502, 10, PASS_CHANGED, Closing),
        (S, "A", 502, 211, 0, PASS, Closing),
        (S, "A", 502, 212, 0, PASS_CHANGED, TimeWait),
    ]);
}

#[test]
fn closes_in_both_directions_at_once() {
    established(&[
        (C, "FA", 1, 1, 0, PASS_CHANGED, ClientClosed),
        (S, "FA", 1, 1, 0, PASS_CHANGED, Closing),
        (C, "A", 2, 2, 0, PASS, Closing),
        (S, "A", 2, 2, 0, PASS_CHANGED, TimeWait),
    ]);
}

#[test]
fn a_repeated_fin_changes_nothing() {
    established(&[
        (C, "FA", 1, 1, 0, PASS_CHANGED, ClientClosed),
        (C, "FA", 1, 1, 0, PASS, ClientClosed),
        // A second end of the stream is a lie.
        (C, "FA", 40, 1, 0, PASS, ClientClosed),
        (S, "FA", 1, 2, 0, PASS_CHANGED, Closing),
        (S, "FA", 1, 2, 0, PASS, Closing),
        (C, "A", 2, 2, 0, PASS_CHANGED, TimeWait),
    ]);
}

#[test]
fn a_fin_before_its_data_counts_once_it_is_acknowledged() {
    established(&[
        (C, "FA", 3_001, 1, 0, PASS, Established),
        (S, "FA", 1, 1, 0, PASS_CHANGED, ServerClosed),
        (C, "A", 3_002, 2, 0, PASS, ServerClosed),
        (C, "A", 1, 2, 3_000, PASS, ServerClosed),
        (S, "A", 2, 3_001, 0, PASS, ServerClosed),
        (S, "A", 2, 3_002, 0, PASS_CHANGED, TimeWait),
    ]);
}

/// The client sends it only once: the server has told it by SACK (RFC 2018)
/// that only the data before it is missing.
#[test]
fn a_fin_behind_a_lost_segment_counts_though_it_is_not_sent_again() {
    for with_data in [0, 500] {
        let end = 2_001 + with_data + 1;
        established(&[
            // 1 to 1,001 was lost before the gateway.
            (C, "A", 1_001, 1, 1_000, PASS, Established),
            (C, "FA", 2_001, 1, with_data, PASS, Established),
            (S, "A", 1, 1, 0, PASS, Established),
            (C, "A", 1, 1, 1_000, PASS, Established),
            (S, "A", 1, end, 0, PASS_CHANGED, ClientClosed),
            (S, "FA", 1, end, 0, PASS_CHANGED, Closing),
            (C, "A", end, 2, 0, PASS_CHANGED, TimeWait),
        ]);
    }
}

#[test]
fn the_servers_fin_behind_a_lost_segment() {
    established(&[
        (C, "FA", 1, 1, 0, PASS_CHANGED, ClientClosed),
        (S, "FA", 1_001, 2, 100, PASS, ClientClosed),
        (C, "A", 2, 1, 0, PASS, ClientClosed),
        (S, "A", 1, 2, 1_000, PASS, ClientClosed),
        (C, "A", 2, 1_102, 0, PASS_CHANGED, TimeWait),
    ]);
}

/// What is lost on either side before the gateway leaves the tracker behind
/// only until the receiver acknowledges it.
#[test]
fn gaps_in_both_streams_close_with_their_acknowledgements() {
    established(&[
        (C, "A", 1_001, 1, 1_000, PASS, Established),
        (S, "A", 2_001, 1, 1_000, PASS, Established),
        (C, "A", 1, 1, 1_000, PASS, Established),
        (S, "A", 1, 1, 2_000, PASS, Established),
        (C, "A", 2_001, 3_001, 0, PASS, Established),
        (S, "A", 3_001, 2_001, 0, PASS, Established),
        (C, "FA", 2_001, 3_001, 0, PASS_CHANGED, ClientClosed),
        (S, "FA", 3_001, 2_002, 0, PASS_CHANGED, Closing),
        (C, "A", 2_002, 3_002, 0, PASS_CHANGED, TimeWait),
    ]);
}

/// Somebody who hits the window, but not the next number (RFC 5961).
#[test]
fn forged_segments_in_the_window_change_nothing() {
    established(&[
        (C, "A", 1, 1, 100, PASS, Established),
        (S, "A", 1, 101, 0, PASS, Established),
        (C, "FA", 5_000, 1, 0, PASS, Established),
        (C, "A", 7_000, 1, 0, PASS, Established),
        (C, "FA", 7_000, 1, 0, PASS, Established),
        (C, "R", 7_000, 0, 0, PASS, Established),
        (C, "R", 7_001, 0, 0, PASS, Established),
        // Exact, with an acknowledgement of nothing that was sent.
        (C, "FA", 101, 900_000, 0, PASS, Established),
        (C, "S", 7_000, 0, 0, SynOnEstablished, Established),
        // The connection goes through all these numbers.
        (C, "A", 101, 1, 4_899, PASS, Established),
        (S, "A", 1, 5_000, 0, PASS, Established),
        (C, "A", 5_000, 1, 2_000, PASS, Established),
        (S, "A", 1, 7_000, 0, PASS, Established),
        (C, "A", 7_000, 1, 1, PASS, Established),
        (S, "A", 1, 7_001, 0, PASS, Established),
        (C, "FA", 7_001, 1, 0, PASS_CHANGED, ClientClosed),
    ]);
}

#[test]
fn a_fin_out_of_window_or_before_what_was_acknowledged_does_not_close() {
    established(&[
        (C, "FA", 200_000, 1, 0, PASS, Established),
        (C, "FA", before(5), 1, 0, PASS, Established),
        (C, "PA", 1, 1, 100, PASS, Established),
        (S, "A", 1, 101, 0, PASS, Established),
        (C, "FA", 100, 1, 0, PASS, Established),
    ]);
}

#[test]
fn data_and_acknowledgements_out_of_window_pass_and_leave_no_trace() {
    established(&[
        (C, "A", 1_000_000, 1, 10, PASS, Established),
        (C, "A", 1, 900_000, 0, PASS, Established),
        (S, "A", before(9), 500_000, 0, PASS, Established),
        // Exact resets are still where they were.
        (C, "R", 1, 0, 0, PASS_CHANGED, Closed),
    ]);
}

#[test]
fn a_handshake_may_end_with_data_or_fin() {
    run(&[
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (C, "PA", 1, 1, 300, PASS_CHANGED, Established),
        (C, "R", 301, 0, 0, PASS_CHANGED, Closed),
    ]);
    run(&[
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (C, "FPA", 1, 1, 300, PASS_CHANGED, ClientClosed),
        (S, "FA", 1, 302, 0, PASS_CHANGED, Closing),
        (C, "A", 302, 2, 0, PASS_CHANGED, TimeWait),
    ]);
}

#[test]
fn a_handshake_needs_the_right_acknowledgement() {
    run(&[
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (C, "A", 1, 0, 0, PASS, SynReceived),
        (C, "A", 1, 2, 0, PASS, SynReceived),
        // The server's answer to that (RFC 9293 §3.10.7.4) is no valid reset.
        (S, "R", 4_000_000, 0, 0, BAD_RST, SynReceived),
        (C, "A", 1, 1, 0, PASS_CHANGED, Established),
    ]);
}

#[test]
fn syn_and_syn_ack_with_data() {
    // RFC 7413: the client's data in the SYN, the server's before the ACK.
    for numbering in NUMBERINGS {
        let mut entry = fresh(numbering.2);
        let syn = (C, "S", 0, 0, 500, PASS, SynSent);
        open(&mut entry, &segment(&syn, numbering));
        let rows = [
            (S, "SA", 0, 501, 0, PASS_CHANGED, SynReceived),
            (S, "PA", 1, 501, 900, PASS_CHANGED, Established),
            (C, "A", 501, 901, 0, PASS, Established),
            // The duplicate of a SYN-ACK that acknowledged data.
            (S, "SA", 0, 501, 0, PASS, Established),
        ];
        for row in &rows {
            let segment = segment(row, numbering);
            let verdict = match row.0 {
                C => forward(&mut entry, &segment),
                S => reverse(&mut entry, &segment),
            };
            assert_eq!((verdict, entry.state), (row.5, row.6), "{row:?}");
        }
    }
}

#[test]
fn the_clients_syn_again_while_half_open() {
    run(&[
        (C, "S", 0, 0, 0, Retransmitted, SynSent),
        (C, "S", 9, 0, 0, NewAttempt, SynSent),
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (C, "S", 0, 0, 0, Retransmitted, SynReceived),
        (C, "S", before(1), 0, 0, NewAttempt, SynReceived),
        (S, "SA", 0, 1, 0, PASS, SynReceived),
        (C, "A", 1, 1, 0, PASS_CHANGED, Established),
    ]);
}

/// Found by the property test: the repeated SYN once moved the end of the
/// stream behind the FIN, whose acknowledgement then went unseen.
#[test]
fn the_clients_syn_again_with_data_after_a_fin_moves_nothing() {
    run(&[
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (C, "FA", 1, 70_000, 0, PASS, SynReceived),
        (C, "S", 0, 0, 2, Verdict::Retransmitted, SynReceived),
        (S, "FA", 1, 2, 0, PASS_CHANGED, Closing),
        (C, "A", 2, 2, 0, PASS_CHANGED, TimeWait),
    ]);
}

#[test]
fn a_syn_on_an_established_connection() {
    established(&[
        (C, "S", 0, 0, 0, PASS, Established),
        (S, "A", 1, 1, 0, PASS, Established),
        (C, "S", 777, 0, 0, SynOnEstablished, Established),
        // The challenge ACK goes out, the client's exact RST comes back.
        (S, "A", 1, 1, 0, PASS, Established),
        (C, "R", 1, 0, 0, PASS_CHANGED, Closed),
        (C, "S", 777, 0, 0, Reuse, Closed),
    ]);
}

#[test]
fn a_server_that_forgot_the_connection_answers_the_held_syn() {
    established_holding(&[
        (S, "SA", 5_000_000, 900_001, 0, AnswersHeldSyn, Established),
        (S, "RA", 5_000_000, 900_001, 0, AnswersHeldSyn, Established),
        // Without ACK it answers no SYN; an exact one is a RST like any other.
        (S, "R", 5_000_000, 0, 0, BAD_RST, Established),
        (S, "RA", 1, 900_001, 0, PASS_CHANGED, Closed),
    ]);
    established(&[
        (S, "SA", 5_000_000, 900_001, 0, BAD_SYN, Established),
        (S, "RA", 5_000_000, 900_001, 0, BAD_RST, Established),
    ]);
}

#[test]
fn a_syn_on_a_connection_that_is_over() {
    let rows = [
        (C, "FA", 1, 1, 0, PASS_CHANGED, ClientClosed),
        (S, "FA", 1, 2, 0, PASS_CHANGED, Closing),
        (C, "A", 2, 2, 0, PASS_CHANGED, TimeWait),
    ];
    let then = [
        (C, "S", 0, 0, 0, DUPLICATE, TimeWait),
        (C, "S", 1, 0, 0, Reuse, TimeWait),
        (C, "S", 3_000_000_000, 0, 0, Reuse, TimeWait),
    ];
    established(&[&rows[..], &then].concat());
    established(&[
        (S, "R", 1, 0, 0, PASS_CHANGED, Closed),
        (C, "S", 0, 0, 0, DUPLICATE, Closed),
        (C, "S", 5, 0, 0, Reuse, Closed),
    ]);
}

/// Either side may still send: it takes proof to end that.
#[test]
fn a_syn_on_a_half_closed_connection_ends_it_by_the_challenge() {
    let cases: [(&[Row], State, u32, u32); 3] = [
        (
            &[(C, "FA", 1, 1, 0, PASS_CHANGED, ClientClosed)],
            ClientClosed,
            2,
            1,
        ),
        (
            &[(S, "FA", 1, 1, 0, PASS_CHANGED, ServerClosed)],
            ServerClosed,
            1,
            2,
        ),
        (
            &[
                (C, "FA", 1, 1, 0, PASS_CHANGED, ClientClosed),
                (S, "FA", 1, 1, 0, PASS_CHANGED, Closing),
            ],
            Closing,
            2,
            2,
        ),
    ];
    for (rows, state, client, server) in cases {
        let refused = [
            (C, "S", 0, 0, 0, PASS, state),
            (C, "S", 777, 0, 0, SynOnEstablished, state),
            (C, "S", 3_000_000_000, 0, 0, SynOnEstablished, state),
            // Whoever sent that knows no number of the connection.
            (C, "R", 777_000, 0, 0, BAD_RST, state),
        ];
        let challenged = [
            (S, "A", server, 1, 0, PASS, state),
            (C, "R", client, 0, 0, PASS_CHANGED, Closed),
        ];
        established(&[rows, &refused, &challenged].concat());
        let forgotten = [
            (S, "SA", 5_000_000, 900_001, 0, AnswersHeldSyn, state),
            (S, "RA", 5_000_000, 900_001, 0, AnswersHeldSyn, state),
        ];
        established_holding(&[rows, &forgotten].concat());
    }
}

/// What knows no connection answers with sequence number 0, and that may lie
/// in the window of the old one.
#[test]
fn a_reset_of_the_held_syn_counts_wherever_zero_lies() {
    let mut entry = fresh(0);
    open(&mut entry, &syn_with("S", None, None));
    let isn = before(1_000);
    let answer = |letters, seq, ack| Segment {
        flags: flags(letters),
        seq,
        ack,
        ..Segment::default()
    };
    let _ = reverse(&mut entry, &answer("SA", isn, 1));
    let ack = Segment {
        seq: 1,
        ..answer("A", 0, isn.wrapping_add(1))
    };
    assert_eq!(forward(&mut entry, &ack), PASS_CHANGED);
    assert_eq!(reverse(&mut entry, &answer("RA", 0, 900_001)), PASS);
    entry.flags |= flag::SYN_HELD;
    assert_eq!(
        reverse(&mut entry, &answer("RA", 0, 900_001)),
        AnswersHeldSyn
    );
    assert_eq!(entry.state, Established);
}

#[test]
fn a_refused_client_that_did_not_hear_it_asks_again() {
    run(&[
        (S, "RA", 0, 1, 0, Refused, Closed),
        (C, "S", 0, 0, 0, Reuse, Closed),
    ]);
}

#[test]
fn resets_of_a_syn_must_acknowledge_it() {
    run(&[
        (S, "R", 0, 1, 0, BAD_RST, SynSent),
        (S, "RA", 0, 0, 0, BAD_RST, SynSent),
        (S, "RA", 0, 2, 0, BAD_RST, SynSent),
        (S, "RA", 123, 1, 0, Refused, Closed),
    ]);
}

#[test]
fn the_client_gives_up_half_open() {
    for seq in [0, 1] {
        run(&[
            (C, "R", seq, 0, 0, PASS_CHANGED, Closed),
            // The SYN-ACK that was on its way: the client resets it itself.
            (S, "SA", 0, 1, 0, PASS, Closed),
            (C, "R", 1, 0, 0, PASS, Closed),
        ]);
    }
    run(&[
        (C, "R", 2, 0, 0, BAD_RST, SynSent),
        (C, "R", before(1), 0, 0, BAD_RST, SynSent),
    ]);
    run(&[
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (C, "R", 0, 0, 0, BAD_RST, SynReceived),
        (C, "R", 5, 0, 0, PASS, SynReceived),
        (C, "R", 1, 0, 0, PASS_CHANGED, Closed),
    ]);
}

#[test]
fn the_server_gives_up_half_open() {
    // To a client in either state: one that has the SYN-ACK and one that lost it.
    run(&[
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (S, "R", 1, 0, 0, PASS_CHANGED, Closed),
    ]);
    run(&[
        (S, "SA", 90, 1, 0, PASS_CHANGED, SynReceived),
        (S, "RA", before(90), 2, 0, BAD_RST, SynReceived),
        (S, "RA", before(90), 1, 0, PASS_CHANGED, Closed),
    ]);
}

#[test]
fn a_server_with_an_older_connection_is_told_apart() {
    run(&[
        (S, "A", 4_444, 8_888, 0, StaleServer, SynSent),
        (S, "SA", 4_444, 8_888, 0, StaleServer, SynSent),
        (S, "FA", 4_444, 0, 10, StaleServer, SynSent),
        // Data that overtook the SYN-ACK is no such thing.
        (S, "PA", 1, 1, 10, PASS, SynSent),
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (S, "SA", 4_444, 8_888, 0, UNEXPECTED, SynReceived),
    ]);
}

#[test]
fn a_second_answer_with_another_number_does_not_lose_the_connection() {
    // The client took the first SYN-ACK; only the server's data tells.
    run(&[
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (S, "SA", 7_000_000, 1, 0, PASS, SynReceived),
        (C, "A", 1, 1, 0, PASS, SynReceived),
        (C, "PA", 1, 1, 100, PASS, SynReceived),
        (S, "A", 1, 101, 0, PASS_CHANGED, Established),
        (S, "PA", 1, 101, 50, PASS, Established),
        (C, "FA", 101, 51, 0, PASS_CHANGED, ClientClosed),
        (S, "FA", 51, 102, 0, PASS_CHANGED, Closing),
        (C, "A", 102, 52, 0, PASS_CHANGED, TimeWait),
    ]);
    // The client took the second.
    run(&[
        (S, "SA", 0, 1, 0, PASS_CHANGED, SynReceived),
        (S, "SA", 7_000_000, 1, 0, PASS, SynReceived),
        (C, "A", 1, 7_000_001, 0, PASS_CHANGED, Established),
        (S, "R", 7_000_001, 0, 0, PASS_CHANGED, Closed),
    ]);
}

#[test]
fn syns_that_nobody_sends_in_a_client_server_world() {
    run(&[
        (S, "S", 0, 0, 0, UNEXPECTED, SynSent),
        (C, "SA", 0, 1, 0, UNEXPECTED, SynSent),
    ]);
    established(&[
        (S, "S", 0, 0, 0, UNEXPECTED, Established),
        (C, "SA", 0, 1, 0, UNEXPECTED, Established),
    ]);
}

#[test]
fn resets_of_an_established_connection_by_either_side() {
    let data = [
        (C, "PA", 1, 1, 1_000, PASS, Established),
        (S, "A", 1, 401, 0, PASS, Established),
        (S, "PA", 1, 401, 2_000, PASS, Established),
        (C, "A", 1_001, 601, 0, PASS, Established),
    ];
    let rows = [
        // The client sent up to 1,001, the server acknowledged 401.
        (C, 1_001, PASS_CHANGED, Closed),
        (C, 401, PASS_CHANGED, Closed),
        (C, 400, BAD_RST, Established),
        (C, 402, PASS, Established),
        (C, 1_002, PASS, Established),
        (C, 401 + 65_535, PASS, Established),
        (C, 401 + 65_536, BAD_RST, Established),
        (C, 401 + (1 << 31), BAD_RST, Established),
        // The server sent up to 2,001, the client acknowledged 601.
        (S, 2_001, PASS_CHANGED, Closed),
        (S, 601, PASS_CHANGED, Closed),
        (S, 600, BAD_RST, Established),
        (S, 2_002, PASS, Established),
        (S, 601 + 65_535, PASS, Established),
        (S, 601 + 65_536, BAD_RST, Established),
    ];
    for (sender, seq, verdict, state) in rows {
        for letters in ["R", "RA", "RF"] {
            let reset = [(sender, letters, seq, 0, 0, verdict, state)];
            established(&[&data[..], &reset].concat());
        }
    }
}

#[test]
fn a_reset_not_quite_exact_is_followed_by_an_exact_one() {
    established(&[
        (C, "R", 50, 0, 0, PASS, Established),
        (S, "A", 1, 1, 0, PASS, Established),
        (C, "R", 1, 0, 0, PASS_CHANGED, Closed),
    ]);
}

#[test]
fn nothing_ends_time_wait_early() {
    established(&[
        (C, "FA", 1, 1, 0, PASS_CHANGED, ClientClosed),
        (S, "FA", 1, 2, 0, PASS_CHANGED, Closing),
        (C, "A", 2, 2, 0, PASS_CHANGED, TimeWait),
        (C, "R", 2, 0, 0, PASS, TimeWait),
        (S, "R", 2, 0, 0, PASS, TimeWait),
        (S, "PA", 2, 2, 10, PASS, TimeWait),
    ]);
}

#[test]
fn entries_that_are_not_the_clients_tcp_connection_match_nothing() {
    for state in [
        State::Free,
        State::Resting,
        State::UdpOneWay,
        State::UdpTwoWay,
        State::Redirect,
    ] {
        for letters in ["S", "A", "FA", "R", "SA"] {
            let segment = Segment {
                flags: flags(letters),
                ..Segment::default()
            };
            let mut entry = fresh(0);
            entry.state = state;
            assert_eq!(reverse(&mut entry, &segment), Unmatched);
            if letters != "SA" {
                assert_eq!(forward(&mut entry, &segment), Unmatched);
            }
            assert_eq!(entry.state, state);
        }
    }
}

fn syn_with(letters: &str, scale: Option<u8>, timestamp: Option<u32>) -> Segment {
    Segment {
        flags: flags(letters),
        ack: 1,
        window_scale: scale,
        timestamp,
        ..Segment::default()
    }
}

#[test]
fn the_window_is_scaled_only_if_both_offer_it() {
    let rows = [
        (Some(3), Some(7), 65_535 << 7, 65_535 << 3),
        (Some(3), None, 65_535, 65_535),
        (None, Some(7), 65_535, 65_535),
        (Some(15), Some(200), 65_535 << 14, 65_535 << 14),
        (Some(0), Some(0), 65_535, 65_535),
    ];
    for (client, server, to_server, to_client) in rows {
        let opened = || {
            let mut entry = fresh(0);
            open(&mut entry, &syn_with("S", client, None));
            let _ = reverse(&mut entry, &syn_with("SA", server, None));
            let ack = Segment {
                flags: Flags::ACK,
                seq: 1,
                ack: 1,
                ..Segment::default()
            };
            assert_eq!(forward(&mut entry, &ack), PASS_CHANGED);
            entry
        };
        let rst = |seq| Segment {
            flags: Flags::RST,
            seq,
            ..Segment::default()
        };
        assert_eq!(forward(&mut opened(), &rst(1 + to_server)), PASS);
        assert_eq!(forward(&mut opened(), &rst(2 + to_server)), BAD_RST);
        assert_eq!(reverse(&mut opened(), &rst(1 + to_client)), PASS);
        assert_eq!(reverse(&mut opened(), &rst(2 + to_client)), BAD_RST);
    }
}

#[test]
fn keeps_the_newest_timestamp_as_the_server_saw_it() {
    let mut entry = fresh(0);
    entry.ts_delta = 1_000;
    open(&mut entry, &syn_with("S", None, Some(u32::MAX)));
    assert_eq!(entry.last_ts, 999);
    let _ = reverse(&mut entry, &syn_with("SA", None, Some(77_777)));
    assert_eq!(entry.last_ts, 999, "the server's are its own");
    let steps = [("A", 5, 1_005), ("FA", 9, 1_009), ("A", 4, 1_009)];
    for (letters, value, last) in steps {
        let mut segment = syn_with(letters, None, Some(value));
        segment.seq = 1;
        let _ = forward(&mut entry, &segment);
        assert_eq!(entry.last_ts, last);
    }
    // RFC 6191: the same ISN with a newer timestamp is no duplicate.
    assert_eq!(entry.state, ClientClosed);
    entry.state = TimeWait;
    let again = |value| syn_with("S", None, value);
    assert_eq!(forward(&mut entry, &again(Some(9))), DUPLICATE);
    assert_eq!(forward(&mut entry, &again(None)), DUPLICATE);
    assert_eq!(forward(&mut entry, &again(Some(10))), Reuse);
    assert_eq!(
        entry.last_ts, 1_009,
        "a new connection's is not the old one's"
    );
}

#[test]
fn opening_again_forgets_the_old_connection_and_keeps_what_is_not_its_own() {
    let mut entry = fresh(7);
    open(&mut entry, &syn_with("S", Some(4), Some(1)));
    let mine = flag::SYN_HELD | flag::COUNTED_ACTIVE | flag::TRANSLATE_SEQ;
    entry.flags |= TRACKED | mine;
    let syn = Segment {
        flags: Flags::SYN,
        seq: 4_000,
        ..Segment::default()
    };
    open(&mut entry, &syn);
    assert_eq!(entry.flags, mine | flag::CLIENT_SEEN);
    assert_eq!(
        (entry.client_isn, entry.c_next, entry.c_acked),
        (4_000, 4_001, 4_001)
    );
}
