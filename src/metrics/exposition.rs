//! From counters to text: which metric gets which value.

use std::fmt::Display;
use std::net::SocketAddrV4;
use std::sync::Arc;

use super::families as f;
use super::headroom::PortUse;
use super::text::Exposition;
use super::{Reload, Shared, health, unix_seconds};
use crate::ids::{PortIx, ServerIx, ServiceIx};
use crate::neighbor::Condition;
use crate::service::snapshot::{Server, ServerState, Service, Snapshot};
use crate::stats::readings::Level;
use crate::stats::{
    CONNECT_BOUNDS_MS, ConnectTimes, Counter, DropReason, EndCause, Event, ServerCounters,
    ServiceCounters, WorkerStats,
};
use crate::wire::proto;

/// Which counter of a group.
type Of<T> = fn(&T) -> &Counter;

/// Which figure of a local-port row.
type Reading = fn(&PortUse) -> f64;

/// All metrics as they are now.
pub(super) fn write(shared: &Shared) -> String {
    let (snapshot, ports, checks, reload) = {
        let view = shared.view();
        (
            Arc::clone(&view.snapshot),
            Arc::clone(&view.ports),
            Arc::clone(&view.health),
            view.reload,
        )
    };
    let mut text = Exposition::default();
    process(&mut text, shared, &snapshot, reload);
    services(&mut text, &shared.sources.stats, &snapshot);
    servers(&mut text, &shared.sources.stats, &snapshot);
    health::write(&mut text, shared, &checks);
    pools(&mut text, &ports);
    workers(&mut text, shared);
    network(&mut text, shared, &snapshot);
    text.finish()
}

fn process(text: &mut Exposition, shared: &Shared, snapshot: &Snapshot, reload: Reload) {
    let version = env!("CARGO_PKG_VERSION");
    text.family(&f::BUILD_INFO).add(&[&version], 1);
    text.family(&f::START_TIME)
        .add(&[], unix_seconds(shared.started));
    text.family(&f::CONFIG_GENERATION)
        .add(&[], snapshot.generation);
    text.family(&f::RELOAD_SUCCESSFUL)
        .add(&[], u8::from(reload.successful));
    text.family(&f::RELOAD_TIME)
        .add(&[], unix_seconds(reload.succeeded));
}

fn sum(stats: &[Arc<WorkerStats>], of: impl Fn(&WorkerStats) -> u64) -> u64 {
    stats
        .iter()
        .fold(0, |sum, worker| sum.wrapping_add(of(worker)))
}

fn services(text: &mut Exposition, stats: &[Arc<WorkerStats>], snapshot: &Snapshot) {
    let services: Vec<(ServiceIx, &Service)> = (0..)
        .map(ServiceIx)
        .zip(&snapshot.services)
        .filter_map(|(ix, service)| Some((ix, service.as_ref()?)))
        .collect();
    let count = |ix, of: fn(&ServiceCounters) -> &Counter| {
        sum(stats, |worker| of(worker.service(ix)).get())
    };
    let mut samples = text.family(&f::SERVICE_INFO);
    for (_, service) in &services {
        let vip = SocketAddrV4::new(service.vip, service.port);
        let protocol = proto::name(service.protocol);
        let scheduler = service.plan.kind().name();
        samples.add(&[&service.name, &vip, &protocol, &scheduler], 1);
    }
    let mut samples = text.family(&f::SERVICE_REFUSED);
    for &(ix, service) in &services {
        let reasons: [(DropReason, Of<ServiceCounters>); 3] = [
            (DropReason::NoServer, |c| &c.no_server),
            (DropReason::NoLocalPort, |c| &c.no_local_port),
            (DropReason::TableFull, |c| &c.table_full),
        ];
        for (reason, of) in reasons {
            samples.add(&[&service.name, &reason.name()], count(ix, of));
        }
    }
    let plain: [(_, Of<ServiceCounters>); 3] = [
        (&f::SERVICE_UNKNOWN, |c| &c.unknown_flow),
        (&f::SERVICE_SYN_MOVED, |c| &c.syn_moved),
        (&f::SERVICE_IDLED_OUT, |c| &c.idled_out),
    ];
    for (family, of) in plain {
        let mut samples = text.family(family);
        for &(ix, service) in &services {
            samples.add(&[&service.name], count(ix, of));
        }
    }
    let mut samples = text.family(&f::SERVICE_ENDED);
    for &(ix, service) in &services {
        for cause in EndCause::ALL {
            let ended = sum(stats, |worker| worker.service(ix).ended(cause).get());
            samples.add(&[&service.name, &cause.name()], ended);
        }
    }
    let bounds = CONNECT_BOUNDS_MS.map(|ms| f64::from(ms) / 1_000.0);
    let mut samples = text.family(&f::SERVICE_CONNECT);
    for &(ix, service) in &services {
        let times = |of: &dyn Fn(&ConnectTimes) -> u64| {
            sum(stats, |worker| of(&worker.service(ix).connect))
        };
        let counts: [u64; CONNECT_BOUNDS_MS.len() + 1] =
            std::array::from_fn(|bucket| times(&|times| times.counts[bucket].get()));
        let seconds = times(&|times| times.sum_ms.get()) as f64 / 1_000.0;
        samples.buckets(&[&service.name], &bounds, &counts, seconds);
    }
}

