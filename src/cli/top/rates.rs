//! From two samples to rates and shares. Pure.

use std::collections::HashMap;
use std::net::SocketAddrV4;

use serde::Serialize;

use super::sample::Sample;
use crate::api;

/// What passes each second, both ways together.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub(super) struct Traffic {
    /// New connections.
    pub(super) new: f64,
    pub(super) packets: f64,
    pub(super) bits: f64,
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.new += other.new;
        self.packets += other.packets;
        self.bits += other.bits;
    }
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) address: SocketAddrV4,
    pub(super) state: String,
    pub(super) weight: u32,
    pub(super) traffic: Traffic,
    pub(super) active: u64,
    pub(super) inactive: u64,
    /// Connections a second that it did not accept.
    pub(super) failures: f64,
    /// Share of its local ports that are free, 0 to 1.
    pub(super) free_ports: Option<f64>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) vip: SocketAddrV4,
    pub(super) protocol: String,
    pub(super) traffic: Traffic,
    pub(super) active: u64,
    pub(super) inactive: u64,
    /// Connections a second that were refused: no server, port or table slot.
    pub(super) refused: f64,
    /// The least of its servers'.
    pub(super) free_ports: Option<f64>,
    pub(super) servers: Vec<Server>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Worker {
    pub(super) worker: u8,
    /// Share of its cycles in rounds with work, 0 to 1.
    pub(super) busy: f64,
    /// Packets received a second.
    pub(super) packets: f64,
    /// Busy cycles for each packet received; `None` where there was none.
    pub(super) cycles_per_packet: Option<f64>,
    pub(super) connections: u64,
    /// Share of its table in use, 0 to 1.
    pub(super) table: f64,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) link_up: bool,
    pub(super) rx_packets: f64,
    pub(super) rx_bits: f64,
    pub(super) tx_packets: f64,
    pub(super) tx_bits: f64,
    /// Packets a second that were lost in NIC or driver.
    pub(super) lost: f64,
}

/// A reason for which packets were dropped since the start.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Drop {
    pub(super) reason: String,
    pub(super) rate: f64,
    pub(super) total: u64,
}

/// Everything that the screen shows.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub(super) struct Rates {
    pub(super) seconds: f64,
    pub(super) uptime_ms: u64,
    pub(super) generation: u64,
    pub(super) services: Vec<Service>,
    pub(super) workers: Vec<Worker>,
    pub(super) ports: Vec<Port>,
    /// Those that drop now first, then by total.
    pub(super) drops: Vec<Drop>,
}

/// Increases of counters each second.
#[derive(Clone, Copy)]
struct Span(f64);

impl Span {
    /// One that is smaller than before has begun anew.
    fn rate(self, before: u64, after: u64) -> f64 {
        after.saturating_sub(before) as f64 / self.0
    }
}

impl Rates {
    pub(super) fn between(before: &Sample, after: &Sample) -> Self {
        let elapsed = after
            .workers
            .uptime_ms
            .saturating_sub(before.workers.uptime_ms);
        let span = Span(elapsed.max(1) as f64 / 1000.0);
        Self {
            seconds: span.0,
            uptime_ms: after.workers.uptime_ms,
            generation: after
                .workers
                .workers
                .iter()
                .map(|w| w.generation)
                .max()
                .unwrap_or(0),
            services: services(before, after, span),
            workers: workers(before, after, span),
            ports: ports(before, after, span),
            drops: drops(before, after, span),
        }
    }
}

fn services(before: &Sample, after: &Sample, span: Span) -> Vec<Service> {
    let former: HashMap<(SocketAddrV4, &str), &api::Service> = before
        .services
        .services
        .iter()
        .map(|service| ((service.vip, service.protocol.as_str()), service))
        .collect();
    let free = free_ports(&after.pools);
    let row = |service: &api::Service| {
        let known = former.get(&(service.vip, service.protocol.as_str()));
        let of: HashMap<SocketAddrV4, &api::Server> = known
            .map(|known| known.servers.iter().map(|s| (s.address, s)).collect())
            .unwrap_or_default();
        let servers: Vec<Server> = service
            .servers
            .iter()
            .map(|server| {
                let free = free.get(&(server.address, service.protocol.as_str()));
                row_of_server(
                    of.get(&server.address).copied(),
                    server,
                    free.copied(),
                    span,
                )
            })
            .collect();
        let mut traffic = Traffic::default();
        servers
            .iter()
            .for_each(|server| traffic.add(server.traffic));
        let refusals = |s: &api::Service| s.no_server + s.no_local_port + s.table_full;
        Service {
            name: service.name.clone(),
            vip: service.vip,
            protocol: service.protocol.clone(),
            traffic,
            active: servers.iter().map(|server| server.active).sum(),
            inactive: servers.iter().map(|server| server.inactive).sum(),
            refused: known.map_or(0.0, |known| span.rate(refusals(known), refusals(service))),
            free_ports: servers.iter().filter_map(|s| s.free_ports).reduce(f64::min),
            servers,
        }
    };
    after.services.services.iter().map(row).collect()
}

