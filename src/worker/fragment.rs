//! IP fragments (RFC 791 §3.2): they go the way of their datagram's first one,
//! which alone has the ports. And datagrams that may become fragments: both
//! leave under an identification of ours.
//!
//! Fragments are not put together: each is translated as it comes. One that
//! overtakes the first waits for it in a bounded store (`nat::fragments`). All
//! fragments of a datagram reach one worker: NICs hash them by addresses only, and
//! so does `path` where there is none that hashes. The first one's ports tell who
//! owns the flow, and all are handed on to that one in their order. Both workers
//! remember the datagram, and see the same of it; the owner gives it its
//! identification.

use std::net::Ipv4Addr;

use super::Worker;
use super::parse::{L3, Packet};
use super::path::{Rewriting, mapping_of, tuple_of};
use super::path_mtu::narrow_mtu;
use crate::conntrack::entry::{Direction, FlowTuple, State};
use crate::ids::{NeighborIx, PortIx, SlotIx};
use crate::io::{BurstIo, PacketBuf};
use crate::nat::fragments::{Datagram, Fragment};
use crate::nat::ident::Use;
use crate::nat::rewrite::{Mapping, allow_fragments, set_ident, translate_fragment};
use crate::stats::{DropReason, Event};
use crate::wire::proto;

/// A fragment that came before its first.
#[derive(Debug)]
pub(super) struct Overtaking<B> {
    at: Packet,
    port: PortIx,
    packet: B,
    /// It waits for the second time: the first one that came was another's.
    again: bool,
}

/// What the identification of a packet in one piece is for.
fn use_of(at: &Packet, mtu: u16) -> Use {
    if at.ip_len > mtu {
        Use::Fragments
    } else {
        Use::Whole
    }
}

fn ip_of<B: PacketBuf>(packet: &B) -> &[u8] {
    packet.bytes().get(L3..).unwrap_or(&[])
}

impl<Io: BurstIo> Worker<Io> {
    /// The fragment with the ports: remembered, and then a packet like others.
    #[cold]
    pub(super) fn first_fragment(&mut self, packet: Io::Buf, at: &Packet, port: PortIx) {
        let fragment = match self.read_fragment(&packet, at) {
            Ok(fragment) => fragment,
            Err(reason) => return self.discard(packet, reason),
        };
        self.fragments
            .first(&fragment, at.src_port, at.dst_port, self.now);
        self.discard_pushed_out();
        let owner = self.owner(at);
        if owner != self.ix && !self.has_borrowed(at) {
            self.hand_over(owner, port, packet);
        } else {
            self.stats.event(Event::Fragmented).add(1);
            let tuple = tuple_of(at);
            let found = self.table.find(self.table.hash(&tuple), &tuple);
            self.flow(packet, at, found, port);
        }
        while let Some(waited) = self.fragments.take_released() {
            self.aside(|worker| worker.follow(waited, true));
        }
    }

    /// A fragment without ports.
    #[cold]
    pub(super) fn later_fragment(&mut self, packet: Io::Buf, at: &Packet, port: PortIx) {
        let fresh = Overtaking {
            at: *at,
            port,
            packet,
            again: false,
        };
        self.follow(fresh, false);
    }

    /// What fragment it is, if there is anything that it can be part of.
    fn read_fragment(&self, packet: &Io::Buf, at: &Packet) -> Result<Fragment, DropReason> {
        if !matches!(at.protocol, proto::TCP | proto::UDP) {
            return Err(DropReason::Ipv4Fragment);
        }
        if self.snapshot.address(at.dst).is_none() {
            return Err(DropReason::NotLocalAddress);
        }
        Fragment::read(ip_of(packet)).ok_or(DropReason::Ipv4Malformed)
    }

