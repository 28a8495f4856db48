//! Servers that are drained against a deadline. What drains is in the
//! configuration in force (`state = "draining"`); here is only until when.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Change, Management, PATIENCE};
use crate::api;
use crate::api::rpc::{Error, INVALID_PARAMS};
use crate::config::raw::RawServer;
use crate::config::{AdminState, Config, Protocol, Server, Service, duration};

/// Longest deadline.
const DEADLINE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// The parameters of `server.drain`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    service: String,
    server: String,
    /// Such as `10m`; without it, the drain has no end.
    deadline: Option<String>,
}

/// A server as it is known whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    vip: SocketAddrV4,
    protocol: Protocol,
    server: SocketAddrV4,
}

impl Target {
    fn find<'a>(&self, config: &'a Config) -> Option<(&'a Service, &'a Server)> {
        let service = config
            .services
            .iter()
            .find(|service| (service.vip, service.protocol) == (self.vip, self.protocol))?;
        let mut servers = service.servers.iter();
        let server = servers.find(|server| server.address == self.server)?;
        Some((service, server))
    }
}

/// Until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    target: Target,
    until: Option<Instant>,
}

/// All that have a deadline.
#[derive(Debug, Default)]
pub(super) struct Drains(Vec<Drain>);

impl Drains {
    /// A drain has begun; its deadline takes the place of an earlier one.
    pub(super) fn begin(&mut self, drain: Drain) {
        self.0.retain(|other| other.target != drain.target);
        if drain.until.is_some() {
            self.0.push(drain);
        }
    }

    /// Adds to a listing what is left until each deadline.
    pub(super) fn show(&self, services: &mut api::Services, now: Instant) {
        for Drain { target, until } in &self.0 {
            let protocol = target.protocol.name();
            let service = services
                .services
                .iter_mut()
                .find(|service| service.vip == target.vip && service.protocol == protocol);
            let server = service.and_then(|service| {
                let mut servers = service.servers.iter_mut();
                servers.find(|server| server.address == target.server)
            });
            if let (Some(server), Some(until)) = (server, until) {
                let left = until.saturating_duration_since(now);
                server.drain_ms = Some(left.as_millis() as u64);
            }
        }
    }
}

impl Management {
    /// The change that takes a server out of the choice of new connections.
    pub(super) fn drain(&self, params: Params, now: Instant) -> Result<Change, Error> {
        let wrong = |what: String| Error::new(INVALID_PARAMS, format!("deadline: {what}"));
        let after = params.deadline.as_deref().map(duration).transpose();
        let after = after.map_err(wrong)?;
        if after.is_some_and(|after| after > DEADLINE_MAX) {
            return Err(wrong("is too far away; give at most \"7d\"".into()));
        }
        let config = self.state.config();
        let (service, server) = config
            .find_server(&params.service, &params.server)
            .map_err(|problem| Error::failed(problem.to_string()))?;
        let target = Target {
            vip: service.vip,
            protocol: service.protocol,
            server: server.address,
        };
        Ok(Change {
            drain: Some(Drain {
                target,
                until: after.map(|after| now + after),
            }),
            ..set_state(target, AdminState::Draining)
        })
    }

    /// Takes down the servers whose deadline is over. Forgets those that are
    /// not draining any more, whoever changed that.
    pub(super) fn end_drains(&mut self, now: Instant) {
        let mut over = Vec::new();
        let config = self.state.config();
        self.drains.0.retain_mut(|drain| {
            let server = drain.target.find(config);
            let Some((service, server)) = server.filter(|(_, s)| s.state == AdminState::Draining)
            else {
                return false;
            };
            if drain.until.is_some_and(|until| now >= until) {
                let title = format!("service {}: server {}", service.name, server.name);
                over.push((drain.target, title));
                // Once more where no worker took it, as after a longer stall.
                drain.until = Some(now + 2 * PATIENCE);
            }
            true
        });
        for (target, title) in over {
            let line = format!("{title}: the drain's deadline is over; it goes down");
            self.notices.warn(line, now);
            self.queue_change(set_state(target, AdminState::Down), None, now);
        }
    }
}

fn set_state(target: Target, state: AdminState) -> Change {
    Change::edit(move |config| {
        let (service, server) = target
            .find(config)
            .ok_or_else(|| Error::failed("the server is not in the configuration any more"))?;
        // Somebody else may have had a say since this was asked for.
        let unfit = match state {
            AdminState::Down => server.state != AdminState::Draining,
            _ => server.state == AdminState::Down,
        };
        if unfit {
            return Err(Error::failed(format!(
                "service[{}].server[{}]: is {}, and does not go {} from there",
                service.name,
                server.name,
                server.state.name(),
                state.name()
            )));
        }
        let keys = RawServer {
            state: Some(state.name().into()),
            ..RawServer::default()
        };
        config
            .edit_server(&service.name, &server.address.to_string(), keys)
            .map_err(|problem| Error::failed(problem.to_string()))
    })
}
