//! Next hops: what workers tell each other of ARP, ports whose link came up, and
//! the list for operators. Part of the management loop.
//!
//! Hosts on the network decide how much ARP there is, so all of it is bounded:
//! an answer that a worker did not ask for is passed on only where another one
//! did, and nothing is kept for longer than it takes to find that out.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::Management;
use crate::api;
use crate::ids::{PortIx, ServerIx, WorkerIx};
use crate::service::route::NextHop;
use crate::service::snapshot::Snapshot;
use crate::stats::readings::PortStatus;
use crate::worker::message::{ArpNews, Command, Learned, NeighborFound, Notice};

/// Questions that are remembered, the last ones.
const ASKED: usize = 4_096;

/// Answers that nobody has asked for so far, the last ones.
const OVERHEARD: usize = 64;

/// How old such an answer may be when the question comes: two workers' messages
/// may overtake each other by a round or two of the loop.
const OVERHEARD_FOR: Duration = Duration::from_millis(50);

/// Between two looks at the ports' links.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// News of one worker that are taken before the loop goes on.
const NEWS_PER_STEP: usize = 1_024;

/// Whom to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum To {
    AllBut(WorkerIx),
    Only(WorkerIx),
}

/// Brings answers to the workers that want them.
#[derive(Debug, Default)]
pub(super) struct Relay {
    asked: HashSet<NextHop>,
    /// The same, in order.
    order: VecDeque<NextHop>,
    overheard: VecDeque<(Learned, Instant)>,
}

impl Relay {
    /// What is to be told to whom.
    pub(super) fn take(
        &mut self,
        from: WorkerIx,
        news: ArpNews,
        now: Instant,
    ) -> Option<(Learned, To)> {
        match news {
            ArpNews::Learned(learned) => Some((learned, To::AllBut(from))),
            ArpNews::Asked(hop) => {
                if self.asked.insert(hop) {
                    self.order.push_back(hop);
                    if self.order.len() > ASKED
                        && let Some(oldest) = self.order.pop_front()
                    {
                        self.asked.remove(&oldest);
                    }
                }
                let answers = |(learned, at): &&(Learned, Instant)| {
                    learned.hop == hop && now.saturating_duration_since(*at) <= OVERHEARD_FOR
                };
                let (learned, _) = self.overheard.iter().rev().find(answers)?;
                Some((*learned, To::Only(from)))
            }
            ArpNews::Overheard(learned) if self.asked.contains(&learned.hop) => {
                Some((learned, To::AllBut(from)))
            }
            ArpNews::Overheard(learned) => {
                if self.overheard.len() == OVERHEARD {
                    self.overheard.pop_front();
                }
                self.overheard.push_back((learned, now));
                None
            }
        }
    }
}

/// A port as it was last seen.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    up: bool,
    /// How often the link went down.
    downs: u64,
    removal_asked: bool,
}

/// What became of a port since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Up,
    Down,
    RemovalAsked,
}

/// The ports' links as they were last seen.
#[derive(Debug, Default)]
pub(super) struct Links {
    seen: Vec<Seen>,
    looked: Option<Instant>,
}

impl Links {
    /// What has changed since the last look.
    fn look(&mut self, ports: &[Arc<dyn PortStatus>], now: Instant) -> Vec<(PortIx, Change)> {
        let is_due = self
            .looked
            .is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY);
        let mut changes = Vec::new();
        if !is_due {
            return changes;
        }
        self.looked = Some(now);
        self.seen.resize(ports.len(), Seen::default());
        for (ix, (port, seen)) in (0..).map(PortIx).zip(ports.iter().zip(&mut self.seen)) {
            let is_up = port.link_up();
            if is_up != seen.up {
                seen.up = is_up;
                seen.downs += u64::from(!is_up);
                changes.push((ix, if is_up { Change::Up } else { Change::Down }));
            }
            if !seen.removal_asked && port.removal_asked() {
                seen.removal_asked = true;
                changes.push((ix, Change::RemovalAsked));
            }
        }
        changes
    }

    /// How often the port's link went down.
    pub(super) fn downs(&self, port: PortIx) -> u64 {
        self.seen.get(port.ix()).map_or(0, |seen| seen.downs)
    }
}

impl Management {
    /// Passes on what the workers heard, a portion of it.
    pub(super) fn relay_arp(&mut self, now: Instant) {
        for from in 0..self.workers.len() {
            for _ in 0..NEWS_PER_STEP {
                let Some(news) = self.workers[from].heard() else {
                    break;
                };
                let Some((learned, to)) = self.relay.take(WorkerIx(from as u8), news, now) else {
                    continue;
                };
                for (ix, worker) in self.workers.iter().enumerate() {
                    let wanted = match to {
                        To::AllBut(from) => from.ix() != ix,
                        To::Only(asker) => asker.ix() == ix,
                    };
                    if wanted {
                        worker.tell_learned(learned);
                    }
                }
            }
        }
    }

