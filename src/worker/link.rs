//! ARP (RFC 826): answering for our addresses, learning next hops, asking for
//! them, and standing up for our addresses (RFC 5227 §2.4). Announcing them is in
//! `announce`.
//!
//! What is heard becomes known only where this worker or another one asked for
//! it, or knew it already.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::Worker;
use super::message::{ArpNews, Learned, Notice, Reply};
use super::parse::L3;
use crate::ids::PortIx;
use crate::io::{BurstIo, PacketBuf};
use crate::neighbor::{Due, Heard};
use crate::service::route::NextHop;
use crate::stats::{DropReason, Event};
use crate::time::Millis;
use crate::wire::arp::{ArpOp, ArpRepr, ArpView};
use crate::wire::ethernet::{MIN_FRAME_LEN, MacAddr};

/// Next hops looked at for their age, a millisecond.
const AGED_PER_TICK: usize = 16;

/// Requests sent at a time.
const ASKED_AT_A_TIME: usize = 32;

/// What other workers learned, taken a millisecond.
const TOLD_PER_TICK: usize = 256;

/// A claim is told, and the address defended, once in this time (RFC 5227 §1.1, DEFEND_INTERVAL).
const DEFEND_MS: u64 = 10_000;

/// Addresses whose defence is remembered. Where all of them were defended just
/// now, others are not: two hosts that answer each other would fill the wire.
const DEFENDED: usize = 32;

/// When addresses were last defended, the longest ago first.
pub(super) type Defended = ArrayVec<(Ipv4Addr, PortIx, Millis), DEFENDED>;

/// What a sender of ARP can't be.
fn is_no_sender(arp: &ArpRepr) -> bool {
    let mac = arp.sender_mac.0;
    let addr = arp.sender_ip;
    // RFC 1812 §3.3.2: no reply makes a broadcast or group address somebody's.
    mac[0] & 1 == 1
        || mac == [0; 6]
        || addr.is_multicast()
        || addr.is_broadcast()
        || addr.is_loopback()
        // Only a probe has no address (RFC 5227 §1.1).
        || (addr.is_unspecified() && arp.op != ArpOp::Request)
}

impl<Io: BurstIo> Worker<Io> {
    pub(super) fn arp(&mut self, packet: Io::Buf, port: PortIx) {
        let Some(arp) = packet
            .bytes()
            .get(L3..)
            .and_then(|bytes| ArpView::new_checked(bytes).ok())
            .map(|view| ArpRepr::parse(&view))
        else {
            return self.discard(packet, DropReason::ArpMalformed);
        };
        if is_no_sender(&arp) {
            return self.discard(packet, DropReason::ArpSender);
        }
        let own = self.ports[port.ix()].mac;
        if self.snapshot.address(arp.sender_ip).is_some() {
            // Our own announcement, which a second port on the network hears.
            if !self.ports.iter().any(|facts| facts.mac == arp.sender_mac) {
                self.claimed(&arp, port);
            }
            return self.discard(packet, DropReason::ArpClaim);
        }
        self.hear(&arp, own, port);
        // Answers, announcements (RFC 5227 §3) and questions about addresses that
        // are the kernel's alone are for its own table of next hops.
        let announces = arp.sender_ip == arp.target_ip;
        let asks_kernel =
            self.snapshot.address(arp.target_ip).is_none() && self.is_kernels(arp.target_ip, port);
        let is_answer = arp.op == ArpOp::Reply;
        if self.has_kernel(port) && (is_answer || announces || asks_kernel) {
            return self.punt(packet, arp.sender_ip, port);
        }
        if is_answer {
            return;
        }
        if !self.snapshot.answers_arp(arp.target_ip, port) {
            return self.discard(packet, DropReason::ArpNotForUs);
        }
        self.stats.event(Event::ArpReplies).add(1);
        let reply = ArpRepr {
            op: ArpOp::Reply,
            sender_mac: own,
            sender_ip: arp.target_ip,
            target_mac: arp.sender_mac,
            target_ip: arp.sender_ip,
        };
        self.send_arp(&reply, arp.sender_mac, port);
    }

    /// Learns the sender's MAC, where it is asked for or known.
    fn hear(&mut self, arp: &ArpRepr, own: MacAddr, port: PortIx) {
        let hop = NextHop {
            port,
            addr: arp.sender_ip,
        };
        let learned = Learned {
            hop,
            mac: arp.sender_mac,
        };
        let heard = self.neighbors.learn(hop, arp.sender_mac, own, self.now);
        self.heard(heard, hop);
        match heard {
            // It may answer what another worker asked.
            Heard::Unknown | Heard::Same if arp.op == ArpOp::Reply => {
                self.tell_arp(ArpNews::Overheard(learned));
            }
            Heard::Unknown | Heard::Same => {}
            Heard::News | Heard::Moved | Heard::Returned => {
                self.tell_arp(ArpNews::Learned(learned))
            }
        }
    }

