//! Which local-port sets there are, which worker holds its part of each, and
//! when an id can be used again.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::ids::{SetIx, WorkerIx};
use crate::snat::ports::{PortSet, WorkerPorts};

/// Sets that a worker is asked back with one update. It looks at each, which
/// takes a tenth of a microsecond, while packets wait.
const ASKED_BACK: usize = 16_384;

/// What a set is for. Services that share a real server share its sets, as
/// they share the 4-tuples.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct SetKey {
    pub(super) local: Ipv4Addr,
    pub(super) server: SocketAddrV4,
    pub(super) protocol: u8,
}

#[derive(Debug)]
struct Set {
    key: SetKey,
    /// Servers in the configuration that use it.
    users: u32,
    /// Workers that hold their part, one bit each.
    holders: u64,
}

/// All sets, by id. The workers hold the sets themselves.
#[derive(Debug)]
pub(super) struct Sets {
    by_key: HashMap<SetKey, SetIx>,
    slots: Vec<Option<Set>>,
    free: VecDeque<SetIx>,
    max: usize,
    seed: u64,
}

impl Sets {
    /// No set yet; at most `max`.
    pub(super) fn new(max: usize, seed: u64) -> Self {
        Self {
            by_key: HashMap::new(),
            slots: Vec::new(),
            free: VecDeque::new(),
            max,
            seed,
        }
    }

    /// Whether there is a set for `key`.
    pub(super) fn contains(&self, key: &SetKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Sets that can still be made.
    pub(super) fn room(&self) -> usize {
        self.max - self.by_key.len()
    }

    /// One more server uses the set, which is made if there is none. `None`
    /// where all ids are in use.
    pub(super) fn acquire(&mut self, key: SetKey) -> Option<SetIx> {
        let id = match self.by_key.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                let id = match self.free.pop_front() {
                    Some(id) => id,
                    None if self.slots.len() < self.max => {
                        self.slots.push(None);
                        SetIx(self.slots.len() as u32 - 1)
                    }
                    None => return None,
                };
                self.slots[id.ix()] = Some(Set {
                    key,
                    users: 0,
                    holders: 0,
                });
                *vacant.insert(id)
            }
        };
        if let Some(set) = &mut self.slots[id.ix()] {
            set.users += 1;
        }
        Some(id)
    }

    /// A server does not use the set any more.
    pub(super) fn release(&mut self, id: SetIx) {
        if let Some(set) = &mut self.slots[id.ix()] {
            set.users -= 1;
        }
    }

    /// Frees ids that nobody uses and no worker holds; whether there were any.
    fn sweep(&mut self, id: SetIx) -> bool {
        let slot = &mut self.slots[id.ix()];
        match slot {
            Some(set) if set.users == 0 && set.holders == 0 => {
                self.by_key.remove(&set.key);
                *slot = None;
                self.free.push_back(id);
                true
            }
            _ => false,
        }
    }

    /// What `worker` has to be given, for every set, and what it has to be asked
    /// back, for as many as one update may name. The worker counts as holding what it is given.
    pub(super) fn exchange(
        &mut self,
        worker: WorkerIx,
        ports: &Arc<WorkerPorts>,
    ) -> (Vec<(SetIx, Box<PortSet>)>, Vec<SetIx>) {
        let bit = 1 << worker.0;
        let (mut given, mut unwanted) = (Vec::new(), Vec::new());
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(set) = slot else { continue };
            let id = SetIx(index as u32);
            match (set.users > 0, set.holders & bit != 0) {
                (true, false) => {
                    // Golden-ratio steps spread the first ports over the range.
                    self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let SetKey { local, server, .. } = set.key;
                    let seed = self.seed >> 16;
                    let ports =
                        PortSet::new(Arc::clone(ports), local, *server.ip(), server.port(), seed);
                    given.push((id, Box::new(ports)));
                    set.holders |= bit;
                }
                (false, true) if unwanted.len() < ASKED_BACK => unwanted.push(id),
                (false, true) | (true, true) | (false, false) => {}
            }
        }
        (given, unwanted)
    }

    /// `worker` gave its part of a set back; whether the set is gone now.
    pub(super) fn returned(&mut self, worker: WorkerIx, id: SetIx) -> bool {
        if let Some(set) = &mut self.slots[id.ix()] {
            set.holders &= !(1 << worker.0);
        }
        self.sweep(id)
    }

    /// Whether a worker holds a set that no server uses.
    pub(super) fn any_unwanted(&self) -> bool {
        self.slots.iter().flatten().any(|set| set.users == 0)
    }

    /// Local addresses that connections may still come from though no server
    /// uses them.
    pub(super) fn lingering(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.slots
            .iter()
            .flatten()
            .filter(|set| set.users == 0)
            .map(|set| set.key.local)
    }

    #[cfg(test)]
    pub(super) fn key(&self, id: SetIx) -> Option<SetKey> {
        self.slots.get(id.ix())?.as_ref().map(|set| set.key)
    }
}
