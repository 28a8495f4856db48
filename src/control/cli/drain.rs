//! `server drain`: waits for a server's last connection and tells what is left.

use std::io::Write;
use std::time::Duration;

use super::client::{CallError, Client};
use super::none;
use crate::control::api;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How far a drain is.
#[derive(PartialEq, Eq, Debug)]
enum Progress {
    Left(String),
    Done(String),
    Failed(String),
}

/// Writes a line whenever something has changed; the last one is the result.
pub(super) fn wait(client: &mut Client, service: &str, server: &str) -> Result<String, CallError> {
    let mut told = String::new();
    loop {
        let services: api::Services = client.get("services.list", &none())?;
        match progress(&services, service, server) {
            Progress::Left(line) => {
                if line != told {
                    // Whoever closed the pipe does not want to know.
                    let _ = std::io::stdout().write_all(line.as_bytes());
                    told = line;
                }
            }
            Progress::Done(line) => return Ok(line),
            Progress::Failed(line) => return Err(CallError::Failed(line)),
        }
        std::thread::sleep(INTERVAL);
    }
}

fn progress(services: &api::Services, service: &str, server: &str) -> Progress {
    let is_service = |found: &&api::Service| {
        found.name == service || format!("{}/{}", found.vip, found.protocol) == service
    };
    let found = services.services.iter().find(is_service);
    let found = found.and_then(|found| {
        let mut servers = found.servers.iter();
        servers.find(|found| found.name == server || found.address.to_string() == server)
    });
    let Some(found) = found else {
        return Progress::Done(format!("{server}: was removed\n"));
    };
    let left = found.active + found.inactive;
    match found.state.as_str() {
        "up" => Progress::Failed(format!("{server}: is up again; the drain was ended")),
        "down" => Progress::Done(format!(
            "{server}: the deadline is over; its connections are reset and it is down\n"
        )),
        _ if left == 0 => Progress::Done(format!("{server}: no connections left\n")),
        state => {
            let until = found.drain_ms.map_or_else(String::new, |ms| {
                let seconds = ms.div_ceil(1000);
                format!(
                    "; {}:{:02} until they are reset",
                    seconds / 60,
                    seconds % 60
                )
            });
            Progress::Left(format!(
                "{server}: {state}, {} active and {} ending connections left{until}\n",
                found.active, found.inactive
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(state: &str, active: u64, inactive: u64, drain_ms: Option<u64>) -> Progress {
        let services = json!({"services": [{
            "name": "web", "vip": "198.51.100.1:80", "protocol": "tcp", "scheduler": "wrr",
            "no_server": 0, "no_local_port": 0, "table_full": 0, "unknown_flow": 0,
            "syn_moved": 0, "idled_out": 0,
            "servers": [{
                "name": "a", "address": "10.0.0.1:8080", "weight": 1, "state": state,
                "active": active, "inactive": inactive, "connections": 9, "in_packets": 0,
                "out_packets": 0, "in_bytes": 0, "out_bytes": 0, "failures": 0,
                "drain_ms": drain_ms,
            }],
        }]});
        let services = serde_json::from_value(services).expect("services");
        let by_address = progress(&services, "198.51.100.1:80/tcp", "a");
        assert_eq!(progress(&services, "web", "a"), by_address);
        let gone = progress(&services, "web", "b");
        assert_eq!(gone, Progress::Done("b: was removed\n".into()));
        by_address
    }

    #[test]
    fn every_end_is_told() {
        let rows = [
            (
                told("draining", 3, 1, Some(61_001)),
                Progress::Left(
                    "a: draining, 3 active and 1 ending connections left; 1:02 until they are reset\n"
                        .into(),
                ),
            ),
            (
                told("draining", 0, 1, None),
                Progress::Left("a: draining, 0 active and 1 ending connections left\n".into()),
            ),
            (
                told("draining", 0, 0, Some(1)),
                Progress::Done("a: no connections left\n".into()),
            ),
            (
                told("down", 3, 0, None),
                Progress::Done(
                    "a: the deadline is over; its connections are reset and it is down\n".into(),
                ),
            ),
            (
                told("up", 3, 0, None),
                Progress::Failed("a: is up again; the drain was ended".into()),
            ),
        ];
        for (told, expected) in rows {
            assert_eq!(told, expected);
        }
    }
}
