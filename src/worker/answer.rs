//! What the gateway says in its own voice: resets and ICMP errors.
//!
//! Resets come from the VIP towards clients and from the local address towards
//! real servers, with the numbers RFC 9293 §3.10.7 wants. Answers to packets of
//! strangers are limited (see `limits`); those withheld are counted.

use std::net::Ipv4Addr;

use super::Worker;
use super::parse::{L3, Packet};
use super::path::{segment_of, to_client, to_server};
use crate::conntrack::entry::Entry;
use crate::conntrack::tcp::Segment;
use crate::ids::{NeighborIx, PortIx};
use crate::io::{BurstIo, PacketBuf};
use crate::nat::reset::{self, ResetFields};
use crate::nat::rewrite::Mapping;
use crate::neighbor::Room;
use crate::stats::{DropReason, Event};
use crate::wire::icmp::{IcmpError, MAX_ERROR_LEN};
use crate::wire::ipv4::{Ipv4Repr, Ipv4View};
use crate::wire::proto;
use crate::wire::tcp::TcpRepr;

/// TTL of packets of our own (RFC 1122 §3.2.1.7 leaves it to configuration;
/// the value is everybody's default).
const TTL: u8 = 64;

const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;

/// Shortest frame on the wire without FCS (IEEE 802.3 §4.4.2).
const MIN_FRAME: usize = 60;

/// Makes an IPv4 header that of the way back: addresses swapped, fresh TTL.
pub(super) fn turn_around(ip: &mut [u8], at: &Packet) {
    let Ok(mut view) = Ipv4View::new_quoted(ip) else {
        return;
    };
    view.set_src(at.dst);
    view.set_dst(at.src);
    view.set_ttl(TTL);
    view.fill_checksum();
}

impl<Io: BurstIo> Worker<Io> {
    /// Turns down a packet that there is no connection for: TCP by RST, UDP by
    /// ICMP port unreachable. Frees and counts it.
    pub(super) fn refuse(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        reason: DropReason,
        event: Event,
    ) {
        if at.protocol == proto::TCP {
            if let Some(segment) = segment_of(packet.bytes(), at) {
                self.reset_sender(at, &segment, event);
            }
        } else {
            self.icmp_about(&packet, at.dst, IcmpError::PortUnreachable);
        }
        self.discard(packet, reason);
    }

    /// RST to the sender of a segment, by the rule for segments that match no
    /// connection (RFC 9293 §3.10.7.1). Nothing for a RST.
    pub(super) fn reset_sender(&mut self, at: &Packet, segment: &Segment, event: Event) {
        let Some(fields) = reset::for_unmatched(segment) else {
            return;
        };
        if !self.may_reset(at.src, at.dst) {
            return self.stats.event(Event::ResetWithheld).add(1);
        }
        let back = Mapping {
            src: at.dst,
            dst: at.src,
            src_port: at.dst_port,
            dst_port: at.src_port,
        };
        self.send_reset(&back, fields, event);
    }

    /// RST to the client of a connection.
    pub(super) fn reset_client(&mut self, entry: &Entry, event: Event) {
        if let Some(fields) = reset::to_client(entry) {
            self.send_reset(&to_client(entry), fields, event);
        }
    }

    /// RST to the real server of a connection.
    pub(super) fn reset_server(&mut self, entry: &Entry, event: Event) {
        if let Some(fields) = reset::to_server(entry) {
            self.send_reset(&to_server(entry), fields, event);
        }
    }

    fn send_reset(&mut self, to: &Mapping, fields: ResetFields, event: Event) {
        let tcp = TcpRepr {
            src_port: to.src_port,
            dst_port: to.dst_port,
            seq: fields.seq,
            ack: fields.ack,
            flags: fields.flags,
            window: 0,
        };
        let (src, dst) = (to.src, to.dst);
        let sent = self.send_ip(src, dst, proto::TCP, |payload| {
            let header = payload.first_chunk_mut::<TCP_HEADER>()?;
            tcp.emit(src, dst, header);
            Some(TCP_HEADER)
        });
        match sent {
            Ok(()) => self.stats.event(event).add(1),
            Err(reason) => self.not_made(reason),
        }
    }

