//! A router with BIRD, and gateways that announce their VIP to it, each with a
//! BIRD beside fullgate. Dropping it stops and deletes all.
//!
//! ```text
//! client ─ router ─ switch ─┬─ gateway 0 ─┬─ servers
//!                           └─ gateway 1 ─┘
//! ```

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use tempfile::TempDir;

use super::fullgate::{Config, Fullgate};
use super::netns::{self, Netns};
use super::nginx::Nginx;
use super::process::{Process, output_of, until};
use super::tcp::LIMIT;

/// In no port's network: only routes lead to it.
pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 100), 80);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const ROUTER: &str = "10.1.0.254";
/// The real servers, which both gateways have.
const SERVERS: [SocketAddrV4; 2] = [
    SocketAddrV4::new(Ipv4Addr::new(10, 3, 0, 101), 80),
    SocketAddrV4::new(Ipv4Addr::new(10, 3, 0, 102), 80),
];

/// What docs/exception.md shows.
const GATEWAY_BIRD: &str = include_str!("../../../config/bird/gateway.conf");
const ROUTER_BIRD: &str = include_str!("../../../config/bird/router.conf");

// Dropped in this order: processes before the namespaces they are in.
pub struct Fabric {
    pub gateways: Vec<Announcer>,
    _router_bird: Process,
    servers: Vec<Nginx>,
    pub client: Netns,
    router: Netns,
    switch: Netns,
    server: Netns,
    directory: TempDir,
}

/// A gateway and its BIRD.
pub struct Announcer {
    _bird: Process,
    pub fullgate: Fullgate,
    pub address: Ipv4Addr,
}

impl Fabric {
    /// Builds it and waits until all gateways are announced.
    pub fn start(gateways: u8) -> Self {
        let (unique, directory) = netns::unique();
        let [client, router, switch, server] =
            ["cl", "ro", "sw", "sv"].map(|role| Netns::new(&unique, role));
        netns::connect((&client, "eth0"), (&router, "cl"));
        netns::connect((&router, "wan"), (&switch, "router"));
        client.ip(&[
            format!("addr add {CLIENT}/24 dev eth0"),
            "route add default via 10.9.0.1".to_owned(),
        ]);
        router.ip(&[
            "addr add 10.9.0.1/24 dev cl".to_owned(),
            format!("addr add {ROUTER}/24 dev wan"),
        ]);
        for (path, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/fib_multipath_hash_policy", "1"),
        ] {
            router.sysctl(path, value);
        }
        switch.ip(&[
            "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            "link set br0 up",
            "link set router master br0",
        ]);
        for address in SERVERS {
            server.ip(&[format!("addr add {}/32 dev lo", address.ip())]);
        }
        let servers = start_servers(&server, directory.path());
        let gateways: Vec<_> = (0..gateways)
            .map(|index| Announcer::start(&unique, directory.path(), index, &switch, &server))
            .collect();
        let text = ROUTER_BIRD
            .replace("198.51.100.1;", &format!("{ROUTER};"))
            .replace("198.51.100.2", "10.1.0.1")
            .replace("198.51.100.3", "10.1.0.2");
        let router_bird = bird(&router, directory.path(), "router", &text);
        let fabric = Self {
            gateways,
            _router_bird: router_bird,
            servers,
            client,
            router,
            switch,
            server,
            directory,
        };
        let all: Vec<_> = fabric.gateways.iter().map(|there| there.address).collect();
        fabric.until_next_hops(&all);
        fabric
    }

    /// Starts a gateway's fullgate again; its BIRD has gone on.
    pub fn start_again(&mut self, index: u8) {
        self.gateways[usize::from(index)].fullgate.start_again();
        attach(index, &self.switch, &self.server);
    }

    /// The real servers end: they refuse connections.
    pub fn stop_servers(&mut self) {
        self.servers.clear();
    }

    /// The real servers start again.
    pub fn start_servers(&mut self) {
        let directory = self.directory.path().join("again");
        fs::create_dir(&directory).expect("make the servers' directory");
        self.servers = start_servers(&self.server, &directory);
    }

    /// Waits until so many BFD sessions of the router are up.
    pub fn until_bfd(&self, sessions: usize) {
        let socket = self.directory.path().join("bird-router.ctl");
        let socket = socket.display().to_string();
        until(LIMIT, "BFD sessions", || {
            let arguments = ["-s", &socket, "show", "bfd", "sessions"];
            let output = output_of(&self.router, "birdc", &arguments);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (text.lines().filter(|line| line.contains(" Up ")).count() == sessions).then_some(())
        });
    }