    /// Has our addresses announced on ports whose link came up.
    pub(super) fn watch_links(&mut self, now: Instant) {
        let changes = self.links.look(&self.ports, now);
        let snapshot = self.state.snapshot();
        let mut bits = 0;
        for (port, change) in changes {
            let name = port_name(snapshot, port);
            match change {
                Change::Down => warn!("port {name}: the link is down"),
                Change::Up => {
                    bits |= 1 << port.0;
                    // Who was told that it went is told that it is back.
                    match self.links.downs(port) {
                        0 => info!("port {name}: the link is up"),
                        _ => warn!("port {name}: the link is up again"),
                    }
                }
                Change::RemovalAsked => warn!(
                    "port {name}: its device is asked back; fullgate keeps it until it is stopped"
                ),
            }
        }
        if bits != 0 {
            self.announce(bits);
        }
    }

    /// Has all our addresses announced on these ports.
    pub(super) fn announce(&mut self, ports: u32) {
        // One worker does it for all.
        if let Some(worker) = self.workers.first_mut() {
            worker.send(Command::Announce(ports));
        }
    }
}

/// Configured next hops that do not answer, as the workers say.
#[derive(Debug, Default)]
pub(super) struct Silent(HashSet<NextHop>);

impl Silent {
    /// Follows what a worker tells.
    pub(super) fn note(&mut self, notice: Notice, snapshot: &Snapshot) {
        match notice {
            Notice::NextHopSilent(hop) => {
                self.0
                    .retain(|hop| snapshot.next_hops().binary_search(hop).is_ok());
                self.0.insert(hop);
            }
            Notice::NextHopAnswers(hop) => {
                self.0.remove(&hop);
            }
            _ => {}
        }
    }

    /// Why a server can't accept connections, if it is not the server's fault
    /// alone: the way there ends before it.
    pub(super) fn why(&self, snapshot: &Snapshot, server: ServerIx) -> String {
        let hop = snapshot
            .server(server)
            .and_then(|server| snapshot.routes.lookup(server.addr));
        match hop.filter(|hop| self.0.contains(hop)) {
            Some(hop) => format!(
                ": {} does not answer ARP on port {}",
                hop.addr,
                port_name(snapshot, hop.port)
            ),
            None => String::new(),
        }
    }
}

/// A port's name, or its number where it has none any more.
pub(super) fn port_name(snapshot: &Snapshot, port: PortIx) -> String {
    snapshot
        .port(port)
        .map_or_else(|| port.to_string(), |port| port.name.clone())
}

/// The next hops of all workers. Workers that know the same share a row.
pub(super) fn list(snapshot: &Snapshot, answers: &[Vec<NeighborFound>]) -> api::Neighbors {
    let mut rows: BTreeMap<_, api::Neighbor> = BTreeMap::new();
    for (worker, found) in answers.iter().enumerate() {
        for found in found {
            let state = found.condition.name();
            let row = rows
                .entry((found.hop, state, found.mac.map(|mac| mac.0)))
                .or_insert_with(|| api::Neighbor {
                    port: port_name(snapshot, found.hop.port),
                    address: found.hop.addr,
                    mac: found.mac.map(|mac| mac.to_string()),
                    state: state.to_owned(),
                    configured: false,
                    workers: Vec::new(),
                    age_ms: None,
                });
            row.workers.push(worker as u8);
            row.configured |= found.resident;
            row.age_ms = match (row.age_ms, found.heard_ms_ago) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    api::Neighbors {
        neighbors: rows.into_values().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ethernet::MacAddr;

    fn hop(last: u32) -> NextHop {
        NextHop {
            port: PortIx(0),
            addr: (0x0a00_0000 + last).into(),
        }
    }

    fn answer(last: u32) -> Learned {
        Learned {
            hop: hop(last),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
        }
    }

    #[test]
    fn an_answer_finds_who_asked_whichever_comes_first() {
        let (mut relay, now) = (Relay::default(), Instant::now());
        let (a, b) = (WorkerIx(0), WorkerIx(1));
        assert_eq!(relay.take(a, ArpNews::Asked(hop(1)), now), None);
        let told = relay.take(b, ArpNews::Overheard(answer(1)), now);
        assert_eq!(told, Some((answer(1), To::AllBut(b))));
        assert_eq!(relay.take(b, ArpNews::Overheard(answer(2)), now), None);
        let told = relay.take(a, ArpNews::Asked(hop(2)), now + OVERHEARD_FOR);
        assert_eq!(told, Some((answer(2), To::Only(a))));
        assert_eq!(relay.take(b, ArpNews::Overheard(answer(3)), now), None);
        let late = now + 2 * OVERHEARD_FOR;
        assert_eq!(relay.take(a, ArpNews::Asked(hop(3)), late), None);
    }

    #[test]
    fn a_flood_of_answers_and_questions_is_forgotten() {
        let (mut relay, now) = (Relay::default(), Instant::now());
        for n in 0..100_000 {
            assert_eq!(
                relay.take(WorkerIx(0), ArpNews::Overheard(answer(n)), now),
                None
            );
        }
        assert!(relay.overheard.len() <= OVERHEARD);
        for n in 200_000..300_000 {
            relay.take(WorkerIx(0), ArpNews::Asked(hop(n)), now);
        }
        assert!(relay.asked.len() <= ASKED && relay.order.len() <= ASKED);
        let told = relay.take(WorkerIx(1), ArpNews::Overheard(answer(299_999)), now);
        assert!(told.is_some(), "the last question is remembered");
    }
}
