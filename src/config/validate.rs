//! From the file's form to valid values: the order of the whole, and the checks
//! that concern more than one part.

use super::problem::{Place, Problem};
use super::raw::RawConfig;
use super::{Announce, Checked, Config, Metrics, Runtime, demand, network, ports, services};
use crate::neighbor::room_for_residents;

/// Checks the whole; the first problem ends it.
pub(super) fn validate(raw: &RawConfig) -> Result<Checked, Problem> {
    let root = Place::Root;
    let mut warnings = Vec::new();
    let runtime = Runtime::from_raw(
        &root.key("runtime"),
        &raw.runtime.clone().unwrap_or_default(),
    )?;
    let metrics = Metrics::from_raw(
        &root.key("metrics"),
        &raw.metrics.clone().unwrap_or_default(),
        &mut warnings,
    )?;
    let announce = Announce::from_raw(
        &root.key("announce"),
        &raw.announce.clone().unwrap_or_default(),
    )?;
    let ports = ports::ports(
        &root,
        raw.port.as_deref().unwrap_or_default(),
        &mut warnings,
    )?;
    let routes = network::routes(&root, raw.route.as_deref().unwrap_or_default(), &ports)?;
    let pools = network::pools(
        &root,
        raw.pool.as_deref().unwrap_or_default(),
        &ports,
        &mut warnings,
    )?;
    let mut config = Config {
        runtime,
        metrics,
        announce,
        ports,
        routes,
        pools,
        services: Vec::new(),
    };
    ports::steering(&root, &config.ports, config.runtime.workers)?;
    floor_below_mtu(&root, raw, &config)?;
    demand::check_mbufs(&root, &config)?;
    config.services = services::services(
        &root,
        raw.service.as_deref().unwrap_or_default(),
        &config,
        &mut warnings,
    )?;
    room_for_next_hops(&root, &config)?;
    Ok(Checked { config, warnings })
}

/// A floor that is asked for is one that some packet can exceed.
fn floor_below_mtu(root: &Place<'_>, raw: &RawConfig, config: &Config) -> Result<(), Problem> {
    let given = raw
        .runtime
        .as_ref()
        .is_some_and(|runtime| runtime.min_path_mtu.is_some());
    let floor = config.runtime.min_path_mtu;
    let largest = config.ports.iter().map(|port| port.mtu).max();
    match largest {
        Some(largest) if given && floor > largest => {
            let at = root.key("runtime");
            Err(at.key("min-path-mtu").problem(format!(
                "is {floor}, but no port has a larger mtu than {largest}; give at most {largest}"
            )))
        }
        _ => Ok(()),
    }
}

/// All next hops that the configuration names have a place on every worker.
fn room_for_next_hops(root: &Place<'_>, config: &Config) -> Result<(), Problem> {
    let (named, slots) = (config.next_hops(), usize::from(config.runtime.neighbors));
    let room = room_for_residents(slots);
    if named <= room {
        return Ok(());
    }
    let wanted = 3 * named;
    let right = if wanted <= usize::from(u16::MAX) {
        format!("give at least {wanted}")
    } else {
        "put a router between fullgate and a part of them".to_owned()
    };
    Err(root.key("runtime").key("neighbors").problem(format!(
        "is {slots}, which has room for {room} next hops of the configuration, but it names {named} \
         (real servers and routers on the ports' networks); {right}"
    )))
}
