//! Schedulers. A [`Plan`] is precomputed on the management core, immutable,
//! and shared by all workers; what a worker owns of it is one [`Cursor`] per
//! service. Picking allocates nothing and takes no lock.
//!
//! Each worker schedules for itself: it knows its own connections only. With
//! different starting cursors the workers together spread as one would.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::ids::ServerIx;

/// Longest sequence of `wrr`, but for one pick per server. Weights whose sum
/// (after division by their greatest common divisor) is larger are scaled down
/// to it, each to at least 1; a share is then off by less than one pick in
/// 65,536.
const SEQUENCE_MAX: u64 = 65_536;

/// Bounds of the size of the `sh` table. Between them it has at least 32 slots
/// per server, which keeps an equal server's share within about 20 %.
const TABLE_MIN: usize = 256;
const TABLE_MAX: usize = 65_536;
const TABLE_SLOTS_PER_SERVER: usize = 32;

/// Picks tried before a plan falls back to walking the list of servers.
const PROBES: usize = 16;

/// Servers that `wlc` compares for one connection. Of a service with more, this
/// many are drawn at random: least of 64 is close to least of all, and costs no
/// state to keep in order. Neighbours in the list would not do: they can all be
/// of one weight, and each stretch of the list would get the same number of
/// connections, whatever it can bear.
const COMPARED: usize = 64;

/// Step of the generator that draws them (Knuth's MMIX constants).
const DRAW: (u64, u64) = (6_364_136_223_846_793_005, 1_442_695_040_888_963_407);

/// How the next server of a service is picked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheduler {
    /// Round robin: one after the other, whatever their weights above 0.
    RoundRobin,
    /// Smooth weighted round robin.
    WeightedRoundRobin,
    /// Fewest active connections in proportion to the weight.
    WeightedLeastConnections,
    /// By the client's address: a client keeps its server.
    SourceHash,
}

impl Scheduler {
    /// All schedulers.
    pub const ALL: [Self; 4] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::WeightedLeastConnections,
        Self::SourceHash,
    ];

    /// The name in the configuration and in listings, as LVS people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::WeightedLeastConnections => "wlc",
            Self::SourceHash => "sh",
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a worker stands in a plan. Any value is valid with any plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor(pub u32);

impl Cursor {
    /// The position as a subscript below `len`, which must not be 0.
    #[inline(always)]
    fn within(self, len: usize) -> usize {
        let at = self.0 as usize;
        if at < len { at } else { at % len }
    }

    #[inline(always)]
    fn set(&mut self, position: usize) {
        self.0 = position as u32;
    }
}

/// A server that may be picked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its slot.
    pub server: ServerIx,
    /// Its share; 0 is never picked.
    pub weight: u32,
    /// What identifies it for `sh` beyond this process, such as a hash of its
    /// address and port: gateways with the same keys map clients alike.
    pub key: u64,
}

/// A service's schedule. Cloning shares the tables.
#[derive(Clone, Debug)]
pub struct Plan {
    kind: Scheduler,
    /// Servers with a weight above 0, in order of configuration.
    servers: Arc<[(ServerIx, u32)]>,
    /// `rr`, `wrr`: one cycle of picks. `sh`: the table, its size a power of
    /// two. `wlc`: empty.
    sequence: Arc<[ServerIx]>,
}

impl Plan {
    /// A plan over servers that are up, with their weights. The slot serves as
    /// the key of `sh`; see [`Plan::build_keyed`].
    pub fn build(kind: Scheduler, servers: &[(ServerIx, u32)]) -> Self {
        let candidates: Vec<_> = servers
            .iter()
            .map(|&(server, weight)| Candidate {
                server,
                weight,
                key: u64::from(server.0),
            })
            .collect();
        Self::build_keyed(kind, &candidates)
    }

    /// A plan over servers that are up. Those of weight 0 are left out.
    pub fn build_keyed(kind: Scheduler, candidates: &[Candidate]) -> Self {
        let live: Vec<Candidate> = candidates
            .iter()
            .copied()
            .filter(|c| c.weight > 0)
            .collect();
        let sequence = match kind {
            Scheduler::RoundRobin => live.iter().map(|c| c.server).collect(),
            Scheduler::WeightedRoundRobin => smooth_sequence(&live),
            Scheduler::WeightedLeastConnections => Vec::new(),
            Scheduler::SourceHash => rendezvous_table(&live),
        };
        Self {
            kind,
            servers: live.iter().map(|c| (c.server, c.weight)).collect(),
            sequence: sequence.into(),
        }
    }

