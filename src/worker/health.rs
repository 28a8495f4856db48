//! Passive failure detection: what SYNs tell about real servers.
//!
//! Each worker judges by its own SYNs. A server that failed one is not used for
//! a second attempt for a second. One that failed `fail-after` in a row gets no
//! new connections for a second, then two, four, up to a minute; its next
//! connection decides.

use super::Worker;
use super::message::Reply;
use crate::ids::ServerIx;
use crate::io::BurstIo;
use crate::time::Millis;

/// After a failure, no second attempts for this long.
const SUSPECT_MS: u64 = 1_000;
/// First time out of use.
const OUT_MS: u64 = 1_000;
/// Longest time out of use, as doublings of the first.
const MAX_DOUBLINGS: u8 = 6;
/// Longest time out of use.
const MAX_OUT_MS: u64 = 60_000;

/// One server's record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    /// Failures since the last success.
    in_row: u16,
    /// Times taken out since the last success.
    outs: u8,
    suspect_until: Option<Millis>,
    out_until: Option<Millis>,
}

impl Health {
    /// Whether the server may get a new connection now; a second attempt is
    /// choosier.
    pub(super) fn usable(&self, now: Millis, second_attempt: bool) -> bool {
        let over = |until: Option<Millis>| until.is_none_or(|until| now.reached(until));
        over(self.out_until) && (!second_attempt || over(self.suspect_until))
    }

    /// A SYN was refused or not answered.
    fn failed(&mut self, now: Millis, fail_after: u16) {
        self.in_row = self.in_row.saturating_add(1);
        self.suspect_until = Some(now.plus(SUSPECT_MS));
        if fail_after > 0 && self.in_row >= fail_after {
            let out_ms = (OUT_MS << self.outs.min(MAX_DOUBLINGS)).min(MAX_OUT_MS);
            self.out_until = Some(now.plus(out_ms));
            self.outs = self.outs.saturating_add(1);
            // One more failure takes it out again.
            self.in_row = fail_after - 1;
        }
    }

    /// Whether there is anything that a success would clear.
    fn is_marked(&self) -> bool {
        self.in_row > 0 || self.outs > 0 || self.suspect_until.is_some()
    }
}

impl<Io: BurstIo> Worker<Io> {
    pub(super) fn server_failed(&mut self, server: ServerIx) {
        self.stats.server(server).failures.add(1);
        let fail_after = self
            .snapshot
            .service_of(server)
            .map_or(0, |service| service.fail_after);
        if let Some(health) = self.health.get_mut(server.ix()) {
            health.failed(self.now, fail_after);
        }
        self.tell(Reply::ServerFailed(server));
    }

    pub(super) fn server_answered(&mut self, server: ServerIx) {
        let Some(health) = self.health.get_mut(server.ix()) else {
            return;
        };
        if health.is_marked() {
            *health = Health::default();
            self.tell(Reply::ServerAnswered(server));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_take_a_server_out_for_a_growing_time() {
        let mut health = Health::default();
        let mut now = Millis(0);
        health.failed(now, 2);
        assert!(health.usable(now, false));
        assert!(!health.usable(now, true));
        health.failed(now, 2);
        let mut out_ms = OUT_MS;
        for _ in 0..8 {
            assert!(!health.usable(now.plus(out_ms - 1), false));
            now = now.plus(out_ms);
            assert!(health.usable(now, false));
            health.failed(now, 2);
            out_ms = (out_ms * 2).min(MAX_OUT_MS);
        }
    }

    #[test]
    fn without_a_limit_a_server_is_only_suspected() {
        let mut health = Health::default();
        for _ in 0..100 {
            health.failed(Millis(5), 0);
        }
        assert!(health.usable(Millis(5), false));
        assert!(!health.usable(Millis(5), true));
        assert!(health.usable(Millis(5 + SUSPECT_MS), true));
    }
}
