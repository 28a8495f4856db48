//! What health checks say, as text for people.

use super::table::Align::{Left, Right};
use super::table::Table;
use crate::api;

/// What a listing of services says behind a server's name; nothing of one that
/// is up and has all of its weight.
pub(super) fn remark(server: &api::Server) -> String {
    let mut remarks = Vec::new();
    if server.state != "up" {
        remarks.push(server.state.clone());
    }
    match &server.health {
        Some(health) if !health.up => {
            let since = span(health.since_ms);
            remarks.push(match &health.reason {
                Some(reason) => format!("fails its checks for {since}: {reason}"),
                None => format!("not checked yet, for {since}"),
            });
        }
        Some(health) if health.share < 100 => {
            remarks.push(format!("slow start, {} %", health.share));
        }
        _ => {}
    }
    match remarks.is_empty() {
        true => String::new(),
        false => format!(" ({})", remarks.join(", ")),
    }
}

/// One line a server that is checked.
pub(super) fn table(result: &api::Services) -> String {
    let mut table = Table::new(&[
        ("service", Left),
        ("server", Left),
        ("check", Left),
        ("health", Left),
        ("for", Right),
        ("weight", Right),
        ("ok", Right),
        ("failed", Right),
        ("took", Right),
        ("last failure", Left),
    ]);
    for service in &result.services {
        for server in &service.servers {
            let Some(health) = &server.health else {
                continue;
            };
            let took = |us: u64| format!("{}.{} ms", us / 1_000, us % 1_000 / 100);
            let failure = match (&health.reason, health.failed_ms) {
                (Some(reason), Some(ms)) => format!("{} ago: {reason}", span(ms)),
                _ => String::new(),
            };
            table.row([
                service.name.clone(),
                server.name.clone(),
                format!("{} {}", health.check, health.address),
                if health.up { "up" } else { "down" }.into(),
                span(health.since_ms),
                format!("{} %", health.share),
                health.successes.to_string(),
                health.failures.to_string(),
                health.took_us.map_or_else(|| "-".into(), took),
                failure,
            ]);
        }
    }
    match table.is_empty() {
        true => "no health checks\n".into(),
        false => table.to_string(),
    }
}

/// A time in its two largest units.
fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let first = units.iter().position(|(unit, _)| seconds >= *unit);
    let Some(first) = first else {
        return "0s".into();
    };
    let mut rest = seconds;
    let mut text = String::new();
    for (unit, letter) in &units[first..units.len().min(first + 2)] {
        if rest >= *unit {
            text.push_str(&format!("{}{letter}", rest / unit));
            rest %= unit;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn services() -> api::Services {
        let server = |name: &str, state: &str, health: Value| {
            json!({
                "name": name, "address": "10.0.0.1:8080", "weight": 1, "state": state,
                "active": 0, "inactive": 0, "connections": 0, "in_packets": 0, "out_packets": 0,
                "in_bytes": 0, "out_bytes": 0, "failures": 0, "health": health,
            })
        };
        let health = |up: bool, reason: Value, share: u8| {
            json!({
                "check": "http", "address": "10.0.0.1:81", "up": up, "since_ms": 3_725_000,
                "reason": reason, "failed_ms": (!reason.is_null()).then_some(59_999),
                "successes": 70, "failures": 3, "unmade": 0, "took_us": 1_260, "share": share,
            })
        };
        let status = json!("HTTP status 503, not 200-399");
        let services = json!({"services": [{
            "name": "web", "vip": "198.51.100.1:80", "protocol": "tcp", "scheduler": "wrr",
            "no_server": 0, "no_local_port": 0, "table_full": 0, "unknown_flow": 0,
            "syn_moved": 0, "idled_out": 0, "health_ignored": false,
            "servers": [
                server("a", "up", health(true, Value::Null, 100)),
                server("b", "draining", health(false, status.clone(), 100)),
                server("c", "up", health(true, status, 35)),
                server("d", "down", health(false, Value::Null, 100)),
                server("e", "draining", Value::Null),
            ],
        }]});
        serde_json::from_value(services).expect("services")
    }

    #[test]
    fn remarks_say_what_is_unusual() {
        let services = services();
        let remarks: Vec<String> = services.services[0].servers.iter().map(remark).collect();
        let expected = [
            "",
            " (draining, fails its checks for 1h2m: HTTP status 503, not 200-399)",
            " (slow start, 35 %)",
            " (down, not checked yet, for 1h2m)",
            " (draining)",
        ];
        assert_eq!(remarks, expected);
    }

    #[test]
    fn health_is_a_table() {
        let expected = "\
service  server  check             health   for  weight  ok  failed    took  last failure
web      a       http 10.0.0.1:81  up      1h2m   100 %  70       3  1.2 ms
web      b       http 10.0.0.1:81  down    1h2m   100 %  70       3  1.2 ms  59s ago: HTTP status 503, not 200-399
web      c       http 10.0.0.1:81  up      1h2m    35 %  70       3  1.2 ms  59s ago: HTTP status 503, not 200-399
web      d       http 10.0.0.1:81  down    1h2m   100 %  70       3  1.2 ms
";
        assert_eq!(table(&services()), expected);
        let none = api::Services { services: vec![] };
        assert_eq!(table(&none), "no health checks\n");
    }

    #[test]
    fn spans_have_two_units() {
        let rows = [
            (999, "0s"),
            (61_000, "1m1s"),
            (3_600_000, "1h"),
            (90_061_000, "1d1h"),
        ];
        for (ms, expected) in rows {
            assert_eq!(span(ms), expected);
        }
    }
}
