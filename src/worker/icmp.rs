//! ICMP that arrives: pings to our addresses, and errors about packets that
//! the gateway translated. What else comes to the kernel's addresses is the
//! kernel's: errors about its packets, and answers to its pings.

use super::parse::{L3, Packet};
use super::path::{to_client, to_server};
use super::path_mtu::Told;
use super::verify::sums_up;
use super::{Worker, answer};
use crate::conntrack::entry::{Direction, Entry, FlowTuple, State};
use crate::conntrack::tcp;
use crate::ids::PortIx;
use crate::io::{BurstIo, PacketBuf};
use crate::nat::icmp::{Quote, quote, translate_error};
use crate::nat::rewrite::Mapping;
use crate::neighbor::Room;
use crate::stats::{DropReason, Event};
use crate::wire::checksum::Sum;
use crate::wire::icmp::{IcmpType, IcmpView};
use crate::wire::proto;

/// What an ICMP message asks of us.
enum Message {
    EchoRequest,
    Error(Quote),
    Nothing(DropReason),
}

/// Of a message whose checksum is right, as far as it lies in the first part.
fn read(icmp: &[u8]) -> Message {
    let Ok(view) = IcmpView::new_checked(icmp) else {
        return Message::Nothing(DropReason::IcmpMalformed);
    };
    if view.icmp_type() == IcmpType::ECHO_REQUEST {
        return Message::EchoRequest;
    }
    match view.icmp_type() {
        IcmpType::DEST_UNREACHABLE | IcmpType::TIME_EXCEEDED | IcmpType::PARAMETER_PROBLEM => {
            quote(&view).map_or(Message::Nothing(DropReason::IcmpUnmatched), Message::Error)
        }
        _ => Message::Nothing(DropReason::IcmpUnsupported),
    }
}

/// Whether the quoted packet is one that may still be under way. `direction` is
/// that of the error, against the packet's. UDP shows nothing to tell by.
fn is_outstanding(entry: &Entry, direction: Direction, quote: &Quote) -> bool {
    let Some(seq) = quote.tcp_seq else {
        return true;
    };
    match direction {
        Direction::Forward => tcp::is_outstanding(entry, Direction::Reverse, seq),
        Direction::Reverse => {
            let seq = seq.wrapping_sub(entry.seq_delta);
            tcp::is_outstanding(entry, Direction::Forward, seq)
        }
    }
}

impl<Io: BurstIo> Worker<Io> {
    pub(super) fn icmp(&mut self, packet: Io::Buf, at: &Packet, port: PortIx) {
        let is_kernels = self.is_kernels(at.dst, port);
        if self.snapshot.address(at.dst).is_none() {
            if is_kernels {
                return self.punt(packet, at.src, port);
            }
            return self.discard(packet, DropReason::NotLocalAddress);
        }
        let (begin, end) = (usize::from(at.l4), L3 + usize::from(at.ip_len));
        if !sums_up(&packet, begin, end.saturating_sub(begin), Sum::new()) {
            return self.discard(packet, DropReason::IcmpMalformed);
        }
        let first = packet.bytes();
        let icmp = first.get(begin..end.min(first.len())).unwrap_or(&[]);
        match read(icmp) {
            Message::EchoRequest => self.echo(packet, at, port),
            Message::Error(quote) => match self.error_source_fault(at.src, port) {
                Some(fault) => self.discard(packet, fault),
                None => self.icmp_error(packet, at, &quote, port),
            },
            Message::Nothing(DropReason::IcmpUnsupported | DropReason::IcmpUnmatched)
                if is_kernels =>
            {
                self.punt(packet, at.src, port);
            }
            Message::Nothing(reason) => self.discard(packet, reason),
        }
    }

    /// Answers a ping in the buffer it came in (RFC 1122 §3.2.2.6).
    fn echo(&mut self, mut packet: Io::Buf, at: &Packet, port: PortIx) {
        if let Some(fault) = self.source_fault(at.src, port) {
            return self.discard(packet, fault);
        }
        if !self.may_echo(at.src) {
            return self.discard(packet, DropReason::EchoWithheld);
        }
        let hop = match self.hop_towards(at.src, Room::Any) {
            Ok(hop) => hop,
            Err(reason) => return self.discard(packet, reason),
        };
        // Padding is of short frames, which are not in parts.
        let is_whole = packet.total_len() == packet.bytes().len();
        if is_whole && !packet.set_len(L3 + usize::from(at.ip_len)) {
            return self.discard(packet, DropReason::IcmpMalformed);
        }
        let (head, message) = packet.bytes_mut().split_at_mut(usize::from(at.l4));
        if let Ok(mut icmp) = IcmpView::new_checked(message) {
            icmp.make_echo_reply();
        }
        answer::turn_around(&mut head[L3..], at);
        self.stats.event(Event::EchoReplies).add(1);
        self.emit_message(packet, at, at.dst, at.src, hop);
    }

