//! Held SYNs: copies of the clients' SYN packets, as they came, so that one can
//! go to another real server without the client's help.
//!
//! A copy is held until its SYN is answered or given up: a round trip, most of
//! the time, so few thousand places serve millions of connections a second. A
//! SYN that carries data (TCP Fast Open) is held whole, in a second class of
//! longer places. When a class is full, the copy that has been held longest
//! goes: it has had its second attempt long ago, or its client soon sends the
//! SYN again. Called by `attempt` and `resend` alone; never allocates once made.

use crate::conntrack::entry::NIL;
use crate::ids::SlotIx;

/// Bytes of IP packet in a short place: a SYN with full IP and TCP options.
const SHORT_BYTES: usize = 120;

/// In a long one: what one packet buffer holds. A longer SYN is not held.
const LONG_BYTES: usize = 2_048;

/// Short places for each long one.
const SHORT_PER_LONG: usize = 16;

/// In the number of a copy: its place is a long one.
const LONG: u32 = 1 << 31;

/// What is known of one place.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Whose SYN it is.
    owner: SlotIx,
    len: u16,
    /// The copy that was held before this one; in a free place nothing.
    older: u32,
    /// The copy that was held after this one; in a free place the next free one.
    newer: u32,
}

/// Places of one length, in use in the order of their age.
#[derive(Debug)]
struct Class {
    bytes: Box<[u8]>,
    room: usize,
    places: Box<[Place]>,
    free: u32,
    oldest: u32,
    newest: u32,
    used: usize,
}

impl Class {
    fn new(count: usize, room: usize) -> Self {
        let places = (0..count as u32).map(|place| Place {
            owner: SlotIx(NIL),
            len: 0,
            older: NIL,
            newer: if place + 1 < count as u32 {
                place + 1
            } else {
                NIL
            },
        });
        Self {
            bytes: vec![0; count * room].into(),
            room,
            places: places.collect(),
            free: if count == 0 { NIL } else { 0 },
            oldest: NIL,
            newest: NIL,
            used: 0,
        }
    }

    /// Holds a packet that is not too long. `None` where there is no place at
    /// all.
    fn hold(&mut self, packet: &[u8], owner: SlotIx) -> Option<(u32, Option<SlotIx>)> {
        let mut displaced = None;
        if self.free == NIL {
            displaced = Some(self.places.get(self.oldest as usize)?.owner);
            self.release(self.oldest);
        }
        let at = self.free;
        let place = self.places.get_mut(at as usize)?;
        self.free = place.newer;
        *place = Place {
            owner,
            len: packet.len() as u16,
            older: self.newest,
            newer: NIL,
        };
        match self.places.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
        self.used += 1;
        let from = at as usize * self.room;
        self.bytes[from..from + packet.len()].copy_from_slice(packet);
        Some((at, displaced))
    }

    fn get(&self, at: u32) -> &[u8] {
        let Some(place) = self.places.get(at as usize) else {
            return &[];
        };
        let from = at as usize * self.room;
        &self.bytes[from..from + usize::from(place.len)]
    }

    fn release(&mut self, at: u32) {
        let Some(place) = self.places.get_mut(at as usize) else {
            return;
        };
        let (older, newer) = (place.older, place.newer);
        place.len = 0;
        place.older = NIL;
        place.newer = self.free;
        self.free = at;
        self.used -= 1;
        match self.places.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.places.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }
}

/// The store. Allocates only when made.
#[derive(Debug)]
pub struct HeldSyns {
    short: Class,
    long: Class,
}

impl HeldSyns {
    /// Room for `capacity` SYNs, and some with data.
    pub fn new(capacity: usize) -> Self {
        Self {
            short: Class::new(capacity, SHORT_BYTES),
            long: Class::new(capacity.div_ceil(SHORT_PER_LONG), LONG_BYTES),
        }
    }

    /// SYNs held.
    pub fn len(&self) -> usize {
        self.short.used + self.long.used
    }

    /// Places there are.
    pub fn places(&self) -> usize {
        self.short.places.len() + self.long.places.len()
    }

    /// Whose SYN is in a place, if one is.
    pub fn owner(&self, place: usize) -> Option<SlotIx> {
        let short = self.short.places.len();
        let place = match place.checked_sub(short) {
            None => self.short.places.get(place),
            Some(long) => self.long.places.get(long),
        };
        place.filter(|place| place.len > 0).map(|place| place.owner)
    }

    /// Holds a copy of an IP packet for the connection `owner`: its number, and
    /// the connection that loses its own for it. `None` where the packet is too
    /// long.
    pub fn hold(&mut self, packet: &[u8], owner: SlotIx) -> Option<(u32, Option<SlotIx>)> {
        if packet.is_empty() || packet.len() > LONG_BYTES {
            return None;
        }
        if packet.len() <= SHORT_BYTES {
            return self.short.hold(packet, owner);
        }
        let (at, displaced) = self.long.hold(packet, owner)?;
        Some((at | LONG, displaced))
    }

    /// The IP packet of this number.
    pub fn get(&self, held: u32) -> &[u8] {
        match held & LONG {
            0 => self.short.get(held),
            _ => self.long.get(held & !LONG),
        }
    }

    /// Gives a place back.
    pub fn release(&mut self, held: u32) {
        match held & LONG {
            0 => self.short.release(held),
            _ => self.long.release(held & !LONG),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holds_short_and_long_ones_whole() {
        let mut store = HeldSyns::new(2);
        let (a, _) = store.hold(&[1; 40], SlotIx(1)).expect("room");
        let (b, _) = store.hold(&[2; SHORT_BYTES], SlotIx(2)).expect("room");
        let (c, _) = store.hold(&[3; LONG_BYTES], SlotIx(3)).expect("room");
        assert_eq!(store.get(a), [1; 40]);
        assert_eq!(store.get(b), [2; SHORT_BYTES]);
        assert_eq!(store.get(c), [3; LONG_BYTES]);
        assert_eq!(store.len(), 3);
        assert_eq!(store.hold(&[0; LONG_BYTES + 1], SlotIx(4)), None);
        assert_eq!(store.hold(&[], SlotIx(4)), None);
        assert_eq!(HeldSyns::new(0).hold(&[1; 40], SlotIx(1)), None);
    }

    proptest! {
        /// Whatever is held and given back in whatever order: what is held reads
        /// as it was, and when there is no place the oldest goes.
        #[test]
        fn the_oldest_gives_way(steps in vec((any::<bool>(), 0usize..8), 0..100)) {
            const ROOM: usize = 4;
            let mut store = HeldSyns::new(ROOM);
            let mut model = VecDeque::new();
            for (n, (holds, which)) in (0u32..).zip(steps) {
                if holds {
                    let (held, displaced) = store.hold(&[n as u8; 50], SlotIx(n)).expect("short");
                    let expected = (model.len() == ROOM).then(|| model.pop_front()).flatten();
                    prop_assert_eq!(displaced, expected.map(|(_, n)| SlotIx(n)));
                    model.push_back((held, n));
                } else if let Some((held, _)) = model.remove(which) {
                    store.release(held);
                }
                prop_assert_eq!(store.len(), model.len());
                let owners = (0..store.places()).filter_map(|place| store.owner(place));
                let expected: BTreeSet<_> = model.iter().map(|&(_, n)| n).collect();
                prop_assert_eq!(owners.map(|slot| slot.0).collect::<BTreeSet<_>>(), expected);
                for &(held, n) in &model {
                    prop_assert_eq!(store.get(held), [n as u8; 50]);
                }
            }
        }
    }
}
