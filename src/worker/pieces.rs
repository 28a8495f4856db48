//! What is larger than the way out's MTU and may be fragmented (RFC 791 §3.2,
//! RFC 1812 §4.2.2.7). The one place where a payload is copied: its parts need
//! buffers of their own.

use arrayvec::ArrayVec;

use super::Worker;
use super::parse::L3;
use crate::ids::NeighborIx;
use crate::io::{BurstIo, PacketBuf};
use crate::nat::split::{Piece, Split};
use crate::stats::{DropReason, Event};

/// Most fragments of a packet: 65,535 bytes at the smallest MTU of a port, 576,
/// with the longest header.
const PIECES: usize = 128;

/// Largest fragment made, header included: every packet buffer has room for a
/// frame of Ethernet's usual MTU.
const PIECE_MAX: u16 = 1_500;

/// Shortest frame on the wire without FCS (IEEE 802.3 §4.4.2).
const MIN_FRAME: usize = 60;

impl<Io: BurstIo> Worker<Io> {
    /// Sends an IP packet of `ip_len` bytes, whose headers are rewritten but for
    /// the Ethernet header, to a next hop: in fragments, if it is larger than
    /// `mtu`. That it may be fragmented, and has an identification of ours,
    /// the caller knows.
    pub(super) fn emit_within(&mut self, packet: Io::Buf, ip_len: u16, mtu: u16, hop: NeighborIx) {
        if ip_len <= mtu {
            self.emit(packet, hop);
        } else {
            self.emit_in_pieces(packet, mtu.min(PIECE_MAX), hop);
        }
    }

    /// All of them, or none: what lacks a part is of no use to its receiver.
    fn emit_in_pieces(&mut self, packet: Io::Buf, mtu: u16, hop: NeighborIx) {
        let ip = packet.bytes().get(L3..).unwrap_or(&[]);
        let header_len = usize::from(ip.first().map_or(0, |first| first & 15)) * 4;
        let Some(split) = Split::new(ip, mtu) else {
            return self.discard(packet, DropReason::MtuExceeded);
        };
        let mut pieces = ArrayVec::<Io::Buf, PIECES>::new();
        for piece in split {
            let from = L3 + header_len + piece.from;
            let made = self.make_piece(&packet, &piece, from);
            if made.is_none_or(|made| pieces.try_push(made).is_err()) {
                return self.discard(packet, DropReason::NoBuffer);
            }
        }
        drop(packet);
        self.stats
            .event(Event::FragmentsMade)
            .add(pieces.len() as u64);
        for piece in pieces {
            self.emit(piece, hop);
        }
    }

    /// A fragment in a buffer of its own, with its payload from `from` in the
    /// frame of the whole.
    fn make_piece(&mut self, whole: &Io::Buf, piece: &Piece, from: usize) -> Option<Io::Buf> {
        let mut made = self.io.allocate()?;
        let start = L3 + piece.header.len();
        let end = start + piece.len;
        if !made.set_len(end.max(MIN_FRAME)) {
            return None;
        }
        let bytes = made.bytes_mut();
        bytes
            .get_mut(L3..start)?
            .copy_from_slice(piece.header.as_slice());
        bytes.get_mut(end..)?.fill(0);
        copy_out(whole, from, bytes.get_mut(start..end)?).then_some(made)
    }
}

/// Copies the bytes from `offset` on, over all segments. False where the packet
/// has fewer.
fn copy_out<B: PacketBuf>(packet: &B, offset: usize, into: &mut [u8]) -> bool {
    let (mut skip, mut done) = (offset, 0);
    packet.parts(&mut |part| {
        let from = skip.min(part.len());
        skip -= from;
        let rest = &part[from..];
        let len = rest.len().min(into.len() - done);
        into[done..done + len].copy_from_slice(&rest[..len]);
        done += len;
    });
    done == into.len()
}

#[cfg(test)]
mod tests {
    use super::copy_out;
    use crate::io::parts::Parts;

    #[test]
    fn a_payload_is_copied_over_all_segments() {
        let whole: Vec<u8> = (0..100).collect();
        for cuts in [(1, 2), (10, 50), (50, 50), (0, 99)] {
            let parts = [&whole[..cuts.0], &whole[cuts.0..cuts.1], &whole[cuts.1..]];
            let packet = Parts(parts.map(<[u8]>::to_vec).to_vec());
            for from in 0..=100 {
                for to in from..=100 {
                    let mut into = vec![0; to - from];
                    assert!(copy_out(&packet, from, &mut into));
                    assert_eq!(into, whole[from..to]);
                }
                assert!(!copy_out(&packet, from, &mut vec![0; 101 - from]));
            }
        }
    }
}
