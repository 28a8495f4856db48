//! Counters. Each worker owns one [`WorkerStats`] and is its only writer; the
//! management core reads with relaxed loads. A counter is a plain load and
//! store on a cache line that nobody else writes: no lock prefix.

mod drops;
mod ends;
mod events;
pub mod readings;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use drops::DropReason;
pub use ends::EndCause;
pub use events::Event;

use crate::ids::{PortIx, ServerIx, ServiceIx};

/// A counter or gauge with one writer.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; only the owning worker calls this.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts `n` from a gauge; only the owning worker calls this.
    #[inline(always)]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets a gauge; only the owning worker calls this.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Raises a high-water mark to at least `value`.
    #[inline(always)]
    pub fn raise_to(&self, value: u64) {
        if value > self.get() {
            self.set(value);
        }
    }

    /// The current value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Packets and bytes through one port, as the worker saw them. Bytes are
/// frame bytes from the Ethernet header on, without FCS.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: Counter,
    /// Bytes received.
    pub rx_bytes: Counter,
    /// Packets the driver took for transmission.
    pub tx_packets: Counter,
    /// Bytes the driver took for transmission.
    pub tx_bytes: Counter,
}

/// One real server's traffic and connections on one worker. Bytes are IP bytes.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ServerCounters {
    /// Packets from clients sent to the server.
    pub in_packets: Counter,
    /// IP bytes from clients sent to the server.
    pub in_bytes: Counter,
    /// Packets from the server sent to clients.
    pub out_packets: Counter,
    /// IP bytes from the server sent to clients.
    pub out_bytes: Counter,
    /// Connections (UDP: flows) ever scheduled to the server.
    pub connections: Counter,
    /// Gauge: connections that count as active (see `State::is_active`).
    pub active: Counter,
    /// Gauge: entries of the server in the table that are not active.
    pub inactive: Counter,
    /// SYNs that the server answered with RST or did not answer in time.
    pub failures: Counter,
}

impl ServerCounters {
    /// Begins at 0 again. For the management core, before it gives the slot to
    /// another server: while no worker has a connection of it, none writes.
    pub fn clear(&self) {
        for counter in [
            &self.in_packets,
            &self.in_bytes,
            &self.out_packets,
            &self.out_bytes,
            &self.connections,
            &self.active,
            &self.inactive,
            &self.failures,
        ] {
            counter.set(0);
        }
    }
}

/// Upper bounds of [`ConnectTimes::counts`], milliseconds; one more has none.
pub const CONNECT_BOUNDS_MS: [u32; 10] = [1, 2, 5, 10, 25, 50, 100, 250, 1_000, 5_000];

/// How long real servers took to accept connections: from the SYN that went to
/// the server to its SYN-ACK.
#[derive(Debug, Default)]
pub struct ConnectTimes {
    /// By [`CONNECT_BOUNDS_MS`], each without those before it.
    pub counts: [Counter; CONNECT_BOUNDS_MS.len() + 1],
    /// All of them, milliseconds.
    pub sum_ms: Counter,
}

impl ConnectTimes {
    /// Adds a connection that took `ms` milliseconds.
    pub fn note(&self, ms: u32) {
        let bucket = CONNECT_BOUNDS_MS.partition_point(|bound| *bound < ms);
        self.counts[bucket].add(1);
        self.sum_ms.add(ms.into());
    }
}

/// What of one service can't be told from its servers' counters.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ServiceCounters {
    /// Connections refused for want of a usable real server.
    pub no_server: Counter,
    /// Connections refused for want of a local port.
    pub no_local_port: Counter,
    /// Connections refused because the table was full.
    pub table_full: Counter,
    /// Segments of unknown connections.
    pub unknown_flow: Counter,
    /// Held SYNs sent to another real server.
    pub syn_moved: Counter,
    /// Connections that ended by their idle timeout.
    pub idled_out: Counter,
    /// Connections (UDP: flows) that are over, by [`EndCause`].
    pub ends: [Counter; EndCause::COUNT],
    /// How long its real servers took to accept.
    pub connect: ConnectTimes,
}

impl ServiceCounters {
    /// The counter of connections that ended this way.
    #[inline(always)]
    pub fn ended(&self, cause: EndCause) -> &Counter {
        &self.ends[cause as usize]
    }

