//! The admin methods. What only reads is answered at once; what needs the
//! workers is queued, and answered when they have all done their part.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::answers::{invalid, value};
use super::captures::{CaptureId, CaptureParams};
use super::explain::ExplainParams;
use super::gather::Ask;
use super::{Change, ConnectionsAsk, Management, PATIENCE, report};
use crate::admin::socket::Call;
use crate::api;
use crate::api::METHODS;
use crate::api::rpc::{self, Error, Outcome};
use crate::config::raw::{RawServer, RawService};
use crate::config::{Checked, Config, Problem};
use crate::conntrack::entry::FlowTuple;
use crate::filter::Purpose;
use crate::management::state::restart;
use crate::stats::DropReason;
use crate::worker::message::Order;

/// Connections listed where the request names no limit.
const LIMIT: usize = 1_000;

/// Most connections listed at a time: 16 MB of copies for each worker.
const LIMIT_MAX: usize = 100_000;

/// Most connections listed in order: a worker keeps them sorted between bursts.
const SORTED_MAX: usize = 1_000;

/// What becomes of a request.
enum Action {
    /// The outcome is known.
    Answer(Value),
    /// The outcome takes longer than the loop can wait.
    Later(Box<dyn FnOnce() -> Outcome + Send>),
    /// A change of the configuration.
    Change(Change),
    Connections(ConnectionsAsk),
    Pools,
    Neighbors,
    Announce,
    LastDrops(Option<DropReason>),
    Explain(FlowTuple),
    StartCapture(CaptureParams),
    ReadCapture(u32),
    EndCapture(u32),
}

