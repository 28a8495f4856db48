//! Listings: from a snapshot, counters and copies of tables to results. Pure.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use crate::api;
use crate::config::Config;
use crate::config::pools::by_pool;
use crate::conntrack::entry::{Entry, flag};
use crate::conntrack::timeouts::timeout_for;
use crate::ids::{PortIx, ServerIx, ServiceIx, SetIx, WorkerIx};
use crate::service::snapshot::{PortInfo, Server, ServerState, Snapshot};
use crate::stats::readings::PortStatus;
use crate::stats::{Counter, DropReason, Event, WorkerStats};
use crate::time::Millis;
use crate::wire::describe;
use crate::wire::proto;
use crate::worker::message::SetUse;
use crate::worker::message::dropped::Dropped;

use super::times::Times;

/// The counters of all workers.
pub(super) type AllStats<'a> = &'a [Arc<WorkerStats>];

fn sum(stats: AllStats<'_>, counter: impl Fn(&WorkerStats) -> &Counter) -> u64 {
    stats
        .iter()
        .fold(0, |sum, worker| sum.wrapping_add(counter(worker).get()))
}

/// The services in the order of their slots, without removed servers.
pub(super) fn services(snapshot: &Snapshot, stats: AllStats<'_>) -> api::Services {
    let mut services = Vec::new();
    let mut rows: Vec<Vec<api::Server>> = Vec::new();
    rows.resize_with(snapshot.services.len(), Vec::new);
    for (slot, server) in snapshot.servers.iter().enumerate() {
        let server = server.as_ref();
        let Some(server) = server.filter(|server| server.state != ServerState::Removed) else {
            continue;
        };
        if let Some(rows) = rows.get_mut(server.service.ix()) {
            rows.push(server_row(ServerIx(slot as u32), server, stats));
        }
    }
    for (slot, service) in snapshot.services.iter().enumerate() {
        let Some(service) = service else { continue };
        let ix = ServiceIx(slot as u32);
        let count = |of: fn(&crate::stats::ServiceCounters) -> &Counter| {
            sum(stats, |worker| of(worker.service(ix)))
        };
        services.push(api::Service {
            name: service.name.clone(),
            vip: SocketAddrV4::new(service.vip, service.port),
            protocol: proto::name(service.protocol),
            scheduler: service.plan.kind().name().into(),
            announced: None,
            no_server: count(|c| &c.no_server),
            no_local_port: count(|c| &c.no_local_port),
            table_full: count(|c| &c.table_full),
            unknown_flow: count(|c| &c.unknown_flow),
            syn_moved: count(|c| &c.syn_moved),
            idled_out: count(|c| &c.idled_out),
            health_ignored: false,
            servers: std::mem::take(&mut rows[slot]),
        });
    }
    api::Services { services }
}

fn server_row(ix: ServerIx, server: &Server, stats: AllStats<'_>) -> api::Server {
    let count = |of: fn(&crate::stats::ServerCounters) -> &Counter| {
        sum(stats, |worker| of(worker.server(ix)))
    };
    api::Server {
        name: server.name.clone(),
        address: SocketAddrV4::new(server.addr, server.port),
        weight: server.weight,
        state: server.state.name().into(),
        active: count(|c| &c.active),
        inactive: count(|c| &c.inactive),
        connections: count(|c| &c.connections),
        in_packets: count(|c| &c.in_packets),
        out_packets: count(|c| &c.out_packets),
        in_bytes: count(|c| &c.in_bytes),
        out_bytes: count(|c| &c.out_bytes),
        failures: count(|c| &c.failures),
        drain_ms: None,
        health: None,
    }
}

/// Names of those bits of `Entry::flags` that tell an operator something.
const FLAG_NAMES: [(u16, &str); 7] = [
    (flag::TRANSLATE_SEQ, "seq"),
    (flag::TRANSLATE_TS, "ts"),
    (flag::CLIENT_FIN, "client-fin"),
    (flag::SERVER_FIN, "server-fin"),
    (flag::CLIENT_FIN_ACKED, "client-fin-acked"),
    (flag::SERVER_FIN_ACKED, "server-fin-acked"),
    (flag::SYN_HELD, "syn-held"),
];

