//! `flow.explain`: what would happen, or is happening, to a flow. Puts together
//! what the snapshot says and what the workers answered.

use std::net::SocketAddrV4;

use serde::Deserialize;

use super::answers::invalid;
use super::report;
use crate::api;
use crate::api::rpc::Error;
use crate::capture::reversed;
use crate::conntrack::entry::{Direction, Entry, FlowTuple, flag};
use crate::ids::{ServerIx, ServiceIx, WorkerIx};
use crate::neighbor::Condition;
use crate::service::snapshot::{AddressKind, Answer, ServerState, Snapshot};
use crate::stats::DropReason;
use crate::time::Millis;
use crate::wire::proto;
use crate::worker::message::probe::{CANDIDATES, Candidate, Found, Hop, Probe};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainParams {
    source: SocketAddrV4,
    destination: SocketAddrV4,
    protocol: Option<String>,
}

/// What a flow is to the snapshot, as long as it is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Service(ServiceIx),
    Kernel,
    Dropped(DropReason),
}

impl ExplainParams {
    /// The flow as its packets are received: one that was given the way the
    /// gateway sends it is turned around.
    pub(super) fn tuple(&self, snapshot: &Snapshot) -> Result<FlowTuple, Error> {
        let protocol = match self.protocol.as_deref().unwrap_or("tcp") {
            "tcp" => proto::TCP,
            "udp" => proto::UDP,
            other => {
                let message = format!("protocol: is {other:?}; give tcp or udp");
                return Err(invalid(message));
            }
        };
        let tuple = FlowTuple {
            src: *self.source.ip(),
            dst: *self.destination.ip(),
            src_port: self.source.port(),
            dst_port: self.destination.port(),
            protocol,
        };
        let is_served = |addr| {
            matches!(
                snapshot.address(addr),
                Some(AddressKind::Vip | AddressKind::Local)
            )
        };
        if is_served(tuple.src) && !is_served(tuple.dst) {
            return Ok(reversed(&tuple));
        }
        Ok(tuple)
    }
}

/// What every worker is asked.
pub(super) fn probe(snapshot: &Snapshot, tuple: FlowTuple) -> Probe {
    let service = match fate(snapshot, &tuple) {
        Fate::Service(service) => Some(service),
        Fate::Kernel | Fate::Dropped(_) => None,
    };
    let servers = snapshot.servers.iter().enumerate();
    let candidates = servers.filter_map(|(slot, server)| {
        let server = server.as_ref()?;
        let is_of_it = Some(server.service) == service && server.state != ServerState::Removed;
        is_of_it.then(|| Candidate::new(ServerIx(slot as u32)))
    });
    Probe {
        tuple,
        service,
        found: None,
        source_hop: None,
        candidates: candidates.take(CANDIDATES).collect(),
        next: None,
        entries: (0, 0),
        now: Millis(0),
    }
}

fn fate(snapshot: &Snapshot, tuple: &FlowTuple) -> Fate {
    let mut ports = (0..snapshot.ports.len()).map(|port| crate::ids::PortIx(port as u8));
    match snapshot.address(tuple.dst) {
        Some(AddressKind::Vip) => snapshot
            .service_at(tuple.dst, tuple.dst_port, tuple.protocol)
            .map_or(Fate::Dropped(DropReason::NoService), Fate::Service),
        Some(AddressKind::Local) => Fate::Dropped(DropReason::UnknownFlowServer),
        _ if ports.any(|port| snapshot.is_kernels(tuple.dst, port)) => Fate::Kernel,
        Some(AddressKind::Port) => Fate::Dropped(DropReason::NoService),
        None => Fate::Dropped(DropReason::NotLocalAddress),
    }
}

