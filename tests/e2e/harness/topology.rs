//! The networks around a gateway. A `Lab` is one of them with its gateway
//! running; dropping it stops the gateway and deletes every namespace.
//!
//! ```text
//! two arms            client ─ fg0 [gateway] fg1 ─ servers        (together)
//!                     client ─ fg0 [gateway] fg1 ─ switch ─ s0…   (apart)
//! one arm             client ─┐
//!                         s0 ─┤ switch ─ fg0 [gateway]
//! far side            host ─1500─ far ─1400─ near ─1500─ fgN [gateway]
//! ```

use std::net::Ipv4Addr;
use std::path::Path;

use tempfile::TempDir;

use super::fullgate::Fullgate;
use super::gateway::{Attachment, Gateway, KernelNat};
use super::netns::{self, Netns};
use super::plan::{Arms, Kind, Layout, Plan, Service};

/// The MTU of the narrow link of a far side.
pub const NARROW_MTU: u32 = 1400;

enum Running {
    Fullgate(Fullgate),
    Kernel(KernelNat),
}

// Dropped in this order: the gateway before the namespaces its ports are in.
pub struct Lab {
    gateway: Running,
    network: Network,
    directory: TempDir,
}

impl Lab {
    /// Builds the network of `plan` and starts its gateway with `services`.
    pub fn start(plan: &Plan, services: &[Service]) -> Self {
        let (unique, directory) = netns::unique();
        let network = Network::new(&unique, plan);
        let ports = network.ports();
        let gateway = match plan.kind {
            Kind::Fullgate => {
                let gateway = Fullgate::start(&unique, directory.path(), plan, &ports, services);
                Running::Fullgate(gateway)
            }
            Kind::Kernel => {
                let mut gateway = KernelNat::start(&unique, plan, &ports);
                gateway.apply(services);
                Running::Kernel(gateway)
            }
        };
        drop(ports);
        network.attach();
        Self {
            gateway,
            network,
            directory,
        }
    }

    pub fn client(&self) -> &Netns {
        &self.network.client
    }

    /// The kernel router between client and servers, where it is the gateway.
    pub fn router(&self) -> Option<&Netns> {
        match &self.gateway {
            Running::Fullgate(_) => None,
            Running::Kernel(gateway) => Some(gateway.netns()),
        }
    }

    /// The namespace of real server `index`.
    pub fn server(&self, index: usize) -> &Netns {
        let servers = &self.network.servers;
        if servers.len() == 1 {
            &servers[0]
        } else {
            &servers[index]
        }
    }

    /// The router nearest to the gateway on a far client's way.
    pub fn client_router(&self) -> &Netns {
        let routers = self.network.client_routers.as_ref();
        &routers.expect("the client is far").near
    }

    /// Gives the narrow link of a far client's way another MTU.
    pub fn narrow_client_link(&self, mtu: u32) {
        let routers = self.network.client_routers.as_ref();
        let routers = routers.expect("the client is far");
        for router in [&routers.near, &routers.far] {
            router.ip(&[format!("link set narrow mtu {mtu}")]);
        }
    }

    /// Requires that neither client nor server has waited for a retransmission
    /// timer or repaired a loss: nothing in these networks loses packets but
    /// the gateway.
    ///
    /// A loss probe (RFC 8985) alone is no sign of one: after a few
    /// milliseconds it means only that somebody had to wait for a core.
    pub fn assert_nothing_lost(&self) {
        for host in self.network.servers.iter().chain([&self.network.client]) {
            let [again, syns, timeouts, probes, recoveries] = [
                "RetransSegs",
                "TCPSynRetrans",
                "TCPTimeouts",
                "TCPLossProbes",
                "TCPLossProbeRecovery",
            ]
            .map(|name| host.counter(name));
            assert!(
                timeouts == 0 && recoveries == 0 && again <= probes,
                "{} sent {again} segments again: {syns} SYNs, {timeouts} timeouts, \
                 {probes} loss probes of which {recoveries} repaired a loss",
                host.name()
            );
        }
    }

    /// TCP segments that clients and servers have sent again so far, for
    /// whatever reason.
    pub fn retransmissions(&self) -> u64 {
        let hosts = self.network.servers.iter().chain([&self.network.client]);
        hosts.map(|host| host.counter("RetransSegs")).sum()
    }

    /// Where the processes of this lab keep their files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn gateway(&mut self) -> &mut dyn Gateway {
        match &mut self.gateway {
            Running::Fullgate(gateway) => gateway,
            Running::Kernel(gateway) => gateway,
        }
    }

    /// The gateway, in tests of what only fullgate has.
    pub fn fullgate(&mut self) -> &mut Fullgate {
        match &mut self.gateway {
            Running::Fullgate(gateway) => gateway,
            Running::Kernel(_) => panic!("this test is for fullgate only"),
        }
    }
}

/// The namespaces around the gateway.
struct Network {
    plan: Plan,
    client: Netns,
    /// One, or one for each server.
    servers: Vec<Netns>,
    switch: Option<Netns>,
    client_routers: Option<Routers>,
    server_routers: Option<Routers>,
}

/// The two routers of a far side.
struct Routers {
    near: Netns,
    far: Netns,
}

