//! Passive failure detection: what SYNs tell about real servers, and about
//! single local addresses towards them.
//!
//! Each worker judges by its own SYNs, and only by what proves something: a
//! refusal, or a SYN without an answer that another server, or the same one
//! asked from another local address, did answer. A SYN that nobody answers says
//! nothing; else a client could talk servers down with SYNs that nobody wants.
//!
//! `fail-after` proofs in a row take a server out: from then on it gets one
//! trial connection after a second and then every two, whose SYN moves on after
//! a short wait; the first that it answers brings it back in full. Where there
//! are several local addresses, the proofs must come from two of them; those of
//! one alone take that address out of use towards that server, for a time that
//! grows up to a minute.
//!
//! Each server's time to answer a SYN is measured, by the rule for
//! retransmission timers (RFC 6298 §2), so that a server far away is not given
//! up too early.

use super::Worker;
use super::message::Reply;
use crate::ids::{ServerIx, SetIx};
use crate::io::BurstIo;
use crate::service::snapshot::{ServerState, Snapshot};
use crate::time::Millis;

/// A server whose SYN went unanswered is the last choice for second attempts
/// for this long.
const SUSPECT_MS: u64 = 1_000;
/// First time out of use.
const OUT_MS: u64 = 1_000;
/// Between trial connections of a server.
const SERVER_TRIAL_MS: u64 = 2_000;
/// Longest time out of use of a local address towards a server: others do.
const PATH_OUT_MS: u64 = 60_000;
/// Doublings that make any number above the longest.
const MAX_DOUBLINGS: u8 = 6;

/// Failures of a server, or of one local address towards one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    /// Proofs since the last success.
    in_row: u16,
    /// Times taken out or tried since the last success.
    outs: u8,
    /// All proofs there ever were.
    failures: u32,
    /// Out of use; next tried at that time.
    next_trial: Option<Millis>,
}

impl Record {
    /// Whether it may be used now, if only for a trial.
    pub(super) fn usable(&self, now: Millis) -> bool {
        self.next_trial.is_none_or(|trial| now.reached(trial))
    }

    /// Whether it is out of use but for trials.
    pub(super) fn is_out(&self) -> bool {
        self.next_trial.is_some()
    }

    /// All proofs there ever were.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    fn failed(&mut self) {
        self.in_row = self.in_row.saturating_add(1);
        self.failures = self.failures.saturating_add(1);
    }

    /// Takes it out until a trial, unless it is; also when a trial begins, so
    /// that there is one at a time.
    fn take_out(&mut self, now: Millis, longest_ms: u64) {
        if self.usable(now) {
            let out_ms = (OUT_MS << self.outs.min(MAX_DOUBLINGS)).min(longest_ms);
            self.next_trial = Some(now.plus(out_ms));
            self.outs = self.outs.saturating_add(1);
        }
    }

    fn succeeded(&mut self) {
        if self.in_row > 0 {
            *self = Self {
                failures: self.failures,
                ..Self::default()
            };
        }
    }
}

/// How long a server takes to answer a SYN: RFC 6298 §2 in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct ConnectTime {
    /// Eight times the smoothed time, four times the variation; none yet.
    estimate: Option<(u32, u32)>,
}

impl ConnectTime {
    /// Longest sample taken at its word: none may overflow, or keep a server's
    /// estimate up for hours.
    const MOST_MS: u64 = 10_000;

    fn note(&mut self, took_ms: u64) {
        let took = took_ms.min(Self::MOST_MS) as u32;
        self.estimate = Some(match self.estimate {
            None => (took * 8, took * 2),
            Some((srtt, var)) => (
                srtt - srtt / 8 + took,
                var - var / 4 + (srtt / 8).abs_diff(took),
            ),
        });
    }

    /// An answer that takes longer is not to be expected.
    fn limit_ms(&self) -> u64 {
        self.estimate
            .map_or(0, |(srtt, var)| u64::from(srtt / 8 + var.max(1)))
    }
}

/// What is known of one server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    record: Record,
    /// The local address that the failures in a row came from.
    via: Option<SetIx>,
    /// They came from another one, too.
    several: bool,
    /// The last SYN that it refused or did not answer in time.
    failed_at: Option<Millis>,
    connect: ConnectTime,
}

