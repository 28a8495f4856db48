//! `server drain`: waits for a server's last connection and tells what is left.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::client::{CallError, Client};
use super::none;
use crate::api;

/// Columns of the bar.
const BAR: usize = 20;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How far a drain is.
#[derive(PartialEq, Eq, Debug)]
enum Progress {
    /// So many connections.
    Left(u64, String),
    Done(String),
    Failed(String),
}

/// Writes a line whenever something has changed, on a terminal in place of the
/// last one; the last one is the result.
pub(super) fn wait(client: &mut Client, service: &str, server: &str) -> Result<String, CallError> {
    let mut out = std::io::stdout();
    let on_terminal = out.is_terminal();
    let (mut told, mut most) = (String::new(), 0);
    // Whoever closed the pipe does not want to know.
    let mut write = |text: &str| {
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    loop {
        let services: api::Services = client.get("services.list", &none())?;
        match progress(&services, service, server) {
            Progress::Left(left, line) => {
                most = left.max(most);
                let line = format!("{line} {}", bar(most - left, most));
                if line != told {
                    match on_terminal {
                        // To the begin of the line, and clear it.
                        true => write(&format!("\r\x1b[K{line}")),
                        false => write(&format!("{line}\n")),
                    }
                    told = line;
                }
            }
            end => {
                if on_terminal && !told.is_empty() {
                    write("\n");
                }
                return match end {
                    Progress::Done(line) => Ok(line),
                    Progress::Failed(line) | Progress::Left(_, line) => {
                        Err(CallError::Failed(line))
                    }
                };
            }
        }
        std::thread::sleep(INTERVAL);
    }
}

/// How many of those that were seen are gone.
fn bar(gone: u64, most: u64) -> String {
    let percent = gone * 100 / most.max(1);
    let filled = percent as usize * BAR / 100;
    format!(
        "[{}{}] {percent} %",
        "#".repeat(filled),
        " ".repeat(BAR - filled)
    )
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
            let line = format!(
                "{server}: {state}, {} active and {} ending connections left{until}",
                found.active, found.inactive
            );
            Progress::Left(left, line)
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
                    4,
                    "a: draining, 3 active and 1 ending connections left; 1:02 until they are reset"
                        .into(),
                ),
            ),
            (
                told("draining", 0, 1, None),
                Progress::Left(
                    1,
                    "a: draining, 0 active and 1 ending connections left".into(),
                ),
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

    #[test]
    fn the_bar_is_full_when_all_are_gone() {
        assert_eq!(bar(0, 4), format!("[{}] 0 %", " ".repeat(BAR)));
        assert_eq!(bar(3, 4), "[###############     ] 75 %");
        assert_eq!(bar(4, 4), format!("[{}] 100 %", "#".repeat(BAR)));
        assert_eq!(bar(0, 0), bar(0, 1));
    }
}
