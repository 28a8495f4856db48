//! How many local ports are left towards each real server, now and at the
//! worst moment of the last minute. Fed by the management loop with what the
//! workers say of their port sets every few seconds.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::config::pools::by_pool;
use crate::ids::SetIx;
use crate::service::snapshot::Snapshot;
use crate::worker::message::SetUse;

/// What "the last minute" is.
const WINDOW: Duration = Duration::from_secs(60);

/// Whose ports: those of a pool's addresses towards one server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Key {
    pub(super) pool: String,
    pub(super) server: SocketAddrV4,
    /// IP protocol number.
    pub(super) protocol: u8,
}

/// The use of local ports, of all workers together.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct PortUse {
    pub(super) key: Arc<Key>,
    pub(super) used: u64,
    pub(super) resting: u64,
    pub(super) free: u64,
    /// Least of `free` within the window.
    pub(super) free_lowest: u64,
    /// Least share that was free on a worker within the window, 0 to 1.
    pub(super) share_lowest: f64,
}

/// The least of the values of a sliding window.
#[derive(Clone, Debug)]
struct Lowest<T>(VecDeque<(Instant, T)>);

impl<T: PartialOrd + Copy> Lowest<T> {
    const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Adds a value and gives the least of those not older than the window.
    fn note(&mut self, value: T, now: Instant) -> T {
        // What is not less than a newer value is never the least again.
        while self.0.back().is_some_and(|(_, last)| *last >= value) {
            self.0.pop_back();
        }
        self.0.push_back((now, value));
        let is_old = |(at, _): &(Instant, T)| now.saturating_duration_since(*at) > WINDOW;
        while self.0.front().is_some_and(is_old) {
            self.0.pop_front();
        }
        self.0.front().map_or(value, |(_, least)| *least)
    }
}

#[derive(Debug)]
struct Row {
    key: Arc<Key>,
    free: Lowest<u64>,
    share: Lowest<f64>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    capacity: u64,
    used: u64,
    resting: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.capacity += other.capacity;
        self.used += other.used;
        self.resting += other.resting;
    }

    fn free(self) -> u64 {
        self.capacity.saturating_sub(self.used + self.resting)
    }
}

/// The windows, and which set belongs to which.
#[derive(Debug, Default)]
pub(super) struct Headroom {
    rows: Vec<Row>,
    row_of: HashMap<SetIx, usize>,
}

impl Headroom {
    /// Brings the rows in line with a new snapshot; those that stay keep their
    /// past.
    pub(super) fn refresh(&mut self, config: &Config, snapshot: &Snapshot) {
        // Services that share a pool and a real server share the sets.
        let mut sets: BTreeMap<Key, BTreeSet<SetIx>> = BTreeMap::new();
        for (pool, service, server) in by_pool(config, snapshot) {
            if !server.locals.is_empty() {
                let key = Key {
                    pool: pool.to_owned(),
                    server: SocketAddrV4::new(server.addr, server.port),
                    protocol: service.protocol,
                };
                let sets = sets.entry(key).or_default();
                sets.extend(server.locals.iter().map(|(_, set)| *set));
            }
        }
        let mut former: HashMap<Arc<Key>, Row> = std::mem::take(&mut self.rows)
            .into_iter()
            .map(|row| (Arc::clone(&row.key), row))
            .collect();
        self.row_of.clear();
        for (index, (key, sets)) in sets.into_iter().enumerate() {
            self.row_of.extend(sets.into_iter().map(|set| (set, index)));
            let row = former.remove(&key).unwrap_or_else(|| Row {
                key: Arc::new(key),
                free: Lowest::new(),
                share: Lowest::new(),
            });
            self.rows.push(row);
        }
    }

    /// Takes in what each worker said, and sums it up.
    pub(super) fn note(&mut self, by_worker: &[Vec<SetUse>], now: Instant) -> Vec<PortUse> {
        let mut sums = vec![Sum::default(); self.rows.len()];
        let mut shares = vec![1.0_f64; self.rows.len()];
        for worker in by_worker {
            let mut own = vec![Sum::default(); self.rows.len()];
            for set in worker {
                if let Some(&row) = self.row_of.get(&set.set) {
                    own[row].add(Sum {
                        capacity: set.capacity.into(),
                        used: set.used.into(),
                        resting: set.resting.into(),
                    });
                }
            }
            for ((sum, share), own) in sums.iter_mut().zip(&mut shares).zip(own) {
                sum.add(own);
                if own.capacity > 0 {
                    *share = share.min(own.free() as f64 / own.capacity as f64);
                }
            }
        }
        let rows = self.rows.iter_mut().zip(sums).zip(shares);
        rows.map(|((row, sum), share)| PortUse {
            key: Arc::clone(&row.key),
            used: sum.used,
            resting: sum.resting,
            free: sum.free(),
            free_lowest: row.free.note(sum.free(), now),
            share_lowest: row.share.note(share, now),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The least of the window is what looking at all of it finds.
        #[test]
        fn lowest_is_the_least_of_the_window(
            values in prop::collection::vec((0..40_u64, 0..100_u32), 1..60)
        ) {
            let mut now = Instant::now();
            let mut lowest = Lowest::new();
            let mut all = Vec::new();
            for (seconds, value) in values {
                now += Duration::from_secs(seconds);
                all.push((now, value));
                let expected = all
                    .iter()
                    .filter(|(at, _)| now.duration_since(*at) <= WINDOW)
                    .map(|(_, value)| *value)
                    .min();
                prop_assert_eq!(Some(lowest.note(value, now)), expected);
            }
        }
    }

    #[test]
    fn the_worst_worker_and_moment_show() {
        let key = Arc::new(Key {
            pool: "p".into(),
            server: SocketAddrV4::new([10, 0, 0, 1].into(), 80),
            protocol: 6,
        });
        let mut headroom = Headroom {
            rows: vec![Row {
                key: Arc::clone(&key),
                free: Lowest::new(),
                share: Lowest::new(),
            }],
            row_of: HashMap::from([(SetIx(3), 0), (SetIx(4), 0)]),
        };
        let set = |set, used| SetUse {
            set: SetIx(set),
            capacity: 100,
            used,
            resting: 10,
            failures: 0,
            out: false,
        };
        let begun = Instant::now();
        let full = [vec![set(3, 90), set(4, 70)], vec![set(3, 0), set(9, 90)]];
        let expected = PortUse {
            key,
            used: 160,
            resting: 30,
            free: 110,
            free_lowest: 110,
            share_lowest: 0.1,
        };
        assert_eq!(headroom.note(&full, begun), std::slice::from_ref(&expected));
        let calm = [vec![set(3, 0), set(4, 0)], vec![set(3, 0)]];
        let later = headroom.note(&calm, begun + WINDOW);
        assert_eq!((later[0].used, later[0].free), (0, 270));
        assert_eq!((later[0].free_lowest, later[0].share_lowest), (110, 0.1));
        let after = headroom.note(&calm, begun + WINDOW + Duration::from_secs(1));
        assert_eq!((after[0].free_lowest, after[0].share_lowest), (270, 0.9));
    }
}
