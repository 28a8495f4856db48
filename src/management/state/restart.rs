//! Keys that a running gateway can't change.

use crate::config::{Config, Port};

/// The keys in which `new` differs from `old` and that need a restart.
pub(crate) fn needed(old: &Config, new: &Config) -> Vec<String> {
    let (a, b) = (&old.runtime, &new.runtime);
    let runtime = [
        ("workers", a.workers == b.workers),
        ("cores", a.cores == b.cores),
        ("main-core", a.main_core == b.main_core),
        ("hugepages", a.hugepages == b.hugepages),
        ("memory", a.memory == b.memory),
        ("connections", a.connections == b.connections),
        ("mbufs", a.mbufs == b.mbufs),
        ("idle-sleep", a.idle_sleep == b.idle_sleep),
        ("instance", a.instance == b.instance),
        ("admin-socket", a.admin_socket == b.admin_socket),
        ("socket-group", a.socket_group == b.socket_group),
        (
            "socket-read-group",
            a.socket_read_group == b.socket_read_group,
        ),
        ("max-services", a.max_services == b.max_services),
        ("max-servers", a.max_servers == b.max_servers),
        ("neighbors", a.neighbors == b.neighbors),
        ("fragments", a.fragments == b.fragments),
        ("reta-size", a.reta_size == b.reta_size),
        ("local-ports", a.local_ports == b.local_ports),
    ];
    let mut keys: Vec<String> = different(&runtime)
        .map(|key| format!("runtime.{key}"))
        .collect();
    if old.announce.route_protocol != new.announce.route_protocol {
        keys.push("announce.route-protocol".to_owned());
    }
    if old.ports.len() != new.ports.len() {
        keys.push("port".to_owned());
    }
    for (a, b) in old.ports.iter().zip(&new.ports) {
        let port = [
            ("name", a.name == b.name),
            ("device", a.device == b.device),
            ("netns", a.netns == b.netns),
            ("mtu", a.mtu == b.mtu),
            ("rx-descriptors", a.rx_descriptors == b.rx_descriptors),
            ("tx-descriptors", a.tx_descriptors == b.tx_descriptors),
            ("steering", a.steering == b.steering),
            ("kernel-interface", interface(a) == interface(b)),
        ];
        keys.extend(different(&port).map(|key| format!("port[{}].{key}", a.name)));
    }
    keys
}

/// The kernel's interface of a port.
fn interface(port: &Port) -> Option<&str> {
    port.kernel.as_ref().map(|kernel| kernel.name.as_str())
}

fn different<'a>(keys: &'a [(&str, bool)]) -> impl Iterator<Item = &'a str> {
    keys.iter().filter(|(_, same)| !same).map(|(key, _)| *key)
}
