//! Configurations of other load balancers, made into one of fullgate. Owns the
//! draft that the readers of the foreign formats fill, and the text it becomes;
//! the command line calls it. Nothing here reads a file or fails: what can't be
//! carried over is a [`Note`] with the line it stands on.

mod checks;
mod ipvsadm;
mod keepalived;
mod syntax;

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};

pub use ipvsadm::ipvsadm;
pub use keepalived::keepalived;

use self::checks::Check;
use crate::config::raw::RawHealth;
use crate::config::{POOL_MAX, Protocol, Runtime, parse_addresses, parse_endpoint};
use crate::service::schedule::Scheduler;

/// What has to be filled in, as comments. Lines that start with `#` and no
/// blank are configuration once that `#` is gone.
const PORTS: &str = "\
#[[port]]
#name = \"wan\"
#device = \"0000:03:00.0\"
#addresses = [\"192.0.2.2/24\"]
#gateway = \"192.0.2.1\"

#[[port]]
#name = \"lan\"
#device = \"0000:03:00.1\"
#addresses = [\"198.18.0.2/16\"]
";
/// Lines of it after which something may follow.
const WAN: &str = "#name = \"wan\"";
const LAN: &str = "#name = \"lan\"";
const POOL: &str = "
#[[pool]]
#name = \"default\"
#addresses = [\"198.18.0.10-198.18.0.13\"]
";

/// Something that was not carried over, or differs in fullgate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// From 1.
    pub line: usize,
    /// What it is and what to do about it.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

/// A configuration to be completed, and what it lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The file's text. It is accepted once ports, and where there is none a
    /// pool, are filled in.
    pub toml: String,
    /// How many services it has.
    pub services: usize,
    /// By line.
    pub notes: Vec<Note>,
}

/// How a director forwards to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Forwarding {
    FullNat,
    Nat,
    DirectRouting,
    Tunnel,
}

impl Forwarding {
    /// What is new to the servers behind `vip` with FULLNAT.
    fn change(self, server: SocketAddrV4) -> Option<String> {
        match self {
            Self::FullNat => None,
            Self::Nat => Some(
                "NAT becomes FULLNAT: servers see local addresses instead of the clients', \
                 and need no route back through the gateway"
                    .into(),
            ),
            Self::DirectRouting => Some(format!(
                "direct routing becomes FULLNAT: each server has to listen on its own address, \
                 such as {server}, needs the VIP on no interface, and sees local addresses \
                 instead of the clients'"
            )),
            Self::Tunnel => Some(format!(
                "tunneling becomes FULLNAT: each server has to listen on its own address, \
                 such as {server}, needs neither tunnel nor VIP, and sees local addresses \
                 instead of the clients'"
            )),
        }
    }
}

struct Service {
    line: usize,
    /// How its servers are checked.
    health: Option<RawHealth>,
    vip: SocketAddrV4,
    protocol: Protocol,
    scheduler: Scheduler,
    servers: Vec<Server>,
    /// Forwarding methods that were spoken of.
    told: Vec<Forwarding>,
    /// Its local addresses.
    locals: Vec<Ipv4Addr>,
}

struct Server {
    line: usize,
    address: SocketAddrV4,
    weight: u32,
    /// Where its health is asked for, if not there.
    health_address: Option<SocketAddrV4>,
}

/// A service in the draft.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Handle(usize);

/// What has been read so far.
#[derive(Default)]
struct Draft {
    services: Vec<Service>,
    by_vip: HashMap<(SocketAddrV4, Protocol), usize>,
    notes: Vec<Note>,
}

impl Draft {
    fn note(&mut self, line: usize, text: impl Into<String>) {
        self.notes.push(Note {
            line,
            text: text.into(),
        });
    }