    /// The servers that can be picked.
    pub fn servers(&self) -> impl Iterator<Item = ServerIx> + '_ {
        self.servers.iter().map(|&(server, _)| server)
    }

    /// The scheduler.
    pub fn kind(&self) -> Scheduler {
        self.kind
    }

    /// The next server for a connection of `client`, or `None` where none is
    /// usable. `active` tells a server's active connections on this worker,
    /// `usable` excludes servers (already tried for this SYN, or found dead).
    ///
    /// Constant time, but for `wlc`, which compares up to 64 servers, and for
    /// services most of whose servers are unusable: those are walked once.
    #[inline]
    pub fn pick(
        &self,
        cursor: &mut Cursor,
        client: Ipv4Addr,
        active: impl Fn(ServerIx) -> u64,
        usable: impl Fn(ServerIx) -> bool,
    ) -> Option<ServerIx> {
        match self.kind {
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => self.pick_next(cursor, usable),
            Scheduler::WeightedLeastConnections => self.pick_least(cursor, active, usable),
            Scheduler::SourceHash => self.pick_hashed(client, usable),
        }
    }

    fn pick_next(
        &self,
        cursor: &mut Cursor,
        usable: impl Fn(ServerIx) -> bool,
    ) -> Option<ServerIx> {
        let len = self.sequence.len();
        if len == 0 {
            return None;
        }
        let mut at = cursor.within(len);
        for _ in 0..len.min(PROBES) {
            let server = self.sequence[at];
            at = if at + 1 == len { 0 } else { at + 1 };
            if usable(server) {
                cursor.set(at);
                return Some(server);
            }
        }
        cursor.set(at);
        self.walk(at, usable)
    }

    fn pick_least(
        &self,
        cursor: &mut Cursor,
        active: impl Fn(ServerIx) -> u64,
        usable: impl Fn(ServerIx) -> bool,
    ) -> Option<ServerIx> {
        let len = self.servers.len();
        if len == 0 {
            return None;
        }
        let mut least: Option<(ServerIx, u64, u64)> = None;
        let mut compare = |(server, weight): (ServerIx, u32)| {
            if !usable(server) {
                return;
            }
            let (load, weight) = (active(server) + 1, u64::from(weight));
            if least.is_none_or(|(_, other, share)| load * share < other * weight) {
                least = Some((server, load, weight));
            }
        };
        // Equal loads go to the first one looked at, so the start moves.
        let start = cursor.within(len);
        if len <= COMPARED {
            let (first, second) = (&self.servers[start..], &self.servers[..start]);
            first.iter().chain(second).copied().for_each(&mut compare);
            cursor.set(start + 1);
        } else {
            let mut drawn = mix(u64::from(cursor.0));
            for _ in 0..COMPARED {
                drawn = drawn.wrapping_mul(DRAW.0).wrapping_add(DRAW.1);
                compare(self.servers[(((drawn >> 32) * len as u64) >> 32) as usize]);
            }
            cursor.0 = cursor.0.wrapping_add(1);
        }
        match least {
            Some((server, ..)) => Some(server),
            None => self.walk(start, usable),
        }
    }

    fn pick_hashed(&self, client: Ipv4Addr, usable: impl Fn(ServerIx) -> bool) -> Option<ServerIx> {
        let len = self.sequence.len();
        if len == 0 {
            return None;
        }
        // The second half of the hash steps through the table, so that the
        // clients of an unusable server spread over all others by weight.
        let hash = mix(u64::from(u32::from(client)));
        let (mut at, step) = (hash as usize, (hash >> 32) as usize | 1);
        for _ in 0..PROBES {
            let server = self.sequence[at & (len - 1)];
            if usable(server) {
                return Some(server);
            }
            at = at.wrapping_add(step);
        }
        self.walk(hash as usize, usable)
    }

    /// The first usable server from position `from` on.
    #[cold]
    fn walk(&self, from: usize, usable: impl Fn(ServerIx) -> bool) -> Option<ServerIx> {
        let start = from % self.servers.len();
        let (first, second) = (&self.servers[start..], &self.servers[..start]);
        let mut servers = first.iter().chain(second).map(|&(server, _)| server);
        servers.find(|&server| usable(server))
    }
}

/// A permutation of 64-bit numbers that lets no pattern through (the finaliser
/// of SplitMix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Divides weights by their greatest common divisor, after scaling them down
/// where their sum would be above [`SEQUENCE_MAX`].
fn reduced_weights(candidates: &[Candidate]) -> Vec<u64> {
    let divided = |weights: Vec<u64>| -> Vec<u64> {
        let divisor = weights.iter().copied().fold(0, greatest_common_divisor);
        weights.into_iter().map(|weight| weight / divisor).collect()
    };
    let weights = divided(candidates.iter().map(|c| u64::from(c.weight)).collect());
    let total: u64 = weights.iter().sum();
    if total <= SEQUENCE_MAX {
        return weights;
    }
    divided(
        weights
            .iter()
            .map(|weight| (weight * SEQUENCE_MAX / total).max(1))
            .collect(),
    )
}

