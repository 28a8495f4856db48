//! Held SYNs: copies of the clients' SYN packets, as they came, so that one can
//! go to another real server without the client's help.
//!
//! A copy is held from the SYN to the server's answer, a round trip; so few
//! thousand slots serve millions of connections a second. When a flood fills
//! the store, further SYNs are simply not held.

use crate::conntrack::entry::NIL;

/// Most bytes of IP packet held: a SYN with full IP and TCP options. One that
/// carries more (TCP Fast Open data) is not held.
const HELD_BYTES: usize = 120;

/// One copy.
#[derive(Clone, Copy, Debug)]
#[repr(align(128))]
struct Held {
    len: u8,
    next_free: u32,
    bytes: [u8; HELD_BYTES],
}

/// The store. Allocates only when made.
#[derive(Debug)]
pub struct HeldSyns {
    slots: Box<[Held]>,
    free: u32,
    used: usize,
}

impl HeldSyns {
    /// Room for `capacity` SYNs.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity as u32;
        let slots = (0..capacity)
            .map(|slot| Held {
                len: 0,
                next_free: if slot + 1 < capacity { slot + 1 } else { NIL },
                bytes: [0; HELD_BYTES],
            })
            .collect();
        Self {
            slots,
            free: if capacity == 0 { NIL } else { 0 },
            used: 0,
        }
    }

    /// SYNs held.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Holds a copy of an IP packet; `None` when the store is full or the
    /// packet too long.
    pub fn hold(&mut self, packet: &[u8]) -> Option<u32> {
        if packet.len() > HELD_BYTES {
            return None;
        }
        let slot = self.free;
        let held = self.slots.get_mut(slot as usize)?;
        self.free = held.next_free;
        held.len = packet.len() as u8;
        held.bytes[..packet.len()].copy_from_slice(packet);
        self.used += 1;
        Some(slot)
    }

    /// The IP packet held in `slot`.
    pub fn get(&self, slot: u32) -> &[u8] {
        self.slots
            .get(slot as usize)
            .map_or(&[], |held| &held.bytes[..usize::from(held.len)])
    }

    /// Gives a slot back.
    pub fn release(&mut self, slot: u32) {
        if let Some(held) = self.slots.get_mut(slot as usize) {
            held.next_free = self.free;
            held.len = 0;
            self.free = slot;
            self.used -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_up_to_its_capacity_and_reuses() {
        let mut store = HeldSyns::new(2);
        let a = store.hold(&[1; 40]).expect("room");
        let b = store.hold(&[2; HELD_BYTES]).expect("room");
        assert_eq!(store.hold(&[3; 40]), None);
        assert_eq!(store.get(a), [1; 40]);
        store.release(a);
        let c = store.hold(&[4; 60]).expect("room");
        assert_eq!(
            (store.get(b).len(), store.get(c)),
            (HELD_BYTES, &[4; 60][..])
        );
        assert_eq!(store.len(), 2);
        assert_eq!(store.hold(&[0; HELD_BYTES + 1]), None);
    }
}