impl Health {
    /// Whether the server may get a new connection now, if only for a trial;
    /// where one is `choosy`, only if it did not just fail.
    pub(super) fn usable(&self, now: Millis, choosy: bool) -> bool {
        self.record.usable(now) && !(choosy && self.is_suspect(now))
    }

    /// Whether it is out of use but for trials.
    pub(super) fn is_out(&self) -> bool {
        self.record.is_out()
    }

    /// Whether it just failed a SYN, proven or not.
    fn is_suspect(&self, now: Millis) -> bool {
        self.failed_at
            .is_some_and(|failed| now.since(failed) < SUSPECT_MS)
    }

    /// When it last failed a SYN; before everything where it never did.
    pub(super) fn failed_at(&self) -> Millis {
        self.failed_at.unwrap_or_default()
    }

    /// An answer that takes longer is not to be expected.
    pub(super) fn limit_ms(&self) -> u64 {
        self.connect.limit_ms()
    }

    /// A proof against the server, by a SYN from one of `locals` local
    /// addresses. Whether it is out of use now.
    fn failed(&mut self, via: SetIx, locals: usize, now: Millis, fail_after: u16) -> bool {
        self.record.failed();
        self.failed_at = Some(now);
        self.several |= locals < 2 || self.via.is_some_and(|first| first != via);
        self.via = self.via.or(Some(via));
        if fail_after > 0 && self.record.in_row >= fail_after && self.several {
            self.record.take_out(now, SERVER_TRIAL_MS);
            return true;
        }
        false
    }
}

/// Whether a server gets new connections.
pub(super) fn is_up(snapshot: &Snapshot, server: ServerIx) -> bool {
    snapshot
        .server(server)
        .is_some_and(|server| server.state == ServerState::Up)
}

/// Whether a server may get this connection: it is up, not the one to avoid, not
/// out because of its failures, and, where one is choosy, did not just fail.
pub(super) fn is_sound(
    snapshot: &Snapshot,
    health: &[Health],
    server: ServerIx,
    now: Millis,
    avoid: Option<ServerIx>,
    choosy: bool,
) -> bool {
    is_up(snapshot, server)
        && avoid != Some(server)
        && health
            .get(server.ix())
            .is_none_or(|health| health.usable(now, choosy))
}

impl<Io: BurstIo> Worker<Io> {
    /// A SYN has waited for its server long enough: nothing is proven by that.
    pub(super) fn syn_unanswered(&mut self, server: ServerIx) {
        self.stats.server(server).failures.add(1);
        if let Some(health) = self.health.get_mut(server.ix()) {
            health.failed_at = Some(self.now);
        }
    }

    /// A real server refused a SYN from the local address of `via`, or could not
    /// be reached.
    pub(super) fn server_failed(&mut self, server: ServerIx, via: SetIx) {
        self.stats.server(server).failures.add(1);
        self.failure_proven(server, via, false);
    }

    /// A real server failed a SYN from the local address of `via`, and not
    /// because nobody would have answered it. `answers` where that was the server
    /// itself: then it is the local address alone.
    pub(super) fn failure_proven(&mut self, server_ix: ServerIx, via: SetIx, answers: bool) {
        let snapshot = &self.snapshot;
        let Some(server) = snapshot.server(server_ix) else {
            return;
        };
        let fail_after = snapshot
            .service_of(server_ix)
            .map_or(0, |service| service.fail_after);
        let locals = server.locals.len();
        if locals > 1
            && let Some(path) = self.paths.get_mut(via.ix())
        {
            path.failed();
            if fail_after > 0 && path.in_row >= fail_after {
                path.take_out(self.now, PATH_OUT_MS);
            }
        }
        if answers {
            return;
        }
        let Some(health) = self.health.get_mut(server_ix.ix()) else {
            return;
        };
        if health.failed(via, locals, self.now, fail_after) {
            // It is the server, and none of the local addresses.
            for (_, set) in &server.locals {
                if let Some(path) = self.paths.get_mut(set.ix()) {
                    path.succeeded();
                }
            }
        }
        if health.several {
            self.tell(Reply::ServerFailed(server_ix));
        }
    }

