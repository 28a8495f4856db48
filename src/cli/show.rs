//! Results as text for people. Pure: from a result to a string.

use std::path::Path;

use serde_json::Value;

use super::health;
use super::table::Align::{Left, Right};
use super::table::Table;
use crate::api;

/// The width `ipvsadm -ln` gives to the servers' column.
const SERVER_WIDTH: usize = 28;

/// Services in the shape of `ipvsadm -ln`, with the names at the end.
pub(super) fn services(result: &api::Services) -> String {
    let mut text = format!(
        "Prot LocalAddress:Port Scheduler Flags\n  -> {:<SERVER_WIDTH$} Forward Weight ActiveConn InActConn Name\n",
        "RemoteAddress:Port"
    );
    for service in &result.services {
        let ignored = match service.health_ignored {
            true => " (all servers fail their health checks; all are used)",
            false => "",
        };
        let announced = match service.announced {
            None => "",
            Some(true) => " announced",
            Some(false) => " withdrawn",
        };
        text.push_str(&format!(
            "{:<4} {} {} name={}{announced}{ignored}\n",
            service.protocol.to_uppercase(),
            service.vip,
            service.scheduler,
            service.name
        ));
        for server in &service.servers {
            let state = health::remark(server);
            text.push_str(&format!(
                "  -> {:<SERVER_WIDTH$} {:<7} {:<6} {:<10} {:<9} {}{state}\n",
                server.address.to_string(),
                "FullNAT",
                server.weight,
                server.active,
                server.inactive,
                server.name
            ));
        }
    }
    text
}

/// Services in the shape of `ipvsadm -ln --stats --exact`.
pub(super) fn service_stats(result: &api::Services) -> String {
    let row = |name: &str, counts: [String; 5]| {
        let mut line = format!("{name:<33}");
        for count in counts {
            line.push_str(&format!(" {count:>12}"));
        }
        line.push('\n');
        line
    };
    let counts = |servers: &[api::Server]| {
        let sum = |of: fn(&api::Server) -> u64| servers.iter().map(of).sum::<u64>().to_string();
        [
            sum(|s| s.connections),
            sum(|s| s.in_packets),
            sum(|s| s.out_packets),
            sum(|s| s.in_bytes),
            sum(|s| s.out_bytes),
        ]
    };
    let names = ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"];
    let mut text = row("Prot LocalAddress:Port", names.map(str::to_owned));
    text.push_str("  -> RemoteAddress:Port\n");
    for service in &result.services {
        let name = format!("{:<4} {}", service.protocol.to_uppercase(), service.vip);
        text.push_str(&row(&name, counts(&service.servers)));
        for server in &service.servers {
            let name = format!("  -> {}", server.address);
            text.push_str(&row(&name, counts(std::slice::from_ref(server))));
        }
    }
    text
}

/// One line a connection.
pub(super) fn connections(result: &api::Connections) -> String {
    let mut table = Table::new(&[
        ("pro", Left),
        ("expire", Right),
        ("idle", Right),
        ("state", Left),
        ("client", Left),
        ("vip", Left),
        ("local", Left),
        ("server", Left),
        ("worker", Right),
        ("flags", Left),
    ]);
    for connection in &result.connections {
        table.row([
            connection.protocol.to_uppercase(),
            connection.expires_ms.map_or_else(|| "-".into(), minutes),
            minutes(connection.idle_ms),
            connection.state.clone(),
            connection.client.to_string(),
            connection.vip.to_string(),
            connection.local.to_string(),
            connection.server.to_string(),
            connection.worker.to_string(),
            connection.flags.join(","),
        ]);
    }
    let more = if result.truncated {
        "... and more: see --limit\n"
    } else {
        ""
    };
    format!("{table}{more}")
}

/// Minutes and seconds, as `ipvsadm -lnc` writes them.
fn minutes(ms: u64) -> String {
    format!("{:02}:{:02}", ms / 60_000, ms / 1000 % 60)
}

