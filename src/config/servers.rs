//! `[[service.server]]`.

use super::fields::{Unique, choice, name, number, parsed, required, unless, word};
use super::problem::{Place, Problem};
use super::raw::RawServer;
use super::units::parse_endpoint;
use super::{AdminState, Server};

const WEIGHT: u32 = 1;

const WEIGHT_MAX: u32 = 65_535;

const STATE: [(&str, AdminState); 3] = [
    (AdminState::Up.name(), AdminState::Up),
    (AdminState::Draining.name(), AdminState::Draining),
    (AdminState::Down.name(), AdminState::Down),
];

pub(super) fn servers(at: &Place<'_>, raw: &[RawServer]) -> Result<Vec<Server>, Problem> {
    let (mut names, mut addresses) = (Unique::new(), Unique::new());
    let mut servers = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let at = at.item(
            index,
            raw.name
                .as_deref()
                .or(raw.address.as_deref())
                .unwrap_or_default(),
        );
        let address_at = at.key("address");
        let address = required(
            &address_at,
            raw.address.as_ref(),
            "ADDRESS:PORT, such as \"10.0.1.1:8080\"",
        )?;
        let address = parsed(&address_at, address, parse_endpoint)?;
        let server = Server {
            name: match &raw.name {
                Some(given) => name(&at.key("name"), given)?.to_owned(),
                None => address.to_string(),
            },
            address,
            weight: number(&at.key("weight"), raw.weight, WEIGHT, 0..=WEIGHT_MAX)?,
            state: choice(&at.key("state"), raw.state.as_deref(), &STATE)?,
            health_address: raw
                .health_address
                .as_deref()
                .map(|text| parsed(&at.key("health-address"), text, parse_endpoint))
                .transpose()?,
        };
        names.claim(
            &at.key("name"),
            server.name.clone(),
            &format_args!("{:?}", server.name),
            "another server of the service",
        )?;
        addresses.claim(
            &address_at,
            address,
            &address,
            &format!("server {}", server.name),
        )?;
        servers.push(server);
    }
    Ok(servers)
}

impl Server {
    pub(super) fn to_raw(&self) -> RawServer {
        RawServer {
            name: unless(&self.name, &self.address.to_string(), String::clone),
            address: Some(self.address.to_string()),
            weight: unless(self.weight, WEIGHT, i64::from),
            state: word(self.state, &STATE),
            health_address: self.health_address.map(|address| address.to_string()),
        }
    }
}
