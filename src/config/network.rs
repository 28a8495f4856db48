//! `[[route]]` and `[[pool]]`, and where addresses lie.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::fields::{Unique, name, parsed, required};
use super::problem::{Place, Problem};
use super::raw::{RawPool, RawRoute};
use super::units::{parse_address, parse_addresses, parse_network};
use super::{Config, Pool, Port, StaticRoute};
use crate::ids::PortIx;
use crate::service::route::{Route, Routes};

/// Local addresses in a pool at most: every server has a set of ports for each.
pub(crate) const POOL_MAX: usize = 1_024;

/// A router's address can't be one of the gateway's own.
pub(super) fn not_ours(at: &Place<'_>, router: Ipv4Addr, ports: &[Port]) -> Result<(), Problem> {
    let has = |port: &&Port| port.addresses.iter().any(|net| net.addr() == router);
    match ports.iter().find(has) {
        None => Ok(()),
        Some(port) => Err(at.problem(format!(
            "{router} is the address of port {} itself; give the router's",
            port.name
        ))),
    }
}

/// An address that a host has: neither the first nor the last of a port's
/// network, which are that of the network itself and its broadcast address
/// (RFC 1122 §3.2.1.3). Networks of two addresses and of one have none of them
/// (RFC 3021).
pub(super) fn is_host(
    at: &Place<'_>,
    address: Ipv4Addr,
    networks: impl Iterator<Item = Ipv4Net>,
) -> Result<(), Problem> {
    let around = networks
        .filter(|net| net.contains(&address))
        .max_by_key(Ipv4Net::prefix_len);
    let Some(net) = around.filter(|net| net.prefix_len() < 31) else {
        return Ok(());
    };
    let what = if address == net.network() {
        "the address of the network"
    } else if address == net.broadcast() {
        "the broadcast address of the network"
    } else {
        return Ok(());
    };
    Err(at.problem(format!(
        "{address} is {what} {}; give a host's",
        net.trunc()
    )))
}

/// The networks of all ports.
pub(super) fn networks_of(ports: &[Port]) -> impl Iterator<Item = Ipv4Net> {
    ports.iter().flat_map(|port| port.addresses.iter().copied())
}

pub(super) fn gateway(
    at: &Place<'_>,
    text: &str,
    addresses: &[Ipv4Net],
) -> Result<Ipv4Addr, Problem> {
    let gateway = parsed(at, text, parse_address)?;
    is_host(at, gateway, addresses.iter().copied())?;
    // A port without a network of its own has its router on the link all the
    // same, as clouds and point-to-point links do it.
    if addresses.iter().all(|net| net.prefix_len() >= 31) {
        return Ok(gateway);
    }
    if addresses.iter().any(|net| net.contains(&gateway)) {
        return Ok(gateway);
    }
    Err(at.problem(format!(
        "{gateway} is in none of the port's networks; give a router in {}",
        addresses[0].trunc()
    )))
}

pub(super) fn routes(
    root: &Place<'_>,
    raw: &[RawRoute],
    ports: &[Port],
) -> Result<Vec<StaticRoute>, Problem> {
    let at = root.key("route");
    let mut networks = Unique::new();
    let mut routes = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let at = at.item(index, "");
        let (to_at, via_at) = (at.key("to"), at.key("via"));
        let to = required(
            &to_at,
            raw.to.as_ref(),
            "a network, such as \"10.9.0.0/16\"",
        )?;
        let to = parsed(&to_at, to, parse_network)?;
        let via = required(&via_at, raw.via.as_ref(), "the address of a router")?;
        let via = parsed(&via_at, via, parse_address)?;
        networks.claim(&to_at, to, &to, "another route")?;
        let is_gateway = ports.iter().any(|port| port.gateway == Some(via));
        if !is_gateway && !on_link(via, ports) {
            return Err(via_at.problem(format!(
                "{via} is in no port's network; give a router that is"
            )));
        }
        is_host(&via_at, via, networks_of(ports))?;
        not_ours(&via_at, via, ports)?;
        routes.push(StaticRoute { to, via });
    }
    Ok(routes)
}

impl StaticRoute {
    pub(super) fn to_raw(self) -> RawRoute {
        RawRoute {
            to: Some(self.to.to_string()),
            via: Some(self.via.to_string()),
        }
    }
}

/// Whether some port's network holds `address`.
fn on_link(address: Ipv4Addr, ports: &[Port]) -> bool {
    ports
        .iter()
        .flat_map(|port| &port.addresses)
        .any(|net| net.contains(&address))
}

