//! Next hops of one worker: MAC addresses, their ageing, and the packets that
//! wait for one.
//!
//! Owned by the worker, so a packet finds its MAC by index without a lock or a
//! hash. What one worker learns the management core tells the others. May not
//! allocate after construction, nor read a clock: time is an argument.
//!
//! A next hop in use is asked again, by unicast, before its address grows old,
//! while packets still go to the known MAC: there is no gap. One that never
//! answered is asked every [`RETRY_MS`], far below the second that a lost SYN
//! would cost; its packets wait in a bounded queue.
#![deny(unsafe_code)]

use arrayvec::ArrayVec;
use hashbrown::HashTable;

use crate::ids::{NeighborIx, PortIx};
use crate::service::route::NextHop;
use crate::time::Millis;
use crate::wire::ethernet::MacAddr;

/// A MAC address heard this recently needs no confirmation.
pub const FRESH_MS: u64 = 30_000;
/// Between two requests for the same next hop.
pub const RETRY_MS: u64 = 100;
/// Broadcast requests before an unknown next hop counts as unreachable.
pub const RESOLVE_TRIES: u8 = 10;
/// Unicast requests before a known next hop that falls silent is forgotten.
pub const CONFIRM_TRIES: u8 = 10;
/// An unreachable next hop is asked again at the first packet after this.
pub const FAILED_MS: u64 = 1_000;
/// Packets that may wait for one next hop.
pub const WAITING_PER_HOP: u16 = 64;
/// Packets that may wait in all.
pub const WAITING: usize = 256;
/// Next hops that are being asked at a time.
const ASKING: usize = 128;

/// What is known of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// The MAC address is known.
    Known,
    /// Asked, no answer yet.
    Incomplete,
    /// Did not answer.
    Failed,
}

/// One next hop.
#[derive(Clone, Copy, Debug)]
pub struct Neighbor {
    /// Destination and source MAC, as they stand in the frame.
    pub l2: [u8; 12],
    /// Where it is.
    pub hop: NextHop,
    /// What is known.
    pub condition: Condition,
    /// A packet was sent to it since the last look.
    used: bool,
    /// Being asked; listed in `asking`.
    asked: bool,
    tries: u8,
    waiting: u16,
    /// When it last answered, was given up, or was created.
    since: Millis,
    /// When it is asked next; where it failed, from when on it may be.
    next_try: Millis,
}

/// What to do with a packet for a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Resolution {
    /// Send it with these MAC addresses.
    Send([u8; 12], PortIx),
    /// Let it wait.
    Wait,
    /// The next hop does not answer.
    Unreachable,
}

/// An ARP request that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whom to ask for, and where.
    pub hop: NextHop,
    /// The MAC to ask at: the known one, or broadcast.
    pub to: MacAddr,
}

/// A packet that waits.
#[derive(Debug)]
struct Waiting<B> {
    neighbor: NeighborIx,
    packet: B,
}

/// The table.
#[derive(Debug)]
pub struct Neighbors<B> {
    table: Vec<Neighbor>,
    capacity: usize,
    index: HashTable<u16>,
    waiting: ArrayVec<Waiting<B>, WAITING>,
    asking: ArrayVec<NeighborIx, ASKING>,
    /// Where the ageing walk is.
    cursor: usize,
}