    /// Translates an error about a packet of a known connection and passes it
    /// to the one who sent that packet.
    fn icmp_error(&mut self, mut packet: Io::Buf, at: &Packet, quote: &Quote, port: PortIx) {
        // The answer to the quoted packet would have this tuple.
        let tuple = FlowTuple {
            src: quote.tuple.dst,
            dst: quote.tuple.src,
            src_port: quote.tuple.dst_port,
            dst_port: quote.tuple.src_port,
            protocol: quote.protocol,
        };
        let hash = self.table.hash(&tuple);
        let Some((slot, direction)) = self.table.find(hash, &tuple) else {
            let owner =
                self.snapshot
                    .steering
                    .owner(tuple.src, tuple.dst, tuple.src_port, tuple.dst_port);
            // No NIC hashes the quoted ports, so errors arrive anywhere.
            if owner != self.ix && !self.redirected && owner.ix() < self.handover.to.len() {
                return self.hand_over(owner, port, packet);
            }
            if self.is_kernels(at.dst, port) {
                return self.punt(packet, at.src, port);
            }
            return self.discard(packet, DropReason::IcmpUnmatched);
        };
        let entry = self.table.get(slot);
        if entry.state == State::Redirect {
            return self.redirect(packet, slot, port);
        }
        if !is_outstanding(entry, direction, quote) {
            return self.discard(packet, DropReason::IcmpOutOfWindow);
        }
        let client = entry.client;
        if direction == Direction::Reverse && quote.protocol == proto::UDP {
            match self.datagram_returned(packet, at, slot, port) {
                Some(for_client) => packet = for_client,
                None => return,
            }
        }
        if direction == Direction::Reverse && quote.protocol == proto::TCP {
            match self.syn_returned(packet, at, slot) {
                Some(for_client) => packet = for_client,
                None => return,
            }
        }
        let told = match direction {
            Direction::Forward => self.note_path_mtu(slot, quote),
            // A client's kernel has a path MTU of its own for the VIP.
            Direction::Reverse => Told::AsIs,
        };
        if told == Told::Nothing {
            return self.discard(packet, DropReason::PathMtuFloor);
        }
        if !self.may_translate_error(client) {
            return self.discard(packet, DropReason::IcmpRate);
        }
        let entry = self.table.get(slot);
        let (outer_src, outer_dst, inner, shift) = match direction {
            // About what we sent to the client; for the server.
            Direction::Forward => {
                let to = to_server(entry);
                (to.src, to.dst, to, 0)
            }
            // About what we sent to the server; for the client. The error's
            // source may be a router behind us: the client hears it from the
            // VIP, and learns no inner address.
            Direction::Reverse => {
                let to = to_client(entry);
                let shift = entry.seq_delta.wrapping_neg();
                (to.src, to.dst, to, shift)
            }
        };
        // As sent by the one who now gets the error: the way back of the way
        // there.
        let inner = Mapping {
            src: inner.dst,
            dst: inner.src,
            src_port: inner.dst_port,
            dst_port: inner.src_port,
        };
        let hop = match self.hop_of(slot, direction) {
            Ok(hop) => hop,
            Err(reason) => return self.discard(packet, reason),
        };
        if packet.bytes().get(L3 + 8).is_none_or(|&ttl| ttl <= 1) {
            return self.discard(packet, DropReason::TtlExpired);
        }
        let end = L3 + usize::from(at.ip_len);
        let translated = packet.bytes_mut().get_mut(L3..end).is_some_and(|ip| {
            let l4 = usize::from(at.l4) - L3;
            if let Told::Floor(mtu) = told
                && let Some(Ok(mut icmp)) = ip.get_mut(l4..).map(IcmpView::new_checked)
            {
                icmp.set_next_hop_mtu(mtu);
            }
            translate_error(ip, l4, outer_src, outer_dst, &inner, shift).is_ok()
        });
        if !translated {
            return self.discard(packet, DropReason::IcmpMalformed);
        }
        self.stats.event(Event::IcmpTranslated).add(1);
        if told != Told::AsIs {
            self.stats.event(Event::PathMtuClamped).add(1);
        }
        self.emit_message(packet, at, outer_src, outer_dst, hop);
    }
}
