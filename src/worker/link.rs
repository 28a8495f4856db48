//! ARP (RFC 826): answering for our addresses, learning next hops, asking for
//! them, and announcing ourselves (RFC 5227 §3).

use super::Worker;
use super::message::{Learned, Reply};
use super::parse::L3;
use crate::ids::PortIx;
use crate::io::{BurstIo, PacketBuf};
use crate::service::route::NextHop;
use crate::stats::{DropReason, Event};
use crate::wire::arp::{ArpOp, ArpRepr, ArpView};
use crate::wire::ethernet::{MIN_FRAME_LEN, MacAddr};

/// Next hops looked at for their age, a millisecond.
const AGED_PER_TICK: usize = 16;

/// Addresses announced, a millisecond.
const ANNOUNCED_PER_TICK: usize = 16;

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
        let own = self.ports[port.ix()].mac;
        let hop = NextHop {
            port,
            addr: arp.sender_ip,
        };
        let news = self.neighbors.learn(hop, arp.sender_mac, own, self.now);
        // A reply may answer what another worker asked.
        if news || arp.op == ArpOp::Reply {
            self.tell(Reply::Neighbor(Learned {
                port,
                addr: arp.sender_ip,
                mac: Some(arp.sender_mac),
            }));
        }
        if news {
            self.release_waiting();
        }
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

    fn send_arp(&mut self, arp: &ArpRepr, to: MacAddr, port: PortIx) {
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

    /// Sends the ARP requests that are due.
    pub(super) fn ask_neighbors(&mut self) {
        while let Some(request) = self.neighbors.due(self.now) {
            let port = request.hop.port;
            let Some(info) = self.snapshot.port(port) else {
                continue;
            };
            // From the address on the same network, so that the answer comes
            // back to the port (RFC 1122 §2.3.2.1 leaves the choice to us).
            let Some(source) = info
                .addresses
                .iter()
                .find(|net| net.contains(&request.hop.addr))
                .or(info.addresses.first())
            else {
                continue;
            };
            let arp = ArpRepr {
                op: ArpOp::Request,
                sender_mac: info.mac,
                sender_ip: source.addr(),
                target_mac: MacAddr([0; 6]),
                target_ip: request.hop.addr,
            };
            self.stats.event(Event::ArpRequests).add(1);
            self.send_arp(&arp, request.to, port);
        }
    }

    /// Ageing and requests that are due, once a millisecond.
    pub(super) fn tend_neighbors(&mut self) {
        self.neighbors.age(self.now, AGED_PER_TICK);
        self.ask_neighbors();
        if self.neighbors.waiting() > 0 {
            self.release_waiting();
        }
    }

    /// Announces addresses that are new, a few at a time, so that neighbours
    /// that knew them elsewhere turn to us at once. One worker does it for all.
    pub(super) fn announce(&mut self) {
        if self.ix.0 != 0 {
            return;
        }
        for _ in 0..ANNOUNCED_PER_TICK {
            let Some(&address) = self.snapshot.announced().get(self.announce) else {
                return;
            };
            self.announce += 1;
            for port in 0..self.ports.len() {
                let port = PortIx(port as u8);
                if !self.snapshot.is_on_link(address, port) {
                    continue;
                }
                let own = self.ports[port.ix()].mac;
                let arp = ArpRepr {
                    op: ArpOp::Request,
                    sender_mac: own,
                    sender_ip: address,
                    target_mac: MacAddr([0; 6]),
                    target_ip: address,
                };
                self.send_arp(&arp, MacAddr::BROADCAST, port);
            }
        }
    }

    /// What another worker learned.
    pub(super) fn neighbor_learned(&mut self, learned: Learned) {
        let (Some(mac), Some(facts)) = (learned.mac, self.ports.get(learned.port.ix())) else {
            return;
        };
        let hop = NextHop {
            port: learned.port,
            addr: learned.addr,
        };
        if self.neighbors.learn(hop, mac, facts.mac, self.now) {
            self.release_waiting();
        }
    }
}
