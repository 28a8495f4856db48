//! Which connections or packets an operator means: the text, and the small
//! fixed structure that it becomes on the management core and that workers
//! evaluate. Pure: allocates only where a text is read.
//!
//! A text is a list of conditions, all of which must be met:
//!
//! ```text
//! client|vip|local|server|host  A.B.C.D[/LENGTH][:PORT[-PORT]], or :PORT[-PORT]
//! port                          PORT[-PORT] of any of the four
//! proto, protocol               tcp, udp or icmp
//! service                       NAME
//! worker                        NUMBER
//! state                         such as ESTABLISHED (connections only)
//! drops                         dropped packets only (captures only)
//! reason                        a drop reason's name; implies drops
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use crate::conntrack::entry::{Entry, State};
use crate::ids::WorkerIx;
use crate::stats::DropReason;
use crate::wire::proto;

/// A condition on an address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    net: u32,
    mask: u32,
    first_port: u16,
    last_port: u16,
}

impl End {
    /// Everything.
    pub const ANY: Self = Self {
        net: 0,
        mask: 0,
        first_port: 0,
        last_port: u16::MAX,
    };

    /// Whether it is no condition at all.
    #[inline]
    pub fn is_any(&self) -> bool {
        *self == Self::ANY
    }

    #[inline]
    fn holds(&self, addr: Ipv4Addr, port: u16) -> bool {
        addr.to_bits() & self.mask == self.net && (self.first_port..=self.last_port).contains(&port)
    }

    #[inline]
    fn has(&self, point: SocketAddrV4) -> bool {
        self.holds(*point.ip(), point.port())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no address; give A.B.C.D[/LENGTH][:PORT[-PORT]] or :PORT[-PORT]")
        };
        let (net, ports) = match text.split_once(':') {
            Some((net, ports)) => (net, Some(ports)),
            None => (text, None),
        };
        let net: Ipv4Net = if net.is_empty() && ports.is_some() {
            Ipv4Net::default()
        } else if net.contains('/') {
            net.parse().map_err(|_| wrong())?
        } else {
            Ipv4Net::from(net.parse::<Ipv4Addr>().map_err(|_| wrong())?)
        };
        let (first_port, last_port) = match ports {
            Some(ports) => parse_ports(ports)?,
            None => (0, u16::MAX),
        };
        Ok(Self {
            net: net.network().to_bits(),
            mask: net.netmask().to_bits(),
            first_port,
            last_port,
        })
    }
}

/// First and last port of `80` or `1024-65535`.
fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} is no port; give PORT or FIRST-LAST");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: u16 = first.parse().map_err(|_| wrong())?;
    let last: u16 = last.parse().map_err(|_| wrong())?;
    if first > last {
        return Err(wrong());
    }
    Ok((first, last))
}

/// A service as packets show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceKey {
    /// VIP and port.
    pub vip: SocketAddrV4,
    /// IP protocol.
    pub protocol: u8,
}

/// The addresses of a connection; or those of a packet that is of none, as far
/// as they tell anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Legs {
    /// Client and VIP.
    pub front: Option<[SocketAddrV4; 2]>,
    /// Real server and local address.
    pub back: Option<[SocketAddrV4; 2]>,
    /// IP protocol; 0 for what is no IP.
    pub protocol: u8,
    /// One of the two it is, and nobody knows which.
    pub either: bool,
}

impl Legs {
    /// Nothing is known.
    pub const NONE: Self = Self {
        front: None,
        back: None,
        protocol: 0,
        either: false,
    };
}

impl From<&Entry> for Legs {
    fn from(entry: &Entry) -> Self {
        Self {
            front: Some([
                SocketAddrV4::new(entry.client, entry.client_port),
                SocketAddrV4::new(entry.vip, entry.vip_port),
            ]),
            back: Some([
                SocketAddrV4::new(entry.server_addr, entry.server_port),
                SocketAddrV4::new(entry.local, entry.local_port),
            ]),
            protocol: entry.protocol,
            either: false,
        }
    }
}

/// Conditions, all of which must be met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filter {
    pub client: End,
    pub vip: End,
    pub local: End,
    pub server: End,
    /// One of the four.
    pub host: End,
    pub protocol: Option<u8>,
    pub service: Option<ServiceKey>,
    /// Whoever asks the workers asks this one only.
    pub worker: Option<WorkerIx>,
    pub state: Option<State>,
    /// Dropped packets only.
    pub drops: bool,
    /// Dropped for this reason only.
    pub reason: Option<DropReason>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            client: End::ANY,
            vip: End::ANY,
            local: End::ANY,
            server: End::ANY,
            host: End::ANY,
            protocol: None,
            service: None,
            worker: None,
            state: None,
            drops: false,
            reason: None,
        }
    }
}