type Params = Map<String, Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerName {
    service: String,
    server: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileParams {
    path: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ConnectionsParams {
    filter: String,
    client: Option<String>,
    client_port: Option<u16>,
    vip: Option<String>,
    vip_port: Option<u16>,
    local: Option<String>,
    local_port: Option<u16>,
    server: Option<String>,
    server_port: Option<u16>,
    protocol: Option<String>,
    state: Option<String>,
    sort: Option<Order>,
    limit: Option<usize>,
}

impl ConnectionsParams {
    /// All conditions as one text.
    fn filter(&self) -> String {
        let mut text = self.filter.clone();
        for (key, address, port) in [
            ("client", &self.client, self.client_port),
            ("vip", &self.vip, self.vip_port),
            ("local", &self.local, self.local_port),
            ("server", &self.server, self.server_port),
        ] {
            let address = address.as_deref().unwrap_or_default();
            match port {
                Some(port) => text.push_str(&format!(" {key} {address}:{port}")),
                None if !address.is_empty() => text.push_str(&format!(" {key} {address}")),
                None => {}
            }
        }
        for (key, value) in [("protocol", &self.protocol), ("state", &self.state)] {
            if let Some(value) = value {
                text.push_str(&format!(" {key} {value}"));
            }
        }
        text
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LastDropsParams {
    reason: Option<String>,
}

fn drop_reason(name: &str) -> Result<DropReason, Error> {
    let mut reasons = DropReason::ALL.iter().copied();
    let found = reasons.find(|reason| reason.name() == name);
    found.ok_or_else(|| {
        invalid(format!(
            "reason: there is no drop reason {name:?}; drops.list has them all"
        ))
    })
}

/// Takes a text out of parameters whose rest is a table of the configuration.
fn take_text(params: &mut Params, key: &str) -> Result<String, Error> {
    match params.remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(invalid(format!("{key}: is {other}; give a string"))),
        None => Err(invalid(format!("missing field `{key}`"))),
    }
}

fn later(job: impl FnOnce() -> Outcome + Send + 'static) -> Action {
    Action::Later(Box::new(job))
}

fn load(path: &Path) -> Result<Checked, Error> {
    Config::load_file(path).map_err(|problem| Error::failed(problem.to_string()))
}

/// What a reload would do if the file were `checked`.
fn diff(config: &Config, checked: &Checked) -> api::Diff {
    let restart = restart::needed(config, &checked.config);
    let mut differences = config.differences(&checked.config);
    for difference in &mut differences {
        let key = &difference.key;
        let is_port = key.starts_with("port[") && difference.change != "changed";
        difference.restart = is_port || restart.contains(key);
    }
    api::Diff {
        differences,
        restart,
        warnings: checked.warnings.iter().map(ToString::to_string).collect(),
    }
}

fn none(params: Params) -> Result<(), Error> {
    rpc::params::<NoParams>(params).map(|NoParams {}| ())
}

/// An edit by one of the functions of [`Config`].
fn edit<T: DeserializeOwned + Send + 'static>(
    params: Params,
    make: impl FnOnce(&Config, T) -> Result<Checked, Problem> + Send + 'static,
) -> Result<Action, Error> {
    let params: T = rpc::params(params)?;
    let edit = move |config: &Config| {
        make(config, params).map_err(|problem| Error::failed(problem.to_string()))
    };
    Ok(Action::Change(Change::edit(edit)))
}

impl api::Checked {
    /// What there is to say about a configuration that is right.
    pub fn of(checked: &Checked) -> Self {
        let services = &checked.config.services;
        Self {
            services: services.len(),
            servers: services.iter().map(|service| service.servers.len()).sum(),
            warnings: checked.warnings.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Management {
    /// Answers a request, or sees to it that it is answered.
    pub(super) fn execute(&mut self, call: Call, now: Instant) {
        let Call { request, reply } = call;
        let action = if self.stopping.is_some() {
            Err(Error::failed("fullgate is stopping"))
        } else {
            self.action(&request.method, request.params, now)
        };
        let deadline = now + PATIENCE;
        let reply = Some(reply);
        match action {
            Err(error) => super::answer(reply, Err(error)),
            Ok(Action::Answer(result)) => super::answer(reply, Ok(result)),
            Ok(Action::Later(job)) => self.answering.run(|| super::answer(reply, job())),
            Ok(Action::Change(change)) => self.queue_change(change, reply, now),
            Ok(Action::Connections(question)) => {
                self.connections.ask(Ask {
                    question,
                    reply,
                    deadline,
                });
            }
            Ok(Action::Pools) => self.pools.ask(Ask {
                question: (),
                reply,
                deadline,
            }),
            Ok(Action::Neighbors) => self.neighbors.ask(Ask {
                question: (),
                reply,
                deadline,
            }),
            Ok(Action::Announce) => {
                self.announce(u32::MAX);
                let addresses = self.state.snapshot().announced().len();
                super::answer(reply, Ok(value(&api::Announced { addresses })));
            }
            Ok(Action::LastDrops(question)) => self.last_drops.ask(Ask {
                question,
                reply,
                deadline,
            }),
            Ok(Action::Explain(question)) => self.flows.ask(Ask {
                question,
                reply,
                deadline,
            }),
            Ok(Action::StartCapture(params)) => self.start_capture(params, reply, now),
            Ok(Action::ReadCapture(id)) => self.read_capture(id, reply, now),
            Ok(Action::EndCapture(id)) => {
                let ended = self.end_capture(id);
                super::answer(reply, ended);
            }
        }
    }

    fn action(&self, method: &str, mut params: Params, now: Instant) -> Result<Action, Error> {
        match method {
            "connections.list" => {
                let params: ConnectionsParams = rpc::params(params)?;
                Ok(Action::Connections(self.connections_ask(&params)?))
            }
            "pools.list" => none(params).map(|()| Action::Pools),
            "neighbors.list" => none(params).map(|()| Action::Neighbors),
            "announce" => none(params).map(|()| Action::Announce),
            "drops.last" => {
                let LastDropsParams { reason } = rpc::params(params)?;
                let reason = reason.map(|name| drop_reason(&name)).transpose()?;
                Ok(Action::LastDrops(reason))
            }
            "flow.explain" => {
                let params: ExplainParams = rpc::params(params)?;
                params.tuple(self.state.snapshot()).map(Action::Explain)
            }
            "capture.start" => rpc::params(params).map(Action::StartCapture),
            "capture.read" => {
                let CaptureId { capture } = rpc::params(params)?;
                Ok(Action::ReadCapture(capture))
            }
            "capture.end" => {
                let CaptureId { capture } = rpc::params(params)?;
                Ok(Action::EndCapture(capture))
            }
            "service.add" => edit(params, |config, service: RawService| {
                config.add_service(service)
            }),
            "service.edit" => {
                let name = take_text(&mut params, "name")?;
                edit(params, move |config, keys: RawService| {
                    config.edit_service(&name, keys)
                })
            }
            "service.del" => edit(params, |config, Name { name }| config.del_service(&name)),
            "server.add" => {
                let service = take_text(&mut params, "service")?;
                edit(params, move |config, server: RawServer| {
                    config.add_server(&service, server)
                })
            }
            "server.edit" => {
                let service = take_text(&mut params, "service")?;
                let server = take_text(&mut params, "server")?;
                edit(params, move |config, keys: RawServer| {
                    config.edit_server(&service, &server, keys)
                })
            }
            "server.del" => edit(params, |config, ServerName { service, server }| {
                config.del_server(&service, &server)
            }),
            "server.drain" => Ok(Action::Change(self.drain(rpc::params(params)?, now)?)),
            "reload" => none(params).map(|()| Action::Change(self.reload())),
            "config.check" => {
                let FileParams { path } = rpc::params(params)?;
                Ok(later(move || Ok(value(&api::Checked::of(&load(&path)?)))))
            }
            "config.diff" => {
                let FileParams { path } = rpc::params(params)?;
                let config = self.state.shared_config();
                Ok(later(move || Ok(value(&diff(&config, &load(&path)?)))))
            }
            "config.get" => {
                none(params)?;
                let config = self.state.shared_config();
                let path = self.config_path.clone();
                Ok(later(move || {
                    Ok(value(&api::RunningConfig {
                        toml: config.to_toml(),
                        path: std::path::absolute(&path).unwrap_or(path),
                    }))
                }))
            }
            "services.list" => {
                none(params)?;
                let mut services = report::services(self.state.snapshot(), &self.stats);
                self.drains.show(&mut services, now);
                self.health.show(&mut services, &self.state, now);
                self.kernel.show(self.state.config(), &mut services);
                Ok(later(move || Ok(value(&services))))
            }
            _ => self.listing(method, params).map(Action::Answer),
        }
    }

    fn connections_ask(&self, params: &ConnectionsParams) -> Result<ConnectionsAsk, Error> {
        let max = params.sort.map_or(LIMIT_MAX, |_| SORTED_MAX);
        let limit = params.limit.unwrap_or(LIMIT);
        if !(1..=max).contains(&limit) {
            return Err(invalid(format!("limit: is {limit}; give 1 to {max}")));
        }
        Ok(ConnectionsAsk {
            filter: self.filter(&params.filter(), Purpose::Connections)?,
            limit,
            sort: params.sort,
        })
    }

    fn listing(&self, method: &str, params: Params) -> Outcome {
        if METHODS.contains(&method) {
            none(params)?;
        }
        let snapshot = self.state.snapshot();
        let uptime_ms = self.started.elapsed().as_millis() as u64;
        Ok(match method {
            "ping" => json!("pong"),
            "version" => value(&api::Version {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
                uptime_ms,
            }),
            "workers.list" => value(&report::workers(&self.stats, self.ports.len(), uptime_ms)),
            "ports.list" => value(&report::ports(
                snapshot,
                &self.stats,
                &self.ports,
                &|port| self.links.downs(port),
            )),
            "drops.list" => value(&report::drops(&self.stats)),
            _ => return Err(Error::unknown_method(method, &METHODS)),
        })
    }
}