fn servers(text: &mut Exposition, stats: &[Arc<WorkerStats>], snapshot: &Snapshot) {
    // The name of one that is out of the configuration may be another's now.
    let servers: Vec<(ServerIx, &str, &Server)> = (0..)
        .map(ServerIx)
        .zip(&snapshot.servers)
        .filter_map(|(ix, server)| Some((ix, server.as_ref()?)))
        .filter(|(_, server)| server.state != ServerState::Removed)
        .filter_map(|(ix, server)| Some((ix, &*snapshot.service(server.service)?.name, server)))
        .collect();
    let count =
        |ix, of: fn(&ServerCounters) -> &Counter| sum(stats, |worker| of(worker.server(ix)).get());
    let mut samples = text.family(&f::SERVER_INFO);
    for (_, service, server) in &servers {
        let address = SocketAddrV4::new(server.addr, server.port);
        samples.add(&[service, &server.name, &address], 1);
    }
    let mut samples = text.family(&f::SERVER_STATE);
    for (_, service, server) in &servers {
        for state in [ServerState::Up, ServerState::Draining, ServerState::Down] {
            let labels: [&dyn Display; 3] = [service, &server.name, &state.name()];
            samples.add(&labels, u8::from(server.state == state));
        }
    }
    let mut samples = text.family(&f::SERVER_WEIGHT);
    for (_, service, server) in &servers {
        samples.add(&[service, &server.name], server.weight);
    }
    let plain: [(_, Of<ServerCounters>); 2] = [
        (&f::SERVER_NEW, |c| &c.connections),
        (&f::SERVER_FAILURES, |c| &c.failures),
    ];
    for (family, of) in plain {
        let mut samples = text.family(family);
        for (ix, service, server) in &servers {
            samples.add(&[service, &server.name], count(*ix, of));
        }
    }
    type Half = (&'static str, fn(&ServerCounters) -> &Counter);
    let halves: [(_, [Half; 2]); 3] = [
        (
            &f::SERVER_CONNECTIONS,
            [("active", |c| &c.active), ("inactive", |c| &c.inactive)],
        ),
        (
            &f::SERVER_PACKETS,
            [("in", |c| &c.in_packets), ("out", |c| &c.out_packets)],
        ),
        (
            &f::SERVER_BYTES,
            [("in", |c| &c.in_bytes), ("out", |c| &c.out_bytes)],
        ),
    ];
    for (family, halves) in halves {
        let mut samples = text.family(family);
        for (ix, service, server) in &servers {
            for (half, of) in halves {
                samples.add(&[service, &server.name, &half], count(*ix, of));
            }
        }
    }
}

fn pools(text: &mut Exposition, rows: &[PortUse]) {
    let mut samples = text.family(&f::POOL_PORTS);
    for PortUse {
        key,
        used,
        resting,
        free,
        ..
    } in rows
    {
        let protocol = proto::name(key.protocol);
        for (state, count) in [("used", used), ("resting", resting), ("free", free)] {
            samples.add(&[&key.pool, &key.server, &protocol, &state], count);
        }
    }
    let lowest: [(_, Reading); 2] = [
        (&f::POOL_FREE_MIN, |row| row.free_lowest as f64),
        (&f::POOL_SHARE_MIN, |row| row.share_lowest),
    ];
    for (family, of) in lowest {
        let mut samples = text.family(family);
        for row in rows {
            let key = &row.key;
            let protocol = proto::name(key.protocol);
            samples.add(&[&key.pool, &key.server, &protocol], of(row));
        }
    }
}

fn workers(text: &mut Exposition, shared: &Shared) {
    let workers = || shared.sources.stats.iter().enumerate();
    let plain: [(_, Of<WorkerStats>); 11] = [
        (&f::WORKER_CONNECTIONS, |s| &s.connections),
        (&f::WORKER_HALF_OPEN, |s| &s.half_open),
        (&f::WORKER_POLLS, |s| &s.polls),
        (&f::WORKER_BUSY_POLLS, |s| &s.busy_polls),
        (&f::WORKER_CYCLES, |s| &s.cycles),
        (&f::WORKER_BUSY_CYCLES, |s| &s.busy_cycles),
        (&f::WORKER_HANDED_OVER, |s| &s.handed_over),
        (&f::WORKER_PENDING, |s| &s.pending),
        (&f::WORKER_NEXT_HOPS_LIMIT, |s| &s.next_hops.room),
        (&f::WORKER_HELD_SYNS, |s| &s.held_syns),
        (&f::WORKER_GENERATION, |s| &s.generation),
    ];
    for (family, of) in plain {
        let mut samples = text.family(family);
        for (worker, stats) in workers() {
            samples.add(&[&worker], of(stats).get());
        }
    }
    let mut samples = text.family(&f::WORKER_TABLE);
    for (worker, _) in workers() {
        samples.add(&[&worker], shared.sources.connections);
    }
    let mut samples = text.family(&f::WORKER_NEXT_HOPS);
    for (worker, stats) in workers() {
        let hops = &stats.next_hops;
        for (kind, counts) in [("configured", &hops.residents), ("client", &hops.guests)] {
            for (condition, count) in Condition::ALL.iter().zip(&counts.0) {
                samples.add(&[&worker, &kind, &condition.name()], count.get());
            }
        }
    }
    rings(text, shared);
    let mut samples = text.family(&f::DROPPED);
    for (worker, stats) in workers() {
        for &reason in DropReason::ALL {
            let count = stats.drop_counter(reason).get();
            samples.add(&[&worker, &reason.name()], count);
        }
    }
    let mut samples = text.family(&f::EVENTS);
    for (worker, stats) in workers() {
        for &event in Event::ALL {
            samples.add(&[&worker, &event.name()], stats.event(event).get());
        }
    }
}

fn rings(text: &mut Exposition, shared: &Shared) {
    let mut rings: Vec<(usize, &str, &dyn Level)> = Vec::new();
    for (worker, link) in shared.sources.links.iter().enumerate() {
        rings.push((worker, "commands", &*link.commands));
        rings.push((worker, "replies", &*link.replies));
    }
    for (worker, handovers) in shared.handovers.iter().enumerate() {
        // All are of one depth: the fullest is the first to overflow.
        if let Some(fullest) = handovers.iter().max_by_key(|ring| ring.used()) {
            rings.push((worker, "handover", &**fullest));
        }
    }
    let mut samples = text.family(&f::WORKER_RING);
    for (worker, name, ring) in &rings {
        samples.add(&[worker, name], ring.used());
    }
    let mut samples = text.family(&f::WORKER_RING_LIMIT);
    for (worker, name, ring) in &rings {
        samples.add(&[worker, name], ring.capacity());
    }
}

fn network(text: &mut Exposition, shared: &Shared, snapshot: &Snapshot) {
    let steering = snapshot.steering.mode().name();
    let drivers = shared.sources.ports.iter().map(|port| port.read());
    let ports: Vec<_> = snapshot.ports.iter().zip(drivers).collect();
    let mut samples = text.family(&f::PORT_INFO);
    for (info, driver) in &ports {
        let mac = info.mac.to_string();
        samples.add(&[&info.name, &driver.driver, &mac, &steering], 1);
    }
    let mut samples = text.family(&f::PORT_UP);
    for (info, driver) in &ports {
        samples.add(&[&info.name], u8::from(driver.link_up));
    }
    let mut samples = text.family(&f::PORT_SPEED);
    for (info, driver) in &ports {
        if let Some(mbps) = driver.speed_mbps {
            samples.add(&[&info.name], u64::from(mbps) * 1_000_000 / 8);
        }
    }
    type Halves = [(&'static str, fn(&crate::stats::PortCounters) -> &Counter); 2];
    let halves: [(_, Halves); 2] = [
        (
            &f::PORT_PACKETS,
            [("rx", |c| &c.rx_packets), ("tx", |c| &c.tx_packets)],
        ),
        (
            &f::PORT_BYTES,
            [("rx", |c| &c.rx_bytes), ("tx", |c| &c.tx_bytes)],
        ),
    ];
    for (family, halves) in halves {
        let mut samples = text.family(family);
        for (port, (info, _)) in ports.iter().enumerate() {
            for (worker, stats) in shared.sources.stats.iter().enumerate() {
                for (half, of) in halves {
                    let count = of(stats.port(PortIx(port as u8))).get();
                    samples.add(&[&info.name, &worker, &half], count);
                }
            }
        }
    }
    let mut samples = text.family(&f::PORT_LOST);
    for (info, driver) in &ports {
        for (reason, count) in [
            ("rx-missed", driver.rx_missed),
            ("rx-errors", driver.rx_errors),
            ("rx-no-buffer", driver.rx_no_buffer),
            ("tx-errors", driver.tx_errors),
        ] {
            samples.add(&[&info.name, &reason], count);
        }
    }
    let kernels = || {
        let with_name = ports
            .iter()
            .map(|(info, driver)| (&info.name, &driver.kernel));
        with_name.filter_map(|(name, kernel)| Some((name, kernel.as_ref()?)))
    };
    let mut samples = text.family(&f::PORT_KERNEL_PACKETS);
    for (name, kernel) in kernels() {
        samples.add(&[name, &kernel.interface, &"to"], kernel.to_kernel);
        samples.add(&[name, &kernel.interface, &"from"], kernel.from_kernel);
    }
    let mut samples = text.family(&f::PORT_KERNEL_REFUSED);
    for (name, kernel) in kernels() {
        samples.add(&[name, &kernel.interface], kernel.refused);
    }
    let mut samples = text.family(&f::BUFFERS);
    for (name, pool) in &shared.mempools {
        let used = pool.used();
        samples.add(&[name, &"used"], used);
        samples.add(&[name, &"free"], pool.capacity().saturating_sub(used));
    }
}
