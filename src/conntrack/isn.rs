//! The initial sequence number and timestamp of a connection whose server may
//! still hold the last one of the same 4-tuple in TIME-WAIT.
//!
//! The worker asks here when it has to lend a local port before it has rested.
//! A server accepts a SYN in TIME-WAIT if its sequence number is after all that
//! the old connection sent, and its timestamp not before the last one (RFC 9293
//! §3.10.7.4, RFC 6191 §2); else it answers with an ACK of the old connection
//! and the client loses a second. So both numbers are shifted for the new
//! connection's life where the client's own would not do. Pure, off the packet
//! path's fast part, no allocation.

use siphasher::sip::SipHasher24;

use super::entry::{Entry, ServerTuple, flag};
use super::tcp::{Segment, after};
use crate::time::Millis;

/// Furthest that a new initial sequence number is set after the old
/// connection's end. Half of what still counts as "after" (2^31), so that a
/// server that got data we did not see end to end agrees.
const SPREAD: u32 = 1 << 30;

/// The secret of RFC 6528 §3, made anew at each start.
#[derive(Clone, Copy)]
pub struct IsnSecret(pub [u8; 16]);

impl std::fmt::Debug for IsnSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IsnSecret(..)")
    }
}

/// What the server remembers of the last connection on a 4-tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Previous {
    /// Sequence number after the client's last byte, in the server's numbering.
    pub next: u32,
    /// Newest timestamp value that the server saw, if any.
    pub ts: Option<u32>,
}

/// What to add to the client's numbers towards the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// To sequence numbers; 0: no translation.
    pub seq_delta: u32,
    /// To timestamp values; 0: no translation.
    pub ts_delta: u32,
}

/// Ticks of 4 µs in a millisecond, the unit of M (RFC 6528 §3).
const TICKS_PER_MS: u32 = 250;

/// `M + F(tuple, secret)` of RFC 6528 §3.
fn initial_sequence(secret: &IsnSecret, tuple: &ServerTuple, now: Millis) -> u32 {
    let mut input = [0; 12];
    input[..4].copy_from_slice(&tuple.local.octets());
    input[4..8].copy_from_slice(&tuple.server.octets());
    input[8..10].copy_from_slice(&tuple.local_port.to_be_bytes());
    input[10..].copy_from_slice(&tuple.server_port.to_be_bytes());
    let hash = SipHasher24::new_with_key(&secret.0).hash(&input);
    (now.0 as u32)
        .wrapping_mul(TICKS_PER_MS)
        .wrapping_add(hash as u32)
}

impl Previous {
    /// What the server remembers of `entry`.
    pub fn of(entry: &Entry) -> Self {
        Self {
            next: entry.c_next.wrapping_add(entry.seq_delta),
            ts: entry.has(flag::TS_SEEN).then_some(entry.last_ts),
        }
    }
}

/// What to add so that the server takes `syn` for a new connection at once.
/// Nothing where the client's own numbers do: no translation is cheaper.
///
/// A moved sequence number is that of RFC 6528, folded into the 2^30 numbers
/// after the old connection's end: as hard to guess, and after the end however
/// much the old connection has moved.
pub fn after_previous(
    secret: &IsnSecret,
    tuple: &ServerTuple,
    now: Millis,
    syn: &Segment,
    previous: Previous,
) -> Moved {
    let first = previous.next.wrapping_add(1);
    let seq_delta = if syn.seq.wrapping_sub(first) < SPREAD {
        0
    } else {
        let wanted = initial_sequence(secret, tuple, now);
        first
            .wrapping_add(wanted.wrapping_sub(first) % SPREAD)
            .wrapping_sub(syn.seq)
    };
    let ts_delta = match (syn.timestamp, previous.ts) {
        (Some(value), Some(last)) if !after(value, last) => {
            last.wrapping_add(1).wrapping_sub(value)
        }
        _ => 0,
    };
    Moved {
        seq_delta,
        ts_delta,
    }
}

