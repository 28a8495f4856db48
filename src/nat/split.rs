//! Fragmentation (RFC 791 §3.2, RFC 1812 §4.2.2.7): the headers of the packets
//! that a packet becomes where it is larger than the way on, and which bytes
//! each of them carries. Pure: buffers are others' business.

use arrayvec::ArrayVec;

use crate::wire::checksum::checksum;
use crate::wire::ipv4::Ipv4View;

/// Most bytes of an IPv4 header (RFC 791 §3.1).
const HEADER_MAX: usize = 60;

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Option types (RFC 791 §3.1), and the bit of those that all fragments carry.
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const COPIED: u8 = 0x80;

/// One fragment to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its header, with its checksum.
    pub header: ArrayVec<u8, HEADER_MAX>,
    /// Where its payload begins in that of the packet.
    pub from: usize,
    /// Bytes of payload.
    pub len: usize,
}

/// The fragments of a packet, in order.
#[derive(Clone, Debug)]
pub struct Split {
    /// The packet's own header, for the first piece.
    whole: ArrayVec<u8, HEADER_MAX>,
    /// Without the options that only the first carries.
    short: ArrayVec<u8, HEADER_MAX>,
    /// Flags and offset of the packet itself.
    word: u16,
    mtu: usize,
    payload: usize,
    next: usize,
}

impl Split {
    /// How the packet that `ip` begins with is split for an MTU. `None` where it
    /// can't be: the MTU has no room for 8 bytes behind the header, or a
    /// fragment in the middle of its datagram does not end between two eights
    /// of bytes.
    pub fn new(ip: &[u8], mtu: u16) -> Option<Self> {
        let view = Ipv4View::new_quoted(ip).ok()?;
        let (header, payload) = (view.header(), view.payload_len());
        let mtu = usize::from(mtu);
        if mtu < header.len() + 8 || view.more_fragments() && !payload.is_multiple_of(8) {
            return None;
        }
        Some(Self {
            whole: header.iter().copied().collect(),
            short: copied(header),
            word: u16::from_be_bytes([header[6], header[7]]),
            mtu,
            payload,
            next: 0,
        })
    }
}

/// A header without the options that are not copied.
fn copied(header: &[u8]) -> ArrayVec<u8, HEADER_MAX> {
    let (fixed, mut options) = header.split_at(20);
    let mut short: ArrayVec<u8, HEADER_MAX> = fixed.iter().copied().collect();
    while let [kind, rest @ ..] = options {
        match *kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => options = rest,
            kind => {
                let len = rest.first().map_or(0, |&len| usize::from(len));
                // One that contradicts itself ends what can be read.
                let Some((option, behind)) = options.split_at_checked(len.max(2)) else {
                    break;
                };
                if len < 2 {
                    break;
                }
                if kind & COPIED != 0 {
                    short.extend(option.iter().copied());
                }
                options = behind;
            }
        }
    }
    while !short.len().is_multiple_of(4) {
        short.push(END_OF_OPTIONS);
    }
    short
}

impl Iterator for Split {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let from = self.next;
        if from >= self.payload {
            return None;
        }
        let mut header = if from == 0 {
            self.whole.clone()
        } else {
            self.short.clone()
        };
        let left = self.payload - from;
        let room = self.mtu - header.len();
        let is_last = left <= room;
        let len = if is_last { left } else { room & !7 };
        self.next = from + len;

