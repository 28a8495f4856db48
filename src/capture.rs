//! What a capture is made of: records in a ring between one worker and the
//! management core, and the tap by which the worker fills it.
//!
//! All memory is made on the management core when a capture begins, goes to
//! the worker by message and comes back the same way. A record is a box that
//! goes round: from `free` to the worker, filled into `full`, emptied on the
//! management core, and back. Where none is free a packet is lost and counted.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::conntrack::entry::{Direction, Entry, FlowTuple, State};
use crate::filter::{Filter, Legs};
use crate::ids::PortIx;
use crate::stats::{Counter, DropReason};
use crate::wire::proto;

/// Captures at a time.
pub const CAPTURES: usize = 4;

/// What became of a packet that was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It, or what it caused, was sent.
    Sent,
    /// It waits for its next hop, or for its first fragment.
    Waits,
    /// The gateway itself was its end, or the kernel behind it: ARP, an answer
    /// to what the gateway had asked, a SYN that was taken over.
    Taken,
    /// It goes no further.
    Dropped(DropReason),
}

/// Which of its moments a record shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// As it was received.
    Received(Fate),
    /// As it was sent, because of the received packet of this number; `None`:
    /// by a timer or by the kernel, or after it had waited.
    Sent(Option<u64>),
    /// Given up after it had waited.
    GivenUp(DropReason),
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// When: TSC of the worker's round.
    pub tsc: u64,
    /// A number of the worker's own, ascending.
    pub number: u64,
    /// Where it came in or goes out; `None` for what was given up.
    pub port: Option<PortIx>,
    /// Which of its moments.
    pub moment: Moment,
    /// Which way through the gateway, where it is of a connection.
    pub direction: Option<Direction>,
    /// The connection's addresses, or its own.
    pub legs: Legs,
    /// The connection's state afterwards; `Free` where there is none.
    pub state: State,
    /// Moves of sequence numbers and timestamps, see [`Entry`].
    pub seq_delta: u32,
    /// See [`Entry::ts_delta`].
    pub ts_delta: u32,
    /// Length of the frame in bytes, without FCS.
    pub total_len: u32,
}

impl Facts {
    /// Of no packet.
    const NONE: Self = Self {
        tsc: 0,
        number: 0,
        port: None,
        moment: Moment::Sent(None),
        direction: None,
        legs: Legs::NONE,
        state: State::Free,
        seq_delta: 0,
        ts_delta: 0,
        total_len: 0,
    };
}

/// A packet in a capture.
#[derive(Debug)]
pub struct Record {
    /// What is known of it.
    pub facts: Facts,
    /// Bytes kept.
    len: usize,
    bytes: Box<[u8]>,
}

impl Record {
    fn new(snaplen: usize) -> Self {
        Self {
            facts: Facts::NONE,
            len: 0,
            // Not 0: a worker must not be the first to touch the memory.
            bytes: vec![0xff; snaplen].into(),
        }
    }

    /// The frame, as far as it was kept.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Keeps the first bytes of a frame.
    pub fn keep(&mut self, frame: &[u8]) {
        self.len = frame.len().min(self.bytes.len());
        self.bytes[..self.len].copy_from_slice(&frame[..self.len]);
    }
}

/// The records of one worker and one capture. One writer, one reader.
#[derive(Debug)]
pub struct Ring {
    free: ArrayQueue<Box<Record>>,
    full: ArrayQueue<Box<Record>>,
    /// Packets lost for want of a free record, by port.
    lost: Box<[Counter]>,
}

impl Ring {
    /// So many records of `snaplen` bytes each.
    pub fn new(records: usize, snaplen: usize, ports: usize) -> Self {
        let free = ArrayQueue::new(records);
        for _ in 0..records {
            let _ = free.push(Box::new(Record::new(snaplen)));
        }
        Self {
            free,
            // The worker's spare one has room in it, too.
            full: ArrayQueue::new(records),
            lost: (0..ports).map(|_| Counter::default()).collect(),
        }
    }

    /// The oldest record.
    pub fn take(&self) -> Option<Box<Record>> {
        self.full.pop()
    }

    /// Lets the worker have a record again.
    pub fn give_back(&self, record: Box<Record>) {
        // Never full: a record has only one place at a time.
        let _ = self.free.push(record);
    }

    /// Packets lost for want of a free record, of each port.
    pub fn lost(&self) -> impl Iterator<Item = u64> + '_ {
        self.lost.iter().map(Counter::get)
    }
}

/// A worker's end of a capture, written with each packet. On cache lines of its
/// own: those of several workers lie side by side.
#[derive(Debug)]
#[repr(align(64))]
pub struct Tap {
    /// Which capture.
    pub id: u32,
    /// Which packets.
    pub filter: Filter,
    /// Hashes up to here are in the sample.
    sampled: u32,
    /// Where they go.
    pub ring: Arc<Ring>,
    /// Holds a packet as it was received until it is known what becomes of it.
    pub spare: Option<Box<Record>>,
    /// The spare one holds the packet that is being handled.
    pub held: bool,
    /// The packet that is being handled is in the capture.
    pub matched: bool,
}

