//! What a gateway under test must do for the harness, and the oracle: a router
//! that does FULLNAT with nftables and conntrack.

use std::fmt::Write as _;

use super::netns::{self, Netns};
use super::plan::{Arms, Plan, Protocol, Service};

/// Where one port of the gateway comes out: the gateway makes `device` inside
/// `netns`, the topology configures it from there.
pub struct Attachment<'a> {
    pub netns: &'a Netns,
    pub device: &'static str,
}

pub trait Gateway {
    /// Replaces the services, without a packet lost.
    fn apply(&mut self, services: &[Service]);
}

/// nftables DNAT + SNAT in a namespace of its own.
pub struct KernelNat {
    plan: Plan,
    netns: Netns,
}

impl KernelNat {
    pub fn start(unique: &str, plan: &Plan, ports: &[Attachment<'_>]) -> Self {
        let netns = Netns::new(unique, "gw");
        netns.sysctl("net/ipv4/ip_forward", "1");
        // With one arm the kernel would tell the servers to go around it.
        netns.sysctl("net/ipv4/conf/all/send_redirects", "0");
        netns.sysctl("net/ipv4/conf/default/send_redirects", "0");
        for port in ports {
            netns::connect((&netns, port.device), (port.netns, port.device));
        }
        let (first, last) = plan.locals();
        let lan = match plan.arms {
            Arms::One => "fg0",
            Arms::Two => "fg1",
        };
        let mut commands = vec![
            "addr add 10.1.0.1/24 dev fg0".to_owned(),
            "addr add 10.1.0.100/32 dev fg0".to_owned(),
        ];
        if plan.arms == Arms::Two {
            commands.push("addr add 10.2.0.1/24 dev fg1".to_owned());
        }
        let locals = u32::from(first)..=u32::from(last);
        commands.extend(
            locals.map(|bits| format!("addr add {}/32 dev {lan}", std::net::Ipv4Addr::from(bits))),
        );
        if let Some(mtu) = plan.lan_mtu {
            commands.push(format!("link set {lan} mtu {mtu}"));
        }
        if plan.far_client {
            commands.push("route add 10.4.0.0/24 via 10.1.0.254".to_owned());
        }
        if plan.far_server {
            commands.push("route add 10.3.0.0/24 via 10.2.0.254".to_owned());
        }
        netns.ip(&commands);
        Self {
            plan: plan.clone(),
            netns,
        }
    }
}

impl KernelNat {
    /// Where it routes.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}

impl Gateway for KernelNat {
    fn apply(&mut self, services: &[Service]) {
        let mut rules = String::from(
            "table ip fullnat\ndelete table ip fullnat\ntable ip fullnat {\n\
             chain in { type nat hook prerouting priority dstnat; }\n\
             chain out { type nat hook postrouting priority srcnat; }\n}\n",
        );
        for service in services {
            let matching = format!("{} dport {}", service.protocol.name(), service.port);
            // Weighted round robin: a server has as many slots as its weight.
            let slots: Vec<String> = service
                .servers
                .iter()
                .flat_map(|server| (0..server.weight).map(|_| server.address))
                .enumerate()
                .map(|(slot, address)| format!("{slot} : {} . {}", address.ip(), address.port()))
                .collect();
            if slots.is_empty() {
                continue;
            }
            writeln!(
                rules,
                "add rule ip fullnat in ip daddr {} {matching} dnat ip to numgen inc mod {} map {{ {} }}",
                service.vip().ip(),
                slots.len(),
                slots.join(", ")
            )
            .expect("write to a string");
        }
        let (first, last) = self.plan.locals();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            writeln!(
                rules,
                "add rule ip fullnat out meta l4proto {} ct status dnat snat to {first}-{last}:{}-{}",
                protocol.name(),
                self.plan.local_ports.start(),
                self.plan.local_ports.end()
            )
            .expect("write to a string");
        }
        self.netns.nft(&rules);
    }
}
