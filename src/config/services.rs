//! `[[service]]` and `[[service.server]]`.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::fields::{Unique, choice, name, number, parsed, required, unless, word};
use super::network::{is_host, networks_of};
use super::problem::{Place, Problem, nearest};
use super::raw::{RawService, RawTimeouts};
use super::servers::servers;
use super::times::{
    SYN_RETRY_MAX_MS, SYN_RETRY_MS, TIMEOUTS, UDP_TIMEOUT_FLOOR_MS, millis, syn_retry,
    syn_retry_max, timeouts, udp_one_way,
};
use super::units::parse_endpoint;
use super::{Config, Health, Protocol, Server, Service, Way};
use crate::conntrack::timeouts::Timeouts;
use crate::service::schedule::Scheduler;
use crate::service::snapshot::Answer;

const SYN_ATTEMPTS: u8 = 3;

/// A dead server that is never taken out costs each connection whose turn it is
/// a quarter second; one or two lost SYNs do not make a server dead.
const FAIL_AFTER: u16 = 3;

const WELL_KNOWN: std::ops::RangeInclusive<u16> = 0..=1023;

const PROTOCOL: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
const SCHEDULER: [(&str, Scheduler); 4] = [
    ("wrr", Scheduler::WeightedRoundRobin),
    ("rr", Scheduler::RoundRobin),
    ("wlc", Scheduler::WeightedLeastConnections),
    ("sh", Scheduler::SourceHash),
];
const UNKNOWN_FLOW: [(&str, Answer); 2] = [("reset", Answer::Reset), ("drop", Answer::Silent)];
const ON_EXPIRE: [(&str, Answer); 2] = [("reset", Answer::Reset), ("silent", Answer::Silent)];
const UDP: [(&str, bool); 2] = [("flows", false), ("one-answer", true)];

/// `config` has everything but services.
pub(super) fn services(
    root: &Place<'_>,
    raw: &[RawService],
    config: &Config,
    warnings: &mut Vec<Problem>,
) -> Result<Vec<Service>, Problem> {
    let at = root.key("service");
    let mut own: HashMap<Ipv4Addr, String> = HashMap::new();
    for port in &config.ports {
        own.extend(
            port.addresses
                .iter()
                .map(|net| (net.addr(), format!("of port {}", port.name))),
        );
        let kernels = port.kernel.iter().flat_map(|kernel| &kernel.addresses);
        own.extend(
            kernels.map(|&address| (address, format!("of the kernel, by port {}", port.name))),
        );
    }
    for pool in &config.pools {
        own.extend(
            pool.addresses
                .iter()
                .map(|&local| (local, format!("of pool {}", pool.name))),
        );
    }
    let (mut names, mut endpoints) = (Unique::new(), Unique::new());
    let mut services: Vec<Service> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let at = at.item(index, raw.name.as_deref().unwrap_or_default());
        let service = service(&at, raw, config, warnings)?;
        let (vip, vip_at) = (service.vip, at.key("vip"));
        names.claim(
            &at.key("name"),
            service.name.clone(),
            &format!("{:?}", service.name),
            "another service",
        )?;
        endpoints.claim(
            &vip_at,
            (vip, service.protocol),
            &format!("{vip} {}", service.protocol.name()),
            &format!("service {}", service.name),
        )?;
        if let Some(owner) = own.get(vip.ip()) {
            return Err(vip_at.problem(format!(
                "{} is an address {owner}; give an address that only services have",
                vip.ip()
            )));
        }
        services.push(service);
    }
    let (count, most) = (services.len(), config.runtime.max_services);
    if count > most as usize {
        return Err(at.problem(format!(
            "there are {count}, but runtime.max-services is {most}; raise it, or take services out"
        )));
    }
    let (count, most): (usize, _) = (
        services.iter().map(|service| service.servers.len()).sum(),
        config.runtime.max_servers,
    );
    if count > most as usize {
        return Err(at.problem(format!(
            "there are {count} servers, but runtime.max-servers is {most}; raise it, or take servers out"
        )));
    }
    for service in &services {
        own.insert(*service.vip.ip(), format!("of service {}", service.name));
    }
    check_servers(&at, &services, &own, config, warnings)?;
    check_health(root, &services, config, warnings)?;
    Ok(services)
}

