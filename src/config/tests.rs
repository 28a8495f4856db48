//! Files that are wrong in one way each, and the line that says so; files that
//! are right; edits; and random damage, which must never panic.

use proptest::prelude::*;

use super::raw::{
    RawAnnounce, RawConfig, RawHealth, RawMetrics, RawPool, RawPort, RawRoute, RawRuntime,
    RawServer, RawService, RawTimeouts,
};
use super::*;

const GOOD: &str = r#"[runtime]
workers = 2
cores = [2, 3]

[[port]]
name = "wan"
device = "tap:fg0"
addresses = ["10.0.0.1/24"]
gateway = "10.0.0.254"

[[port]]
name = "lan"
device = "0000:03:00.0"
addresses = ["10.0.1.1/24"]

[[route]]
to = "10.9.0.0/16"
via = "10.0.1.254"

[[pool]]
name = "default"
addresses = ["10.0.1.10-10.0.1.13", "10.0.1.20"]

[[service]]
name = "web"
vip = "10.0.0.100:80"

[service.timeouts]
established = "1h"

[[service.server]]
name = "a"
address = "10.0.1.101:8080"

[[service.server]]
name = "b"
address = "10.0.1.102:8080"
weight = 3
"#;

fn good() -> Config {
    let checked = Config::parse("f", GOOD).unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(checked.warnings, []);
    checked.config
}

/// What is said about `GOOD` after a replacement.
fn said(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the good file");
    match Config::parse("f", &GOOD.replacen(from, to, 1)) {
        Err(problem) => problem.to_string(),
        Ok(checked) => panic!("{from:?} -> {to:?} passed with {:?}", checked.warnings),
    }
}