    /// Sends a fragment the way of its first, or lets it wait; `waited`: it has,
    /// and a first one came.
    fn follow(&mut self, this: Overtaking<Io::Buf>, waited: bool) {
        let fragment = match self.read_fragment(&this.packet, &this.at) {
            Ok(fragment) => fragment,
            Err(reason) => return self.discard(this.packet, reason),
        };
        let Some(known) = self.fragments.later(&fragment, self.now) else {
            return self.wait_for_first(&fragment, this, waited);
        };
        let at = Packet {
            src_port: known.src_port,
            dst_port: known.dst_port,
            ..this.at
        };
        let owner = self.owner(&at);
        if owner != self.ix && !self.has_borrowed(&at) {
            return self.hand_over(owner, this.port, this.packet);
        }
        let tuple = tuple_of(&at);
        if let Some((slot, _)) = self.table.find(self.table.hash(&tuple), &tuple)
            && self.table.get(slot).state == State::Redirect
        {
            return self.redirect(this.packet, slot, this.port);
        }
        match known.ident {
            Some(ident) => self.forward_fragment(this.packet, &at, ident),
            // The first one went no further.
            None => self.discard(this.packet, DropReason::Ipv4Fragment),
        }
    }

    /// Whether a fragment whose ports are another worker's stays here: its
    /// connection is on a local port of that one's, or was.
    fn has_borrowed(&self, at: &Packet) -> bool {
        let tuple = tuple_of(at);
        self.redirected || self.table.find(self.table.hash(&tuple), &tuple).is_some()
    }

    fn wait_for_first(&mut self, fragment: &Fragment, this: Overtaking<Io::Buf>, waited: bool) {
        // Two chances bound the work that a first fragment can cause.
        if waited && this.again {
            return self.discard(this.packet, DropReason::Ipv4Fragment);
        }
        let this = Overtaking {
            again: waited,
            ..this
        };
        if let Some(gone) = self.fragments.wait(fragment, this, self.now) {
            self.aside(|worker| worker.discard(gone.packet, DropReason::FragmentsFull));
        }
        self.discard_pushed_out();
    }

    fn discard_pushed_out(&mut self) {
        while let Some(gone) = self.fragments.take_pushed_out() {
            self.aside(|worker| worker.discard(gone.packet, DropReason::FragmentsFull));
        }
    }

    fn forward_fragment(&mut self, mut packet: Io::Buf, at: &Packet, ident: u16) {
        let tuple = tuple_of(at);
        let Some((slot, direction)) = self.table.find(self.table.hash(&tuple), &tuple) else {
            return self.discard(packet, DropReason::Ipv4Fragment);
        };
        let entry = self.table.get(slot);
        let (mapping, server) = (mapping_of(entry, direction), entry.server);
        let narrow = narrow_mtu(entry, direction);
        let hop = match self.hop_of(slot, direction) {
            Ok(hop) => hop,
            Err(reason) => return self.discard(packet, reason),
        };
        // No ICMP error about a fragment other than the first (RFC 1122,
        // 3.2.2).
        if packet.bytes().get(L3 + 8).is_none_or(|&ttl| ttl <= 1) {
            return self.discard(packet, DropReason::TtlExpired);
        }
        let mtu = self.mtu_towards(hop);
        if at.ip_len > mtu && at.flags.dont_fragment() {
            return self.discard(packet, DropReason::MtuExceeded);
        }
        let translated = packet.bytes_mut().get_mut(L3..).is_some_and(|ip| {
            (narrow.is_none() || allow_fragments(ip).is_ok())
                && set_ident(ip, ident).is_ok()
                && translate_fragment(ip, &mapping).is_ok()
        });
        if !translated {
            return self.discard(packet, DropReason::Ipv4Malformed);
        }
        self.stats.event(Event::Fragmented).add(1);
        self.count(server, direction, at.ip_len);
        self.emit_within(packet, at.ip_len, narrow.unwrap_or(mtu).min(mtu), hop);
    }