/// What a filter is for: not every condition makes sense everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Connections,
    Capture,
}

impl Filter {
    /// Reads a text; `service` finds a service by its name.
    ///
    /// # Errors
    /// One line that names the condition and what would be right.
    pub fn parse(
        text: &str,
        purpose: Purpose,
        service: impl Fn(&str) -> Option<ServiceKey>,
    ) -> Result<Self, String> {
        let mut filter = Self::default();
        let mut given: Vec<&str> = Vec::new();
        let mut words = text.split_whitespace();
        while let Some(key) = words.next() {
            if given.contains(&key) {
                return Err(format!("{key}: is given twice"));
            }
            given.push(key);
            if key == "drops" {
                filter.drops = true;
                continue;
            }
            if !KEYS.contains(&key) {
                return Err(format!(
                    "{key:?} is no condition; give one of {}",
                    KEYS.join(", ")
                ));
            }
            let value = words.next().ok_or(format!("{key}: give a value"))?;
            filter
                .set(key, value, &service)
                .map_err(|why| format!("{key}: {why}"))?;
        }
        if given.contains(&"host") && given.contains(&"port") {
            return Err("port: is given with host; give host ADDRESS:PORT".into());
        }
        match purpose {
            Purpose::Connections if filter.drops || filter.reason.is_some() => {
                Err("drops: a connection is not dropped; capture drops shows packets".into())
            }
            Purpose::Capture if filter.state.is_some() => {
                Err("state: a capture takes connections whatever their state".into())
            }
            _ => Ok(filter),
        }
    }

    fn set(
        &mut self,
        key: &str,
        value: &str,
        service: &impl Fn(&str) -> Option<ServiceKey>,
    ) -> Result<(), String> {
        match key {
            "client" => self.client = End::parse(value)?,
            "vip" => self.vip = End::parse(value)?,
            "local" => self.local = End::parse(value)?,
            "server" => self.server = End::parse(value)?,
            "host" => self.host = End::parse(value)?,
            "port" => {
                let (first_port, last_port) = parse_ports(value)?;
                self.host = End {
                    first_port,
                    last_port,
                    ..End::ANY
                };
            }
            "proto" | "protocol" => self.protocol = Some(parse_protocol(value)?),
            "service" => {
                let found = service(value).ok_or(format!("there is no service {value:?}"))?;
                self.service = Some(found);
            }
            "worker" => {
                let worker = value.parse();
                let worker = worker.map_err(|_| format!("{value:?} is no worker's number"))?;
                self.worker = Some(WorkerIx(worker));
            }
            "state" => self.state = Some(parse_state(value)?),
            _ => {
                let mut reasons = DropReason::ALL.iter();
                let reason = reasons.find(|reason| reason.name() == value).copied();
                self.reason = Some(reason.ok_or(format!(
                    "{value:?} is no drop reason; fullgatectl show drops --all lists them"
                ))?);
                self.drops = true;
            }
        }
        Ok(())
    }

    /// Whether a connection meets every condition on connections.
    #[inline]
    pub fn matches_entry(&self, entry: &Entry) -> bool {
        self.client.holds(entry.client, entry.client_port)
            && self.vip.holds(entry.vip, entry.vip_port)
            && self.local.holds(entry.local, entry.local_port)
            && self.server.holds(entry.server_addr, entry.server_port)
            && self.protocol.is_none_or(|wanted| wanted == entry.protocol)
            && self.state.is_none_or(|wanted| wanted == entry.state)
            && (self.host.is_any()
                || self.host.holds(entry.client, entry.client_port)
                || self.host.holds(entry.vip, entry.vip_port)
                || self.host.holds(entry.local, entry.local_port)
                || self.host.holds(entry.server_addr, entry.server_port))
            && self.service.is_none_or(|wanted| {
                wanted.vip == SocketAddrV4::new(entry.vip, entry.vip_port)
                    && wanted.protocol == entry.protocol
            })
    }

    /// Whether what is known of a packet meets every condition on addresses
    /// and protocol.
    pub fn matches(&self, legs: &Legs) -> bool {
        if legs.either {
            self.meets(legs.front, None, legs.protocol)
                || self.meets(None, legs.back, legs.protocol)
        } else {
            self.meets(legs.front, legs.back, legs.protocol)
        }
    }