const ROWS: &[(&str, &str, &str)] = &[
    (
        "workers = 2",
        "workers =",
        r#"f:2: not TOML: string values must be quoted, expected literal string"#,
    ),
    (
        "workers = 2",
        "workers = 2\nworkers = 3",
        r#"f:3: not TOML: duplicate key"#,
    ),
    (
        "[runtime]",
        "[runtime",
        r#"f:1: not TOML: unclosed table, expected `]`"#,
    ),
    (
        "\"wan\"",
        "\"wan",
        r#"f:6: not TOML: invalid basic string, expected `"`"#,
    ),
    (
        "workers = 2",
        "wrokers = 2",
        r#"f:2: runtime.wrokers: unknown key; did you mean workers?"#,
    ),
    (
        "weight = 3",
        "wieght = 3",
        r#"f:38: service[web].server[b].wieght: unknown key; did you mean weight?"#,
    ),
    (
        "weight = 3",
        "colour = 3",
        r#"f:38: service[web].server[b].colour: unknown key; known here are name, address, weight, state, health-address"#,
    ),
    (
        "[[route]]",
        "[[routes]]",
        r#"f:16: routes: unknown key; did you mean route?"#,
    ),
    (
        "established",
        "establish",
        r#"f:29: service[web].timeouts.establish: unknown key; did you mean established?"#,
    ),
    (
        "workers = 2",
        "workers = \"2\"",
        r#"f:2: runtime.workers: is "2"; give a whole number"#,
    ),
    (
        "weight = 3",
        "weight = 1.5",
        r#"f:38: service[web].server[b].weight: is 1.5; give a whole number"#,
    ),
    (
        "weight = 3",
        "weight = \"heavy\"",
        r#"f:38: service[web].server[b].weight: is "heavy"; give a whole number"#,
    ),
    (
        "name = \"wan\"",
        "name = 7",
        r#"f:6: port[#1].name: is 7; give a text in double quotes"#,
    ),
    (
        "workers = 2",
        "hugepages = \"no\"",
        r#"f:2: runtime.hugepages: is "no"; give true or false"#,
    ),
    (
        "[\"10.0.1.1/24\"]",
        "\"10.0.1.1/24\"",
        r#"f:14: port[lan].addresses: is "10.0.1.1/24"; give a list in [ ]"#,
    ),
    (
        "[runtime]",
        "runtime = 5\n[other]",
        r#"f:2: other: unknown key; known here are runtime, metrics, announce, port, route, pool, service"#,
    ),
    (
        "workers = 2",
        "workers = 0",
        r#"f:2: runtime.workers: is 0; give 1 to 64"#,
    ),
    (
        "[[route]]",
        "[metrics]\nlisten = \"localhost\"\n[[route]]",
        r#"f:17: metrics.listen: "localhost" is no address and port; give those of the host, such as "127.0.0.1:9091""#,
    ),
    (
        "[[route]]",
        "[metrics]\nlisten = \"127.0.0.1:0\"\n[[route]]",
        r#"f:17: metrics.listen: "127.0.0.1:0" is no address and port; give those of the host, such as "127.0.0.1:9091""#,
    ),
    (
        "workers = 2",
        "workers = 65",
        r#"f:2: runtime.workers: is 65; give 1 to 64"#,
    ),
    (
        "workers = 2",
        "workers = 3",
        r#"f:3: runtime.cores: lists 2 cores for 3 workers; give one core per worker"#,
    ),
    (
        "cores = [2, 3]",
        "cores = [2, 2]",
        r#"f:3: runtime.cores[#2]: core 2 is listed twice; give each worker its own"#,
    ),
    (
        "cores = [2, 3]",
        "cores = [2, 3]\nmain-core = 3",
        r#"f:3: runtime.cores[#2]: core 3 is the main core; give workers other cores"#,
    ),
    (
        "cores = [2, 3]",
        "cores = [2, -1]",
        r#"f:3: runtime.cores[#2]: is -1; give 0 to 1023"#,
    ),
    (
        "workers = 2",
        "workers = 2\nmemory = \"512\"",
        r#"f:3: runtime.memory: "512" is no size; give a whole number with M or G, such as "512M""#,
    ),
    (
        "workers = 2",
        "workers = 2\nmemory = \"1M\"",
        r#"f:3: runtime.memory: is 1M; give "64M" to "1024G""#,
    ),
    (
        "workers = 2",
        "workers = 2\nconnections = 100",
        r#"f:3: runtime.connections: is 100; give 4096 to 200000000"#,
    ),
    (
        "workers = 2",
        "workers = 2\nidle-sleep = \"fast\"",
        r#"f:3: runtime.idle-sleep: "fast" is no duration; give numbers with units, such as "250ms" or "2h4m""#,
    ),
    (
        "workers = 2",
        "workers = 2\nidle-sleep = \"2s\"",
        r#"f:3: runtime.idle-sleep: is 2s; give "0us" to "100ms""#,
    ),
    (
        "workers = 2",
        "workers = 2\ninstance = \"a/b\"",
        r#"f:3: runtime.instance: "a/b" can't be part of file names; give 1 to 32 letters, digits, hyphens or underscores"#,
    ),
    (
        "workers = 2",
        "workers = 2\nadmin-socket = \"run/x.sock\"",
        r#"f:3: runtime.admin-socket: "run/x.sock" is no absolute path of a file; give one, such as "/run/fullgate/fullgate.sock""#,
    ),
    (
        "workers = 2",
        "workers = 2\nfragments = 8",
        r#"f:3: runtime.fragments: is 8; give 64 to 1048576"#,
    ),
    (
        "workers = 2",
        "workers = 2\nreta-size = 100",
        r#"f:3: runtime.reta-size: is 100; give a power of two, such as 128"#,
    ),
    (
        "cores = [2, 3]",
        "reta-size = 2\nmax-servers = 1",
        r#"f:25: service: there are 2 servers, but runtime.max-servers is 1; raise it, or take servers out"#,
    ),
    (
        "workers = 2\ncores = [2, 3]",
        "workers = 8\nreta-size = 4",
        r#"f:3: runtime.reta-size: is 4, but there are 8 workers; give at least one slot per worker"#,
    ),
    (
        "workers = 2",
        "workers = 2\nlocal-ports = \"1024\"",
        r#"f:3: runtime.local-ports: "1024" is no range of ports; give FIRST-LAST, such as "1024-65535""#,
    ),
    (
        "workers = 2",
        "workers = 2\nlocal-ports = \"5000-5001\"",
        r#"f:3: runtime.local-ports: has 2 ports; give at least 1024"#,
    ),
    (
        "name = \"wan\"\n",
        "",
        r#"f:5: port[#1].name: is missing; give a name, such as "wan""#,
    ),
    (
        "name = \"wan\"",
        "name = \"the wan\"",
        r#"f:6: port[the wan].name: "the wan" is no name; give 1 to 63 letters, digits, dots, colons, hyphens or underscores"#,
    ),
    (
        "name = \"lan\"",
        "name = \"wan\"",
        r#"f:12: port[wan].name: "wan" is already that of another port; give each its own"#,
    ),
    (
        "device = \"tap:fg0\"\n",
        "",
        r#"f:5: port[wan].device: is missing; give "tap:NAME", a PCI address such as "0000:03:00.0", or "vdev:ARGUMENTS""#,
    ),
    (
        "tap:fg0",
        "eth0",
        r#"f:7: port[wan].device: "eth0" is no device; give "tap:NAME", a PCI address such as "0000:03:00.0", or "vdev:ARGUMENTS""#,
    ),
    (
        "0000:03:00.0",
        "03:00.0",
        r#"f:13: port[lan].device: "03:00.0" is no device; give the domain too: "0000:03:00.0""#,
    ),
    (
        "tap:fg0",
        "tap:a-name-too-long-for-it",
        r#"f:7: port[wan].device: "a-name-too-long-for-it" is no interface name; give 1 to 15 letters, digits, dots, hyphens or underscores"#,
    ),
    (
        "tap:fg0",
        "vdev:af_packet0",
        r#"f:7: port[wan].device: "af_packet0" is no DPDK network device; give one such as "vdev:net_af_packet0,iface=eth0""#,
    ),
    (
        "0000:03:00.0",
        "tap:fg0",
        r#"f:13: port[lan].device: tap:fg0 is already that of port wan; give each its own"#,
    ),
    (
        "0000:03:00.0\"",
        "0000:03:00.0\"\nnetns = \"client\"",
        r#"f:14: port[lan].netns: only a TAP has a kernel side that can be in a namespace; leave it out"#,
    ),
    (
        "tap:fg0\"",
        "tap:fg0\"\nnetns = \"a/b\"",
        r#"f:8: port[wan].netns: "a/b" names no namespace; give a name as "ip netns" lists it"#,
    ),
    (
        "[\"10.0.1.1/24\"]",
        "[]",
        r#"f:14: port[lan].addresses: there is none; give at least one, such as ["10.0.0.1/24"]"#,
    ),
    (
        "10.0.1.1/24",
        "10.0.1.1",
        r#"f:14: port[lan].addresses[#1]: "10.0.1.1" lacks a prefix length; give ADDRESS/LENGTH, such as "10.0.1.1/24""#,
    ),
    (
        "10.0.1.1/24",
        "10.0.1.0/24",
        r#"f:14: port[lan].addresses[#1]: "10.0.1.0/24" is the network or broadcast address; give a host's address"#,
    ),
    (
        "10.0.1.1/24",
        "fe80::1/64",
        r#"f:14: port[lan].addresses[#1]: "fe80::1/64" is IPv6, which is not supported yet; give an IPv4 address with a prefix length, such as "10.0.0.1/24""#,
    ),
    (
        "10.0.1.1/24",
        "10.0.0.1/24",
        r#"f:14: port[lan].addresses[#1]: 10.0.0.1 is already that of port wan; give each its own"#,
    ),
    (
        "10.0.0.254",
        "10.0.2.254",
        r#"f:9: port[wan].gateway: 10.0.2.254 is in none of the port's networks; give a router in 10.0.0.0/24"#,
    ),
    (
        "10.0.0.254",
        "10.0.0.255",
        r#"f:9: port[wan].gateway: 10.0.0.255 is the broadcast address of the network 10.0.0.0/24; give a host's"#,
    ),
    (
        "10.0.1.254",
        "10.0.1.0",
        r#"f:18: route[#1].via: 10.0.1.0 is the address of the network 10.0.1.0/24; give a host's"#,
    ),
    (
        "\"10.0.1.20\"",
        "\"10.0.1.254-10.0.1.255\"",
        r#"f:22: pool[default].addresses[#2]: 10.0.1.255 is the broadcast address of the network 10.0.1.0/24; give a host's"#,
    ),
    (
        "10.0.0.100:80",
        "10.0.0.255:80",
        r#"f:26: service[web].vip: 10.0.0.255 is the broadcast address of the network 10.0.0.0/24; give a host's"#,
    ),
    (
        "10.0.1.102:8080",
        "10.0.1.0:8080",
        r#"f:37: service[web].server[b].address: 10.0.1.0 is the address of the network 10.0.1.0/24; give a host's"#,
    ),
    (
        "10.0.1.1/24\"]",
        "10.0.1.1/24\"]\nkernel-interface = \"k1\"\nkernel-addresses = [\"10.0.1.255\"]",
        r#"f:16: port[lan].kernel-addresses[#1]: 10.0.1.255 is the broadcast address of the network 10.0.1.0/24; give a host's"#,
    ),
    (
        "workers = 2",
        "workers = 2\nneighbors = 100",
        r#"f:3: runtime.neighbors: is 100; give 384 to 65535"#,
    ),
    (
        "10.0.0.254",
        "10.0.0.1",
        r#"f:9: port[wan].gateway: 10.0.0.1 is the address of port wan itself; give the router's"#,
    ),
    (
        "10.0.0.254",
        "10.0.0.256",
        r#"f:9: port[wan].gateway: "10.0.0.256" is no address; give an IPv4 address, such as "10.0.0.1""#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "mtu = 9000",
        r#"f:9: port[wan].mtu: is 9000; a TAP has at most 1500"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "mtu = 500",
        r#"f:9: port[wan].mtu: is 500; give 576 to 9600"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "rx-descriptors = 1000",
        r#"f:9: port[wan].rx-descriptors: is 1000; give a power of two, such as 1024"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "steering = \"sofware\"",
        r#"f:9: port[wan].steering: "sofware" is not known; did you mean "software"?"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "steering = \"rss\"",
        r#"f:9: port[wan].steering: is "rss", but the driver net_tap has no RSS that works; give "auto""#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "rpf = \"stric\"",
        r#"f:9: port[wan].rpf: "stric" is not known; did you mean "strict"?"#,
    ),
    (
        "[runtime]",
        "[runtime]\necho-per-second = -1",
        r#"f:2: runtime.echo-per-second: is -1; give 0 to 100000000"#,
    ),
    (
        "[runtime]",
        "[runtime]\nmin-path-mtu = 67",
        r#"f:2: runtime.min-path-mtu: is 67; give 68 to 65535"#,
    ),
    (
        "[runtime]",
        "[runtime]\nmin-path-mtu = 1501",
        r#"f:2: runtime.min-path-mtu: is 1501, but no port has a larger mtu than 1500; give at most 1500"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "kernel-interface = \"fullgate-exceptions\"",
        r#"f:9: port[wan].kernel-interface: "fullgate-exceptions" is no interface name; give 1 to 15 letters, digits, dots, hyphens or underscores"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "kernel-interface = \"..\"",
        r#"f:9: port[wan].kernel-interface: ".." is no interface name; give 1 to 15 letters, digits, dots, hyphens or underscores"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "kernel-interface = \"fg0\"",
        r#"f:9: port[wan].kernel-interface: "fg0" is already that of port wan, its device; give each its own"#,
    ),
    (
        "addresses = [\"10.0.1.1/24\"]",
        "addresses = [\"10.0.1.1/24\"]\nkernel-interface = \"fg0\"",
        r#"f:15: port[lan].kernel-interface: "fg0" is already that of port wan, its device; give each its own"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "kernel-interface = \"k0\"\nkernel-rate = 0",
        r#"f:10: port[wan].kernel-rate: is 0; give 1 to 1000000"#,
    ),
    (
        "[[port]]",
        "[announce]\nroute-protocol = 4\n[[port]]",
        r#"f:6: announce.route-protocol: is 4; give 5 to 255"#,
    ),
    (
        "[[port]]",
        "[announce]\ngrace = \"1m\"\n[[port]]",
        r#"f:6: announce.grace: is 1m; give at most "20s""#,
    ),
    (
        "name = \"web\"",
        "name = \"web\"\nannounce = true",
        r#"f:26: service[web].announce: the route to the VIP is that of a kernel interface, and no port has one; give one of them kernel-interface"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "kernel-rate = 100",
        r#"f:9: port[wan].kernel-rate: the port has no interface of the kernel; give kernel-interface too, or leave it out"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "kernel-interface = \"k0\"\nkernel-addresses = [\"10.0.1.1\"]",
        r#"f:10: port[wan].kernel-addresses[#1]: 10.0.1.1 is already that of port lan; give each its own"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "kernel-interface = \"k0\"\nkernel-addresses = [\"10.0.1.12\"]",
        r#"f:23: pool[default].addresses[#1]: 10.0.1.12 is already that of port wan, its kernel-addresses; give each its own"#,
    ),
    (
        "gateway = \"10.0.0.254\"",
        "kernel-interface = \"k0\"\nkernel-addresses = [\"10.0.0.100\"]",
        r#"f:27: service[web].vip: 10.0.0.100 is an address of the kernel, by port wan; give an address that only services have"#,
    ),
    (
        "10.9.0.0/16",
        "10.9.0.1/16",
        r#"f:17: route[#1].to: "10.9.0.1/16" has host bits set; give "10.9.0.0/16""#,
    ),
    (
        "10.9.0.0/16",
        "10.9",
        r#"f:17: route[#1].to: "10.9" is no network; give an IPv4 network, such as "10.9.0.0/16""#,
    ),
    (
        "10.0.1.254",
        "10.0.2.254",
        r#"f:18: route[#1].via: 10.0.2.254 is in no port's network; give a router that is"#,
    ),
    (
        "to = \"10.9.0.0/16\"\n",
        "",
        r#"f:16: route[#1].to: is missing; give a network, such as "10.9.0.0/16""#,
    ),
    (
        "[[pool]]",
        "[[route]]\nto = \"10.9.0.0/16\"\nvia = \"10.0.1.253\"\n\n[[pool]]",
        r#"f:21: route[#2].to: 10.9.0.0/16 is already that of another route; give each its own"#,
    ),
    (
        "[\"10.0.1.10-10.0.1.13\", \"10.0.1.20\"]",
        "[]",
        r#"f:22: pool[default].addresses: there is none; give at least one local address"#,
    ),
    (
        "10.0.1.10-10.0.1.13",
        "10.0.1.13-10.0.1.10",
        r#"f:22: pool[default].addresses[#1]: "10.0.1.13-10.0.1.10" runs backwards; give "10.0.1.10-10.0.1.13""#,
    ),
    (
        "10.0.1.10-10.0.1.13",
        "10.0.1.10-10.0.9.13",
        r#"f:22: pool[default].addresses: has more than 1024 addresses; give at most that many"#,
    ),
    (
        "10.0.1.20",
        "10.0.1.12",
        r#"f:22: pool[default].addresses[#2]: 10.0.1.12 is already that of pool default; give each its own"#,
    ),
    (
        "10.0.1.20",
        "10.0.0.1",
        r#"f:22: pool[default].addresses[#2]: 10.0.0.1 is already that of port wan; give each its own"#,
    ),
    (
        "[[service]]\n",
        "[[pool]]\nname = \"other\"\naddresses = [\"10.0.1.30\"]\n\n[[service]]\n",
        r#"f:28: service[web].pool: is missing, and there are 2 pools; give one's name"#,
    ),
    (
        "[[service]]\n",
        "[[service]]\npool = \"defualt\"\n",
        r#"f:25: service[web].pool: there is no pool "defualt"; did you mean "default"?"#,
    ),
    (
        "[[pool]]\nname = \"default\"\naddresses = [\"10.0.1.10-10.0.1.13\", \"10.0.1.20\"]\n",
        "",
        r#"f:21: service[web].pool: there is no pool; add a [[pool]] with local addresses"#,
    ),
    (
        "10.0.0.100:80",
        "10.0.0.100",
        r#"f:26: service[web].vip: "10.0.0.100" lacks a port; give ADDRESS:PORT, such as "10.0.0.100:80""#,
    ),
    (
        "10.0.0.100:80",
        "[2001:db8::1]:80",
        r#"f:26: service[web].vip: "[2001:db8::1]:80" is IPv6, which is not supported yet; give an IPv4 address with a port, such as "10.0.0.1:80""#,
    ),
    (
        "10.0.0.100:80",
        "10.0.0.100:0",
        r#"f:26: service[web].vip: "10.0.0.100:0" has port 0; give a port from 1 to 65535"#,
    ),
    (
        "10.0.0.100:80",
        "224.0.0.1:80",
        r#"f:26: service[web].vip: 224.0.0.1 is a multicast address; give the unicast address of a host"#,
    ),
    (
        "10.0.0.100:80",
        "10.0.0.1:80",
        r#"f:26: service[web].vip: 10.0.0.1 is an address of port wan; give an address that only services have"#,
    ),
    (
        "10.0.0.100:80",
        "10.0.1.20:80",
        r#"f:26: service[web].vip: 10.0.1.20 is an address of pool default; give an address that only services have"#,
    ),
    (
        "vip = \"10.0.0.100:80\"\n",
        "",
        r#"f:24: service[web].vip: is missing; give ADDRESS:PORT, such as "10.0.0.100:80""#,
    ),
    (
        "name = \"web\"\n",
        "",
        r#"f:24: service[#1].name: is missing; give a name, such as "web""#,
    ),
    (
        "[service.timeouts]",
        "protocol = \"sctp\"\n[service.timeouts]",
        r#"f:28: service[web].protocol: "sctp" is not known; give "tcp" or "udp""#,
    ),
    (
        "[service.timeouts]",
        "scheduler = \"wlcc\"\n[service.timeouts]",
        r#"f:28: service[web].scheduler: "wlcc" is not known; did you mean "wlc"?"#,
    ),
    (
        "[service.timeouts]",
        "unknown-flow = \"silent\"\n[service.timeouts]",
        r#"f:28: service[web].unknown-flow: "silent" is not known; give "reset" or "drop""#,
    ),
    (
        "[service.timeouts]",
        "on-expire = \"drop\"\n[service.timeouts]",
        r#"f:28: service[web].on-expire: "drop" is not known; give "reset" or "silent""#,
    ),
    (
        "[service.timeouts]",
        "syn-retry-after = \"2m\"\n[service.timeouts]",
        r#"f:28: service[web].syn-retry-after: is 2m; give "10ms" to "60s", or "0ms" for never"#,
    ),
    (
        "[service.timeouts]",
        "syn-retry-max = \"2m\"\n[service.timeouts]",
        r#"f:28: service[web].syn-retry-max: is 2m; give "10ms" to "60s""#,
    ),
    (
        "[service.timeouts]",
        "syn-retry-max = \"200ms\"\n[service.timeouts]",
        r#"f:28: service[web].syn-retry-max: is 200ms, and syn-retry-after 250ms; give at least that"#,
    ),
    (
        "[service.timeouts]",
        "syn-attempts = 0\n[service.timeouts]",
        r#"f:28: service[web].syn-attempts: is 0; give 1 to 10"#,
    ),
    (
        "[service.timeouts]",
        "fail-after = 70000\n[service.timeouts]",
        r#"f:28: service[web].fail-after: is 70000; give 0 to 65535"#,
    ),
    (
        "\"1h\"",
        "\"1ms\"",
        r#"f:29: service[web].timeouts.established: is 1ms; give "100ms" to "7d""#,
    ),
    (
        "\"1h\"",
        "3600",
        r#"f:29: service[web].timeouts.established: is 3600; give a text in double quotes"#,
    ),
    (
        "weight = 3",
        "weight = 65536",
        r#"f:38: service[web].server[b].weight: is 65536; give 0 to 65535"#,
    ),
    (
        "weight = 3",
        "weight = -1",
        r#"f:38: service[web].server[b].weight: is -1; give 0 to 65535"#,
    ),
    (
        "weight = 3",
        "state = \"drain\"",
        r#"f:38: service[web].server[b].state: "drain" is not known; did you mean "draining"?"#,
    ),
    (
        "weight = 3",
        "state = \"off\"",
        r#"f:38: service[web].server[b].state: "off" is not known; give "up" or "draining" or "down""#,
    ),
    (
        "name = \"b\"",
        "name = \"a\"",
        r#"f:36: service[web].server[a].name: "a" is already that of another server of the service; give each its own"#,
    ),
    (
        "10.0.1.102:8080",
        "10.0.1.101:8080",
        r#"f:37: service[web].server[b].address: 10.0.1.101:8080 is already that of server a; give each its own"#,
    ),
    (
        "address = \"10.0.1.102:8080\"\n",
        "",
        r#"f:35: service[web].server[b].address: is missing; give ADDRESS:PORT, such as "10.0.1.1:8080""#,
    ),
    (
        "10.0.1.102:8080",
        "10.0.0.100:8080",
        r#"f:37: service[web].server[b].address: 10.0.0.100 is an address of service web; give a real server's"#,
    ),
    (
        "10.0.1.102:8080",
        "10.0.1.1:8080",
        r#"f:37: service[web].server[b].address: 10.0.1.1 is an address of port lan; give a real server's"#,
    ),
    (
        "10.0.1.102:8080",
        "server.example:8080",
        r#"f:37: service[web].server[b].address: "server.example:8080" is no address with a port; give an IPv4 address with a port, such as "10.0.0.1:80""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ninterval = \"1s\"\n[service.timeouts]",
        r#"f:28: service[web].health.check: is missing; give "tcp", "http", "https", "udp" or "icmp""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"gopher\"\n[service.timeouts]",
        r#"f:29: service[web].health.check: "gopher" is not known; give "tcp" or "http" or "https" or "udp" or "icmp" or "none""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"htp\"\n[service.timeouts]",
        r#"f:29: service[web].health.check: "htp" is not known; did you mean "http"?"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\nintervall = \"1s\"\n[service.timeouts]",
        r#"f:30: service[web].health.intervall: unknown key; did you mean interval?"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\ninterval = \"1ms\"\n[service.timeouts]",
        r#"f:30: service[web].health.interval: is 1ms; give "100ms" to "1h""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\ninterval = 5\n[service.timeouts]",
        r#"f:30: service[web].health.interval: is 5; give a text in double quotes"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\ntimeout = \"5s\"\n[service.timeouts]",
        r#"f:30: service[web].health.timeout: is 5s, and the interval 2s; give at most that"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\ntimeout = \"1us\"\n[service.timeouts]",
        r#"f:30: service[web].health.timeout: is 1us; give "10ms" to "1h""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\nrise = 0\n[service.timeouts]",
        r#"f:30: service[web].health.rise: is 0; give 1 to 100"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\nfall = 101\n[service.timeouts]",
        r#"f:30: service[web].health.fall: is 101; give 1 to 100"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\nport = 0\n[service.timeouts]",
        r#"f:30: service[web].health.port: is 0; give 1 to 65535"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\nvia = \"prot\"\n[service.timeouts]",
        r#"f:30: service[web].health.via: "prot" is not known; did you mean "port"?"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\nstart = \"warm\"\n[service.timeouts]",
        r#"f:30: service[web].health.start: "warm" is not known; give "up" or "down""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\nslow-start = \"2h\"\n[service.timeouts]",
        r#"f:30: service[web].health.slow-start: is 2h; give "0ms" to "1h""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\non-down = \"drop\"\n[service.timeouts]",
        r#"f:30: service[web].health.on-down: "drop" is not known; give "auto" or "reset" or "keep""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\nall-down = \"use\"\n[service.timeouts]",
        r#"f:30: service[web].health.all-down: "use" is not known; give "refuse" or "use-all""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\npath = \"/\"\n[service.timeouts]",
        r#"f:30: service[web].health.path: belongs to check = "http" or "https"; leave it out"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"http\"\nsni = \"a.example\"\n[service.timeouts]",
        r#"f:30: service[web].health.sni: belongs to check = "https"; leave it out"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"https\"\nsend = \"x\"\n[service.timeouts]",
        r#"f:30: service[web].health.send: belongs to check = "udp"; leave it out"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"icmp\"\nport = 80\n[service.timeouts]",
        r#"f:30: service[web].health.port: check = "icmp" has none; leave it out"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"http\"\nmethod = \"G T\"\n[service.timeouts]",
        r#"f:30: service[web].health.method: "G T" is no method; give one such as "GET" or "HEAD""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"http\"\nmethod = \"HEAD\"\nbody = \"x\"\n[service.timeouts]",
        r#"f:30: service[web].health.method: "HEAD" gets no body to look into; give "GET""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"http\"\npath = \"health\"\n[service.timeouts]",
        r#"f:30: service[web].health.path: "health" is no path; give one such as "/health", with blanks and letters beyond ASCII as %XX"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"http\"\nhost = \"a b\"\n[service.timeouts]",
        r#"f:30: service[web].health.host: "a b" is no host; give one such as "www.example.com""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"http\"\nstatus = \"2xx\"\n[service.timeouts]",
        r#"f:30: service[web].health.status: "2xx" is no list of status codes; give codes from 100 to 599 and ranges, such as "200-299,304""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"http\"\nstatus = \"299-200\"\n[service.timeouts]",
        r#"f:30: service[web].health.status: "299-200" is no list of status codes; give codes from 100 to 599 and ranges, such as "200-299,304""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"http\"\nstatus = 200\n[service.timeouts]",
        r#"f:30: service[web].health.status: is 200; give a text in double quotes"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"http\"\nbody = \"\"\n[service.timeouts]",
        r#"f:30: service[web].health.body: has 0 bytes; give 1 to 1024"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"https\"\nsni = \"10.0.0.1\"\n[service.timeouts]",
        r#"f:30: service[web].health.sni: "10.0.0.1" is no name of a host; give one such as "www.example.com", or "" for none"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"https\"\nca = \"/nonexistent.pem\"\n[service.timeouts]",
        r#"f:30: service[web].health.ca: "/nonexistent.pem" can't be read: No such file or directory (os error 2); give a file of certificates in PEM"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"https\"\nca = \"ca.pem\"\n[service.timeouts]",
        r#"f:30: service[web].health.ca: "ca.pem" is no absolute path; give a file of certificates in PEM"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"https\"\nca = \"/dev/null\"\n[service.timeouts]",
        r#"f:30: service[web].health.ca: "/dev/null" is no regular file of at most 16 MiB; give a file of certificates in PEM"#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"udp\"\nsend = \"hex:0\"\n[service.timeouts]",
        r#"f:30: service[web].health.send: "hex:0" is no payload; give text, or bytes such as "hex:0a0b""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"udp\"\nexpect = \"hex:\"\n[service.timeouts]",
        r#"f:30: service[web].health.expect: "hex:" is no payload; give text, or bytes such as "hex:0a0b""#,
    ),
    (
        "[service.timeouts]",
        "[service.health]\ncheck = \"tcp\"\n[service.timeouts]",
        r#"f:28: service[web].health.via: server a can't be checked through a port: port lan has no interface of the kernel; give it a kernel-interface, or via = "host""#,
    ),
    (
        "[[route]]\nto = \"10.9.0.0/16\"",
        "[[service]]\nname = \"far\"\nvip = \"10.0.0.101:80\"\n[service.health]\ncheck = \"icmp\"\n[[service.server]]\nname = \"x\"\naddress = \"10.9.0.1:80\"\n[[route]]\nto = \"10.9.0.0/16\"",
        r#"f:19: service[far].health.via: server x can't be checked through a port: port lan has no interface of the kernel; give it a kernel-interface, or via = "host""#,
    ),
    (
        "weight = 3",
        "health-address = \"10.0.1.102\"",
        r#"f:38: service[web].server[b].health-address: "10.0.1.102" lacks a port; give ADDRESS:PORT, such as "10.0.1.102:80""#,
    ),
    (
        "weight = 3",
        "health-address = \"10.0.0.100:80\"",
        r#"f:38: service[web].server[b].health-address: 10.0.0.100 is an address of service web; give a real server's"#,
    ),
];

