//! A question about a flow, and its answer.

use crate::conntrack::entry::{Direction, Entry, FlowTuple};
use crate::ids::{ServerIx, ServiceIx};
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