/// The workers' load between two readings.
pub(super) fn workers(before: &api::Workers, after: &api::Workers) -> String {
    let mut table = Table::new(&[
        ("worker", Right),
        ("busy", Right),
        ("rx pkt/s", Right),
        ("tx pkt/s", Right),
        ("cycles/pkt", Right),
        ("connections", Right),
        ("half-open", Right),
        ("handed over", Right),
        ("pending", Right),
        ("held SYNs", Right),
        ("generation", Right),
    ]);
    let elapsed_ms = after.uptime_ms.saturating_sub(before.uptime_ms).max(1);
    for now in &after.workers {
        let then = before.workers.iter().find(|then| then.worker == now.worker);
        let delta = |of: fn(&api::Worker) -> u64| of(now).wrapping_sub(then.map_or(0, of));
        let per_second =
            |count: u64| (u128::from(count) * 1000 / u128::from(elapsed_ms)).to_string();
        let (busy, all) = (delta(|w| w.busy_cycles), delta(|w| w.cycles));
        let received = delta(|w| w.rx_packets);
        table.row([
            now.worker.to_string(),
            format!("{:.1} %", 100.0 * busy as f64 / all.max(1) as f64),
            per_second(received),
            per_second(delta(|w| w.tx_packets)),
            busy.checked_div(received)
                .map_or_else(|| "-".into(), |cycles| cycles.to_string()),
            now.connections.to_string(),
            now.half_open.to_string(),
            now.handed_over.to_string(),
            now.pending.to_string(),
            now.held_syns.to_string(),
            now.generation.to_string(),
        ]);
    }
    table.to_string()
}

/// One block a port.
pub(super) fn ports(result: &api::Ports) -> String {
    let mut text = String::new();
    for port in &result.ports {
        let link = match (port.link_up, port.speed_mbps) {
            (false, _) => "down".into(),
            (true, None) => "up".into(),
            (true, Some(speed)) => format!("up at {speed} Mbit/s"),
        };
        let downs = match port.link_downs {
            0 => String::new(),
            1 => " (was down once)".into(),
            times => format!(" (was down {times} times)"),
        };
        let gateway = port
            .gateway
            .map_or_else(String::new, |via| format!(", gateway {via}"));
        text.push_str(&format!(
            "{}: link {link}{downs}, MAC {}, MTU {}, driver {}\n    {}{gateway}\n",
            port.name,
            port.mac,
            port.mtu,
            port.driver,
            port.addresses.join(", "),
        ));
        let why = port.steering_reason.as_ref();
        text.push_str(&format!(
            "    steering {}: asked for {}; the NIC: {}{}\n",
            port.steering,
            port.steering_asked,
            port.nic,
            why.map_or_else(String::new, |why| format!("; {why}"))
        ));
        text.push_str(&format!(
            "    received {} packets, {} bytes; missed {}, errors {}, no buffer {}\n",
            port.rx_packets, port.rx_bytes, port.rx_missed, port.rx_errors, port.rx_no_buffer
        ));
        text.push_str(&format!(
            "    sent     {} packets, {} bytes; errors {}\n",
            port.tx_packets, port.tx_bytes, port.tx_errors
        ));
        if port.removal_asked {
            text.push_str("    its device is asked back; fullgate keeps it until it is stopped\n");
        }
        if let Some(kernel) = &port.kernel {
            text.push_str(&format!(
                "    kernel interface {}: took {} packets, sent {}; refused {}\n",
                kernel.interface, kernel.to_kernel, kernel.from_kernel, kernel.refused
            ));
        }
    }
    text
}

