//! Captures: begun, read and ended by admin requests. Owns what the workers
//! filled until it is asked for. A capture whose client does not ask any more
//! ends by itself, and one that asks too slowly loses packets, which are
//! counted; neither keeps the loop or a worker waiting.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::answers::{invalid, value};
use super::{Management, PATIENCE, answer};
use crate::api;
use crate::api::rpc::{Error, Outcome};
use crate::capture::{CAPTURES, Facts, Fate, Moment, Record, Ring, Tap};
use crate::conntrack::entry::{Direction, State};
use crate::filter::{Filter, Purpose};
use crate::ids::WorkerIx;
use crate::service::snapshot::Snapshot;
use crate::worker::message::Command;

/// A capture that nobody reads for so long ends.
const LEASE: Duration = Duration::from_secs(5);

/// Bytes kept of a packet where the request names no other number: a frame of
/// the usual MTU.
const SNAPLEN: usize = 2_048;
const SNAPLENS: std::ops::RangeInclusive<usize> = 64..=9_216;

/// Records of each worker where the request names no other number.
const RECORDS: usize = 1_024;
const RECORDS_MAX: usize = 65_536;

/// Most memory of one capture, bytes: it is made between two requests.
const MEMORY_MAX: usize = 64 << 20;

const SAMPLE_MAX: u32 = 1_000_000;