#[test]
fn every_mistake_is_told_in_one_line() {
    for (from, to, expected) in ROWS {
        assert_eq!(said(from, to), *expected, "{from:?} -> {to:?}");
    }
}

#[test]
fn a_socket_path_must_fit_a_socket_address() {
    let with = |len: usize| format!("workers = 2\nadmin-socket = \"/{}\"", "s".repeat(len - 1));
    let text = GOOD.replacen("workers = 2", &with(107), 1);
    assert!(Config::parse("f", &text).is_ok());
    assert_eq!(
        said("workers = 2", &with(108)),
        "f:3: runtime.admin-socket: has 108 bytes; give a path of at most 107, the limit of Unix sockets"
    );
}

#[test]
fn a_file_that_is_not_there() {
    let problem = Config::load(Path::new("/nonexistent/fullgate.toml")).expect_err("no file");
    assert_eq!(
        problem.to_string(),
        "/nonexistent/fullgate.toml: can't be read: No such file or directory (os error 2)"
    );
}

#[test]
fn what_looks_unintended_is_a_warning() {
    let rows = [
        (
            "[\"10.0.1.1/24\"]",
            "[\"10.0.1.1/24\", \"10.0.0.7/8\"]",
            "f:14: port[lan].addresses[#2]: the network 10.0.0.0/8 is also on port wan; a destination in both goes out of the one listed first",
        ),
        (
            "[[route]]",
            "[metrics]\nlisten = \"[::]:9091\"\n[[route]]",
            "f:17: metrics.listen: is every address of the host, those of kernel interfaces too, and nobody is asked for a password; give one address",
        ),
        (
            "[\"10.0.1.1/24\"]",
            "[\"10.0.1.1/24\"]\ngateway = \"10.0.1.254\"",
            "f:15: port[lan].gateway: port wan has a gateway too, and only that one is used; give networks behind this one as [[route]]",
        ),
        (
            "10.0.1.20",
            "10.7.0.1",
            "f:22: pool[default].addresses[#2]: 10.7.0.1 is in no port's network; real servers answer it only if a router sends it here",
        ),
        (
            ":80\"\n\n[service.timeouts]",
            ":5060\"\nprotocol = \"udp\"\n[service.timeouts]\nudp = \"30s\"",
            "f:29: service[web].timeouts.udp: is below 2 minutes, the least that RFC 4787 allows; quiet flows will break",
        ),
        // RFC 4787 REQ-5: well-known ports may have less.
        (
            "[service.timeouts]",
            "protocol = \"udp\"\n[service.timeouts]\nudp = \"30s\"",
            "",
        ),
        (
            ":80\"\n\n[service.timeouts]",
            ":5060\"\nprotocol = \"udp\"\nudp = \"one-answer\"\n[service.timeouts]\nudp = \"30s\"",
            "",
        ),
        (
            "[service.timeouts]",
            "scheduler = \"rr\"\n[service.health]\ncheck = \"tcp\"\nslow-start = \"1m\"\nvia = \"host\"\n[service.timeouts]",
            "f:31: service[web].health.slow-start: has no effect with scheduler \"rr\", which knows no weights; give \"wrr\"",
        ),
        (
            "weight = 3",
            "health-address = \"10.9.0.1:80\"\n[[service.server]]\nname = \"c\"\naddress = \"10.0.1.103:80\"\nhealth-address = \"10.9.0.1:81\"\n# ",
            "",
        ),
    ];
    for (from, to, expected) in rows {
        let text = GOOD.replacen(from, to, 1);
        let checked = Config::parse("f", &text).unwrap_or_else(|problem| panic!("{problem}"));
        let warnings: Vec<String> = checked.warnings.iter().map(Problem::to_string).collect();
        assert_eq!(warnings.join("\n"), expected);
    }
    let text =
        GOOD.replacen("gateway = \"10.0.0.254\"\n", "", 1)
            .replacen("10.0.1.102", "192.0.2.1", 1);
    let checked = Config::parse("f", &text).unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(
        checked.warnings[0].to_string(),
        "f:36: service[web].server[b].address: no route leads to 192.0.2.1; add a [[route]] or a gateway to a port"
    );
}

