//! One polling worker: owns its shard of everything on the packet path.
//!
//! Read `path` for a packet's life from receive to send. Around it:
//!
//! ```text
//! parse    what a frame is             open     a new connection
//! path     look up, decide, translate  lend     its local address and port
//! out      next hop, transmit buffers  attempt  second tries with held SYNs
//! link     ARP                         hold     the store of held SYNs
//! announce gratuitous ARP              hops     next hops of connections, renewed
//! icmp     pings and translated errors health   servers that fail
//! answer   resets and ICMP of our own  close    state changes, timers, sweeps
//! evict    who gives way               kernel   packets of the kernel behind us
//! fragment IP fragments                owed     RSTs that wait for their turn
//! udp      first answers, and datagrams that their server did not get
//! borrow   local ports of other workers
//! pieces   what is too large for the way out
//! source   who may send what           limits   how much of the above it says
//! command  what the management core asks for
//! capture  copies of packets for `fullgatectl capture`
//! dropped  the last dropped packets, with their headers
//! late     answers of attempts that were given up, and ICMP errors about them
//! explain  what is known of one flow
//! verify   TCP and UDP checksums, where a packet would change state
//! ```
//!
//! A worker never allocates from the heap after it was made, locks, makes a
//! system call, reads a clock or logs. Time comes as an argument; what it wants
//! to tell goes into a ring.

mod announce;
mod answer;
mod attempt;
pub mod borrow;
mod capture;
mod close;
mod command;
pub mod dropped;
mod evict;
pub mod explain;
mod fragment;
mod health;
mod hold;
mod hops;
mod icmp;
pub mod kernel;
mod late;
mod lend;
mod limits;
mod link;
pub mod message;
mod open;
mod out;
mod owed;
pub mod parse;
mod path;
mod path_mtu;
mod pieces;
mod resend;
mod source;
#[cfg(test)]
mod tests;
mod udp;
mod verify;
mod vlan;

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use crate::conntrack::isn::IsnSecret;
use crate::conntrack::table::ConnTable;
use crate::ids::{PortIx, SetIx, WorkerIx};
use crate::io::{BURST, BurstIo, TX_BURST};
use crate::nat::fragments::{DATAGRAMS_PER_WAITING, Fragments};
use crate::nat::ident::Idents;
use crate::neighbor::Neighbors;
use crate::rate::RateLimit;
use crate::service::schedule::Cursor;
use crate::service::snapshot::Snapshot;
use crate::snat::ports::PortSet;
use crate::stats::WorkerStats;
use crate::time::Millis;
use crate::wire::ethernet::MacAddr;

use announce::Announcing;
use borrow::{LOAN_MESSAGES, LoanMessage, Loans};
use capture::Captures;
use close::Sweeps;
use command::Notices;
use dropped::LastDrops;
use evict::Hand;
use fragment::Overtaking;
use health::{Health, Record};
use hold::HeldSyns;
use hops::HopWalk;
use kernel::{Kernel, KernelRings};
use limits::AnswerLimits;
use link::Defended;
use message::{Backlog, DropScan, Link, NeighborScan, PoolScan, Scan, Update};
use owed::Turns;
use path_mtu::NarrowClients;
use resend::Resend;

/// The time of one poll round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// For timers.
    pub ms: Millis,
    /// For load accounting: TSC cycles.
    pub tsc: u64,
}

/// A packet on its way to the worker that owns its flow.
#[derive(Debug)]
pub struct HandedOver<B> {
    /// Where it was received.
    pub port: PortIx,
    /// The packet as it was received.
    pub packet: B,
    /// It belongs to the connection on a local port that the other worker lent,
    /// and is not handed on.
    pub redirected: bool,
}

/// The rings between the workers. Each has one writer and one reader.
#[derive(Debug)]
pub struct Handover<B> {
    /// To each worker, by its index; one's own is not used.
    pub to: Vec<Arc<ArrayQueue<HandedOver<B>>>>,
    /// From each worker.
    pub from: Vec<Arc<ArrayQueue<HandedOver<B>>>>,
    /// The same for what they tell each other about local ports.
    pub loans_to: Vec<Arc<ArrayQueue<LoanMessage<B>>>>,
    /// From each worker.
    pub loans_from: Vec<Arc<ArrayQueue<LoanMessage<B>>>>,
}

