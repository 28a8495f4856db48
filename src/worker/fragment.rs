//! IP fragments (RFC 791 §3.2): they go the way of their datagram's first one,
//! which alone has the ports.
//!
//! Fragments are not put together: each is translated as it comes. One that
//! overtakes the first waits for it in a bounded queue. All fragments of a
//! datagram reach one worker, since drivers hash them by addresses only; the
//! first one's ports tell who owns the flow, and all are handed on to that one.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::Worker;
use super::parse::{L3, Packet};
use super::path::{mapping_of, tuple_of};
use crate::conntrack::entry::FlowTuple;
use crate::ids::PortIx;
use crate::io::{BurstIo, PacketBuf};
use crate::nat::rewrite::translate_fragment;
use crate::stats::{DropReason, Event};
use crate::time::Millis;

/// Datagrams remembered. One that falls on the place of another takes it.
const PLACES: usize = 1024;

/// How long a datagram's ports are remembered: fragments of one datagram come
/// together, or their receiver has given up on the others.
const REMEMBERED_MS: u64 = 10_000;

/// Fragments that wait for their first one.
const WAITING: usize = 64;

/// How long they wait, milliseconds.
const WAIT_MS: u64 = 1_000;

/// What the fragments of one datagram share (RFC 791 §2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Datagram {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ident: u16,
    protocol: u8,
}

impl Datagram {
    fn of(bytes: &[u8], at: &Packet) -> Option<Self> {
        let ident = bytes.get(L3 + 4..)?.first_chunk()?;
        Some(Self {
            src: at.src,
            dst: at.dst,
            ident: u16::from_be_bytes(*ident),
            protocol: at.protocol,
        })
    }

    fn place(&self) -> usize {
        let addresses = u64::from(self.src.to_bits()) << 32 | u64::from(self.dst.to_bits());
        let mixed = (addresses ^ u64::from(self.ident) << 16 ^ u64::from(self.protocol))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 54) as usize % PLACES
    }
}

/// The ports of a datagram.
#[derive(Clone, Copy, Debug)]
struct Known {
    datagram: Datagram,
    src_port: u16,
    dst_port: u16,
    since: Millis,
}

/// A fragment that came before the first.
#[derive(Debug)]
struct Waiting<B> {
    datagram: Datagram,
    at: Packet,
    port: PortIx,
    packet: B,
    until: Millis,
}

/// What a worker knows of fragmented datagrams.
#[derive(Debug)]
pub(super) struct Fragments<B> {
    known: Box<[Option<Known>]>,
    waiting: ArrayVec<Waiting<B>, WAITING>,
}

impl<B> Fragments<B> {
    pub(super) fn new() -> Self {
        Self {
            known: vec![None; PLACES].into(),
            waiting: ArrayVec::new(),
        }
    }

    /// Fragments that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn ports(&self, datagram: &Datagram, now: Millis) -> Option<(u16, u16)> {
        let known = self.known[datagram.place()]?;
        (known.datagram == *datagram && now.since(known.since) < REMEMBERED_MS)
            .then_some((known.src_port, known.dst_port))
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// The fragment with the ports: remembered, and then a packet like others.
    #[cold]
    pub(super) fn first_fragment(&mut self, packet: Io::Buf, at: &Packet, port: PortIx) {
        let Some(datagram) = Datagram::of(packet.bytes(), at) else {
            return self.discard(packet, DropReason::Ipv4Malformed);
        };
        self.fragments.known[datagram.place()] = Some(Known {
            datagram,
            src_port: at.src_port,
            dst_port: at.dst_port,
            since: self.now,
        });
        let owner = self.owner(at);
        if owner != self.ix {
            self.hand_over(owner, port, packet);
        } else {
            self.stats.event(Event::Fragmented).add(1);
            let tuple = tuple_of(at);
            let found = self.table.find(self.table.hash(&tuple), &tuple);
            self.flow(packet, at, found, port);
        }
        while let Some(overtaken) = self
            .fragments
            .waiting
            .iter()
            .position(|waiting| waiting.datagram == datagram)
        {
            let waiting = self.fragments.waiting.remove(overtaken);
            self.aside(|worker| {
                worker.later_fragment(waiting.packet, &waiting.at, waiting.port);
            });
        }
    }

    /// A fragment without ports.
    #[cold]
    pub(super) fn later_fragment(&mut self, packet: Io::Buf, at: &Packet, port: PortIx) {
        let Some(datagram) = Datagram::of(packet.bytes(), at) else {
            return self.discard(packet, DropReason::Ipv4Malformed);
        };
        let Some((src_port, dst_port)) = self.fragments.ports(&datagram, self.now) else {
            let waiting = Waiting {
                datagram,
                at: *at,
                port,
                packet,
                until: self.now.plus(WAIT_MS),
            };
            if let Err(full) = self.fragments.waiting.try_push(waiting) {
                self.discard(full.element().packet, DropReason::Ipv4Fragment);
            }
            return;
        };
        let at = Packet {
            src_port,
            dst_port,
            ..*at
        };
        let owner = self.owner(&at);
        if owner != self.ix {
            return self.hand_over(owner, port, packet);
        }
        self.forward_fragment(packet, &at);
    }

    fn forward_fragment(&mut self, mut packet: Io::Buf, at: &Packet) {
        let tuple = tuple_of(at);
        let Some((slot, direction)) = self.table.find(self.table.hash(&tuple), &tuple) else {
            return self.discard(packet, DropReason::Ipv4Fragment);
        };
        let entry = self.table.get(slot);
        let (mapping, server) = (mapping_of(entry, direction), entry.server);
        let hop = match self.hop_of(slot, direction) {
            Ok(hop) => hop,
            Err(reason) => return self.discard(packet, reason),
        };
        // No ICMP error about a fragment other than the first (RFC 1122,
        // 3.2.2).
        if packet.bytes().get(L3 + 8).is_none_or(|&ttl| ttl <= 1) {
            return self.discard(packet, DropReason::TtlExpired);
        }
        if at.ip_len > self.mtu_towards(hop) {
            return self.discard(packet, DropReason::MtuExceeded);
        }
        let translated = packet
            .bytes_mut()
            .get_mut(L3..)
            .is_some_and(|ip| translate_fragment(ip, &mapping).is_ok());
        if !translated {
            return self.discard(packet, DropReason::Ipv4Malformed);
        }
        self.stats.event(Event::Fragmented).add(1);
        self.count(server, direction, at.ip_len);
        self.emit(packet, hop);
    }

    /// The ports of the datagram that a fragment is of, where they are known;
    /// `ip` is the fragment from its IP header on.
    pub(super) fn ports_of_fragment(&self, ip: &[u8], tuple: &FlowTuple) -> Option<(u16, u16)> {
        let ident = ip.get(4..)?.first_chunk()?;
        let datagram = Datagram {
            src: tuple.src,
            dst: tuple.dst,
            ident: u16::from_be_bytes(*ident),
            protocol: tuple.protocol,
        };
        self.fragments.ports(&datagram, self.now)
    }

    /// Gives up fragments whose first one did not come.
    pub(super) fn give_fragments_up(&mut self) {
        while let Some(waiting) = self.fragments.waiting.first()
            && self.now.reached(waiting.until)
        {
            let waiting = self.fragments.waiting.remove(0);
            self.discard(waiting.packet, DropReason::Ipv4Fragment);
        }
    }
}