    fn heard(&mut self, heard: Heard, hop: NextHop) {
        if heard == Heard::Returned {
            self.tell(Reply::Notice(Notice::NextHopAnswers(hop)));
        }
        if heard == Heard::Moved {
            self.start_resending();
        }
        if matches!(heard, Heard::News | Heard::Moved | Heard::Returned) {
            self.release_waiting();
        }
    }

    /// Tells the other workers, by way of the management core. Where too much is
    /// heard at a time, the rest is lost: who wants it asks again.
    fn tell_arp(&mut self, news: ArpNews) {
        if self.handover.to.len() > 1 {
            let _ = self.link.heard.push(news);
        }
    }

    /// Somebody else says that one of our addresses is his. We go on using it,
    /// and say so (RFC 5227 §2.4, b).
    #[cold]
    fn claimed(&mut self, arp: &ArpRepr, port: PortIx) {
        self.stats.event(Event::AddressClaimed).add(1);
        let now = self.now;
        self.defended
            .retain(|(_, _, at)| now.since(*at) < DEFEND_MS);
        let hop = NextHop {
            port,
            addr: arp.sender_ip,
        };
        let is_same = |(addr, on, _): &(Ipv4Addr, PortIx, Millis)| *addr == hop.addr && *on == port;
        if self.defended.iter().any(is_same)
            || self.defended.try_push((hop.addr, port, now)).is_err()
        {
            return;
        }
        self.notice(Notice::AddressClaimed(hop, arp.sender_mac));
        if self.snapshot.answers_arp(hop.addr, port) {
            self.announce_one(hop.addr, port);
        }
    }

    pub(super) fn send_arp(&mut self, arp: &ArpRepr, to: MacAddr, port: PortIx) {
        let Some(mut packet) = self.io.allocate() else {
            return self.not_made(DropReason::NoBuffer);
        };
        if packet.set_len(MIN_FRAME_LEN)
            && let Some(frame) = packet.bytes_mut().first_chunk_mut()
        {
            arp.emit_frame(to, frame);
            self.transmit(packet, port);
        }
    }

    /// Sends the ARP requests that are due, a portion of them.
    pub(super) fn ask_neighbors(&mut self) {
        for _ in 0..ASKED_AT_A_TIME {
            match self.neighbors.due(self.now) {
                None => return,
                Some(Due::Ask(hop, to)) => self.ask(hop, to),
                Some(Due::Lost(hop, true)) => {
                    // Each one, since others go by them; as many as the
                    // configuration names.
                    self.tell(Reply::Notice(Notice::NextHopSilent(hop)));
                }
                Some(Due::Lost(_, false) | Due::Patience) => {}
            }
        }
    }

    fn ask(&mut self, hop: NextHop, to: MacAddr) {
        let Some(info) = self.snapshot.port(hop.port) else {
            return;
        };
        // From the address on the same network, so that the answer comes
        // back to the port (RFC 1122 §2.3.2.1 leaves the choice to us).
        let Some(source) = info
            .addresses
            .iter()
            .find(|net| net.contains(&hop.addr))
            .or(info.addresses.first())
        else {
            return;
        };
        let arp = ArpRepr {
            op: ArpOp::Request,
            sender_mac: info.mac,
            sender_ip: source.addr(),
            target_mac: MacAddr([0; 6]),
            target_ip: hop.addr,
        };
        self.stats.event(Event::ArpRequests).add(1);
        self.tell_arp(ArpNews::Asked(hop));
        self.send_arp(&arp, to, hop.port);
    }

    /// Ageing and requests that are due, once a millisecond.
    pub(super) fn tend_neighbors(&mut self) {
        for _ in 0..TOLD_PER_TICK {
            let Some(learned) = self.link.told.pop() else {
                break;
            };
            self.neighbor_learned(learned);
        }
        self.neighbors.age(self.now, AGED_PER_TICK);
        self.ask_neighbors();
        if self.neighbors.waiting() > 0 {
            self.release_waiting();
        }
        self.resend_lost();
        self.free_hops();
        let counts = self.neighbors.counts();
        self.stats.next_hops.residents.set(&counts.residents);
        self.stats.next_hops.guests.set(&counts.guests);
        let replaced = self.stats.event(Event::GuestReplaced);
        replaced.set(self.neighbors.replaced());
    }

    /// What another worker learned.
    fn neighbor_learned(&mut self, learned: Learned) {
        let Some(facts) = self.ports.get(learned.hop.port.ix()) else {
            return;
        };
        let own = facts.mac;
        let heard = self
            .neighbors
            .learn(learned.hop, learned.mac, own, self.now);
        self.heard(heard, learned.hop);
    }
}