/// One connection as the worker copied it at its time `now`.
pub(super) fn connection(
    snapshot: &Snapshot,
    worker: WorkerIx,
    entry: &Entry,
    now: Millis,
) -> api::Connection {
    // The slot may have been given to another server meanwhile.
    let server = snapshot
        .server(entry.server)
        .filter(|server| server.addr == entry.server_addr && server.port == entry.server_port);
    let service = server.and_then(|server| snapshot.service(server.service));
    let idle_ms = now.stamp().since(entry.last_seen);
    api::Connection {
        protocol: proto::name(entry.protocol),
        state: entry.state.name().into(),
        client: SocketAddrV4::new(entry.client, entry.client_port),
        vip: SocketAddrV4::new(entry.vip, entry.vip_port),
        local: SocketAddrV4::new(entry.local, entry.local_port),
        server: SocketAddrV4::new(entry.server_addr, entry.server_port),
        service: service.map(|service| service.name.clone()),
        server_name: server.map(|server| server.name.clone()),
        worker: worker.0,
        age_ms: now.since(entry.created),
        idle_ms: idle_ms.into(),
        expires_ms: service.map(|service| {
            timeout_for(entry, &service.timeouts)
                .saturating_sub(idle_ms)
                .into()
        }),
        flags: FLAG_NAMES
            .iter()
            .filter(|(bit, _)| entry.has(*bit))
            .map(|(_, name)| (*name).to_owned())
            .collect(),
    }
}

/// The workers' counters at `uptime_ms`.
pub(super) fn workers(stats: AllStats<'_>, ports: usize, uptime_ms: u64) -> api::Workers {
    let row = |(worker, stats): (usize, &Arc<WorkerStats>)| {
        let port_sum = |of: fn(&crate::stats::PortCounters) -> &Counter| {
            (0..ports)
                .map(|port| of(stats.port(PortIx(port as u8))).get())
                .sum()
        };
        api::Worker {
            worker: worker as u8,
            connections: stats.connections.get(),
            half_open: stats.half_open.get(),
            generation: stats.generation.get(),
            rx_packets: port_sum(|c| &c.rx_packets),
            tx_packets: port_sum(|c| &c.tx_packets),
            handed_over: stats.handed_over.get(),
            pending: stats.pending.get(),
            held_syns: stats.held_syns.get(),
            polls: stats.polls.get(),
            busy_polls: stats.busy_polls.get(),
            cycles: stats.cycles.get(),
            busy_cycles: stats.busy_cycles.get(),
        }
    };
    api::Workers {
        uptime_ms,
        workers: stats.iter().enumerate().map(row).collect(),
    }
}

/// The ports; `drivers` by [`PortIx`]. `link_downs` says how often a link went down.
pub(super) fn ports(
    snapshot: &Snapshot,
    stats: AllStats<'_>,
    drivers: &[Arc<dyn PortStatus>],
    link_downs: &dyn Fn(PortIx) -> u64,
) -> api::Ports {
    let steering = snapshot.steering.mode().name();
    let row = |(ix, (info, driver)): (usize, (&PortInfo, &dyn PortStatus))| {
        let reading = driver.read();
        let count = |of: fn(&crate::stats::PortCounters) -> &Counter| {
            sum(stats, |worker| of(worker.port(PortIx(ix as u8))))
        };
        api::Port {
            name: info.name.clone(),
            driver: reading.driver,
            link_up: reading.link_up,
            link_downs: link_downs(PortIx(ix as u8)),
            removal_asked: driver.removal_asked(),
            speed_mbps: reading.speed_mbps,
            mac: info.mac.to_string(),
            mtu: info.mtu,
            addresses: info.addresses.iter().map(ToString::to_string).collect(),
            gateway: info.gateway,
            steering: steering.into(),
            steering_asked: reading.steering.asked,
            nic: reading.steering.nic,
            steering_reason: reading.steering.reason,
            rx_packets: count(|c| &c.rx_packets),
            rx_bytes: count(|c| &c.rx_bytes),
            tx_packets: count(|c| &c.tx_packets),
            tx_bytes: count(|c| &c.tx_bytes),
            rx_missed: reading.rx_missed,
            rx_errors: reading.rx_errors,
            rx_no_buffer: reading.rx_no_buffer,
            tx_errors: reading.tx_errors,
            kernel: reading.kernel.map(|kernel| api::KernelInterface {
                interface: kernel.interface,
                to_kernel: kernel.to_kernel,
                from_kernel: kernel.from_kernel,
                refused: kernel.refused,
            }),
        }
    };
    api::Ports {
        ports: snapshot
            .ports
            .iter()
            .zip(drivers.iter().map(AsRef::as_ref))
            .enumerate()
            .map(row)
            .collect(),
    }
}

