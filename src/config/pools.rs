//! Which pool the local addresses of a server come from: the configuration knows
//! by name, a snapshot by number.

use std::collections::HashMap;

use super::Config;
use crate::service::snapshot::{Server, Service, Snapshot};

/// The servers of the services that are configured, each with its service and
/// the name of the pool that its local addresses are from.
pub fn by_pool<'a>(
    config: &'a Config,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (&'a str, &'a Service, &'a Server)> {
    let pools: HashMap<&str, &str> = config
        .services
        .iter()
        .map(|service| (service.name.as_str(), service.pool.as_str()))
        .collect();
    snapshot.servers.iter().flatten().filter_map(move |server| {
        let service = snapshot.service(server.service)?;
        let pool = *pools.get(service.name.as_str())?;
        Some((pool, service, server))
    })
}