impl Tap {
    /// A tap that fills `ring` with one connection in `sample`; 0 counts as 1.
    pub fn new(id: u32, filter: Filter, sample: u32, ring: Arc<Ring>) -> Self {
        Self {
            id,
            filter,
            sampled: u32::MAX / sample.max(1),
            ring,
            spare: None,
            held: false,
            matched: false,
        }
    }

    /// Whether a packet of the connection is not in the capture, whatever
    /// becomes of it. `is_plain`: it neither ends the connection nor begins
    /// another one; one that does has the same client and VIP.
    #[inline(always)]
    pub fn passes_by(&self, entry: &Entry, is_plain: impl Fn() -> bool) -> bool {
        self.filter.drops
            || !self.samples(hash_of(entry))
            || !self.filter.matches_entry(entry) && is_plain()
    }

    /// Connections whose [`hash_of`] is not below this are not in the capture.
    pub fn limit(&self) -> u64 {
        match self.filter.drops {
            true => 0,
            false => u64::from(self.sampled) + 1,
        }
    }

    /// Whether a packet with these addresses is in the capture.
    pub fn wants(&self, legs: &Legs) -> bool {
        self.samples(hash(legs)) && self.filter.matches(legs)
    }

    /// Whether a packet that is dropped is in the capture.
    pub fn wants_drop(&self, legs: &Legs, reason: DropReason) -> bool {
        self.filter.reason.is_none_or(|wanted| wanted == reason) && self.wants(legs)
    }

    #[inline(always)]
    fn samples(&self, hash: u32) -> bool {
        hash <= self.sampled
    }

    /// Holds a copy of a packet before it is handled.
    pub fn hold(&mut self, frame: &[u8]) {
        if self.spare.is_none() {
            self.spare = self.ring.free.pop();
        }
        if let Some(spare) = &mut self.spare {
            spare.keep(frame);
            self.held = true;
        }
    }

    /// Puts the held copy into the ring.
    pub fn put_held(&mut self, facts: Facts) {
        match self.spare.take() {
            Some(spare) if self.held => self.put_record(spare, facts),
            spare => {
                self.spare = spare;
                self.lose(facts.port);
            }
        }
        self.held = false;
    }

    /// Puts a packet into the ring.
    pub fn put(&mut self, frame: &[u8], facts: Facts) {
        match self
            .ring
            .free
            .pop()
            .or_else(|| self.spare.take_if(|_| !self.held))
        {
            Some(mut record) => {
                record.keep(frame);
                self.put_record(record, facts);
            }
            None => self.lose(facts.port),
        }
    }

    fn put_record(&mut self, mut record: Box<Record>, facts: Facts) {
        record.facts = facts;
        // Never full: it has room for all records there are.
        let _ = self.ring.full.push(record);
    }

    fn lose(&self, port: Option<PortIx>) {
        let port = port.map_or(0, PortIx::ix);
        if let Some(lost) = self.ring.lost.get(port) {
            lost.add(1);
        }
    }
}

