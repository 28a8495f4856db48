//! Keys that a running gateway can't change.

use crate::control::config::Config;

/// The first key in which `new` differs from `old` and that needs a restart.
pub(super) fn needed(old: &Config, new: &Config) -> Option<String> {
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
        ("max-services", a.max_services == b.max_services),
        ("max-servers", a.max_servers == b.max_servers),
        ("reta-size", a.reta_size == b.reta_size),
        ("local-ports", a.local_ports == b.local_ports),
    ];
    if let Some((key, _)) = runtime.iter().find(|(_, same)| !same) {
        return Some(format!("runtime.{key}"));
    }
    if old.ports.len() != new.ports.len() {
        return Some("port".to_owned());
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
        ];
        if let Some((key, _)) = port.iter().find(|(_, same)| !same) {
            return Some(format!("port[{}].{key}", a.name));
        }
    }
    None
}
