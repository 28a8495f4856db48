//! The way out: next hop, link-layer header, transmit buffers.

use std::net::Ipv4Addr;

use super::Worker;
use super::parse::L3;
use crate::ids::{NeighborIx, PortIx};
use crate::io::{BurstIo, PacketBuf};
use crate::neighbor::{Over, Resolution, Room, Wait};
use crate::stats::{DropReason, Event};

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// Writes the Ethernet header of an IPv4 packet: `l2` is destination and source.
/// False where there is no room for it.
#[inline(always)]
pub(super) fn write_ethernet(frame: &mut [u8], l2: &[u8; 12]) -> bool {
    let Some(ethernet) = frame.first_chunk_mut::<14>() else {
        return false;
    };
    ethernet[..12].copy_from_slice(l2);
    ethernet[12..].copy_from_slice(&ETHERTYPE_IPV4);
    true
}

impl<Io: BurstIo> Worker<Io> {
    /// Sends an IP packet, whose Ethernet header is still to be written, to a
    /// next hop, or lets it wait until that is known.
    pub(super) fn emit(&mut self, packet: Io::Buf, hop: NeighborIx) {
        self.emit_or_wait(packet, hop, Room::Any);
    }

    /// The same with an IP packet of our own, which waits only where that keeps
    /// no other packet from it.
    pub(super) fn emit_own(&mut self, packet: Io::Buf, hop: NeighborIx) {
        self.emit_or_wait(packet, hop, Room::Spare);
    }

    #[inline(never)]
    fn emit_or_wait(&mut self, mut packet: Io::Buf, hop: NeighborIx, room: Room) {
        let Some((l2, port)) = self.neighbors.l2_towards(hop) else {
            return self.emit_unknown(packet, hop, room);
        };
        if !write_ethernet(packet.bytes_mut(), l2) {
            return self.discard(packet, DropReason::EthernetShort);
        }
        self.transmit(packet, port);
    }

    #[cold]
    #[inline(never)]
    fn emit_unknown(&mut self, packet: Io::Buf, hop: NeighborIx, room: Room) {
        match self.neighbors.resolve(hop, self.now) {
            Resolution::Wait => self.let_wait(packet, hop, room),
            Resolution::Send(..) | Resolution::Stale => self.emit_anew(packet),
        }
    }

    #[cold]
    #[inline(never)]
    fn let_wait(&mut self, packet: Io::Buf, hop: NeighborIx, room: Room) {
        match self.neighbors.wait(hop, room, packet) {
            Wait::Waits => {}
            Wait::InsteadOf(gone) => {
                self.aside(|worker| worker.discard(gone, DropReason::NeighborQueueFull));
            }
            Wait::NoRoom(packet) => self.discard(packet, DropReason::NeighborQueueFull),
        }
        self.ask_neighbors();
    }

    /// The next hop had to make way for others since the connection looked it
    /// up: it is looked up by the packet's destination.
    #[cold]
    #[inline(never)]
    fn emit_anew(&mut self, packet: Io::Buf) {
        let destination = packet
            .bytes()
            .get(L3 + 16..)
            .and_then(|rest| rest.first_chunk::<4>())
            .map(|octets| Ipv4Addr::from(*octets));
        let Some(destination) = destination else {
            return self.discard(packet, DropReason::Ipv4Malformed);
        };
        match self.hop_towards(destination, Room::Any) {
            Ok(hop) => match self.neighbors.resolve(hop, self.now) {
                Resolution::Send(..) => self.emit(packet, hop),
                Resolution::Wait => self.let_wait(packet, hop, Room::Any),
                Resolution::Stale => self.discard(packet, DropReason::NeighborTableFull),
            },
            Err(reason) => self.discard(packet, reason),
        }
    }

    /// Puts a whole frame into the transmit buffer of `port`.
    #[inline(always)]
    pub(super) fn transmit(&mut self, packet: Io::Buf, port: PortIx) {
        let Some(buffer) = self.tx.get_mut(port.ix()) else {
            return self.discard(packet, DropReason::NoRoute);
        };
        if let Err(full) = buffer.try_push(packet) {
            self.transmit_full(full.element(), port);
        }
    }

    /// Makes room in the transmit buffer of `port` first.
    #[cold]
    #[inline(never)]
    fn transmit_full(&mut self, packet: Io::Buf, port: PortIx) {
        self.flush_port(port);
        if let Err(full) = self.tx[port.ix()].try_push(packet) {
            self.discard(full.element(), DropReason::TxFull);
        }
    }

    /// Hands all transmit buffers to the drivers. What one does not take stays
    /// for the next round.
    #[inline]
    pub(super) fn flush(&mut self) {
        for port in 0..self.tx.len() {
            if !self.tx[port].is_empty() {
                self.flush_port(PortIx(port as u8));
            }
        }
    }

    fn flush_port(&mut self, port: PortIx) {
        let captured = self.captures.is_on();
        if captured {
            self.capture_sent(None);
        }
        let buffer = &mut self.tx[port.ix()];
        let size = |buffer: &[Io::Buf]| {
            buffer
                .iter()
                .map(|packet| packet.total_len() as u64)
                .sum::<u64>()
        };
        let (packets, bytes) = (buffer.len(), size(buffer));
        self.io.transmit(port, buffer);
        let (left, left_bytes) = (buffer.len(), size(buffer));
        let counters = self.stats.port(port);
        counters.tx_packets.add((packets - left) as u64);
        counters.tx_bytes.add(bytes - left_bytes);
        if captured {
            self.flushed(port);
        }
    }

    /// The next hop towards an address, by the routing table.
    pub(super) fn hop_towards(
        &mut self,
        destination: Ipv4Addr,
        room: Room,
    ) -> Result<NeighborIx, DropReason> {
        let hop = self
            .snapshot
            .routes
            .lookup(destination)
            .ok_or(DropReason::NoRoute)?;
        self.neighbors
            .index_of(hop, room, self.now)
            .ok_or(match room {
                Room::Any => DropReason::NeighborTableFull,
                Room::Spare => DropReason::NeighborQueueFull,
            })
    }

    /// The MTU of the port that a next hop is on, bytes.
    pub(super) fn mtu_towards(&self, hop: NeighborIx) -> u16 {
        self.neighbors
            .port_of(hop)
            .and_then(|port| self.ports.get(port.ix()))
            .map_or(u16::MAX, |port| port.mtu)
    }

    /// Sends what waited for next hops that are known now, and gives up what
    /// waited for those that do not answer.
    pub(super) fn release_waiting(&mut self) {
        while let Some((over, packet)) = self.neighbors.take_waiting() {
            match over {
                Over::Known(hop) => {
                    self.stats.event(Event::NeighborHeld).add(1);
                    self.emit(packet, hop);
                }
                Over::Failed => self.aside(|worker| worker.undeliverable(packet)),
                Over::Displaced => self.aside(|worker| {
                    worker.discard(packet, DropReason::NeighborQueueFull);
                }),
            }
        }
    }
}