/// Dropped packets by reason with what to do, then events.
pub(super) fn drops(result: &api::Drops, all: bool) -> String {
    let mut drops = Table::new(&[
        ("packets", Right),
        ("reason", Left),
        ("meaning and remedy", Left),
    ]);
    for drop in result.drops.iter().filter(|drop| all || drop.count > 0) {
        drops.row([
            drop.count.to_string(),
            drop.reason.clone(),
            format!("{} {}", drop.meaning, drop.remedy),
        ]);
    }
    let mut events = Table::new(&[("count", Right), ("event", Left), ("meaning", Left)]);
    for event in result.events.iter().filter(|event| all || event.count > 0) {
        events.row([
            event.count.to_string(),
            event.event.clone(),
            event.meaning.clone(),
        ]);
    }
    let part = |table: &Table, none: &str| {
        if table.is_empty() {
            format!("{none}\n")
        } else {
            table.to_string()
        }
    };
    format!(
        "{}\n{}",
        part(&drops, "no drops"),
        part(&events, "no events")
    )
}

/// The last dropped packets, the newest at the end.
pub(super) fn last_drops(result: &api::LastDrops) -> String {
    let mut table = Table::new(&[
        ("time", Left),
        ("worker", Right),
        ("port", Left),
        ("bytes", Right),
        ("reason", Left),
        ("packet", Left),
    ]);
    for drop in &result.drops {
        table.row([
            time(drop.time_ns),
            drop.worker.to_string(),
            drop.port.clone().unwrap_or_else(|| "-".into()),
            drop.length.to_string(),
            drop.reason.clone(),
            drop.headers.clone(),
        ]);
    }
    if table.is_empty() {
        return "no drops\n".into();
    }
    table.to_string()
}

/// A time of day to the microsecond, UTC.
fn time(unix_ns: u64) -> String {
    let nanoseconds = (unix_ns / 1_000 * 1_000).into();
    let time = jiff::Timestamp::from_nanosecond(nanoseconds).unwrap_or_default();
    format!("{time:.6}")
}

/// Local ports, one line for each local address and real server.
pub(super) fn pools(result: &api::Pools) -> String {
    let mut table = Table::new(&[
        ("pool", Left),
        ("local", Left),
        ("server", Left),
        ("pro", Left),
        ("capacity", Right),
        ("used", Right),
        ("resting", Right),
        ("free", Right),
        ("failed", Right),
        ("", Left),
    ]);
    for pool in &result.pools {
        for local in &pool.addresses {
            for towards in &local.servers {
                table.row([
                    pool.name.clone(),
                    local.address.to_string(),
                    towards.server.to_string(),
                    towards.protocol.to_uppercase(),
                    towards.capacity.to_string(),
                    towards.used.to_string(),
                    towards.resting.to_string(),
                    towards.free.to_string(),
                    towards.failures.to_string(),
                    match towards.out_at {
                        0 => String::new(),
                        _ => "out: no answers to this address".into(),
                    },
                ]);
            }
        }
    }
    table.to_string()
}

/// One line a next hop.
pub(super) fn neighbors(result: &api::Neighbors) -> String {
    let mut table = Table::new(&[
        ("port", Left),
        ("address", Left),
        ("state", Left),
        ("mac", Left),
        ("kind", Left),
        ("workers", Left),
        ("heard", Right),
    ]);
    for neighbor in &result.neighbors {
        let kind = if neighbor.configured {
            "configured"
        } else {
            "client"
        };
        let workers: Vec<_> = neighbor.workers.iter().map(u8::to_string).collect();
        table.row([
            neighbor.port.clone(),
            neighbor.address.to_string(),
            neighbor.state.clone(),
            neighbor.mac.clone().unwrap_or_else(|| "-".into()),
            kind.into(),
            workers.join(","),
            neighbor
                .age_ms
                .map_or_else(|| "never".into(), |ms| format!("{} s ago", ms / 1000)),
        ]);
    }
    table.to_string()
}

/// What an announcement was about.
pub(super) fn announced(result: &api::Announced) -> String {
    format!(
        "{} addresses are being announced, each on the ports whose networks hold it\n",
        result.addresses
    )
}

