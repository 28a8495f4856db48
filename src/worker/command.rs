//! What the management core asks for, taken between bursts, and what the worker
//! tells it. Nothing is allocated or freed: an update's parts change places and
//! go back.

use super::message::{
    COMMANDS_PER_POLL, Command, NeighborFound, NeighborScan, Notice, PoolScan, Reply, Scan, SetUse,
    Update,
};
use super::owed::burst_of;
use super::{PortFacts, Worker};
use crate::conntrack::entry::{Entry, State};
use crate::ids::{NeighborIx, SlotIx};
use crate::io::BurstIo;
use crate::time::Millis;

/// Table slots a scan looks at between two bursts.
const SCAN_PER_POLL: u32 = 256;

/// Next hops a scan looks at between two bursts.
const NEIGHBORS_PER_POLL: u16 = 256;

/// Between two notices of one kind: the condition may hold for every packet.
const NOTICE_EVERY: u64 = 1_000;

/// When a notice of each kind may be sent again.
#[derive(Debug)]
pub(super) struct Notices([Millis; Notice::KINDS]);

impl Notices {
    /// All of them at once.
    pub(super) const NEW: Self = Self([Millis(0); Notice::KINDS]);

    /// Whether this one is due; if so, the next of its kind is a second later.
    fn take(&mut self, notice: Notice, now: Millis) -> bool {
        let Some(due) = notice.kind().and_then(|kind| self.0.get_mut(kind)) else {
            return true;
        };
        let is_due = now.reached(*due);
        if is_due {
            *due = now.plus(NOTICE_EVERY);
        }
        is_due
    }
}

/// Port sets a scan looks at between two bursts.
const SETS_PER_POLL: usize = 64;

impl<Io: BurstIo> Worker<Io> {
    /// Takes a few commands.
    #[inline]
    pub(super) fn commands(&mut self) -> usize {
        if !self.backlog.is_empty() {
            self.work_off_backlog();
        }
        let mut taken = 0;
        while taken < COMMANDS_PER_POLL {
            let Some(command) = self.link.commands.pop() else {
                break;
            };
            taken += 1;
            match command {
                Command::Apply(update) => self.apply(update),
                Command::Announce(ports) => self.announcing.start(ports, self.now),
                Command::Scan(scan) => self.start_scan(scan),
                Command::Pools(scan) => self.start_pool_scan(scan),
                Command::Neighbors(scan) => self.start_neighbor_scan(scan),
                Command::LastDrops(scan) => self.start_drop_scan(scan),
                Command::Explain(probe) => self.explain(probe),
                Command::Capture(tap) => self.start_capture(tap),
                Command::EndCapture(id) => self.end_capture(id),
                Command::Stop => {
                    self.stopping = true;
                    self.tell(Reply::Stopped);
                }
            }
        }
        taken
    }

    /// Tells the management core something. Where its ring is full, what must
    /// arrive waits; what is only news is lost.
    pub(super) fn tell(&mut self, reply: Reply) {
        let Err(reply) = self.link.replies.push(reply) else {
            return;
        };
        let must_arrive = matches!(
            reply,
            Reply::Applied(_)
                | Reply::Scanned(_)
                | Reply::Pools(_)
                | Reply::Neighbors(_)
                | Reply::LastDrops(_)
                | Reply::Explained(_)
                | Reply::Capturing(_)
                | Reply::Captured(_)
                | Reply::Stopped
        );
        if must_arrive {
            // Room for far more than can be under way: the management core
            // sends the next update only after the last came back.
            let _ = self.backlog.try_push(reply);
        }
    }

    /// Tells the management core of a condition, once a second.
    #[cold]
    pub(super) fn notice(&mut self, notice: Notice) {
        if self.notices.take(notice, self.now) {
            self.tell(Reply::Notice(notice));
        }
    }

    fn work_off_backlog(&mut self) {
        while let Some(reply) = self.backlog.pop_at(0) {
            if let Err(reply) = self.link.replies.push(reply) {
                self.backlog.insert(0, reply);
                return;
            }
        }
    }

