//! Edits of a configuration in memory, for the admin socket. A request has the
//! form of the file's tables, as JSON. Each edit gives a new, validated
//! configuration or one problem, and leaves the old one as it was.

use std::collections::HashSet;

use serde::de::DeserializeOwned;

use super::problem::{Place, Problem, nearest};
use super::raw::{RawConfig, RawHealth, RawServer, RawService, RawTimeouts};
use super::{Checked, Config, Server, Service, validate};

/// Reads a request, such as a [`RawService`].
///
/// # Errors
/// An unknown key or a value of the wrong kind.
pub fn request<T: DeserializeOwned>(json: serde_json::Value) -> Result<T, Problem> {
    serde_json::from_value(json).map_err(|error| Problem::from_json(&error))
}

/// The position of the element with this name, or with this address.
fn position<'a>(
    kind: &str,
    wanted: &str,
    mut names: impl Iterator<Item = (&'a str, String)> + Clone,
) -> Result<usize, Problem> {
    let by_name = names.clone().position(|(name, _)| name == wanted);
    by_name
        .or_else(|| names.clone().position(|(_, address)| address == wanted))
        .ok_or_else(|| {
            let known: Vec<&str> = names.by_ref().map(|(name, _)| name).collect();
            let right = match nearest(wanted, &known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("give the name of a {kind} that exists"),
            };
            Problem::new(format!("there is no {kind} {wanted:?}; {right}"))
        })
}

impl Config {
    fn service_position(&self, name: &str) -> Result<usize, Problem> {
        let names = self.services.iter().map(|service| {
            let address = format!("{}/{}", service.vip, service.protocol.name());
            (service.name.as_str(), address)
        });
        position("service", name, names)
    }

    /// The service and its server that these names or addresses mean.
    ///
    /// # Errors
    /// There is no such service or server.
    pub fn find_server(&self, service: &str, server: &str) -> Result<(&Service, &Server), Problem> {
        let index = self.service_position(service)?;
        let service = &self.services[index];
        let server = service.server_position(index, server)?;
        Ok((service, &service.servers[server]))
    }

    /// Validates an edited form of the configuration. What is worth a warning
    /// in both was said when it came: only what is new is said again.
    fn checked(&self, edited: &RawConfig) -> Result<Checked, Problem> {
        let mut checked = validate::validate(edited)?;
        if !checked.warnings.is_empty()
            && let Ok(before) = validate::validate(&self.to_raw())
        {
            let said: HashSet<String> = before.warnings.iter().map(Problem::to_string).collect();
            checked
                .warnings
                .retain(|warning| !said.contains(&warning.to_string()));
        }
        Ok(checked)
    }

    /// Replaces one service by an edited form of it and validates the whole.
    fn with_service(
        &self,
        index: usize,
        edit: impl FnOnce(&Service, &mut RawService) -> Result<(), Problem>,
    ) -> Result<Checked, Problem> {
        let mut raw = self.to_raw();
        if let (Some(service), Some(raw)) = (
            self.services.get(index),
            raw.service
                .as_mut()
                .and_then(|services| services.get_mut(index)),
        ) {
            edit(service, raw)?;
        }
        self.checked(&raw)
    }

    /// With one more service.
    ///
    /// # Errors
    /// What is wrong with the service, or with the whole because of it.
    pub fn add_service(&self, service: RawService) -> Result<Checked, Problem> {
        let mut raw = self.to_raw();
        raw.service.get_or_insert_default().push(service);
        self.checked(&raw)
    }

    /// Without the service of this name (or `VIP:PORT/PROTOCOL`).
    ///
    /// # Errors
    /// There is none.
    pub fn del_service(&self, name: &str) -> Result<Checked, Problem> {
        let index = self.service_position(name)?;
        let mut raw = self.to_raw();
        if let Some(services) = &mut raw.service {
            services.remove(index);
        }
        self.checked(&raw)
    }

    /// With the service's keys that `edit` gives replaced; its list of servers
    /// too, if `edit` has one.
    ///
    /// # Errors
    /// There is no such service, or what is wrong with it then.
    pub fn edit_service(&self, name: &str, mut edit: RawService) -> Result<Checked, Problem> {
        let index = self.service_position(name)?;
        self.with_service(index, |_, raw| {
            if let Some(edited) = edit.timeouts.take() {
                raw.timeouts
                    .get_or_insert_with(RawTimeouts::default)
                    .merge(edited);
            }
            if let Some(edited) = edit.health.take() {
                raw.health
                    .get_or_insert_with(RawHealth::default)
                    .merge(edited);
            }
            raw.merge(edit);
            Ok(())
        })
    }

    /// With one more server in a service.
    ///
    /// # Errors
    /// There is no such service, or what is wrong with the server.
    pub fn add_server(&self, service: &str, server: RawServer) -> Result<Checked, Problem> {
        let index = self.service_position(service)?;
        self.with_service(index, |_, raw| {
            raw.server.get_or_insert_default().push(server);
            Ok(())
        })
    }

    /// Without a server, given by its name or address.
    ///
    /// # Errors
    /// There is no such service or server.
    pub fn del_server(&self, service: &str, server: &str) -> Result<Checked, Problem> {
        let index = self.service_position(service)?;
        self.with_service(index, |service, raw| {
            let index = service.server_position(index, server)?;
            if let Some(servers) = &mut raw.server {
                servers.remove(index);
            }
            Ok(())
        })
    }

    /// With the server's keys that `edit` gives replaced.
    ///
    /// # Errors
    /// There is no such service or server, or what is wrong with it then.
    pub fn edit_server(
        &self,
        service: &str,
        server: &str,
        edit: RawServer,
    ) -> Result<Checked, Problem> {
        let index = self.service_position(service)?;
        self.with_service(index, |service, raw| {
            let index = service.server_position(index, server)?;
            if let Some(server) = raw
                .server
                .as_mut()
                .and_then(|servers| servers.get_mut(index))
            {
                server.merge(edit);
            }
            Ok(())
        })
    }
}

impl Service {
    fn server_position(&self, index: usize, server: &str) -> Result<usize, Problem> {
        let names = self
            .servers
            .iter()
            .map(|server| (server.name.as_str(), server.address.to_string()));
        position("server", server, names).map_err(|problem| {
            let services = Place::Root;
            let services = services.key("service");
            services.item(index, &self.name).problem(problem.text())
        })
    }
}