/// One ring from each to each.
fn rings<T>(workers: usize, depth: usize) -> Vec<Vec<Arc<ArrayQueue<T>>>> {
    let row = |_| (0..workers).map(|_| Arc::new(ArrayQueue::new(depth)));
    (0..workers).map(|from| row(from).collect()).collect()
}

impl<B> Handover<B> {
    /// The rings of `workers` workers with room for `depth` packets each.
    pub fn mesh(workers: usize, depth: usize) -> Vec<Self> {
        let packets = rings(workers, depth);
        let loans = rings(workers, LOAN_MESSAGES);
        (0..workers)
            .map(|me| Self {
                to: packets[me].clone(),
                from: packets.iter().map(|row| Arc::clone(&row[me])).collect(),
                loans_to: loans[me].clone(),
                loans_from: loans.iter().map(|row| Arc::clone(&row[me])).collect(),
            })
            .collect()
    }
}

/// SYNs a worker can keep for a second attempt, unless it is told otherwise.
const HELD_SYNS: usize = 4_096;

/// A worker that did not run for so long reads what came meanwhile before
/// time-outs count: an answer that lies in a queue is no silence.
const STALL_MS: u64 = 20;

/// The longest that time-outs wait for that.
const CATCH_UP_MS: u64 = 50;

/// The furthest that a worker's time moves on between two rounds.
const LEAP_MS: u64 = 10 * 24 * 60 * 60 * 1_000;

/// Next hops a worker can know, unless it is told otherwise.
pub const NEIGHBORS: usize = 24_576;

/// Datagrams in fragments that a worker can remember at a time, unless it is
/// told otherwise.
const FRAGMENTS: usize = 4_096;

/// What a worker, and its counters, have slots for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Ports.
    pub ports: usize,
    /// Services.
    pub services: usize,
    /// Real servers.
    pub servers: usize,
    /// Local-port sets.
    pub sets: usize,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup<B> {
    /// Which worker.
    pub ix: WorkerIx,
    /// Its connection table.
    pub table: ConnTable,
    /// SYNs it can hold.
    pub held_syns: usize,
    /// Next hops it can know.
    pub neighbors: usize,
    /// Datagrams in fragments that it can remember at a time.
    pub fragments: usize,
    /// Its slots.
    pub room: Room,
    /// Its counters.
    pub stats: Arc<WorkerStats>,
    /// Its rings to and from the management core.
    pub link: Link,
    /// Its rings to and from the other workers.
    pub handover: Handover<B>,
    /// Its rings to and from the kernel's interfaces, where there are any.
    pub kernel: Option<KernelRings>,
    /// Keys the initial sequence numbers it makes up.
    pub isn_secret: IsnSecret,
}

impl<B> Setup<B> {
    /// With new counters and new rings to the management core, and none to the
    /// kernel.
    pub fn new(
        ix: WorkerIx,
        table: ConnTable,
        room: Room,
        handover: Handover<B>,
        isn_secret: IsnSecret,
    ) -> Self {
        Self {
            ix,
            table,
            held_syns: HELD_SYNS,
            neighbors: NEIGHBORS,
            fragments: FRAGMENTS,
            room,
            stats: Arc::new(WorkerStats::new(room.ports, room.servers, room.services)),
            link: Link::new(),
            handover,
            kernel: None,
            isn_secret,
        }
    }
}

/// What the packet path wants of a port, without a look into the snapshot.
#[derive(Clone, Copy, Debug)]
struct PortFacts {
    mac: MacAddr,
    mtu: u16,
}