/// A configuration of one port with these lines, and this many servers on it.
fn one_port(lines: &str, servers: u32) -> Result<Checked, Problem> {
    let mut text = format!(
        "[runtime]\nneighbors = 384\n[[port]]\nname = \"wan\"\ndevice = \"tap:fg0\"\n{lines}\n\
         [[pool]]\nname = \"default\"\naddresses = [\"192.0.2.10\"]\n\
         [[service]]\nname = \"web\"\nvip = \"192.0.2.100:80\"\n"
    );
    for server in 0..servers {
        let [.., high, low] = (server + 1).to_be_bytes();
        text += &format!("[[service.server]]\naddress = \"10.8.{high}.{low}:80\"\n");
    }
    Config::parse("f", &text)
}

#[test]
fn a_port_without_a_network_has_its_gateway_on_the_link() {
    for (address, gateway) in [
        ("203.0.113.5/32", "10.255.255.1"),
        ("203.0.113.4/31", "10.255.255.1"),
        ("203.0.113.4/31", "203.0.113.5"),
    ] {
        let lines = format!(
            "addresses = [\"{address}\"]\ngateway = \"{gateway}\"\n\
             [[route]]\nto = \"10.7.0.0/16\"\nvia = \"{gateway}\""
        );
        let checked = one_port(&lines, 3).unwrap_or_else(|problem| panic!("{problem}"));
        let routes = checked.config.forwarding();
        let gateway: Ipv4Addr = gateway.parse().expect("an address");
        for to in [gateway, [10, 8, 0, 1].into(), [10, 7, 0, 1].into()] {
            let hop = routes.lookup(to).expect("a route");
            assert_eq!(hop.addr, gateway, "{address}: {to}");
        }
    }
    let problem = one_port("addresses = [\"10.8.0.1/30\"]\ngateway = \"10.9.0.1\"", 0);
    let problem = problem.expect_err("a network of its own").to_string();
    assert!(
        problem.contains("in none of the port's networks"),
        "{problem}"
    );
}