    /// Where the router's kernel sends what is for the VIP, in order.
    pub fn next_hops(&self) -> Vec<Ipv4Addr> {
        let vip = VIP.ip().to_string();
        let output = output_of(&self.router, "ip", &["route", "show", &vip]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        let vias = words.windows(2).filter(|pair| pair[0] == "via");
        let mut hops: Vec<Ipv4Addr> = vias.map(|pair| pair[1].parse().expect("a hop")).collect();
        hops.sort();
        hops
    }

    /// Waits until those are exactly these.
    pub fn until_next_hops(&self, wanted: &[Ipv4Addr]) {
        until(LIMIT, &format!("next hops {wanted:?}"), || {
            (self.next_hops() == wanted).then_some(())
        });
    }
}

impl Announcer {
    fn start(unique: &str, directory: &Path, index: u8, switch: &Netns, server: &Netns) -> Self {
        let own = directory.join(format!("gateway{index}"));
        fs::create_dir(&own).expect("make the gateway's directory");
        let netns = Netns::new(unique, &format!("g{index}"));
        let address = Ipv4Addr::new(10, 1, 0, 1 + index);
        let servers: String = SERVERS
            .iter()
            .zip(["s0", "s1"])
            .map(|(server, name)| {
                format!("[[service.server]]\nname = \"{name}\"\naddress = \"{server}\"\n")
            })
            .collect();
        let ports = format!(
            "[[port]]\nname = \"wan\"\ndevice = \"tap:w{index}\"\nnetns = \"{}\"\n\
             addresses = [\"{address}/24\"]\ngateway = \"{ROUTER}\"\n\
             kernel-interface = \"fgwan\"\n\
             [[port]]\nname = \"lan\"\ndevice = \"tap:l{index}\"\nnetns = \"{}\"\n\
             addresses = [\"10.2.{index}.1/24\"]\nkernel-interface = \"fglan\"\n\
             [[route]]\nto = \"10.3.0.0/24\"\nvia = \"10.2.{index}.254\"\n\
             [[pool]]\nname = \"default\"\naddresses = [\"10.2.{index}.10\"]\n\
             [[service]]\nname = \"web\"\nvip = \"{VIP}\"\nannounce = true\n\
             [service.health]\ncheck = \"tcp\"\ninterval = \"200ms\"\n{servers}",
            switch.name(),
            server.name(),
        );
        let config = Config::of(&format!("{unique}-{index}"), &own, &ports);
        config.write(&[]);
        let fullgate = Fullgate::run(config, Some(netns), &own);
        attach(index, switch, server);
        // By which health checks find the servers.
        let route = format!("route add 10.3.0.0/24 via 10.2.{index}.254 dev fglan");
        fullgate.netns().ip(&[route]);
        let text = GATEWAY_BIRD
            .replace("198.51.100.1 ", &format!("{ROUTER} "))
            .replace("198.51.100.2", &address.to_string());
        let bird = bird(fullgate.netns(), &own, "gateway", &text);
        Self {
            _bird: bird,
            fullgate,
            address,
        }
    }

    /// Whether the kernel beside fullgate has a route to the VIP.
    pub fn has_route(&self) -> bool {
        let arguments = ["route", "show", "proto", "102"];
        let output = output_of(self.fullgate.netns(), "ip", &arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains(&VIP.ip().to_string())
    }
}

fn start_servers(server: &Netns, directory: &Path) -> Vec<Nginx> {
    let servers = ["s0", "s1"].into_iter().zip(SERVERS);
    servers
        .map(|(name, address)| Nginx::start(server, directory, name, address))
        .collect()
}

/// Connects the TAPs of gateway `index`.
fn attach(index: u8, switch: &Netns, server: &Netns) {
    // The bridge would take the gateway's frames for its own if the TAP kept
    // the address of the port behind it.
    switch.ip(&[
        format!("link set w{index} address 02:f0:00:00:01:0{index}"),
        format!("link set w{index} up master br0"),
    ]);
    server.ip(&[
        format!("addr add 10.2.{index}.254/24 dev l{index}"),
        format!("link set l{index} up"),
    ]);
}

/// Starts a BIRD in `netns`.
fn bird(netns: &Netns, directory: &Path, name: &str, configuration: &str) -> Process {
    let file = directory.join(format!("bird-{name}.conf"));
    fs::write(&file, configuration).expect("write BIRD's configuration");
    let socket = directory.join(format!("bird-{name}.ctl"));
    let arguments = [
        "-f".as_ref(),
        "-c".as_ref(),
        file.as_os_str(),
        "-s".as_ref(),
        socket.as_os_str(),
    ];
    let log = format!("bird-{name}");
    Process::start(Some(netns), directory, &log, "bird", &arguments)
}
