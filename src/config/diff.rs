//! What would change from one configuration to another, key by key. Services
//! and servers are the same where their addresses are, as everywhere else.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Config, Port, Service};
use crate::api::Difference;

type Fields = Map<String, Value>;

/// One of a list of tables: what tells it from the others, its place in the
/// configuration, and its keys.
struct Item {
    id: String,
    place: String,
    fields: Fields,
}

/// The keys that are given.
fn fields(raw: impl Serialize) -> Fields {
    match serde_json::to_value(raw) {
        Ok(Value::Object(fields)) => fields,
        _ => Fields::new(),
    }
}

fn item(id: String, place: String, raw: impl Serialize) -> Item {
    let fields = fields(raw);
    Item { id, place, fields }
}

impl Config {
    /// What a change to `new` would change, in the order of the file. Keys
    /// without a value have their default.
    pub fn differences(&self, new: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let runtimes = [self, new].map(|config| fields(config.runtime.to_raw()));
        keys(&mut found, "runtime", &runtimes[0], &runtimes[1]);
        let metrics = [self, new].map(|config| fields(config.metrics.to_raw()));
        keys(&mut found, "metrics", &metrics[0], &metrics[1]);
        let announce = [self, new].map(|config| fields(config.announce.to_raw()));
        keys(&mut found, "announce", &announce[0], &announce[1]);
        let lists: [fn(&Self) -> Vec<Item>; 4] = [
            Self::port_items,
            Self::route_items,
            Self::pool_items,
            Self::service_items,
        ];
        for list in lists {
            items(&mut found, &list(self), &list(new));
        }
        found
    }

    fn port_items(&self) -> Vec<Item> {
        let of = |port: &Port| {
            item(
                port.name.clone(),
                format!("port[{}]", port.name),
                port.to_raw(),
            )
        };
        self.ports.iter().map(of).collect()
    }

    fn route_items(&self) -> Vec<Item> {
        let routes = self.routes.iter();
        routes
            .map(|route| {
                let id = format!("{} via {}", route.to, route.via);
                item(id.clone(), format!("route[{id}]"), route.to_raw())
            })
            .collect()
    }

    fn pool_items(&self) -> Vec<Item> {
        let pools = self.pools.iter();
        pools
            .map(|pool| {
                item(
                    pool.name.clone(),
                    format!("pool[{}]", pool.name),
                    pool.to_raw(),
                )
            })
            .collect()
    }

    /// Each service, followed by its servers.
    fn service_items(&self) -> Vec<Item> {
        self.services.iter().flat_map(Service::items).collect()
    }
}

impl Service {
    fn items(&self) -> Vec<Item> {
        let id = format!("{}/{}", self.vip, self.protocol.name());
        let place = format!("service[{}]", self.name);
        let mut service = item(id.clone(), place.clone(), self.to_raw());
        service.fields.remove("server");
        let servers = self.servers.iter().map(|server| {
            let id = format!("{id} {}", server.address);
            item(
                id,
                format!("{place}.server[{}]", server.name),
                server.to_raw(),
            )
        });
        std::iter::once(service).chain(servers).collect()
    }
}

/// What was removed, then in the new order what was changed or added.
fn items(found: &mut Vec<Difference>, old: &[Item], new: &[Item]) {
    let whole = |change: &str, item: &Item, from, to| Difference {
        change: change.into(),
        key: item.place.clone(),
        from,
        to,
        restart: false,
    };
    let value = |item: &Item| Some(Value::Object(item.fields.clone()));
    let known: HashSet<&str> = new.iter().map(|item| item.id.as_str()).collect();
    for gone in old.iter().filter(|item| !known.contains(item.id.as_str())) {
        found.push(whole("removed", gone, value(gone), None));
    }
    let former: HashMap<&str, &Item> = old.iter().map(|item| (item.id.as_str(), item)).collect();
    for item in new {
        match former.get(item.id.as_str()) {
            Some(old) => keys(found, &old.place, &old.fields, &item.fields),
            None => found.push(whole("added", item, None, value(item))),
        }
    }
}

