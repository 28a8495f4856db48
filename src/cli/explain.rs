//! `explain`: what would happen, or is happening, to a flow, as text for people.

use std::net::SocketAddrV4;

use clap::Args;
use serde_json::{Value, json};

use super::table::Align::{Left, Right};
use super::table::Table;
use crate::api;

/// A flow.
#[derive(Args, Debug)]
pub(super) struct Explain {
    /// The client, or the real server.
    #[arg(value_name = "CLIENT:PORT")]
    source: SocketAddrV4,
    /// The VIP, or the local address.
    #[arg(value_name = "VIP:PORT")]
    destination: SocketAddrV4,
    /// UDP instead of TCP.
    #[arg(long)]
    udp: bool,
}

impl Explain {
    pub(super) fn params(&self) -> Value {
        let protocol = if self.udp { "udp" } else { "tcp" };
        json!({
            "source": self.source,
            "destination": self.destination,
            "protocol": protocol,
        })
    }
}

/// The whole story.
pub(super) fn text(explained: &api::Explained) -> String {
    let mut text = format!(
        "{} {} > {}\n{}\n\n",
        explained.protocol.to_uppercase(),
        explained.source,
        explained.destination,
        explained.meaning
    );
    let mut line = |label: &str, value: String| text.push_str(&format!("{label:<12}{value}\n"));
    if let Some(reason) = &explained.reason {
        line("dropped", reason.clone());
    }
    if let Some(service) = &explained.service {
        line("service", service.clone());
    }
    match &explained.connection {
        Some(connection) => tell_connection(connection, &mut line),
        None => {
            line(
                "received",
                received(&explained.received, &explained.steering),
            );
            if let Some(server) = &explained.next_server {
                line("next server", server.clone());
                line("client", format!("next hop {}", hop(&explained.source_hop)));
            }
        }
    }
    if !explained.candidates.is_empty() {
        text.push_str(&format!("\n{}", servers(&explained.candidates)));
    }
    text
}

fn tell_connection(told: &api::ExplainedConnection, line: &mut impl FnMut(&str, String)) {
    let connection = &told.connection;
    line("direction", told.direction.clone());
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
    line(
        "client",
        format!("{}, next hop {}", connection.client, hop(&told.client_hop)),
    );
    line("vip", connection.vip.to_string());
    line("local", connection.local.to_string());
    let name = connection.server_name.as_deref().unwrap_or("(removed)");
    line(
        "server",
        format!(
            "{name} {}, next hop {}",
            connection.server,
            hop(&told.server_hop)
        ),
    );
    let expires = connection
        .expires_ms
        .map_or_else(String::new, |ms| format!(", expires in {}", seconds(ms)));
    line(
        "timers",
        format!(
            "age {}, idle {}{expires}",
            seconds(connection.age_ms),
            seconds(connection.idle_ms)
        ),
    );
    line("client hash", leads(&told.client_hash));
    line("server hash", leads(&told.server_hash));
    if let Some(syns) = told.syns {
        line("SYNs sent", syns.to_string());
    }
    if let Some(tcp) = &told.tcp {
        for (label, side) in [("client seq", &tcp.client), ("server seq", &tcp.server)] {
            if let Some(side) = side {
                let open = match side.unacknowledged {
                    Some(0) => "all acknowledged".into(),
                    Some(open) => format!("{open} not acknowledged"),
                    None => "nothing acknowledged".into(),
                };
                line(label, format!("next {}, {open}", side.next));
            }
        }
        if let Some(bytes) = tcp.client_bytes {
            line("sent", format!("{bytes} bytes by the client, modulo 2^32"));
        }
        if tcp.seq_moved != 0 || tcp.timestamps_moved != 0 {
            line(
                "moved",
                format!(
                    "sequence numbers by {}, timestamps by {}",
                    tcp.seq_moved, tcp.timestamps_moved
                ),
            );
        }
    }
    if !connection.flags.is_empty() {
        line("flags", connection.flags.join(", "));
    }
}

fn hop(hop: &Option<api::Hop>) -> String {
    let Some(hop) = hop else {
        return "none: no route".into();
    };
    let mac = match &hop.mac {
        Some(mac) => format!("MAC {mac}"),
        None => hop.state.clone(),
    };
    format!("{} on {}, {mac}", hop.address, hop.port)
}

fn slot(steered: &api::Steered) -> String {
    format!(
        "{:#010x}, slot {} of the redirection table",
        steered.hash, steered.slot
    )
}

fn leads(steered: &api::Steered) -> String {
    format!("{}, worker {}", slot(steered), steered.worker)
}

