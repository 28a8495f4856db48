//! Both ends of the wire: the generator puts packets on it, the sink takes off
//! what the forwarder sent, answers its ARP requests, and gives the buffers
//! back to the generator.

use arrayvec::ArrayVec;

use fullgate::dpdk::{Mbuf, Mempool, RingEnd};
use fullgate::io::{BURST, PacketBuf};
use fullgate::wire::arp::{ArpOp, ArpRepr, ArpView};
use fullgate::wire::ethernet::MacAddr;

use super::frame::Frame;

/// Which side of the gateway; also the number of the port there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Clients = 0,
    Servers = 1,
}

/// Everybody but the gateway.
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

#[derive(Debug)]
pub struct Wire {
    ends: [RingEnd; 2],
    /// The gateway's.
    macs: [MacAddr; 2],
    pool: Mempool,
    /// Buffers that are on their way round.
    spare: Vec<Mbuf>,
    out: [ArrayVec<Mbuf, BURST>; 2],
}

impl Wire {
    pub fn new(ends: [RingEnd; 2], macs: [MacAddr; 2], pool: Mempool) -> Self {
        Self {
            ends,
            macs,
            pool,
            spare: Vec::with_capacity(1 << 12),
            out: Default::default(),
        }
    }

    /// Puts a frame on the wire towards the gateway.
    ///
    /// # Panics
    /// The wire is full, or all buffers are on it.
    pub fn put(&mut self, side: Side, frame: &Frame) {
        let mut packet = self
            .spare
            .pop()
            .or_else(|| self.pool.allocate())
            .expect("a buffer");
        assert!(packet.set_len(frame.len()), "a frame fits its buffer");
        frame.write(packet.bytes_mut(), PEER, self.macs[side as usize]);
        self.out[side as usize].push(packet);
        if self.out[side as usize].is_full() {
            self.flush(side);
        }
    }

    /// What was put so far is on the wire after this.
    pub fn flush_all(&mut self) {
        self.flush(Side::Clients);
        self.flush(Side::Servers);
    }

    fn flush(&mut self, side: Side) {
        let out = &mut self.out[side as usize];
        self.ends[side as usize].send(out);
        assert!(out.is_empty(), "the wire has room for a batch");
    }

    /// Takes all IPv4 frames off the wire, and shows each to `see`.
    pub fn collect(&mut self, mut see: impl FnMut(Side, &[u8])) -> u64 {
        let mut taken = 0;
        let mut packets = ArrayVec::<Mbuf, 64>::new();
        for side in [Side::Clients, Side::Servers] {
            loop {
                self.ends[side as usize].receive(&mut packets);
                if packets.is_empty() {
                    break;
                }
                for packet in packets.drain(..) {
                    if packet.bytes().get(12..14) == Some(&[0x08, 0x06]) {
                        self.answer_arp(side, packet);
                        continue;
                    }
                    taken += 1;
                    see(side, packet.bytes());
                    self.spare.push(packet);
                }
            }
        }
        taken
    }

    /// Every address but the gateway's own is at [`PEER`].
    fn answer_arp(&mut self, side: Side, mut packet: Mbuf) {
        let request = ArpView::new_checked(&packet.bytes()[14..])
            .ok()
            .map(|view| ArpRepr::parse(&view))
            .filter(|arp| arp.op == ArpOp::Request && arp.sender_ip != arp.target_ip);
        let Some(request) = request else {
            return;
        };
        let reply = ArpRepr {
            op: ArpOp::Reply,
            sender_mac: PEER,
            sender_ip: request.target_ip,
            target_mac: request.sender_mac,
            target_ip: request.sender_ip,
        };
        if let Some(frame) = packet.bytes_mut().first_chunk_mut() {
            reply.emit_frame(request.sender_mac, frame);
            let mut one: ArrayVec<Mbuf, 1> = ArrayVec::new();
            one.push(packet);
            self.ends[side as usize].send(&mut one);
        }
    }
}