/// `before` is missing where the server is new: its counters began at 0 within
/// the span, or they are not its own.
fn row_of_server(
    before: Option<&api::Server>,
    server: &api::Server,
    free_ports: Option<f64>,
    span: Span,
) -> Server {
    let rate = |of: fn(&api::Server) -> u64| {
        before.map_or(0.0, |before| span.rate(of(before), of(server)))
    };
    Server {
        name: server.name.clone(),
        address: server.address,
        state: server.state.clone(),
        weight: server.weight,
        traffic: Traffic {
            new: rate(|s| s.connections),
            packets: rate(|s| s.in_packets) + rate(|s| s.out_packets),
            bits: 8.0 * (rate(|s| s.in_bytes) + rate(|s| s.out_bytes)),
        },
        active: server.active,
        inactive: server.inactive,
        failures: rate(|s| s.failures),
        free_ports,
    }
}

/// Share of local ports that are free, of all local addresses together.
fn free_ports(pools: &api::Pools) -> HashMap<(SocketAddrV4, &str), f64> {
    let mut sums: HashMap<(SocketAddrV4, &str), (u64, u64)> = HashMap::new();
    let addresses = pools.pools.iter().flat_map(|pool| &pool.addresses);
    for used in addresses.flat_map(|address| &address.servers) {
        let sum = sums
            .entry((used.server, used.protocol.as_str()))
            .or_default();
        sum.0 += used.free;
        sum.1 += used.capacity;
    }
    let shares = sums.into_iter().filter(|(_, (_, capacity))| *capacity > 0);
    shares
        .map(|(key, (free, capacity))| (key, free as f64 / capacity as f64))
        .collect()
}

fn workers(before: &Sample, after: &Sample, span: Span) -> Vec<Worker> {
    let pairs = before.workers.workers.iter().zip(&after.workers.workers);
    pairs
        .map(|(before, now)| {
            let cycles = now.cycles.saturating_sub(before.cycles);
            let busy = now.busy_cycles.saturating_sub(before.busy_cycles);
            let packets = now.rx_packets.saturating_sub(before.rx_packets);
            Worker {
                worker: now.worker,
                busy: busy as f64 / cycles.max(1) as f64,
                packets: span.rate(before.rx_packets, now.rx_packets),
                cycles_per_packet: (packets > 0).then(|| busy as f64 / packets as f64),
                connections: now.connections,
                table: now.connections as f64 / after.table.max(1) as f64,
            }
        })
        .collect()
}

fn ports(before: &Sample, after: &Sample, span: Span) -> Vec<Port> {
    let pairs = before.ports.ports.iter().zip(&after.ports.ports);
    pairs
        .map(|(before, now)| {
            let rate = |of: fn(&api::Port) -> u64| span.rate(of(before), of(now));
            Port {
                name: now.name.clone(),
                link_up: now.link_up,
                rx_packets: rate(|p| p.rx_packets),
                rx_bits: 8.0 * rate(|p| p.rx_bytes),
                tx_packets: rate(|p| p.tx_packets),
                tx_bits: 8.0 * rate(|p| p.tx_bytes),
                lost: rate(|p| p.rx_missed + p.rx_no_buffer + p.tx_errors),
            }
        })
        .collect()
}