/// All that is known; `probes` by worker.
pub(super) fn explained(
    snapshot: &Snapshot,
    tuple: FlowTuple,
    probes: &[Box<Probe>],
) -> api::Explained {
    let owner = steered(snapshot, &tuple);
    let holder = probes.iter().position(|probe| probe.found.is_some());
    let mut explained = api::Explained {
        source: SocketAddrV4::new(tuple.src, tuple.src_port),
        destination: SocketAddrV4::new(tuple.dst, tuple.dst_port),
        protocol: proto::name(tuple.protocol),
        steering: snapshot.steering.mode().name().into(),
        received: owner,
        outcome: String::new(),
        reason: None,
        meaning: String::new(),
        service: None,
        next_server: None,
        source_hop: None,
        connection: None,
        candidates: Vec::new(),
    };
    if let Some((worker, found)) = holder
        .and_then(|worker| Some((worker, probes.get(worker)?)))
        .and_then(|(worker, probe)| Some((WorkerIx(worker as u8), (probe.found?, probe.now))))
    {
        let (found, now) = found;
        let connection = connection(snapshot, worker, &found, now);
        explained.outcome = "connection".into();
        explained.meaning = format!(
            "It is a connection of worker {worker}, {}.",
            connection.connection.state
        );
        if usize::from(explained.received.worker) != worker.ix() {
            explained.meaning.push_str(
                " Its packets are steered to another worker: the NIC's hash key or redirection \
                 table is not the one that fullgate set.",
            );
        }
        explained.service.clone_from(&connection.connection.service);
        explained.connection = Some(connection);
        return explained;
    }
    match fate(snapshot, &tuple) {
        Fate::Dropped(reason) => drop_for(&mut explained, reason),
        Fate::Kernel => {
            explained.outcome = "kernel".into();
            explained.meaning =
                "It is no connection, and the kernel's interface of the port gets it.".into();
        }
        Fate::Service(ix) => {
            if let (Some(service), Some(probe)) = (
                snapshot.service(ix),
                probes.get(usize::from(explained.received.worker)),
            ) {
                explained.service = Some(service.name.clone());
                explained.source_hop = probe.source_hop.map(|known| hop(snapshot, &known));
                new_connection(snapshot, &mut explained, probe, service.unknown_flow);
            }
        }
    }
    explained
}

fn drop_for(explained: &mut api::Explained, reason: DropReason) {
    explained.outcome = "drop".into();
    explained.reason = Some(reason.name().into());
    explained.meaning = format!("{} {}", reason.meaning(), reason.remedy());
}

/// What would become of the first packet of a connection.
fn new_connection(
    snapshot: &Snapshot,
    explained: &mut api::Explained,
    probe: &Probe,
    unknown_flow: Answer,
) {
    explained.candidates = probe
        .candidates
        .iter()
        .filter_map(|candidate| row(snapshot, candidate, probe.next))
        .collect();
    let Some(next) = probe.next else {
        return drop_for(explained, DropReason::NoServer);
    };
    let picked = probe
        .candidates
        .iter()
        .find(|candidate| candidate.server == next);
    let has_port = picked.is_none_or(|picked| picked.free_ports + picked.resting_ports > 0);
    if !has_port {
        return drop_for(explained, DropReason::NoLocalPort);
    }
    explained.next_server = snapshot.server(next).map(|server| server.name.clone());
    if picked.is_some_and(|picked| picked.hop.is_none()) {
        return drop_for(explained, DropReason::NoRoute);
    }
    explained.outcome = "new".into();
    let first = match explained.protocol.as_str() {
        "tcp" => "a SYN",
        _ => "a datagram",
    };
    explained.meaning = format!("It is no connection; {first} opens one.");
    if explained.protocol == "tcp" {
        explained.meaning.push_str(match unknown_flow {
            Answer::Reset => " Any other segment is dropped as unknown-flow-client, with a reset.",
            Answer::Silent => {
                " Any other segment is dropped as unknown-flow-client, without an answer."
            }
        });
    }
    if probe.source_hop.is_none() {
        explained.meaning.push_str(
            " No route leads back to the client: what the server answers is dropped as no-route.",
        );
    }
    if probe.entries.0 >= probe.entries.1 {
        explained.meaning.push_str(
            " The worker's connection table is full: a half-open or finished connection has to \
             go for it, or it is dropped as table-full.",
        );
    }
}