fn hash(hop: NextHop) -> u64 {
    // On-link addresses only: nobody chooses them freely, so a multiply does.
    (u64::from(u32::from(hop.addr)) << 8 | u64::from(hop.port.0))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl<B> Neighbors<B> {
    /// An empty table for at most `capacity` next hops.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.min(usize::from(u16::MAX - 1));
        Self {
            table: Vec::with_capacity(capacity),
            capacity,
            index: HashTable::with_capacity(capacity),
            waiting: ArrayVec::new(),
            asking: ArrayVec::new(),
            cursor: 0,
        }
    }

    /// Number of packets that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn find(&self, hop: NextHop) -> Option<NeighborIx> {
        let table = &self.table;
        self.index
            .find(hash(hop), |&ix| table[usize::from(ix)].hop == hop)
            .map(|&ix| NeighborIx(ix))
    }

    /// The next hop's index, made if need be; `None` when the table is full.
    pub fn index_of(&mut self, hop: NextHop, now: Millis) -> Option<NeighborIx> {
        if let Some(found) = self.find(hop) {
            return Some(found);
        }
        if self.table.len() == self.capacity {
            return None;
        }
        let ix = self.table.len() as u16;
        self.table.push(Neighbor {
            l2: [0; 12],
            hop,
            condition: Condition::Failed,
            used: false,
            asked: false,
            tries: 0,
            waiting: 0,
            since: now,
            next_try: now,
        });
        let table = &self.table;
        self.index
            .insert_unique(hash(hop), ix, |&ix| hash(table[usize::from(ix)].hop));
        Some(NeighborIx(ix))
    }

    /// How a packet gets to a next hop; starts asking for one that is unknown.
    #[inline]
    pub fn resolve(&mut self, ix: NeighborIx, now: Millis) -> Resolution {
        let Some(neighbor) = self.table.get_mut(ix.ix()) else {
            return Resolution::Unreachable;
        };
        if neighbor.condition == Condition::Known {
            if !neighbor.used {
                neighbor.used = true;
            }
            return Resolution::Send(neighbor.l2, neighbor.hop.port);
        }
        self.ask_unknown(ix, now)
    }

    #[cold]
    fn ask_unknown(&mut self, ix: NeighborIx, now: Millis) -> Resolution {
        let neighbor = &mut self.table[ix.ix()];
        if neighbor.condition == Condition::Incomplete {
            return Resolution::Wait;
        }
        if !now.reached(neighbor.next_try) || self.asking.is_full() {
            return Resolution::Unreachable;
        }
        neighbor.condition = Condition::Incomplete;
        neighbor.asked = true;
        neighbor.tries = 0;
        neighbor.next_try = now;
        self.asking.push(ix);
        Resolution::Wait
    }

    /// Lets a packet wait; gives it back where the queue is full.
    pub fn wait(&mut self, ix: NeighborIx, packet: B) -> Result<(), B> {
        let Some(neighbor) = self.table.get_mut(ix.ix()) else {
            return Err(packet);
        };
        if neighbor.waiting == WAITING_PER_HOP || self.waiting.is_full() {
            return Err(packet);
        }
        neighbor.waiting += 1;
        self.waiting.push(Waiting {
            neighbor: ix,
            packet,
        });
        Ok(())
    }

    /// Takes a packet, oldest first, whose next hop is `condition`.
    pub fn take_waiting(&mut self, condition: Condition) -> Option<(NeighborIx, B)> {
        let table = &self.table;
        let position = self
            .waiting
            .iter()
            .position(|waiting| table[waiting.neighbor.ix()].condition == condition)?;
        let taken = self.waiting.remove(position);
        self.table[taken.neighbor.ix()].waiting -= 1;
        Some((taken.neighbor, taken.packet))
    }

    /// An address was heard. Only next hops we know of are taken, so that a
    /// stranger's announcements can't fill the table. True where it is news:
    /// another MAC, or one that needed confirmation.
    pub fn learn(&mut self, hop: NextHop, mac: MacAddr, own: MacAddr, now: Millis) -> bool {
        let Some(ix) = self.find(hop) else {
            return false;
        };
        let neighbor = &mut self.table[ix.ix()];
        let mut l2 = [0; 12];
        l2[..6].copy_from_slice(&mac.0);
        l2[6..].copy_from_slice(&own.0);
        let news = neighbor.condition != Condition::Known
            || neighbor.l2 != l2
            || neighbor.asked
            || now.since(neighbor.since) >= FRESH_MS / 2;
        neighbor.l2 = l2;
        neighbor.condition = Condition::Known;
        neighbor.since = now;
        neighbor.tries = 0;
        if neighbor.asked {
            neighbor.asked = false;
            self.asking.retain(|asked| *asked != ix);
        }
        news
    }

    /// The next ARP request that is due. Call until `None`, about once a
    /// millisecond: each call costs a walk over those being asked.
    pub fn due(&mut self, now: Millis) -> Option<Request> {
        let mut position = 0;
        while position < self.asking.len() {
            let ix = self.asking[position];
            let neighbor = &mut self.table[ix.ix()];
            if !now.reached(neighbor.next_try) {
                position += 1;
                continue;
            }
            let known = neighbor.condition == Condition::Known;
            let tries = if known { CONFIRM_TRIES } else { RESOLVE_TRIES };
            if neighbor.tries == tries {
                neighbor.condition = Condition::Failed;
                neighbor.asked = false;
                neighbor.since = now;
                neighbor.next_try = now.plus(FAILED_MS);
                self.asking.swap_remove(position);
                continue;
            }
            neighbor.tries += 1;
            neighbor.next_try = now.plus(RETRY_MS);
            let mut mac = [0xff; 6];
            if known {
                mac.copy_from_slice(&neighbor.l2[..6]);
            }
            return Some(Request {
                hop: neighbor.hop,
                to: MacAddr(mac),
            });
        }
        None
    }

    /// Looks at up to `budget` next hops for ones that grow old: those in use
    /// are asked again, those not in use are forgotten once they are old.
    pub fn age(&mut self, now: Millis, budget: usize) {
        for _ in 0..budget.min(self.table.len()) {
            if self.cursor >= self.table.len() {
                self.cursor = 0;
            }
            let ix = NeighborIx(self.cursor as u16);
            let neighbor = &mut self.table[self.cursor];
            self.cursor += 1;
            if neighbor.condition != Condition::Known
                || neighbor.asked
                || now.since(neighbor.since) < FRESH_MS
            {
                continue;
            }
            if neighbor.used && !self.asking.is_full() {
                neighbor.used = false;
                neighbor.asked = true;
                neighbor.tries = 0;
                neighbor.next_try = now;
                self.asking.push(ix);
            } else if now.since(neighbor.since) >= 10 * FRESH_MS {
                neighbor.condition = Condition::Failed;
                neighbor.since = now;
                neighbor.next_try = now;
            }
        }
    }

    /// What is known of a next hop, if it was ever asked for.
    pub fn known(&self, hop: NextHop) -> Option<&Neighbor> {
        self.hop(self.find(hop)?)
    }

    /// What is known of a next hop.
    pub fn hop(&self, ix: NeighborIx) -> Option<&Neighbor> {
        self.table.get(ix.ix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: NextHop = NextHop {
        port: PortIx(0),
        addr: std::net::Ipv4Addr::new(10, 0, 0, 1),
    };
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn table() -> (Neighbors<u32>, NeighborIx) {
        let mut table = Neighbors::new(4);
        let ix = table.index_of(HOP, Millis(0)).expect("room");
        (table, ix)
    }

    #[test]
    fn an_unknown_next_hop_is_asked_at_once_and_holds_packets() {
        let (mut table, ix) = table();
        assert_eq!(table.resolve(ix, Millis(0)), Resolution::Wait);
        table.wait(ix, 7).expect("room");
        let request = table.due(Millis(0)).expect("a request at once");
        assert_eq!(request.to, MacAddr::BROADCAST);
        assert_eq!(table.due(Millis(50)), None);
        assert!(table.due(Millis(RETRY_MS)).is_some());
        assert!(table.learn(HOP, MAC, OWN, Millis(120)));
        assert_eq!(table.take_waiting(Condition::Known), Some((ix, 7)));
        assert_eq!(table.take_waiting(Condition::Known), None);
        let Resolution::Send(l2, port) = table.resolve(ix, Millis(121)) else {
            panic!("known")
        };
        assert_eq!(
            (l2, port),
            ([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9], PortIx(0))
        );
        assert_eq!(table.due(Millis(10_000)), None);
    }

    #[test]
    fn one_that_never_answers_fails_and_is_asked_again_later() {
        let (mut table, ix) = table();
        assert_eq!(table.resolve(ix, Millis(0)), Resolution::Wait);
        table.wait(ix, 7).expect("room");
        let mut now = Millis(0);
        for _ in 0..RESOLVE_TRIES {
            assert!(table.due(now).is_some());
            now = now.plus(RETRY_MS);
        }
        assert_eq!(table.due(now), None);
        assert_eq!(table.take_waiting(Condition::Failed), Some((ix, 7)));
        assert_eq!(table.resolve(ix, now), Resolution::Unreachable);
        assert_eq!(table.resolve(ix, now.plus(FAILED_MS)), Resolution::Wait);
    }

    #[test]
    fn one_in_use_is_confirmed_without_a_gap() {
        let (mut table, ix) = table();
        let _ = table.resolve(ix, Millis(0));
        table.learn(HOP, MAC, OWN, Millis(1));
        assert!(matches!(table.resolve(ix, Millis(2)), Resolution::Send(..)));
        table.age(Millis(FRESH_MS + 1), 8);
        let request = table.due(Millis(FRESH_MS + 1)).expect("a confirmation");
        assert_eq!(request.to, MAC);
        assert!(matches!(
            table.resolve(ix, Millis(FRESH_MS + 2)),
            Resolution::Send(..)
        ));
        assert!(table.learn(HOP, MAC, OWN, Millis(FRESH_MS + 3)));
        table.age(Millis(FRESH_MS + 4), 8);
        assert_eq!(table.due(Millis(FRESH_MS + 200)), None);
    }

    #[test]
    fn one_that_falls_silent_is_forgotten_after_its_tries() {
        let (mut table, ix) = table();
        let _ = table.resolve(ix, Millis(0));
        table.learn(HOP, MAC, OWN, Millis(1));
        let _ = table.resolve(ix, Millis(2));
        let mut now = Millis(FRESH_MS + 1);
        table.age(now, 8);
        for _ in 0..CONFIRM_TRIES {
            assert!(table.due(now).is_some());
            assert!(matches!(table.resolve(ix, now), Resolution::Send(..)));
            now = now.plus(RETRY_MS);
        }
        assert_eq!(table.due(now), None);
        assert_eq!(table.hop(ix).expect("there").condition, Condition::Failed);
    }

    #[test]
    fn strangers_are_not_learned_and_queues_are_bounded() {
        let (mut table, ix) = table();
        let stranger = NextHop {
            addr: std::net::Ipv4Addr::new(10, 0, 0, 2),
            ..HOP
        };
        assert!(!table.learn(stranger, MAC, OWN, Millis(0)));
        for packet in 0..u32::from(WAITING_PER_HOP) {
            table.wait(ix, packet).expect("room");
        }
        assert_eq!(table.wait(ix, 99), Err(99));
        for last in 3..=5 {
            let _ = table.index_of(
                NextHop {
                    addr: std::net::Ipv4Addr::new(10, 0, 0, last),
                    ..HOP
                },
                Millis(0),
            );
        }
        assert_eq!(table.index_of(stranger, Millis(0)), None);
    }
}
