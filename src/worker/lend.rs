//! Local ports for new connections: which server, which address, which port,
//! and what is known of the connection that had it before.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::Worker;
use super::evict::tuple_towards;
use super::open::{Opening, is_sound};
use super::parse::Packet;
use crate::conntrack::isn::Previous;
use crate::ids::{ServerIx, ServiceIx, SetIx};
use crate::io::BurstIo;
use crate::stats::Event;

/// Servers asked for a port before a connection is refused, where no server has
/// one that is free or resting.
const SERVERS_ASKED: usize = 4;

/// A local address and port lent to a connection.
pub(super) struct Lent {
    pub(super) local: Ipv4Addr,
    pub(super) port: u16,
    pub(super) set: SetIx,
    /// The server may still hold this connection of the same tuple.
    pub(super) previous: Option<Previous>,
}

impl<Io: BurstIo> Worker<Io> {
    /// A local port towards `chosen`; where it has none to give, another server
    /// of the service and a port towards that. After a failed attempt
    /// from another local address, if there is one.
    #[inline]
    pub(super) fn lend_any(
        &mut self,
        service_ix: ServiceIx,
        chosen: ServerIx,
        at: &Packet,
        opening: &Opening,
    ) -> Option<(ServerIx, Lent)> {
        let avoid = opening.earlier.map(|slot| self.table.get(slot).local);
        match self.lend(chosen, at.protocol, avoid) {
            Some(lent) => Some((chosen, lent)),
            None => self.lend_elsewhere(service_ix, chosen, at, opening.avoid),
        }
    }

    /// A port towards another server than `full`. First those are asked that
    /// have one free or resting, then those where something would have to give
    /// way.
    #[cold]
    #[inline(never)]
    fn lend_elsewhere(
        &mut self,
        service_ix: ServiceIx,
        full: ServerIx,
        at: &Packet,
        avoid: Option<ServerIx>,
    ) -> Option<(ServerIx, Lent)> {
        let mut asked = ArrayVec::<ServerIx, SERVERS_ASKED>::new();
        asked.push(full);
        let mut with_ports = true;
        while !asked.is_full() {
            let (snapshot, sets) = (&self.snapshot, &self.sets);
            let has_port = |server| {
                let locals = snapshot.server(server).map(|server| &server.locals);
                locals.into_iter().flatten().any(|(_, set)| {
                    let set = sets.get(set.ix()).and_then(Option::as_deref);
                    set.is_some_and(|set| set.used_count() < set.capacity())
                })
            };
            let wanted = |server| !asked.contains(&server) && (!with_ports || has_port(server));
            let other = self.cursors.get_mut(service_ix.ix()).and_then(|cursor| {
                self.snapshot.service(service_ix)?.plan.pick(
                    cursor,
                    at.src,
                    |server| self.stats.server(server).active.get(),
                    |server| {
                        wanted(server)
                            && is_sound(snapshot, &self.health, server, self.now, avoid, true)
                    },
                )
            });
            let Some(other) = other else {
                if !std::mem::take(&mut with_ports) {
                    return None;
                }
                continue;
            };
            if let Some(lent) = self.lend(other, at.protocol, None) {
                self.stats.event(Event::LocalPortElsewhere).add(1);
                return Some((other, lent));
            }
            asked.push(other);
        }
        None
    }

    /// A local port towards a server: a rested one of any local address, the
    /// addresses taken in turn; else one whose connection is over; else one
    /// whose connection gives way. An address to `avoid`, or out of use towards
    /// this server, comes last.
    pub(super) fn lend(
        &mut self,
        server_ix: ServerIx,
        protocol: u8,
        avoid: Option<Ipv4Addr>,
    ) -> Option<Lent> {
        let locals = &self.snapshot.server(server_ix)?.locals;
        let first = self.turn;
        self.turn = self.turn.wrapping_add(1);
        let nth = |i: usize| locals[first.wrapping_add(i) % locals.len()];
        let (paths, now) = (&self.paths, self.now);
        let is_sound = |local, set: SetIx| {
            avoid != Some(local) && paths.get(set.ix()).is_none_or(|path| path.usable(now))
        };
        for sound in [true, false] {
            for i in 0..locals.len() {
                let (local, set) = nth(i);
                if is_sound(local, set) != sound {
                    continue;
                }
                let lease = self
                    .sets
                    .get_mut(set.ix())
                    .and_then(|slot| slot.as_deref_mut()?.allocate());
                if let Some(lease) = lease {
                    return Some(Lent {
                        local,
                        port: lease.into_port(),
                        set,
                        previous: None,
                    });
                }
            }
            for i in 0..locals.len() {
                let (local, set) = nth(i);
                if is_sound(local, set) != sound {
                    continue;
                }
                let lease = self
                    .sets
                    .get_mut(set.ix())
                    .and_then(|slot| slot.as_deref_mut()?.steal());
                if let Some(lease) = lease {
                    let port = lease.into_port();
                    let previous = self.end_stolen(server_ix, local, port, protocol);
                    return Some(Lent {
                        local,
                        port,
                        set,
                        previous,
                    });
                }
            }
        }
        let (local, set, port) = self.take_port(server_ix, protocol, first)?;
        Some(Lent {
            local,
            port,
            set,
            previous: None,
        })
    }

    /// The entry that kept a stolen port goes; what the server may remember of
    /// it stays.
    fn end_stolen(
        &mut self,
        server_ix: ServerIx,
        local: Ipv4Addr,
        port: u16,
        protocol: u8,
    ) -> Option<Previous> {
        self.stats.event(Event::LocalPortStolen).add(1);
        let tuple = tuple_towards(self.snapshot.server(server_ix)?, local, port, protocol);
        let slot = self
            .table
            .find_server(self.table.server_hash(&tuple), &tuple)?;
        let previous = Previous::of(self.table.get(slot));
        self.remove_keeping_port(slot);
        Some(previous)
    }
}