fn drops(before: &Sample, after: &Sample, span: Span) -> Vec<Drop> {
    let former: HashMap<&str, u64> = before
        .drops
        .drops
        .iter()
        .map(|drop| (drop.reason.as_str(), drop.count))
        .collect();
    let mut drops: Vec<Drop> = after
        .drops
        .drops
        .iter()
        .filter(|drop| drop.count > 0)
        .map(|drop| Drop {
            reason: drop.reason.clone(),
            rate: span.rate(
                former.get(drop.reason.as_str()).copied().unwrap_or(0),
                drop.count,
            ),
            total: drop.count,
        })
        .collect();
    drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
    drops
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn server(name: &str, last: u8, state: &str, n: u64) -> Value {
        json!({
            "name": name, "address": format!("10.2.0.{last}:80"), "weight": 1, "state": state,
            "active": n, "inactive": 1, "connections": 10 * n, "in_packets": 100 * n,
            "out_packets": 100 * n, "in_bytes": 1000 * n, "out_bytes": 9000 * n, "failures": 0,
        })
    }

    fn service(name: &str, port: u16, refused: u64, servers: Value) -> Value {
        json!({
            "name": name, "vip": format!("198.51.100.1:{port}"), "protocol": "tcp",
            "scheduler": "wrr", "no_server": refused, "no_local_port": 0, "table_full": 0,
            "unknown_flow": 0, "syn_moved": 0, "idled_out": 0, "servers": servers,
        })
    }

    fn drop(reason: &str, count: u64) -> Value {
        json!({"reason": reason, "count": count, "per_worker": [count], "meaning": "", "remedy": ""})
    }

    /// A gateway on which everything has happened `n` times, after `n` times
    /// two seconds.
    pub(in super::super) fn sample(n: u64) -> Sample {
        let services = json!([
            service(
                "web",
                80,
                4 * n,
                json!([
                    server("a", 101, "up", 3 * n),
                    server("b", 102, "draining", n),
                ])
            ),
            service("quiet", 81, 0, json!([])),
        ]);
        let worker = json!({
            "worker": 0, "connections": 50 * n, "half_open": 0, "generation": 7,
            "rx_packets": 2000 * n, "tx_packets": 2000 * n, "handed_over": 0, "pending": 0,
            "held_syns": 0, "polls": 0, "busy_polls": 0, "cycles": 4_000_000 * n,
            "busy_cycles": 1_000_000 * n,
        });
        let port = json!({
            "name": "wan", "driver": "net_tap", "link_up": true, "speed_mbps": null, "mac": "",
            "mtu": 1500, "addresses": [], "gateway": null, "steering": "software",
            "rx_packets": 2000 * n, "rx_bytes": 250_000 * n, "tx_packets": 2000 * n,
            "tx_bytes": 500_000 * n, "rx_missed": 2 * n, "rx_errors": 0, "rx_no_buffer": 0,
            "tx_errors": 0,
        });
        let used = |last: u8, free: u64| {
            json!({
                "server": format!("10.2.0.{last}:80"), "protocol": "tcp", "capacity": 1000,
                "used": 1000 - free, "resting": 0, "free": free, "failures": 0, "out_at": 0,
            })
        };
        let address = |used: Value| json!({"address": "10.2.0.10", "servers": used});
        let read = |value: Value| serde_json::from_value(value).expect("a listing");
        Sample {
            services: serde_json::from_value(json!({"services": services})).expect("a listing"),
            workers: serde_json::from_value(json!({"uptime_ms": 2000 * n, "workers": [worker]}))
                .expect("a listing"),
            ports: serde_json::from_value(json!({"ports": [port]})).expect("a listing"),
            drops: serde_json::from_value(json!({
                "drops": [drop("no-route", 7), drop("bad-checksum", 6 * n), drop("not-for-us", 0)],
                "events": [],
            }))
            .expect("a listing"),
            pools: read(json!({"pools": [{"name": "default", "addresses": [
                address(json!([used(101, 900), used(102, 500)])),
                address(json!([used(101, 700)])),
            ]}]})),
            table: 1000,
        }
    }

    #[test]
    fn rates_are_differences_over_the_daemons_time() {
        let rates = Rates::between(&sample(5), &sample(6));
        assert_eq!(
            (rates.seconds, rates.uptime_ms, rates.generation),
            (2.0, 12_000, 7)
        );
        let web = &rates.services[0];
        let a = &web.servers[0];
        let expected = Traffic {
            new: 15.0,
            packets: 300.0,
            bits: 120_000.0,
        };
        assert_eq!(
            (a.traffic, a.active, a.free_ports),
            (expected, 18, Some(0.8))
        );
        assert_eq!(web.traffic.new, 20.0);
        assert_eq!((web.active, web.inactive, web.refused), (24, 2, 2.0));
        assert_eq!(web.free_ports, Some(0.5));
        let worker = &rates.workers[0];
        assert_eq!((worker.busy, worker.packets), (0.25, 1000.0));
        assert_eq!((worker.cycles_per_packet, worker.table), (Some(500.0), 0.3));
        let port = &rates.ports[0];
        assert_eq!((port.rx_bits, port.tx_bits, port.lost), (1e6, 2e6, 1.0));
        let drops: Vec<_> = rates
            .drops
            .iter()
            .map(|d| (&*d.reason, d.rate, d.total))
            .collect();
        assert_eq!(drops, [("bad-checksum", 3.0, 36), ("no-route", 0.0, 7)]);
    }

    #[test]
    fn what_is_new_or_begins_anew_has_no_rate() {
        let mut before = sample(5);
        before.services.services[0].servers.remove(0);
        let rates = Rates::between(&before, &sample(6));
        assert_eq!(rates.services[0].servers[0].traffic, Traffic::default());
        let after_restart = Rates::between(&sample(6), &sample(1));
        assert_eq!(after_restart.services[0].traffic, Traffic::default());
        assert_eq!(after_restart.workers[0].cycles_per_packet, None);
        let at_once = Rates::between(&sample(1), &sample(1));
        assert_eq!(at_once.workers[0].busy, 0.0);
    }
}