    /// Makes and sends an IP packet whose payload `write` writes; it gets
    /// the most room an ICMP error takes, and returns the length.
    fn send_ip(
        &mut self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        protocol: u8,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Result<(), DropReason> {
        let hop = self.hop_towards(dst, Room::Spare)?;
        let mut packet = self.io.allocate().ok_or(DropReason::NoBuffer)?;
        let room = L3 + IP_HEADER + MAX_ERROR_LEN;
        if !packet.set_len(room) {
            return Err(DropReason::NoBuffer);
        }
        let (head, payload) = packet.bytes_mut().split_at_mut(L3 + IP_HEADER);
        let payload_len = write(payload).ok_or(DropReason::NoBuffer)?;
        let header = Ipv4Repr {
            src,
            dst,
            protocol,
            payload_len: payload_len as u16,
            ttl: TTL,
            ident: 0,
            dont_fragment: true,
            dscp: 0,
        };
        if let Some(ip) = head[L3..].first_chunk_mut() {
            header.emit(ip);
        }
        let len = L3 + IP_HEADER + payload_len;
        if len < MIN_FRAME {
            payload[payload_len..MIN_FRAME - L3 - IP_HEADER].fill(0);
        }
        if !packet.set_len(len.max(MIN_FRAME)) {
            return Err(DropReason::NoBuffer);
        }
        if self.captures.is_on() {
            self.captures.note_answer();
        }
        self.emit_own(packet, hop);
        Ok(())
    }

    /// ICMP error about a packet as it was received, to its sender.
    pub(super) fn icmp_about(&mut self, packet: &Io::Buf, from: Ipv4Addr, error: IcmpError) {
        let bytes = packet.bytes();
        // Not about what came by link-layer broadcast (RFC 1812 §4.3.2.7).
        if bytes.first().is_none_or(|first| first & 1 != 0) {
            return;
        }
        let Some(original) = bytes
            .get(L3..)
            .and_then(|ip| Ipv4View::new_quoted(ip).ok())
            .filter(IcmpError::may_answer)
        else {
            return;
        };
        let to = original.src();
        if !self.may_send_error(to, error) {
            return self.stats.event(Event::IcmpWithheld).add(1);
        }
        let sent = self.send_ip(from, to, proto::ICMP, |payload| {
            error.emit(&original, payload)
        });
        match sent {
            Ok(()) => self.stats.event(Event::IcmpSent).add(1),
            Err(reason) => self.not_made(reason),
        }
    }

    /// The address by which a port speaks as a router.
    fn router_address(&self, port: PortIx) -> Option<Ipv4Addr> {
        let info = self.snapshot.port(port)?;
        info.addresses.first().map(|net| net.addr())
    }

    /// The TTL ran out: we are a hop (RFC 1812 §5.3.1).
    #[cold]
    pub(super) fn ttl_expired(&mut self, packet: Io::Buf, at: &Packet, port: PortIx) {
        let from = self.router_address(port).unwrap_or(at.dst);
        self.icmp_about(&packet, from, IcmpError::TimeExceeded);
        self.discard(packet, DropReason::TtlExpired);
    }

    /// Larger than the way out: the sender learns by how much (RFC 1191 §4).
    #[cold]
    pub(super) fn too_big(&mut self, packet: Io::Buf, at: &Packet, hop: NeighborIx) {
        let mtu = self.mtu_towards(hop);
        self.icmp_about(&packet, at.dst, IcmpError::FragNeeded { mtu });
        self.discard(packet, DropReason::MtuExceeded);
    }

    /// Neither TCP, UDP nor ICMP.
    #[cold]
    pub(super) fn other_protocol(&mut self, packet: Io::Buf, at: &Packet, port: PortIx) {
        if self.is_kernels(at.dst, port) {
            return self.punt(packet, at.src, port);
        }
        if self.snapshot.address(at.dst).is_none() {
            return self.discard(packet, DropReason::NotLocalAddress);
        }
        if let Some(fault) = self.source_fault(at.src, port) {
            return self.discard(packet, fault);
        }
        self.icmp_about(&packet, at.dst, IcmpError::ProtocolUnreachable);
        self.discard(packet, DropReason::ProtocolUnsupported);
    }
}
