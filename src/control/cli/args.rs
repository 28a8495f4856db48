//! The command line, and the request each command stands for.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value, json};

use super::{given, none};

/// Looks at and changes a running fullgate.
#[derive(Parser, Debug)]
#[command(name = "fullgatectl", version, disable_help_subcommand = true)]
pub(super) struct Cli {
    /// The admin socket.
    #[arg(
        long,
        global = true,
        default_value = "/run/fullgate/fullgate.sock",
        value_name = "PATH"
    )]
    pub(super) socket: PathBuf,
    /// Print the result as one line of JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Show what fullgate does.
    Show {
        #[command(subcommand)]
        what: Show,
    },
    /// Add, change or delete a service.
    Service {
        #[command(subcommand)]
        change: Service,
    },
    /// Add, change or delete a real server of a service.
    Server {
        #[command(subcommand)]
        change: Server,
    },
    /// Read the configuration file again and put it in force.
    Reload,
    /// Check a configuration file; needs no running fullgate.
    Check { file: PathBuf },
    /// Show what a reload would do if the file were this one.
    Diff { file: PathBuf },
    /// Write the configuration in force to a file.
    Save {
        /// By default the file that a reload reads.
        file: Option<PathBuf>,
    },
    /// Make a configuration out of another load balancer's; needs no running
    /// fullgate. What can't be carried over is told on standard error.
    Import {
        #[command(subcommand)]
        from: Import,
    },
    /// Watch rates, load and drops on a live screen.
    Top {
        /// Milliseconds between two readings.
        #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=60_000))]
        interval: u64,
        /// Print one frame as text and end.
        #[arg(long)]
        once: bool,
    },
    /// Show which version runs.
    Version,
}

