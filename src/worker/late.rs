//! What is heard of an attempt to connect that was given up, or that an ICMP
//! error is about: proof for or against a server, and perhaps the answer that
//! the client waits for.
//!
//! Called by `path` for a server's packet that finds a resting entry, and by
//! `icmp`. It decides which attempt is the client's connection, and never takes
//! it from one that was answered.

use super::Worker;
use super::attempt::Cause;
use super::parse::Packet;
use super::verify::verifies;
use crate::conntrack::entry::{Direction, Entry, State, mark};
use crate::conntrack::tcp::{Flags, Segment, acknowledges_syn, after};
use crate::ids::{PortIx, ServerIx, SlotIx};
use crate::io::{BurstIo, PacketBuf};
use crate::stats::{DropReason, Event};
use crate::wire::ipv4::Ipv4View;

impl<Io: BurstIo> Worker<Io> {
    /// A real server's packet for a connection that is not its client's any
    /// more. The SYN-ACK of one that was given up proves that it lives; it is
    /// taken, if the client was not answered yet.
    #[cold]
    #[inline(never)]
    pub(super) fn late_answer(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
        port: PortIx,
        segment: &Segment,
    ) {
        let entry = *self.table.get(slot);
        let ack = segment.ack.wrapping_sub(entry.seq_delta);
        let answers = entry.state == State::Resting
            && entry.is_marked(mark::UNANSWERED)
            && segment.flags.has(Flags::SYN)
            && segment.flags.has(Flags::ACK)
            && acknowledges_syn(&entry, ack)
            && verifies(&packet, at);
        if answers {
            // Once: the server repeats its SYN-ACK until it is reset.
            self.table.get_mut(slot).marks &= !mark::UNANSWERED;
            if self.take_back(slot, &entry) {
                self.stats.event(Event::LateAnswer).add(1);
                return self.tcp_decide(packet, at, slot, Direction::Reverse, port, *segment);
            }
            let took = self.now.since(entry.created);
            if entry.repeats == 0 {
                self.note_connect_time(entry.server, took);
            }
            if took <= self.longest_retry_ms(entry.server) {
                self.server_answered(entry.server, entry.set);
            }
        }
        self.reset_sender(at, segment, Event::ResetAbandoned);
        self.discard(packet, DropReason::ServerAbandoned);
    }

    /// The longest that any server of this one's service is waited for.
    fn longest_retry_ms(&self, server: ServerIx) -> u64 {
        self.snapshot.service_of(server).map_or(0, |service| {
            service.syn_retry_ms.max(service.syn_retry_max_ms).into()
        })
    }

    /// Makes an attempt that was given up its client's connection again, if a
    /// later attempt is not answered either; that one is given up instead.
    fn take_back(&mut self, slot: SlotIx, entry: &Entry) -> bool {
        let keeps = self
            .snapshot
            .server(entry.server)
            .is_some_and(|server| server.state.keeps_connections());
        let tuple = entry.client_tuple();
        let later = self
            .table
            .find_client(self.table.client_hash(&tuple), &tuple);
        let Some(later) = later.filter(|_| keeps) else {
            return false;
        };
        let waiting = *self.table.get(later);
        if waiting.state != State::SynSent || waiting.client_isn != entry.client_isn {
            return false;
        }
        let is_borrowed = entry.is_marked(mark::BORROWED);
        let resumed = is_borrowed
            || self
                .set(entry.set)
                .is_some_and(|set| set.resume(entry.local_port).is_ok());
        if !resumed {
            return false;
        }
        self.retire(later);
        self.table.get_mut(later).marks |= mark::UNANSWERED;
        if self.table.relink_client(slot, State::SynSent).is_err() {
            // Cannot be: the later attempt has just left its place in the index.
            self.remove(slot);
            return false;
        }
        self.stats.half_open.add(1);
        if is_borrowed {
            self.loans.half_open_begins();
        }
        let entry = self.table.get_mut(slot);
        entry.last_seen = self.now.stamp();
        // What the client has sent since is the same SYN, or more data in it.
        if after(waiting.c_next, entry.c_next) {
            entry.c_next = waiting.c_next;
        }
        self.count_active(slot);
        self.arm(slot);
        true
    }

    /// An ICMP error about a segment that a server was sent. Gives it back where
    /// it is for the client: not while somebody else can be asked, and not about
    /// an attempt that is not the client's connection any more.
    #[cold]
    #[inline(never)]
    pub(super) fn syn_returned(
        &mut self,
        packet: Io::Buf,
        at: &Packet,
        slot: SlotIx,
    ) -> Option<Io::Buf> {
        let entry = *self.table.get(slot);
        let is_attempt = match entry.state {
            State::SynSent => true,
            State::Resting => entry.is_marked(mark::UNANSWERED),
            _ => return Some(packet),
        };
        let message = packet.bytes().get(usize::from(at.l4)..).unwrap_or(&[]);
        let syn = entry.client_isn.wrapping_add(entry.seq_delta);
        if is_attempt && is_unreachable(message) && quoted_sequence(message) == Some(syn) {
            self.stats.event(Event::ServerRefused).add(1);
            self.server_failed(entry.server, entry.set);
            self.table.get_mut(slot).marks &= !mark::UNANSWERED;
            if self.move_held(slot, Cause::Refusal) {
                return None;
            }
        }
        if entry.state == State::Resting {
            self.discard(packet, DropReason::IcmpUnmatched);
            return None;
        }
        Some(packet)
    }
}

/// Whether an ICMP message says that a server can't be reached, but for "too
/// big" (RFC 1191 §4): then it is there.
fn is_unreachable(message: &[u8]) -> bool {
    matches!(message, [3, code, ..] if *code != 4)
}

/// The sequence number of the segment that an ICMP error quotes.
fn quoted_sequence(message: &[u8]) -> Option<u32> {
    let ip = Ipv4View::new_quoted(message.get(8..)?).ok()?;
    let bytes = ip.payload().get(4..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}
