//! Conditions the workers report, as log lines that cannot flood a log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::neighbors::port_name;
use crate::ids::{ServerIx, WorkerIx};
use crate::service::snapshot::Snapshot;
use crate::worker::message::Notice;

/// The same line is not written again within this.
const QUIET: Duration = Duration::from_secs(10);

/// Lines remembered before old ones are forgotten.
const REMEMBERED: usize = 1024;

/// Which lines were written when.
#[derive(Debug, Default)]
pub(super) struct NoticeLog(HashMap<String, Instant>);

impl NoticeLog {
    /// Writes a line, unless it was written a moment ago. Whether it was.
    pub(super) fn warn(&mut self, line: String, now: Instant) -> bool {
        let is_recent = |written: &Instant| now.saturating_duration_since(*written) < QUIET;
        if self.0.get(&line).is_some_and(is_recent) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, written| is_recent(written));
        }
        log::warn!("{line}");
        self.0.insert(line, now);
        true
    }
}

/// A real server as operators know it.
pub(super) fn server_title(snapshot: &Snapshot, server: ServerIx) -> String {
    let Some(found) = snapshot.server(server) else {
        return "a server that is no longer configured".into();
    };
    let service = snapshot
        .service(found.service)
        .map_or("?", |service| &service.name);
    format!(
        "service {service}: server {} ({}:{})",
        found.name, found.addr, found.port
    )
}

/// A notice as one line.
pub(super) fn line(snapshot: &Snapshot, worker: WorkerIx, notice: Notice) -> String {
    match notice {
        Notice::NoLocalPort(server) => {
            format!(
                "{}: all local ports are in use",
                server_title(snapshot, server)
            )
        }
        Notice::TableFull => format!("worker {worker}: the connection table is full"),
        Notice::NoServer(service) => {
            let name = snapshot
                .service(service)
                .map_or("?", |service| &service.name);
            format!("service {name}: no usable real server")
        }
        Notice::NextHopSilent(hop) => format!(
            "port {}: {} does not answer ARP; what is for it, or goes through it, is not sent",
            port_name(snapshot, hop.port),
            hop.addr
        ),
        Notice::NextHopAnswers(hop) => format!(
            "port {}: {} answers ARP again",
            port_name(snapshot, hop.port),
            hop.addr
        ),
        Notice::AddressClaimed(hop, mac) => format!(
            "port {}: {mac} claims {}, which is an address of this gateway; find that machine and give it another",
            port_name(snapshot, hop.port),
            hop.addr
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_not_repeated_at_once() {
        let mut log = NoticeLog::default();
        let now = Instant::now();
        assert!(log.warn("a".into(), now));
        assert!(!log.warn("a".into(), now + QUIET / 2));
        assert!(log.warn("b".into(), now));
        assert!(log.warn("a".into(), now + QUIET));
    }

    #[test]
    fn memory_is_bounded() {
        let mut log = NoticeLog::default();
        let start = Instant::now();
        for i in 0..10 * REMEMBERED as u32 {
            log.warn(format!("line {i}"), start + QUIET * i);
        }
        assert!(log.0.len() <= REMEMBERED);
    }
}