/// Most packets and bytes of them in one answer.
const READ_PACKETS: usize = 512;
const READ_BYTES: usize = 256 << 10;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CaptureParams {
    filter: String,
    sample: Option<u32>,
    snaplen: Option<usize>,
    records: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaptureId {
    pub(super) capture: u32,
}

/// One worker's part of a capture.
struct Part {
    worker: WorkerIx,
    ring: Arc<Ring>,
    /// The next record, too young for the last answer.
    head: Option<Box<Record>>,
}

/// A record on its way out, and where it belongs.
struct Taken {
    worker: WorkerIx,
    record: Box<Record>,
    ring: Arc<Ring>,
}

struct Running {
    id: u32,
    parts: Vec<Part>,
    /// Who waits for all workers to have begun, and how long at most.
    starter: Option<(SyncSender<Outcome>, Instant)>,
    /// Workers that have not begun yet.
    unbegun: usize,
    /// Taps that are with the workers.
    taps: usize,
    ending: bool,
    /// Nobody will read what is left.
    abandoned: bool,
    read: Instant,
    /// Records up to here are in order: no worker makes an older one any more.
    settled: u64,
    last_ns: u64,
}

/// All captures.
#[derive(Default)]
pub(super) struct Captures {
    running: Vec<Running>,
    last_id: u32,
}

impl Management {
    /// Begins a capture; `reply` is answered when all workers have begun.
    pub(super) fn start_capture(
        &mut self,
        params: CaptureParams,
        reply: Option<SyncSender<Outcome>>,
        now: Instant,
    ) {
        match self.make_capture(params, now) {
            Ok((mut running, taps)) => {
                running.starter = reply.map(|reply| (reply, now + PATIENCE));
                self.captures.running.push(running);
                for (worker, tap) in taps {
                    self.workers[worker.ix()].send(Command::Capture(Box::new(tap)));
                }
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn make_capture(
        &mut self,
        params: CaptureParams,
        now: Instant,
    ) -> Result<(Running, Vec<(WorkerIx, Tap)>), Error> {
        let filter = self.filter(&params.filter, Purpose::Capture)?;
        let sample = params.sample.unwrap_or(1);
        if !(1..=SAMPLE_MAX).contains(&sample) {
            let message = format!("sample: is {sample}; give 1 to {SAMPLE_MAX}");
            return Err(invalid(message));
        }
        let snaplen = params.snaplen.unwrap_or(SNAPLEN);
        if !SNAPLENS.contains(&snaplen) {
            return Err(invalid(format!(
                "snaplen: is {snaplen}; give {} to {} bytes",
                SNAPLENS.start(),
                SNAPLENS.end()
            )));
        }
        let records = params.records.unwrap_or(RECORDS);
        if !(1..=RECORDS_MAX).contains(&records) {
            let message = format!("records: is {records}; give 1 to {RECORDS_MAX}");
            return Err(invalid(message));
        }
        let workers: Vec<WorkerIx> = match filter.worker {
            Some(worker) => vec![worker],
            None => (0..self.workers.len())
                .map(|ix| WorkerIx(ix as u8))
                .collect(),
        };
        if workers.len() * records * snaplen > MEMORY_MAX {
            return Err(invalid(format!(
                "records: {} workers with {records} records of {snaplen} bytes take more than \
                 {} MiB; give less records or a smaller snaplen",
                workers.len(),
                MEMORY_MAX >> 20
            )));
        }
        if self.captures.running.len() >= CAPTURES {
            return Err(Error::failed(format!(
                "there are {CAPTURES} captures already; end one of them"
            )));
        }
        self.captures.last_id += 1;
        let id = self.captures.last_id;
        let ports = self.ports.len();
        let parts: Vec<Part> = workers
            .iter()
            .map(|&worker| Part {
                worker,
                ring: Arc::new(Ring::new(records, snaplen, ports)),
                head: None,
            })
            .collect();
        let tap = |part: &Part| {
            let tap = Tap::new(id, filter, sample, Arc::clone(&part.ring));
            (part.worker, tap)
        };
        let taps: Vec<_> = parts.iter().map(tap).collect();
        let running = Running {
            id,
            unbegun: parts.len(),
            taps: parts.len(),
            parts,
            starter: None,
            ending: false,
            abandoned: false,
            read: now,
            settled: self.times.now().tsc,
            last_ns: 0,
        };
        Ok((running, taps))
    }

    /// Compiles a filter with what its names mean now.
    pub(super) fn filter(&self, text: &str, purpose: Purpose) -> Result<Filter, Error> {
        let snapshot = self.state.snapshot();
        let service = |name: &str| {
            let mut services = snapshot.services.iter().flatten();
            let found = services.find(|service| service.name == name)?;
            Some(crate::filter::ServiceKey {
                vip: SocketAddrV4::new(found.vip, found.port),
                protocol: found.protocol,
            })
        };
        let filter = Filter::parse(text, purpose, service).map_err(invalid)?;
        let count = self.workers.len();
        match filter.worker {
            Some(worker) if worker.ix() >= count => Err(invalid(format!(
                "worker: is {worker}; there are {count}, from 0"
            ))),
            _ => Ok(filter),
        }
    }

    /// A worker has begun a capture.
    pub(super) fn capturing(&mut self, id: u32, now: Instant) {
        let ports = self.state.snapshot().ports.iter();
        let ports: Vec<String> = ports.map(|port| port.name.clone()).collect();
        let Some(running) = self.captures.find(id) else {
            return;
        };
        running.unbegun = running.unbegun.saturating_sub(1);
        if running.unbegun == 0
            && let Some((reply, _)) = running.starter.take()
        {
            running.read = now;
            let workers = running.parts.iter().map(|part| part.worker.0).collect();
            answer(
                Some(reply),
                Ok(value(&api::Capturing {
                    capture: id,
                    ports,
                    workers,
                })),
            );
        }
    }

    /// A worker has ended a capture.
    pub(super) fn captured(&mut self, id: u32) {
        let captures = &mut self.captures;
        if let Some(running) = captures.find(id) {
            running.taps = running.taps.saturating_sub(1);
            captures.running.retain(|r| !(r.abandoned && r.taps == 0));
        }
    }

    /// Ends a capture; what the workers have taken can still be read.
    pub(super) fn end_capture(&mut self, id: u32) -> Outcome {
        let Some(running) = self.captures.find(id) else {
            return Err(no_capture(id));
        };
        if !std::mem::replace(&mut running.ending, true) {
            for part in &running.parts {
                self.workers[part.worker.ix()].send(Command::EndCapture(id));
            }
        }
        Ok(serde_json::json!({}))
    }

    /// Answers with the next packets of a capture, oldest first. They become
    /// text on the thread of long answers.
    pub(super) fn read_capture(
        &mut self,
        id: u32,
        reply: Option<SyncSender<Outcome>>,
        now: Instant,
    ) {
        let clocks = self.times.now();
        let Some(running) = self.captures.find(id) else {
            return answer(reply, Err(no_capture(id)));
        };
        running.read = now;
        let ended = running.taps == 0;
        let until = if ended { u64::MAX } else { running.settled };
        running.settled = clocks.tsc;
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < READ_PACKETS && bytes < READ_BYTES {
            let Some(next) = running.next(until) else {
                break;
            };
            bytes += next.record.bytes().len();
            let time_ns = self.times.unix_ns(next.record.facts.tsc, &clocks);
            // The clocks are never read at exactly the same moment.
            running.last_ns = time_ns.max(running.last_ns);
            taken.push((running.last_ns, next));
        }
        let lost = running.lost(self.ports.len());
        let is_over = ended && running.is_empty();
        if is_over {
            self.captures.running.retain(|running| running.id != id);
        }
        let snapshot = Arc::clone(self.state.snapshot());
        self.answering.run(move || {
            let tell = |(time_ns, taken): (u64, Taken)| {
                let packet = packet(&snapshot, taken.worker, &taken.record, time_ns);
                taken.ring.give_back(taken.record);
                packet
            };
            let captured = api::Captured {
                packets: taken.into_iter().map(tell).collect(),
                lost,
                ended: is_over,
            };
            answer(reply, Ok(value(&captured)));
        });
    }

    /// Ends captures that nobody reads, and tells who waits for one to begin
    /// for too long.
    pub(super) fn tend_captures(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for running in &mut self.captures.running {
            if let Some((reply, _)) = running.starter.take_if(|(_, until)| now >= *until) {
                let message = "a worker has not begun the capture yet";
                answer(Some(reply), Err(Error::failed(message)));
                running.read = now;
            }
            let unread = now.saturating_duration_since(running.read);
            if running.starter.is_none() && !running.abandoned && unread >= LEASE {
                running.abandoned = true;
                expired.push(running.id);
            }
        }
        for id in expired {
            log::info!("capture {id}: ended, since nobody reads it");
            // It is there: it was looked at just now.
            let _ = self.end_capture(id);
        }
        self.captures
            .running
            .retain(|running| !(running.abandoned && running.taps == 0));
    }
}

impl Captures {
    fn find(&mut self, id: u32) -> Option<&mut Running> {
        self.running.iter_mut().find(|running| running.id == id)
    }
}

impl Running {
    /// The oldest record, unless it is younger than `until`.
    fn next(&mut self, until: u64) -> Option<Taken> {
        for part in &mut self.parts {
            if part.head.is_none() {
                part.head = part.ring.take();
            }
        }
        let with_heads = self.parts.iter_mut().filter_map(|part| {
            let tsc = part.head.as_ref()?.facts.tsc;
            (tsc <= until).then_some((tsc, part))
        });
        let (_, oldest) = with_heads.min_by_key(|(tsc, _)| *tsc)?;
        Some(Taken {
            worker: oldest.worker,
            record: oldest.head.take()?,
            ring: Arc::clone(&oldest.ring),
        })
    }

    fn lost(&self, ports: usize) -> Vec<u64> {
        let mut lost = vec![0; ports];
        for part in &self.parts {
            for (sum, count) in lost.iter_mut().zip(part.ring.lost()) {
                *sum += count;
            }
        }
        lost
    }

    /// Whether there is no record left; for a capture that has ended.
    fn is_empty(&mut self) -> bool {
        self.parts.iter_mut().all(|part| {
            if part.head.is_none() {
                part.head = part.ring.take();
            }
            part.head.is_none()
        })
    }
}

fn no_capture(id: u32) -> Error {
    Error::failed(format!(
        "there is no capture {id}: one that is not read for {} s ends",
        LEASE.as_secs()
    ))
}

fn packet(
    snapshot: &Snapshot,
    worker: WorkerIx,
    record: &Record,
    time_ns: u64,
) -> api::CapturedPacket {
    let facts = &record.facts;
    let port = facts.port.and_then(|port| snapshot.port(port));
    api::CapturedPacket {
        time_ns,
        worker: worker.0,
        number: facts.number,
        port: port.map(|port| port.name.clone()),
        direction: match facts.moment {
            Moment::Received(_) => "in",
            Moment::Sent(_) => "out",
            Moment::GivenUp(_) => "none",
        }
        .into(),
        length: facts.total_len,
        data: BASE64.encode(record.bytes()),
        comment: comment(snapshot, worker, facts),
    }
}

/// Everything that the bytes do not say, in one line.
fn comment(snapshot: &Snapshot, worker: WorkerIx, facts: &Facts) -> String {
    let mut text = format!("worker {worker} #{}", facts.number);
    if let Some(direction) = facts.direction
        && let (Some([client, vip]), Some([server, local])) = (facts.legs.front, facts.legs.back)
    {
        let is_sent = matches!(facts.moment, Moment::Sent(_));
        let becomes = if is_sent { "was" } else { "becomes" };
        let ((from, to), (src, dst), way) = match (direction, is_sent) {
            (Direction::Forward, false) => ((client, vip), (local, server), "client to server"),
            (Direction::Forward, true) => ((local, server), (client, vip), "client to server"),
            (Direction::Reverse, false) => ((server, local), (vip, client), "server to client"),
            (Direction::Reverse, true) => ((vip, client), (server, local), "server to client"),
        };
        text.push_str(&format!(", {way}: {from} > {to} {becomes} {src} > {dst}"));
    }
    if let Some([_, vip]) = facts.legs.front
        && let Some(ix) = snapshot.service_at(*vip.ip(), vip.port(), facts.legs.protocol)
        && let Some(service) = snapshot.service(ix)
    {
        text.push_str(&format!("; service {}", service.name));
    }
    if facts.state != State::Free {
        text.push_str(&format!("; {}", facts.state.name()));
    }
    for (delta, what) in [
        (facts.seq_delta, "sequence numbers"),
        (facts.ts_delta, "timestamps"),
    ] {
        if delta != 0 {
            text.push_str(&format!("; {what} moved by {delta}"));
        }
    }
    let verdict = match facts.moment {
        Moment::Received(Fate::Sent) => "sent".into(),
        Moment::Received(Fate::Waits) => "waits for its next hop or first fragment".into(),
        Moment::Received(Fate::Taken) => "taken by the gateway or by the kernel behind it".into(),
        Moment::Received(Fate::Dropped(reason)) | Moment::GivenUp(reason) => {
            format!("dropped: {}: {}", reason.name(), reason.meaning())
        }
        Moment::Sent(Some(cause)) => format!("sent because of #{cause}"),
        Moment::Sent(None) => "sent by a timer or by the kernel, or after it had waited".into(),
    };
    format!("{text}; {verdict}")
}
