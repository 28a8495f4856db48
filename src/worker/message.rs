//! What the management core and a worker say to each other, over bounded
//! lock-free rings. A worker allocates and frees nothing: whatever a command
//! brought goes back in a reply and is freed on the management core.

pub mod dropped;
pub mod probe;

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use serde::Deserialize;

use crate::capture::Tap;
use crate::conntrack::entry::Entry;
use crate::filter::Filter;
use crate::ids::{ServerIx, ServiceIx, SetIx};
use crate::neighbor::Condition;
use crate::service::route::NextHop;
use crate::service::snapshot::Snapshot;
use crate::snat::ports::PortSet;
use crate::stats::DropReason;
use crate::time::Millis;
use crate::wire::ethernet::MacAddr;
use dropped::{Dropped, KEPT};
use probe::Probe;

/// Management core → worker.
#[derive(Debug)]
pub enum Command {
    /// Put a new snapshot in force.
    Apply(Box<Update>),
    /// Announce our addresses on these ports, by their bits.
    Announce(u32),
    /// Copy matching connections out. At most one is with a worker at a time.
    Scan(Box<Scan>),
    /// Copy the use of port sets out. At most one is with a worker at a time.
    Pools(Box<PoolScan>),
    /// Copy the next hops out. At most one is with a worker at a time.
    Neighbors(Box<NeighborScan>),
    /// Copy the last dropped packets out. At most one is with a worker at a time.
    LastDrops(Box<DropScan>),
    /// Tell what is known of a flow.
    Explain(Box<Probe>),
    /// Begin a capture.
    Capture(Box<Tap>),
    /// End the capture of this number.
    EndCapture(u32),
    /// Leave the loop.
    Stop,
}

/// A new snapshot and what it needs.
#[derive(Debug)]
pub struct Update {
    /// The snapshot. After the worker has taken it, the one it replaced.
    pub snapshot: Arc<Snapshot>,
    /// Port sets that are new. After the worker has taken them, empty.
    pub new_sets: Vec<(SetIx, Box<PortSet>)>,
    /// Port sets no longer wanted. The worker moves those with all ports free
    /// into `returned_sets`; the others stay, and are asked for again.
    pub unwanted_sets: Vec<SetIx>,
    /// Port sets given back; has room for all of `unwanted_sets`.
    pub returned_sets: Vec<(SetIx, Box<PortSet>)>,
    /// Servers that are new or came back: what the worker knows of their failed
    /// SYNs is forgotten.
    pub fresh: Vec<ServerIx>,
}

impl Update {
    /// Of the snapshot alone.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            new_sets: Vec::new(),
            unwanted_sets: Vec::new(),
            returned_sets: Vec::new(),
            fresh: Vec::new(),
        }
    }
}

/// A next hop's MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learned {
    /// Whose it is, and where it was heard.
    pub hop: NextHop,
    /// What it is.
    pub mac: MacAddr,
}

/// What a worker tells the others of ARP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArpNews {
    /// It asks, and another worker may get the answer.
    Asked(NextHop),
    /// News of a next hop that it knows.
    Learned(Learned),
    /// An answer to a question that it did not ask.
    Overheard(Learned),
}

/// A bounded copy of connections. The worker walks its table a few hundred
/// slots between bursts, so a scan of a large table delays no packet.
#[derive(Debug)]
pub struct Scan {
    /// Which ones.
    pub filter: Filter,
    /// Those that are furthest in this order; `None`: the first ones.
    pub sort: Option<Order>,
    /// Those found: without an order in that of the table, and the walk ends
    /// when it is full; with one, a heap whose root is the next to go.
    pub found: Vec<Entry>,
    /// Most to find; `found` has room for them.
    pub limit: usize,
    /// Next slot to look at; the walk begins at 0.
    pub cursor: u32,
    /// The worker's time when the walk ended.
    pub now: Millis,
}

/// An order of connections, the largest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// By the time since their last packet.
    Idle,
    /// By the time since their first packet.
    Age,
}

impl Order {
    /// How far a connection is in this order.
    pub fn key(self, entry: &Entry, now: Millis) -> u64 {
        match self {
            Self::Idle => now.stamp().since(entry.last_seen).into(),
            Self::Age => now.since(entry.created),
        }
    }
}

/// A copy of how many local ports are in use. The worker looks at a few dozen
/// sets between bursts.
#[derive(Debug)]
pub struct PoolScan {
    /// Which sets; those the worker does not have are passed over.
    pub wanted: Arc<[SetIx]>,
    /// Those found, in the order of `wanted`; has room for all of them.
    pub found: Vec<SetUse>,
    /// Next of `wanted` to look at; begins at 0.
    pub cursor: usize,
}

impl PoolScan {
    /// A scan of these sets.
    pub fn new(wanted: Arc<[SetIx]>) -> Self {
        Self {
            found: Vec::with_capacity(wanted.len()),
            wanted,
            cursor: 0,
        }
    }
}