/// Which version runs since when.
pub(super) fn version(result: &api::Version) -> String {
    format!(
        "fullgate {}, pid {}, up {} s\n",
        result.version,
        result.pid,
        result.uptime_ms / 1000
    )
}

/// That a file is right.
pub(super) fn checked(file: &Path, result: &api::Checked) -> String {
    let file = file.display();
    let warnings = warnings(&result.warnings);
    format!(
        "{warnings}{file}: ok: {} services, {} servers\n",
        result.services, result.servers
    )
}

/// What a reload would do, one line a difference.
pub(super) fn diff(result: &api::Diff) -> String {
    let said = |value: &Option<Value>| {
        value
            .as_ref()
            .map_or_else(|| "(default)".into(), Value::to_string)
    };
    let mut text = warnings(&result.warnings);
    for difference in &result.differences {
        let (from, to) = (&difference.from, &difference.to);
        let (sign, what) = match difference.change.as_str() {
            "added" => ('+', said(to)),
            "removed" => ('-', said(from)),
            _ => ('~', format!("{} -> {}", said(from), said(to))),
        };
        let key = &difference.key;
        let note = if difference.restart {
            " (needs a restart)"
        } else if difference.change == "removed" && key.starts_with("service[") {
            " (its connections are reset)"
        } else {
            ""
        };
        text.push_str(&format!("{sign} {key}: {what}{note}\n"));
    }
    if !result.restart.is_empty() {
        let keys = result.restart.join(", ");
        text.push_str(&format!(
            "a reload would be refused: {keys} can't change without a restart\n"
        ));
    } else if result.differences.is_empty() {
        text.push_str("no differences\n");
    }
    text
}

