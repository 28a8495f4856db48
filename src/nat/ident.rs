//! Identifications of what leaves (RFC 791 §3.1, RFC 6864).
//!
//! A receiver puts fragments together by addresses, protocol and
//! identification. Behind FULLNAT one local address speaks for all clients, and
//! one VIP for all servers, so the identifications that those choose meet: two
//! clients' equal ones would be one datagram to the server. What is a fragment,
//! or may become one (DF clear), therefore leaves under an identification of
//! ours. RFC 6864 §4.1: in what is neither, it has no meaning, and stays.
//!
//! Each worker has a share of the 65,536 to itself, since several speak from
//! one address. The share has two halves: one for whole datagrams, which are
//! many, and one for those in fragments, whose identifications have to last
//! until a receiver gives up (30 s in Linux). Both are counted through per
//! source, destination and protocol, by a keyed hash, which also says where to
//! begin: whoever sees the numbers of one destination knows nothing of another
//! (RFC 7739 §5.3).

use std::net::Ipv4Addr;

use crate::conntrack::entry::FlowTuple;
use crate::conntrack::hash::HashKey;
use crate::ids::WorkerIx;

/// Source, destination and protocol are told apart by so many counters.
const COUNTERS: usize = 4_096;

/// What an identification is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// A datagram in one piece, which may be fragmented further on.
    Whole,
    /// A datagram in fragments.
    Fragments,
}

/// One worker's identifications. Allocates only when made.
#[derive(Debug)]
pub struct Idents {
    /// Next of each use, counted from the start of its half.
    next: Box<[[u16; 2]]>,
    first: u16,
    half: u16,
    key: HashKey,
}

impl Idents {
    /// Those of worker `ix` of `workers`.
    pub fn new(ix: WorkerIx, workers: usize, key: HashKey) -> Self {
        let half = (32_768 / workers.max(1)).max(1) as u16;
        let next = (0..COUNTERS as u32)
            .map(|counter| {
                let hash = key.flow(&FlowTuple {
                    src: Ipv4Addr::from_bits(counter),
                    dst: Ipv4Addr::from_bits(ix.0.into()),
                    src_port: 0,
                    dst_port: 0,
                    protocol: 0xff,
                });
                [hash as u16 % half, (hash >> 16) as u16 % half]
            })
            .collect();
        Self {
            next,
            first: (ix.ix() as u16).wrapping_mul(half).wrapping_mul(2),
            half,
            key,
        }
    }

    /// The next one for what leaves with these addresses.
    #[inline]
    pub fn next(&mut self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, of: Use) -> u16 {
        let hash = self.key.flow(&FlowTuple {
            src,
            dst,
            src_port: 0,
            dst_port: 0,
            protocol,
        });
        let counter = &mut self.next[hash as usize % COUNTERS][of as usize];
        let ident = *counter;
        *counter = if ident + 1 < self.half { ident + 1 } else { 0 };
        let half = match of {
            Use::Whole => 0,
            Use::Fragments => self.half,
        };
        self.first.wrapping_add(half).wrapping_add(ident)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Idents, Use};
    use crate::conntrack::hash::HashKey;
    use crate::ids::WorkerIx;

    const KEY: HashKey = HashKey::from_bytes([9; 32]);

    /// Every identification that a worker gives for one pair of addresses.
    fn all(ix: u8, workers: usize, of: Use) -> Vec<u16> {
        let mut idents = Idents::new(WorkerIx(ix), workers, KEY);
        let (src, dst) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        (0..32_768 / workers)
            .map(|_| idents.next(src, dst, 17, of))
            .collect()
    }

    #[test]
    fn no_two_workers_and_uses_have_one_in_common() {
        for workers in [1, 2, 3, 5, 16, 63, 64] {
            let mut seen = HashSet::new();
            for ix in 0..workers as u8 {
                for of in [Use::Whole, Use::Fragments] {
                    for ident in all(ix, workers, of) {
                        assert!(seen.insert(ident), "{ident} of {ix} of {workers}");
                    }
                }
            }
            assert!(seen.len() > 65_536 - 2 * workers);
        }
    }

    #[test]
    fn an_identification_comes_again_as_late_as_can_be() {
        let mut idents = Idents::new(WorkerIx(0), 1, KEY);
        let (src, dst) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let first = idents.next(src, dst, 17, Use::Fragments);
        for _ in 1..32_768 {
            // Whole datagrams and others' take nothing from it.
            idents.next(src, dst, 17, Use::Whole);
            assert_ne!(idents.next(src, dst, 17, Use::Fragments), first);
        }
        assert_eq!(idents.next(src, dst, 17, Use::Fragments), first);
    }
}