/// One worker. See the module's head.
#[derive(Debug)]
pub struct Worker<Io: BurstIo> {
    ix: WorkerIx,
    io: Io,
    snapshot: Arc<Snapshot>,
    table: ConnTable,
    sets: Vec<Option<Box<PortSet>>>,
    cursors: Vec<Cursor>,
    health: Vec<Health>,
    /// What is known of a local address towards a server, by its port set.
    paths: Vec<Record>,
    neighbors: Neighbors<Io::Buf>,
    held: HeldSyns,
    fragments: Fragments<Overtaking<Io::Buf>>,
    narrow_clients: NarrowClients,
    idents: Idents,
    tx: Vec<ArrayVec<Io::Buf, TX_BURST>>,
    ports: Vec<PortFacts>,
    min_mtu: u16,
    /// Flows not ours are handed over as they are received (software steering
    /// with more than one worker).
    steers: bool,
    stats: Arc<WorkerStats>,
    link: Link,
    backlog: Backlog,
    notices: Notices,
    handover: Handover<Io::Buf>,
    kernel: Option<Box<Kernel>>,
    /// For what it says unasked about others' packets.
    limits: AnswerLimits,
    sweep_limit: RateLimit,
    turns: Turns,
    isn_secret: IsnSecret,
    /// Counts connections, to take local addresses in turn.
    turn: usize,
    sweeps: Sweeps,
    scan: Option<Box<Scan>>,
    pool_scan: Option<Box<PoolScan>>,
    neighbor_scan: Option<Box<NeighborScan>>,
    drop_scan: Option<Box<DropScan>>,
    captures: Captures,
    last_drops: LastDrops,
    /// Where the packet that is being handled was received.
    receiving: Option<PortIx>,
    announcing: Announcing,
    defended: Defended,
    hop_walk: HopWalk,
    resend: Resend,
    loans: Loans,
    /// The packet that is being handled was redirected here: see
    /// [`HandedOver::redirected`].
    redirected: bool,
    /// Where eviction looks next.
    hand: Hand,
    now: Millis,
    /// After a stall, until when packets that wait come before timers.
    reads_until: Millis,
    ticked: Millis,
    last_tsc: u64,
    was_busy: bool,
    stopping: bool,
}

impl<Io: BurstIo> Worker<Io> {
    /// A worker with its first snapshot, which goes back through the link like
    /// every other.
    pub fn new(setup: Setup<Io::Buf>, io: Io, first: Box<Update>, now: Now) -> Self {
        let limits = first.snapshot.limits;
        let kernel = setup
            .kernel
            .map(|rings| Box::new(Kernel::new(rings, &first.snapshot, now.ms)));
        let ports = io.ports();
        let key = setup.table.key();
        let mut worker = Self {
            ix: setup.ix,
            tx: (0..io.ports()).map(|_| ArrayVec::new()).collect(),
            ports: Vec::with_capacity(io.ports()),
            io,
            snapshot: Arc::clone(&first.snapshot),
            table: setup.table,
            sets: (0..setup.room.sets).map(|_| None).collect(),
            cursors: (0..setup.room.services)
                .map(|_| Cursor(u32::from(setup.ix.0)))
                .collect(),
            health: vec![Health::default(); setup.room.servers],
            paths: vec![Record::default(); setup.room.sets],
            neighbors: Neighbors::new(setup.neighbors),
            held: HeldSyns::new(setup.held_syns),
            fragments: Fragments::new(
                setup.fragments,
                setup.fragments / DATAGRAMS_PER_WAITING as usize,
                key,
            ),
            narrow_clients: NarrowClients::new(),
            idents: Idents::new(setup.ix, setup.handover.to.len(), key),
            min_mtu: 0,
            steers: false,
            stats: setup.stats,
            link: setup.link,
            backlog: Backlog::new(),
            notices: Notices::NEW,
            handover: setup.handover,
            kernel,
            limits: AnswerLimits::new(&limits, &setup.isn_secret, now.ms),
            sweep_limit: RateLimit::new(
                limits.resets_per_second,
                owed::burst_of(limits.resets_per_second),
                now.ms,
            ),
            turns: Turns::new(now.ms),
            isn_secret: setup.isn_secret,
            turn: usize::from(setup.ix.0),
            sweeps: Sweeps::default(),
            scan: None,
            pool_scan: None,
            neighbor_scan: None,
            drop_scan: None,
            captures: Captures::new(ports),
            last_drops: LastDrops::new(),
            receiving: None,
            announcing: Announcing::everything(now.ms),
            defended: Defended::new(),
            hop_walk: HopWalk::default(),
            resend: Resend::default(),
            loans: Loans::NONE,
            redirected: false,
            hand: Hand::default(),
            now: now.ms,
            reads_until: now.ms,
            ticked: now.ms,
            last_tsc: now.tsc,
            was_busy: false,
            stopping: false,
        };
        let room = worker.neighbors.capacity() as u64;
        worker.stats.next_hops.room.set(room);
        worker.apply(first);
        worker
    }

