//! What the admin socket says at one moment.

use crate::api;
use crate::cli::client::{CallError, Client};
use crate::cli::none;
use crate::config::Config;

/// All listings that the screen is made of.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Sample {
    pub(super) services: api::Services,
    pub(super) workers: api::Workers,
    pub(super) ports: api::Ports,
    pub(super) drops: api::Drops,
    pub(super) pools: api::Pools,
    /// Entries of each worker's connection table.
    pub(super) table: u64,
}

impl Sample {
    /// Asks for all of them. What can't have changed since `last` is taken from
    /// there.
    pub(super) fn take(client: &mut Client, last: Option<&Self>) -> Result<Self, CallError> {
        let table = match last {
            Some(last) => last.table,
            None => table(client)?,
        };
        Ok(Self {
            services: client.get("services.list", &none())?,
            drops: client.get("drops.list", &none())?,
            ports: client.get("ports.list", &none())?,
            pools: client.get("pools.list", &none())?,
            // Last: it has the time.
            workers: client.get("workers.list", &none())?,
            table,
        })
    }
}

/// The size of a worker's table: only a restart changes it.
fn table(client: &mut Client) -> Result<u64, CallError> {
    let running: api::RunningConfig = client.get("config.get", &none())?;
    let checked = Config::parse("the configuration in force", &running.toml);
    let checked = checked.map_err(|problem| CallError::Nonsense(problem.to_string()))?;
    Ok(checked.config.runtime.connections.into())
}