    /// A service, or nothing and a note why not.
    fn service(
        &mut self,
        line: usize,
        vip: &str,
        protocol: Protocol,
        scheduler: Option<&str>,
    ) -> Option<Handle> {
        let vip = match endpoint(vip) {
            Ok(vip) => vip,
            Err(why) => {
                self.note(line, format!("service left out: {why}"));
                return None;
            }
        };
        if let Some(&earlier) = self.by_vip.get(&(vip, protocol)) {
            let first = self.services[earlier].line;
            self.note(
                line,
                format!("service left out: the one on line {first} has this address too"),
            );
            return None;
        }
        let (scheduler, remark) = scheduler_of(scheduler);
        if let Some(remark) = remark {
            self.note(line, remark);
        }
        self.by_vip.insert((vip, protocol), self.services.len());
        self.services.push(Service {
            line,
            vip,
            protocol,
            scheduler,
            health: None,
            servers: Vec::new(),
            told: Vec::new(),
            locals: Vec::new(),
        });
        Some(Handle(self.services.len() - 1))
    }

    fn find(&self, vip: &str, protocol: Protocol) -> Option<Handle> {
        let vip = endpoint(vip).ok()?;
        self.by_vip.get(&(vip, protocol)).map(|&ix| Handle(ix))
    }

    fn server(
        &mut self,
        line: usize,
        Handle(service): Handle,
        address: &str,
        weight: i64,
        forwarding: Forwarding,
    ) {
        let address = match endpoint(address) {
            Ok(address) => address,
            Err(why) => return self.note(line, format!("server left out: {why}")),
        };
        let known = &self.services[service].servers;
        if let Some(first) = known.iter().find(|server| server.address == address) {
            let first = first.line;
            return self.note(
                line,
                format!("server left out: line {first} of the same service has it already"),
            );
        }
        let kept = weight.clamp(0, 65_535);
        if kept != weight {
            self.note(
                line,
                format!("weight {weight} becomes {kept}; weights are 0 to 65535"),
            );
        }
        let told = &mut self.services[service].told;
        if !told.contains(&forwarding) {
            told.push(forwarding);
            if let Some(change) = forwarding.change(address) {
                self.note(line, change);
            }
        }
        self.services[service].servers.push(Server {
            line,
            address,
            weight: kept as u32,
            health_address: None,
        });
    }

    /// The check of the last server of a service: all of them get that of the
    /// first one that has any.
    fn check(&mut self, Handle(service): Handle, server: &str, check: &Check) {
        let Ok(address) = endpoint(server) else {
            return;
        };
        let service = &mut self.services[service];
        let Some(server) = service.servers.iter_mut().find(|s| s.address == address) else {
            return;
        };
        let known = service.health.get_or_insert_with(|| check.raw.clone());
        let differs = *known != check.raw;
        let own = address.port().to_string();
        let ip = check.ip.clone().unwrap_or_else(|| address.ip().to_string());
        let asked = format!("{ip}:{}", check.port.as_ref().unwrap_or(&own));
        let wrong = match endpoint(&asked) {
            Ok(asked) if asked == address => None,
            Ok(asked) => {
                server.health_address = Some(asked);
                None
            }
            Err(why) => Some(format!("connect_ip and connect_port left out: {why}")),
        };
        if differs {
            self.note(
                check.line,
                "the check differs from that of a server before it; all servers of a service get \
                 the first one",
            );
        }
        if let Some(wrong) = wrong {
            self.note(check.line, wrong);
        }
    }

    /// Local addresses of a service: one, a range, or `ADDRESS/LENGTH`.
    fn locals(&mut self, line: usize, Handle(service): Handle, text: &str) {
        let bare = text.split('/').next().unwrap_or(text);
        let range = match parse_addresses(bare) {
            Ok(range) => range,
            Err(why) => return self.note(line, format!("local address left out: {why}")),
        };
        let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
        if (last - first) as usize >= POOL_MAX {
            return self.note(
                line,
                format!("local addresses left out: {text} has more than {POOL_MAX}"),
            );
        }
        let locals = &mut self.services[service].locals;
        for address in (first..=last).map(Ipv4Addr::from) {
            if !locals.contains(&address) {
                locals.push(address);
            }
        }
    }