    /// Puts a snapshot in force and sends the old one back.
    pub(super) fn apply(&mut self, mut update: Box<Update>) {
        for (set, ports) in update.new_sets.drain(..) {
            if let Some(slot) = self.sets.get_mut(set.ix()) {
                *slot = Some(ports);
            }
            if let Some(path) = self.paths.get_mut(set.ix()) {
                *path = Default::default();
            }
        }
        for &set in &update.unwanted_sets {
            let idle = self
                .sets
                .get_mut(set.ix())
                .and_then(|slot| slot.take_if(|ports| ports.free_count() == ports.capacity()));
            if let Some(ports) = idle {
                update.returned_sets.push((set, ports));
            }
        }
        for server in &update.fresh {
            if let Some(health) = self.health.get_mut(server.ix()) {
                *health = Default::default();
            }
            let locals = update.snapshot.server(*server).map(|server| &server.locals);
            for (_, set) in locals.into_iter().flatten() {
                if let Some(path) = self.paths.get_mut(set.ix()) {
                    *path = Default::default();
                }
            }
        }
        std::mem::swap(&mut self.snapshot, &mut update.snapshot);
        let (new, old) = (&self.snapshot, &update.snapshot);

        self.ports.clear();
        self.ports.extend(new.ports.iter().map(|port| PortFacts {
            mac: port.mac,
            mtu: port.mtu,
        }));
        self.min_mtu = self.ports.iter().map(|port| port.mtu).min().unwrap_or(0);
        self.steers = new.steering.mode() == crate::snat::steering::SteeringMode::Software
            && self.handover.to.len() > 1;
        self.limits.set_rates(&new.limits, self.now);
        self.sweep_limit.set_rate(
            new.limits.resets_per_second,
            burst_of(new.limits.resets_per_second),
        );
        if let Some(kernel) = &mut self.kernel {
            kernel.set_rates(new);
        }
        let rerouted = new.route_generation != old.route_generation;
        let servers_went = new.losses != old.losses;
        self.announcing
            .start_new(old.announced(), new.announced(), self.now);
        self.neighbors
            .adopt(old.next_hops(), new.next_hops(), self.now);
        self.stats.generation.set(new.generation);
        if rerouted {
            self.hop_walk.start_all();
        }
        let timeouts_changed = new.timeout_generation != old.timeout_generation;
        self.sweeps.start(servers_went, timeouts_changed);
        self.tell(Reply::Applied(update));
    }

    fn start_scan(&mut self, scan: Box<Scan>) {
        // One at a time: the management core waits for the answer.
        if let Some(unfinished) = self.scan.replace(scan) {
            self.tell(Reply::Scanned(unfinished));
        }
    }

    fn start_pool_scan(&mut self, scan: Box<PoolScan>) {
        if let Some(unfinished) = self.pool_scan.replace(scan) {
            self.tell(Reply::Pools(unfinished));
        }
    }

    /// Goes on with a scan of port sets, if one is under way.
    pub(super) fn pool_scan(&mut self) -> usize {
        let Some(mut scan) = self.pool_scan.take() else {
            return 0;
        };
        let to = scan.cursor.saturating_add(SETS_PER_POLL);
        while let Some(&set) = scan.wanted.get(scan.cursor).filter(|_| scan.cursor < to) {
            scan.cursor += 1;
            let path = self.paths.get(set.ix()).copied().unwrap_or_default();
            if let Some(ports) = self.set(set)
                && scan.found.len() < scan.found.capacity()
            {
                scan.found.push(SetUse {
                    set,
                    capacity: ports.capacity(),
                    used: ports.used_count(),
                    resting: ports.resting_count(),
                    failures: path.failures(),
                    out: path.is_out(),
                });
            }
        }
        if scan.cursor >= scan.wanted.len() {
            self.tell(Reply::Pools(scan));
        } else {
            self.pool_scan = Some(scan);
        }
        1
    }

    fn start_neighbor_scan(&mut self, scan: Box<NeighborScan>) {
        if let Some(unfinished) = self.neighbor_scan.replace(scan) {
            self.tell(Reply::Neighbors(unfinished));
        }
    }

