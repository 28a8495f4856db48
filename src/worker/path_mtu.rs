//! Paths to clients that are narrower than real servers may be told
//! (`min-path-mtu`).
//!
//! A server's kernel keeps the path MTU for each destination, and for it all
//! clients are at the few local addresses: what one client's path is said to
//! carry would be the measure for all. So a server is told of no MTU below the
//! floor. The entry of the connection that the message is about remembers what
//! its path carries, and what the server sends to that client leaves in
//! fragments, without DF.
//!
//! `icmp` asks what becomes of a message, `fragment` what a path carries.

use super::Worker;
use crate::conntrack::entry::{Direction, Entry, flag};
use crate::ids::SlotIx;
use crate::io::BurstIo;
use crate::nat::icmp::Quote;

/// Smallest fragments made on somebody's word, header included: what Linux
/// takes for the least path MTU by itself (`net.ipv4.route.min_pmtu`), and a
/// bound on how many packets one becomes. They go without DF, so a router before
/// a narrower link (RFC 791 asks for 68 bytes) fragments them once more.
const LEAST: u16 = 552;

/// Every link carries so much: a floor there is none.
const NO_FLOOR: u16 = 68;

/// What becomes of "fragmentation needed" for a real server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// It is passed on as it is.
    AsIs,
    /// It is passed on with this MTU.
    Floor(u16),
    /// There is nothing to tell: the quoted packet was no larger than the floor.
    Nothing,
}

/// The largest packet that goes this way on this connection in one piece, where
/// its path is narrower than the real server was told.
pub(super) fn narrow_mtu(entry: &Entry, direction: Direction) -> Option<u16> {
    let is_narrow = direction == Direction::Reverse && entry.has(flag::NARROW);
    is_narrow.then_some(entry.client_mtu)
}

impl<Io: BurstIo> Worker<Io> {
    /// What a real server is told by an error about what went to the client. An
    /// MTU below the floor, or none (of an old router, RFC 1191 §5), is
    /// remembered for as long as the connection lasts: to try larger packets
    /// after a while would lose one.
    pub(super) fn note_path_mtu(&mut self, slot: SlotIx, quote: &Quote) -> Told {
        let floor = self.snapshot.limits.min_path_mtu;
        let Some(mtu) = quote.next_hop_mtu else {
            return Told::AsIs;
        };
        if floor <= NO_FLOOR || mtu >= floor {
            return Told::AsIs;
        }
        let entry = self.table.get_mut(slot);
        let known = narrow_mtu(entry, Direction::Reverse).unwrap_or(u16::MAX);
        entry.client_mtu = mtu.max(LEAST).min(known);
        entry.flags |= flag::NARROW;
        if quote.ip_len > floor {
            Told::Floor(floor)
        } else {
            Told::Nothing
        }
    }
}