fn row(
    snapshot: &Snapshot,
    candidate: &Candidate,
    next: Option<ServerIx>,
) -> Option<api::ExplainedServer> {
    let server = snapshot.server(candidate.server)?;
    let why_not = match server.state {
        ServerState::Up if server.weight == 0 => Some("weight 0"),
        ServerState::Up if !candidate.sound => Some("failed SYNs of this worker"),
        ServerState::Up if candidate.free_ports + candidate.resting_ports == 0 => {
            Some("no local port")
        }
        ServerState::Up if candidate.hop.is_none() => Some("no route"),
        ServerState::Up => None,
        state => Some(state.name()),
    };
    Some(api::ExplainedServer {
        name: server.name.clone(),
        address: SocketAddrV4::new(server.addr, server.port),
        weight: server.weight,
        state: server.state.name().into(),
        active: candidate.active,
        free_ports: candidate.free_ports,
        resting_ports: candidate.resting_ports,
        hop: candidate.hop.map(|known| hop(snapshot, &known)),
        next: next == Some(candidate.server),
        why_not: why_not.map(Into::into),
    })
}

fn connection(
    snapshot: &Snapshot,
    worker: WorkerIx,
    found: &Found,
    now: Millis,
) -> api::ExplainedConnection {
    let Found {
        entry,
        direction,
        client_hop,
        server_hop,
    } = found;
    let direction = match direction {
        Direction::Forward => "client to server",
        Direction::Reverse => "server to client",
    };
    api::ExplainedConnection {
        connection: report::connection(snapshot, worker, entry, now),
        direction: direction.into(),
        client_hash: steered(snapshot, &FlowTuple::from(&entry.client_tuple())),
        server_hash: steered(snapshot, &FlowTuple::from(&entry.server_tuple())),
        client_hop: client_hop.map(|known| hop(snapshot, &known)),
        server_hop: server_hop.map(|known| hop(snapshot, &known)),
        syns: (entry.protocol == proto::TCP).then_some(entry.attempts),
        tcp: tcp(entry),
    }
}

fn tcp(entry: &Entry) -> Option<api::ExplainedTcp> {
    if entry.protocol != proto::TCP {
        return None;
    }
    let side = |seen: u16, next: u32, acked: u32| {
        entry.has(seen).then(|| api::ExplainedSide {
            next,
            acknowledged: acked,
            // Nothing is acknowledged before the answer to the SYN.
            unacknowledged: match next.wrapping_sub(acked) {
                open if open < 1 << 31 => Some(open),
                _ => None,
            },
        })
    };
    Some(api::ExplainedTcp {
        client: side(flag::CLIENT_SEEN, entry.c_next, entry.c_acked),
        server: side(flag::SERVER_SEEN, entry.s_next, entry.s_acked),
        client_bytes: entry
            .has(flag::CLIENT_SEEN)
            .then(|| entry.c_next.wrapping_sub(entry.client_isn).wrapping_sub(1)),
        seq_moved: entry.seq_delta,
        timestamps_moved: entry.ts_delta,
    })
}

fn hop(snapshot: &Snapshot, hop: &Hop) -> api::Hop {
    let port = snapshot.port(hop.next.port);
    api::Hop {
        port: port.map_or_else(|| hop.next.port.to_string(), |port| port.name.clone()),
        address: hop.next.addr,
        mac: hop.mac.map(|mac| mac.to_string()),
        state: hop.condition.unwrap_or(Condition::Unasked).name().into(),
    }
}

/// Where the hash over a packet's addresses and ports leads.
fn steered(snapshot: &Snapshot, tuple: &FlowTuple) -> api::Steered {
    let steering = &snapshot.steering;
    let hash = steering
        .toeplitz()
        .hash_v4(tuple.src, tuple.dst, tuple.src_port, tuple.dst_port);
    api::Steered {
        hash,
        slot: steering.slot(hash),
        worker: steering
            .owner(tuple.src, tuple.dst, tuple.src_port, tuple.dst_port)
            .0,
    }
}