fn received(by: &api::Steered, steering: &str) -> String {
    format!("by worker {} ({steering}): hash {}", by.worker, slot(by))
}

fn servers(candidates: &[api::ExplainedServer]) -> String {
    let mut table = Table::new(&[
        ("server", Left),
        ("address", Left),
        ("weight", Right),
        ("active", Right),
        ("free ports", Right),
        ("resting", Right),
        ("next hop", Left),
        ("", Left),
    ]);
    for server in candidates {
        let note = match (&server.why_not, server.next) {
            (Some(why), _) => format!("not usable: {why}"),
            (None, true) => "next".into(),
            (None, false) => String::new(),
        };
        table.row([
            server.name.clone(),
            server.address.to_string(),
            server.weight.to_string(),
            server.active.to_string(),
            server.free_ports.to_string(),
            server.resting_ports.to_string(),
            hop(&server.hop),
            note,
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(value: Value) -> String {
        text(&serde_json::from_value(value).expect("an explanation"))
    }

    #[test]
    fn a_connection_is_a_list() {
        let steered = json!({"hash": 0x12ab, "slot": 43, "worker": 1});
        let hop = json!({"port": "wan", "address": "192.0.2.254", "mac": "02:00:00:00:00:09", "state": "known"});
        let told = told(json!({
            "source": "192.0.2.9:40000", "destination": "198.51.100.1:80", "protocol": "tcp",
            "steering": "software", "received": steered, "outcome": "connection", "reason": null,
            "meaning": "It is a connection of worker 1, ESTABLISHED.", "service": "web",
            "next_server": null, "source_hop": null, "candidates": [],
            "connection": {
                "connection": {"protocol": "tcp", "state": "ESTABLISHED", "client": "192.0.2.9:40000",
                    "vip": "198.51.100.1:80", "local": "10.0.0.100:1025", "server": "10.0.0.1:8080",
                    "service": "web", "server_name": "a", "worker": 1, "age_ms": 5000, "idle_ms": 10,
                    "expires_ms": 7_439_990, "flags": ["seq"]},
                "direction": "client to server", "client_hash": steered, "server_hash": steered,
                "client_hop": hop, "server_hop": null, "syns": 2,
                "tcp": {"client": {"next": 5, "acknowledged": 2, "unacknowledged": 3}, "server": null,
                    "client_bytes": 4, "seq_moved": 9, "timestamps_moved": 0},
            },
        }));
        let expected = "\
TCP 192.0.2.9:40000 > 198.51.100.1:80
It is a connection of worker 1, ESTABLISHED.

service     web
direction   client to server
client      192.0.2.9:40000, next hop 192.0.2.254 on wan, MAC 02:00:00:00:00:09
vip         198.51.100.1:80
local       10.0.0.100:1025
server      a 10.0.0.1:8080, next hop none: no route
timers      age 5.000 s, idle 0.010 s, expires in 7439.990 s
client hash 0x000012ab, slot 43 of the redirection table, worker 1
server hash 0x000012ab, slot 43 of the redirection table, worker 1
SYNs sent   2
client seq  next 5, 3 not acknowledged
sent        4 bytes by the client, modulo 2^32
moved       sequence numbers by 9, timestamps by 0
flags       seq
";
        assert_eq!(told, expected);
    }

    #[test]
    fn what_would_happen_is_told_with_the_servers() {
        let server = |name: &str, next: bool, why_not: Option<&str>| {
            json!({"name": name, "address": "10.0.0.1:80", "weight": 1, "state": "up", "active": 2,
                "free_ports": 7, "resting_ports": 3, "hop": null, "next": next, "why_not": why_not})
        };
        let told = told(json!({
            "source": "192.0.2.9:40000", "destination": "198.51.100.1:80", "protocol": "tcp",
            "steering": "rss", "received": {"hash": 1, "slot": 1, "worker": 0}, "outcome": "new",
            "reason": null, "meaning": "It is no connection; a SYN opens one.", "service": "web",
            "next_server": "b", "source_hop": null, "connection": null,
            "candidates": [server("a", false, Some("weight 0")), server("b", true, None)],
        }));
        let expected = "\
TCP 192.0.2.9:40000 > 198.51.100.1:80
It is no connection; a SYN opens one.

service     web
received    by worker 0 (rss): hash 0x00000001, slot 1 of the redirection table
next server b
client      next hop none: no route

server  address      weight  active  free ports  resting  next hop
a       10.0.0.1:80       1       2           7        3  none: no route  not usable: weight 0
b       10.0.0.1:80       1       2           7        3  none: no route  next
";
        assert_eq!(told, expected);
    }
}