#[test]
fn all_next_hops_have_a_place() {
    let on_link = "addresses = [\"10.8.255.1/16\"]\ngateway = \"10.8.255.254\"";
    assert!(one_port(on_link, 127).is_ok());
    let problem = one_port(on_link, 128)
        .expect_err("one too many")
        .to_string();
    assert_eq!(
        problem,
        "f:2: runtime.neighbors: is 384, which has room for 128 next hops of the configuration, \
         but it names 129 (real servers and routers on the ports' networks); give at least 387"
    );
    // Behind a router they need none.
    let behind = "addresses = [\"10.9.255.1/16\"]\ngateway = \"10.9.255.254\"";
    assert!(one_port(behind, 1_000).is_ok());
    let problem = one_port("addresses = [\"10.8.255.1/16\"]", 22_000).expect_err("too many");
    let right = "put a router between fullgate and a part of them";
    assert!(problem.to_string().ends_with(right), "{problem}");
}

#[test]
fn a_udp_flow_is_not_unanswered_for_longer_than_answered() {
    let rows = [
        ("", (300_000, 30_000)),
        ("udp = \"10s\"", (10_000, 10_000)),
        ("udp = \"10s\"\nudp-one-way = \"45s\"", (10_000, 45_000)),
        ("udp-one-way = \"5m\"", (300_000, 300_000)),
    ];
    for (keys, expected) in rows {
        let keys = format!("protocol = \"udp\"\n[service.timeouts]\n{keys}\n");
        let text = GOOD.replacen("[service.timeouts]", &keys, 1);
        let checked = Config::parse("f", &text).unwrap_or_else(|problem| panic!("{problem}"));
        let timeouts = checked.config.services[0].timeouts;
        assert_eq!((timeouts.udp, timeouts.udp_one_way), expected, "{keys}");
        let again = Config::parse("f", &checked.config.to_toml());
        let again = again.unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(again.config, checked.config);
    }
}