/// Spreads tuples over 32 bits: one multiply by 2^64 over the golden ratio, of
/// which the upper half is good. That somebody may choose tuples that are in a
/// sample or not is no harm.
#[inline(always)]
fn hash_pair(near: (Ipv4Addr, u16), far: (Ipv4Addr, u16)) -> u32 {
    let near = u64::from(near.0.to_bits()) << 16 | u64::from(near.1);
    let far = u64::from(far.0.to_bits()) << 16 | u64::from(far.1);
    let mixed = (near ^ far.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

/// By client and VIP, so that both legs of a connection are sampled alike.
#[inline(always)]
pub fn hash_of(entry: &Entry) -> u32 {
    hash_pair(
        (entry.client, entry.client_port),
        (entry.vip, entry.vip_port),
    )
}

fn hash(legs: &Legs) -> u32 {
    let [near, far] = legs
        .front
        .or(legs.back)
        .unwrap_or([SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0); 2]);
    hash_pair((*near.ip(), near.port()), (*far.ip(), far.port()))
}

/// The tuple by which a frame's connection can be found, read without any
/// check of what the packet path checks: that of a TCP segment or UDP datagram
/// itself, and of an ICMP error that of an answer to the packet it quotes.
/// Ports are 0 where there are none; ARP has its sender and target, and
/// protocol 0.
pub fn tuple_of(frame: &[u8]) -> Option<FlowTuple> {
    let payload = frame.get(14..)?;
    match frame[12..14] {
        [0x08, 0x00] => {
            let (tuple, transport) = ip_tuple(payload)?;
            if tuple.protocol == proto::ICMP
                && let Some(&[3 | 11 | 12, ..]) = transport
                && let Some((quoted, _)) = transport.and_then(|icmp| ip_tuple(icmp.get(8..)?))
            {
                return Some(reversed(&quoted));
            }
            Some(tuple)
        }
        [0x08, 0x06] => Some(FlowTuple {
            src: address(payload, 14)?,
            dst: address(payload, 24)?,
            src_port: 0,
            dst_port: 0,
            protocol: 0,
        }),
        _ => None,
    }
}

/// The tuple of the packets the other way.
pub fn reversed(tuple: &FlowTuple) -> FlowTuple {
    FlowTuple {
        src: tuple.dst,
        dst: tuple.src,
        src_port: tuple.dst_port,
        dst_port: tuple.src_port,
        protocol: tuple.protocol,
    }
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = *bytes.get(at..)?.first_chunk()?;
    Some(octets.into())
}

/// The tuple of an IPv4 packet and, unless it is a fragment but the first, its
/// transport header with what follows.
fn ip_tuple(ip: &[u8]) -> Option<(FlowTuple, Option<&[u8]>)> {
    let header = ip.first_chunk::<20>()?;
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let mut tuple = FlowTuple {
        src: address(ip, 12)?,
        dst: address(ip, 16)?,
        src_port: 0,
        dst_port: 0,
        protocol: header[9],
    };
    if later_fragment {
        return Some((tuple, None));
    }
    let transport = ip.get(usize::from(header[0] & 0xf) * 4..);
    if matches!(tuple.protocol, proto::TCP | proto::UDP)
        && let Some(&[a, b, c, d]) = transport.and_then(|bytes| bytes.first_chunk())
    {
        tuple.src_port = u16::from_be_bytes([a, b]);
        tuple.dst_port = u16::from_be_bytes([c, d]);
    }
    Some((tuple, transport))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FACTS: Facts = Facts {
        tsc: 7,
        number: 1,
        port: Some(PortIx(1)),
        total_len: 100,
        ..Facts::NONE
    };

    fn tap(records: usize, sample: u32) -> Tap {
        let ring = Arc::new(Ring::new(records, 8, 2));
        Tap::new(1, Filter::default(), sample, ring)
    }

    #[test]
    fn records_go_round_and_losses_are_counted_by_port() {
        let mut tap = tap(2, 1);
        for _ in 0..3 {
            tap.put(&[1; 100], FACTS);
        }
        tap.hold(&[2; 4]);
        tap.put_held(Facts {
            port: Some(PortIx(0)),
            ..FACTS
        });
        let ring = Arc::clone(&tap.ring);
        assert_eq!(ring.lost().collect::<Vec<_>>(), [1, 1]);
        let record = ring.take().expect("a record");
        assert_eq!((record.bytes(), record.facts), (&[1; 8][..], FACTS));
        ring.give_back(record);
        tap.hold(&[2; 4]);
        tap.put_held(FACTS);
        assert_eq!(ring.take().expect("a record").bytes(), [1; 8]);
        assert_eq!(ring.take().expect("a record").bytes(), [2; 4]);
        assert!(ring.take().is_none());
    }

    #[test]
    fn a_copy_that_nobody_wants_costs_no_record() {
        let mut tap = tap(1, 1);
        for _ in 0..3 {
            tap.hold(&[3; 4]);
            tap.held = false;
        }
        tap.put(&[4; 4], FACTS);
        assert_eq!(tap.ring.take().expect("a record").bytes(), [4; 4]);
        assert_eq!(tap.ring.lost().sum::<u64>(), 0);
    }

    #[test]
    fn a_sample_is_about_one_in_so_many_connections_and_both_legs_of_it() {
        let tap = tap(1, 16);
        let mut taken = 0;
        for n in 0..16_000u32 {
            let entry = Entry {
                client: Ipv4Addr::from_bits(0x0a00_0000 + n / 100),
                client_port: 1024 + (n % 100) as u16,
                vip: Ipv4Addr::new(198, 51, 100, 1),
                vip_port: 80,
                ..Entry::FREE
            };
            let wants = tap.wants(&Legs::from(&entry));
            assert_eq!(wants, !tap.passes_by(&entry, || true));
            assert_eq!(wants, !tap.passes_by(&entry, || false));
            let front = Legs {
                back: None,
                ..Legs::from(&entry)
            };
            assert_eq!(wants, tap.wants(&front), "before there is a server");
            taken += u32::from(wants);
        }
        assert!((800..1200).contains(&taken), "{taken} of 16,000");
    }

    #[test]
    fn an_icmp_error_is_known_by_what_it_quotes() {
        let mut frame = vec![0; 14 + 20 + 8 + 20 + 8];
        frame[12] = 8;
        let (outer, rest) = frame[14..].split_at_mut(20);
        outer[0] = 0x45;
        outer[9] = proto::ICMP;
        rest[0] = 3;
        let quoted = &mut rest[8..];
        quoted[0] = 0x45;
        quoted[9] = proto::UDP;
        quoted[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        quoted[20..24].copy_from_slice(&[0, 53, 4, 0]);
        let tuple = tuple_of(&frame).expect("a tuple");
        assert_eq!((tuple.src_port, tuple.dst_port), (1024, 53));
        assert_eq!(tuple.src, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(tuple.protocol, proto::UDP);
    }

    proptest! {
        #[test]
        fn any_frame_is_survived(frame in proptest::collection::vec(any::<u8>(), 0..120), ip: bool) {
            let mut frame = frame;
            if ip && frame.len() > 14 {
                frame[12..14].copy_from_slice(&[8, 0]);
            }
            let _ = tuple_of(&frame);
        }
    }
}