    /// Begins at 0 again; see [`ServerCounters::clear`].
    pub fn clear(&self) {
        let plain = [
            &self.no_server,
            &self.no_local_port,
            &self.table_full,
            &self.unknown_flow,
            &self.syn_moved,
            &self.idled_out,
            &self.connect.sum_ms,
        ];
        let many = self.ends.iter().chain(&self.connect.counts);
        for counter in many.chain(plain) {
            counter.set(0);
        }
    }
}

/// Gauges: next hops of one kind, by condition, in the order of
/// [`Condition::ALL`](crate::neighbor::Condition::ALL).
#[derive(Debug, Default)]
pub struct ByCondition(pub [Counter; 4]);

impl ByCondition {
    /// Sets all of them.
    pub fn set(&self, counts: &[u32; 4]) {
        for (counter, count) in self.0.iter().zip(counts) {
            counter.set(u64::from(*count));
        }
    }
}

/// One worker's next hops.
#[derive(Debug, Default)]
pub struct NextHopCounters {
    /// Those that the configuration names.
    pub residents: ByCondition,
    /// All others.
    pub guests: ByCondition,
    /// Gauge: how many there is room for.
    pub room: Counter,
}

/// All counters of one worker, on cache lines of their own: those of several
/// workers lie side by side.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerStats {
    drops: [Counter; DropReason::COUNT],
    events: [Counter; Event::COUNT],
    ports: Box<[PortCounters]>,
    servers: Box<[ServerCounters]>,
    services: Box<[ServiceCounters]>,
    /// Poll rounds.
    pub polls: Counter,
    /// Poll rounds that found at least one packet.
    pub busy_polls: Counter,
    /// TSC cycles spent in busy poll rounds.
    pub busy_cycles: Counter,
    /// TSC cycles in all.
    pub cycles: Counter,
    /// Gauge: entries in the connection table.
    pub connections: Counter,
    /// Gauge: half-open entries.
    pub half_open: Counter,
    /// Packets handed to other workers.
    pub handed_over: Counter,
    /// Gauge: packets waiting for a next hop.
    pub pending: Counter,
    /// Next hops by condition.
    pub next_hops: NextHopCounters,
    /// Gauge: SYNs held for a second attempt.
    pub held_syns: Counter,
    /// Gauge: generation of the snapshot in force on the worker.
    pub generation: Counter,
}

impl WorkerStats {
    /// Counters for so many ports, servers and services, all 0.
    pub fn new(ports: usize, servers: usize, services: usize) -> Self {
        Self {
            drops: std::array::from_fn(|_| Counter::default()),
            events: std::array::from_fn(|_| Counter::default()),
            ports: (0..ports).map(|_| PortCounters::default()).collect(),
            servers: (0..servers).map(|_| ServerCounters::default()).collect(),
            services: (0..services).map(|_| ServiceCounters::default()).collect(),
            polls: Counter::default(),
            busy_polls: Counter::default(),
            busy_cycles: Counter::default(),
            cycles: Counter::default(),
            connections: Counter::default(),
            half_open: Counter::default(),
            handed_over: Counter::default(),
            pending: Counter::default(),
            next_hops: NextHopCounters::default(),
            held_syns: Counter::default(),
            generation: Counter::default(),
        }
    }

    /// The counter of a drop reason.
    #[inline(always)]
    pub fn drop_counter(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// The counter of an event.
    #[inline(always)]
    pub fn event(&self, event: Event) -> &Counter {
        &self.events[event as usize]
    }

    /// The counters of a port.
    #[inline(always)]
    pub fn port(&self, port: PortIx) -> &PortCounters {
        &self.ports[port.ix()]
    }

    /// The counters of a server slot.
    #[inline(always)]
    pub fn server(&self, server: ServerIx) -> &ServerCounters {
        &self.servers[server.ix()]
    }

    /// The counters of a service slot.
    #[inline(always)]
    pub fn service(&self, service: ServiceIx) -> &ServiceCounters {
        &self.services[service.ix()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_times_go_into_the_first_bucket_that_holds_them() {
        let times = ConnectTimes::default();
        for ms in [0, 1, 2, 3, 5, 5_000, 5_001, u32::MAX] {
            times.note(ms);
        }
        let counts = times.counts.each_ref().map(Counter::get);
        assert_eq!(counts, [2, 1, 2, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(times.sum_ms.get(), 10_012 + u64::from(u32::MAX));
    }
}