/// What looks unintended; nothing where nothing does.
pub(super) fn warnings(warnings: &[String]) -> String {
    warnings
        .iter()
        .map(|warning| format!("warning: {warning}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn differences_say_what_becomes_of_connections() {
        let difference = |change: &str, key: &str, from: Value, to: Value, restart: bool| json!({"change": change, "key": key, "from": from, "to": to, "restart": restart});
        let result = json!({
            "differences": [
                difference("changed", "runtime.workers", Value::Null, json!(2), true),
                difference("removed", "service[web].server[b]", json!({"name": "b"}), Value::Null, false),
                difference("added", "service[dns]", Value::Null, json!({"name": "dns"}), false),
            ],
            "restart": ["runtime.workers"],
            "warnings": ["f:3: x"],
        });
        let expected = "\
warning: f:3: x
~ runtime.workers: (default) -> 2 (needs a restart)
- service[web].server[b]: {\"name\":\"b\"} (its connections are reset)
+ service[dns]: {\"name\":\"dns\"}
a reload would be refused: runtime.workers can't change without a restart
";
        assert_eq!(diff(&read(result)), expected);
        let nothing = json!({"differences": [], "restart": [], "warnings": []});
        assert_eq!(diff(&read(nothing)), "no differences\n");
    }

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("a result")
    }

    fn two_servers() -> api::Services {
        let server = |name: &str, address: &str, state: &str, n: u64| {
            json!({
                "name": name, "address": address, "weight": n, "state": state,
                "active": n, "inactive": 2 * n, "connections": 100 * n,
                "in_packets": 1000 * n, "out_packets": 1001 * n,
                "in_bytes": 64000 * n, "out_bytes": 1500000 * n, "failures": 0,
            })
        };
        read(json!({"services": [{
            "name": "web", "vip": "198.51.100.1:80", "protocol": "tcp", "scheduler": "wrr",
            "no_server": 0, "no_local_port": 0, "table_full": 0, "unknown_flow": 0,
            "syn_moved": 0, "idled_out": 0,
            "servers": [server("a", "10.0.0.1:8080", "up", 1), server("b", "10.0.0.2:8080", "draining", 20)],
        }]}))
    }

    #[test]
    fn services_look_like_ipvsadm() {
        let expected = "\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn Name
TCP  198.51.100.1:80 wrr name=web
  -> 10.0.0.1:8080                FullNAT 1      1          2         a
  -> 10.0.0.2:8080                FullNAT 20     20         40        b (draining)
";
        assert_eq!(services(&two_servers()), expected);
    }

    #[test]
    fn statistics_add_up() {
        let expected = "\
Prot LocalAddress:Port                   Conns       InPkts      OutPkts      InBytes     OutBytes
  -> RemoteAddress:Port
TCP  198.51.100.1:80                      2100        21000        21021      1344000     31500000
  -> 10.0.0.1:8080                         100         1000         1001        64000      1500000
  -> 10.0.0.2:8080                        2000        20000        20020      1280000     30000000
";
        assert_eq!(service_stats(&two_servers()), expected);
    }

    #[test]
    fn connections_are_a_table() {
        let result = read(json!({"truncated": true, "connections": [
            {"protocol": "tcp", "state": "ESTABLISHED", "client": "192.0.2.9:40000",
             "vip": "198.51.100.1:80", "local": "10.0.0.100:1025", "server": "10.0.0.1:8080",
             "service": "web", "server_name": "a", "worker": 1, "age_ms": 5000, "idle_ms": 10,
             "expires_ms": 7439990, "flags": ["seq", "ts"]},
            {"protocol": "udp", "state": "UDP", "client": "192.0.2.10:53",
             "vip": "198.51.100.1:53", "local": "10.0.0.100:1026", "server": "10.0.0.1:53",
             "service": null, "server_name": null, "worker": 0, "age_ms": 5000, "idle_ms": 10,
             "expires_ms": null, "flags": []},
        ]}));
        let expected = "\
pro  expire   idle  state        client           vip              local            server         worker  flags
TCP  123:59  00:00  ESTABLISHED  192.0.2.9:40000  198.51.100.1:80  10.0.0.100:1025  10.0.0.1:8080       1  seq,ts
UDP       -  00:00  UDP          192.0.2.10:53    198.51.100.1:53  10.0.0.100:1026  10.0.0.1:53         0
... and more: see --limit
";
        assert_eq!(connections(&result), expected);
    }

    #[test]
    fn workers_show_what_happened_between_two_readings() {
        let reading = |uptime_ms: u64, n: u64| -> api::Workers {
            read(json!({"uptime_ms": uptime_ms, "workers": [{
                "worker": 0, "connections": 7, "half_open": 1, "generation": 3,
                "rx_packets": 1000 * n, "tx_packets": 999 * n, "handed_over": 5, "pending": 0,
                "held_syns": 0, "polls": 10 * n, "busy_polls": n, "cycles": 3_000_000 * n,
                "busy_cycles": 750_000 * n,
            }]}))
        };
        let expected = "\
worker    busy  rx pkt/s  tx pkt/s  cycles/pkt  connections  half-open  handed over  pending  held SYNs  generation
     0  25.0 %      4000      3996         750            7          1            5        0          0           3
";
        assert_eq!(workers(&reading(1000, 2), &reading(1500, 4)), expected);
        let idle = workers(&reading(1000, 2), &reading(1500, 2));
        assert!(idle.contains("0.0 %"), "{idle}");
    }

    #[test]
    fn ports_are_blocks() {
        let result = read(json!({"ports": [{
            "name": "wan", "driver": "net_tap", "link_up": true, "link_downs": 2, "removal_asked": true, "speed_mbps": 10000,
            "mac": "02:00:00:00:00:01", "mtu": 1500, "addresses": ["192.0.2.1/24"],
            "gateway": "192.0.2.254", "steering": "software", "steering_asked": "auto",
            "nic": "RSS over 128 slots", "steering_reason": "there is one worker", "rx_packets": 1, "rx_bytes": 60,
            "tx_packets": 2, "tx_bytes": 120, "rx_missed": 3, "rx_errors": 4, "rx_no_buffer": 5,
            "tx_errors": 6,
            "kernel": {"interface": "fgk0", "to_kernel": 7, "from_kernel": 8, "refused": 9},
        }]}));
        let expected = "\
wan: link up at 10000 Mbit/s (was down 2 times), MAC 02:00:00:00:00:01, MTU 1500, driver net_tap
    192.0.2.1/24, gateway 192.0.2.254
    steering software: asked for auto; the NIC: RSS over 128 slots; there is one worker
    received 1 packets, 60 bytes; missed 3, errors 4, no buffer 5
    sent     2 packets, 120 bytes; errors 6
    its device is asked back; fullgate keeps it until it is stopped
    kernel interface fgk0: took 7 packets, sent 8; refused 9
";
        assert_eq!(ports(&result), expected);
    }

    #[test]
    fn only_drops_that_happened_are_shown() {
        let drop = |reason: &str, count: u64| json!({"reason": reason, "count": count, "per_worker": [count], "meaning": "It is.", "remedy": "Look."});
        let result: api::Drops = read(json!({
            "drops": [drop("no-route", 12), drop("tx-full", 0)],
            "events": [{"event": "icmp-sent", "count": 0, "per_worker": [0], "meaning": "Sent."}],
        }));
        let expected = "\
packets  reason    meaning and remedy
     12  no-route  It is. Look.

no events
";
        assert_eq!(drops(&result, false), expected);
        assert!(drops(&result, true).contains("tx-full"));
        assert!(drops(&result, true).contains("icmp-sent"));
    }

    #[test]
    fn the_last_drops_are_told_with_their_time() {
        let result = read(json!({"drops": [
            {"time_ns": 1_764_043_200_123_456_789_u64, "age_ms": 5, "reason": "no-service",
             "worker": 0, "port": "wan", "length": 60, "headers": "a > b", "hex": "00"},
            {"time_ns": 1_764_043_201_000_000_000_u64, "age_ms": 5, "reason": "no-buffer",
             "worker": 1, "port": null, "length": 0, "headers": "not made", "hex": ""},
        ]}));
        let expected = "\
time                         worker  port  bytes  reason      packet
2025-11-25T04:00:00.123456Z       0  wan      60  no-service  a > b
2025-11-25T04:00:01.000000Z       1  -         0  no-buffer   not made
";
        assert_eq!(last_drops(&result), expected);
        assert_eq!(last_drops(&api::LastDrops { drops: vec![] }), "no drops\n");
    }

    #[test]
    fn pools_and_neighbors_are_tables() {
        let result = read(
            json!({"pools": [{"name": "p", "addresses": [{"address": "10.0.0.100", "servers": [
                {"server": "10.0.0.1:80", "protocol": "tcp", "capacity": 64512, "used": 10, "resting": 5, "free": 64497, "failures": 0, "out_at": 0},
                {"server": "10.0.0.2:80", "protocol": "tcp", "capacity": 64512, "used": 0, "resting": 3, "free": 64509, "failures": 3, "out_at": 1},
            ]}]}]}),
        );
        let expected = "\
pool  local       server       pro  capacity  used  resting   free  failed
p     10.0.0.100  10.0.0.1:80  TCP     64512    10        5  64497       0
p     10.0.0.100  10.0.0.2:80  TCP     64512     0        3  64509       3  out: no answers to this address
";
        assert_eq!(pools(&result), expected);
        let result = read(json!({"neighbors": [
            {"port": "wan", "address": "192.0.2.254", "mac": "02:00:00:00:00:09", "state": "known",
             "configured": true, "workers": [0, 1], "age_ms": 61000},
            {"port": "lan", "address": "10.0.0.3", "mac": null, "state": "no answer",
             "configured": false, "workers": [1], "age_ms": null},
        ]}));
        let expected = "\
port  address      state      mac                kind        workers     heard
wan   192.0.2.254  known      02:00:00:00:00:09  configured  0,1      61 s ago
lan   10.0.0.3     no answer  -                  client      1           never
";
        assert_eq!(neighbors(&result), expected);
    }
}