impl Network {
    fn new(unique: &str, plan: &Plan) -> Self {
        let client = Netns::new(unique, "cl");
        let apart = plan.arms == Arms::One || plan.layout == Layout::Apart;
        let servers: Vec<Netns> = if apart {
            (0..plan.servers)
                .map(|index| Netns::new(unique, &format!("s{index}")))
                .collect()
        } else {
            vec![Netns::new(unique, "sv")]
        };
        assert!(
            !apart || !(plan.far_client || plan.far_server),
            "far sides: servers together"
        );
        assert!(
            !plan.far_server || plan.servers == 1,
            "a far side has one server"
        );
        let switch = apart.then(|| switch(unique));
        let client_routers = plan.far_client.then(|| {
            let routers = Routers::new(unique, "c");
            routers.join(&client, 4, plan.client());
            routers
        });
        let server_routers = plan.far_server.then(|| {
            let routers = Routers::new(unique, "s");
            routers.join(&servers[0], 3, plan.server(0));
            routers
        });
        let plan = plan.clone();
        Self {
            plan,
            client,
            servers,
            switch,
            client_routers,
            server_routers,
        }
    }

    /// Where the gateway's ports come out.
    fn ports(&self) -> Vec<Attachment<'_>> {
        let switch = self.switch.as_ref();
        if self.plan.arms == Arms::One {
            let netns = switch.expect("one arm has a switch");
            return vec![Attachment {
                netns,
                device: "fg0",
            }];
        }
        let client_router = self.client_routers.as_ref().map(|routers| &routers.near);
        let server_router = self.server_routers.as_ref().map(|routers| &routers.near);
        vec![
            Attachment {
                netns: client_router.unwrap_or(&self.client),
                device: "fg0",
            },
            Attachment {
                netns: server_router.or(switch).unwrap_or(&self.servers[0]),
                device: "fg1",
            },
        ]
    }

    /// Configures the devices the gateway has made, and the hosts behind them.
    fn attach(&self) {
        for port in self.ports() {
            // A TAP shares its address with the DPDK port behind it; a bridge
            // would take the gateway's frames for its own.
            let number = port.device.strip_prefix("fg").expect("named fg<n>");
            port.netns.ip(&[
                format!("link set {} address 02:f0:00:00:00:0{number}", port.device),
                format!("link set {} up", port.device),
            ]);
        }
        if let Some(switch) = &self.switch {
            let device = if self.plan.arms == Arms::One {
                "fg0"
            } else {
                "fg1"
            };
            switch.ip(&[format!("link set {device} master br0")]);
            for (index, server) in self.servers.iter().enumerate() {
                plug(
                    switch,
                    &format!("s{index}"),
                    server,
                    self.plan.server(index),
                );
            }
        }
        match (self.plan.arms, &self.client_routers) {
            (Arms::One, _) => {
                let switch = self.switch.as_ref().expect("one arm has a switch");
                plug(switch, "cl", &self.client, self.plan.client());
            }
            (Arms::Two, None) => {
                let (address, prefix) = (self.plan.client(), self.plan.prefix);
                self.client
                    .ip(&[format!("addr add {address}/{prefix} dev fg0")]);
                self.client.ip(&["route add default via 10.1.0.1"]);
            }
            (Arms::Two, Some(routers)) => {
                routers.near.ip(&["addr add 10.1.0.254/24 dev fg0"]);
            }
        }
        match &self.server_routers {
            Some(routers) => routers.near.ip(&["addr add 10.2.0.254/24 dev fg1"]),
            None if self.switch.is_none() => {
                let addresses: Vec<String> = (0..self.plan.servers)
                    .map(|index| (self.plan.server(index), self.plan.prefix))
                    .map(|(address, prefix)| format!("addr add {address}/{prefix} dev fg1"))
                    .collect();
                self.servers[0].ip(&addresses);
            }
            None => {}
        }
    }
}

impl Routers {
    fn new(unique: &str, side: &str) -> Self {
        let near = Netns::new(unique, &format!("{side}n"));
        let far = Netns::new(unique, &format!("{side}f"));
        for router in [&near, &far] {
            router.sysctl("net/ipv4/ip_forward", "1");
        }
        Self { near, far }
    }

    /// Puts `host` with `address` of 10.`net`.0.0/24 behind the far router.
    fn join(&self, host: &Netns, net: u8, address: Ipv4Addr) {
        netns::connect((&self.near, "narrow"), (&self.far, "narrow"));
        netns::connect((&self.far, "host"), (host, "eth0"));
        self.near.ip(&[
            format!("link set narrow mtu {NARROW_MTU}"),
            format!("addr add 10.9.{net}.1/24 dev narrow"),
            format!("route add 10.{net}.0.0/24 via 10.9.{net}.2"),
        ]);
        self.far.ip(&[
            format!("link set narrow mtu {NARROW_MTU}"),
            format!("addr add 10.9.{net}.2/24 dev narrow"),
            format!("addr add 10.{net}.0.254/24 dev host"),
            format!("route add default via 10.9.{net}.1"),
        ]);
        host.ip(&[
            format!("addr add {address}/24 dev eth0"),
            format!("route add default via 10.{net}.0.254"),
        ]);
    }
}

/// A namespace with a bridge `br0` that forwards at once.
fn switch(unique: &str) -> Netns {
    let netns = Netns::new(unique, "sw");
    netns.ip(&[
        "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
        "link set br0 up",
    ]);
    netns
}

/// Connects `host` to port `port` of the switch.
fn plug(switch: &Netns, port: &str, host: &Netns, address: Ipv4Addr) {
    netns::connect((switch, port), (host, "eth0"));
    switch.ip(&[format!("link set {port} master br0")]);
    host.ip(&[format!("addr add {address}/24 dev eth0")]);
}