        header[0] = 0x40 | (header.len() / 4) as u8;
        let total = (header.len() + len) as u16;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        let mut word = self.word & !OFFSET_MASK | ((self.word & OFFSET_MASK) + (from / 8) as u16);
        if !is_last {
            word |= MORE_FRAGMENTS;
        }
        header[6..8].copy_from_slice(&word.to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        Some(Piece { header, from, len })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet of 8 + `len` bytes behind 20 of header and `options`.
    fn packet(options: &[u8], word: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            0x45, 0xb8, 0, 0, 0x12, 0x34, 0, 0, 63, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2,
        ];
        bytes.extend_from_slice(options);
        bytes[0] = 0x40 | (bytes.len() / 4) as u8;
        let total = (bytes.len() + payload.len()) as u16;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[6..8].copy_from_slice(&word.to_be_bytes());
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn pieces(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let header_len = usize::from(packet[0] & 15) * 4;
        let split = Split::new(packet, mtu).expect("can be split");
        split
            .map(|piece| {
                let from = header_len + piece.from;
                [&piece.header[..], &packet[from..from + piece.len]].concat()
            })
            .collect()
    }

    /// RFC 791 appendix A, example 2, with its numbers: 452 bytes of data, an
    /// MTU of 280.
    #[test]
    fn the_example_of_the_rfc() {
        let mut whole = packet(&[], 0, &[7; 452]);
        // DSCP 0, identification 111, TTL 123, protocol 6.
        whole[1] = 0;
        whole[4..6].copy_from_slice(&111u16.to_be_bytes());
        whole[8..10].copy_from_slice(&[123, 6]);
        let pieces = pieces(&whole, 280);
        let heads: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..10]).collect();
        // Total length 276, more fragments, offset 0; then 216, offset 32.
        assert_eq!(
            heads,
            [
                [0x45, 0, 1, 20, 0, 111, 0x20, 0, 123, 6],
                [0x45, 0, 0, 216, 0, 111, 0, 32, 123, 6],
            ]
        );
        assert_eq!((pieces[0].len(), pieces[1].len()), (276, 216));
    }

    /// Record route (7) is the first fragment's alone, router alert (0x94)
    /// everybody's.
    #[test]
    fn options_are_copied_by_their_bit() {
        let options = [
            7, 7, 4, 0, 0, 0, 0, // record route
            1, // no operation
            0x94, 4, 0, 0, // router alert
            0, 0, 0, 0,
        ];
        let whole = packet(&options, 0, &[7; 100]);
        let pieces = pieces(&whole, 68);
        assert_eq!(pieces[0][0], 0x49);
        assert_eq!(pieces[0][20..36], options);
        for later in &pieces[1..] {
            assert_eq!(later[0], 0x46);
            assert_eq!(later[20..24], [0x94, 4, 0, 0]);
        }
    }

    #[test]
    fn options_that_contradict_themselves_are_cut() {
        for options in [[0x94, 1, 0, 0], [0x94, 9, 0, 0], [1, 1, 1, 0x94]] {
            let whole = packet(&options, 0, &[7; 100]);
            assert_eq!(pieces(&whole, 68)[1][0], 0x45);
        }
    }

    #[test]
    fn without_room_for_eight_bytes_there_is_no_split() {
        let whole = packet(&[], 0, &[7; 100]);
        assert!(Split::new(&whole, 27).is_none());
        assert!(Split::new(&whole, 28).is_some());
        let odd = packet(&[], 0x2000, &[7; 100]);
        assert!(Split::new(&odd, 68).is_none());
        assert!(Split::new(&whole[..19], 68).is_none());
    }

    proptest! {
        /// What a receiver puts together from the pieces, and from the pieces
        /// of pieces, is what was split.
        #[test]
        fn put_together_again_it_is_the_same(
            payload in proptest::collection::vec(any::<u8>(), 1..4_000),
            offset in 0u16..4_000,
            more: bool,
            options in proptest::collection::vec(any::<u8>(), 0..10),
            mtus in (68u16..2_000, 68u16..2_000),
        ) {
            let mut payload = payload;
            if more {
                payload.resize(payload.len().next_multiple_of(8), 0xa5);
            }
            let options: Vec<u8> = options.iter().flat_map(|&byte| [byte, 3, 9, 1]).collect();
            let word = offset | if more { 0x2000 } else { 0 };
            let whole = packet(&options, word, &payload);
            let split: Vec<Vec<u8>> = pieces(&whole, mtus.0)
                .iter()
                .flat_map(|piece| pieces(piece, mtus.1))
                .collect();
            let mut together = Vec::new();
            for (at, piece) in split.iter().enumerate() {
                let view = Ipv4View::new_checked(&piece[..], piece.len()).expect("IPv4");
                prop_assert!(view.verify_checksum());
                prop_assert!(piece.len() <= usize::from(mtus.1.min(mtus.0)));
                let start = usize::from(view.fragment_offset());
                prop_assert_eq!(start, usize::from(offset) * 8 + together.len());
                prop_assert_eq!(view.more_fragments(), more || at + 1 < split.len());
                prop_assert_eq!(view.ident(), 0x1234);
                prop_assert_eq!((view.ttl(), view.protocol(), view.dscp()), (63, 17, 0x2e));
                together.extend_from_slice(view.payload());
            }
            prop_assert_eq!(together, payload);
        }

        #[test]
        fn whatever_the_bytes_nothing_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..80), mtu: u16,
        ) {
            if let Some(split) = Split::new(&bytes, mtu) {
                prop_assert!(split.count() <= 8_192);
            }
        }
    }
}
