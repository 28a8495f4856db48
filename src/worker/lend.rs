//! Local ports for new connections: which address, which port, and what is
//! known of the connection that had it before.

use std::net::Ipv4Addr;

use super::Worker;
use crate::conntrack::entry::ServerTuple;
use crate::conntrack::isn::Previous;
use crate::ids::{ServerIx, SetIx};
use crate::io::BurstIo;
use crate::stats::Event;

/// A local address and port lent to a connection.
pub(super) struct Lent {
    pub(super) local: Ipv4Addr,
    pub(super) port: u16,
    pub(super) set: SetIx,
    /// The server may still hold this connection of the same tuple.
    pub(super) previous: Option<Previous>,
}

impl<Io: BurstIo> Worker<Io> {
    /// A local port towards a server: a rested one of any local address, the
    /// addresses taken in turn; else, for TCP, one whose connection is over.
    pub(super) fn lend(&mut self, server_ix: ServerIx, protocol: u8) -> Option<Lent> {
        let locals = &self.snapshot.server(server_ix)?.locals;
        let first = self.turn;
        self.turn = self.turn.wrapping_add(1);
        let nth = |i: usize| locals[first.wrapping_add(i) % locals.len()];
        for i in 0..locals.len() {
            let (local, set) = nth(i);
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
        None
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
        let server = self.snapshot.server(server_ix)?;
        let tuple = ServerTuple {
            server: server.addr,
            local,
            server_port: server.port,
            local_port: port,
            protocol,
        };
        let slot = self
            .table
            .find_server(self.table.server_hash(&tuple), &tuple)?;
        let previous = Previous::of(self.table.get(slot));
        self.remove_keeping_port(slot);
        Some(previous)
    }
}