#[test]
fn an_edit_is_warned_of_once() {
    let text = GOOD.replacen("gateway = \"10.0.0.254\"\n", "", 1);
    let config = Config::parse("f", &text).expect("good").config;
    let add = |config: &Config, address: &str| {
        let server = request(serde_json::json!({ "address": address })).expect("a request");
        config.add_server("web", server).expect("added")
    };
    let far = add(&config, "192.0.2.1:80");
    let near = add(&far.config, "10.0.1.109:80");
    let farther = add(&near.config, "192.0.2.2:80");
    let counts = [far, near, farther].map(|checked| checked.warnings.len());
    assert_eq!(counts, [1, 0, 1]);
}

#[test]
fn checks_go_by_the_kernel_s_interface_and_have_to_fit() {
    let warnings = |rate: &str| {
        let port = format!("[\"10.0.1.1/24\"]\nkernel-interface = \"k1\"\n{rate}");
        let health = "[service.health]\ncheck = \"https\"\n[service.timeouts]";
        let text =
            GOOD.replacen("[\"10.0.1.1/24\"]", &port, 1)
                .replacen("[service.timeouts]", health, 1);
        let checked = Config::parse("f", &text).unwrap_or_else(|problem| panic!("{problem}"));
        let warnings = checked.warnings.iter().map(Problem::to_string);
        warnings.collect::<Vec<_>>()
    };
    assert_eq!(warnings(""), [""; 0]);
    assert_eq!(
        warnings("kernel-rate = 1"),
        [
            "f:16: port[lan].kernel-rate: is 1, and health checks alone bring in up to 9 packets a \
             second; what is dropped fails checks: give 18"
        ]
    );
}