    /// The file. `from` is the command it came from.
    fn finish(mut self, from: &str) -> Imported {
        self.drop_gateway_addresses();
        let pools = self.pools();
        let mut toml = format!(
            "# Made by \"fullgatectl import {from}\". Fill in what is commented out, then\n\
             # \"fullgate check FILE\". docs/configuration.md explains every key.\n\n"
        );
        toml.push_str(&self.runtime());
        let checked = self.services.iter().any(|own| own.health.is_some());
        toml.push_str(&match checked {
            true => PORTS
                .replace(WAN, &format!("{WAN}\n#kernel-interface = \"fgwan\""))
                .replace(LAN, &format!("{LAN}\n#kernel-interface = \"fglan\"")),
            false => PORTS.to_owned(),
        });
        if pools.is_empty() {
            toml.push_str(POOL);
        }
        for (index, pool) in pools.iter().enumerate() {
            let addresses: Vec<String> = pool.iter().map(|local| format!("\"{local}\"")).collect();
            let _ = write!(
                toml,
                "\n[[pool]]\nname = \"{}\"\naddresses = [{}]\n",
                pool_name(index),
                addresses.join(", ")
            );
        }
        for service in &self.services {
            let pool = pools
                .iter()
                .position(|pool| service.locals.first().is_some_and(|one| pool.contains(one)))
                .unwrap_or(0);
            let named = (pools.len() > 1).then(|| pool_name(pool));
            service.write(&mut toml, named.as_deref());
        }
        // What is true of several services is told once. The sort is stable:
        // several notes on one line stay in order.
        let mut told = HashSet::new();
        self.notes
            .retain(|note| told.insert((note.line, note.text.clone())));
        self.notes.sort_by_key(|note| note.line);
        Imported {
            toml,
            services: self.services.len(),
            notes: self.notes,
        }
    }

    /// A VIP or local address can't be a server's, nor a VIP a local address.
    fn drop_gateway_addresses(&mut self) {
        let vips: HashSet<Ipv4Addr> = self.services.iter().map(|own| *own.vip.ip()).collect();
        let notes = &mut self.notes;
        for service in &mut self.services {
            let line = service.line;
            service.locals.retain(|local| {
                let clash = vips.contains(local);
                if clash {
                    notes.push(Note {
                        line,
                        text: format!("local address {local} left out: it is a service's"),
                    });
                }
                !clash
            });
        }
        let locals: HashSet<Ipv4Addr> = self
            .services
            .iter()
            .flat_map(|service| service.locals.iter().copied())
            .collect();
        for service in &mut self.services {
            service.servers.retain(|server| {
                let address = server.address.ip();
                let clash = vips.contains(address) || locals.contains(address);
                if clash {
                    notes.push(Note {
                        line: server.line,
                        text: format!(
                            "server left out: {address} is the gateway's own; \
                             a server on the gateway itself is not possible"
                        ),
                    });
                }
                !clash
            });
            for server in &mut service.servers {
                let taken =
                    |asked: &SocketAddrV4| vips.contains(asked.ip()) || locals.contains(asked.ip());
                if server
                    .health_address
                    .take_if(|asked| taken(asked))
                    .is_some()
                {
                    notes.push(Note {
                        line: server.line,
                        text: "connect_ip left out: it is the gateway's own".into(),
                    });
                }
            }
        }
    }

    /// Local addresses by pool. An address can be in one pool only, so services
    /// that share one share all of theirs.
    fn pools(&mut self) -> Vec<Vec<Ipv4Addr>> {
        let mut pools: Vec<Vec<Ipv4Addr>> = Vec::new();
        for service in self.services.iter().filter(|own| !own.locals.is_empty()) {
            let shares = |pool: &Vec<Ipv4Addr>| service.locals.iter().any(|one| pool.contains(one));
            let (mut met, apart): (Vec<_>, Vec<_>) = pools.into_iter().partition(shares);
            pools = apart;
            met.push(service.locals.clone());
            let mut joined = met.concat();
            joined.sort_unstable();
            joined.dedup();
            pools.push(joined);
        }
        pools.sort_unstable();
        let mut notes = Vec::new();
        for pool in &mut pools {
            let cut = pool.len().saturating_sub(POOL_MAX);
            if cut > 0 {
                pool.truncate(POOL_MAX);
                notes.push(format!(
                    "{cut} local addresses left out: a pool has at most {POOL_MAX}"
                ));
            }
        }
        let without = self.services.iter().find(|own| own.locals.is_empty());
        if let (Some(service), true) = (without, pools.len() > 1) {
            let line = service.line;
            self.note(
                line,
                "no local addresses: services without take those of pool local-1",
            );
        }
        for text in notes {
            self.note(1, text);
        }
        // What a truncated pool lost must not be looked for.
        let kept: HashSet<Ipv4Addr> = pools.iter().flatten().copied().collect();
        for service in &mut self.services {
            service.locals.retain(|local| kept.contains(local));
        }
        pools
    }

