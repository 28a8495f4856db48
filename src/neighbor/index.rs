//! From an address to its slot: chains through the slots, so that a slot leaves
//! without a trace. A table with open addressing would keep marks of what was
//! taken out, and clean up when a stranger says so.

use super::Neighbor;
use super::list::NIL;
use crate::service::route::NextHop;

/// The heads of the chains.
#[derive(Debug)]
pub(super) struct Index {
    heads: Box<[u16]>,
}

impl Index {
    /// For `capacity` slots.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            heads: vec![NIL; capacity.next_power_of_two()].into(),
        }
    }

    fn bucket(&self, hop: NextHop) -> usize {
        // On-link addresses only: nobody chooses them freely, so a multiply does.
        let key = u64::from(u32::from(hop.addr)) << 8 | u64::from(hop.port.0);
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        mixed as usize & (self.heads.len() - 1)
    }

    pub(super) fn find(&self, table: &[Neighbor], hop: NextHop) -> Option<u16> {
        let mut at = self.heads[self.bucket(hop)];
        while at != NIL {
            let slot = &table[usize::from(at)];
            if slot.hop == hop {
                return Some(at);
            }
            at = slot.chain;
        }
        None
    }

    pub(super) fn insert(&mut self, table: &mut [Neighbor], ix: u16) {
        let bucket = self.bucket(table[usize::from(ix)].hop);
        table[usize::from(ix)].chain = std::mem::replace(&mut self.heads[bucket], ix);
    }

    pub(super) fn remove(&mut self, table: &mut [Neighbor], ix: u16) {
        let slot = &mut table[usize::from(ix)];
        let (hop, next) = (slot.hop, std::mem::replace(&mut slot.chain, NIL));
        let bucket = self.bucket(hop);
        if self.heads[bucket] == ix {
            self.heads[bucket] = next;
            return;
        }
        let mut at = self.heads[bucket];
        while at != NIL {
            let slot = &mut table[usize::from(at)];
            if slot.chain == ix {
                slot.chain = next;
                return;
            }
            at = slot.chain;
        }
    }
}
