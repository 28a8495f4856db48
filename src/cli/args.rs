//! The command line, and the request each command stands for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value, json};

use super::capture::Capture;
use super::explain::Explain;
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
    /// Announce all addresses of the gateway by gratuitous ARP, on all ports.
    Announce,
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
    /// Copy packets into a pcapng file, both legs of each connection: as they
    /// were received and as they were sent, with what became of them as
    /// comments. FILTER is a list of conditions, such as
    /// "client 192.0.2.0/24 service web", "server :8080" or "drops".
    Capture(Capture),
    /// Tell what would happen, or is happening, to a flow: worker, service,
    /// server, addresses, state, timers, next hops; or why it is dropped. Also
    /// takes the server's side: SERVER:PORT LOCAL:PORT.
    Explain(Explain),
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
    Connections(Connections),
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
        /// The last dropped packets of each reason, with their headers.
        #[arg(long, conflicts_with = "all")]
        last: bool,
        /// Those of one reason only.
        #[arg(long, requires = "last")]
        reason: Option<String>,
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
pub(super) struct Connections {
    /// Conditions, such as "client 192.0.2.0/24 service web": client, vip,
    /// local, server or host with ADDRESS[/LENGTH][:PORT[-PORT]]; port, proto,
    /// service, worker, state.
    filter: Vec<String>,
    #[arg(long, value_name = "ADDRESS[/LENGTH][:PORT]")]
    client: Option<String>,
    #[arg(long, value_name = "ADDRESS[/LENGTH][:PORT]")]
    vip: Option<String>,
    #[arg(long, value_name = "ADDRESS[/LENGTH][:PORT]")]
    local: Option<String>,
    #[arg(long, value_name = "ADDRESS[/LENGTH][:PORT]")]
    server: Option<String>,
    /// tcp or udp.
    #[arg(long = "proto", value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// Such as ESTABLISHED or SYN_RECV.
    #[arg(long)]
    state: Option<String>,
    /// The longest first: idle or age.
    #[arg(long, value_name = "ORDER")]
    sort: Option<String>,
    /// Most connections to show.
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
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
    /// The same for a server that is known to take longer, at most.
    #[arg(long, value_name = "DURATION")]
    syn_retry_max: Option<String>,
    /// SYNs sent for one connection at most.
    #[arg(long, value_name = "N")]
    syn_attempts: Option<u32>,
    /// Failures in a row after which a server is taken out; 0: never.
    #[arg(long, value_name = "N")]
    fail_after: Option<u32>,
    /// Whether a UDP flow goes on, or ends with its answer: flows or one-answer.
    #[arg(long)]
    udp: Option<String>,
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
            (
                "syn-retry-max",
                self.syn_retry_max.as_ref().map(|v| json!(v)),
            ),
            ("syn-attempts", self.syn_attempts.map(|v| json!(v))),
            ("fail-after", self.fail_after.map(|v| json!(v))),
            ("udp", self.udp.as_ref().map(|v| json!(v))),
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
            Self::Announce => ("announce", none()),
            Self::Explain(flow) => ("flow.explain", flow.params()),
            Self::Diff { file } => {
                // The daemon has another working directory.
                let path = std::path::absolute(file).unwrap_or_else(|_| file.clone());
                ("config.diff", json!({"path": path}))
            }
            Self::Save { .. } => ("config.get", none()),
            Self::Version => ("version", none()),
            Self::Capture(_) | Self::Check { .. } | Self::Import { .. } | Self::Top { .. } => {
                return None;
            }
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
            Self::Connections(wanted) => ("connections.list", wanted.params()),
            Self::Workers { .. } => ("workers.list", none()),
            Self::Ports => ("ports.list", none()),
            Self::Drops {
                last: true, reason, ..
            } => {
                let reason = reason.as_ref().map(|v| json!(v));
                ("drops.last", given([("reason", reason)]))
            }
            Self::Drops { .. } => ("drops.list", none()),
            Self::Pools => ("pools.list", none()),
            Self::Neighbors => ("neighbors.list", none()),
            Self::Config => ("config.get", none()),
        }
    }
}

impl Connections {
    fn params(&self) -> Value {
        let mut words = self.filter.clone();
        for (key, value) in [
            ("client", &self.client),
            ("vip", &self.vip),
            ("local", &self.local),
            ("server", &self.server),
            ("proto", &self.protocol),
            ("state", &self.state),
        ] {
            if let Some(value) = value {
                words.extend([key.to_owned(), value.clone()]);
            }
        }
        let filter = (!words.is_empty()).then(|| json!(words.join(" ")));
        given([
            ("filter", filter),
            ("sort", self.sort.as_ref().map(|v| json!(v))),
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
                    json!({"filter": "client 192.0.2.9:1234 server 10.0.0.1 proto tcp", "limit": 5}),
                ),
            ),
            (
                "fullgatectl show connections service web host 10.0.0.0/8 --state CLOSED --sort idle",
                (
                    "connections.list",
                    json!({"filter": "service web host 10.0.0.0/8 state CLOSED", "sort": "idle"}),
                ),
            ),
            (
                "fullgatectl show drops --last --reason no-route",
                ("drops.last", json!({"reason": "no-route"})),
            ),
            (
                "fullgatectl --json show drops --all",
                ("drops.list", json!({})),
            ),
        ] {
            assert_eq!(request(line), expected, "{line}");
        }
    }
}