/// A server can't be the gateway itself, and should have a route to it.
fn check_servers(
    at: &Place<'_>,
    services: &[Service],
    own: &HashMap<Ipv4Addr, String>,
    config: &Config,
    warnings: &mut Vec<Problem>,
) -> Result<(), Problem> {
    let everywhere = config.ports.iter().any(|port| port.gateway.is_some());
    let routed = |address: &Ipv4Addr| {
        everywhere
            || config
                .ports
                .iter()
                .flat_map(|port| &port.addresses)
                .any(|net| net.contains(address))
            || config.routes.iter().any(|route| route.to.contains(address))
    };
    for (index, service) in services.iter().enumerate() {
        let at = at.item(index, &service.name);
        let listed = at.key("server");
        for (index, server) in service.servers.iter().enumerate() {
            let at = listed.item(index, &server.name);
            let asked = server.health_address.map(|asked| ("health-address", asked));
            for (key, address) in [("address", server.address)].into_iter().chain(asked) {
                let (at, address) = (at.key(key), address.ip());
                is_host(&at, *address, networks_of(&config.ports))?;
                if let Some(owner) = own.get(address) {
                    return Err(at.problem(format!(
                        "{address} is an address {owner}; give a real server's"
                    )));
                }
                if !routed(address) && (key == "address" || address != server.address.ip()) {
                    warnings.push(at.problem(format!(
                        "no route leads to {address}; add a [[route]] or a gateway to a port"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Checks that go through ports need an interface of the kernel there, and it
/// has to let them through.
fn check_health(
    root: &Place<'_>,
    services: &[Service],
    config: &Config,
    warnings: &mut Vec<Problem>,
) -> Result<(), Problem> {
    let at = root.key("service");
    let routes = config.forwarding();
    let mut packets = vec![0.0; config.ports.len()];
    for (index, service) in services.iter().enumerate() {
        let health = service.health.as_ref();
        let Some(health) = health.filter(|health| health.way == Way::Port) else {
            continue;
        };
        let at = at.item(index, &service.name);
        for server in &service.servers {
            let to = *health.asked(server).ip();
            let unreachable = |why: String| {
                Err(at.key("health").key("via").problem(format!(
                    "server {} can't be checked through a port: {why}, or via = \"host\"",
                    server.name
                )))
            };
            let Some(hop) = routes.lookup(to) else {
                return unreachable(format!("no port leads to {to}; give it a [[route]]"));
            };
            let port = &config.ports[hop.port.ix()];
            if port.kernel.is_none() {
                let name = &port.name;
                return unreachable(format!(
                    "port {name} has no interface of the kernel; give it a kernel-interface"
                ));
            }
            packets[hop.port.ix()] +=
                f64::from(health.packets()) / health.spec.interval.as_secs_f64();
        }
    }
    let at = root.key("port");
    for (index, (port, packets)) in config.ports.iter().zip(packets).enumerate() {
        let rate = port.kernel.as_ref().map_or(u32::MAX, |kernel| kernel.rate);
        if packets > f64::from(rate) {
            let at = at.item(index, &port.name);
            warnings.push(at.key("kernel-rate").problem(format!(
                "is {rate}, and health checks alone bring in up to {packets:.0} packets a second; \
                 what is dropped fails checks: give {:.0}",
                2.0 * packets
            )));
        }
    }
    Ok(())
}

fn service(
    at: &Place<'_>,
    raw: &RawService,
    config: &Config,
    warnings: &mut Vec<Problem>,
) -> Result<Service, Problem> {
    let named = required(
        &at.key("name"),
        raw.name.as_ref(),
        "a name, such as \"web\"",
    )?;
    let named = name(&at.key("name"), named)?;
    let vip_at = at.key("vip");
    let vip = required(
        &vip_at,
        raw.vip.as_ref(),
        "ADDRESS:PORT, such as \"10.0.0.100:80\"",
    )?;
    let vip = parsed(&vip_at, vip, parse_endpoint)?;
    is_host(&vip_at, *vip.ip(), networks_of(&config.ports))?;
    let protocol = choice(&at.key("protocol"), raw.protocol.as_deref(), &PROTOCOL)?;
    let timeouts = timeouts(&at.key("timeouts"), raw.timeouts.as_ref())?;
    let one_answer = choice(&at.key("udp"), raw.udp.as_deref(), &UDP)?;
    if one_answer && protocol != Protocol::Udp {
        return Err(at
            .key("udp")
            .problem("belongs to protocol = \"udp\"; leave it out, or give the protocol"));
    }
    if protocol == Protocol::Udp
        && !one_answer
        && timeouts.udp < UDP_TIMEOUT_FLOOR_MS
        && !WELL_KNOWN.contains(&vip.port())
    {
        warnings.push(
            at.key("timeouts").key("udp").problem(
                "is below 2 minutes, the least that RFC 4787 allows; quiet flows will break",
            ),
        );
    }
    let scheduler = choice(&at.key("scheduler"), raw.scheduler.as_deref(), &SCHEDULER)?;
    let health = match &raw.health {
        Some(raw) => Health::from_raw(&at.key("health"), raw, scheduler, warnings)?,
        None => None,
    };
    let syn_retry_ms = syn_retry(&at.key("syn-retry-after"), raw.syn_retry_after.as_deref())?;
    Ok(Service {
        name: named.to_owned(),
        vip,
        protocol,
        scheduler,
        pool: pool(&at.key("pool"), raw.pool.as_deref(), config)?,
        unknown_flow: choice(
            &at.key("unknown-flow"),
            raw.unknown_flow.as_deref(),
            &UNKNOWN_FLOW,
        )?,
        on_expire: choice(&at.key("on-expire"), raw.on_expire.as_deref(), &ON_EXPIRE)?,
        syn_retry_ms,
        syn_retry_max_ms: syn_retry_max(
            &at.key("syn-retry-max"),
            raw.syn_retry_max.as_deref(),
            syn_retry_ms,
        )?,
        syn_attempts: number(
            &at.key("syn-attempts"),
            raw.syn_attempts,
            SYN_ATTEMPTS,
            1..=10,
        )?,
        fail_after: number(
            &at.key("fail-after"),
            raw.fail_after,
            FAIL_AFTER,
            0..=u16::MAX,
        )?,
        one_answer,
        announce: announce(&at.key("announce"), raw.announce, config)?,
        timeouts,
        health,
        servers: servers(&at.key("server"), raw.server.as_deref().unwrap_or_default())?,
    })
}

fn announce(at: &Place<'_>, given: Option<bool>, config: &Config) -> Result<bool, Problem> {
    let announced = given.unwrap_or(false);
    if announced && config.ports.iter().all(|port| port.kernel.is_none()) {
        return Err(at.problem(
            "the route to the VIP is that of a kernel interface, and no port has one; \
             give one of them kernel-interface",
        ));
    }
    Ok(announced)
}

fn pool(at: &Place<'_>, given: Option<&str>, config: &Config) -> Result<String, Problem> {
    let pools = &config.pools;
    match given {
        Some(given) if pools.iter().any(|pool| pool.name == given) => Ok(given.to_owned()),
        Some(given) => {
            let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
            let right = match nearest(given, &names) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "give the name of a [[pool]]".to_owned(),
            };
            Err(at.problem(format!("there is no pool {given:?}; {right}")))
        }
        None => match pools.as_slice() {
            [only] => Ok(only.name.clone()),
            [] => Err(at.problem("there is no pool; add a [[pool]] with local addresses")),
            several => Err(at.problem(format!(
                "is missing, and there are {} pools; give one's name",
                several.len()
            ))),
        },
    }
}

impl Service {
    pub(super) fn to_raw(&self) -> RawService {
        let mut timeouts = RawTimeouts::default();
        let (mut mine, mut defaults) = (self.timeouts, Timeouts::default());
        defaults.udp_one_way = udp_one_way(mine.udp);
        for (_, _, text, stored) in TIMEOUTS {
            *text(&mut timeouts) = unless(*stored(&mut mine), *stored(&mut defaults), millis);
        }
        RawService {
            name: Some(self.name.clone()),
            vip: Some(self.vip.to_string()),
            protocol: Some(self.protocol.name().to_owned()),
            scheduler: word(self.scheduler, &SCHEDULER),
            pool: Some(self.pool.clone()),
            unknown_flow: word(self.unknown_flow, &UNKNOWN_FLOW),
            on_expire: word(self.on_expire, &ON_EXPIRE),
            syn_retry_after: unless(self.syn_retry_ms, SYN_RETRY_MS, |ms| millis(u32::from(ms))),
            syn_retry_max: unless(self.syn_retry_max_ms, SYN_RETRY_MAX_MS, |ms| {
                millis(u32::from(ms))
            }),
            syn_attempts: unless(self.syn_attempts, SYN_ATTEMPTS, i64::from),
            fail_after: unless(self.fail_after, FAIL_AFTER, i64::from),
            udp: word(self.one_answer, &UDP),
            announce: self.announce.then_some(true),
            timeouts: unless(timeouts, RawTimeouts::default(), |timeouts| timeouts),
            health: self.health.as_ref().map(Health::to_raw),
            server: (!self.servers.is_empty())
                .then(|| self.servers.iter().map(Server::to_raw).collect()),
        }
    }
}