#[test]
fn the_queues_leave_packet_buffers_to_work_with() {
    let with = |mbufs: u32, ports: &str| {
        let text = GOOD.replacen("workers = 2", &format!("workers = 2\nmbufs = {mbufs}"), 1);
        let text = text.replace("addresses = [\"10.0.1.1/24\"]", ports);
        Config::parse("f", &text).map(|checked| checked.config.mbufs())
    };
    let port = "addresses = [\"10.0.1.1/24\"]\nrx-descriptors = 256\ntx-descriptors = 512";
    // 2 * 1024 of the one port, 768 of the other, and fragments.
    let needed = 2_048 + 768 + 1_024 + 512;
    assert_eq!(with(needed, port).ok(), Some(needed));
    let said = with(needed - 1, port).expect_err("too few").to_string();
    assert_eq!(
        said,
        "f:3: runtime.mbufs: is 4351, but each worker needs 4352 packet buffers: 2816 for the \
         queues of 2 ports, 1024 to work with and 512 for fragments that wait; give at least \
         4352, or leave it out for 8192"
    );
    let said = with(2_048, "addresses = [\"10.0.1.1/24\"]").expect_err("too few");
    assert!(
        said.to_string().contains("runtime.mbufs: is 2048"),
        "{said}"
    );
}

#[test]
fn memory_is_counted_before_it_is_taken() {
    let demand = |from: &str, to: &str| {
        let text = GOOD.replacen(from, to, 1);
        Config::parse("f", &text).expect("good").config.demand()
    };
    let usual = demand("workers = 2", "workers = 2");
    // What docs/configuration.md says of an entry, of a million for each worker.
    assert_eq!(usual.connections / 2_000_000, 154);
    assert_eq!(usual.buffers, 0, "on hugepages");
    // Two servers and five local addresses.
    assert_eq!(usual.local_ports, 10 * (64_512 / 4 + 2 * 256));
    assert_eq!(
        usual.total(),
        usual.connections + usual.local_ports,
        "all of it"
    );
    let large = demand("workers = 2", "workers = 2\nconnections = 200_000_000");
    assert!(large.connections > 60_000_000_000, "{large:?}");
    let ordinary = demand("workers = 2", "workers = 2\nhugepages = false");
    assert_eq!(ordinary.buffers, 2 * 8_192 * 2_560);
}

#[test]
fn defaults_depend_on_the_ports() {
    let config = good();
    assert_eq!(config.idle_sleep(), Duration::ZERO, "a NIC is polled");
    assert_eq!(config.mbufs(), 8_192);
    assert_eq!(config.memory() % (2 << 20), 0);
    assert!(config.memory() > 2 * 8_192 * 2_560);
    assert_eq!(
        config.admin_socket(),
        Path::new("/run/fullgate/fullgate.sock")
    );
    let text = GOOD.replacen("0000:03:00.0", "tap:fg1", 1);
    let taps = Config::parse("f", &text).expect("good").config;
    assert_eq!(taps.idle_sleep(), Duration::from_micros(50));
}

fn service(json: serde_json::Value) -> RawService {
    request(json).expect("a request")
}

#[test]
fn services_are_added_edited_and_deleted() {
    let config = good();
    let dns = service(serde_json::json!({
        "name": "dns", "vip": "10.0.0.100:53", "protocol": "udp",
        "server": [{"address": "10.0.1.103:53"}],
    }));
    let config = config.add_service(dns.clone()).expect("added").config;
    assert_eq!(config.services[1].servers[0].name, "10.0.1.103:53");
    assert_eq!(
        config.add_service(dns).expect_err("twice").to_string(),
        "service[dns].name: \"dns\" is already that of another service; give each its own"
    );
    let edit = service(serde_json::json!({"scheduler": "rr", "timeouts": {"closed": "1s"}}));
    let config = config.edit_service("web", edit).expect("edited").config;
    assert_eq!(config.services[0].scheduler, Scheduler::RoundRobin);
    assert_eq!(config.services[0].timeouts.closed, 1_000);
    assert_eq!(
        config.services[0].timeouts.established, 3_600_000,
        "what is not edited stays"
    );
    assert_eq!(config.services[0].servers.len(), 2);
    let edit = |json| service(serde_json::json!({"health": json}));
    let checked = edit(serde_json::json!({"check": "http", "rise": 5, "via": "host"}));
    let config = config.edit_service("web", checked).expect("edited").config;
    let rarely = edit(serde_json::json!({"interval": "10s"}));
    let config = config.edit_service("web", rarely).expect("edited").config;
    let health = config.services[0].health.as_ref().expect("checks");
    assert_eq!((health.spec.rise, health.spec.interval.as_secs()), (5, 10));
    let never = edit(serde_json::json!({"check": "none"}));
    let config = config.edit_service("web", never).expect("edited").config;
    assert_eq!(config.services[0].health, None);
    let config = config
        .del_service("10.0.0.100:53/udp")
        .expect("deleted")
        .config;
    assert_eq!(config.services.len(), 1);
    assert_eq!(
        config.del_service("wb").expect_err("none").to_string(),
        "there is no service \"wb\"; did you mean \"web\"?"
    );
}

#[test]
fn servers_are_added_edited_and_deleted() {
    let config = good();
    let server = |json| request::<RawServer>(json).expect("a request");
    let added = server(serde_json::json!({"address": "10.0.1.103:8080", "weight": 7}));
    let config = config.add_server("web", added).expect("added").config;
    let edit = server(serde_json::json!({"state": "draining"}));
    let config = config
        .edit_server("web", "10.0.1.103:8080", edit)
        .expect("edited")
        .config;
    let edited = &config.services[0].servers[2];
    assert_eq!((edited.weight, edited.state), (7, AdminState::Draining));
    let edit = server(serde_json::json!({"weight": 70_000}));
    assert_eq!(
        config
            .edit_server("web", "a", edit)
            .expect_err("weight")
            .to_string(),
        "service[web].server[a].weight: is 70000; give 0 to 65535"
    );
    let config = config.del_server("web", "a").expect("deleted").config;
    assert_eq!(config.services[0].servers[0].name, "b");
    assert_eq!(
        config
            .del_server("web", "zz")
            .expect_err("none")
            .to_string(),
        "service[web]: there is no server \"zz\"; give the name of a server that exists"
    );
    assert_eq!(
        config.del_server("dns", "b").expect_err("none").to_string(),
        "there is no service \"dns\"; give the name of a service that exists"
    );
}

#[test]
fn requests_are_checked_like_the_file() {
    let said = |json| request::<RawServer>(json).expect_err("wrong").to_string();
    assert_eq!(
        said(serde_json::json!({"wieght": 1})),
        "unknown key; did you mean weight?"
    );
    assert_eq!(
        said(serde_json::json!({"weight": "x"})),
        "is \"x\"; give a whole number"
    );
}

#[test]
fn examples_parse_without_warnings() {
    for (file, text) in [
        ("fullgate.toml", include_str!("../../config/fullgate.toml")),
        ("tap.toml", include_str!("../../config/tap.toml")),
    ] {
        let checked = Config::parse(file, text).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(checked.warnings, [], "{file}");
    }
}

const PAGE: &str = include_str!("../../docs/configuration.md");
const EXCEPTION_PAGE: &str = include_str!("../../docs/exception.md");