    /// A server answered a SYN from the local address of `via`.
    pub(super) fn server_answered(&mut self, server: ServerIx, via: SetIx) {
        if let Some(path) = self.paths.get_mut(via.ix()) {
            path.succeeded();
        }
        let Some(health) = self.health.get_mut(server.ix()) else {
            return;
        };
        if health.failed_at.is_some() {
            let proven = health.several;
            *health = Health {
                connect: health.connect,
                ..Health::default()
            };
            if proven {
                self.tell(Reply::ServerAnswered(server));
            }
        }
    }

    /// How long a server took to answer a SYN that was sent once.
    pub(super) fn note_connect_time(&mut self, server: ServerIx, took_ms: u64) {
        if let Some(health) = self.health.get_mut(server.ix()) {
            health.connect.note(took_ms);
        }
    }

    /// A connection goes to this server from this local address: a trial where
    /// either is out of use.
    pub(super) fn note_trial(&mut self, server: ServerIx, via: SetIx) {
        if let Some(health) = self.health.get_mut(server.ix())
            && health.is_out()
        {
            health.record.take_out(self.now, SERVER_TRIAL_MS);
        }
        if let Some(path) = self.paths.get_mut(via.ix())
            && path.is_out()
        {
            path.take_out(self.now, PATH_OUT_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SetIx = SetIx(1);
    const B: SetIx = SetIx(2);

    #[test]
    fn a_server_that_is_out_is_tried_every_two_seconds() {
        let mut health = Health::default();
        let mut now = Millis(5);
        assert!(!health.failed(A, 1, now, 2));
        assert!(health.usable(now, false) && health.is_suspect(now));
        assert!(health.failed(A, 1, now, 2));
        let mut wait_ms = OUT_MS;
        for _ in 0..8 {
            assert!(!health.usable(now.plus(wait_ms - 1), false));
            now = now.plus(wait_ms);
            assert!(health.usable(now, false));
            // The trial begins, and so there is no other.
            health.record.take_out(now, SERVER_TRIAL_MS);
            assert!(!health.usable(now, false));
            health.failed(A, 1, now.plus(50), 2);
            wait_ms = SERVER_TRIAL_MS;
        }
    }

    #[test]
    fn without_a_limit_a_server_is_only_suspected() {
        let mut health = Health::default();
        for _ in 0..100 {
            assert!(!health.failed(A, 1, Millis(5), 0));
        }
        assert!(health.usable(Millis(5), false));
        assert!(health.is_suspect(Millis(4 + SUSPECT_MS)));
        assert!(!health.is_suspect(Millis(5 + SUSPECT_MS)));
    }

    #[test]
    fn one_of_several_local_addresses_proves_nothing_about_the_server() {
        let mut health = Health::default();
        for _ in 0..10 {
            assert!(!health.failed(A, 2, Millis(5), 2));
        }
        assert!(health.failed(B, 2, Millis(5), 2));
    }

    #[test]
    fn a_local_address_is_out_for_a_growing_time() {
        let mut path = Record::default();
        let mut now = Millis(0);
        path.failed();
        path.take_out(now, PATH_OUT_MS);
        let mut out_ms = OUT_MS;
        for _ in 0..8 {
            assert!(!path.usable(now.plus(out_ms - 1)));
            now = now.plus(out_ms);
            path.take_out(now, PATH_OUT_MS);
            out_ms = (out_ms * 2).min(PATH_OUT_MS);
        }
        path.succeeded();
        assert!(path.usable(now) && !path.is_out());
        assert_eq!(path.failures(), 1);
    }

    #[test]
    fn connect_times_are_smoothed_by_rfc_6298() {
        let mut connect = ConnectTime::default();
        assert_eq!(connect.limit_ms(), 0);
        connect.note(300);
        // SRTT 300, RTTVAR 150: RTO 900.
        assert_eq!(connect.limit_ms(), 900);
        for _ in 0..100 {
            connect.note(300);
        }
        assert!((300..=304).contains(&connect.limit_ms()), "{connect:?}");
        connect.note(u64::MAX);
        for _ in 0..100 {
            connect.note(0);
        }
        assert!(connect.limit_ms() < 10, "{connect:?}");
    }
}