/// The keys of one table whose values differ.
fn keys(found: &mut Vec<Difference>, place: &str, old: &Fields, new: &Fields) {
    if old == new {
        return;
    }
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (from, to) = (old.get(name), new.get(name));
        let key = format!("{place}.{name}");
        match (from, to) {
            _ if from == to => {}
            (Some(Value::Object(_)), _) | (_, Some(Value::Object(_))) => {
                let none = Fields::new();
                let table = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
                let [from, to] = [from, to].map(|value| table(value).unwrap_or(none.clone()));
                keys(found, &key, &from, &to);
            }
            _ => found.push(Difference {
                change: "changed".into(),
                key,
                from: from.cloned(),
                to: to.cloned(),
                restart: false,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[[port]]
name = "wan"
device = "tap:fg0"
addresses = ["10.0.0.1/24"]
gateway = "10.0.0.254"

[[pool]]
name = "default"
addresses = ["10.0.0.10"]

[[service]]
name = "web"
vip = "10.0.0.100:80"

[[service.server]]
name = "a"
address = "10.0.0.101:80"

[[service.server]]
name = "b"
address = "10.0.0.102:80"
"#;

    fn config(text: &str) -> Config {
        let checked = Config::parse("f", text).unwrap_or_else(|problem| panic!("{problem}"));
        checked.config
    }

    /// What differs after a replacement: change, key, and both values.
    fn said(from: &str, to: &str) -> Vec<String> {
        assert!(FILE.contains(from), "{from:?}");
        let new = config(&FILE.replacen(from, to, 1));
        let line = |difference: Difference| {
            let value = |value: Option<Value>| value.map_or("-".into(), |value| value.to_string());
            let (from, to) = (value(difference.from), value(difference.to));
            format!("{} {}: {from} {to}", difference.change, difference.key)
        };
        let found = config(FILE).differences(&new);
        found.into_iter().map(line).collect()
    }

    #[test]
    fn rows() {
        let other = "[[service]]\nname = \"dns\"\nvip = \"10.0.0.100:53\"\nprotocol = \"udp\"\n";
        let rows: [(&str, &str, &[&str]); 11] = [
            ("name = \"wan\"", "name = \"wan\" # a comment", &[]),
            (
                "[[port]]",
                "[runtime]\nworkers = 2\n[[port]]",
                &["changed runtime.workers: - 2"],
            ),
            (
                "[[port]]",
                "[metrics]\nlisten = \"127.0.0.1:9091\"\n[[port]]",
                &["changed metrics.listen: - \"127.0.0.1:9091\""],
            ),
            (
                "gateway = \"10.0.0.254\"",
                "",
                &["changed port[wan].gateway: \"10.0.0.254\" -"],
            ),
            (
                "[[pool]]",
                "[[route]]\nto = \"10.9.0.0/16\"\nvia = \"10.0.0.9\"\n[[pool]]",
                &[
                    "added route[10.9.0.0/16 via 10.0.0.9]: - {\"to\":\"10.9.0.0/16\",\"via\":\"10.0.0.9\"}",
                ],
            ),
            (
                "10.0.0.10\"]",
                "10.0.0.11\"]",
                &["changed pool[default].addresses: [\"10.0.0.10\"] [\"10.0.0.11\"]"],
            ),
            (
                "vip = \"10.0.0.100:80\"",
                "vip = \"10.0.0.100:80\"\n[service.timeouts]\nudp = \"3m\"",
                &["changed service[web].timeouts.udp: - \"3m\""],
            ),
            (
                "name = \"web\"",
                "name = \"www\"",
                &["changed service[web].name: \"web\" \"www\""],
            ),
            (
                "address = \"10.0.0.102:80\"",
                "address = \"10.0.0.103:80\"",
                &[
                    "removed service[web].server[b]: {\"address\":\"10.0.0.102:80\",\"name\":\"b\"} -",
                    "added service[web].server[b]: - {\"address\":\"10.0.0.103:80\",\"name\":\"b\"}",
                ],
            ),
            (
                "address = \"10.0.0.102:80\"",
                "address = \"10.0.0.102:80\"\nweight = 1\nstate = \"draining\"",
                &["changed service[web].server[b].state: - \"draining\""],
            ),
            (
                "[[service]]",
                &format!("{other}[[service]]"),
                &[
                    "added service[dns]: - {\"name\":\"dns\",\"pool\":\"default\",\"protocol\":\"udp\",\"vip\":\"10.0.0.100:53\"}",
                ],
            ),
        ];
        for (from, to, expected) in rows {
            assert_eq!(said(from, to), expected, "{to}");
        }
    }
}