impl Moved {
    /// Sets the entry's deltas and flags; before [`super::tcp::open`].
    pub fn apply(self, entry: &mut Entry) {
        entry.seq_delta = self.seq_delta;
        entry.ts_delta = self.ts_delta;
        entry.flags &= !(flag::TRANSLATE_SEQ | flag::TRANSLATE_TS);
        if self.seq_delta != 0 {
            entry.flags |= flag::TRANSLATE_SEQ;
        }
        if self.ts_delta != 0 {
            entry.flags |= flag::TRANSLATE_TS;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::conntrack::tcp::{self, Flags};
    use crate::wire::proto;

    const SECRET: IsnSecret = IsnSecret(*b"0123456789abcdef");

    fn tuple(local_port: u16) -> ServerTuple {
        ServerTuple {
            server: Ipv4Addr::new(10, 0, 0, 1),
            local: Ipv4Addr::new(10, 9, 9, 9),
            server_port: 80,
            local_port,
            protocol: proto::TCP,
        }
    }

    fn syn(seq: u32, timestamp: Option<u32>) -> Segment {
        Segment {
            flags: Flags::SYN,
            seq,
            timestamp,
            ..Segment::default()
        }
    }

    /// The rule by which Linux and the BSDs take a SYN in TIME-WAIT.
    fn server_takes(syn: &Segment, moved: Moved, old: Previous) -> bool {
        let seq = syn.seq.wrapping_add(moved.seq_delta);
        let ahead = |a: u32, b: u32| (a.wrapping_sub(b) as i32) > 0;
        match (syn.timestamp, old.ts) {
            (Some(value), Some(last)) => {
                let value = value.wrapping_add(moved.ts_delta);
                !ahead(last, value) && (ahead(seq, old.next) || ahead(value, last))
            }
            _ => ahead(seq, old.next),
        }
    }

    proptest! {
        #[test]
        fn the_server_takes_the_syn_at_once(
            next: u32, isn: u32, ts: Option<u32>, value: Option<u32>, now: u64, port: u16,
        ) {
            let old = Previous { next, ts };
            let syn = syn(isn, value);
            let moved = after_previous(&SECRET, &tuple(port), Millis(now), &syn, old);
            prop_assert!(server_takes(&syn, moved, old));
            // Both numbers are new, so that a server that looks at one is content.
            let seq = isn.wrapping_add(moved.seq_delta);
            prop_assert!((1..=SPREAD).contains(&seq.wrapping_sub(next)));
            if let (Some(value), Some(last)) = (value, ts) {
                prop_assert!(after(value.wrapping_add(moved.ts_delta), last));
            }
        }

        #[test]
        fn a_number_that_rfc_6528_puts_in_the_range_is_used_unchanged(
            back in 1..=SPREAD, now: u64, port: u16,
        ) {
            let wanted = initial_sequence(&SECRET, &tuple(port), Millis(now));
            let old = Previous { next: wanted.wrapping_sub(back), ts: None };
            let syn = syn(old.next, None);
            let moved = after_previous(&SECRET, &tuple(port), Millis(now), &syn, old);
            prop_assert_eq!(syn.seq.wrapping_add(moved.seq_delta), wanted);
        }

        #[test]
        fn generations_that_move_gigabytes_stay_in_order(
            start: u32,
            lives in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..40),
        ) {
            let mut old = Previous { next: start, ts: Some(start) };
            for (isn, bytes, value) in lives {
                let syn = syn(isn, Some(value));
                let moved = after_previous(&SECRET, &tuple(7), Millis(bytes.into()), &syn, old);
                prop_assert!(server_takes(&syn, moved, old));
                let mut entry = Entry::FREE;
                moved.apply(&mut entry);
                tcp::open(&mut entry, &syn);
                entry.c_next = entry.c_next.wrapping_add(bytes);
                let server_isn = isn.wrapping_add(moved.seq_delta);
                old = Previous::of(&entry);
                prop_assert_eq!(old.next, server_isn.wrapping_add(1).wrapping_add(bytes));
                prop_assert_eq!(old.ts, Some(value.wrapping_add(moved.ts_delta)));
            }
        }
    }

    #[test]
    fn numbers_that_do_as_they_are_stay() {
        let old = Previous {
            next: u32::MAX,
            ts: Some(u32::MAX),
        };
        let syn = syn(0, Some(0));
        let moved = after_previous(&SECRET, &tuple(1), Millis(0), &syn, old);
        assert_eq!(moved, Moved::default());
        let mut entry = Entry::FREE;
        moved.apply(&mut entry);
        assert_eq!(entry.flags, 0);
    }

    #[test]
    fn the_end_itself_is_not_after_the_end() {
        let old = Previous {
            next: 500,
            ts: Some(500),
        };
        let syn = syn(500, Some(500));
        let moved = after_previous(&SECRET, &tuple(1), Millis(0), &syn, old);
        assert_ne!(moved.seq_delta, 0);
        assert_eq!(moved.ts_delta, 1);
        let mut entry = Entry::FREE;
        moved.apply(&mut entry);
        assert!(entry.has(flag::TRANSLATE_SEQ | flag::TRANSLATE_TS));
    }

    #[test]
    fn advances_with_the_clock_and_differs_by_tuple_and_secret() {
        let at = |ms| initial_sequence(&SECRET, &tuple(1), Millis(ms));
        assert_eq!(at(1_000).wrapping_sub(at(0)), 250_000);
        let ports: HashSet<u32> = (0..1_000)
            .map(|port| initial_sequence(&SECRET, &tuple(port), Millis(0)))
            .collect();
        assert!(ports.len() > 990);
        let other_secret = IsnSecret([0; 16]);
        assert_ne!(at(0), initial_sequence(&other_secret, &tuple(1), Millis(0)));
        let other_server = ServerTuple {
            server: Ipv4Addr::new(10, 0, 0, 2),
            ..tuple(1)
        };
        assert_ne!(at(0), initial_sequence(&SECRET, &other_server, Millis(0)));
    }
}