    fn meets(
        &self,
        front: Option<[SocketAddrV4; 2]>,
        back: Option<[SocketAddrV4; 2]>,
        protocol: u8,
    ) -> bool {
        fn side(near: &End, far: &End, points: Option<[SocketAddrV4; 2]>) -> bool {
            match points {
                Some([a, b]) => near.has(a) && far.has(b),
                None => near.is_any() && far.is_any(),
            }
        }
        let mut points = front.into_iter().chain(back).flatten();
        side(&self.client, &self.vip, front)
            && side(&self.server, &self.local, back)
            && self.protocol.is_none_or(|wanted| wanted == protocol)
            && (self.host.is_any() || points.any(|point| self.host.has(point)))
            && self.service.is_none_or(|wanted| {
                wanted.protocol == protocol && front.is_some_and(|[_, vip]| vip == wanted.vip)
            })
    }
}

const KEYS: [&str; 12] = [
    "client", "vip", "local", "server", "host", "port", "proto", "protocol", "service", "worker",
    "state", "reason",
];

fn parse_protocol(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(proto::TCP),
        "udp" => Ok(proto::UDP),
        "icmp" => Ok(proto::ICMP),
        _ => Err(format!("is {text:?}; give tcp, udp or icmp")),
    }
}

fn parse_state(text: &str) -> Result<State, String> {
    let mut states = State::ALL.into_iter();
    let found = states.find(|state| state.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        let names: Vec<&str> = State::ALL.iter().map(|state| state.name()).collect();
        format!("is {text:?}; give one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WEB: ServiceKey = ServiceKey {
        vip: SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 80),
        protocol: proto::TCP,
    };

    fn parse_for(text: &str, purpose: Purpose) -> Result<Filter, String> {
        Filter::parse(text, purpose, |name| (name == "web").then_some(WEB))
    }

    fn parse(text: &str) -> Filter {
        parse_for(text, Purpose::Capture).expect("a filter")
    }

    fn entry() -> Entry {
        Entry {
            client: Ipv4Addr::new(192, 0, 2, 9),
            client_port: 40_000,
            vip: *WEB.vip.ip(),
            vip_port: 80,
            local: Ipv4Addr::new(10, 0, 0, 100),
            local_port: 1_025,
            server_addr: Ipv4Addr::new(10, 0, 0, 1),
            server_port: 8_080,
            protocol: proto::TCP,
            state: State::Established,
            ..Entry::FREE
        }
    }

    #[test]
    fn each_condition_holds_and_fails() {
        let entry = entry();
        for (holds, fails) in [
            ("", "drops client 192.0.2.8"),
            ("client 192.0.2.9", "client 192.0.2.10"),
            ("client 192.0.2.0/24", "client 192.0.3.0/24"),
            ("client 192.0.2.9:40000", "client 192.0.2.9:40001"),
            ("client :39999-40001", "client :40001-40002"),
            ("vip 198.51.100.1:80", "vip :443"),
            ("local 10.0.0.100", "local 10.0.0.1"),
            ("server 10.0.0.0/30:8080", "server 10.0.0.100"),
            ("host 10.0.0.100:1025", "host 10.0.0.100:8080"),
            ("port 8080", "port 8081"),
            ("proto TCP", "proto udp"),
            ("service web", "service web proto icmp"),
        ] {
            for (text, expected) in [(holds, true), (fails, false)] {
                let filter = parse(text);
                assert_eq!(filter.matches_entry(&entry), expected, "{text}");
                assert_eq!(filter.matches(&Legs::from(&entry)), expected, "{text}");
            }
        }
        let state = |text| parse_for(text, Purpose::Connections).expect("a filter");
        assert!(state("state established").matches_entry(&entry));
        assert!(!state("state CLOSED").matches_entry(&entry));
    }

    #[test]
    fn a_packet_of_no_connection_is_known_by_its_own_addresses() {
        let stranger = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 5);
        let front = Legs {
            front: Some([stranger, WEB.vip]),
            protocol: proto::TCP,
            ..Legs::NONE
        };
        assert!(parse("client 192.0.2.7 service web").matches(&front));
        assert!(!parse("server 192.0.2.7").matches(&front));
        let either = Legs {
            front: Some([stranger, WEB.vip]),
            back: Some([stranger, WEB.vip]),
            either: true,
            ..front
        };
        assert!(parse("server 192.0.2.7").matches(&either));
        assert!(parse("client 192.0.2.7").matches(&either));
        assert!(!parse("client 192.0.2.7 server 192.0.2.7").matches(&either));
        assert!(parse("").matches(&Legs::NONE));
        assert!(!parse("port 5").matches(&Legs::NONE));
    }

    #[test]
    fn faults_name_the_condition_and_the_remedy() {
        for (text, expected) in [
            ("clint 1.2.3.4", "\"clint\" is no condition; give one of"),
            ("client", "client: give a value"),
            (
                "client 1.2.3",
                "client: \"1.2.3\" is no address; give A.B.C.D",
            ),
            ("client 1.2.3.4/33", "client: \"1.2.3.4/33\" is no address"),
            (
                "client 1.2.3.4:x",
                "client: \"x\" is no port; give PORT or FIRST-LAST",
            ),
            ("port 9-1", "port: \"9-1\" is no port"),
            ("port 65536", "port: \"65536\" is no port"),
            ("proto sctp", "proto: is \"sctp\"; give tcp, udp or icmp"),
            ("service wbe", "service: there is no service \"wbe\""),
            ("worker -1", "worker: \"-1\" is no worker's number"),
            (
                "reason none",
                "reason: \"none\" is no drop reason; fullgatectl",
            ),
            ("vip 1.2.3.4 vip 1.2.3.5", "vip: is given twice"),
            ("host 1.2.3.4 port 5", "port: is given with host"),
            ("state closed", "state: a capture takes connections"),
        ] {
            let said = parse_for(text, Purpose::Capture).expect_err("refused");
            assert!(said.starts_with(expected), "{text}: {said}");
        }
        let said = parse_for("drops", Purpose::Connections).expect_err("refused");
        assert!(said.starts_with("drops: "), "{said}");
        assert_eq!(
            parse("reason no-service").reason,
            Some(DropReason::NoService)
        );
        assert!(parse("reason no-service").drops);
    }

    /// The text of an end.
    fn text_of(end: &End) -> String {
        let net = Ipv4Addr::from_bits(end.net);
        let length = end.mask.leading_ones();
        format!("{net}/{length}:{}-{}", end.first_port, end.last_port)
    }

    proptest! {
        #[test]
        fn an_end_reads_what_it_writes(
            addr: u32, length in 0u8..=32, first: u16, last: u16,
        ) {
            let net = Ipv4Net::new(Ipv4Addr::from_bits(addr), length).expect("a prefix").trunc();
            let end = End {
                net: net.network().to_bits(),
                mask: net.netmask().to_bits(),
                first_port: first.min(last),
                last_port: first.max(last),
            };
            prop_assert_eq!(End::parse(&text_of(&end)), Ok(end));
            prop_assert_eq!(
                end.holds(Ipv4Addr::from_bits(addr), first),
                net.contains(&Ipv4Addr::from_bits(addr))
            );
        }

        #[test]
        fn any_text_is_read_or_refused_in_one_line(text in "\\PC{0,80}") {
            if let Err(why) = parse_for(&text, Purpose::Capture) {
                prop_assert!(!why.contains('\n') && !why.is_empty());
            }
        }

        #[test]
        fn any_words_are_read_or_refused(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "client", "vip", "local", "server", "host", "port", "proto", "service",
                    "worker", "state", "drops", "reason", "1.2.3.4", "10.0.0.0/8:80-90", ":7",
                    "tcp", "web", "3", "no-route", "/", ":", "-", "0.0.0.0/0",
                ]),
                0..10,
            ),
        ) {
            let text = words.join(" ");
            if let Ok(filter) = parse_for(&text, Purpose::Capture) {
                // More conditions never let more through.
                prop_assert!(filter.state.is_none());
                if filter.matches_entry(&entry()) {
                    prop_assert!(filter.matches(&Legs::from(&entry())));
                }
            }
        }

        #[test]
        fn an_entry_and_its_legs_are_judged_alike(
            client in 0u32..4, server in 0u32..4, port in 0u16..4, wanted in 0u32..4, wanted_port in 0u16..4,
            key in proptest::sample::select(vec!["client", "vip", "local", "server", "host"]),
        ) {
            let at = |low| Ipv4Addr::from_bits(0x0a00_0000 + low);
            let entry = Entry {
                client: at(client), server_addr: at(server), vip: at(client ^ 1), local: at(server ^ 2),
                client_port: port, server_port: port ^ 1, vip_port: port ^ 2, local_port: port ^ 3,
                ..entry()
            };
            let filter = parse(&format!("{key} {}:{wanted_port}", at(wanted)));
            prop_assert_eq!(filter.matches_entry(&entry), filter.matches(&Legs::from(&entry)));
        }
    }
}