#[derive(Subcommand, Debug)]
pub(super) enum Import {
    /// The rules that "ipvsadm -Sn" prints.
    Ipvsadm {
        /// The file; "-" is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// A keepalived.conf.
    Keepalived {
        /// The file; "-" is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum Show {
    /// Services and their real servers.
    Services {
        /// Traffic instead of weights.
        #[arg(long)]
        stats: bool,
    },
    /// Health checks of the real servers.
    Health,
    /// Connections.
    Connections(Filter),
    /// Load of the workers, measured over an interval.
    Workers {
        /// Milliseconds between the two readings.
        #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
        interval: u64,
    },
    /// Ports, their links and counters.
    Ports,
    /// Dropped packets by reason, and other events.
    Drops {
        /// Also those that never happened.
        #[arg(long)]
        all: bool,
    },
    /// Local ports in use, by pool.
    Pools,
    /// Next hops.
    Neighbors,
    /// The configuration in force.
    Config,
}

/// Which connections; all conditions must be met.
#[derive(Args, Debug)]
pub(super) struct Filter {
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    client: Option<Endpoint>,
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    vip: Option<Endpoint>,
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    local: Option<Endpoint>,
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    server: Option<Endpoint>,
    /// tcp or udp.
    #[arg(long = "proto", value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// Such as ESTABLISHED or SYN_RECV.
    #[arg(long)]
    state: Option<String>,
    /// Most connections to show.
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

/// An address, with or without a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Endpoint {
    addr: Ipv4Addr,
    port: Option<u16>,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (addr, port) = match text.split_once(':') {
            Some((addr, port)) => (addr, Some(port)),
            None => (text, None),
        };
        let addr = addr
            .parse()
            .map_err(|_| format!("{addr:?} is no IPv4 address"))?;
        let port = port.map(|port| port.parse().map_err(|_| format!("{port:?} is no port")));
        Ok(Self {
            addr,
            port: port.transpose()?,
        })
    }
}

#[derive(Subcommand, Debug)]
pub(super) enum Service {
    /// Add a service.
    Add {
        name: String,
        /// The address and port clients connect to.
        #[arg(long, value_name = "ADDRESS:PORT")]
        vip: String,
        #[command(flatten)]
        keys: ServiceKeys,
    },
    /// Change a service; what is not given stays.
    Edit {
        name: String,
        #[arg(long, value_name = "ADDRESS:PORT")]
        vip: Option<String>,
        #[command(flatten)]
        keys: ServiceKeys,
    },
    /// Delete a service and its real servers; their connections are reset.
    Del { name: String },
}

/// The keys of a `[[service]]`, as in the configuration file.
#[derive(Args, Debug)]
pub(super) struct ServiceKeys {
    /// tcp or udp.
    #[arg(long)]
    protocol: Option<String>,
    /// rr, wrr, wlc or sh.
    #[arg(long)]
    scheduler: Option<String>,
    /// The pool of local addresses.
    #[arg(long)]
    pool: Option<String>,
    /// What TCP segments of unknown connections get: reset or drop.
    #[arg(long)]
    unknown_flow: Option<String>,
    /// What both ends of a connection that idled out get: reset or silent.
    #[arg(long)]
    on_expire: Option<String>,
    /// When a SYN without an answer goes to another server, such as 250ms.
    #[arg(long, value_name = "DURATION")]
    syn_retry_after: Option<String>,
    /// SYNs sent for one connection at most.
    #[arg(long, value_name = "N")]
    syn_attempts: Option<u32>,
    /// Failures in a row after which a server is taken out; 0: never.
    #[arg(long, value_name = "N")]
    fail_after: Option<u32>,
    /// Whether the VIP is announced while a server is usable.
    #[arg(long, value_name = "true|false")]
    announce: Option<bool>,
    /// An idle timeout, such as established=1h; may be given for several.
    #[arg(long = "timeout", value_name = "STATE=DURATION", value_parser = timeout)]
    timeouts: Vec<(String, String)>,
    /// A key of the health checks, such as check=http; may be given for several.
    /// check=none ends them.
    #[arg(long = "health", value_name = "KEY=VALUE", value_parser = health)]
    health: Vec<(String, Value)>,
}

fn timeout(text: &str) -> Result<(String, String), String> {
    let (state, duration) = text
        .split_once('=')
        .ok_or("give STATE=DURATION, such as established=1h")?;
    Ok((state.into(), duration.into()))
}

fn health(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("give KEY=VALUE, such as check=http")?;
    let number = ["rise", "fall", "port"].contains(&key);
    let value = match value.parse::<i64>() {
        Ok(value) if number => json!(value),
        _ => json!(value),
    };
    Ok((key.into(), value))
}

impl ServiceKeys {
    fn params(&self, name: &str, vip: Option<&String>) -> Value {
        let timeouts: Map<String, Value> = self
            .timeouts
            .iter()
            .map(|(state, duration)| (state.clone(), json!(duration)))
            .collect();
        given([
            ("name", Some(json!(name))),
            ("vip", vip.map(|v| json!(v))),
            ("protocol", self.protocol.as_ref().map(|v| json!(v))),
            ("scheduler", self.scheduler.as_ref().map(|v| json!(v))),
            ("pool", self.pool.as_ref().map(|v| json!(v))),
            ("unknown-flow", self.unknown_flow.as_ref().map(|v| json!(v))),
            ("on-expire", self.on_expire.as_ref().map(|v| json!(v))),
            (
                "syn-retry-after",
                self.syn_retry_after.as_ref().map(|v| json!(v)),
            ),
            ("syn-attempts", self.syn_attempts.map(|v| json!(v))),
            ("fail-after", self.fail_after.map(|v| json!(v))),
            ("announce", self.announce.map(|v| json!(v))),
            (
                "timeouts",
                (!self.timeouts.is_empty()).then(|| timeouts.into()),
            ),
            (
                "health",
                (!self.health.is_empty()).then(|| self.health.iter().cloned().collect()),
            ),
        ])
    }
}

#[derive(Subcommand, Debug)]
pub(super) enum Server {
    /// Add a real server.
    Add {
        service: String,
        /// Its address and port.
        #[arg(value_name = "ADDRESS:PORT")]
        address: String,
        /// Its name; by default its address and port.
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        weight: Option<u32>,
        /// up, draining or down.
        #[arg(long)]
        state: Option<String>,
        /// Where its health is asked for, if not at its own address.
        #[arg(long, value_name = "ADDRESS:PORT")]
        health_address: Option<String>,
    },
    /// Change a real server; what is not given stays.
    Edit {
        service: String,
        /// Its name, or its address and port.
        server: String,
        #[arg(long)]
        weight: Option<u32>,
        /// up, draining or down.
        #[arg(long)]
        state: Option<String>,
        /// Where its health is asked for, if not at its own address.
        #[arg(long, value_name = "ADDRESS:PORT")]
        health_address: Option<String>,
    },
    /// Let a real server's connections end and give it no new ones.
    Drain {
        service: String,
        /// Its name, or its address and port.
        server: String,
        /// When those left are reset, such as 10m; without it, never.
        #[arg(long, value_name = "DURATION")]
        deadline: Option<String>,
        /// Do not wait for the end.
        #[arg(long)]
        no_wait: bool,
    },
    /// Delete a real server; its connections are reset.
    Del {
        service: String,
        /// Its name, or its address and port.
        server: String,
    },
}

impl Command {
    /// The method and its parameters; none where no running fullgate is asked.
    pub(super) fn request(&self) -> Option<(&'static str, Value)> {
        Some(match self {
            Self::Show { what } => what.request(),
            Self::Service { change } => match change {
                Service::Add { name, vip, keys } => ("service.add", keys.params(name, Some(vip))),
                Service::Edit { name, vip, keys } => {
                    ("service.edit", keys.params(name, vip.as_ref()))
                }
                Service::Del { name } => ("service.del", json!({"name": name})),
            },
            Self::Server { change } => change.request(),
            Self::Reload => ("reload", none()),
            Self::Diff { file } => {
                // The daemon has another working directory.
                let path = std::path::absolute(file).unwrap_or_else(|_| file.clone());
                ("config.diff", json!({"path": path}))
            }
            Self::Save { .. } => ("config.get", none()),
            Self::Version => ("version", none()),
            Self::Check { .. } | Self::Import { .. } | Self::Top { .. } => return None,
        })
    }
}

impl Server {
    fn request(&self) -> (&'static str, Value) {
        match self {
            Self::Add {
                service,
                address,
                name,
                weight,
                state,
                health_address,
            } => {
                let params = given([
                    ("service", Some(json!(service))),
                    ("address", Some(json!(address))),
                    ("name", name.as_ref().map(|v| json!(v))),
                    ("weight", weight.map(|v| json!(v))),
                    ("state", state.as_ref().map(|v| json!(v))),
                    ("health-address", health_address.as_ref().map(|v| json!(v))),
                ]);
                ("server.add", params)
            }
            Self::Edit {
                service,
                server,
                weight,
                state,
                health_address,
            } => {
                let params = given([
                    ("service", Some(json!(service))),
                    ("server", Some(json!(server))),
                    ("weight", weight.map(|v| json!(v))),
                    ("state", state.as_ref().map(|v| json!(v))),
                    ("health-address", health_address.as_ref().map(|v| json!(v))),
                ]);
                ("server.edit", params)
            }
            Self::Drain {
                service,
                server,
                deadline,
                ..
            } => {
                let params = given([
                    ("service", Some(json!(service))),
                    ("server", Some(json!(server))),
                    ("deadline", deadline.as_ref().map(|v| json!(v))),
                ]);
                ("server.drain", params)
            }
            Self::Del { service, server } => {
                ("server.del", json!({"service": service, "server": server}))
            }
        }
    }
}

impl Show {
    fn request(&self) -> (&'static str, Value) {
        match self {
            Self::Services { .. } | Self::Health => ("services.list", none()),
            Self::Connections(filter) => ("connections.list", filter.params()),
            Self::Workers { .. } => ("workers.list", none()),
            Self::Ports => ("ports.list", none()),
            Self::Drops { .. } => ("drops.list", none()),
            Self::Pools => ("pools.list", none()),
            Self::Neighbors => ("neighbors.list", none()),
            Self::Config => ("config.get", none()),
        }
    }
}

impl Filter {
    fn params(&self) -> Value {
        let addr = |end: &Option<Endpoint>| end.map(|end| json!(end.addr));
        let port = |end: &Option<Endpoint>| end.and_then(|end| end.port).map(|port| json!(port));
        given([
            ("client", addr(&self.client)),
            ("client_port", port(&self.client)),
            ("vip", addr(&self.vip)),
            ("vip_port", port(&self.vip)),
            ("local", addr(&self.local)),
            ("local_port", port(&self.local)),
            ("server", addr(&self.server)),
            ("server_port", port(&self.server)),
            ("protocol", self.protocol.as_ref().map(|v| json!(v))),
            ("state", self.state.as_ref().map(|v| json!(v))),
            ("limit", self.limit.map(|v| json!(v))),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> (&'static str, Value) {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("arguments");
        cli.command.request().expect("a request")
    }

    #[test]
    fn the_arguments_are_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn commands_become_requests() {
        for (line, expected) in [
            (
                "fullgatectl service add web --vip 192.0.2.1:80 --scheduler wrr --pool p --fail-after 0",
                (
                    "service.add",
                    json!({"name": "web", "vip": "192.0.2.1:80", "scheduler": "wrr", "pool": "p", "fail-after": 0}),
                ),
            ),
            (
                "fullgatectl service edit web --on-expire silent --timeout udp=3m",
                (
                    "service.edit",
                    json!({"name": "web", "on-expire": "silent", "timeouts": {"udp": "3m"}}),
                ),
            ),
            (
                "fullgatectl service edit web --health check=http --health rise=2 --health path=/a=b",
                (
                    "service.edit",
                    json!({"name": "web", "health": {"check": "http", "rise": 2, "path": "/a=b"}}),
                ),
            ),
            (
                "fullgatectl service del web",
                ("service.del", json!({"name": "web"})),
            ),
            (
                "fullgatectl server add web 10.0.0.1:80 --weight 3",
                (
                    "server.add",
                    json!({"service": "web", "address": "10.0.0.1:80", "weight": 3}),
                ),
            ),
            (
                "fullgatectl server edit web a --weight 0 --state draining --health-address 10.0.0.9:81",
                (
                    "server.edit",
                    json!({"service": "web", "server": "a", "weight": 0, "state": "draining", "health-address": "10.0.0.9:81"}),
                ),
            ),
            (
                "fullgatectl server del web 10.0.0.1:80",
                (
                    "server.del",
                    json!({"service": "web", "server": "10.0.0.1:80"}),
                ),
            ),
            (
                "fullgatectl server drain web a --deadline 10m --no-wait",
                (
                    "server.drain",
                    json!({"service": "web", "server": "a", "deadline": "10m"}),
                ),
            ),
            (
                "fullgatectl diff /etc/other.toml",
                ("config.diff", json!({"path": "/etc/other.toml"})),
            ),
            (
                "fullgatectl show connections --client 192.0.2.9:1234 --server 10.0.0.1 --proto tcp --limit 5",
                (
                    "connections.list",
                    json!({"client": "192.0.2.9", "client_port": 1234, "server": "10.0.0.1", "protocol": "tcp", "limit": 5}),
                ),
            ),
            (
                "fullgatectl --json show drops --all",
                ("drops.list", json!({})),
            ),
        ] {
            assert_eq!(request(line), expected, "{line}");
        }
    }

    #[test]
    fn endpoints_are_checked() {
        let port = "192.0.2.1:80"
            .parse::<Endpoint>()
            .expect("an endpoint")
            .port;
        assert_eq!(port, Some(80));
        for wrong in [
            "",
            "web",
            "192.0.2.1:",
            "192.0.2.1:70000",
            "192.0.2.1:80:90",
        ] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
