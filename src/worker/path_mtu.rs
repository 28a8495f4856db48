//! Paths to clients that are narrower than real servers may be told
//! (`min-path-mtu`).
//!
//! A server's kernel keeps the path MTU for each destination, and for it all
//! clients are at the few local addresses: what one client's path is said to
//! carry would be the measure for all. So a server is told of no MTU below the
//! floor. The entry of the connection that the message is about remembers what
//! its path carries, and what the server sends to that client leaves in
//! fragments, without DF. The client's next connections begin so: a server that
//! sends no more than the floor can't be told to repeat what was lost.
//!
//! `icmp` asks what becomes of a message, `fragment` what a path carries, `open`
//! what is known of a client. Nothing here allocates once a worker is made.

use std::net::Ipv4Addr;

use super::Worker;
use crate::conntrack::entry::{Direction, Entry, flag};
use crate::ids::SlotIx;
use crate::io::BurstIo;
use crate::nat::icmp::Quote;
use crate::time::Millis;
use crate::wire::proto;

/// Smallest fragments made on somebody's word, header included: what Linux
/// takes for the least path MTU by itself (`net.ipv4.route.min_pmtu`), and a
/// bound on how many packets one becomes. They go without DF, so a router before
/// a narrower link (RFC 791 asks for 68 bytes) fragments them once more.
const LEAST: u16 = 552;

/// Every link carries so much: a floor there is none.
const NO_FLOOR: u16 = 68;

/// How long a client's path is taken to be narrow (RFC 1191 §6.3), and for how
/// many clients.
const KEPT_MS: u64 = 600_000;
const CLIENTS: usize = 1 << CLIENTS_BITS;
const CLIENTS_BITS: u32 = 10;

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

/// Clients whose path is narrow. Each has one place, and the one that comes last
/// keeps it.
#[derive(Debug)]
pub(super) struct NarrowClients {
    places: Box<[Known]>,
    /// When the last of them will be forgotten.
    until: Millis,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    client: Ipv4Addr,
    mtu: u16,
    until: Millis,
}

impl NarrowClients {
    pub(super) fn new() -> Self {
        let nobody = Known {
            client: Ipv4Addr::UNSPECIFIED,
            mtu: 0,
            until: Millis(0),
        };
        Self {
            places: vec![nobody; CLIENTS].into_boxed_slice(),
            until: Millis(0),
        }
    }

    /// By the golden ratio, whose bits spread neighbouring addresses.
    fn place(client: Ipv4Addr) -> usize {
        (u32::from(client).wrapping_mul(0x9e37_79b1) >> (32 - CLIENTS_BITS)) as usize
    }

    fn note(&mut self, client: Ipv4Addr, mtu: u16, now: Millis) {
        self.until = now.plus(KEPT_MS);
        self.places[Self::place(client)] = Known {
            client,
            mtu,
            until: self.until,
        };
    }

    fn mtu_of(&self, client: Ipv4Addr, now: Millis) -> Option<u16> {
        if now >= self.until {
            return None;
        }
        let known = &self.places[Self::place(client)];
        (known.client == client && now < known.until).then_some(known.mtu)
    }
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
        // A datagram proves nothing: whoever forges a client's address could send
        // it and the message.
        if quote.protocol == proto::TCP && entry.has(flag::HANDSHAKE_DONE) {
            let (client, mtu) = (entry.client, entry.client_mtu);
            self.narrow_clients.note(client, mtu, self.now);
        }
        if quote.ip_len > floor {
            Told::Floor(floor)
        } else {
            Told::Nothing
        }
    }

    /// A new connection begins with what is known of its client's path.
    pub(super) fn recall_path_mtu(&self, entry: &mut Entry) {
        if self.snapshot.limits.min_path_mtu > NO_FLOOR
            && let Some(mtu) = self.narrow_clients.mtu_of(entry.client, self.now)
        {
            entry.client_mtu = mtu;
            entry.flags |= flag::NARROW;
        }
    }
}
