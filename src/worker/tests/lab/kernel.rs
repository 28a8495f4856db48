//! A kernel behind the port to the clients.

use super::*;
use crate::service::snapshot::KernelPort;
use crate::worker::kernel::{FrameRing, Kernel, KernelRings};

/// The kernel's address, which is the port's.
pub(in super::super) const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// An address of the kernel's alone.
pub(in super::super) const VRRP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 77);
/// Somebody beyond a router.
pub(in super::super) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// The kernel's ends of the rings.
pub(in super::super) struct Behind {
    rings: KernelRings,
}

impl Behind {
    /// The IPv4 packets that the kernel got.
    pub fn got(&self) -> Vec<Vec<u8>> {
        self.take(EtherType::IPV4)
    }

    /// How many those are.
    pub fn count(&self) -> usize {
        self.got().len()
    }

    /// How many ARP packets it got.
    pub fn arp_count(&self) -> usize {
        self.take(EtherType::ARP).len()
    }

    /// What came in by the port to the clients, without Ethernet headers; all
    /// else is forgotten.
    fn take(&self, ethertype: EtherType) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while let Some(frame) = self.rings.to.receive() {
            assert_eq!(frame.port, WAN);
            let view = EthernetView::new_checked(frame.bytes()).expect("a frame");
            if view.ethertype() == ethertype {
                found.push(view.payload().to_vec());
            }
            self.rings.to.give_empty(frame);
        }
        found
    }
}

impl Lab {
    /// A lab with a kernel behind the port to the clients, rings of `depth`.
    pub fn with_kernel(rate: u32, depth: usize) -> (Self, Behind) {
        let mut lab = Self::new();
        let rings = KernelRings {
            to: Arc::new(FrameRing::new(depth)),
            from: Some(Arc::new(FrameRing::new(depth))),
        };
        lab.generation += 1;
        let mut parts = parts(&lab.servers, &lab.steering, lab.generation, 0);
        parts.ports[WAN.ix()].kernel = Some(KernelPort {
            rate,
            addresses: vec![VRRP],
        });
        let snapshot = Snapshot::new(parts);
        let kernel = Kernel::new(rings.clone(), &snapshot, lab.now);
        lab.worker.kernel = Some(Box::new(kernel));
        let update = Box::new(Update::new(Arc::new(snapshot)));
        let pushed = lab.link.commands.push(Command::Apply(update));
        pushed.expect("room");
        lab.pass(2);
        (lab, Behind { rings })
    }

    /// A segment from outside to one of the gateway's addresses.
    pub fn stranger_sends(&mut self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8) -> Out {
        let mut packet = Tcp::new(src, 40_000, dst, 179, flags::SYN);
        packet.protocol = protocol;
        self.client_sends(packet)
    }

    /// The same to a port of the other side's address.
    pub fn server_asks(&mut self, dst: Ipv4Addr) -> Out {
        self.server_sends(Tcp::new(SERVERS[0], 40_000, dst, 179, flags::SYN))
    }

    /// Any IPv4 packet from the client's side.
    pub fn sends_protocol(&mut self, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Out {
        self.send(WAN, &ipv4(CLIENT, dst, protocol, 1, payload))
    }

    /// An ICMP message with a right checksum.
    pub fn sends_icmp(&mut self, dst: Ipv4Addr, mut message: Vec<u8>) -> Out {
        IcmpView::new_checked(&mut message[..])
            .expect("whole")
            .fill_checksum();
        self.send(WAN, &ipv4(CLIENT, dst, proto::ICMP, 64, &message))
    }

    /// A datagram to the kernel in pieces, the last one first.
    pub fn sends_fragments(&mut self, dst: Ipv4Addr) {
        let mut datagram = Tcp::new(CLIENT, 5000, dst, 520, 0).payload(&[7; 56]);
        datagram.protocol = proto::UDP;
        let whole = datagram.packet();
        for (from, to, more) in [(40, 64, 0), (0, 40, 1)] {
            let mut packet = ipv4(CLIENT, dst, proto::UDP, 64, &whole[20 + from..20 + to]);
            let word: u16 = more << 13 | (from / 8) as u16;
            packet[6..8].copy_from_slice(&word.to_be_bytes());
            Ipv4View::new_quoted(&mut packet[..])
                .expect("whole")
                .fill_checksum();
            self.send(WAN, &packet);
        }
    }

    /// An ARP packet on the clients' segment.
    pub fn client_arp(&mut self, op: ArpOp, sender: Ipv4Addr, target: Ipv4Addr) -> Out {
        self.arp_from(PEER, op, sender, target)
    }

    /// The same of somebody with this MAC address.
    pub fn arp_from(
        &mut self,
        sender_mac: MacAddr,
        op: ArpOp,
        sender: Ipv4Addr,
        target: Ipv4Addr,
    ) -> Out {
        let mut packet = [0; 28];
        ArpRepr {
            op,
            sender_mac,
            sender_ip: sender,
            target_mac: OWN[WAN.ix()],
            target_ip: target,
        }
        .emit(&mut packet);
        self.worker.io.rx[WAN.ix()].push_back(frame(WAN, EtherType::ARP, &packet));
        self.poll();
        self.collect()
    }

    /// The kernel sends a frame by the port to the clients; what was
    /// transmitted there.
    pub fn kernel_sends(&mut self, kernel: &Behind, bytes: &[u8]) -> Vec<Vec<u8>> {
        let ring = kernel.rings.from.as_ref().expect("a ring");
        let mut frame = ring.take_empty().expect("room");
        frame.port = WAN;
        frame.room_mut()[..bytes.len()].copy_from_slice(bytes);
        frame.set_len(bytes.len());
        ring.send(frame);
        self.poll();
        let sent = std::mem::take(&mut self.worker.io.tx[WAN.ix()]);
        sent.iter().map(|packet| packet.bytes().to_vec()).collect()
    }
}

impl Out {
    /// Addresses that the worker said are its own.
    pub fn arp_replies(&self) -> Vec<Ipv4Addr> {
        let replies = self.arp.iter().filter(|(_, arp)| arp.op == ArpOp::Reply);
        replies.map(|(_, arp)| arp.sender_ip).collect()
    }

    /// Addresses that it announced.
    pub fn announced(&self) -> Vec<Ipv4Addr> {
        let announced = self
            .arp
            .iter()
            .filter(|(_, arp)| arp.op == ArpOp::Request && arp.sender_ip == arp.target_ip);
        announced.map(|(_, arp)| arp.sender_ip).collect()
    }
}
