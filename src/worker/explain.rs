//! What a worker knows of one flow, for `fullgatectl explain`: its connection
//! if there is one, else what would become of a new one. Changes nothing.

use std::net::Ipv4Addr;

use super::Worker;
use super::message::Reply;
use super::message::probe::{Candidate, Found, Hop, Probe};
use super::open::Opening;
use crate::conntrack::entry::Entry;
use crate::ids::{NeighborIx, ServerIx};
use crate::io::BurstIo;

impl<Io: BurstIo> Worker<Io> {
    /// Answers a question.
    #[cold]
    pub(super) fn explain(&mut self, mut probe: Box<Probe>) {
        let tuple = probe.tuple;
        let found = self.table.find(self.table.hash(&tuple), &tuple);
        probe.found = found.map(|(slot, direction)| {
            let entry = *self.table.get(slot);
            Found {
                entry,
                direction,
                client_hop: self.hop_now(entry.client_hop, entry.client),
                server_hop: self.hop_now(entry.server_hop, entry.server_addr),
            }
        });
        probe.source_hop = self.hop_now(Entry::NO_NEIGHBOR, tuple.src);
        for candidate in &mut probe.candidates {
            *candidate = self.candidate(candidate.server);
        }
        if let Some(service) = probe.service {
            // The scheduler stays where it is.
            let cursor = self.cursors.get(service.ix()).copied();
            probe.next = self.pick(service, tuple.src, &Opening::default());
            if let (Some(cursor), Some(place)) = (cursor, self.cursors.get_mut(service.ix())) {
                *place = cursor;
            }
        }
        probe.entries = (self.table.len(), self.table.capacity());
        probe.now = self.now;
        self.tell(Reply::Explained(probe));
    }

    fn candidate(&self, ix: ServerIx) -> Candidate {
        let mut candidate = Candidate::new(ix);
        let Some(server) = self.snapshot.server(ix) else {
            return candidate;
        };
        let health = self.health.get(ix.ix());
        candidate.sound = health.is_none_or(|health| health.usable(self.now, false));
        candidate.active = self.stats.server(ix).active.get();
        for (_, set) in &server.locals {
            if let Some(Some(set)) = self.sets.get(set.ix()) {
                candidate.free_ports += set.free_count();
                candidate.resting_ports += set.resting_count();
            }
        }
        candidate.hop = self.hop_now(Entry::NO_NEIGHBOR, server.addr);
        candidate
    }

    /// The next hop that an entry has, or that it would get.
    fn hop_now(&self, ix: NeighborIx, destination: Ipv4Addr) -> Option<Hop> {
        let known = match self.neighbors.hop(ix) {
            Some(known) => Some(known),
            None => {
                let next = self.snapshot.routes.lookup(destination)?;
                let Some(known) = self.neighbors.known(next) else {
                    return Some(Hop {
                        next,
                        condition: None,
                        mac: None,
                    });
                };
                Some(known)
            }
        }?;
        Some(Hop {
            next: known.hop,
            condition: Some(known.shown()),
            mac: known.mac(),
        })
    }
}