    /// `[runtime]`, where the defaults are too small.
    fn runtime(&self) -> String {
        let default = Runtime::default();
        let servers: usize = self.services.iter().map(|own| own.servers.len()).sum();
        let mut lines = String::new();
        for (key, count, most) in [
            ("max-services", self.services.len(), default.max_services),
            ("max-servers", servers, default.max_servers),
        ] {
            if count > most as usize {
                let _ = writeln!(lines, "{key} = {}", 2 * count);
            }
        }
        match lines.is_empty() {
            true => lines,
            false => format!("[runtime]\n{lines}\n"),
        }
    }
}

impl Service {
    fn write(&self, toml: &mut String, pool: Option<&str>) {
        let (vip, protocol) = (self.vip, self.protocol.name());
        let _ = write!(
            toml,
            "\n[[service]]\nname = \"{protocol}-{vip}\"\nvip = \"{vip}\"\n\
             protocol = \"{protocol}\"\nscheduler = \"{}\"\n",
            self.scheduler.name()
        );
        if let Some(pool) = pool {
            let _ = writeln!(toml, "pool = \"{pool}\"");
        }
        if let Some(health) = &self.health {
            // Texts and numbers under keys always have a TOML form.
            let keys = toml::to_string(health).unwrap_or_default();
            let _ = write!(toml, "\n[service.health]\n{keys}");
        }
        for server in &self.servers {
            let _ = write!(
                toml,
                "\n[[service.server]]\naddress = \"{}\"\nweight = {}\n",
                server.address, server.weight
            );
            if let Some(asked) = server.health_address {
                let _ = writeln!(toml, "health-address = \"{asked}\"");
            }
        }
    }
}

fn pool_name(index: usize) -> String {
    format!("local-{}", index + 1)
}

/// An address with a port, or why fullgate can't have it.
fn endpoint(text: &str) -> Result<SocketAddrV4, String> {
    if text.parse::<std::net::SocketAddrV6>().is_ok() || text.matches(':').count() > 1 {
        return Err(format!("{text} is IPv6, which is not supported yet"));
    }
    let (host, _) = text.split_once(':').unwrap_or((text, ""));
    if host.parse::<Ipv4Addr>().is_err() {
        return Err(format!(
            "{text:?} is no address and port in numbers; names are not looked up"
        ));
    }
    parse_endpoint(text)
}

/// The scheduler for LVS's `name`, and what to say about it. LVS's own default
/// is `wlc`.
fn scheduler_of(name: Option<&str>) -> (Scheduler, Option<String>) {
    use Scheduler::{RoundRobin, SourceHash, WeightedLeastConnections, WeightedRoundRobin};
    let Some(name) = name else {
        return (WeightedLeastConnections, None);
    };
    let (scheduler, why) = match name {
        "rr" => (RoundRobin, ""),
        "wrr" => (WeightedRoundRobin, ""),
        "wlc" => (WeightedLeastConnections, ""),
        "sh" => (SourceHash, ""),
        "lc" => (
            WeightedLeastConnections,
            "the same as long as all weights are equal",
        ),
        "sed" | "nq" => (
            WeightedLeastConnections,
            "which differs only while there are few connections",
        ),
        "lblc" | "lblcr" => (
            WeightedLeastConnections,
            "which does not keep a destination at its server",
        ),
        "twos" => (
            WeightedLeastConnections,
            "which compares all servers instead of two",
        ),
        "fo" | "ovf" => (
            WeightedLeastConnections,
            "which uses all servers at once; give those that are to stand by weight = 0",
        ),
        "mh" | "conhash" => (
            SourceHash,
            "which is a consistent hash of the client's address, too",
        ),
        "dh" => (
            SourceHash,
            "which hashes the client's address, not the destination's",
        ),
        _ => (WeightedRoundRobin, "the default; it is not known here"),
    };
    let remark = format!("scheduler {name} becomes {}, {why}", scheduler.name());
    (scheduler, (!why.is_empty()).then_some(remark))
}

#[cfg(test)]
mod tests;