/// The local ports of one set of one worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetUse {
    /// The set.
    pub set: SetIx,
    /// Ports in all.
    pub capacity: u32,
    /// Ports of connections that go on.
    pub used: u32,
    /// Ports of connections that are over.
    pub resting: u32,
    /// SYNs that proved this local address at fault towards this server.
    pub failures: u32,
    /// It is out of use because of them.
    pub out: bool,
}

/// A copy of a worker's next hops. It looks at some of them between bursts.
#[derive(Debug)]
pub struct NeighborScan {
    /// Those found; has room for all of them.
    pub found: Vec<NeighborFound>,
    /// Next slot to look at; begins at 0.
    pub cursor: u16,
}

impl NeighborScan {
    /// Of a worker with room for so many next hops.
    pub fn new(room: usize) -> Self {
        Self {
            found: Vec::with_capacity(room),
            cursor: 0,
        }
    }
}

/// A next hop as one worker knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighborFound {
    /// Whose address, and where.
    pub hop: NextHop,
    /// What is known of it, as people see it.
    pub condition: Condition,
    /// The configuration names it.
    pub resident: bool,
    /// Its MAC address, where it is known.
    pub mac: Option<MacAddr>,
    /// Milliseconds since it was last heard; `None`: never.
    pub heard_ms_ago: Option<u64>,
}

/// A copy of the last dropped packets. The worker copies those of a few
/// reasons between bursts.
#[derive(Debug)]
pub struct DropScan {
    /// Those of one reason; `None`: of all.
    pub reason: Option<DropReason>,
    /// Those found; of one reason oldest first. Has room for all of them.
    pub found: Vec<(DropReason, Dropped)>,
    /// Next reason to look at.
    pub cursor: usize,
}

impl DropScan {
    /// A scan of one reason or all.
    pub fn new(reason: Option<DropReason>) -> Self {
        let reasons = reason.map_or(DropReason::COUNT, |_| 1);
        Self {
            reason,
            found: Vec::with_capacity(reasons * KEPT),
            cursor: 0,
        }
    }
}

/// Worker → management core.
#[derive(Debug)]
pub enum Reply {
    /// The update is in force; everything in it is to be freed.
    Applied(Box<Update>),
    /// The scan is complete.
    Scanned(Box<Scan>),
    /// The scan of port sets is complete.
    Pools(Box<PoolScan>),
    /// The copy of the next hops is complete.
    Neighbors(Box<NeighborScan>),
    /// The copy of the last dropped packets is complete.
    LastDrops(Box<DropScan>),
    /// What is known of a flow.
    Explained(Box<Probe>),
    /// The capture of this number has begun.
    Capturing(u32),
    /// The capture has ended; its tap is to be freed.
    Captured(Box<Tap>),
    /// A real server answered a SYN with RST or not in time.
    ServerFailed(ServerIx),
    /// A real server completed a handshake after it had failed.
    ServerAnswered(ServerIx),
    /// A condition worth a log line; of what packets can bring about, at most
    /// one of each kind a second.
    Notice(Notice),
    /// The worker has left its loop.
    Stopped,
}

/// Conditions worth a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// All local ports towards a server are in use.
    NoLocalPort(ServerIx),
    /// The connection table is full.
    TableFull,
    /// A service has no usable server.
    NoServer(ServiceIx),
    /// A next hop that the configuration names does not answer ARP.
    NextHopSilent(NextHop),
    /// It answers again.
    NextHopAnswers(NextHop),
    /// Another machine says that one of our addresses is its own.
    AddressClaimed(NextHop, MacAddr),
}

impl Notice {
    /// How many kinds there are that packets can bring about.
    pub const KINDS: usize = 4;

    /// Which of them it is; `None` where a next hop changed, which is told each
    /// time.
    pub fn kind(self) -> Option<usize> {
        match self {
            Self::NoLocalPort(_) => Some(0),
            Self::TableFull => Some(1),
            Self::NoServer(_) => Some(2),
            Self::AddressClaimed(..) => Some(3),
            Self::NextHopSilent(_) | Self::NextHopAnswers(_) => None,
        }
    }
}

/// Most commands a worker takes between two bursts.
pub const COMMANDS_PER_POLL: usize = 4;

/// Replies that found the ring full and wait in the worker.
pub type Backlog = ArrayVec<Reply, 64>;

/// Both rings between the management core and one worker.
#[derive(Clone, Debug)]
pub struct Link {
    /// Management core → worker.
    pub commands: Arc<ArrayQueue<Command>>,
    /// Worker → management core.
    pub replies: Arc<ArrayQueue<Reply>>,
    /// Worker → management core: ARP alone, which others on the network decide
    /// how much there is of.
    pub heard: Arc<ArrayQueue<ArpNews>>,
    /// Management core → worker: what other workers learned.
    pub told: Arc<ArrayQueue<Learned>>,
}

impl Link {
    /// Empty rings.
    pub fn new() -> Self {
        Self {
            commands: Arc::new(ArrayQueue::new(1024)),
            replies: Arc::new(ArrayQueue::new(4096)),
            heard: Arc::new(ArrayQueue::new(1024)),
            told: Arc::new(ArrayQueue::new(1024)),
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}
