//! What a worker knows of one flow, for `fullgatectl explain`: its connection
//! if there is one, else what would become of a new one. Changes nothing.

use std::net::Ipv4Addr;

use super::Worker;
use super::message::Reply;
use super::open::Opening;
use crate::conntrack::entry::{Direction, Entry, FlowTuple};
use crate::ids::{NeighborIx, ServerIx, ServiceIx};
use crate::io::BurstIo;
use crate::neighbor::Condition;
use crate::service::route::NextHop;
use crate::time::Millis;
use crate::wire::ethernet::MacAddr;

/// Most servers looked at: it is done between two bursts.
pub const CANDIDATES: usize = 64;

/// A question about a flow, and what a worker knows of it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// As its packets are received, from the client or from the server.
    pub tuple: FlowTuple,
    /// The service that a new connection would be of.
    pub service: Option<ServiceIx>,
    /// The connection, if the worker has it.
    pub found: Option<Found>,
    /// Towards the sender of the question's packets; `None`: no route.
    pub source_hop: Option<Hop>,
    /// Servers of the service, at most [`CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// The server that the scheduler would pick now.
    pub next: Option<ServerIx>,
    /// Entries in the table, and how many it has room for.
    pub entries: (usize, usize),
    /// The worker's time.
    pub now: Millis,
}

/// A connection with its next hops.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub entry: Entry,
    /// Which way the packets of the question go.
    pub direction: Direction,
    pub client_hop: Option<Hop>,
    pub server_hop: Option<Hop>,
}

/// A next hop as the worker knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    pub next: NextHop,
    /// As people see it; `None`: nobody has sent to it.
    pub condition: Option<Condition>,
    /// Where it is known.
    pub mac: Option<MacAddr>,
}

/// A server that a new connection could go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub server: ServerIx,
    /// It has not failed SYNs of this worker so often that it is left out.
    pub sound: bool,
    /// Active connections on this worker.
    pub active: u64,
    /// Local ports towards it on this worker: free, and resting.
    pub free_ports: u32,
    pub resting_ports: u32,
    /// `None` where no route leads there.
    pub hop: Option<Hop>,
}

impl Candidate {
    /// One that the worker has not looked at.
    pub fn new(server: ServerIx) -> Self {
        Self {
            server,
            sound: false,
            active: 0,
            free_ports: 0,
            resting_ports: 0,
            hop: None,
        }
    }
}

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