pub(super) fn pools(
    root: &Place<'_>,
    raw: &[RawPool],
    ports: &[Port],
    warnings: &mut Vec<Problem>,
) -> Result<Vec<Pool>, Problem> {
    let at = root.key("pool");
    let (mut names, mut taken) = (Unique::new(), Unique::new());
    for port in ports {
        for net in &port.addresses {
            taken.claim(&at, net.addr(), &net.addr(), &format!("port {}", port.name))?;
        }
        for address in port.kernel.iter().flat_map(|kernel| &kernel.addresses) {
            let owner = format!("port {}, its kernel-addresses", port.name);
            taken.claim(&at, *address, address, &owner)?;
        }
    }
    let mut pools = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let at = at.item(index, raw.name.as_deref().unwrap_or_default());
        let named = required(
            &at.key("name"),
            raw.name.as_ref(),
            "a name, such as \"default\"",
        )?;
        let named = name(&at.key("name"), named)?;
        names.claim(
            &at.key("name"),
            named.to_owned(),
            &format!("{named:?}"),
            "another pool",
        )?;
        let owner = format!("pool {named}");
        let listed = at.key("addresses");
        let mut addresses = Vec::new();
        for (index, text) in raw.addresses.iter().flatten().enumerate() {
            let at = listed.item(index, "");
            let range = parsed(&at, text, parse_addresses)?;
            let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
            if last - first >= (POOL_MAX - addresses.len()) as u32 {
                return Err(listed.problem(format!(
                    "has more than {POOL_MAX} addresses; give at most that many"
                )));
            }
            for address in (first..=last).map(Ipv4Addr::from) {
                is_host(&at, address, networks_of(ports))?;
                taken.claim(&at, address, &address, &owner)?;
                addresses.push(address);
            }
            let off_link = |&&address: &&Ipv4Addr| !on_link(address, ports);
            let added = &addresses[addresses.len() - (last - first + 1) as usize..];
            if let Some(address) = added.iter().find(off_link) {
                warnings.push(at.problem(format!(
                    "{address} is in no port's network; real servers answer it only if a router sends it here"
                )));
            }
        }
        if addresses.is_empty() {
            return Err(listed.problem("there is none; give at least one local address"));
        }
        pools.push(Pool {
            name: named.to_owned(),
            addresses,
        });
    }
    Ok(pools)
}

impl Pool {
    pub(super) fn to_raw(&self) -> RawPool {
        let mut ranges: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
        for &address in &self.addresses {
            match ranges.last_mut() {
                Some((_, last)) if u32::from(*last) + 1 == u32::from(address) => *last = address,
                _ => ranges.push((address, address)),
            }
        }
        let text = |(first, last): (Ipv4Addr, Ipv4Addr)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        };
        RawPool {
            name: Some(self.name.clone()),
            addresses: Some(ranges.into_iter().map(text).collect()),
        }
    }
}

impl Config {
    /// How many next hops it names: routers, and servers on the ports' networks.
    pub(super) fn next_hops(&self) -> usize {
        let routes = self.forwarding();
        let servers = self.services.iter().flat_map(|service| &service.servers);
        let to_servers = servers.filter_map(|server| routes.lookup(*server.address.ip()));
        let hops: HashSet<_> = routes.routers().chain(to_servers).collect();
        hops.len()
    }

    /// Connected networks, static routes, default gateways, in this order.
    pub(crate) fn forwarding(&self) -> Routes {
        let ports = || (0..).map(PortIx).zip(&self.ports);
        let connected = ports().flat_map(|(port, info)| {
            info.addresses.iter().map(move |net| Route {
                to: net.trunc(),
                via: None,
                port,
            })
        });
        let fixed = self.routes.iter().filter_map(|route| {
            let on_link = |info: &Port| {
                info.gateway == Some(route.via)
                    || info.addresses.iter().any(|net| net.contains(&route.via))
            };
            let (port, _) = ports().find(|(_, info)| on_link(info))?;
            Some(Route {
                to: route.to,
                via: Some(route.via),
                port,
            })
        });
        let default = ports().filter_map(|(port, info)| {
            Some(Route {
                to: Ipv4Net::default(),
                via: Some(info.gateway?),
                port,
            })
        });
        // A gateway outside the port's networks: on the link all the same.
        let apart = ports().filter_map(|(port, info)| {
            let gateway = info.gateway?;
            let inside = info.addresses.iter().any(|net| net.contains(&gateway));
            (!inside).then(|| Route {
                to: Ipv4Net::from(gateway),
                via: None,
                port,
            })
        });
        Routes::new(connected.chain(apart).chain(fixed).chain(default).collect())
    }
}
