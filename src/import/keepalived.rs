//! `keepalived.conf`: the virtual servers of it, also in the dialect of DPVS.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::checks::{self, SETTINGS, is_check};
use super::ipvsadm::persistence;
use super::syntax::{Statement, statements};
use super::{Draft, Forwarding, Handle, Imported};
use crate::config::Protocol;

/// Addresses of a range in a group at most.
const RANGE_MAX: u32 = 256;

/// Reads a `keepalived.conf`.
pub fn keepalived(text: &str) -> Imported {
    let mut draft = Draft::default();
    let all = statements(text, &mut draft);
    let named = |kind: &str| -> HashMap<&str, &Statement> {
        let of_kind = all.iter().filter(|statement| statement.key() == kind);
        of_kind
            .map(|statement| (statement.word(1), statement))
            .collect()
    };
    let (groups, locals) = (named("virtual_server_group"), named("local_address_group"));
    for statement in &all {
        match statement.key() {
            "virtual_server" => virtual_server(&mut draft, statement, &groups, &locals),
            "virtual_server_group" | "local_address_group" => {}
            key => {
                let text = left_out(key, statement);
                draft.note(statement.line, text);
            }
        }
    }
    draft.finish("keepalived")
}

/// Why a statement outside of virtual servers is not carried over.
fn left_out(key: &str, statement: &Statement) -> String {
    if key.starts_with("include") {
        return format!(
            "{key} {} left out: import that file on its own",
            statement.word(1)
        );
    }
    if key.starts_with(['$', '@', '~']) {
        return format!("{key:?} left out: definitions and conditions are not evaluated");
    }
    if key.starts_with("vrrp") {
        return format!(
            "{key} left out: fullgate has no VRRP; it answers for its addresses itself"
        );
    }
    format!("{key} left out")
}

fn virtual_server(
    draft: &mut Draft,
    statement: &Statement,
    groups: &HashMap<&str, &Statement>,
    locals: &HashMap<&str, &Statement>,
) {
    let line = statement.line;
    let value = |keys: [&str; 2]| {
        let found = statement.children().iter();
        found
            .rev()
            .find(|inner| keys.contains(&inner.key()))
            .map(|inner| inner.word(1))
    };
    let protocol = match value(["protocol", ""]).unwrap_or("TCP") {
        "TCP" | "tcp" => Protocol::Tcp,
        "UDP" | "udp" => Protocol::Udp,
        other => {
            return draft.note(
                line,
                format!("virtual_server left out: protocol {other} is not forwarded"),
            );
        }
    };
    let scheduler = value(["lb_algo", "lvs_sched"]);
    let vips = vips(draft, statement, groups);
    let services: Vec<(Handle, String)> = vips
        .into_iter()
        .filter_map(|(line, vip)| {
            let service = draft.service(line, &vip, protocol, scheduler)?;
            let (_, port) = vip.rsplit_once(':')?;
            Some((service, port.to_owned()))
        })
        .collect();
    if services.is_empty() {
        return;
    }
    for inner in statement.children() {
        match inner.key() {
            "protocol" | "lb_algo" | "lvs_sched" | "lb_kind" | "lvs_method" | "real_server" => {}
            "laddr_group_name" => local_addresses(draft, inner, &services, locals),
            key if SETTINGS.contains(&key) && has_checks(statement) => {}
            key => {
                let text = setting(key, inner);
                draft.note(inner.line, text);
            }
        }
    }
    let kind = value(["lb_kind", "lvs_method"]);
    let servers = statement.children().iter();
    for server in servers.filter(|inner| inner.key() == "real_server") {
        real_server(draft, server, statement, kind, &services);
    }
}

/// Whether a server of it has a check that is carried over.
fn has_checks(statement: &Statement) -> bool {
    let mut servers = statement.children().iter();
    servers.any(|server| {
        let mut inner = server.children().iter();
        server.key() == "real_server" && inner.any(|inner| is_check(inner.key()))
    })
}

/// The addresses of a virtual server and the lines they stand on.
fn vips(
    draft: &mut Draft,
    statement: &Statement,
    groups: &HashMap<&str, &Statement>,
) -> Vec<(usize, String)> {
    let line = statement.line;
    match (statement.word(1), statement.word(2)) {
        ("fwmark", mark) => {
            draft.note(line, fwmark(mark));
            Vec::new()
        }
        ("group", name) => {
            let Some(group) = groups.get(name) else {
                draft.note(
                    line,
                    format!("virtual_server left out: there is no group {name:?}"),
                );
                return Vec::new();
            };
            let mut vips = Vec::new();
            for member in group.children() {
                match (member.key(), member.word(1)) {
                    ("fwmark", mark) => draft.note(member.line, fwmark(mark)),
                    (address, port) => {
                        for address in addresses(draft, member.line, address) {
                            vips.push((member.line, with_port(&address, port)));
                        }
                    }
                }
            }
            vips
        }
        (address, port) => vec![(line, with_port(address, port))],
    }
}