#[test]
fn every_example_of_the_documentation_parses() {
    for (name, page) in [
        ("docs/configuration.md", PAGE),
        ("docs/exception.md", EXCEPTION_PAGE),
    ] {
        let examples: Vec<&str> = page
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .collect();
        assert!(!examples.is_empty());
        for example in examples {
            if let Err(problem) = Config::parse(name, example) {
                panic!("{problem}\n{example}");
            }
        }
    }
}

#[test]
fn documentation_has_a_row_for_every_key() {
    let sections = [
        ("`[runtime]`", RawRuntime::keys()),
        ("`[metrics]`", RawMetrics::keys()),
        ("`[announce]`", RawAnnounce::keys()),
        ("`[[port]]`", RawPort::keys()),
        ("`[[route]]`", RawRoute::keys()),
        ("`[[pool]]`", RawPool::keys()),
        ("`[[service]]`", RawService::keys()),
        ("`[service.timeouts]`", RawTimeouts::keys()),
        ("`[service.health]`", RawHealth::keys()),
        ("`[[service.server]]`", RawServer::keys()),
    ];
    assert_eq!(RawConfig::keys().len() + 3, sections.len());
    for (title, keys) in sections {
        let section = PAGE
            .split("\n## ")
            .find(|section| section.starts_with(title))
            .unwrap_or_else(|| panic!("docs/configuration.md lacks the section {title}"));
        for key in keys
            .iter()
            .filter(|key| !["timeouts", "health", "server"].contains(&key.as_str()))
        {
            assert!(
                section.contains(&format!("\n| `{key}` |")),
                "{title} lacks a row for {key}"
            );
        }
    }
}

fn any_health() -> impl Strategy<Value = RawHealth> {
    let word = |words: &'static [&'static str]| prop::option::of(prop::sample::select(words));
    let owned = |word: Option<&str>| word.map(str::to_owned);
    (
        prop::sample::select(&["tcp", "http", "https", "udp", "icmp"][..]),
        word(&["100ms", "2s", "1m"]),
        word(&["up", "down"]),
        word(&["0ms", "30s"]),
        word(&["auto", "reset", "keep"]),
        word(&["refuse", "use-all"]),
        word(&["www.example.com", "www.example.com:8443", "10.0.0.1"]),
        word(&["", "other.example.com"]),
        word(&["200-399", "200", "200-204,301"]),
        prop::option::of("[a-zäx:]{1,8}|hex:(00|ff|0a){1,4}"),
    )
        .prop_map(
            move |(check, interval, start, slow, on, all, host, sni, status, text)| {
                let http = check.starts_with("http");
                let udp = check == "udp";
                RawHealth {
                    via: Some("host".to_owned()),
                    check: Some(check.to_owned()),
                    interval: owned(interval),
                    start: owned(start),
                    slow_start: owned(slow),
                    on_down: owned(on),
                    all_down: owned(all),
                    port: (check == "tcp").then_some(81),
                    host: owned(host.filter(|_| http)),
                    sni: owned(sni.filter(|_| check == "https")),
                    status: owned(status.filter(|_| http)),
                    body: text.clone().filter(|_| http),
                    send: text.clone().filter(|_| udp),
                    expect: text.filter(|_| udp),
                    ..RawHealth::default()
                }
            },
        )
}

fn any_service(index: u8) -> impl Strategy<Value = RawService> {
    let server = (0_i64..65_536, 0..4_usize, any::<bool>());
    let server = server.prop_map(move |(weight, state, named)| RawServer {
        name: named.then(|| format!("s{weight}-{state}")),
        address: None,
        weight: (state < 3).then_some(weight),
        state: ["up", "draining", "down"]
            .get(state)
            .map(|&state| state.to_owned()),
        health_address: (state == 0).then(|| "10.0.1.201:81".to_owned()),
    });
    let words = |words: &'static [&'static str]| prop::option::of(prop::sample::select(words));
    (
        prop::collection::vec(server, 0..4),
        words(&["tcp", "udp"]),
        words(&["rr", "wrr", "wlc", "sh"]),
        words(&["reset", "drop"]),
        words(&["10ms", "0ms", "1s500ms"]),
        words(&["120s", "2h4m", "7d"]),
        prop::option::of(1_i64..=10),
        prop::option::of(any_health()),
    )
        .prop_map(
            move |(mut servers, protocol, scheduler, flow, retry, udp, attempts, health)| {
                for (at, server) in servers.iter_mut().enumerate() {
                    server.address = Some(format!("10.0.1.{}:80", 101 + at));
                    server.name = server.name.take().map(|name| format!("{name}-{at}"));
                }
                RawService {
                    name: Some(format!("service-{index}")),
                    vip: Some(format!("10.0.0.{}:80", 100 + u16::from(index))),
                    protocol: protocol.map(str::to_owned),
                    scheduler: scheduler.map(str::to_owned),
                    unknown_flow: flow.map(str::to_owned),
                    syn_retry_after: retry.map(str::to_owned),
                    syn_attempts: attempts,
                    timeouts: udp.map(|udp| RawTimeouts {
                        udp: Some(udp.to_owned()),
                        ..Default::default()
                    }),
                    health,
                    server: Some(servers),
                    ..RawService::default()
                }
            },
        )
}

#[test]
fn a_name_of_several_lines_stays_on_the_line_of_its_problem() {
    let text = GOOD.replacen("\"wan\"", "\"w\\nan\"", 1);
    let problem = Config::parse("f", &text).expect_err("no name");
    assert!(
        problem.to_string().starts_with("f:6: port[w\\nan].name: "),
        "{problem}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_saved_reads_back_the_same(
        a in any_service(0),
        b in any_service(1),
        cores in any::<bool>(),
        sleep in prop::option::of(0_u64..100_000),
    ) {
        let mut config = good();
        config.runtime.idle_sleep = sleep.map(Duration::from_micros);
        config.metrics.listen = sleep.map(|sleep| ([127, 0, 0, 1], sleep as u16 | 1).into());
        config.runtime.cores = config.runtime.cores.filter(|_| cores);
        config.services.clear();
        let config = config.add_service(a).and_then(|checked| checked.config.add_service(b));
        let config = config.unwrap_or_else(|problem| panic!("{problem}")).config;
        let text = config.to_toml();
        let read = Config::parse("saved", &text).unwrap_or_else(|problem| panic!("{problem}\n{text}"));
        prop_assert_eq!(read.config, config);
    }

    #[test]
    fn damaged_files_never_panic_and_problems_are_one_line(
        damage in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..12, "[\\PC\n\"\\[\\]=.,0-9]{0,6}"),
            1..5,
        ),
    ) {
        let mut text = GOOD.to_owned();
        for (at, len, insert) in damage {
            let boundaries: Vec<usize> =
                text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let from = at.index(boundaries.len());
            let to = (from + len).min(boundaries.len() - 1);
            text.replace_range(boundaries[from]..boundaries[to], &insert);
        }
        if let Err(problem) = Config::parse("f", &text) {
            let line = problem.to_string();
            prop_assert!(line.starts_with("f:") && !line.contains('\n'), "{}", line);
        }
    }
}
