//! Local ports for new connections: which server, which address, which port,
//! and what is known of the connection that had it before.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::Worker;
use super::health::is_sound;
use super::parse::Packet;
use crate::conntrack::entry::Entry;
use crate::conntrack::isn::Previous;
use crate::ids::{ServerIx, ServiceIx, SetIx, WorkerIx};
use crate::io::BurstIo;
use crate::service::snapshot::Server;
use crate::stats::Event;
use crate::time::Millis;

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
    /// Of another worker's ports: whose, and its number of the loan.
    pub(super) loan: Option<(WorkerIx, u32)>,
}

impl Lent {
    /// Who talks to whom over it, in an entry made now.
    pub(super) fn entry(
        &self,
        at: &Packet,
        server_ix: ServerIx,
        server: &Server,
        now: Millis,
    ) -> Entry {
        Entry {
            client: at.src,
            client_port: at.src_port,
            vip: at.dst,
            vip_port: at.dst_port,
            local: self.local,
            local_port: self.port,
            server_addr: server.addr,
            server_port: server.port,
            protocol: at.protocol,
            server: server_ix,
            set: self.set,
            last_seen: now.stamp(),
            created: now,
            ..Entry::FREE
        }
    }
}

/// Which servers are asked for a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// Those that have one free or resting.
    WithPorts,
    /// After them also those where something would have to give way.
    All,
}

impl<Io: BurstIo> Worker<Io> {
    /// A local port where the chosen server has none free or resting: one whose
    /// connection gives way; else one towards another server of the service.
    pub(super) fn lend_giving_way(
        &mut self,
        service_ix: ServiceIx,
        chosen: ServerIx,
        at: &Packet,
        avoid: Option<ServerIx>,
    ) -> Option<(ServerIx, Lent)> {
        match self.lend_taken(chosen, at.protocol) {
            Some(lent) => Some((chosen, lent)),
            None => self.lend_elsewhere(service_ix, chosen, at, avoid, Asked::All),
        }
    }

    /// A port towards another server than `full`. First those are asked that
    /// have one free or resting, then those where something would have to give
    /// way, if that is wanted.
    #[cold]
    #[inline(never)]
    pub(super) fn lend_elsewhere(
        &mut self,
        service_ix: ServiceIx,
        full: ServerIx,
        at: &Packet,
        avoid: Option<ServerIx>,
        whom: Asked,
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
                if whom == Asked::WithPorts || !std::mem::take(&mut with_ports) {
                    return None;
                }
                continue;
            };
            let rested = self.lend_rested(other, at.protocol, None);
            let lent = match whom {
                Asked::WithPorts => rested,
                Asked::All => rested.or_else(|| self.lend_taken(other, at.protocol)),
            };
            if let Some(lent) = lent {
                self.stats.event(Event::LocalPortElsewhere).add(1);
                return Some((other, lent));
            }
            asked.push(other);
        }
        None
    }

    /// A local port towards a server: a rested one of any local address, the
    /// addresses taken in turn; else one whose connection is over. An address to
    /// `avoid`, or out of use towards this server, comes last.
    pub(super) fn lend_rested(
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
        for (sound, is_stolen) in [(true, false), (true, true), (false, false), (false, true)] {
            for i in 0..locals.len() {
                let (local, set) = nth(i);
                if is_sound(local, set) != sound {
                    continue;
                }
                let ports = self.sets.get_mut(set.ix()).and_then(Option::as_deref_mut);
                let lease = ports.and_then(|ports| match is_stolen {
                    false => ports.allocate(),
                    true => ports.steal(),
                });
                let Some(lease) = lease else { continue };
                let port = lease.into_port();
                let previous = match is_stolen {
                    false => None,
                    true => self.end_stolen(server_ix, local, port, protocol),
                };
                return Some(Lent {
                    local,
                    port,
                    set,
                    previous,
                    loan: None,
                });
            }
        }
        None
    }

    /// A local port towards a server whose connection gives way.
    fn lend_taken(&mut self, server_ix: ServerIx, protocol: u8) -> Option<Lent> {
        let (local, set, port) = self.take_port(server_ix, protocol, self.turn.wrapping_sub(1))?;
        Some(Lent {
            local,
            port,
            set,
            previous: None,
            loan: None,
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
        let tuple = self
            .snapshot
            .server(server_ix)?
            .tuple_from(local, port, protocol);
        let slot = self
            .table
            .find_server(self.table.server_hash(&tuple), &tuple)?;
        let previous = Previous::of(self.table.get(slot));
        self.remove_keeping_port(slot);
        Some(previous)
    }
}