fn fwmark(mark: &str) -> String {
    format!(
        "fwmark {mark} left out: services are addresses and ports; write a [[service]] for each \
         one that gets this mark"
    )
}

/// Without a port LVS forwards all of them; that becomes port 0, which is then
/// refused.
fn with_port(address: &str, port: &str) -> String {
    let port = if port.is_empty() { "0" } else { port };
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

/// The addresses of `10.0.0.1-5`: the last byte runs.
fn addresses(draft: &mut Draft, line: usize, text: &str) -> Vec<String> {
    let range = text.split_once('-').and_then(|(first, last)| {
        let first: Ipv4Addr = first.parse().ok()?;
        let last: u8 = last.parse().ok()?;
        let [a, b, c, _] = first.octets();
        Some((first, Ipv4Addr::new(a, b, c, last)))
    });
    let Some((first, last)) = range else {
        return vec![text.to_owned()];
    };
    let range = u32::from(first)..=u32::from(last);
    if range.is_empty() {
        draft.note(line, format!("{text} left out: it runs backwards"));
    }
    range
        .take(RANGE_MAX as usize)
        .map(|bits| Ipv4Addr::from(bits).to_string())
        .collect()
}

/// The local addresses of DPVS: a group of them, each with its interface.
fn local_addresses(
    draft: &mut Draft,
    statement: &Statement,
    services: &[(Handle, String)],
    groups: &HashMap<&str, &Statement>,
) {
    let name = statement.word(1);
    let Some(group) = groups.get(name) else {
        return draft.note(
            statement.line,
            format!("there is no local_address_group {name:?}"),
        );
    };
    for member in group.children() {
        for address in addresses(draft, member.line, member.key()) {
            for (service, _) in services {
                draft.locals(member.line, *service, &address);
            }
        }
    }
}

/// Why a setting of a virtual or real server is not carried over.
fn setting(key: &str, statement: &Statement) -> String {
    let given = statement.words.join(" ");
    match key {
        "persistence_timeout" => persistence(statement.word(1)),
        "sorry_server" => {
            format!("{given} left out: without a server, connections are reset at once")
        }
        "ops" => "one-packet scheduling left out: datagrams of one client port stay at one server \
                  until timeouts.udp"
            .into(),
        "delay_loop" | "retry" | "connect_timeout" | "virtualhost" => {
            format!("{given} left out: no server has a check that is carried over")
        }
        "inhibit_on_failure" => {
            "inhibit_on_failure left out: a server that fails keeps its connections".into()
        }
        _ if key.ends_with("_CHECK") => {
            format!("{key} left out: checks are \"tcp\", \"http\", \"https\", \"udp\" and \"icmp\"")
        }
        _ => format!("{given} left out"),
    }
}

fn real_server(
    draft: &mut Draft,
    statement: &Statement,
    service: &Statement,
    kind: Option<&str>,
    services: &[(Handle, String)],
) {
    let line = statement.line;
    let check = checks::read(draft, statement, service);
    let (mut weight, mut kind) = (1, kind.unwrap_or("NAT"));
    for inner in statement.children() {
        match inner.key() {
            "weight" => match inner.word(1).parse() {
                Ok(given) => weight = given,
                Err(_) => draft.note(inner.line, "the weight is no number; it becomes 1"),
            },
            "lb_kind" | "lvs_method" => kind = inner.word(1),
            key if is_check(key) => {}
            key if SETTINGS.contains(&key) && check.is_some() => {}
            key => {
                let text = setting(key, inner);
                draft.note(inner.line, text);
            }
        }
    }
    let forwarding = match kind {
        "NAT" => Forwarding::Nat,
        "DR" => Forwarding::DirectRouting,
        "TUN" => Forwarding::Tunnel,
        "FNAT" | "FULLNAT" => Forwarding::FullNat,
        other => {
            draft.note(line, format!("lb_kind {other} becomes FULLNAT"));
            Forwarding::FullNat
        }
    };
    for (service, vip_port) in services {
        let port = match statement.word(2) {
            "" => vip_port,
            port => port,
        };
        let address = with_port(statement.word(1), port);
        draft.server(line, *service, &address, weight, forwarding);
        if let Some(check) = &check {
            draft.check(*service, &address, check);
        }
    }
}