/// One cycle in which every prefix gives every server its share, rounded up or
/// down. So no server waits for its next turn longer than twice its ideal gap.
///
/// Pick k (from 0) of a server with share w of W belongs into the slots from
/// ⌊k·W/w⌋ to ⌈(k+1)·W/w⌉ - 1. Going by earliest deadline meets all of these
/// (Baruah, Cohen, Plaxton, Varvel: proportionate progress, 1996), in
/// O(log servers) a slot.
fn smooth_sequence(candidates: &[Candidate]) -> Vec<ServerIx> {
    let weights = reduced_weights(candidates);
    let total: u64 = weights.iter().sum();
    let deadline = |index: usize, pick: u64| ((pick + 1) * total).div_ceil(weights[index]);
    let mut waiting: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    let mut released: BinaryHeap<Reverse<(u64, usize, u64)>> = (0..weights.len())
        .map(|index| Reverse((deadline(index, 0), index, 0)))
        .collect();
    let mut sequence = Vec::with_capacity(total as usize);
    for slot in 0..total {
        while let Some(&Reverse((release, index, pick))) = waiting.peek()
            && release <= slot
        {
            waiting.pop();
            released.push(Reverse((deadline(index, pick), index, pick)));
        }
        // There is always one: the shares of all up to here sum up to the slot.
        let Some(Reverse((_, index, pick))) = released.pop() else {
            break;
        };
        sequence.push(candidates[index].server);
        if pick + 1 < weights[index] {
            waiting.push(Reverse((
                (pick + 1) * total / weights[index],
                index,
                pick + 1,
            )));
        }
    }
    sequence
}

/// The table of `sh`: a race for each slot. Every server throws at slots drawn
/// by its key, at the times of a Poisson process whose rate is its weight, and
/// the first throw at a slot takes it. That is weighted rendezvous hashing (the
/// first throws at a slot are exponential, -ln(u)/weight) at the cost of the
/// throws until every slot is taken, about size · ln(size), for any number of
/// servers. A server that comes or goes moves only its own slots.
fn rendezvous_table(candidates: &[Candidate]) -> Vec<ServerIx> {
    if candidates.is_empty() {
        return Vec::new();
    }
    let size = (candidates.len() * TABLE_SLOTS_PER_SERVER)
        .next_power_of_two()
        .clamp(TABLE_MIN, TABLE_MAX);
    let mut racers: Vec<Racer> = candidates.iter().map(Racer::new).collect();
    let total: f64 = racers.iter().map(|racer| racer.weight).sum();
    // As many throws as there are slots, in the mean: whoever comes later in
    // the list has no part in a race that is over.
    let lap = size as f64 / total;
    let mut taken: Vec<Option<(f64, ServerIx)>> = vec![None; size];
    let (mut left, mut end) = (size, lap);
    while left > 0 {
        for (racer, candidate) in racers.iter_mut().zip(candidates) {
            while racer.time < end {
                let slot = &mut taken[racer.bits as usize & (size - 1)];
                match slot {
                    Some((time, _)) if *time <= racer.time => {}
                    Some(_) => *slot = Some((racer.time, candidate.server)),
                    None => {
                        left -= 1;
                        *slot = Some((racer.time, candidate.server));
                    }
                }
                racer.next();
            }
        }
        end += lap;
    }
    taken
        .into_iter()
        .flatten()
        .map(|(_, server)| server)
        .collect()
}

/// A server in the race for slots.
struct Racer {
    weight: f64,
    seed: u64,
    throws: u64,
    /// The next throw: its time, and a hash whose low bits are its slot.
    time: f64,
    bits: u64,
}

impl Racer {
    fn new(candidate: &Candidate) -> Self {
        let mut racer = Self {
            weight: f64::from(candidate.weight),
            seed: mix(candidate.key),
            throws: 0,
            time: 0.0,
            bits: 0,
        };
        racer.next();
        racer
    }

    fn next(&mut self) {
        self.throws += 1;
        self.bits = mix(self.seed.wrapping_add(self.throws));
        // The slot has the low 16 bits at most; u is in (0, 1].
        let u = ((self.bits >> 16) + 1) as f64 / (1_u64 << 48) as f64;
        self.time -= u.ln() / self.weight;
    }
}

#[cfg(test)]
mod tests;