/// All drop reasons and events.
pub(super) fn drops(stats: AllStats<'_>) -> api::Drops {
    let each = |counter: &dyn Fn(&WorkerStats) -> u64| -> (u64, Vec<u64>) {
        let per_worker: Vec<u64> = stats.iter().map(|worker| counter(worker)).collect();
        (per_worker.iter().sum(), per_worker)
    };
    let drop = |&reason: &DropReason| {
        let (count, per_worker) = each(&|worker| worker.drop_counter(reason).get());
        api::Drop {
            reason: reason.name().into(),
            count,
            per_worker,
            meaning: reason.meaning().into(),
            remedy: reason.remedy().into(),
        }
    };
    let event = |&event: &Event| {
        let (count, per_worker) = each(&|worker| worker.event(event).get());
        api::Event {
            event: event.name().into(),
            count,
            per_worker,
            meaning: event.meaning().into(),
        }
    };
    api::Drops {
        drops: DropReason::ALL.iter().map(drop).collect(),
        events: Event::ALL.iter().map(event).collect(),
    }
}

/// The last dropped packets, oldest first; `found` by worker.
pub(super) fn last_drops(
    snapshot: &Snapshot,
    found: &[Vec<(DropReason, Dropped)>],
    times: &Times,
) -> api::LastDrops {
    let now = times.now();
    let of_worker = |(worker, found): (usize, &'_ Vec<(DropReason, Dropped)>)| {
        let rows = found.iter().map(|(reason, dropped)| api::LastDrop {
            time_ns: times.unix_ns(dropped.tsc, &now),
            age_ms: times.age_ns(dropped.tsc, &now) / 1_000_000,
            reason: reason.name().into(),
            worker: worker as u8,
            port: dropped
                .port
                .and_then(|port| snapshot.port(port))
                .map(|port| port.name.clone()),
            length: dropped.total_len,
            headers: describe::describe(dropped.bytes()),
            hex: describe::hex(dropped.bytes()),
        });
        rows.collect::<Vec<_>>()
    };
    let mut drops: Vec<_> = found.iter().enumerate().flat_map(of_worker).collect();
    drops.sort_by_key(|drop| drop.time_ns);
    api::LastDrops { drops }
}

/// All port sets of the snapshot, each once.
pub(super) fn sets(snapshot: &Snapshot) -> Arc<[SetIx]> {
    let servers = snapshot.servers.iter().flatten();
    let locals = servers.flat_map(|server| server.locals.iter());
    let mut sets: Vec<SetIx> = locals.map(|(_, set)| *set).collect();
    sets.sort_unstable();
    sets.dedup();
    sets.into()
}

/// The use of local ports by pool, local address and real server; `found` is
/// of all workers together.
pub(super) fn pools<'a>(
    config: &Config,
    snapshot: &Snapshot,
    found: impl Iterator<Item = &'a SetUse>,
) -> api::Pools {
    let mut sums: BTreeMap<SetIx, [u64; 5]> = BTreeMap::new();
    for set in found {
        let sum = sums.entry(set.set).or_default();
        let counts = [set.capacity, set.used, set.resting, set.failures];
        let counts = counts.into_iter().chain([u32::from(set.out)]);
        for (sum, count) in sum.iter_mut().zip(counts) {
            *sum += u64::from(count);
        }
    }
    // Services that share a pool and a real server share the set.
    let mut rows: BTreeMap<(&str, Ipv4Addr, SetIx), api::PoolUse> = BTreeMap::new();
    for (pool, service, server) in by_pool(config, snapshot) {
        for &(local, set) in &server.locals {
            let [capacity, used, resting, failures, out_at] =
                sums.get(&set).copied().unwrap_or_default();
            rows.entry((pool, local, set))
                .or_insert_with(|| api::PoolUse {
                    server: SocketAddrV4::new(server.addr, server.port),
                    protocol: proto::name(service.protocol),
                    capacity,
                    used,
                    resting,
                    free: capacity.saturating_sub(used + resting),
                    failures,
                    out_at,
                });
        }
    }
    let pool = |pool: &crate::config::Pool| api::Pool {
        name: pool.name.clone(),
        addresses: pool
            .addresses
            .iter()
            .map(|&address| api::PoolAddress {
                address,
                servers: rows
                    .range(
                        (pool.name.as_str(), address, SetIx(0))
                            ..=(pool.name.as_str(), address, SetIx(u32::MAX)),
                    )
                    .map(|(_, row)| row.clone())
                    .collect(),
            })
            .collect(),
    };
    api::Pools {
        pools: config.pools.iter().map(pool).collect(),
    }
}
