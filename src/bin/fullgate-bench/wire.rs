//! Both ends of the wire: the generator puts packets on it, the sink takes off
//! what the forwarder sent, answers its ARP requests, and gives the buffers
//! back to the generator.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use fullgate::dpdk::{Mbuf, Mempool, Queue, RingEnd};
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

impl Side {
    pub const fn other(self) -> Self {
        match self {
            Self::Clients => Self::Servers,
            Self::Servers => Self::Clients,
        }
    }
}

/// Everybody but the gateway.
pub const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// Attempts to put packets on a wire whose other end takes them off by itself.
const ATTEMPTS: u32 = 10_000_000;

/// Buffers that [`Wire::stock`] leaves in the cache at least: a quarter of what
/// it is refilled to.
const SLACK: usize = 128;

/// One side's end of the wire.
pub trait End {
    /// Puts packets on the wire from the front; what does not fit is left.
    fn send<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>);
    /// Takes packets off the wire, at most the free capacity of `into`.
    fn receive<const N: usize>(&mut self, into: &mut ArrayVec<Mbuf, N>);
}

impl End for RingEnd {
    fn send<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>) {
        RingEnd::send(self, packets);
    }

    fn receive<const N: usize>(&mut self, into: &mut ArrayVec<Mbuf, N>) {
        RingEnd::receive(self, into);
    }
}

impl End for Queue {
    #[inline(always)]
    fn send<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>) {
        self.transmit(packets);
    }

    #[inline(always)]
    fn receive<const N: usize>(&mut self, into: &mut ArrayVec<Mbuf, N>) {
        Queue::receive(self, into);
    }
}

#[derive(Debug)]
pub struct Wire<E> {
    pub ends: [E; 2],
    /// The gateway's.
    macs: [MacAddr; 2],
    pool: Mempool,
    /// Buffers that are on their way round.
    spare: Vec<Mbuf>,
    out: [ArrayVec<Mbuf, BURST>; 2],
    /// Frames made ahead of their time, in their order.
    ahead: VecDeque<(Side, Mbuf)>,
}

impl<E: End> Wire<E> {
    pub fn new(ends: [E; 2], macs: [MacAddr; 2], pool: Mempool) -> Self {
        Self {
            ends,
            macs,
            pool,
            spare: Vec::with_capacity(1 << 12),
            out: Default::default(),
            ahead: VecDeque::with_capacity(1 << 12),
        }
    }

    /// Puts a frame on the wire towards the gateway.
    ///
    /// # Panics
    /// The wire is full, or all buffers are on it.
    pub fn put(&mut self, side: Side, frame: &Frame) {
        let packet = self.make(side, frame);
        self.append(side, packet);
    }

    /// Makes a frame that [`Wire::release`] is to put on the wire.
    pub fn put_ahead(&mut self, side: Side, frame: &Frame) {
        let packet = self.make(side, frame);
        self.ahead.push_back((side, packet));
    }

    /// Frames made ahead.
    pub fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// Puts the oldest frame made ahead on the wire, at once; says to which side.
    pub fn release(&mut self) -> Option<Side> {
        let (side, packet) = self.ahead.pop_front()?;
        self.append(side, packet);
        self.flush(side);
        Some(side)
    }

    fn make(&mut self, side: Side, frame: &Frame) -> Mbuf {
        let mut packet = self
            .spare
            .pop()
            .or_else(|| self.pool.allocate())
            .expect("a buffer");
        assert!(packet.set_len(frame.len()), "a frame fits its buffer");
        frame.write(packet.bytes_mut(), PEER, self.macs[side as usize]);
        packet
    }

    fn append(&mut self, side: Side, packet: Mbuf) {
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
        for _ in 0..ATTEMPTS {
            if out.is_empty() {
                return;
            }
            self.ends[side as usize].send(out);
        }
        assert!(out.is_empty(), "the wire has room for a batch");
    }

    /// Has `count` buffers for frames, no more and no fewer, and leaves this
    /// thread's cache of the pool neither empty nor full. A driver keeps it so: it
    /// takes buffers for what arrives and gives those back that it has sent, while
    /// the sink here would keep those of which the gateway made its own packets.
    pub fn stock(&mut self, count: usize) {
        while self.spare.len() < count + SLACK {
            self.spare.push(self.pool.allocate().expect("a buffer"));
        }
        self.spare.truncate(count);
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
                    if is_arp(packet.bytes()) {
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
    pub fn answer_arp(&mut self, side: Side, mut packet: Mbuf) {
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

pub fn is_arp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x06])
}