    /// Goes on with a scan of next hops, if one is under way.
    pub(super) fn neighbor_scan(&mut self) -> usize {
        let Some(mut scan) = self.neighbor_scan.take() else {
            return 0;
        };
        let to = scan.cursor.saturating_add(NEIGHBORS_PER_POLL);
        let end = self.neighbors.slots_end();
        while scan.cursor < to && usize::from(scan.cursor) < end {
            let known = self.neighbors.hop(NeighborIx(scan.cursor));
            scan.cursor += 1;
            if let Some(known) = known
                && scan.found.len() < scan.found.capacity()
            {
                scan.found.push(NeighborFound {
                    hop: known.hop,
                    condition: known.shown(),
                    resident: known.is_resident(),
                    mac: known.mac(),
                    heard_ms_ago: known.heard_ms_ago(self.now),
                });
            }
        }
        if usize::from(scan.cursor) >= end {
            self.tell(Reply::Neighbors(scan));
        } else {
            self.neighbor_scan = Some(scan);
        }
        1
    }

    /// Goes on with a scan, if one is under way.
    pub(super) fn scan(&mut self) -> usize {
        let Some(mut scan) = self.scan.take() else {
            return 0;
        };
        let end = self.table.slots_end().0;
        let to = scan.cursor.saturating_add(SCAN_PER_POLL).min(end);
        let is_full = |scan: &Scan| {
            scan.found.len() >= scan.limit && (scan.sort.is_none() || scan.limit == 0)
        };
        while scan.cursor < to && !is_full(&scan) {
            let entry = self.table.get(SlotIx(scan.cursor));
            scan.cursor += 1;
            // A port that is lent is no connection; its borrower has that.
            let is_none = matches!(entry.state, State::Free | State::Redirect);
            if is_none || !scan.filter.matches_entry(entry) {
                continue;
            }
            match scan.sort {
                Some(order) => {
                    let key = |entry: &Entry| order.key(entry, self.now);
                    keep_largest(&mut scan.found, scan.limit, entry, key);
                }
                None => scan.found.push(*entry),
            }
        }
        if scan.cursor >= end || is_full(&scan) {
            scan.now = self.now;
            self.tell(Reply::Scanned(scan));
        } else {
            self.scan = Some(scan);
        }
        1
    }
}

/// Keeps the `limit` entries with the largest keys in a binary heap whose root
/// has the smallest: without memory of its own, since `heap` has room for all.
fn keep_largest(heap: &mut Vec<Entry>, limit: usize, entry: &Entry, key: impl Fn(&Entry) -> u64) {
    if heap.len() < limit {
        heap.push(*entry);
        let mut at = heap.len() - 1;
        while at > 0 && key(&heap[at]) < key(&heap[(at - 1) / 2]) {
            heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        return;
    }
    if heap.first().is_none_or(|least| key(entry) <= key(least)) {
        return;
    }
    heap[0] = *entry;
    let mut at = 0;
    loop {
        let children = (2 * at + 1..=2 * at + 2).filter(|&child| child < heap.len());
        let Some(least) = children.min_by_key(|&child| key(&heap[child])) else {
            return;
        };
        if key(&heap[at]) <= key(&heap[least]) {
            return;
        }
        heap.swap(at, least);
        at = least;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::ServiceIx;
    use crate::time::Stamp;

    #[test]
    fn a_notice_of_each_kind_a_second() {
        let (mut notices, begin) = (Notices::NEW, 1 << 33);
        let sent = (begin..begin + 3_000)
            .filter(|&ms| notices.take(Notice::TableFull, Millis(ms)))
            .count();
        assert_eq!(sent, 3);
        assert!(notices.take(Notice::NoServer(ServiceIx(1)), Millis(begin)));
        assert!(!notices.take(Notice::NoServer(ServiceIx(2)), Millis(begin + 999)));
    }

    proptest! {
        #[test]
        fn the_largest_are_kept(keys in proptest::collection::vec(0u32..50, 0..60), limit in 1usize..20) {
            let mut heap = Vec::with_capacity(limit);
            for &key in &keys {
                let entry = Entry { last_seen: Stamp(key), ..Entry::FREE };
                keep_largest(&mut heap, limit, &entry, |entry| entry.last_seen.0.into());
            }
            prop_assert_eq!(heap.capacity(), limit);
            let mut kept: Vec<u32> = heap.iter().map(|entry| entry.last_seen.0).collect();
            kept.sort_unstable();
            let mut expected = keys;
            expected.sort_unstable();
            expected.drain(..expected.len().saturating_sub(limit));
            prop_assert_eq!(kept, expected);
        }
    }
}