    /// Translates a packet of a connection, which may be larger than the way
    /// out's MTU, be a first fragment, become fragments, or go along a path with
    /// a smaller MTU than its sender was told.
    pub(super) fn translate(
        &mut self,
        mut packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        direction: Direction,
        hop: NeighborIx,
    ) {
        let mtu = self.mtu_towards(hop);
        if at.ip_len > mtu && at.flags.dont_fragment() {
            return self.too_big(packet, at, hop);
        }
        let entry = self.table.get(slot);
        let (rewriting, server) = (Rewriting::of(entry, direction), entry.server);
        let narrow = narrow_mtu(entry, direction);
        let mtu = narrow.unwrap_or(mtu).min(mtu);
        let ident = if at.flags.is_atomic() && narrow.is_none() {
            None
        } else {
            self.ident_for(&packet, at, &rewriting.mapping, mtu)
        };
        let identified = ident.is_none_or(|ident| {
            let ip = packet.bytes_mut().get_mut(L3..);
            ip.is_some_and(|ip| {
                (narrow.is_none() || allow_fragments(ip).is_ok()) && set_ident(ip, ident).is_ok()
            })
        });
        if !identified {
            return self.discard(packet, DropReason::Ipv4Malformed);
        }
        if let Err(reason) = rewriting.apply(packet.bytes_mut(), at, direction) {
            return self.discard(packet, reason);
        }
        self.count(server, direction, at.ip_len);
        self.emit_within(packet, at.ip_len, mtu, hop);
    }

    /// Sends an ICMP message that was received, and now goes from `src` to
    /// `dst`: others' identifications meet there too. One that is too large
    /// causes no ICMP error (RFC 1122 §3.2.2).
    pub(super) fn emit_message(
        &mut self,
        mut packet: Io::Buf,
        at: &Packet,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        hop: NeighborIx,
    ) {
        let mtu = self.mtu_towards(hop);
        if at.ip_len > mtu && at.flags.dont_fragment() {
            return self.discard(packet, DropReason::MtuExceeded);
        }
        if !at.flags.is_atomic() {
            let ident = self.idents.next(src, dst, at.protocol, use_of(at, mtu));
            let ip = packet.bytes_mut().get_mut(L3..);
            if ip.is_none_or(|ip| set_ident(ip, ident).is_err()) {
                return self.discard(packet, DropReason::IcmpMalformed);
            }
        }
        self.emit_within(packet, at.ip_len, mtu, hop);
    }

    /// The identification under which a packet leaves that may be fragmented.
    /// A first fragment's is remembered for those behind it.
    fn ident_for(&mut self, packet: &Io::Buf, at: &Packet, to: &Mapping, mtu: u16) -> Option<u16> {
        if !at.flags.more_fragments() {
            let of = use_of(at, mtu);
            return Some(self.idents.next(to.src, to.dst, at.protocol, of));
        }
        let datagram = Datagram::of(ip_of(packet))?;
        let ident = self.fragments.ident(&datagram).unwrap_or_else(|| {
            self.idents
                .next(to.src, to.dst, at.protocol, Use::Fragments)
        });
        self.fragments.set_ident(&datagram, ident);
        Some(ident)
    }

    /// The ports of the datagram that a fragment is of, where they are known;
    /// `ip` is the fragment from its IP header on.
    pub(super) fn ports_of_fragment(&self, ip: &[u8], tuple: &FlowTuple) -> Option<(u16, u16)> {
        let ident = ip.get(4..)?.first_chunk()?;
        self.fragments.ports(&Datagram {
            src: tuple.src,
            dst: tuple.dst,
            ident: u16::from_be_bytes(*ident),
            protocol: tuple.protocol,
        })
    }

    /// Once a millisecond: gives up fragments whose first one did not come, and
    /// forgets datagrams of which fragments are missing.
    pub(super) fn tend_fragments(&mut self) {
        while let Some(waited) = self.fragments.take_overdue(self.now) {
            self.discard(waited.packet, DropReason::Ipv4Fragment);
        }
        self.fragments.sweep(self.now);
    }
}