    /// One round: commands, a burst from every port, what other workers handed
    /// over, what the kernel sends, timers and other background work in bounded
    /// portions, transmit.
    /// Returns how much there was to do; 0 means idle.
    #[inline]
    pub fn poll(&mut self, now: Now) -> usize {
        self.account(now);
        let passed = now.ms.since(self.now);
        if passed > STALL_MS {
            if passed > LEAP_MS {
                return self.leap();
            }
            self.reads_until = now.ms.plus(CATCH_UP_MS);
        }
        self.now = now.ms;
        let mut work = self.commands();
        let mut packets = 0;
        for port in 0..self.tx.len() {
            packets += self.burst(PortIx(port as u8));
        }
        packets += self.handed_over();
        self.receiving = None;
        packets += self.injected();
        work += self.background(packets);
        self.flush();
        self.was_busy = packets + work > 0;
        packets + work
    }

    /// A round of a worker that did not run for weeks (a virtual machine that
    /// was held). It goes through them in leaps, and takes no packet meanwhile:
    /// entries compare times of the last 24 days only, so none may be older than
    /// that before its timer has been looked at.
    #[cold]
    fn leap(&mut self) -> usize {
        if !self.table.timers_are_behind(self.now.stamp()) {
            self.now = self.now.plus(LEAP_MS);
        }
        let work = self.commands() + self.background(0);
        self.flush();
        self.was_busy = true;
        // The next round is not to wait.
        work.max(1)
    }

    /// Whether the management core asked the worker to leave its loop.
    pub fn stopping(&self) -> bool {
        self.stopping
    }

    /// The packet source and sink.
    pub fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    /// The connection table, for tests and the benchmark.
    pub fn table(&self) -> &ConnTable {
        &self.table
    }

    /// Cycles since the last round belong to that round: a busy one if it
    /// found something to do.
    #[inline(always)]
    fn account(&mut self, now: Now) {
        let cycles = now.tsc.wrapping_sub(self.last_tsc);
        self.last_tsc = now.tsc;
        self.stats.polls.add(1);
        self.stats.cycles.add(cycles);
        if self.was_busy {
            self.stats.busy_polls.add(1);
            self.stats.busy_cycles.add(cycles);
        }
    }

    /// Everything that is not a packet, a bounded portion of each; so many packets
    /// came in this round.
    #[inline]
    fn background(&mut self, packets: usize) -> usize {
        let mut work = 0;
        // A full burst: there is more in the queues.
        if packets < BURST || self.now.reached(self.reads_until) {
            work += self.timers();
        }
        work += self.sweep();
        work += self.seek_guest();
        work += self.walk_hops();
        work += self.scan();
        work += self.pool_scan();
        work += self.neighbor_scan();
        work += self.drop_scan();
        if self.ticked != self.now {
            self.ticked = self.now;
            self.tick();
            work += self.loan_messages();
        }
        work
    }

    /// Once a millisecond.
    fn tick(&mut self) {
        self.tend_neighbors();
        self.announce();
        self.tend_fragments();
        self.stats.connections.set(self.table.len() as u64);
        self.stats.pending.set(self.neighbors.waiting() as u64);
        self.stats.held_syns.set(self.held.len() as u64);
    }

    fn set(&mut self, set: SetIx) -> Option<&mut PortSet> {
        self.sets.get_mut(set.ix())?.as_deref_mut()
    }
}
